"""A curve as one line of characters of different height."""

from __future__ import annotations

from collections.abc import Sequence

HEIGHTS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=oO#@"


def sparkline(
    points: Sequence[tuple[float, float]],
    *,
    span: tuple[float, float],
    low: float,
    high: float,
    width: int,
    levels: str = HEIGHTS,
) -> str:
    """Return a curve in ``width`` characters; where several points meet the last one counts, where none is, a space.

    Args:
        points: Place and value, places ascending.
        span: The first and the last place of the line: curves of one span lie below each other.
        low: Value of the lowest level.
        high: Value of the highest one.
        width: Characters.
        levels: From the lowest to the highest.

    Example:
        >>> sparkline([(1, 0.0), (2, 0.5), (3, 1.0)], span=(1, 3), low=0.0, high=1.0, width=3)
        '▁▅█'
    """
    cells = [" "] * width
    before: int | None = None
    for place, value in points:
        share = (place - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.0
        at = min(width - 1, max(0, round(share * (width - 1))))
        height = (value - low) / (high - low) if high > low else 0.0
        mark = levels[min(len(levels) - 1, max(0, int(height * len(levels))))]
        for between in range(at if before is None else before + 1, at):
            cells[between] = cells[before] if before is not None else " "
        cells[at] = mark
        before = at
    return "".join(cells)


def levels_for(encoding: str) -> str:
    """Return characters that an encoding has.

    Example:
        >>> levels_for("utf-8"), levels_for("ascii")
        ('▁▂▃▄▅▆▇█', '_.-=oO#@')
    """
    try:
        HEIGHTS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return HEIGHTS
