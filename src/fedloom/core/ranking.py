"""Ranking measures: exact for one client, from merged histograms over clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.params import Vector

BINS = 2048
"""Bins of a class, even in ``arcsinh(FINENESS * score)`` over -16 .. 16."""
FINENESS = 16.0
"""Scores below 1/16 fall into bins of 0.001, larger ones into bins of 1.6 per cent of themselves, up to 2.8e5."""
_HALF = 16.0


def score_bins(scores: Vector) -> npt.NDArray[np.int64]:
    """Return the bin of each score, from 0 up to ``BINS``; a score beyond the last bin falls into it.

    A ranking is the same for any increasing function of its scores, so a learner gives scores whose spread is about 1
    whatever the fit of its model: both sides of a decision then fall into hundreds of bins, and not into three.

    Example:
        >>> score_bins(np.array([-1e9, 0.0, 1e9])).tolist()
        [0, 1024, 2047]
    """
    place = np.floor((np.arcsinh(FINENESS * scores.astype(np.float64)) + _HALF) * (BINS / (2 * _HALF)))
    return np.clip(place, 0, BINS - 1).astype(np.int64)


def score_histogram(scores: Vector, positive: npt.NDArray[np.bool_]) -> Vector:
    """Return the counts of negatives by bin, then of positives by bin: shape ``(2 * BINS,)``."""
    return np.bincount(score_bins(scores) + BINS * positive, minlength=2 * BINS).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Rankings:
    """Exact ranking measures of many clients, NaN where a class is absent; arrays of shape ``(clients,)``."""

    auroc: Vector
    average_precision: Vector


def rankings(scores: Vector, positive: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]) -> Rankings:
    """Return the exact measures of each client, whose rows lie one after the other from its start on.

    Each client's figures are those of ``auroc`` and ``average_precision``, whoever stands beside it.

    Args:
        scores: Shape ``(rows,)``.
        positive: Shape ``(rows,)``.
        starts: First row of each client, ascending; every client has at least one row.

    Example:
        >>> rankings(np.array([0.1, 0.9, 0.3]), np.array([False, True, True]), np.array([0, 2])).auroc.tolist()
        [1.0, nan]
    """
    clients = len(starts)
    owner = np.repeat(np.arange(clients), np.diff(np.append(starts, len(scores))))
    order = np.lexsort((scores, owner))
    owner, scores, positive = owner[order], scores[order], positive[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (owner[1:] != owner[:-1]) | (scores[1:] != scores[:-1])
    tie = np.cumsum(new) - 1
    ties = int(tie[-1]) + 1
    of = owner[new]
    pos, size = np.bincount(tie, weights=positive, minlength=ties), np.bincount(tie, minlength=ties)
    neg = size - pos
    first = np.searchsorted(of, np.arange(clients))
    all_pos, all_neg = np.add.reduceat(pos, first), np.add.reduceat(neg, first)
    below_neg = np.cumsum(neg) - neg
    below_neg -= below_neg[first][of]
    below_pos = np.cumsum(pos) - pos
    below_pos -= below_pos[first][of]
    pairs = all_pos * all_neg
    # Counts of pairs are halves of whole numbers: their sum is exact in any order.
    right = np.add.reduceat(pos * (below_neg + neg / 2), first)
    found, seen = all_pos[of] - below_pos, (all_pos + all_neg)[of] - below_pos - below_neg
    precision = np.add.reduceat(pos * found / seen, first)
    nothing = np.full(clients, np.nan)
    return Rankings(
        np.divide(right, pairs, out=nothing.copy(), where=pairs > 0),
        np.divide(precision, all_pos, out=nothing, where=all_pos > 0),
    )


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
