"""Tables and bars as plain text, narrow enough for any terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, console: Console | None = None) -> None:
    """Print a table: first column left, the others right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    (Console(highlight=False) if console is None else console).print(table)


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure as text, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def bar(value: float | None, *, low: float, high: float, width: int) -> str:
    """Return a bar from ``low`` to ``high``, in eighths of a character.

    Example:
        >>> bar(0.75, low=0.5, high=1.0, width=4)
        '██'
    """
    if value is None:
        return ""
    eighths = round(max(0.0, min(1.0, (value - low) / (high - low))) * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
