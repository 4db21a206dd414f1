from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.privacy.renyi import (
    ORDERS,
    added,
    delta_at,
    delta_of_curve,
    epsilon_at,
    epsilon_of_curve,
)


def gaussian(rho: float) -> tuple[float, ...]:
    return tuple(rho * order for order in ORDERS)


ZERO = gaussian(0.0)


@given(st.floats(1e-4, 20), st.sampled_from(ORDERS), st.floats(1e-12, 0.5), st.sampled_from(["improved", "classic"]))
def test_delta_undoes_epsilon(divergence: float, order: int, delta: float, conversion: str) -> None:
    epsilon = epsilon_at(divergence, order, delta=delta, conversion=conversion)  # type: ignore[arg-type]
    back = delta_at(divergence, order, epsilon=epsilon, conversion=conversion)  # type: ignore[arg-type]
    assert back == pytest.approx(delta, rel=1e-6) if epsilon > 0 else back <= delta * (1 + 1e-9)


@given(st.floats(1e-4, 20), st.sampled_from(ORDERS), st.floats(1e-12, 0.5))
def test_the_improved_conversion_is_never_worse(divergence: float, order: int, delta: float) -> None:
    improved = epsilon_at(divergence, order, delta=delta)
    assert improved <= epsilon_at(divergence, order, delta=delta, conversion="classic")


def test_no_divergence_costs_nothing_and_an_infinite_one_everything() -> None:
    assert epsilon_of_curve(ZERO, ORDERS, delta=0.0) == 0.0
    assert epsilon_of_curve(gaussian(0.1), ORDERS, delta=0.0) == math.inf
    assert epsilon_of_curve([math.inf] * len(ORDERS), ORDERS, delta=1e-5) == math.inf
    assert delta_of_curve([math.inf] * len(ORDERS), ORDERS, epsilon=9.0) == 1.0


def test_curves_add_order_by_order() -> None:
    assert added(gaussian(0.1), gaussian(0.2)) == pytest.approx(gaussian(0.3))
