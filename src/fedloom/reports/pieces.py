"""What a page is made of: sections of words, panels and tables, before they are HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.reports.readable import Cell

MOST_ROWS = 200
"""Rows of a table in the page; a longer one is thinned, and says where the rest is."""


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column; ``words`` where it holds text, ``long`` if sentences, else numbers."""

    title: str
    words: bool = False
    long: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells. A ``folded`` table is opened by the reader."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A plot: its title, the SVG, what it shows in words (``alt``), and its numbers as a table where they fit."""

    title: str
    svg: str
    alt: str
    note: str = ""
    table: Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report under one heading."""

    id: str
    title: str
    words: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    beside: Table | None = None
    """A table that stands beside the panels."""


def words(*titles: str) -> tuple[Column, ...]:
    """Return columns of text."""
    return tuple(Column(title, words=True) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(title) for title in titles)


def thinned(count: int, most: int = MOST_ROWS) -> Sequence[int]:
    """Return at most ``most`` of the places 0 to ``count - 1``, evenly, the first and the last among them.

    Example:
        >>> list(thinned(10, 4)), list(thinned(3, 4))
        ([0, 3, 6, 9], [0, 1, 2])
    """
    if count <= most:
        return range(count)
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})
