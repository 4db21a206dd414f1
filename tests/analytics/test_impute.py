"""Filled values equal those of the pooled rows, whoever holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.analytics import impute
from fedloom.core.data import ClientDataset, Schema
from fedloom.errors import ComponentError, DataError

Answer = Callable[..., Any]
Deal = Callable[..., list[ClientDataset]]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
AB = Schema(("a", "b"), "label")
MIXED = Schema(("a", "b"), "label", texts=("s", "t"))


def table(features: np.ndarray, texts: np.ndarray | None = None) -> ClientDataset:
    arrays = {"features": features} if texts is None else {"features": features, "texts": texts}
    return ClientDataset(arrays, {"train": slice(0, len(features))})


def ragged(dtype: str, centre: float = 0.0, rows: int = 300) -> np.ndarray:
    draw = np.random.default_rng(3)
    features = (draw.standard_normal((rows, 2)) + centre).astype(dtype)
    features[draw.random((rows, 2)) < 0.3] = np.nan
    return features


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("centre", [0.0, 1e3, -1e6])
@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_it_equals_numpy_on_the_pooled_rows(
    answer: Answer, deal: Deal, strategy: Any, centre: float, dtype: str
) -> None:
    pooled = ragged(dtype, centre)
    held = deal(table(pooled), np.minimum(np.arange(300) // 7, 9).tolist())
    preparation = impute(strategy)
    change = preparation.transform(answer(preparation.query, AB, held))
    reference = {"mean": np.nanmean, "median": np.nanmedian}[strategy](pooled.astype(np.float64), axis=0)
    np.testing.assert_allclose(change.values, reference, rtol=1e-9, atol=1e-12)
    for each in held:
        features = each.arrays["features"]
        expected = np.where(np.isnan(features), reference, features).astype(dtype)
        filled = change.apply(each).arrays["features"]
        assert filled.dtype == dtype
        np.testing.assert_allclose(filled, expected, rtol=1e-6 if dtype == "float32" else 1e-9)


def test_it_equals_scikit_learn(answer: Answer, deal: Deal) -> None:
    sklearn_impute = pytest.importorskip("sklearn.impute")
    pooled = ragged("float64", 5.0)
    held = deal(table(pooled), (np.arange(300) % 4).tolist())
    for strategy in ("mean", "median"):
        preparation = impute(strategy)  # type: ignore[arg-type]
        ours = preparation.transform(answer(preparation.query, AB, held)).apply(table(pooled)).arrays["features"]
        theirs = sklearn_impute.SimpleImputer(strategy=strategy).fit_transform(pooled)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@shared
@given(
    st.lists(
        st.tuples(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), st.integers(0, 4)), min_size=1, max_size=30
    ).filter(lambda rows: any(np.isfinite(value) for value, _ in rows))
)
def test_any_deal_of_the_rows_gives_the_same_values(answer: Answer, deal: Deal, drawn: list[tuple[float, int]]) -> None:
    pooled = np.array([[value] for value, _ in drawn])
    schema = Schema(("a",))
    for strategy, reference in (("mean", np.nanmean(pooled)), ("median", np.nanmedian(pooled))):
        preparation = impute(strategy)  # type: ignore[arg-type]
        for hands in ([0] * len(drawn), [client for _, client in drawn]):
            found = preparation.transform(answer(preparation.query, schema, deal(table(pooled), hands))).values
            np.testing.assert_allclose(found, [reference], rtol=1e-9, atol=1e-9)


def test_only_training_rows_are_read(answer: Answer) -> None:
    data = ClientDataset({"features": np.array([[1.0, 2.0], [1e9, np.nan]])}, {"train": slice(0, 1)})
    for strategy in ("mean", "median"):
        preparation = impute(strategy)  # type: ignore[arg-type]
        assert preparation.transform(answer(preparation.query, AB, [data])).values == (1.0, 2.0)


def test_only_named_columns_are_filled(answer: Answer) -> None:
    data = table(np.array([[1.0, 2.0], [np.nan, np.nan]]))
    preparation = impute("mean", ["b"])
    filled = preparation.transform(answer(preparation.query, AB, [data])).apply(data).arrays["features"]
    np.testing.assert_array_equal(filled, [[1.0, 2.0], [np.nan, 2.0]])


def test_constants_fill_numbers_and_texts_and_ask_nothing() -> None:
    preparation = impute("constant", value=-1, text="missing")
    state = preparation.query.init(MIXED)
    assert preparation.query.done(state)
    change = preparation.transform(preparation.query.result(state))
    texts = np.array([["x", ""], [" ", "a longer name"]])
    after = change.apply(table(np.array([[np.nan, 2.0], [3.0, np.nan]]), texts))
    assert after.arrays["features"].tolist() == [[-1.0, 2.0], [3.0, -1.0]]
    assert after.arrays["texts"].tolist() == [["x", "missing"], ["missing", "a longer name"]]
    assert texts.tolist() == [["x", ""], [" ", "a longer name"]]
    assert change.apply(table(np.zeros((0, 2)), np.zeros((0, 2), dtype="U1"))).arrays["texts"].shape == (0, 2)


def test_a_constant_fills_what_it_fits_and_named_columns_only() -> None:
    def filled(**arguments: Any) -> ClientDataset:
        preparation = impute("constant", **arguments)
        change = preparation.transform(preparation.query.result(preparation.query.init(MIXED)))
        return change.apply(table(np.full((1, 2), np.nan), np.array([["", ""]])))

    assert np.isnan(filled(text="no").arrays["features"]).all()
    assert filled(value=1.0).arrays["texts"].tolist() == [["", ""]]
    part = filled(columns=["t", "a"], value=1.0, text="no")
    np.testing.assert_array_equal(part.arrays["features"], [[1.0, np.nan]])
    assert part.arrays["texts"].tolist() == [["", "no"]]


def test_it_says_how_much_was_missing_and_warns_where_most_was(answer: Answer, deal: Deal) -> None:
    pooled = np.array([[np.nan, 1.0]] * 6 + [[1.0, 1.0]] * 3 + [[1.0, np.nan]])
    for strategy in ("mean", "median"):
        preparation = impute(strategy)  # type: ignore[arg-type]
        result = answer(preparation.query, AB, deal(table(pooled), [0, 1] * 5))
        assert preparation.report(result, AB) == (
            "missing values that were filled, of 10 training rows of all clients: `a` 6, `b` 1",
            "column `a` is missing in 60% of all training rows: what stands there now is mostly not measured; consider "
            "to leave it out",
        )
        assert preparation.report(answer(preparation.query, AB, [table(np.ones((2, 2)))]), AB) == ()


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_a_column_that_nobody_has_is_an_error_with_its_name(answer: Answer, strategy: Any) -> None:
    with pytest.raises(DataError, match="no client has a value in `b`"):
        answer(impute(strategy).query, AB, [table(np.array([[1.0, np.nan]])), table(np.array([[2.0, np.nan]]))])
    with pytest.raises(DataError, match="0 training rows"):
        answer(impute(strategy).query, AB, [table(np.zeros((0, 2)))])


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_infinite_values_are_an_error_with_their_column(answer: Answer, strategy: Any) -> None:
    with pytest.raises(DataError, match=r"`b`.*infinite"):
        answer(impute(strategy).query, AB, [table(np.array([[1.0, np.inf], [1.0, np.inf]]))])


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_a_table_without_numbers_needs_no_round(strategy: Any) -> None:
    query = impute(strategy).query
    assert query.done(query.init(Schema((), texts=("s",))))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"strategy": "mean", "value": 1.0}, "value is given with strategy"),
        ({"strategy": "median", "text": "x"}, "text is given with strategy"),
        ({"strategy": "constant"}, "without value and text"),
        ({"strategy": "constant", "value": float("inf")}, "expected a finite number"),
        ({"strategy": "constant", "text": " "}, "expected the name of a category"),
        ({"strategy": "mean", "zooms": 4}, "zooms = 4 is given with"),
        ({"strategy": "median", "zooms": 2}, "zooms = 2; expected 3 to 11"),
        ({"strategy": "mean", "columns": []}, "columns is empty"),
        ({"strategy": "mean", "columns": ["a", "a"]}, "names `a` twice"),
        ({"strategy": "mean", "columns": "a"}, r"expected a list of names: \[\"a\"\]"),
        ({"strategy": "most"}, "expected one of"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        impute(**arguments)


def test_columns_that_do_not_fit_are_an_error_before_round_1() -> None:
    for arguments, match in [
        ({"strategy": "mean", "columns": ["z"]}, "no column `z`"),
        ({"strategy": "mean", "columns": ["s"]}, "column `s` holds text"),
        ({"strategy": "constant", "columns": ["z"], "value": 1.0}, "no column `z`"),
        ({"strategy": "constant", "columns": ["s"], "value": 1.0}, "column `s` holds text and text is not given"),
        ({"strategy": "constant", "columns": ["a"], "text": "x"}, "column `a` holds numbers and value is not given"),
    ]:
        with pytest.raises(DataError, match=match):
            impute(**arguments).query.init(MIXED)  # type: ignore[arg-type]


def test_it_is_marked_as_filling() -> None:
    assert impute("mean").fills
    assert impute("constant", text="x").fills
