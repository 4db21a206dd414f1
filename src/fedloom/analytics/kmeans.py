"""k-means by Lloyd's algorithm: clients send the sum and the number of the rows nearest to each centre."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedloom.analytics.columns import features_of
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.keys import Key
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import ComponentError, DataError

PART = "kmeans"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The answer, of the best of all starts. Numbers of rows are floats: a protected sum need not be whole."""

    centres: tuple[tuple[float, ...], ...]
    rows: tuple[float, ...]
    spread: tuple[float, ...]
    """Sum of squared distances of each centre's rows."""
    rounds: int
    """In which centres moved."""
    converged: bool
    start: int
    """Which of the starts it came from, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KMeansState:
    """What the server knows so far."""

    answered: int
    measured: bool
    """Whether ``rows`` and ``spread`` are those of the centres as they stand."""
    centres: Vector
    """Shape ``(starts, clusters, columns)``; rows and spreads ``(starts, clusters)``."""
    rows: Vector
    spread: Vector
    rounds: npt.NDArray[np.int64]
    """Shape ``(starts,)``, as is ``moving``."""
    moving: npt.NDArray[np.bool_]


@component("fedloom.queries")
def kmeans(
    start: Sequence[Sequence[Sequence[float]]], *, rounds: int = 300, tolerance: float = 0.0, seed: int = 0
) -> Query[KMeansState, Clusters]:
    """Move centres to the means of their nearest rows until they stay; of several starts the tightest is the answer.

    All starts advance in the same rounds. A client sends, by start and centre, its number of nearest training rows, the
    sum of their deviations from the centre and that of squared distances: ``s k (c + 2)`` numbers for ``s`` starts,
    ``k`` centres and ``c`` columns. A last round measures where the centres ended. A centre without rows is put beside
    the one with the largest spread, one deviation away in a drawn direction.

    The starts are told to everybody, so they must hold no row of anybody: draw them from public ranges, or from the
    mean and variance of all rows (``moments``), as ``FederatedKMeans`` does. Choosing rows (k-means++) would publish
    these.

    Args:
        start: Centres before the first round, shape ``(starts, clusters, columns)``.
        rounds: Most rounds in which centres move.
        tolerance: A start rests when the squared distances that its centres moved add up to this or less.
        seed: Of the directions of centres without rows.

    Raises:
        ComponentError: When a number is outside its range. Centres of another width than the rows are a DataError.

    Source:
        Lloyd 1982, "Least squares quantization in PCM"; a centre without rows is moved by the spreads alone, because
        the row farthest from its centre is nobody's to publish (differs from scikit-learn).

    Example:
        >>> query = kmeans([[[0.0], [5.0]]])
        >>> data = ClientDataset({"features": np.array([[1.0], [4.0], [6.0]])}, {"train": slice(0, 3)})
        >>> query.ask(query.init(Schema(("age",)))).read(data)["kmeans"].tolist()
        [1.0, 1.0, 1.0, 2.0, 0.0, 2.0]
    """
    centres = _centres(start)
    if rounds < 1 or not 0 <= tolerance < math.inf:
        raise ComponentError(f"kmeans(rounds={rounds}, tolerance={tolerance}): expected 1 or more, and 0 or more")
    key = Key.from_seed(seed).child(PART)
    starts, clusters, width = centres.shape

    def init(schema: Schema) -> KMeansState:
        if len(schema.columns) != width:
            raise DataError(f"kmeans: centres have {width} columns; the rows have {len(schema.columns)}")
        zeros = np.zeros((starts, clusters))
        return KMeansState(
            answered=0,
            measured=False,
            centres=centres,
            rows=zeros,
            spread=zeros,
            rounds=np.zeros(starts, dtype=np.int64),
            moving=np.ones(starts, dtype=np.bool_),
        )

    def step(state: KMeansState, aggregate: Aggregate) -> KMeansState:
        totals = np.asarray(aggregate[PART], dtype=np.float64).reshape(starts, clusters, width + 2)
        rows, sums, spread = totals[..., 0], totals[..., 1:-1], totals[..., -1]
        if not rows.sum() > 0.5:
            raise DataError("kmeans: no training rows in all clients together; expected at least one")
        if not state.moving.any():
            return replace(state, answered=state.answered + 1, measured=True, rows=rows, spread=spread)
        held = rows > 0.5
        moved = np.where(held[..., None], state.centres + sums / np.where(held, rows, 1.0)[..., None], state.centres)
        for place in np.argwhere(~held & state.moving[:, None]):
            one = int(place[0])
            draw: Vector = key.child(state.answered, one, int(place[1])).generator().standard_normal((width,))
            moved[one, place[1]] = _beside(moved[one], rows[one], spread[one], draw=draw)
        moved = np.where(state.moving[:, None, None], moved, state.centres)
        shift = ((moved - state.centres) ** 2).sum(axis=(1, 2))
        done = state.rounds + state.moving
        still = shift <= _rounding(state.centres, rows, spread)
        moving = state.moving & ~still & (shift > tolerance) & (done < rounds)
        return replace(
            state,
            answered=state.answered + 1,
            measured=bool(not moving.any() and still.all()),
            centres=moved,
            rows=rows,
            spread=spread,
            rounds=done,
            moving=moving,
        )

    return Query(
        name=PART,
        answer=Clusters,
        parts=lambda _schema: {PART: ParamSpec((Leaf(PART, (starts, clusters, width + 2)),))},
        init=init,
        ask=_ask,
        step=step,
        done=lambda state: state.measured,
        result=lambda state: _result(state, rounds),
    )


def _centres(start: Sequence[Sequence[Sequence[float]]]) -> Vector:
    try:
        centres = np.array(start, dtype=np.float64)
    except ValueError as error:
        raise ComponentError(f"kmeans: start is no array of numbers: {error}") from error
    if centres.ndim != 3 or 0 in centres.shape or not np.isfinite(centres).all():
        raise ComponentError(
            f"kmeans: start has shape {centres.shape}; expected finite numbers of shape (starts, clusters, columns)"
        )
    return centres


def _ask(state: KMeansState) -> LocalQuery:
    centres = state.centres
    width = centres.shape[2]

    def read(data: ClientDataset) -> Mapping[str, Vector]:
        features = features_of(PART, data.split("train"), width).astype(np.float64)
        if not np.isfinite(features).all():
            raise DataError("kmeans: some column holds missing or infinite values. Fill them in, or leave them out")
        return {PART: np.stack([_sums(features, each) for each in centres]).reshape(-1)}

    return LocalQuery(read)


def nearest(features: Vector, centres: Vector) -> npt.NDArray[np.int64]:
    """Return the place of the nearest centre of each row, the first of several.

    Example:
        >>> nearest(np.array([[1.0], [4.0]]), np.array([[0.0], [5.0]])).tolist()
        [0, 1]
    """
    # About the middle of the centres, so that the squares, which cancel, are small.
    middle = centres.mean(axis=0)
    about = centres - middle
    return np.asarray((np.einsum("ij,ij->i", about, about) - 2 * (features - middle) @ about.T).argmin(axis=1))


def _sums(features: Vector, centres: Vector) -> Vector:
    place = nearest(features, centres)
    deviations = features - centres[place]
    member = (place == np.arange(len(centres))[:, None]).astype(np.float64)
    squares = np.einsum("ij,ij->i", deviations, deviations)
    return np.column_stack([member.sum(axis=1), member @ deviations, member @ squares])


def _rounding(centres: Vector, rows: Vector, spread: Vector) -> Vector:
    """Return, by start, the squared distance that rounding alone may move centres that have come to rest."""
    size = (centres**2).sum(axis=(1, 2)) + (spread / np.maximum(rows, 1.0)).sum(axis=1)
    moved: Vector = size * (32 * np.finfo(np.float64).eps) ** 2
    return moved


def _beside(centres: Vector, rows: Vector, spread: Vector, *, draw: Vector) -> Vector:
    """Return where a centre without rows goes: one deviation from the centre with the largest spread."""
    widest = int(spread.argmax())
    deviation = math.sqrt(float(spread[widest]) / max(float(rows[widest]), 1.0))
    length = float(np.linalg.norm(draw))
    beside: Vector = centres[widest] + draw * (deviation / length)
    return beside


def _result(state: KMeansState, rounds: int) -> Clusters:
    best = int(state.spread.sum(axis=1).argmin())
    return Clusters(
        centres=tuple(map(tuple, state.centres[best].tolist())),
        rows=tuple(state.rows[best].tolist()),
        spread=tuple(state.spread[best].tolist()),
        rounds=int(state.rounds[best]),
        converged=bool(state.rounds[best] < rounds),
        start=best,
    )
