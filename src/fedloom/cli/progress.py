"""One line a round, on standard error: readable with and without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from fedloom.runtime.record import RoundRecord

SHOWN = ("validation/auroc", "eval/auroc", "eval/accuracy", "eval/rmse")
"""The first of these that a round has stands in its line."""


class Progress:
    """Prints a line for each committed round.

    Args:
        rounds: The most rounds there can be, where a stop sets a bound.
        out: Where to print.
        clock: Seconds from any moment on.
    """

    def __init__(
        self, rounds: int | None, out: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rounds = rounds
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._started = 0.0
        self._first: int | None = None

    def __call__(self, record: RoundRecord) -> None:
        """Print one round."""
        if record.program == "query":
            return
        if self._first is None:
            # Loading, preparations, and the rounds before a resume say nothing of how long the next ones take.
            self._first = record.round - 1
            self._started = self._clock() - record.seconds
        self._out.write(self.line(record) + "\n")
        self._out.flush()

    def line(self, record: RoundRecord) -> str:
        """Return a round as one line."""
        total = "" if self._rounds is None else f"/{self._rounds}"
        width = len(str(self._rounds or 0))
        words = [f"round {record.round:>{width}}{total}", f"{len(record.included)}/{record.invited} clients"]
        if record.status != "closed":
            words.append(f"{record.status}: too few updates")
        loss = record.metrics.get("fit/loss")
        if loss is not None:
            words.append(f"loss {loss:.4f}")
        for name in SHOWN:
            value = record.metrics.get(name)
            if value is not None:
                words.append(f"{name} {value:.4f}")
                break
        words += [f"{in_bytes(record.bytes_up)} up", f"{record.seconds:.2f} s"]
        if self._rounds is not None and record.round < self._rounds and self._first is not None:
            done = record.round - self._first
            left = max(0.0, self._clock() - self._started) / max(done, 1) * (self._rounds - record.round)
            words.append(f"{_duration(left)} left")
        lost = sorted({f"{failure.client} {failure.kind}" for failure in record.failures})
        if lost:
            words.append("without " + ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else ""))
        return "  ".join(words)


def in_bytes(count: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> in_bytes(512), in_bytes(266_100)
        ('512 B', '266.1 kB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
