"""Rounds as they close, on standard error: lines of plain text, or one line that moves where a terminal shows it.

Up to ``LINES`` rounds have a line each. Of longer runs, what is no terminal gets the first round, then one about every
twentieth of the run or every ten seconds, and the last; a terminal gets one line that is written over.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from fedloom.cli.tables import bar, marks_for
from fedloom.runtime.record import RoundRecord

SHOWN = ("validation/auroc", "eval/auroc", "eval/accuracy", "eval/rmse")
"""The first of these that a round has stands in its line."""
LINES = 25
"""Rounds up to which each one has a line."""
SHARES = 20
EVERY_S = 10.0
_REDRAWN_S = 0.1
_BAR = 16
_NARROWEST = 20


class Progress:
    """Shows each committed round.

    Args:
        rounds: The most rounds there can be, where a stop sets a bound.
        out: Where to print.
        clock: Seconds from any moment on.
        width: Columns of the terminal that ``out`` is; None: it is no terminal that can write over a line.
    """

    def __init__(
        self,
        rounds: int | None,
        out: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        width: int | None = None,
    ) -> None:
        self._rounds = rounds
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._width = width
        self._started = 0.0
        self._first: int | None = None
        self._shown: int | None = None
        self._shown_at = 0.0
        self._held: RoundRecord | None = None
        """The last round, where it has not been shown."""
        self._drawn = False
        """Whether a line stands there that will be written over."""

    def __call__(self, record: RoundRecord) -> None:
        """Show one round, or hold it back."""
        if record.program == "query":
            return
        if self._first is None:
            # Loading, preparations, and the rounds before a resume say nothing of how long the next ones take.
            self._first = record.round - 1
            self._started = self._clock() - record.seconds
        if record.status == "closed" and not self._due(record):
            self._held = record
            return
        self._show(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last round, if it was held back, and leave the cursor on a line of its own."""
        if self._held is not None:
            self._show(self._held)
        if self._drawn:
            self._out.write("\n")
            self._out.flush()
            self._drawn = False

    def line(self, record: RoundRecord) -> str:
        """Return a round as one line."""
        return "  ".join(self._words(record))

    def _due(self, record: RoundRecord) -> bool:
        if self._shown is None or record.round == self._rounds:
            return True
        waited = self._clock() - self._shown_at
        if self._moves:
            return not 0 <= waited < _REDRAWN_S
        if self._rounds is not None and self._rounds <= LINES:
            return True
        step = LINES if self._rounds is None else max(1, self._rounds // SHARES)
        # A run without a bound has a line for each of its first rounds, then for ever longer stretches.
        if self._rounds is None and record.round <= LINES:
            return True
        return record.round // step > self._shown // step or not 0 <= waited < EVERY_S

    @property
    def _moves(self) -> bool:
        """Whether one line is written over: lines of a short run stand."""
        return self._width is not None and self._width >= _NARROWEST and not 0 < (self._rounds or 0) <= LINES

    def _show(self, record: RoundRecord) -> None:
        self._held = None
        self._shown = record.round
        self._shown_at = self._clock()
        if self._moves and self._width is not None:
            self._out.write("\r" + self._moving(record, self._width - 1) + "\x1b[K")
            self._drawn = True
            if record.status != "closed":  # what went wrong stays on the screen
                self._out.write("\n")
                self._drawn = False
        else:
            self._out.write(self.line(record) + "\n")
        self._out.flush()

    def _moving(self, record: RoundRecord, width: int) -> str:
        """Return a round as a line that fits; what does not is left out from its end, the time left last of all."""
        words = self._words(record)
        kept = words[:1]
        last = [word for word in words if word.endswith(" left")]
        for word in [word for word in words[1:] if word not in last]:
            if len("  ".join([*kept, word, *last])) > width:
                break
            kept.append(word)
        text = "  ".join([*kept, *last])[:width]
        room = min(_BAR, width - len(text) - 2)
        if self._rounds is None or room < 4:
            return text
        marks = marks_for(getattr(self._out, "encoding", None) or "ascii")
        drawn = bar(float(record.round), low=0.0, high=float(self._rounds), width=room, marks=marks)
        return f"{drawn:<{room}}  {text}"

    def _words(self, record: RoundRecord) -> list[str]:
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
        lost = sorted({f"{failure.client} {failure.kind}" for failure in record.failures})
        without = "without " + ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        left = self._left(record)
        return [*words, *([left] if left else []), *([without] if lost else [])]

    def _left(self, record: RoundRecord) -> str:
        if self._rounds is None or record.round >= self._rounds or self._first is None:
            return ""
        done = record.round - self._first
        left = max(0.0, self._clock() - self._started) / max(done, 1) * (self._rounds - record.round)
        return f"{_duration(left)} left"


def progress(rounds: int | None) -> Progress:
    """Return the progress of a run on standard error, as this process's terminal can show it."""
    return Progress(rounds, width=moving_width(sys.stderr, dict(os.environ)))


def moving_width(out: TextIO, environment: dict[str, str]) -> int | None:
    """Return the columns of a terminal that can write over a line; None for a file, a pipe, a dumb terminal.

    Example:
        >>> import io
        >>> moving_width(io.StringIO(), {"TERM": "xterm"}) is None
        True
    """
    if not out.isatty() or environment.get("TERM", "").lower() in ("dumb", "unknown", ""):
        return None
    from rich.console import Console

    console = Console(file=out)
    return None if console.legacy_windows else console.width


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
