"""Number of rows, mean and variance of every feature, over the training rows of all clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.component import component
from fedloom.core.data import FEATURES, ClientDataset, Schema
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import DataError

PART = "moments"
ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """The answer: ``variance`` is that of the population, divided by the count and not by one less.

    ``count`` is a float because a protected sum need not be whole.
    """

    count: float
    mean: tuple[float, ...]
    variance: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MomentsState:
    """What the server knows so far; ``answered`` counts rounds."""

    answered: int
    count: float
    mean: Vector
    variance: Vector


@component("fedloom.queries")
def moments() -> Query[MomentsState, Moments]:
    """Ask for count and mean, then for the variance about that mean.

    Each client sends its number of training rows, and by feature the sum of deviations from the mean known so far and
    of their squares. In the first round that mean is 0, and squares, which would be huge and of no use, are sent as 0.
    In the second the deviations are small, so nothing cancels, and their sum repairs what rounding did to the mean.
    With ``d`` the deviations:

        mean <- mean + sum(d) / n,    variance = sum(d^2) / n - (sum(d) / n)^2

    The count is sent again, so a client that is lost between the rounds is missing from both sides of each fraction.

    Source:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", the corrected two-pass algorithm;
        the correction is applied to the mean too (differs).

    Example:
        >>> query = moments()
        >>> data = ClientDataset({"features": np.array([[1.0], [3.0]])}, {"train": slice(0, 2)})
        >>> query.ask(query.init(Schema(("age",)))).read(data)["moments"].tolist()
        [2.0, 4.0, 0.0]
    """
    return Query(name=PART, answer=Moments, parts=_parts, init=_init, ask=_ask, step=_step, done=_done, result=_result)


def _parts(schema: Schema) -> Mapping[str, ParamSpec]:
    return {PART: ParamSpec((Leaf(PART, (1 + 2 * len(schema.columns),)),))}


def _init(schema: Schema) -> MomentsState:
    zeros = np.zeros(len(schema.columns))
    return MomentsState(answered=0, count=0.0, mean=zeros, variance=zeros)


def _ask(state: MomentsState) -> LocalQuery:
    mean, first = state.mean, state.answered == 0

    def read(data: ClientDataset) -> Mapping[str, Vector]:
        features = data.split("train").arrays[FEATURES]
        if features.ndim != 2 or features.shape[1] != len(mean):
            raise DataError(f"moments: features have shape {features.shape}; expected (rows, {len(mean)})")
        deviations = features - mean  # float64 also where features are float32, because the mean is
        squares = np.zeros_like(mean) if first else np.einsum("ij,ij->j", deviations, deviations)
        sums = deviations.sum(axis=0)
        _refuse_missing(sums)
        return {PART: np.concatenate([[float(len(features))], sums, squares])}

    return LocalQuery(read)


def _step(state: MomentsState, aggregate: Aggregate) -> MomentsState:
    totals = np.asarray(aggregate[PART], dtype=np.float64)
    width = len(state.mean)
    count, sums, squares = float(totals[0]), totals[1 : 1 + width], totals[1 + width :]
    if not count > 0:
        raise DataError(f"moments: {count:g} training rows in all clients together; expected at least one")
    broken = np.flatnonzero(~(np.isfinite(sums) & np.isfinite(squares)))
    if broken.size:
        raise DataError(
            f"moments: {broken.size} columns sum to no finite number (the first is column {broken[0]} from 0); "
            "some client has NaN or infinite features. Check the rows of every client"
        )
    shift = sums / count
    if state.answered == 0:
        return replace(state, answered=1, count=count, mean=shift)
    # Noise, where there is any, can make the difference negative.
    variance = np.maximum(squares / count - shift**2, 0.0)
    return MomentsState(answered=state.answered + 1, count=count, mean=state.mean + shift, variance=variance)


def _refuse_missing(sums: Vector) -> None:
    """Stop a client whose features cannot be summed, where its rows are: their sum would spoil everybody's."""
    broken = np.flatnonzero(~np.isfinite(sums))
    if broken.size:
        raise DataError(
            f"moments: {broken.size} columns sum to no finite number (the first is column {broken[0]} from 0): they "
            "hold missing (NaN) or infinite values. Put impute before this preparation, or leave those rows out"
        )


def _done(state: MomentsState) -> bool:
    return state.answered >= ROUNDS


def _result(state: MomentsState) -> Moments:
    return Moments(count=state.count, mean=tuple(state.mean.tolist()), variance=tuple(state.variance.tolist()))
