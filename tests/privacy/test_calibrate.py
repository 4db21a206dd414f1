from __future__ import annotations

import math
from typing import Any

import pytest

from fedloom.core.events import (
    ComposedDpEvent,
    DiscreteGaussianDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from fedloom.errors import ComponentError, PlanError
from fedloom.privacy.accountants import epsilon
from fedloom.privacy.calibrate import TOLERANCE, epsilon_by_round, gaussian_rounds, noise_for, rounds_for


@pytest.mark.parametrize(("target", "delta", "rounds"), [(1.0, 1e-5, 1), (0.1, 1e-6, 10), (8.0, 1e-5, 100)])
def test_the_noise_for_plain_rounds_is_that_of_the_closed_form(
    independent: Any, target: float, delta: float, rounds: int
) -> None:
    noise = noise_for(gaussian_rounds(rounds), epsilon=target, delta=delta, adjacency="zero_out")
    assert independent.analytic_epsilon(math.sqrt(rounds) / noise, delta) <= target * (1 + 1e-9)
    less = noise / (1 + TOLERANCE)
    assert independent.analytic_epsilon(math.sqrt(rounds) / less, delta) >= target * (1 - 1e-9)


@pytest.mark.parametrize(
    ("rate", "rounds", "target", "adjacency"),
    [(0.1, 100, 2.0, "zero_out"), (0.01, 1000, 1.0, "add_remove"), (0.1, 100, 8.0, "replace_one")],
)
def test_the_noise_for_sampled_rounds_fits_and_hardly_less_does(
    rate: float, rounds: int, target: float, adjacency: Any
) -> None:
    event_of = gaussian_rounds(rounds, rate=rate)
    noise = noise_for(event_of, epsilon=target, delta=1e-5, adjacency=adjacency)
    assert epsilon(event_of(noise), delta=1e-5, adjacency=adjacency) <= target
    # Twice the tolerance: the cost wobbles by about 1e-5 with the grid of losses.
    assert epsilon(event_of(noise / (1 + 2 * TOLERANCE)), delta=1e-5, adjacency=adjacency) > target


def test_integer_noise_is_calibrated_by_its_own_event() -> None:
    def event_of(noise: float) -> SelfComposedDpEvent:
        drawn = DiscreteGaussianDpEvent(float(math.ceil(noise * 1000.0)), 1000.0, 10**5)
        return SelfComposedDpEvent(PoissonSampledDpEvent(0.1, drawn), 50)

    noise = noise_for(event_of, epsilon=3.0, delta=1e-5, adjacency="zero_out")
    assert epsilon(event_of(noise), delta=1e-5, adjacency="zero_out") <= 3.0
    assert epsilon(event_of(noise - 0.002), delta=1e-5, adjacency="zero_out") > 3.0


def test_laplace_noise_is_calibrated_at_delta_zero() -> None:
    noise = noise_for(
        lambda scale: SelfComposedDpEvent(LaplaceDpEvent(scale), 4), epsilon=2.0, delta=0.0, adjacency="zero_out"
    )
    assert 2.0 <= noise <= 2.0 * (1 + TOLERANCE)


def test_a_target_that_another_release_has_spent_is_out_of_reach() -> None:
    spent = GaussianDpEvent(0.5)
    with pytest.raises(PlanError, match="out of reach"):
        noise_for(
            lambda noise: ComposedDpEvent((spent, GaussianDpEvent(noise))),
            epsilon=1.0,
            delta=1e-5,
            adjacency="zero_out",
        )
    with pytest.raises(PlanError, match="out of reach"):
        noise_for(lambda _: NonPrivateDpEvent(), epsilon=1.0, delta=1e-5, adjacency="zero_out")


@pytest.mark.parametrize(
    ("event", "target"),
    [(GaussianDpEvent(10.0), 2.0), (PoissonSampledDpEvent(0.05, GaussianDpEvent(1.5)), 2.0)],
    ids=str,
)
def test_one_round_more_than_fits_would_not_fit(event: Any, target: float) -> None:
    rounds = rounds_for(event, epsilon=target, delta=1e-5, adjacency="zero_out")
    costs = epsilon_by_round(event, (rounds, rounds + 1), delta=1e-5, adjacency="zero_out")
    assert costs[0] <= target < costs[1]


def test_a_round_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"one round costs epsilon 4\.377"):
        rounds_for(GaussianDpEvent(1.0), epsilon=1.0, delta=1e-5, adjacency="zero_out")


def test_epsilon_grows_by_round() -> None:
    spent = epsilon_by_round(
        PoissonSampledDpEvent(0.05, GaussianDpEvent(2.0)), (1, 2, 5, 10, 50), delta=1e-5, adjacency="zero_out"
    )
    assert list(spent) == sorted(spent)
    assert spent[0] > 0


@pytest.mark.parametrize(
    ("target", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 1.0), (1.0, math.nan)]
)
def test_targets_out_of_range_are_refused(target: float, delta: float) -> None:
    with pytest.raises(ComponentError, match="expected a number"):
        noise_for(gaussian_rounds(10), epsilon=target, delta=delta, adjacency="zero_out")
    with pytest.raises(ComponentError, match="expected a number"):
        rounds_for(GaussianDpEvent(1.0), epsilon=target, delta=delta, adjacency="zero_out")


def test_gaussian_noise_has_no_pure_target() -> None:
    with pytest.raises(PlanError, match="out of reach"):
        noise_for(gaussian_rounds(1), epsilon=1.0, delta=0.0, adjacency="zero_out")
