"""Figures, amounts and names as people read them: one rule for the whole report.

Every number of the report goes through ``Number``: its text is for people, its ``exact`` for programs, which find it in
the attributes of the page beside the name of the figure, the client and the round that it belongs to.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, replace
from typing import TypeAlias

from fedloom.store.faults import amount

NONE = "–"
"""What stands where there is no figure."""
_MINUS = "−"
_FORMAT = "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Characters that reorder or hide what stands beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number on the page: what is read, what it is exactly, and of what."""

    text: str
    exact: str
    metric: str
    client: str | None = None
    round: int | None = None
    run: str | None = None
    """Its letter, on a page about several."""
    best: bool = False
    """Of its row."""


BREAK = "\n"
"""A piece that begins a new line of its cell."""

Piece: TypeAlias = str | Number
Cell: TypeAlias = tuple[Piece, ...]


def figure(value: float | None) -> str:
    """Return a figure with three decimals, fewer where the number is large, as a power of ten where it is tiny.

    Example:
        >>> figure(0.98765), figure(-0.5), figure(1234.56), figure(0.00012), figure(None), figure(7)
        ('0.988', '−0.500', '1,234.6', '1.2e−04', '–', '7')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if isinstance(value, int):
        text = f"{value:,}"
    elif value == 0:
        text = "0"
    elif abs(value) < 0.0005:
        text = f"{value:.1e}"
    elif abs(value) < 100:
        text = f"{value:.3f}"
    elif abs(value) < 1e9:
        text = f"{value:,.1f}"
    else:
        text = f"{value:.3e}"
    return text.replace("-", _MINUS)


def signed(value: float | None) -> str:
    """Return a difference, its sign written out.

    Example:
        >>> signed(0.25), signed(-0.25), signed(0.0)
        ('+0.250', '−0.250', '0')
    """
    text = figure(value)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 else text


def counted(count: int, noun: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "client"), counted(1200, "round")
        ('1 client', '1,200 rounds')
    """
    return f"{figure(count)} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time for people.

    Example:
        >>> duration(0.0561), duration(75.0), duration(4000.0)
        ('0.06 s', '75.0 s', '1 h 7 min')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(text: str) -> str:
    """Return text whose every character shows: what is invisible or reorders its neighbours becomes U+FFFD.

    Example:
        >>> plain("ward" + chr(27)) == "ward" + chr(0xFFFD)
        True
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\ufffd" if c in _FORMAT or (unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t") else c for c in text
    )


def short(name: str, most: int = 18) -> str:
    """Return a name for the axis of a plot; the table beside it has the whole.

    Example:
        >>> short("a-hospital-with-a-long-name")
        'a-hospital-with-a…'
    """
    name = plain(name).replace("\n", " ").replace("\t", " ")
    return name if len(name) <= most else name[: most - 1] + "…"


def title_of(metric: str) -> str:
    """Return a figure's name for people.

    Example:
        >>> title_of("eval/auroc"), title_of("log_loss"), title_of("eval/my_own_figure")
        ('AUROC', 'log-loss', 'my own figure')
    """
    known = {
        "auroc": "AUROC", "log_loss": "log-loss", "brier": "Brier score", "rmse": "RMSE", "r2": "R²", "mae": "MAE",
        "squared_error": "squared error",
    }  # fmt: skip
    name = metric.split("/")[1] if "/" in metric else metric
    return known.get(name, plain(name).replace("_", " "))


def number(value: float | None, metric: str, *, client: str | None = None, round: int | None = None) -> Cell:
    """Return a figure as a cell."""
    return _cell(figure(value), value, metric, client, round)


def difference(value: float | None, metric: str, *, client: str | None = None) -> Cell:
    """Return a difference as a cell."""
    return _cell(signed(value), value, metric, client, None)


def in_bytes(count: int, metric: str, *, round: int | None = None) -> Cell:
    """Return a number of bytes as a cell."""
    return _cell(amount(count), count, metric, None, round)


def in_time(seconds: float, metric: str, *, round: int | None = None) -> Cell:
    """Return a time as a cell."""
    return _cell(duration(seconds), seconds, metric, None, round)


def of_run(cell: Cell, run: str, *, best: bool = False) -> Cell:
    """Return a cell whose numbers say of which run they are.

    Example:
        >>> of_run(number(0.5, "eval/auroc"), "A")[0].run
        'A'
    """
    return tuple(piece if isinstance(piece, str) else replace(piece, run=run, best=best) for piece in cell)


def _cell(text: str, value: float | None, metric: str, client: str | None, round: int | None) -> Cell:
    if value is None or not math.isfinite(value):
        return (NONE,)
    return (Number(text=text, exact=repr(value), metric=metric, client=client, round=round),)
