"""Standardised rows equal scikit-learn's over the pooled training rows."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fedloom.analytics import Moments, moments, standardise
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.keys import Key
from fedloom.errors import ComponentError, DataError

Answer = Callable[..., Any]
AB = Schema(("a", "b"), "label")


def clients(centre: float, spread: float = 1.0) -> list[ClientDataset]:
    draws = Key.from_seed(2).generator().standard_normal((400, 2)) * spread + centre
    cuts = (0, 10, 100, 400)
    return [
        ClientDataset({"features": draws[start:stop]}, {"train": slice(0, (stop - start) * 3 // 4)})
        for start, stop in pairwise(cuts)
    ]


def training_rows(held: list[ClientDataset]) -> np.ndarray:
    return np.concatenate([each.split("train").arrays["features"] for each in held])


def exact_moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation in rational arithmetic, rounded once at the end."""
    columns = [[Fraction(value) for value in column] for column in rows.T.tolist()]
    means = [sum(column) / len(column) for column in columns]
    squares = [sum((x - mean) ** 2 for x in column) / len(column) for column, mean in zip(columns, means, strict=True)]
    return np.array([float(mean) for mean in means]), np.sqrt([float(square) for square in squares])


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 1.0), (1e6, 1.0), (-1e6, 1.0), (1e3, 1e-3), (1e-6, 1e6)])
def test_it_equals_exact_arithmetic_on_the_pooled_rows(answer: Answer, centre: float, spread: float) -> None:
    held = clients(centre, spread)
    change = standardise().transform(answer(moments(), AB, held))
    mean, std = exact_moments(training_rows(held))
    for each in held:
        expected = (each.arrays["features"] - mean) / std
        np.testing.assert_allclose(change.apply(each).arrays["features"], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 1.0), (100.0, 5.0), (1e6, 1.0), (-1e6, 1.0), (1e3, 1e-3)])
def test_it_equals_scikit_learn_but_for_what_rounding_does_to_its_mean(
    answer: Answer, centre: float, spread: float
) -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    held = clients(centre, spread)
    change = standardise().transform(answer(moments(), AB, held))
    pooled = preprocessing.StandardScaler().fit(training_rows(held))
    mean, std = exact_moments(training_rows(held))
    # Exact arithmetic tells how far off its mean is: 1e-9 at mean 1e6 and 500 rows, next to nothing at mean 100.
    theirs = np.abs(pooled.mean_ - mean) / std
    for each in held:
        off = np.abs(change.apply(each).arrays["features"] - pooled.transform(each.arrays["features"]))
        assert (off <= theirs + 1e-9).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1, -1e-300, 1e150])
def test_a_constant_column_becomes_zero_and_is_reported(answer: Answer, value: float) -> None:
    features = np.column_stack([np.full(1001, value), np.arange(1001.0)])
    data = ClientDataset({"features": features}, {"train": slice(0, 1001)})
    preparation = standardise()
    result = answer(preparation.query, AB, [data])
    scaled = preparation.transform(result).apply(data).arrays["features"]
    assert np.abs(scaled[:, 0]).max() <= 1e-12 * max(abs(value), 1e-12)
    assert preparation.report(result, AB) == (
        "column `a` is constant over all training rows: it is centred, not scaled, and says nothing",
    )


@pytest.mark.parametrize(("given_type", "kept"), [("float32", "float32"), ("float64", "float64"), ("int64", "float64")])
def test_float32_stays_and_anything_else_is_float64(given_type: str, kept: str) -> None:
    change = standardise().transform(Moments(count=2.0, mean=(1.0,), variance=(4.0,)))
    data = ClientDataset({"features": np.array([[3], [5]], dtype=given_type)})
    scaled = change.apply(data).arrays["features"]
    assert (scaled.dtype, scaled.tolist()) == (kept, [[1.0], [2.0]])


def test_labels_splits_and_schema_stay_and_rows_are_not_written() -> None:
    features, label = np.array([[3.0], [5.0]]), np.array([0, 1])
    data = ClientDataset({"features": features, "label": label}, {"train": slice(0, 1), "test": slice(1, 2)})
    change = standardise().transform(Moments(count=2.0, mean=(1.0,), variance=(4.0,)))
    after = change.apply(data)
    assert after.arrays["label"] is label
    assert after.rows == data.rows
    assert features.tolist() == [[3.0], [5.0]]
    assert change.schema(AB) == AB


def test_another_number_of_columns_is_an_error() -> None:
    change = standardise().transform(Moments(count=2.0, mean=(1.0,), variance=(4.0,)))
    with pytest.raises(DataError, match=r"expected \(rows, 1\)"):
        change.apply(ClientDataset({"features": np.ones((2, 2))}))


def test_a_preparation_and_its_query_carry_what_built_them() -> None:
    preparation = standardise()
    assert preparation.spec is not None
    assert preparation.query.spec is not None
    assert (preparation.spec.group, preparation.spec.name) == ("fedloom.preparations", "standardise")
    assert (preparation.query.spec.group, preparation.query.spec.name) == ("fedloom.queries", "moments")


def test_named_columns_are_those_of_the_whole_table_and_others_stay(
    answer: Answer, stored: Callable[[Any], Any]
) -> None:
    held, schema = clients(5.0, 2.0), Schema(("a", "b"), "label")
    whole = standardise().transform(answer(standardise().query, schema, held))
    preparation = standardise(["b"])
    result = answer(preparation.query, schema, held)
    part = preparation.transform(stored(result))
    for each in held:
        before, after = each.arrays["features"], part.apply(each).arrays["features"]
        # A lone column is summed in another order than one of two: equal but for rounding.
        np.testing.assert_allclose(after[:, 1], whole.apply(each).arrays["features"][:, 1], rtol=0, atol=1e-12)
        assert np.array_equal(after[:, 0], before[:, 0])
    assert part.schema(schema) == schema


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_named_columns_keep_their_type(answer: Answer, dtype: str) -> None:
    data = ClientDataset({"features": np.array([[1, 2], [3, 6]], dtype=dtype)}, {"train": slice(0, 2)})
    preparation = standardise(["b"])
    after = preparation.transform(answer(preparation.query, AB, [data])).apply(data).arrays["features"]
    assert after.dtype == dtype
    assert after.tolist() == [[1.0, -1.0], [3.0, 1.0]]


def test_a_query_of_named_columns_sends_these_only_and_is_saved(answer: Answer, restarted: Callable[..., None]) -> None:
    query, seen = standardise(["b"]).query, []
    data = ClientDataset({"features": np.array([[np.nan, 2.0]])}, {"train": slice(0, 1)})
    answer(query, AB, [data], seen=seen)  # the missing value of a is nobody's business
    restarted(query, AB, seen)
    assert query.parts(AB)["moments"].size == 3


def test_constant_named_columns_are_reported_by_their_names(answer: Answer) -> None:
    data = ClientDataset({"features": np.array([[1.0, 2.0], [3.0, 2.0]])}, {"train": slice(0, 2)})
    preparation = standardise(["b"])
    report = preparation.report(answer(preparation.query, AB, [data]), AB)
    assert report[0].startswith("column `b` is constant")
    assert len(report) == 1


@pytest.mark.parametrize("columns", [None, ["b"]])
def test_missing_values_are_an_error_that_says_what_to_put_before(answer: Answer, columns: Any) -> None:
    data = ClientDataset({"features": np.array([[1.0, np.nan], [1.0, 2.0]])}, {"train": slice(0, 2)})
    with pytest.raises(DataError, match=r"missing.*Put impute before"):
        answer(standardise(columns).query, AB, [data])


def test_named_columns_must_be_there() -> None:
    with pytest.raises(DataError, match="no column `z`"):
        standardise(["z"]).query.init(AB)
    with pytest.raises(ComponentError, match="columns is empty"):
        standardise([])
