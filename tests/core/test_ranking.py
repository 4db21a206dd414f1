"""Ranking measures: exact against scikit-learn, and close to exact from merged histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fedloom.core.keys import Key
from fedloom.core.ranking import (
    BINS,
    auroc,
    auroc_of_counts,
    average_precision,
    average_precision_of_counts,
    rankings,
    score_histogram,
)

quick = settings(max_examples=80, derandomize=True, database=None, deadline=None)
rows = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40).filter(
    lambda each: len({positive for _, positive in each}) == 2
)


@quick
@given(rows, st.floats(0.1, 3))
def test_exact_figures_are_those_of_sklearn_ties_included(each: list[tuple[int, bool]], factor: float) -> None:
    logits = np.array([score * factor for score, _ in each])
    positive = np.array([flag for _, flag in each])
    assert auroc(logits, positive) == pytest.approx(roc_auc_score(positive, logits), abs=1e-12)
    assert average_precision(logits, positive) == pytest.approx(average_precision_score(positive, logits), abs=1e-12)


@quick
@given(st.integers(0, 2**32), st.floats(0.2, 30), st.floats(0.05, 0.95), st.floats(-2, 3))
def test_histograms_are_within_half_a_percent_of_exact(seed: int, scale: float, share: float, gap: float) -> None:
    draw = Key.from_seed(seed).generator()
    positive = draw.random(600) < share
    positive[:2] = True, False
    logits = scale * (draw.standard_normal(600) + gap * positive)
    counts = score_histogram(logits, positive)
    exact = auroc(logits, positive)
    assert exact is not None
    assert auroc_of_counts(counts) == pytest.approx(exact, abs=0.005)


@quick
@given(rows, st.integers(0, 40))
def test_histograms_of_two_parts_add_up_to_that_of_the_whole(each: list[tuple[int, bool]], cut: int) -> None:
    logits = np.array([float(score) for score, _ in each])
    positive = np.array([flag for _, flag in each])
    parts = [score_histogram(logits[side], positive[side]) for side in (slice(0, cut), slice(cut, None))]
    whole = score_histogram(logits, positive)
    assert (parts[0] + parts[1]).tolist() == whole.tolist()
    assert whole.sum() == len(each)
    assert auroc_of_counts(whole) == pytest.approx(auroc(logits, positive), abs=1e-12), (
        "integers have bins of their own"
    )
    assert average_precision_of_counts(whole) == pytest.approx(average_precision(logits, positive), abs=1e-12)


def test_without_a_class_there_is_no_figure() -> None:
    scores = np.array([0.5, 1.0])
    for positive in (np.array([True, True]), np.array([False, False])):
        assert auroc(scores, positive) is None
    assert average_precision(scores, np.array([False, False])) is None
    assert average_precision(scores, np.array([True, True])) == 1.0
    assert auroc(np.empty(0), np.empty(0, bool)) is None
    assert auroc_of_counts(np.zeros(2 * BINS)) is None


def test_infinite_and_huge_logits_lie_in_the_outer_bins() -> None:
    counts = score_histogram(np.array([-np.inf, -1e300, 1e300, np.inf]), np.array([False, False, True, True]))
    assert (counts[0], counts[-1]) == (2, 2)
    assert auroc_of_counts(counts) == 1.0


@quick
@given(st.lists(rows, min_size=1, max_size=6), st.floats(0.1, 3))
def test_the_figures_of_many_clients_at_once_are_those_of_each_alone(
    clients: list[list[tuple[int, bool]]], factor: float
) -> None:
    scores = [np.array([score * factor for score, _ in each]) for each in clients]
    positive = [np.array([flag for _, flag in each]) for each in clients]
    positive[0][:] = True  # a client of one class beside the others
    starts = np.cumsum([0, *map(len, scores)])[:-1]
    found = rankings(np.concatenate(scores), np.concatenate(positive), starts)
    for place, (own, flags) in enumerate(zip(scores, positive, strict=True)):
        area, precision = auroc(own, flags), average_precision(own, flags)
        assert precision is not None
        assert np.isnan(found.auroc[place]) if area is None else found.auroc[place] == area
        assert found.average_precision[place] == pytest.approx(precision, abs=1e-14)
        alone = rankings(own, flags, np.array([0]))
        assert alone.average_precision.tobytes() == found.average_precision[place : place + 1].tobytes()


@quick
@given(st.permutations(range(5)))
def test_histograms_merge_in_any_order_to_the_same_bytes(order: list[int]) -> None:
    draw = Key.from_seed(4).generator()
    parts = [score_histogram(draw.standard_normal(30 + place), draw.random(30 + place) < 0.4) for place in range(5)]
    merged = np.zeros(2 * BINS)
    for place in order:
        merged = merged + parts[place]
    assert merged.tobytes() == np.sum(parts, axis=0).tobytes()
