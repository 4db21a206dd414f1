"""A table in plain text, for errors and terminals."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 40
"""Rows that a table shows before it says how many more there are: what fits a screen."""


def plain_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, limit: int = LONGEST) -> str:
    """Return rows under a header: numbers to the right, text to the left, None as a dash.

    Example:
        >>> print(plain_table(("client", "rows"), [("north", 120), ("south", 7)]))
        client  rows
        north    120
        south      7
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows[:limit]]
    right = [bool(rows) and all(isinstance(row[place], int | None) for row in rows) for place in range(len(header))]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(header), *cells]
    ]
    if len(rows) > limit:
        lines.append(f"... and {len(rows) - limit} more")
    return "\n".join(lines)
