"""Output perturbation: what one row moves the trained model by, and the noise that covers it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression

from fedloom.core.events import DiscreteGaussianDpEvent
from fedloom.core.keys import Key
from fedloom.entropy.secret import Secret, derived_secret
from fedloom.errors import ComponentError, DataError
from fedloom.privacy import output_perturbation
from fedloom.privacy.output_perturbation import OutputPerturbation

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
NEXT_TO_NONE = 1e-6


def secret(number: int = 1) -> Secret:
    return derived_secret(Key.from_seed(number))


def drawn(count: int, columns: int = 3, seed: int = 0) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((count, columns))
    return features, (features[:, 0] + draw.standard_normal(count) > 0).astype(np.int64)


def test_without_noise_it_is_the_regularised_optimum() -> None:
    features, labels = drawn(200)
    exact = LogisticRegression(C=1 / (0.05 * 200), fit_intercept=False, tol=1e-10, max_iter=1000)
    exact.fit(np.column_stack([features, np.ones(200)]), labels)
    made = OutputPerturbation(norm=100.0, l2=0.05, rows=200, noise_multiplier=NEXT_TO_NONE)
    tolerance = made.minimum_moves / 256 + made.bound * 1e-5
    assert np.linalg.norm(made.release(features, labels, secret=secret()) - exact.coef_[0]) <= tolerance


@quick
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 30),
    l2=st.sampled_from([1e-3, 0.1, 10.0]),
    norm=st.sampled_from([0.1, 1.0, 5.0]),
    scale=st.sampled_from([0.0, 1.0, 1e4, 1e200]),
)
def test_a_row_more_moves_the_trained_model_by_at_most_the_bound(
    seed: int, count: int, l2: float, norm: float, scale: float
) -> None:
    features, labels = drawn(count + 1, seed=seed)
    features[-1] *= scale
    made = OutputPerturbation(norm=norm, l2=l2, rows=max(count, 5), noise_multiplier=1.0)
    aim = made.minimum_moves * l2 / 256
    models = []
    for rows in (count, count + 1):
        ball = output_perturbation._in_ball(features[:rows], norm)
        assert (np.linalg.norm(ball, axis=1) <= norm).all()
        signed = ball * np.where(labels[:rows] > 0, 1.0, -1.0)[:, None]
        models.append(output_perturbation._minimum(signed, l2=l2, rows=made.rows, gradient=aim))
    assert np.linalg.norm(models[1] - models[0]) <= made.bound


def test_one_row_alone_moves_the_model_by_nearly_half_the_bound() -> None:
    """Its pull at zero is half of its length; so the bound is no large factor away from what happens."""
    made = OutputPerturbation(norm=1.0, l2=1.0, rows=50, noise_multiplier=1.0)
    move = output_perturbation._minimum(np.array([[0.6, 0.8]]), l2=1.0, rows=50, gradient=1e-12)
    assert 0.45 * made.minimum_moves < np.linalg.norm(move) <= 0.5 * made.minimum_moves


def test_the_noise_is_that_of_the_event_and_lies_on_the_grid() -> None:
    features, labels = drawn(50, columns=299)
    made = OutputPerturbation(norm=3.0, l2=0.1, rows=50, noise_multiplier=1.3)
    event = made.event(300)
    assert isinstance(event, DiscreteGaussianDpEvent)
    assert event.noise_multiplier >= 1.3
    step = made.bound / 2 ** made.grid(300).bits
    one, two = (made.release(features, labels, secret=secret(number)) / step for number in (1, 2))
    assert np.allclose(one, np.rint(one), atol=1e-6)
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], 300)  # false alarms: 1e-4
    assert low < float(((one - two) ** 2).sum()) / (2 * event.sigma**2) < high


def test_the_denominator_is_the_declared_number() -> None:
    features, labels = drawn(40)
    some = OutputPerturbation(norm=2.0, l2=0.1, rows=80, noise_multiplier=NEXT_TO_NONE)
    twice = OutputPerturbation(norm=2.0, l2=0.2, rows=40, noise_multiplier=NEXT_TO_NONE)
    left, right = (made.release(features, labels, secret=secret()) for made in (some, twice))
    assert np.allclose(left, right, atol=2 * some.bound / 100)


def test_no_rows_are_noise_alone_and_rows_that_are_not_finite_are_left_out() -> None:
    made = OutputPerturbation(norm=2.0, l2=0.1, rows=10, noise_multiplier=1.0)
    none = made.release(np.empty((0, 3)), np.empty(0), secret=secret())
    bad = made.release(np.array([[np.nan, 0, 0], [np.inf, 1, 1]]), np.array([0, 1]), secret=secret())
    assert np.array_equal(none, bad)
    assert none.any()


@pytest.mark.parametrize("wrong", [{"norm": 0.0}, {"l2": 0.0}, {"noise_multiplier": float("inf")}, {"rows": 0}])
def test_a_number_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"norm": 1.0, "l2": 0.1, "rows": 10, "noise_multiplier": 1.0} | wrong
    with pytest.raises(ComponentError, match=next(iter(wrong))):
        OutputPerturbation(**given)


def test_labels_of_more_than_two_classes_are_refused() -> None:
    made = OutputPerturbation(norm=2.0, l2=0.1, rows=10, noise_multiplier=1.0)
    with pytest.raises(DataError, match="0 or 1"):
        made.release(np.zeros((3, 2)), np.array([0, 1, 2]), secret=secret())
