"""Ranking measures: exact for one client, from merged histograms over clients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedloom.core.params import Vector

BINS = 2048
"""Bins of a class, even in ``arcsinh(logit)`` over -8 .. 8: fine near the decision, finite in the tails."""
_HALF = 8.0


def score_histogram(logits: Vector, positive: npt.NDArray[np.bool_]) -> Vector:
    """Return the counts of negatives by bin, then of positives by bin: shape ``(2 * BINS,)``."""
    place = np.floor((np.arcsinh(logits.astype(np.float64)) + _HALF) * (BINS / (2 * _HALF)))
    bins = np.clip(place, 0, BINS - 1).astype(np.int64)
    return np.bincount(bins + BINS * positive, minlength=2 * BINS).astype(np.float64)


def auroc(logits: Vector, positive: npt.NDArray[np.bool_]) -> float | None:
    """Return the exact area under the ROC curve, ties by half; None when one class is absent.

    Source: Mann and Whitney 1947: the share of pairs (positive, negative) that are ranked rightly.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    _, place = np.unique(logits, return_inverse=True)
    size = int(place.max(initial=-1)) + 1
    counts = np.bincount(place + size * positive, minlength=2 * size).astype(np.float64)
    return auroc_of_counts(counts)


def average_precision(logits: Vector, positive: npt.NDArray[np.bool_]) -> float | None:
    """Return the exact average precision; None without a positive."""
    _, place = np.unique(logits, return_inverse=True)
    size = int(place.max(initial=-1)) + 1
    return average_precision_of_counts(np.bincount(place + size * positive, minlength=2 * size).astype(np.float64))


def auroc_of_counts(counts: Vector) -> float | None:
    """Return the area under the ROC curve of counts by ascending score: negatives, then positives; ties by half."""
    negative, positive = counts.reshape(2, -1)
    pairs = float(negative.sum()) * float(positive.sum())
    if not pairs:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum()) / pairs


def average_precision_of_counts(counts: Vector) -> float | None:
    """Return the sum over thresholds of precision times the recall gained; None without a positive."""
    negative, positive = counts.reshape(2, -1)[:, ::-1]
    total = float(positive.sum())
    if not total:
        return None
    found = np.cumsum(positive)
    precision = found / np.maximum(found + np.cumsum(negative), 1.0)
    return float((precision * positive).sum()) / total
