"""Categories become the numbers that scikit-learn makes of the pooled rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.analytics import fold_rare, one_hot, ordinal
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.labels import in_order
from fedloom.core.query import AnyPreparation
from fedloom.errors import ComponentError, DataError

Answer = Callable[..., Any]
Deal = Callable[..., list[ClientDataset]]
Stored = Callable[[Any], Any]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
SCHEMA = Schema(("age", "code"), "label", texts=("sex", "job"))
JOBS = ["clerk", "cook", "Köchin", "smith", "家政"]


def table(rows: int = 200, *, dtype: str = "float64", missing: bool = True) -> ClientDataset:
    draw = np.random.default_rng(7)
    features = np.column_stack([draw.random(rows), draw.integers(8, 12, rows)]).astype(dtype)
    texts = np.column_stack([draw.choice(["f", "m"], rows), draw.choice(JOBS, rows, p=[0.5, 0.3, 0.1, 0.07, 0.03])])
    if missing:
        features[draw.random(rows) < 0.1, 1] = np.nan
        texts[draw.random((rows, 2)) < 0.1] = ""
    return ClientDataset({"features": features, "texts": texts}, {"train": slice(0, rows)})


def row(sex: str = "f", job: str = "cook", age: float = 1.0, code: float = 9.0) -> ClientDataset:
    return ClientDataset({"features": np.array([[age, code]]), "texts": np.array([[sex, job]])})


def fitted(preparation: AnyPreparation, answer: Answer, held: Sequence[ClientDataset], stored: Stored) -> Any:
    return preparation.transform(stored(answer(preparation.query, SCHEMA, held)))


def encoder(kind: str, pooled: np.ndarray, **settings: Any) -> Any:
    """Return scikit-learn's encoder of strings, with categories in our order (by number where all are numbers)."""
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    order = [list(in_order([name for name in set(column) if name])) for column in pooled.T.tolist()]
    return getattr(preprocessing, kind)(categories=order, **settings).fit(np.where(pooled == "", pooled[0], pooled))


def words(data: ClientDataset) -> np.ndarray:
    code = data.arrays["features"][:, 1]
    names = np.array(["" if np.isnan(value) else str(int(value)) for value in code.tolist()])
    return np.column_stack([data.arrays["texts"], names])


@pytest.mark.parametrize(
    ("clients", "dtype", "drop_first"),
    [(clients, dtype, drop) for clients in (1, 2, 9) for dtype in ("float32", "float64") for drop in (False, True)],
)
def test_one_hot_equals_scikit_learn_on_the_pooled_rows(
    answer: Answer, deal: Deal, *, clients: int, dtype: str, drop_first: bool
) -> None:
    pooled = table(dtype=dtype, missing=False)
    held = deal(pooled, (np.arange(200) ** 2 % clients).tolist())
    preparation = one_hot(["sex", "job", "code"], drop_first=drop_first)
    change: Any = preparation.transform(answer(preparation.query, SCHEMA, held))
    theirs = encoder("OneHotEncoder", words(pooled), drop="first" if drop_first else None, sparse_output=False)
    schema = change.schema(SCHEMA)
    names = theirs.get_feature_names_out(["sex", "job", "code"]).tolist()
    assert schema.columns == ("age", *(name.replace("_", "=", 1) for name in names))
    assert schema.texts == ()
    for each in held:
        after = change.apply(each)
        assert set(after.arrays) == {"features"}
        assert after.arrays["features"].dtype == dtype
        assert after.rows == each.rows
        assert np.array_equal(after.arrays["features"][:, 0], each.arrays["features"][:, 0])
        if len(each):
            assert np.array_equal(after.arrays["features"][:, 1:], theirs.transform(words(each)))


@pytest.mark.parametrize("min_count", [10, 25])
def test_folding_equals_scikit_learns_infrequent_categories(
    answer: Answer, deal: Deal, stored: Stored, min_count: int
) -> None:
    pooled = table(missing=False)
    change = fitted(one_hot(min_count=min_count), answer, deal(pooled, (np.arange(200) % 7).tolist()), stored)
    theirs = encoder(
        "OneHotEncoder",
        pooled.arrays["texts"],
        min_frequency=min_count,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
    )
    names = theirs.get_feature_names_out(["sex", "job"]).tolist()
    expected = [name.replace("infrequent_sklearn", "other").replace("_", "=", 1) for name in names]
    assert "job=other" in expected
    assert change.schema(SCHEMA).columns == ("age", "code", *expected)
    assert np.array_equal(change.apply(pooled).arrays["features"][:, 2:], theirs.transform(pooled.arrays["texts"]))
    unknown = np.array([["f", "never seen"], ["x", "cook"]])
    ours = change.apply(ClientDataset({"features": np.zeros((2, 2)), "texts": unknown})).arrays["features"][:, 2:]
    assert np.array_equal(ours, theirs.transform(unknown))


def test_ordinal_equals_scikit_learn_on_the_pooled_rows(answer: Answer, deal: Deal, stored: Stored) -> None:
    pooled = table(missing=False)
    held = deal(pooled, (np.arange(200) % 3).tolist())
    change = fitted(ordinal(["sex", "job", "code"]), answer, held, stored)
    theirs = encoder("OrdinalEncoder", words(pooled), handle_unknown="use_encoded_value", unknown_value=99)
    assert change.schema(SCHEMA) == Schema(("age", "sex", "job", "code"), "label")
    after = change.apply(pooled).arrays["features"]
    assert np.array_equal(after[:, 1:], theirs.transform(words(pooled)))
    assert after[0, 0] == pooled.arrays["features"][0, 0]


def test_a_missing_value_is_all_zeros_or_minus_one_and_an_unknown_one_zeros_or_the_next_number(
    answer: Answer, stored: Stored
) -> None:
    hot = fitted(one_hot(["job", "code"]), answer, [table()], stored)
    numbered = fitted(ordinal(["job", "code"]), answer, [table()], stored)
    for job, code, number in (("", np.nan, (-1.0, -1.0)), ("pilot", 77.0, (5.0, 4.0))):
        zeros = hot.apply(row(job=job, code=code)).arrays["features"]
        assert zeros.tolist() == [[1.0, *[0.0] * 9]]
        assert numbered.apply(row(job=job, code=code)).arrays["features"].tolist() == [[1.0, *number]]


def test_rare_zero_gives_zeros_and_no_column(answer: Answer, stored: Stored) -> None:
    change = fitted(one_hot(["job"], min_count=25, rare="zero"), answer, [table()], stored)
    assert change.schema(SCHEMA).columns == ("age", "code", "job=clerk", "job=cook")
    for job in ("smith", "pilot", ""):
        assert change.apply(row(job=job)).arrays["features"].tolist() == [[1.0, 9.0, 0.0, 0.0]]


def test_a_category_called_other_takes_the_rare_ones_in(answer: Answer, stored: Stored) -> None:
    texts = np.array([["f", "other"]] * 5 + [["f", "cook"]] * 5 + [["f", "smith"]])
    data = ClientDataset({"features": np.zeros((11, 2)), "texts": texts}, {"train": slice(0, 11)})
    change = fitted(one_hot(["job"], min_count=3), answer, [data], stored)
    assert change.schema(SCHEMA).columns == ("age", "code", "job=cook", "job=other")
    assert change.apply(row(job="smith")).arrays["features"].tolist() == [[1.0, 9.0, 0.0, 1.0]]
    plain = fitted(one_hot(["job"], min_count=3, rare="zero"), answer, [data], stored)
    assert plain.apply(row(job="smith")).arrays["features"].tolist() == [[1.0, 9.0, 0.0, 0.0]]


def test_public_categories_are_not_asked_about_and_keep_their_order(answer: Answer, stored: Stored) -> None:
    known: Mapping[str, Sequence[str]] = {"job": ["smith", "cook", "other"], "code": ["9.0"]}
    for make in (one_hot, ordinal):
        query = make(["job", "code"], categories=known).query
        assert query.done(query.init(SCHEMA))
        asked = make(categories=known).query
        assert not asked.done(asked.init(SCHEMA)), "sex is asked about"
        assert asked.init(SCHEMA).asked == (0,)
    change = fitted(one_hot(categories=known), answer, [table()], stored)
    assert change.schema(SCHEMA).columns == (
        "age", "sex=f", "sex=m", "job=smith", "job=cook", "job=other", "code=9",
    )  # fmt: skip
    assert change.apply(row(job="pilot")).arrays["features"].tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]]


def test_columns_that_are_not_named_stay_text(answer: Answer, stored: Stored) -> None:
    change = fitted(one_hot(["job"]), answer, [table()], stored)
    assert change.schema(SCHEMA).texts == ("sex",)
    assert change.apply(row(sex="m")).arrays["texts"].tolist() == [["m"]]


def test_rows_are_as_in_the_run_whatever_stands_beside_them(answer: Answer, stored: Stored) -> None:
    data = table()
    for preparation in (one_hot(["job", "code"], min_count=12), ordinal(["job", "code"]), fold_rare(min_count=12)):
        change = fitted(preparation, answer, [data], stored)
        whole = change.apply(data).arrays
        alone = [change.apply(ClientDataset({name: array[n : n + 1] for name, array in data.arrays.items()})).arrays
                 for n in range(len(data))]  # fmt: skip
        for name, array in whole.items():
            joined = np.concatenate([each[name] for each in alone])
            assert np.array_equal(joined, array, equal_nan=array.dtype.kind == "f")
        empty = change.apply(ClientDataset({name: array[:0] for name, array in data.arrays.items()})).arrays
        assert {name: array.shape[1:] for name, array in empty.items()} == {n: a.shape[1:] for n, a in whole.items()}


@shared
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "ab", "b", "", "ü", "10", "9"]),
            st.sampled_from([1.0, 2.0, 10.0, float("nan")]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=25,
    ).filter(lambda rows: any(text for text, _, _ in rows) and any(np.isfinite(number) for _, number, _ in rows)),
    st.integers(1, 4),
)
def test_any_deal_of_the_rows_gives_the_same_answer(
    answer: Answer, deal: Deal, drawn: list[tuple[str, float, int]], min_count: int
) -> None:
    schema = Schema(("n",), texts=("t",))
    pooled = ClientDataset(
        {
            "features": np.array([[number] for _, number, _ in drawn]),
            "texts": np.array([[text] for text, _, _ in drawn]),
        },
        {"train": slice(0, len(drawn))},
    )
    for preparation in (one_hot(["n", "t"], min_count=min_count), ordinal(["n", "t"]), fold_rare(min_count=min_count)):
        whole = answer(preparation.query, schema, [pooled])
        assert answer(preparation.query, schema, deal(pooled, [client for _, _, client in drawn])) == whole
        width = preparation.transform(whole).apply(pooled).arrays["features"].shape[1]
        assert width == len(preparation.transform(whole).schema(schema).columns)


def test_rare_categories_get_one_name_and_the_column_stays_text(answer: Answer, deal: Deal, stored: Stored) -> None:
    data = table()
    jobs = data.arrays["texts"][:, 1]
    change = fitted(fold_rare(["job"], 15, into="rest"), answer, deal(data, (np.arange(200) % 4).tolist()), stored)
    common = {name for name in JOBS if (jobs == name).sum() >= 15}
    after = change.apply(data).arrays["texts"]
    expected = ["" if not job else job if job in common else "rest" for job in jobs.tolist()]
    assert "rest" in expected
    assert after[:, 1].tolist() == expected
    assert np.array_equal(after[:, 0], data.arrays["texts"][:, 0])
    assert change.schema(SCHEMA) == SCHEMA
    assert change.apply(row(job="never seen")).arrays["texts"].tolist() == [["f", "rest"]]


def test_reports_tell_what_was_folded_and_what_says_nothing(answer: Answer) -> None:
    texts = np.array([["f", "cook"]] * 9 + [["f", "smith"]])
    data = ClientDataset({"features": np.zeros((10, 2)), "texts": texts}, {"train": slice(0, 10)})
    preparation = one_hot(min_count=2)
    assert preparation.report(answer(preparation.query, SCHEMA, [data]), SCHEMA) == (
        "column `sex` has one category, `f`, in all training rows of all clients",
        "column `job`: 1 training rows have a rare category; 1 common ones",
    )


@pytest.mark.parametrize("make", [one_hot, ordinal])
def test_arguments_that_do_not_fit_are_refused_at_once(make: Callable[..., Any]) -> None:
    for arguments, match in [
        ({"min_count": 0}, f"{make.__name__}: min_count = 0"),
        ({"columns": ["sex"], "categories": {"job": ["a"]}}, "categories has `job`, which is not in columns"),
        ({"categories": {"job": []}}, "the categories of `job` are"),
        ({"categories": {"job": "ab"}}, "the categories of `job` are 'ab'"),
        ({"categories": {"job": ["1", "1.0"]}}, "expected different names"),
        ({"categories": {"job": [" "]}}, "expected different names that are not empty"),
    ]:
        with pytest.raises(ComponentError, match=match):
            make(**arguments)
    with pytest.raises(ComponentError, match="expected one of"):
        one_hot(rare="drop")  # type: ignore[arg-type]
    with pytest.raises(ComponentError, match="into = ' x'"):
        fold_rare(into=" x")


def test_columns_that_do_not_fit_are_an_error_before_round_1() -> None:
    with pytest.raises(DataError, match="one_hot: there is no column `z`"):
        one_hot(["z"]).query.init(SCHEMA)
    with pytest.raises(DataError, match="ordinal: there is no column `z`"):
        ordinal(categories={"z": ["a"]}).query.init(SCHEMA)
    with pytest.raises(DataError, match="fold_rare: column `age` holds numbers"):
        fold_rare(["age"]).query.init(SCHEMA)


def test_a_name_that_is_taken_is_an_error(answer: Answer) -> None:
    schema = Schema(("sex=f",), texts=("sex",))
    data = ClientDataset({"features": np.zeros((1, 1)), "texts": np.array([["f"]])}, {"train": slice(0, 1)})
    preparation = one_hot()
    with pytest.raises(DataError, match="there is a column `sex=f` already"):
        preparation.transform(answer(preparation.query, schema, [data])).schema(schema)


def test_rows_without_the_texts_are_an_error(answer: Answer, stored: Stored) -> None:
    change = fitted(one_hot(["job"]), answer, [table()], stored)
    with pytest.raises(DataError, match=r"the rows have no array `texts`; expected strings of shape \(rows, 2\)"):
        change.apply(ClientDataset({"features": np.zeros((1, 2))}))
    with pytest.raises(DataError, match="texts of shape"):
        change.apply(ClientDataset({"features": np.zeros((1, 2)), "texts": np.array([["f"]])}))
