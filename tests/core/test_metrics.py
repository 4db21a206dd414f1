"""Metrics merge like sums: in any grouping, and in any order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.metrics import Count, Histogram, Max, Mean, MetricSpec, merge
from fedloom.errors import Error

quick = settings(max_examples=100, derandomize=True, database=None, deadline=None)
whole = st.integers(-(2**40), 2**40).map(float)
KINDS: dict[str, Any] = {"loss": Mean, "rows": Count, "scores": 3}


def metric_sets(number: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, Any]]:
    each = {
        "loss": st.builds(Mean, number, number),
        "rows": st.builds(Count, number),
        "largest": st.builds(Max, number),
        "scores": st.lists(number, min_size=3, max_size=3).map(lambda counts: Histogram(np.array(counts))),
    }
    return st.fixed_dictionaries({}, optional=each)


def plain(metrics: Any) -> dict[str, Any]:
    return {name: m.counts.tolist() if isinstance(m, Histogram) else m for name, m in sorted(metrics.items())}


@quick
@given(metric_sets(whole), metric_sets(whole), metric_sets(whole))
def test_merge_is_associative_and_commutative_on_integers(a: Any, b: Any, c: Any) -> None:
    assert plain(merge(merge(a, b), c)) == plain(merge(a, merge(b, c)))
    assert plain(merge(a, b)) == plain(merge(b, a))


@quick
@given(metric_sets(whole))
def test_an_empty_set_changes_nothing_and_merge_writes_into_nothing(a: Any) -> None:
    before = plain(a)
    assert plain(merge(a, {})) == plain(merge({}, a)) == before
    merge(a, a)
    assert plain(a) == before


@quick
@given(
    st.lists(
        metric_sets(whole).map(lambda found: {k: v for k, v in found.items() if k != "largest"}), min_size=1, max_size=5
    )
)
def test_the_sum_of_vectors_is_the_merge_of_sets(sets: list[Any]) -> None:
    spec = MetricSpec(KINDS)
    summed = spec.unflatten(np.sum([spec.flatten(one) for one in sets], axis=0))
    zero = {"loss": Mean(0.0, 0.0), "rows": Count(0.0), "scores": Histogram(np.zeros(3))}
    merged: Any = zero
    for one in sets:
        merged = merge(merged, one)
    assert plain(summed) == plain(merged)
    assert spec.size == 6


def test_a_merge_is_of_all_rows_together() -> None:
    left = {
        "m": Mean(6.0, 4.0),
        "c": Count(3.0),
        "x": Max(2.0),
        "h": Histogram(np.array([1.0, 2.0])),
        "left": Count(1.0),
    }
    right = {"m": Mean(1.0, 2.0), "c": Count(4.0), "x": Max(-5.0), "h": Histogram(np.array([0.0, 5.0]))}
    expected = {"m": Mean(7.0, 6.0), "c": Count(7.0), "x": Max(2.0), "h": [1.0, 7.0], "left": Count(1.0)}
    assert plain(merge(left, right)) == plain(merge(right, left)) == expected


def test_values() -> None:
    assert (Mean(6.0, 4.0).value, Count(3.0).value, Max(2.0).value) == (1.5, 3.0, 2.0)
    assert math.isnan(Mean(0.0, 0.0).value)


@pytest.mark.parametrize(
    "metrics",
    [
        {"surprise": Count(1.0)},
        {"loss": Count(1.0)},
        {"rows": Mean(1.0, 1.0)},
        {"scores": Histogram(np.zeros(4))},
        {"loss": Max(1.0)},
    ],
)
def test_a_metric_that_was_not_declared_so_is_refused(metrics: Any) -> None:
    with pytest.raises(Error):
        MetricSpec(KINDS).flatten(metrics)


def test_metrics_of_two_kinds_do_not_merge() -> None:
    with pytest.raises(Error, match="does not merge"):
        merge({"a": Count(1.0)}, {"a": Max(1.0)})
