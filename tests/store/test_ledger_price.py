from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.store.ledger_price import ORDERS, Price, added, added_curves, filtered, weights, within


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the exact delta of Gaussian noise of multiplier 1/mu (Balle and Wang 2018, Theorem 8)."""

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


def gaussian_curve(rho: float) -> tuple[float, ...]:
    return tuple(rho * order for order in ORDERS)


def classic(rho: float, delta: float) -> float:
    """Return the classic conversion at the best of all orders, whole or not."""
    return rho + 2.0 * math.sqrt(rho * -math.log(delta))


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 8.0, 30.0])
def test_gaussian_noise_at_its_budget_costs_more_than_it_must_and_less_than_by_the_classic_conversion(
    epsilon: float, delta: float
) -> None:
    rho = (math.sqrt(epsilon - math.log(delta)) - math.sqrt(-math.log(delta))) ** 2
    found = filtered(gaussian_curve(rho), ORDERS, Price(epsilon, delta)).epsilon
    assert gaussian_delta(found, math.sqrt(2.0 * rho)) < delta
    assert found <= classic(rho, delta) * (1.0 if epsilon < 30 else 1.05)


@given(rho=st.floats(1e-8, 50.0), epsilon=st.floats(0.05, 50.0), delta=st.floats(1e-12, 0.1))
def test_what_is_returned_holds_wherever_the_budget_stands(rho: float, epsilon: float, delta: float) -> None:
    found = filtered(gaussian_curve(rho), ORDERS, Price(epsilon, delta))
    assert found.delta == delta
    assert gaussian_delta(found.epsilon, math.sqrt(2.0 * rho)) <= delta


@given(st.floats(0.001, 1e4), st.floats(1e-15, 0.99))
def test_the_orders_share_all_of_delta(epsilon: float, delta: float) -> None:
    shares = weights(ORDERS, Price(epsilon, delta))
    assert all(share > 0 for share in shares)
    assert math.fsum(shares) <= 1 + 1e-15


def coin_curve(epsilon: float) -> tuple[float, ...]:
    """Return the divergences of one bit told truly with probability e^epsilon/(1 + e^epsilon)."""
    true, false = 1 / (1 + math.exp(-epsilon)), 1 / (1 + math.exp(epsilon))
    return tuple(
        (order * epsilon + math.log(false + true * math.exp(-2 * order * epsilon))) / (order - 1) for order in ORDERS
    )


def coin_delta(epsilon: float, told: float) -> float:
    """Return the exact delta of such a bit."""
    true, false = 1 / (1 + math.exp(-told)), 1 / (1 + math.exp(told))
    return true * max(0.0, -math.expm1(epsilon - told)) + false * max(0.0, -math.expm1(epsilon + told))


def test_a_second_release_chosen_by_the_first_stays_within_delta() -> None:
    """Gaussian noise, and then what is worst for the outcome it gave: Gaussian noise again, or a bit."""
    budget, first = Price(3.0, 1e-4), 0.1
    start, tried = gaussian_curve(first), [0.01 * step for step in range(1, 300)]

    def fits(second: tuple[float, ...]) -> bool:
        return within(filtered(added_curves([start, second], ORDERS), ORDERS, budget), budget)

    noise = max(nu for nu in tried if fits(gaussian_curve(nu * nu / 2)))
    bit = max(told for told in tried if fits(coin_curve(told)))
    assert 0.2 < noise < 1.2 and 0.5 < bit < 2.9, "the budget is what bounds the second release"
    total, cells, width, mu = 0.0, 4000, 16.0, math.sqrt(2 * first)
    for cell in range(cells):
        z = -width / 2 + (cell + 0.5) * width / cells
        missing = budget.epsilon - (mu * mu / 2 + mu * z)
        worst = max(gaussian_delta(missing, noise), coin_delta(missing, bit))
        total += worst * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * width / cells
    assert 0.0 < total <= budget.delta


def test_an_infinite_divergence_leaves_the_orders_below_it() -> None:
    curve = [order * 0.01 if order < 8 else math.inf for order in ORDERS]
    budget = Price(2.0, 1e-5)
    whole = filtered(gaussian_curve(0.01), ORDERS, budget).epsilon
    assert whole < filtered(curve, ORDERS, budget).epsilon < 6.0
    assert math.isinf(filtered([math.inf] * len(ORDERS), ORDERS, budget).epsilon)


def test_nothing_released_costs_nothing() -> None:
    assert filtered([0.0] * len(ORDERS), ORDERS, Price(1.0, 1e-5)) == Price(0.0, 0.0)
    assert added([]) == Price(0.0, 0.0)
    assert added_curves([], ORDERS) == (0.0,) * len(ORDERS)


def test_decimal_fractions_add_up_to_what_they_say() -> None:
    assert within(added([Price(0.1, 0.0)] * 3), Price(0.3, 0.0))
    assert not within(added([Price(0.1, 0.0)] * 3 + [Price(1e-9, 0.0)]), Price(0.3, 0.0))
    assert within(Price(5.0, 0.5), Price(math.inf, 0.5))
    assert not within(Price(math.inf, 0.0), Price(1e300, 0.5))
