"""Intervals by resampling a client's test rows: how far a figure, or a difference of two, could be chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.keys import Key, uniforms
from fedloom.core.params import Vector

RESAMPLES = 2000
"""The ends of a 95 % interval are then the 50th value from either side."""
CONFIDENCE = 0.95
_CHUNK = 2_000_000
"""Drawn rows that are held at once: 16 MB an array."""

Score = Callable[[Vector], Vector]
"""From how often each row was drawn, shape ``(resamples, rows)``, to the figure of each resample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Percentiles of a figure over resamples."""

    low: float
    high: float


def resample(scores: dict[str, Score], rows: int, key: Key) -> dict[str, Vector]:
    """Return each figure over resamples of the same rows, drawn with replacement: shape ``(RESAMPLES,)``.

    All figures see the same draws, so that differences between them are paired.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13, the percentile interval.
    """
    parts = [{name: score(drawn) for name, score in scores.items()} for drawn in _draws(rows, key)]
    return {name: np.concatenate([part[name] for part in parts]) for name in scores}


def interval(values: Vector) -> Interval | None:
    """Return the central interval of a figure; None where more than a tenth of the resamples gave no value.

    Example:
        >>> interval(np.arange(2001.0))
        Interval(low=50.0, high=1950.0)
    """
    known = values[~np.isnan(values)]
    if len(known) < 0.9 * len(values) or not len(known):
        return None
    tail = (100 - 100 * CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail]).tolist()
    return Interval(low=low, high=high)


def mean_score(terms: Vector) -> Score:
    """Return the figure that is a mean of one term a row: log-loss, accuracy."""

    def score(drawn: Vector) -> Vector:
        means: Vector = drawn @ terms / len(terms)
        return means

    return score


def root_mean_score(terms: Vector) -> Score:
    """Return the figure that is the root of a mean: RMSE of squared errors."""
    mean = mean_score(terms)

    def score(drawn: Vector) -> Vector:
        root: Vector = np.sqrt(mean(drawn))
        return root

    return score


def auroc_score(scores: Vector, positive: npt.NDArray[np.bool_]) -> Score:
    """Return the area under the ROC curve, NaN where a resample has one class."""
    order = np.argsort(scores, kind="stable")
    ranked = positive[order]
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))

    def score(drawn: Vector) -> Vector:
        drawn = drawn[:, order]
        negative = np.add.reduceat(drawn * ~ranked, starts, axis=1)
        found = np.add.reduceat(drawn * ranked, starts, axis=1)
        pairs = found.sum(axis=1) * negative.sum(axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        right = (found * below).sum(axis=1)
        area: Vector = np.divide(right, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
        return area

    return score


def _draws(rows: int, key: Key) -> Iterator[Vector]:
    each = max(1, _CHUNK // rows)
    for start in range(0, RESAMPLES, each):
        count = min(each, RESAMPLES - start)
        words = key.child("resample", start).random_raw(count * rows)
        place = (uniforms(words) * rows).astype(np.int64) + np.repeat(np.arange(count) * rows, rows)
        yield np.bincount(place, minlength=count * rows).reshape(count, rows).astype(np.float64)
