"""The processes of a cluster that was started here: which they are, and that none is left."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its number alone is given to another one day."""

    number: int
    started: str


def family(word: str) -> frozenset[Process]:
    """Return the children of this process whose command line has a word in it, and all of their descendants.

    Empty where the system has no ``/proc``: there Ray is trusted to end what it has started.
    """
    parents = dict(_all())
    roots = {process for process, parent in parents.items() if parent == os.getpid() and word in _command(process)}
    found = set(roots)
    while True:
        numbers = {process.number for process in found}
        more = {process for process, parent in parents.items() if parent in numbers} - found
        if not more:
            return frozenset(found)
        found |= more


def end_stragglers(processes: frozenset[Process], *, after_s: float) -> None:
    """Wait until processes have ended; end those that have not after ``after_s``."""
    until = time.monotonic() + after_s
    while left := processes & dict(_all()).keys():
        if time.monotonic() > until:
            for process in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process.number, signal.SIGKILL)
            return
        time.sleep(_STEP_S)


def _all() -> list[tuple[Process, int]]:
    """Return all processes with the number of their parents; those that have ended and wait to be noted left out."""
    found: list[tuple[Process, int]] = []
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            # Behind the name, which may hold anything: state, parent, and as the 20th the time of its start.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found.append((Process(int(entry.name), fields[19]), int(fields[1])))
    return found


def _command(process: Process) -> str:
    with suppress(OSError):
        return (_PROC / str(process.number) / "cmdline").read_bytes().decode(errors="replace")
    return ""
