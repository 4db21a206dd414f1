"""Moments of all clients equal those of their pooled rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloom.analytics import moments
from fedloom.core.data import ClientDataset, Schema
from fedloom.errors import DataError

Answer = Callable[..., Any]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1e3, 1e3, width=32))
ABC = Schema(("a", "b", "c"), "label")


def client(features: np.ndarray, train: int | None = None) -> ClientDataset:
    return ClientDataset({"features": features}, {"train": slice(0, len(features) if train is None else train)})


@shared
@given(st.lists(tables, min_size=1, max_size=4))
def test_they_equal_the_moments_of_the_pooled_rows(answer: Answer, rows: list[np.ndarray]) -> None:
    result = answer(moments(), ABC, [client(each) for each in rows])
    pooled = np.concatenate(rows)
    assert result.count == len(pooled)
    np.testing.assert_allclose(result.mean, pooled.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(result.variance, pooled.var(axis=0), rtol=1e-9, atol=1e-9)


@shared
@given(tables, st.integers(0, 29))
def test_it_does_not_matter_who_holds_which_rows(answer: Answer, rows: np.ndarray, cut: int) -> None:
    one = answer(moments(), ABC, [client(rows)])
    two = answer(moments(), ABC, [client(rows[:cut]), client(rows[cut:])])
    np.testing.assert_allclose(one.mean, two.mean, atol=1e-9)
    np.testing.assert_allclose(one.variance, two.variance, rtol=1e-9, atol=1e-9)


def test_they_end_after_two_rounds_and_states_keep_their_layout(
    answer: Answer, same_layout: Callable[..., None]
) -> None:
    seen: list[object] = []
    answer(moments(), ABC, [client(np.ones((2, 3)))], seen=seen)
    assert len(seen) == 3
    same_layout(seen)


def test_only_training_rows_are_read(answer: Answer) -> None:
    features = np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0], [100.0, np.nan, np.inf]])
    result = answer(moments(), ABC, [client(features, train=2)])
    assert (result.count, result.mean, result.variance) == (2.0, (2.0,) * 3, (1.0,) * 3)


def test_float32_features_are_summed_in_float64(answer: Answer) -> None:
    features = np.full((20_000, 3), 0.1, dtype=np.float32)
    result = answer(moments(), ABC, [client(features)])
    np.testing.assert_allclose(result.mean, float(np.float32(0.1)), rtol=1e-15)


def test_a_client_that_is_lost_between_the_rounds_leaves_the_others_variance() -> None:
    query, kept, lost = moments(), client(np.array([[0.0], [2.0]])), client(np.array([[31.0]]))
    schema = Schema(("a",))
    state = query.init(schema)
    for present in ([kept, lost], [kept]):
        parts = {"moments": sum(query.ask(state).read(each)["moments"] for each in present)}
        state = query.step(state, type("Total", (), {"__getitem__": lambda self, part, parts=parts: parts[part]})())
    result = query.result(state)
    assert (result.count, result.mean, result.variance) == (2.0, (1.0,), (pytest.approx(1.0),))


def test_the_answer_is_plain_numbers(answer: Answer) -> None:
    result = answer(moments(), ABC, [client(np.ones((2, 3)))])
    assert {type(value) for value in (*result.mean, *result.variance, result.count)} == {float}


def test_no_training_rows_at_all_is_an_error(answer: Answer) -> None:
    with pytest.raises(DataError, match="0 training rows in all clients together"):
        answer(moments(), ABC, [client(np.ones((2, 3)), train=0)])


def test_a_sum_that_is_not_finite_is_an_error_with_its_column(answer: Answer) -> None:
    with pytest.raises(DataError, match=r"1 columns sum to no finite number \(the first is column 1 from 0"):
        answer(moments(), ABC, [client(np.array([[1.0, np.nan, 2.0]]))])


def test_another_number_of_columns_is_an_error(answer: Answer) -> None:
    with pytest.raises(DataError, match=r"shape \(2, 2\); expected \(rows, 3\)"):
        answer(moments(), ABC, [client(np.ones((2, 2)))])
