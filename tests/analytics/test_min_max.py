"""Public ranges: nobody is asked, and values outside are clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fedloom.analytics import min_max
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.query import AnyPreparation
from fedloom.errors import ComponentError, DataError

ABC = Schema(("a", "b", "c"), "label")


def changed(preparation: AnyPreparation, features: np.ndarray, schema: Schema = ABC) -> np.ndarray:
    query = preparation.query
    state = query.init(schema)
    assert query.done(state), "public ranges need no round"
    return preparation.transform(query.result(state)).apply(ClientDataset({"features": features})).arrays["features"]


def test_it_equals_scikit_learn_fitted_on_the_ends_of_the_ranges() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    ranges = {"c": (-1.0, 3.0), "a": (0.5, 0.75)}
    features = np.random.default_rng(1).normal(0, 3, (50, 3))
    theirs = preprocessing.MinMaxScaler(clip=True).fit(np.array([[0.5, -1.0], [0.75, 3.0]]))
    ours = changed(min_max(ranges), features)
    np.testing.assert_allclose(ours[:, [0, 2]], theirs.transform(features[:, [0, 2]]), rtol=0, atol=1e-9)
    assert np.array_equal(ours[:, 1], features[:, 1])


def test_values_outside_are_clipped_and_missing_ones_stay_missing() -> None:
    features = np.array([[-1e300, np.nan, 0.0], [1e300, 2.0, 0.0]])
    ours = changed(min_max({"a": (0, 1), "b": (0, 4)}), features)
    np.testing.assert_array_equal(ours[:, :2], [[0.0, np.nan], [1.0, 0.5]])


@pytest.mark.parametrize(("given", "kept"), [("float32", "float32"), ("float64", "float64"), ("int64", "float64")])
def test_float32_stays_and_anything_else_is_float64(given: str, kept: str) -> None:
    features = np.array([[1, 2, 3]], dtype=given)
    ours = changed(min_max({"b": (0, 4)}), features)
    assert (ours.dtype, ours.tolist(), features.tolist()) == (kept, [[1.0, 0.5, 3.0]], [[1, 2, 3]])


def test_zero_rows_stay_zero_rows() -> None:
    assert changed(min_max({"b": (0, 4)}), np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (1.0,), (0, 1, 2)])
def test_what_is_no_range_is_refused_at_once(ends: Sequence[Any]) -> None:
    with pytest.raises(ComponentError, match="the range of `a`"):
        min_max({"a": ends})


@pytest.mark.parametrize("end", [float("nan"), float("inf")])
def test_ends_are_finite(end: float) -> None:
    with pytest.raises(ComponentError, match="expected a finite number"):
        min_max({"a": (0.0, end)})


def test_no_range_is_refused() -> None:
    with pytest.raises(ComponentError, match="ranges is empty"):
        min_max({})


def test_a_column_that_is_not_there_is_an_error_before_round_1() -> None:
    with pytest.raises(DataError, match="there is no column `d`; the columns are `a`, `b`, `c`"):
        min_max({"d": (0, 1)}).query.init(ABC)
    with pytest.raises(DataError, match="column `t` holds text"):
        min_max({"t": (0, 1)}).query.init(Schema(("a",), texts=("t",)))


def test_another_number_of_columns_is_an_error() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 2\); expected \(rows, 3\)"):
        changed(min_max({"a": (0, 1)}), np.zeros((1, 2)))
