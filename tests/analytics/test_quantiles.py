"""Quantiles of all clients equal numpy's over the pooled rows, or lie within the bin that is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.analytics import quantiles
from fedloom.core.data import ClientDataset, Schema
from fedloom.errors import ComponentError, DataError

Answer = Callable[..., Any]
Deal = Callable[..., list[ClientDataset]]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
A = Schema(("a",))


def table(features: np.ndarray) -> ClientDataset:
    return ClientDataset({"features": features}, {"train": slice(0, len(features))})


@shared
@given(
    st.lists(st.tuples(st.floats(-1e300, 1e300), st.integers(0, 3)), min_size=1, max_size=20),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_they_are_numpys_on_the_pooled_rows(
    answer: Answer, deal: Deal, rows: list[tuple[float, int]], at: list[float]
) -> None:
    pooled = np.array([[value] for value, _ in rows])
    found = answer(quantiles(at), A, deal(table(pooled), [client for _, client in rows]))
    # Between two values of opposite sign the interpolated one is small, and rounding is that of the values.
    scale = float(np.abs(pooled).max())
    np.testing.assert_allclose(
        np.array(found.values)[:, 0], np.quantile(pooled[:, 0], at), rtol=1e-9, atol=1e-12 * scale
    )
    assert found.present == (float(len(rows)),)


@pytest.mark.parametrize("zooms", range(3, 12))
def test_the_pooled_quantile_lies_in_the_bin_and_each_zoom_makes_it_64_times_narrower(
    answer: Answer, deal: Deal, zooms: int
) -> None:
    draw = np.random.default_rng(5)
    pooled = np.column_stack(
        [draw.standard_normal(401), 1e6 + draw.random(401), draw.integers(-2, 3, 401), -draw.random(401)]
    )
    schema = Schema(tuple("abcd"))
    found = answer(quantiles([0.1, 0.5, 0.9], zooms=zooms), schema, deal(table(pooled), (np.arange(401) % 5).tolist()))
    true = np.quantile(pooled, [0.1, 0.5, 0.9], axis=0)
    values, widths = np.array(found.values), np.array(found.widths)
    assert (np.abs(values - true) <= widths / 2 + 1e-15 * np.abs(true)).all()
    assert (widths <= np.abs(values) * 2.0 ** -(6 * zooms - 12) * 1.01 + 1e-300).all()
    if zooms < 9:
        assert (widths[:, :2] > 0).all(), "fewer zooms do not tell single values"
    if zooms == 11:
        assert not widths.any()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_types_of_features_and_missing_values(answer: Answer, dtype: str) -> None:
    features = np.array([[3], [1], [2], [7]], dtype=dtype)
    held = [table(features[:1]), table(features[1:])]
    if dtype != "int64":
        held.append(table(np.full((3, 1), np.nan, dtype=dtype)))
    found = answer(quantiles([0.0, 0.5, 1.0]), A, held)
    assert np.array(found.values)[:, 0].tolist() == [1.0, 2.5, 7.0]
    assert (found.rows, found.present) == (float(sum(len(each) for each in held)), (4.0,))


def test_minus_zero_is_zero(answer: Answer) -> None:
    found = answer(quantiles([0.5]), A, [table(np.array([[-0.0], [0.0], [0.0]]))])
    assert found.values == ((0.0,),)


def test_states_are_saved_and_a_round_has_one_size(
    answer: Answer, restarted: Callable[..., None], same_layout: Callable[[Sequence[object]], None]
) -> None:
    seen: list[object] = []
    query = quantiles([0.5], ["b"], zooms=5)
    schema = Schema(("a", "b"))
    answer(query, schema, [table(np.random.default_rng(1).random((9, 2)))], seen=seen)
    assert len(seen) == 6
    same_layout(seen)
    restarted(query, schema, seen)
    assert query.parts(schema)["quantiles"].size == 1 + 128


def test_small_errors_of_a_sum_change_nothing(answer: Answer) -> None:
    held = [table(np.array([[1.5], [2.5]])), table(np.array([[9.0]]))]
    for noise in (1e-3, -1e-3):
        assert answer(quantiles([0.5]), A, held, noise=noise).values == ((2.5,),)


def test_a_client_that_is_lost_between_the_rounds_leaves_a_number_that_others_have() -> None:
    query = quantiles([1.0])
    state, answered = query.init(A), 0
    kept, lost = table(np.array([[1.0], [2.0]])), table(np.array([[2.0 + 2**-20], [2.0 + 2**-19]]))
    while not query.done(state):
        present = [kept, lost] if answered < 5 else [kept]
        parts = {"quantiles": sum(query.ask(state).read(each)["quantiles"] for each in present)}
        state = query.step(state, type("Total", (), {"__getitem__": lambda self, part, parts=parts: parts[part]})())
        answered += 1
    assert query.result(state).values[0][0] == pytest.approx(2.0, abs=2**-18)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"at": []}, "one share or more"), ({"at": [1.5]}, "each from 0 to 1"), ({"zooms": 12}, "expected 3 to 11")],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        quantiles(**arguments)


def test_infinite_quantiles_and_empty_columns_are_errors(answer: Answer) -> None:
    with pytest.raises(DataError, match="a quantile of `a` is not finite"):
        answer(quantiles([1.0]), A, [table(np.array([[1.0], [np.inf]]))])
    with pytest.raises(DataError, match="no client has a value in `a`"):
        answer(quantiles(), A, [table(np.array([[np.nan]]))])
