"""What a command writes to a terminal or a pipe of any encoding."""

from __future__ import annotations

import io
import os
import sys


def write_json(value: object) -> None:
    """Write one JSON object and a line end on standard output: UTF-8, as JSON is, whatever the locale."""
    import msgspec

    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(value, enc_hook=os.fspath) + b"\n")
    sys.stdout.buffer.flush()


def replace_unknown_characters() -> None:
    """Let a stream print a question mark for what its encoding lacks, in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def discard_output() -> None:
    """Send what is still to be printed nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
