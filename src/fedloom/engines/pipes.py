"""Pipes between a process and its workers: frames of bytes, and what a worker logs meanwhile."""

from __future__ import annotations

import logging
from typing import BinaryIO, TypeAlias

_LENGTH = 8
MOST_BYTES = 1 << 40
"""Of one frame: what announces more is damage."""
Logged: TypeAlias = tuple[tuple[int, str, str], ...]
"""Level, logger and text of what was logged."""


def write_frame(pipe: BinaryIO, data: bytes) -> None:
    """Write bytes with their length in front, and flush them."""
    pipe.write(len(data).to_bytes(_LENGTH, "little"))
    pipe.write(data)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> bytes | None:
    """Return the bytes of the next frame; None when the other side has closed the pipe, or broken off in one."""
    head = _read(pipe, _LENGTH)
    size = int.from_bytes(head, "little")
    if len(head) < _LENGTH or size > MOST_BYTES:
        return None
    data = _read(pipe, size)
    return data if len(data) == size else None


def _read(pipe: BinaryIO, count: int) -> bytes:
    """Return so many bytes, fewer only at the end; from a pipe without a buffer too."""
    data = pipe.read(count)
    if len(data) == count or not data:
        return data
    whole = bytearray(data)
    while len(whole) < count and (more := pipe.read(count - len(whole))):
        whole += more
    return bytes(whole)


class KeptLog(logging.Handler):
    """What the package logs in a worker, kept for the log of whoever started it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[tuple[int, str, str]] = []
        logging.getLogger("fedloom").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._kept.append((record.levelno, record.name, self.format(record)))

    def taken(self) -> Logged:
        """Return what was logged since the last call."""
        taken, self._kept = tuple(self._kept), []
        return taken


def log_again(logged: Logged) -> None:
    """Log what a worker has logged."""
    for level, name, text in logged:
        logging.getLogger(name).log(level, text)
