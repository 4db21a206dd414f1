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
