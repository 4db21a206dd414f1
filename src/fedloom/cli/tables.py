"""Tables and bars as plain text, narrow enough for any terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

BLOCKS = "▏▎▍▌▋▊▉█"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, console: Console | None = None) -> None:
    """Print a table: first column left, the others right. On a narrow terminal headers are broken, cells never."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    least = [max((len(row[place]) for row in rows), default=1) for place in range(len(header))]
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place == 0 else "right", overflow="fold", min_width=least[place])
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False) if console is None else console
    console.print(table, width=max(console.width, sum(least) + 2 * len(least)), crop=False)


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure as text, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def bar(value: float | None, *, low: float, high: float, width: int, marks: str = BLOCKS) -> str:
    """Return a bar from ``low`` to ``high``; ``marks`` are a character's parts, from the least to the whole.

    Example:
        >>> bar(0.75, low=0.5, high=1.0, width=4), bar(0.75, low=0.5, high=1.0, width=4, marks="#")
        ('██', '##')
    """
    if value is None:
        return ""
    parts = round(max(0.0, min(1.0, (value - low) / (high - low))) * width * len(marks))
    whole, rest = divmod(parts, len(marks))
    return marks[-1] * whole + (marks[rest - 1] if rest else "")


def marks_for(encoding: str) -> str:
    """Return what bars are made of: eighths of a block where the encoding has them.

    Example:
        >>> marks_for("utf-8"), marks_for("ascii")
        ('▏▎▍▌▋▊▉█', '#')
    """
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "#"
    return BLOCKS
