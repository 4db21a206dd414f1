"""The lines of a benchmark's report: a figure, what is asked of it, and whether it holds."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; a pair of contestants is judged by the larger of its two ratios."""

    what: str
    mine: str = ""
    other: str = ""
    figure: float | None = None
    """Ratio of the medians, or a plain figure."""
    by_round: float | None = None
    """Median of the ratios, round by round."""
    asked: float | None = None
    note: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """How the figure compares with what is asked."""
        if self.figure is None or self.asked is None:
            return self.note
        worse = max(self.figure, self.by_round or 0.0)
        return "holds" if worse <= self.asked else f"misses by {worse / self.asked - 1:.0%}"

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        numbers = ["" if number is None else f"{number:.3g}" for number in (self.figure, self.by_round, self.asked)]
        return (self.what, self.mine, self.other, *numbers, self.verdict)


HEAD = ("", "fedloom", "other", "figure", "by round", "asked", "")


def table(rows: Sequence[Row]) -> list[str]:
    """Return the rows as aligned lines, a heading first."""
    lines = [HEAD, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ends = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if place in (0, ends) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def machine() -> dict[str, str | int | float | None]:
    """Return what figures depend on and a reader of the JSON file cannot know."""
    versions: dict[str, str | None] = {}
    for name in ("fedloom", "numpy", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    """Return the name of the processor, or of its kind where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
