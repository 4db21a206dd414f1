"""Accountants: what a privacy event costs, by the least of the ways that are proven, or by the one that is asked for.

dp_accounting is imported here and in ``loss_distributions``, inside functions: it costs a second.

Noise multipliers are noise over CLIP: over the bound of one contribution. What two neighbours differ by (the clip, or
twice the clip under replace-one) is applied here, in each accountant's own convention.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from fedloom.core.events import (
    ComposedDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.errors import PlanError
from fedloom.privacy.analytic import (
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    gaussian_multiplier,
    pure_epsilon,
    pure_leaf,
    reach_of,
)
from fedloom.privacy.guarantee import Adjacency, Method, Way, check_target
from fedloom.privacy.leaves import Leaf, Leaves, Noise, leaves, noises
from fedloom.privacy.loss_distributions import Pld, composed_losses
from fedloom.privacy.proven import (
    Curve,
    discrete_gaussian_curve,
    fixed_size_rdp,
    gaussian_curve,
    laplace_curve,
    poisson_rdp,
    pure_curve,
    truncated_rdp,
)
from fedloom.privacy.renyi import FINE_ORDERS, ORDERS, Conversion, added, delta_of_curve, epsilon_of_curve
from fedloom.privacy.rewrites import gaussian_limit

_LEAST_SERIES_NOISE = 0.25
"""Below it the series for broken orders converge slowly or not at all, and epsilon is in the hundreds."""


@dataclass(frozen=True, slots=True)
class Price:
    """A figure, and the way it came about."""

    value: float
    way: Way


def epsilon(
    event: DpEvent,
    *,
    delta: float,
    adjacency: Adjacency,
    method: Method = "best",
    conversion: Conversion = "improved",
) -> float:
    """Return the epsilon of an event at a delta; infinite where nothing protects it.

    Args:
        event: Everything that is released.
        delta: From 0 to below 1. At 0 only Laplace noise has a finite epsilon.
        adjacency: What differs between two neighbours.
        method: See ``Method``. "best" is the least of the proven figures.
        conversion: From Renyi divergences, where they are used.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When the method cannot price the event; says which can.

    Example:
        >>> round(epsilon(GaussianDpEvent(1.0), delta=1e-5, adjacency="zero_out"), 4)
        4.3772
    """
    return price_epsilon(event, delta=delta, adjacency=adjacency, method=method, conversion=conversion).value


def delta_of(
    event: DpEvent,
    *,
    epsilon: float,
    adjacency: Adjacency,
    method: Method = "best",
    conversion: Conversion = "improved",
) -> float:
    """Return the delta of an event at an epsilon; 1 where nothing protects it.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When the method cannot price the event; says which can.
    """
    return price_delta(event, epsilon=epsilon, adjacency=adjacency, method=method, conversion=conversion).value


def price_epsilon(
    event: DpEvent,
    *,
    delta: float,
    adjacency: Adjacency,
    method: Method = "best",
    conversion: Conversion = "improved",
) -> Price:
    """Return the epsilon of an event at a delta with the way it came about; see ``epsilon``."""
    check_target(delta=delta)
    found = leaves(event)
    if NonPrivateDpEvent() in found:
        return Price(math.inf, "none")
    if delta == 0:
        pure = pure_epsilon(found, reach=reach_of(adjacency))
        return Price(pure, "none" if math.isinf(pure) else "pure")

    def by_pld(pld: Pld) -> float:
        return float(pld.get_epsilon_for_delta(delta))

    def by_rdp(curve: Sequence[float], orders: Sequence[float]) -> float:
        return epsilon_of_curve(curve, orders, delta=delta, conversion=conversion)

    pure = pure_epsilon(found, reach=reach_of(adjacency))
    return _least(
        found,
        adjacency=adjacency,
        method=method,
        closed=lambda mu: gaussian_epsilon(mu, delta),
        pure=pure,
        by_pld=by_pld,
        by_rdp=by_rdp,
    )


def price_delta(
    event: DpEvent,
    *,
    epsilon: float,
    adjacency: Adjacency,
    method: Method = "best",
    conversion: Conversion = "improved",
) -> Price:
    """Return the delta of an event at an epsilon with the way it came about; see ``delta_of``."""
    check_target(epsilon=epsilon)
    found = leaves(event)
    if NonPrivateDpEvent() in found:
        return Price(1.0, "none")

    def by_pld(pld: Pld) -> float:
        return float(pld.get_delta_for_epsilon(epsilon))

    def by_rdp(curve: Sequence[float], orders: Sequence[float]) -> float:
        return delta_of_curve(curve, orders, epsilon=epsilon, conversion=conversion)

    pure = pure_epsilon(found, reach=reach_of(adjacency))
    return _least(
        found,
        adjacency=adjacency,
        method=method,
        closed=lambda mu: gaussian_delta(mu, epsilon),
        pure=0.0 if pure <= epsilon else math.inf,
        by_pld=by_pld,
        by_rdp=by_rdp,
    )


def rdp_curve(event: DpEvent, *, adjacency: Adjacency, orders: Sequence[float] = ORDERS) -> tuple[float, ...]:
    """Return the Renyi divergences of an event at some orders.

    Args:
        event: Everything that is released.
        adjacency: What differs between two neighbours.
        orders: Above 1. Samples of noise other than Gaussian are bounded at whole orders only.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When no bound is known; says what to do.

    Example:
        >>> rdp_curve(GaussianDpEvent(2.0), adjacency="zero_out", orders=(2, 4))
        (0.25, 0.5)
        >>> rdp_curve(GaussianDpEvent(2.0), adjacency="replace_one", orders=(2, 4))
        (1.0, 2.0)
    """
    return _rdp_curve(leaves(event), adjacency, tuple(orders))


def _least(
    found: Leaves,
    *,
    adjacency: Adjacency,
    method: Method,
    closed: Callable[[float], float],
    pure: float,
    by_pld: Callable[[Pld], float],
    by_rdp: Callable[[Sequence[float], Sequence[float]], float],
) -> Price:
    """Return the least figure of the ways that a method allows."""
    if method == "gaussian_limit":
        whole = gaussian_limit(
            ComposedDpEvent(tuple(SelfComposedDpEvent(leaf, count) for leaf, count in found.items()))
        )
        price = _least(
            leaves(whole), adjacency=adjacency, method="pld", closed=closed, pure=pure, by_pld=by_pld, by_rdp=by_rdp
        )
        return Price(price.value, "gaussian_limit")
    mu = gaussian_mu(found, reach=reach_of(adjacency))
    if mu is not None and method in ("best", "pld"):
        return Price(closed(mu), "analytic")
    prices: list[Price] = []
    refusals: list[str] = []
    if method == "best" and not math.isinf(pure):
        prices.append(Price(pure, "pure"))
    if method in ("best", "pld"):
        try:
            prices.append(Price(by_pld(composed_losses(tuple(found.items()), adjacency)), "pld"))
        except PlanError as error:
            refusals.append(str(error))
    if method in ("best", "rdp"):
        try:
            orders = _orders(found)
            prices.append(Price(by_rdp(_rdp_curve(found, adjacency, orders), orders), "rdp"))
        except PlanError as error:
            refusals.append(str(error))
    if not prices:
        raise PlanError("\n".join(refusals))
    return min(prices, key=lambda price: price.value)


# Renyi divergences


def _orders(found: Leaves) -> tuple[float, ...]:
    """Return the finest orders at which all leaves have a bound."""
    for leaf in found:
        if isinstance(leaf, TruncatedPoissonSampledDpEvent | SampledWithoutReplacementDpEvent):
            return ORDERS
        if isinstance(leaf, PoissonSampledDpEvent):
            multiplier = gaussian_multiplier(leaf.event)
            if multiplier is None or multiplier < _LEAST_SERIES_NOISE:
                return ORDERS
    return FINE_ORDERS


def _rdp_curve(found: Leaves, adjacency: Adjacency, orders: tuple[float, ...]) -> tuple[float, ...]:
    curves = [tuple(count * value for value in _leaf_rdp(leaf, adjacency, orders)) for leaf, count in found.items()]
    return added(*curves) if curves else (0.0,) * len(orders)


@functools.lru_cache(maxsize=256)
def _leaf_rdp(leaf: Leaf, adjacency: Adjacency, orders: tuple[float, ...]) -> tuple[float, ...]:
    reach = reach_of(adjacency)
    match leaf:
        case NonPrivateDpEvent():
            return (math.inf,) * len(orders)
        case GaussianDpEvent() | LaplaceDpEvent() | DiscreteGaussianDpEvent() | DiscreteLaplaceDpEvent():
            return tuple(map(_noise_curve(leaf, reach), orders))
        case PoissonSampledDpEvent():
            if adjacency == "replace_one":
                raise PlanError(
                    f"{leaf}: Renyi divergences of a Poisson sample are known for zero-out and add/remove only. State "
                    'adjacency="zero_out", or price Gaussian noise by method="pld".'
                )
            multiplier = gaussian_multiplier(leaf.event)
            if multiplier is not None and not all(float(order).is_integer() for order in orders):
                return _sampled_gaussian_rdp(leaf.rate, multiplier, orders)
            curve = _sum_of_curves(leaf.event, reach)
            return tuple(poisson_rdp(_whole(order, leaf), rate=leaf.rate, curve=curve) for order in orders)
        case SampledWithoutReplacementDpEvent():
            if adjacency != "replace_one":
                raise PlanError(
                    f"{leaf}: a sample of fixed size is priced under replace-one only, never as if each unit had been "
                    'drawn by itself. State adjacency="replace_one", which covers a contribution of zero too, or '
                    "sample by poisson()."
                )
            multiplier = gaussian_multiplier(leaf.event)
            rate = leaf.size / leaf.population
            if multiplier is not None:
                return _fixed_size_gaussian_rdp(leaf.population, leaf.size, multiplier / reach, orders)
            curve = _sum_of_curves(leaf.event, reach)
            return tuple(fixed_size_rdp(_whole(order, leaf), rate=rate, curve=curve) for order in orders)
        case TruncatedPoissonSampledDpEvent():
            if adjacency == "replace_one":
                raise PlanError(
                    f"{leaf}: Renyi divergences of a truncated Poisson sample are known for zero-out and add/remove "
                    'only. State adjacency="zero_out", or price Gaussian noise by method="pld".'
                )
            return tuple(
                truncated_rdp(
                    _whole(order, leaf),
                    rate=leaf.rate,
                    population=leaf.population,
                    most=leaf.most,
                    curve=_sum_of_curves(leaf.event, reach),
                    cut_curve=_sum_of_curves(leaf.event, reach if adjacency == "zero_out" else 2 * reach),
                )
                for order in orders
            )
        case _:
            assert_never(leaf)


def _noise_curve(noise: Noise, reach: float) -> Curve:
    match noise:
        case GaussianDpEvent():
            return gaussian_curve(noise.noise_multiplier / reach)
        case LaplaceDpEvent():
            return laplace_curve(noise.noise_multiplier / reach)
        case DiscreteGaussianDpEvent():
            return discrete_gaussian_curve(noise, reach=reach)
        case DiscreteLaplaceDpEvent():
            return pure_curve(pure_leaf(noise, reach=reach))
        case _:
            assert_never(noise)


def _sum_of_curves(event: DpEvent, reach: float) -> Curve:
    curves = [(_noise_curve(noise, reach), count) for noise, count in noises(event).items()]
    return lambda order: math.fsum(count * curve(order) for curve, count in curves)


def _whole(order: float, leaf: Leaf) -> int:
    if not float(order).is_integer():
        raise PlanError(f"{leaf}: bounded at whole orders only; order {order} was asked. Use renyi.ORDERS.")
    return int(order)


def _sampled_gaussian_rdp(rate: float, multiplier: float, orders: tuple[float, ...]) -> tuple[float, ...]:
    import dp_accounting
    from absl import logging
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(orders)
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # It warns of orders that do not converge; they are infinite, and stay out.
    try:
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier)))
    finally:
        logging.set_verbosity(level)
    return tuple(float(value) for value in accountant.rdp)


def _fixed_size_gaussian_rdp(
    population: int, size: int, multiplier: float, orders: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the divergences; ``multiplier`` is noise over twice the clip, as this accountant wants it."""
    import dp_accounting
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(orders, dp_accounting.NeighboringRelation.REPLACE_ONE)
    accountant.compose(
        dp_accounting.SampledWithoutReplacementDpEvent(population, size, dp_accounting.GaussianDpEvent(multiplier))
    )
    return tuple(float(value) for value in accountant.rdp)
