"""Proven divergences against exact ones: sums over the integers, in one or two dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedloom.core.events import DiscreteGaussianDpEvent
from fedloom.privacy.proven import (
    discrete_gaussian_curve,
    fixed_size_rdp,
    gaussian_curve,
    laplace_curve,
    poisson_rdp,
    pure_curve,
    tau_dg,
    truncated_rdp,
)

ORDERS = (1.1, 1.5, 2, 3, 4, 8, 16, 32)


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("shift", [1, 3])
def test_one_draw_diverges_as_a_gaussian_at_whole_orders_and_less_between(
    independent: Any, sigma: float, shift: int
) -> None:
    log_p = independent.discrete_gaussian(sigma)[1]
    curve = discrete_gaussian_curve(DiscreteGaussianDpEvent(sigma, float(shift), 1))
    for order in ORDERS:
        exact = exact_divergence(sigma, shift, order)
        assert exact <= curve(order) * (1 + 1e-9)
        if float(order * shift).is_integer():
            assert exact == pytest.approx(curve(order), rel=1e-9)
    assert np.exp(log_p).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("draws", [2, 3, 5, 20])
def test_sums_of_draws_diverge_at_most_as_proven(independent: Any, sigma: float, draws: int) -> None:
    log_p = independent.sum_of_draws(sigma, draws)
    for shift in (1, 2, 5):
        curve = discrete_gaussian_curve(DiscreteGaussianDpEvent(sigma, float(shift), 1, draws))
        for order in ORDERS:
            if order * shift > 5 * sigma * math.sqrt(draws):
                continue  # the sum would lean on what lies outside the table
            exact = independent.renyi(log_p, shift=shift, order=order)
            assert exact <= curve(order) * (1 + 1e-9)
            if sigma >= 1:
                assert exact > 0.9 * curve(order)


@pytest.mark.parametrize(("sigma", "draws"), [(0.5, 2), (0.5, 20), (0.7, 3), (0.8, 5), (1.0, 2), (1.0, 20)])
def test_a_sum_of_draws_is_as_near_to_one_draw_as_tau_says(independent: Any, sigma: float, draws: int) -> None:
    log_p = independent.sum_of_draws(sigma, draws)
    far = len(log_p) // 2
    at = np.arange(-far, far + 1)
    log_q = -(at**2) / (2 * draws * sigma**2)
    log_q -= np.log(np.exp(log_q).sum())
    inside = np.abs(at) < 6 * sigma * math.sqrt(draws)
    assert independent.max_log_ratio(log_p[inside], log_q[inside]) <= tau_dg(sigma, draws) / 2


def test_in_two_dimensions_the_bound_holds_for_a_diagonal_shift(independent: Any) -> None:
    sigma, draws = 0.8, 4
    log_p = independent.sum_of_draws(sigma, draws)
    curve = discrete_gaussian_curve(DiscreteGaussianDpEvent(sigma, math.sqrt(2), 2, draws))
    for order in (2, 3, 4):
        assert 2 * independent.renyi(log_p, shift=1, order=order) <= curve(order)


def test_from_two_steps_on_sums_cost_what_one_gaussian_costs() -> None:
    event = DiscreteGaussianDpEvent(2.0, 3.0, 1000, 16)
    assert tau_dg(2.0, 16) < 1e-14
    assert discrete_gaussian_curve(event)(8.0) == pytest.approx(gaussian_curve(event.noise_multiplier)(8.0), rel=1e-9)


@pytest.mark.parametrize(("sigma", "draws"), [(1.0, 1), (2.5, 1), (0.8, 3)])
@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_samples_of_integer_noise_diverge_at_most_as_proven_in_both_directions(
    independent: Any, sigma: float, draws: int, rate: float
) -> None:
    curve = discrete_gaussian_curve(DiscreteGaussianDpEvent(sigma, 1.0, 1, draws))
    table = independent.discrete_gaussian(sigma)[1] if draws == 1 else independent.sum_of_draws(sigma, draws)
    out, moved = table[1:], table[:-1]
    with_ = np.logaddexp(math.log1p(-rate) + out, math.log(rate) + moved)
    for order in (2, 3, 5, 8):
        bound = poisson_rdp(order, rate=rate, curve=curve)
        there = np.log(np.exp(order * with_ + (1 - order) * out).sum()) / (order - 1)
        back = np.log(np.exp(order * out + (1 - order) * with_).sum()) / (order - 1)
        assert back <= there * (1 + 1e-9) <= bound * (1 + 2e-9)
        if draws == 1:
            assert there == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("others", [-1.0, 0.0, 1.0])
def test_samples_of_fixed_size_diverge_at_most_as_proven(others: float) -> None:
    # Three of six units are drawn; five others, and one that is +1 or -1: exact mixtures, integrated.
    noise, rate = 3.0, 0.5
    x = np.linspace(-40, 40, 20_001)

    def density(own: float) -> Any:
        parts = [(rate, own + 2 * others), (1 - rate, 3 * others)]
        return sum(weight * np.exp(-((x - mean) ** 2) / (2 * noise**2)) for weight, mean in parts)

    p, q = density(1.0), density(-1.0)
    p, q = p / p.sum(), q / q.sum()
    for order in (2, 3, 5):
        exact = math.log((p**order * q ** (1.0 - order)).sum()) / (order - 1)
        assert exact <= fixed_size_rdp(order, rate=rate, curve=gaussian_curve(noise / 2))


@pytest.mark.parametrize("others", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("most", [2, 4, 7])
@pytest.mark.parametrize("gone", [False, True])
def test_cut_samples_diverge_at_most_as_proven(others: float, most: int, gone: bool) -> None:
    rate, population, noise = 0.3, 10, 2.0
    x = np.linspace(-40, 40, 8001)

    def density(own: float, *, there: bool = True) -> Any:
        total = np.zeros_like(x)
        for drawn in range(population):
            chance = math.comb(population - 1, drawn) * rate**drawn * (1 - rate) ** (population - 1 - drawn)
            kept = rate * min(1.0, most / (drawn + 1)) if there else 0.0
            for weight, mean in (
                (1 - kept, others * min(drawn, most)),
                (kept, own + others * min(drawn, most - 1)),
            ):
                total += chance * weight * np.exp(-((x - mean) ** 2) / (2 * noise**2))
        return total / total.sum()

    p, q = density(1.0), density(0.0, there=not gone)
    for order in (2, 3, 5):
        bound = truncated_rdp(
            order,
            rate=rate,
            population=population,
            most=most,
            curve=gaussian_curve(noise),
            cut_curve=gaussian_curve(noise / 2 if gone else noise),
        )
        for upper, lower in ((p, q), (q, p)):
            exact = math.log(np.exp(order * np.log(upper) + (1 - order) * np.log(lower)).sum()) / (order - 1)
            assert exact <= bound * (1 + 1e-9)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("noise", [0.5, 1.0, 8.0])
def test_the_binomial_expansion_is_the_exact_divergence_of_a_sampled_gaussian(rate: float, noise: float) -> None:
    x = np.linspace(-15 * noise, 15 * noise + 40 / noise, 200_001)
    log_q = -(x**2) / (2 * noise**2)
    log_p = np.logaddexp(math.log1p(-rate) + log_q, math.log(rate) - (x - 1) ** 2 / (2 * noise**2))
    norm = noise * math.sqrt(2 * math.pi)
    for order in (2, 3, 6):
        exact = math.log(np.exp(order * log_p + (1 - order) * log_q).sum() * (x[1] - x[0]) / norm) / (order - 1)
        found = poisson_rdp(order, rate=rate, curve=gaussian_curve(noise))
        assert found == pytest.approx(exact, rel=1e-6, abs=1e-11)


@pytest.mark.parametrize("scale", [0.5, 2.0, 20.0])
def test_laplace_noise_diverges_as_the_formula_says(scale: float) -> None:
    x = np.linspace(-40 * scale, 40 * scale + 1, 400_001)
    p, q = np.exp(-np.abs(x - 1) / scale), np.exp(-np.abs(x) / scale)
    for order in (1.5, 2, 4):
        exact = math.log((p**order * q ** (1 - order)).sum() / q.sum()) / (order - 1)
        assert laplace_curve(scale)(order) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 30.0])
def test_pure_privacy_diverges_at_most_as_randomised_response(epsilon: float) -> None:
    yes, no = 1 / (1 + math.exp(-epsilon)), 1 / (1 + math.exp(epsilon))
    for order in (1.5, 2.0, 10.0):
        exact = math.log(yes**order * no ** (1 - order) + no**order * yes ** (1 - order)) / (order - 1)
        assert pure_curve(epsilon)(order) == pytest.approx(exact, rel=1e-9, abs=1e-15)
        assert pure_curve(epsilon)(order) <= min(epsilon, order * epsilon**2 / 2) * (1 + 1e-12)


def exact_divergence(sigma: float, shift: int, order: float) -> float:
    """Return the Renyi divergence of a discrete Gaussian moved by ``shift``, by a sum around its heaviest term."""
    middle = order * shift
    at = np.arange(math.floor(middle - 14 * sigma) - 2, math.ceil(middle + 14 * sigma) + 3)
    logs = (-order * (at - shift) ** 2 + (order - 1) * at**2) / (2 * sigma**2)
    zero = np.arange(-math.ceil(14 * sigma) - 2, math.ceil(14 * sigma) + 3)
    norm = math.log(np.exp(-(zero**2) / (2 * sigma**2)).sum())
    peak = logs.max()
    return float(peak + math.log(np.exp(logs - peak).sum()) - norm) / (order - 1)
