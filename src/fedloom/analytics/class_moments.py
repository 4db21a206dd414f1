"""Rows, mean and variance of every feature within each class: what Gaussian naive Bayes is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedloom.analytics.columns import features_of
from fedloom.core.component import component
from fedloom.core.data import LABEL, ClientDataset, Schema
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import DataError

PART = "class_moments"
ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMoments:
    """The answer, by class and column; a class without rows has zeros.

    ``count`` holds floats because a protected sum need not be whole. ``variance`` is that of the population.
    """

    classes: tuple[str, ...]
    count: tuple[float, ...]
    mean: tuple[tuple[float, ...], ...]
    variance: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassMomentsState:
    """What the server knows so far; ``answered`` counts rounds."""

    classes: tuple[str, ...]
    answered: int
    count: Vector
    """Shape ``(classes,)``; means and variances ``(classes, columns)``."""
    mean: Vector
    variance: Vector


@component("fedloom.queries")
def class_moments() -> Query[ClassMomentsState, ClassMoments]:
    """Ask for rows and mean of each class, then for the variances about these means.

    Each client sends, by class, its number of training rows, and by feature the sum of deviations from the mean known
    so far and of their squares: ``k (1 + 2 c)`` numbers for ``k`` classes and ``c`` columns, twice. In the first round
    the mean is 0 and squares are sent as 0. The classes must be agreed.

    Source:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", the corrected two-pass algorithm by
        class; the correction is applied to the mean too (differs).

    Example:
        >>> query = class_moments()
        >>> data = ClientDataset(
        ...     {"features": np.array([[1.0], [3.0]]), "label": np.array([1, 1])}, {"train": slice(0, 2)}
        ... )
        >>> query.ask(query.init(Schema(("age",), "ill", ("no", "yes")))).read(data)["class_moments"].tolist()
        [0.0, 0.0, 0.0, 2.0, 4.0, 0.0]
    """
    return Query(
        name=PART, answer=ClassMoments, parts=_parts, init=_init, ask=_ask, step=_step, done=_done, result=_result
    )


def _parts(schema: Schema) -> Mapping[str, ParamSpec]:
    return {PART: ParamSpec((Leaf(PART, (len(schema.classes or ()), 1 + 2 * len(schema.columns))),))}


def _init(schema: Schema) -> ClassMomentsState:
    if schema.classes is None:
        raise DataError("class_moments needs agreed classes; declare them with the data")
    zeros = np.zeros((len(schema.classes), len(schema.columns)))
    return ClassMomentsState(
        classes=schema.classes, answered=0, count=np.zeros(len(schema.classes)), mean=zeros, variance=zeros
    )


def _ask(state: ClassMomentsState) -> LocalQuery:
    mean, first = state.mean, state.answered == 0
    classes, width = mean.shape

    def read(data: ClientDataset) -> Mapping[str, Vector]:
        train = data.split("train")
        features, label = features_of(PART, train, width), np.asarray(train.arrays[LABEL], np.int64)
        if label.size and not 0 <= label.min() <= label.max() < classes:
            raise DataError(f"class_moments: labels are no indices of the {classes} agreed classes; correct those rows")
        member = (label == np.arange(classes)[:, None]).astype(np.float64)
        deviations = features - mean[label]
        sums = member @ deviations
        squares = np.zeros_like(sums) if first else member @ deviations**2
        if not np.isfinite(sums).all():
            raise DataError(
                "class_moments: some column holds missing or infinite values. Fill them in, or leave them out"
            )
        return {PART: np.column_stack([member.sum(axis=1), sums, squares]).reshape(-1)}

    return LocalQuery(read)


def _step(state: ClassMomentsState, aggregate: Aggregate) -> ClassMomentsState:
    classes, width = state.mean.shape
    totals = np.asarray(aggregate[PART], dtype=np.float64).reshape(classes, 1 + 2 * width)
    count, sums, squares = totals[:, 0], totals[:, 1 : 1 + width], totals[:, 1 + width :]
    if not count.sum() > 0.5:
        raise DataError("class_moments: no training rows in all clients together; expected at least one")
    rows = np.where(count > 0.5, count, np.inf)[:, None]  # a class without rows keeps its zeros
    shift = sums / rows
    if state.answered == 0:
        return replace(state, answered=1, count=count, mean=shift)
    # Noise, where there is any, can make the difference negative.
    variance = np.maximum(squares / rows - shift**2, 0.0)
    return replace(state, answered=state.answered + 1, count=count, mean=state.mean + shift, variance=variance)


def _done(state: ClassMomentsState) -> bool:
    return state.answered >= ROUNDS


def _result(state: ClassMomentsState) -> ClassMoments:
    return ClassMoments(
        classes=state.classes,
        count=tuple(state.count.tolist()),
        mean=tuple(map(tuple, state.mean.tolist())),
        variance=tuple(map(tuple, state.variance.tolist())),
    )
