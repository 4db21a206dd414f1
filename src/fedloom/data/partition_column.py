"""Clients that a column makes: its values, or intervals between public bounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from fedloom.core.component import component
from fedloom.core.keys import Key
from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data.labels import refuse_missing
from fedloom.data.partition import Hands, Partition
from fedloom.data.splits import Ints
from fedloom.data.tables import plain_table
from fedloom.errors import ComponentError, DataError


@component("fedloom.partitions")
def by_column(column: str, *, bins: Sequence[float] | None = None) -> Partition:
    """Make a client of each value of a column, or of each interval between bounds; the column stays a feature.

    Nothing is drawn: a row's client is what the row says. With ``bins`` of n bounds there are n + 1 clients, each bound
    belongs to the interval below it, and a client's name has a number before it, so that names are in the order of the
    intervals. The bounds are public: everybody who sees a client's name sees them.

    Args:
        column: A feature, a column of text, or the label.
        bins: Bounds between intervals, ascending; None: every value is a client.

    Raises:
        ComponentError: When bounds are none, not finite or not ascending; its ``split`` raises DataError, with a table
            where it helps, when a row has no value, an interval has no row, or nearly every row has a value of its own.

    Example:
        >>> limits = np.array([20_000, 50_000, 90_000, 40_000])
        >>> cut = by_column("limit", bins=[50_000])
        >>> cut.names(limits), [rows.tolist() for rows in cut.split(limits, Key.from_seed(0))]
        (('1: up to 50000', '2: above 50000'), [[0, 1, 3], [2]])
    """
    bounds = None if bins is None else np.array(bins, dtype=np.float64)
    if bounds is not None and not (bounds.size and np.isfinite(bounds).all() and (np.diff(bounds) > 0).all()):
        raise ComponentError(f"by_column: bins = {list(bins or ())}; expected one or more finite bounds, ascending")

    def placed(values: Vector) -> tuple[tuple[str, ...], Ints]:
        if not len(values):
            raise DataError("by_column received no rows to deal")
        refuse_missing(values, what=f"values of column {column!r}")
        return _values(column, values) if bounds is None else _intervals(column, values, bounds)

    def split(values: Vector, _key: Key) -> Hands:
        names, place = placed(values)
        ends = np.cumsum(np.bincount(place, minlength=len(names)))
        return tuple(np.split(np.argsort(place, kind="stable"), ends[:-1]))

    return Partition(None, split, column=column, names=lambda values: placed(values)[0])


def _values(column: str, values: Vector) -> tuple[tuple[str, ...], Ints]:
    distinct, inverse = np.unique(values, return_inverse=True)
    if len(distinct) > 1 and 2 * len(distinct) > len(values):
        advice = "Give bins" if values.dtype.kind in "biuf" else "Choose a column that groups rows"
        raise DataError(
            f"by_column: column {column!r} has {len(distinct)} different values in {len(values)} rows, fewer than two "
            f"rows a client. {advice}"
        )
    texts = [label_text(value) for value in distinct.tolist()]
    names = sorted(set(texts))
    place = {name: index for index, name in enumerate(names)}
    return tuple(names), np.array([place[text] for text in texts], dtype=np.int64)[inverse]


def _intervals(column: str, values: Vector, bounds: Vector) -> tuple[tuple[str, ...], Ints]:
    if values.dtype.kind not in "biuf":
        raise DataError(f"by_column: bins cut numbers, and column {column!r} holds text. Leave bins out")
    words = [label_text(bound) for bound in bounds.tolist()]
    spans = [f"up to {words[0]}", *(f"above {low} to {high}" for low, high in pairwise(words))]
    spans.append(f"above {words[-1]}")
    width = len(str(len(spans)))
    names = tuple(f"{number:0{width}d}: {span}" for number, span in enumerate(spans, start=1))
    place = np.searchsorted(bounds, values, side="left").astype(np.int64)
    sizes = np.bincount(place, minlength=len(names)).tolist()
    if not all(sizes):
        table = plain_table(("client", "rows"), list(zip(names, sizes, strict=True)))
        raise DataError(
            f"by_column: an interval of column {column!r} has no row:\n{table}\nLeave out a bound beside it"
        )
    return names, place
