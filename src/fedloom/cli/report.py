"""``fedloom report``."""

from __future__ import annotations

import sys
from pathlib import Path

from fedloom import store
from fedloom.cli.output import write_json
from fedloom.engines import RunResult
from fedloom.errors import StoreError


def write_report(name: str, output: Path, *, json: bool) -> None:
    """Write the report of a run again and print where it is."""
    from fedloom.reports import write

    _print_path(write(store.find(output, name)), json=json)


def write_public_report(name: str, output: Path, *, json: bool) -> None:
    """Write the page of a private run that may be shown to anyone who sees its models, and print where it is."""
    from fedloom.reports import write_public

    _print_path(write_public(store.find(output, name)), json=json)


def _print_path(path: Path, *, json: bool) -> None:
    if json:
        write_json({"report": path})
        return
    sys.stdout.write(f"{path}\n")


def report_of(result: RunResult) -> Path | None:
    """Write the report of a run that has just ended; None where it has no folder, or the report cannot be written.

    The run is on the disk by now and stays as it is, so a report that fails is a warning.
    """
    if result.folder is None:
        return None
    from fedloom.reports import write

    try:
        return write(result.folder)
    except StoreError as error:
        sys.stderr.write(f"warning: the run is kept, and its report cannot be written: {error}\n")
        return None
