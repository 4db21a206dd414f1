"""Resampled figures against closed forms and scikit-learn; intervals that hold what they claim."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedloom.core.keys import Key
from fedloom.engines.bootstrap import (
    RESAMPLES,
    Interval,
    auroc_score,
    interval,
    mean_score,
    resample,
    root_mean_score,
)

DRAW = Key.from_seed(5).generator()
TRUE = DRAW.random(60) < 0.4
SCORES = np.round(DRAW.standard_normal(60) + TRUE, 1)  # with ties


def test_rows_drawn_once_each_give_the_exact_figures() -> None:
    once = np.ones((1, 60))
    assert auroc_score(SCORES, TRUE)(once)[0] == pytest.approx(roc_auc_score(TRUE, SCORES), abs=1e-12)
    assert mean_score(SCORES)(once)[0] == pytest.approx(SCORES.mean(), abs=1e-12)
    assert root_mean_score(SCORES**2)(once)[0] == pytest.approx(np.sqrt((SCORES**2).mean()), abs=1e-12)


def test_rows_drawn_twice_count_twice() -> None:
    drawn = DRAW.multinomial(60, np.full(60, 1 / 60), size=3).astype(np.float64)
    for times, area in zip(drawn.astype(int), auroc_score(SCORES, TRUE)(drawn), strict=True):
        assert area == pytest.approx(roc_auc_score(np.repeat(TRUE, times), np.repeat(SCORES, times)), abs=1e-12)


def test_resamples_are_paired_seeded_and_of_the_right_spread() -> None:
    terms = DRAW.standard_normal(400)
    scores = {"a": mean_score(terms), "b": mean_score(terms + 1.0)}
    found = resample(scores, 400, Key.from_seed(1))
    np.testing.assert_allclose(found["b"] - found["a"], 1.0, atol=1e-12)
    assert found["a"].shape == (RESAMPLES,)
    # The standard error of a mean is std / sqrt(n); that of a standard deviation of 2,000 draws is 1.6 %: 7 of them.
    assert found["a"].std() == pytest.approx(terms.std() / 20, rel=0.11)
    assert found["a"].tobytes() == resample(scores, 400, Key.from_seed(1))["a"].tobytes()
    assert found["a"].tobytes() != resample(scores, 400, Key.from_seed(2))["a"].tobytes()


def test_an_interval_of_a_mean_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for trial in range(200):
        terms = Key.from_seed(9).child("trial", trial).generator().standard_normal(80)
        within = interval(resample({"mean": mean_score(terms)}, 80, Key.from_seed(trial))["mean"])
        assert within is not None
        held += within.low <= 0.0 <= within.high
    # Binomial(200, 0.94): below 178 or above 199 less than once in 500 seeds; the seeds are fixed.
    assert 178 <= held <= 199


def test_too_few_resamples_with_a_value_are_no_interval() -> None:
    assert interval(np.full(10, np.nan)) is None
    assert interval(np.append(np.zeros(80), np.full(20, np.nan))) is None
    assert interval(np.append(np.zeros(95), np.full(5, np.nan))) == Interval(low=0.0, high=0.0)
