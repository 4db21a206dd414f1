"""Calibration counts against a direct computation, and how they merge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.calibration import BINS, SIZE, calibration_bins, calibration_counts, calibration_error
from fedloom.core.keys import Key

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)


@quick
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 5))
def test_counts_of_clients_add_up_to_those_of_all_rows(seed: int, count: int, clients: int) -> None:
    draw = Key.from_seed(seed).generator()
    probability, owner = draw.random(count), draw.integers(0, clients, count)
    true = draw.random(count) < probability
    counts = calibration_counts(probability, true, owner, clients)
    assert counts.shape == (clients, SIZE)
    whole = calibration_counts(probability, true, np.zeros(count, np.int64), 1)[0]
    np.testing.assert_allclose(counts.sum(axis=0), whole, rtol=1e-12)
    bins = calibration_bins(whole)
    assert sum(each.rows for each in bins) == count
    edges = np.minimum((probability * BINS).astype(int), BINS - 1)
    error = sum(abs(probability[edges == b].sum() - true[edges == b].sum()) for b in range(BINS)) / count
    assert calibration_error(bins) == pytest.approx(error, abs=1e-12)
    for each in bins:
        assert each.low - 1e-12 <= each.predicted <= each.high + 1e-12


def test_no_rows_have_no_error() -> None:
    assert calibration_bins(np.zeros(SIZE)) == ()
    assert calibration_error(()) is None


def test_certainty_that_is_right_and_certainty_that_is_wrong() -> None:
    ends, owner = np.array([0.0, 1.0]), np.zeros(2, np.int64)
    right = calibration_bins(calibration_counts(ends, np.array([False, True]), owner, 1)[0])
    wrong = calibration_bins(calibration_counts(ends, np.array([True, False]), owner, 1)[0])
    assert (calibration_error(right), calibration_error(wrong)) == (0.0, 1.0)
