"""Closed forms: the exact trade of Gaussian noise, and pure differential privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar, assert_never

from fedloom.core.events import DiscreteLaplaceDpEvent, DpEvent, GaussianDpEvent, LaplaceDpEvent, PoissonSampledDpEvent
from fedloom.privacy.guarantee import Adjacency
from fedloom.privacy.leaves import Leaf, noises

LeafT = TypeVar("LeafT", bound=Leaf)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the exact delta of Gaussian noise; ``mu`` is the distance of the neighbours over its deviation.

    ``Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu)``

    Source: Balle and Wang 2018, arXiv:1805.06530, Theorem 8; written with scaled tails, so that ``e^eps`` never
        overflows (same result).

    Example:
        >>> f"{gaussian_delta(1.0, 1.0):.6f}"
        '0.126937'
    """
    from scipy.special import erfcx

    if mu == 0:
        return 0.0
    near = (epsilon / mu - mu / 2) / math.sqrt(2)
    far = (epsilon / mu + mu / 2) / math.sqrt(2)
    scale = math.exp(-(near**2)) / 2
    if near < 0:
        return math.erfc(near) / 2 - scale * float(erfcx(far))
    return scale * (float(erfcx(near)) - float(erfcx(far)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon of Gaussian noise at a delta; never below the exact one, above it by at most 1e-12.

    Example:
        >>> f"{gaussian_epsilon(1.0, 1e-5):.5f}"
        '4.37718'
    """
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if delta == 0:
        return math.inf
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def pure_epsilon(found: Mapping[Leaf, int], *, reach: float) -> float:
    """Return the epsilon at delta 0 of leaves composed: Laplace noise adds up, everything else is infinite.

    Args:
        found: Leaves with their counts.
        reach: Distance of two neighbours over the bound of one contribution: 2 under replace-one.

    Source: A Poisson sample of rate q turns eps into ``log(1 + q (e^eps - 1))``: Balle, Barthe, Gaboardi 2018,
        arXiv:1807.01647, Theorem 8; by advanced joint convexity (Theorem 2 there) also under replace-one.
    """
    return math.fsum(count * pure_leaf(leaf, reach=reach) for leaf, count in found.items())


def pure_leaf(leaf: Leaf, *, reach: float) -> float:
    """Return the epsilon at delta 0 of one leaf."""
    match leaf:
        case LaplaceDpEvent():
            return reach / leaf.noise_multiplier
        case DiscreteLaplaceDpEvent():
            return reach * leaf.l1 / leaf.scale
        case PoissonSampledDpEvent():
            inner = math.fsum(count * pure_leaf(noise, reach=reach) for noise, count in noises(leaf.event).items())
            return sampled_pure(inner, leaf.rate)
        case _:
            return math.inf


def sampled_pure(epsilon: float, rate: float) -> float:
    """Return ``log(1 + rate (e^epsilon - 1))``, without overflow.

    Example:
        >>> round(sampled_pure(1.0, 0.1), 6)
        0.158565
    """
    if math.isinf(epsilon):
        return math.inf
    if epsilon > 30:
        return epsilon + math.log(rate + (1 - rate) * math.exp(-epsilon))
    return math.log1p(rate * math.expm1(epsilon))


def gaussian_mu(found: Mapping[LeafT, int], *, reach: float) -> float | None:
    """Return the distance over deviation of leaves that are all plain Gaussian noise; None when others are there."""
    if not all(isinstance(leaf, GaussianDpEvent) for leaf in found):
        return None
    return reach * math.sqrt(
        math.fsum(
            count / leaf.noise_multiplier**2 for leaf, count in found.items() if isinstance(leaf, GaussianDpEvent)
        )
    )


def reach_of(adjacency: Adjacency) -> float:
    """Return how far apart two neighbours are, over the bound of one contribution."""
    match adjacency:
        case "zero_out" | "add_remove":
            return 1.0
        case "replace_one":
            return 2.0
        case _:
            assert_never(adjacency)


def gaussian_multiplier(event: DpEvent) -> float | None:
    """Return the multiplier of one Gaussian release that is worth all those on one sample; None for other noise."""
    mu = gaussian_mu(noises(event), reach=1.0)
    return None if mu is None else 1 / mu
