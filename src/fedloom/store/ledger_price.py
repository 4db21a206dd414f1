"""What releases cost together: addition of (epsilon, delta), or a filter over Renyi divergences.

Runs are chosen one after the other, each in the knowledge of what the ones before it released. Prices that are chosen
so do not compose by the theorems for prices fixed beforehand; both ways of adding here are sound for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedloom.privacy.renyi import epsilon_at

ORDERS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0, 16.0, 23.0, 32.0, 45.0, 64.0, 90.0, 128.0, 181.0, 256.0)
"""Renyi orders of a ledger: whole, as integer noise under Poisson sampling needs them. Between two of them, from 3 on,
lies a factor of at most sqrt(2), so the best order is missed by at most 2^(1/4), and epsilon by at most 2 %."""

SLACK = 1e-12
"""Relative excess over a budget that counts as none: decimal fractions add up to a little more than they say."""


@dataclass(frozen=True, slots=True)
class Price:
    """A guarantee as two numbers."""

    epsilon: float
    delta: float

    def __str__(self) -> str:
        """Return the price as a message shows it."""
        return f"epsilon {self.epsilon:.4g}, delta {self.delta:.3g}"


def added(prices: Iterable[Price]) -> Price:
    """Return the sum of prices, each rounded once.

    Source:
        Basic composition, sound for adaptively chosen prices: Rogers, Roth, Ullman, Vadhan 2016, arXiv:1605.08294;
        for runs that are interleaved: Haney et al. 2023, arXiv:2309.05901.

    Example:
        >>> added([Price(0.1, 1e-6)] * 10).epsilon
        1.0
    """
    all_prices = tuple(prices)
    return Price(math.fsum(each.epsilon for each in all_prices), math.fsum(each.delta for each in all_prices))


def added_curves(curves: Iterable[Sequence[float]], orders: Sequence[float]) -> tuple[float, ...]:
    """Return the sum of divergences at each order.

    Example:
        >>> added_curves([(0.5, 1.0), (0.25, 0.5)], (2.0, 4.0))
        (0.75, 1.5)
    """
    all_curves = tuple(curves)
    return tuple(math.fsum(curve[place] for curve in all_curves) for place in range(len(orders)))


def weights(orders: Sequence[float], budget: Price) -> tuple[float, ...]:
    """Return each order's share of delta: the largest for the order at which Gaussian noise would use the budget up.

    That order is ``1 + sqrt(L)/(sqrt(L + epsilon) - sqrt(L))`` with ``L = log(1/delta)``; the shares halve with each
    step of the list away from it. They follow from the budget alone, as the filter needs it.

    Example:
        >>> [round(share, 2) for share in weights((2.0, 3.0, 6.0, 12.0), Price(5.0, 1e-5))]
        [0.11, 0.22, 0.44, 0.22]
    """
    log_delta = -math.log(budget.delta)
    best = 0.0
    if math.isfinite(budget.epsilon) and log_delta > 0:
        best = math.log(math.sqrt(log_delta) / (math.sqrt(log_delta + budget.epsilon) - math.sqrt(log_delta)))
    distances = [abs(math.log(order - 1.0) - best) for order in orders]
    nearest = distances.index(min(distances))
    raw = [0.5 ** abs(place - nearest) for place in range(len(orders))]
    return tuple(share / math.fsum(raw) for share in raw)


def filtered(curve: Sequence[float], orders: Sequence[float], budget: Price) -> Price:
    """Return the guarantee, at the budget's delta, of releases whose divergences add up to ``curve``.

    ``epsilon = min over a of curve(a) + log((a - 1)/a) - (log(a) + log(delta w_a))/(a - 1)``, ``w`` the weights.

    Guarantee:
        For a neighbouring pair and an order ``a``, ``exp((a - 1)(loss - sum of divergences))`` is a supermartingale of
        mean at most 1 along the releases, and so is a weighted mean of these. Hence the order with the least epsilon
        may depend on what was released, if each has its share ``w_a`` of delta. The unit and adjacency are those of
        the divergences.

    Args:
        curve: Sum of the Renyi divergences, one per order; not negative, infinite where there is no bound.
        orders: All above 1, rising.
        budget: With a delta above 0.

    Source:
        The filter of Feldman and Zrnic 2021, arXiv:2008.11193, for one order fixed beforehand; conversion of
        ``privacy.renyi.epsilon_at``. Differs: the shares of delta, as that filter does not cover an order that is
        chosen afterwards.

    Example:
        >>> from fedloom.store.ledger_price import ORDERS
        >>> round(filtered([order / 2 for order in ORDERS], ORDERS, Price(5.0, 1e-5)).epsilon, 2)
        4.98
    """
    if not any(curve):
        return Price(0.0, 0.0)
    epsilons = (
        epsilon_at(divergence, order, delta=budget.delta * share)
        for divergence, order, share in zip(curve, orders, weights(orders, budget), strict=True)
    )
    return Price(min(epsilons), budget.delta)


def within(price: Price, budget: Price) -> bool:
    """Return whether a price is at most a budget, but for rounding.

    Example:
        >>> within(Price(0.1 + 0.2, 0.0), Price(0.3, 0.0)), within(Price(0.31, 0.0), Price(0.3, 0.0))
        (True, False)
    """
    return price.epsilon <= budget.epsilon * (1 + SLACK) and price.delta <= budget.delta * (1 + SLACK)
