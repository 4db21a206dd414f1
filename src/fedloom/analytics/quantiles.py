"""Quantiles of each column over all clients, by histograms that zoom in: no client sends a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedloom.analytics.columns import Columns, check_names, features_of, numeric_columns
from fedloom.analytics.means import check_present
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import ComponentError, DataError

PART = "quantiles"
BITS = 6
BINS = 1 << BITS
ZOOMS = 11
"""64 bits in steps of 6: the last bins are single numbers."""

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """The answer, over the values that are present in the training rows of all clients.

    ``values`` and ``widths`` have a tuple for each of ``at``, and in it a number for each column. The quantile of the
    pooled rows lies within half of ``widths`` of ``values``.
    """

    columns: Columns
    at: tuple[float, ...]
    rows: float
    present: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    widths: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantilesState:
    """What the server knows: for each order statistic that is sought, of each column, a bin that holds it.

    Shape ``(2 q, c)`` for ``q`` quantiles and ``c`` columns: the neighbours below and above each quantile.
    """

    columns: Columns
    answered: int
    rows: float
    present: Vector
    base: Words
    """Least key in the bin."""
    rank: Vector
    """How many smaller values of the bin come before the one that is sought."""


@component("fedloom.queries")
def quantiles(
    at: Sequence[float] = (0.25, 0.5, 0.75), columns: Sequence[str] | None = None, *, zooms: int = ZOOMS
) -> Query[QuantilesState, Quantiles]:
    """Ask for quantiles by histograms, each within one bin of the one before.

    The bins are those of the floating-point format itself: numbers are ordered as their bits are, so no range has to be
    known. Each round divides a bin by 64; two rounds know sign and power of two, every further one six binary digits
    more. With 11 the bins are single numbers, and the answer is that of numpy on the pooled rows. With fewer it is the
    middle of a bin, and no client's exact value is learnt:

        zooms          3       4        5       8       11
        width / value  1/64    1/4096   4e-6    1e-11   0

    A quantile between two values is interpolated between them, as numpy does. Each client sends ``1 + 128 q c`` numbers
    a round for ``q`` quantiles of ``c`` columns: 10 kB a round for the medians of ten columns.

    Args:
        at: Shares of the rows, each from 0 to 1.
        columns: Numeric columns; None: all.
        zooms: Rounds, 3 to 11.

    Raises:
        ComponentError: When an argument is outside its range.

    Example:
        >>> quantiles([0.5]).parts(Schema(("age", "bp")))["quantiles"].size
        257
    """
    check_names(PART, columns)
    return quantiles_of(at, columns, zooms=zooms, asked_by=PART)


def quantiles_of(
    at: Sequence[float], columns: Sequence[str] | None, *, zooms: int, asked_by: str
) -> Query[QuantilesState, Quantiles]:
    """Return the query of ``quantiles``, with messages that name who asks.

    Example:
        >>> quantiles_of([0.5], None, zooms=4, asked_by="impute").name
        'quantiles'
    """
    if not at or not all(0 <= share <= 1 for share in at):
        raise ComponentError(f"{asked_by}: at = {list(at)}; expected one share or more, each from 0 to 1")
    if not 3 <= zooms <= ZOOMS:
        raise ComponentError(f"{asked_by}: zooms = {zooms}; expected 3 to {ZOOMS}")
    shares = tuple(float(share) for share in at)

    def of(schema: Schema) -> Columns:
        return numeric_columns(asked_by, schema, columns)

    def parts(schema: Schema) -> Mapping[str, ParamSpec]:
        return {PART: ParamSpec((Leaf(PART, (1 + 2 * len(shares) * BINS * len(of(schema).names),)),))}

    def init(schema: Schema) -> QuantilesState:
        chosen = of(schema)
        shape = (2 * len(shares), len(chosen.names))
        return QuantilesState(
            columns=chosen,
            answered=0,
            rows=0.0,
            present=np.zeros(shape[1]),
            base=np.zeros(shape, dtype=np.uint64),
            rank=np.zeros(shape),
        )

    def ask(state: QuantilesState) -> LocalQuery:
        shift = _shift(state.answered)

        def read(data: ClientDataset) -> Mapping[str, Vector]:
            features = state.columns.of(features_of(asked_by, data.split("train"), state.columns.width))
            histograms = _histograms(features, state.base, shift)
            return {PART: np.concatenate([[float(len(features))], histograms])}

        return LocalQuery(read)

    def step(state: QuantilesState, aggregate: Aggregate) -> QuantilesState:
        totals = np.asarray(aggregate[PART], dtype=np.float64)
        counts = totals[1:].reshape(*state.base.shape, BINS)
        if state.answered == 0:
            present = counts[0].sum(axis=-1)
            check_present(asked_by, state.columns, float(totals[0]), present)
            state = replace(state, rows=float(totals[0]), present=present, rank=_ranks(shares, present))
        return _zoomed(state, counts)

    return Query(
        name=PART,
        answer=Quantiles,
        parts=parts,
        init=init,
        ask=ask,
        step=step,
        done=lambda state: state.answered >= zooms or not state.columns.names,
        result=lambda state: _result(state, shares, asked_by),
    )


def key_of(values: Vector) -> Words:
    """Return whole numbers in the order of the floating-point values; -0.0 is 0.0.

    Example:
        >>> np.diff(key_of(np.array([-2.0, -1.0, 0.0, 1e-300, 3.0])).astype(np.float64)).min() > 0
        np.True_
    """
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(np.bool_)
    keys: Words = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    return keys


def value_of(keys: Words) -> npt.NDArray[np.float64]:
    """Return the floating-point values of keys.

    Example:
        >>> value_of(key_of(np.array([-2.5, 0.0, 7.0]))).tolist()
        [-2.5, 0.0, 7.0]
    """
    positive = (keys >> np.uint64(63)).astype(np.bool_)
    return np.where(positive, keys & np.uint64((1 << 63) - 1), ~keys).view(np.float64)


def _shift(answered: int) -> int:
    """Return how many bits lie below the digit that a round asks for; the last of 11 rounds has 4 bits left."""
    return max(64 - BITS * (answered + 1), 0)


def _histograms(features: Vector, base: Words, shift: int) -> Vector:
    """Return, for each bin that is zoomed into and each column, how many values lie in each 64th of it; NaN in none."""
    columns = features.shape[1]
    keys, absent = key_of(features), np.isnan(features)
    offsets = BINS * np.arange(columns)
    found: list[Vector] = []
    for number, least in enumerate(base):
        if number and np.array_equal(least, base[number - 1]):
            found.append(found[-1])
            continue
        # A key below the base wraps round to a huge number, which is no digit.
        digit = (keys - least) >> np.uint64(shift)
        inside = (digit < BINS) & (keys >= least) & ~absent
        places = (digit.astype(np.int64) + offsets)[inside]
        found.append(np.bincount(places, minlength=BINS * columns).astype(np.float64))
    return np.concatenate(found)


def _ranks(shares: tuple[float, ...], present: Vector) -> Vector:
    """Return the ranks from 0 of the neighbours below and above each quantile, shape ``(2 q, c)``."""
    places = np.multiply.outer(np.array(shares), np.rint(present) - 1)
    return np.stack([np.floor(places), np.ceil(places)], axis=1).reshape(2 * len(shares), -1)


def _zoomed(state: QuantilesState, counts: Vector) -> QuantilesState:
    """Return the state with each bin replaced by the part of it that holds the sought rank."""
    reached = np.cumsum(counts, axis=-1)
    # Half a row above the rank, for sums that are whole but for rounding. A client that was lost between the rounds may
    # leave fewer rows than the rank: then the last part that has any.
    sought = np.minimum(state.rank, np.maximum(np.rint(reached[..., -1]) - 1, 0)) + 0.5
    digit = np.argmax(reached > sought[..., None], axis=-1)
    before = np.where(digit > 0, np.take_along_axis(reached, np.maximum(digit - 1, 0)[..., None], -1)[..., 0], 0.0)
    shift = np.uint64(_shift(state.answered))
    return replace(
        state,
        answered=state.answered + 1,
        base=state.base + (digit.astype(np.uint64) << shift),
        rank=np.rint(sought - 0.5 - before),
    )


def _result(state: QuantilesState, shares: tuple[float, ...], asked_by: str) -> Quantiles:
    top = np.uint64((1 << _shift(state.answered - 1)) - 1) if state.answered else np.uint64(0)
    low, high = value_of(state.base), value_of(state.base + top)
    broken = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)).all(axis=0))
    if broken.size:
        name = state.columns.names[broken[0]]
        raise DataError(f"{asked_by}: a quantile of `{name}` is not finite; some client has infinite values there")
    values, widths = [], []
    for number, share in enumerate(shares):
        place = share * (np.rint(state.present) - 1)
        part = place - np.floor(place)
        ends = [bound[2 * number] * (1 - part) + bound[2 * number + 1] * part for bound in (low, high)]
        values.append(tuple((ends[0] + (ends[1] - ends[0]) / 2).tolist()))
        widths.append(tuple((ends[1] - ends[0]).tolist()))
    return Quantiles(
        columns=state.columns,
        at=shares,
        rows=state.rows,
        present=tuple(state.present.tolist()),
        values=tuple(values),
        widths=tuple(widths),
    )
