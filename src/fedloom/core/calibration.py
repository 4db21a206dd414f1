"""Calibration: whether rows that are given 30 per cent come true in 30 of 100; counts that merge over clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.params import Vector

BINS = 10
"""Of equal width over 0 .. 1."""
SIZE = 3 * BINS
"""Coordinates of a histogram: rows, sums of probabilities, and rows that came true, by bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Rows whose probability lies from ``low`` up to ``high``."""

    low: float
    high: float
    rows: int
    predicted: float
    """Mean probability."""
    observed: float
    """Share of the rows that came true."""


def calibration_counts(
    probability: Vector, true: npt.NDArray[np.bool_], owner: npt.NDArray[np.int64], clients: int
) -> Vector:
    """Return the counts of each client, shape ``(clients, SIZE)``.

    Args:
        probability: Of what may come true, shape ``(rows,)``, each from 0 to 1.
        true: Whether it did.
        owner: Index of the client of each row.
        clients: Number of clients.

    Example:
        >>> counts = calibration_counts(np.array([0.05, 1.0]), np.array([False, True]), np.array([0, 0]), 1)
        >>> calibration_bins(counts[0])[1]
        CalibrationBin(low=0.9, high=1.0, rows=1, predicted=1.0, observed=1.0)
    """
    place = np.minimum((probability * BINS).astype(np.int64), BINS - 1) + BINS * owner
    size = BINS * clients
    rows = np.bincount(place, minlength=size)
    sums = np.bincount(place, weights=probability, minlength=size)
    came = np.bincount(place, weights=true, minlength=size)
    return np.stack([rows, sums, came]).reshape(3, clients, BINS).transpose(1, 0, 2).reshape(clients, SIZE)


def calibration_bins(counts: Vector) -> tuple[CalibrationBin, ...]:
    """Return the bins that have rows."""
    rows, sums, came = counts.reshape(3, BINS).tolist()
    return tuple(
        CalibrationBin(
            low=place / BINS,
            high=(place + 1) / BINS,
            rows=round(rows[place]),
            predicted=sums[place] / rows[place],
            observed=came[place] / rows[place],
        )
        for place in range(BINS)
        if rows[place] > 0.5
    )


def calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """Return the mean distance between what was predicted and what came true, weighted by rows; None without rows.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3 (expected calibration error), with ten bins.

    Example:
        >>> calibration_error([CalibrationBin(low=0.2, high=0.3, rows=4, predicted=0.25, observed=0.5)])
        0.25
    """
    total = sum(each.rows for each in bins)
    if not total:
        return None
    return sum(each.rows * abs(each.predicted - each.observed) for each in bins) / total
