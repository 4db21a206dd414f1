"""Renyi divergences that are proven for the noise as it is drawn: integers, sums of several draws, small samples.

A curve is a function of the order: ``curve(alpha)`` bounds the Renyi divergence of order alpha between the releases of
two neighbours, in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from fedloom.core.events import DiscreteGaussianDpEvent

Curve: TypeAlias = Callable[[float], float]


def tau_dg(sigma: float, draws: int) -> float:
    """Return how far a sum of discrete Gaussians is from one, per coordinate: the log ratio is at most half of it.

    ``10 * sum_{k=1}^{draws-1} exp(-2 pi^2 sigma^2 k / (k+1))``, for sigma from 0.5 of ONE draw. 5e-17 at sigma = 2.

    Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Theorem 1; the log ratio is their bound for convolutions of
        many discrete Gaussians.

    Example:
        >>> f"{tau_dg(1.0, 2):.2e}"
        '5.17e-04'
    """
    return 10 * math.fsum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, draws))


def gaussian_curve(noise_multiplier: float) -> Curve:
    """Return ``alpha / (2 z^2)``: Gaussian noise, z its standard deviation over the distance of the neighbours."""
    return lambda order: order / (2 * noise_multiplier**2)


def laplace_curve(noise_multiplier: float) -> Curve:
    """Return the divergences of Laplace noise of scale b over the L1 distance of the neighbours.

    Source: Mironov 2017, arXiv:1702.07476, Table II and Proposition 6. Moving along one coordinate is the worst of all
        moves of that L1 length: a chain of moves along single coordinates has the trade-off function of one long
        move, and of the product at least that.
    """

    def curve(order: float) -> float:
        epsilon = 1 / noise_multiplier
        near = math.log(order / (2 * order - 1)) + (order - 1) * epsilon
        far = math.log((order - 1) / (2 * order - 1)) - order * epsilon
        return max(0.0, near + math.log1p(math.exp(far - near))) / (order - 1)

    return curve


def pure_curve(epsilon: float) -> Curve:
    """Return the largest divergences that an epsilon of pure differential privacy allows.

    ``log(((e^(a eps) + e^((1-a) eps)) / (e^eps + 1)) / (a - 1)``, that of randomised response.

    Source: Bun and Steinke 2016, arXiv:1605.02065, Proposition 3.3 in its tight form before the last estimate.
    """

    def curve(order: float) -> float:
        # (e^(a eps) + e^((1-a) eps)) / (1 + e^eps), with e^(a eps) taken out.
        log_sum = order * epsilon + math.log1p(math.exp((1 - 2 * order) * epsilon))
        return max(0.0, log_sum - epsilon - math.log1p(math.exp(-epsilon))) / (order - 1)

    return curve


def discrete_gaussian_curve(event: DiscreteGaussianDpEvent, *, reach: float = 1.0) -> Curve:
    """Return the divergences of integer noise: that of one draw, or of the sum of several.

    With D the distance of the neighbours, s the standard deviation of one of m draws, ``l = D / (sqrt(m) s)``:
    ``min(alpha l^2 / 2 + tau d,  alpha (l + tau sqrt(d))^2 / 2)``, tau = ``tau_dg(s, m)``, 0 for one draw.

    Args:
        event: What was drawn; ``l2`` bounds one contribution.
        reach: Distance of two neighbours over that bound: 2 under replace-one.

    Guarantee: Against neighbours whose sums differ by an integer vector of norm at most ``reach * l2``; any dependence
        of it on the data, rounding included.

    Source: One draw: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Proposition 5 and Theorem 4: the Gaussian's
        divergence, at integer orders with equality. Sums: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Theorem 1
        and the proposition for Renyi divergences behind it (differs: Theorem 1 states ``tau d / 2`` inside the root,
        that is ``alpha tau d / 4``; we keep ``tau d``, which follows at every order from their bound on the log
        ratio because sums of discrete Gaussians are subgaussian with variance m s^2. The second term likewise: the
        loss is subgaussian with deviation ``l_j + tau`` per coordinate.) Both are the same from s = 2.
    """
    length = reach * event.l2 / (math.sqrt(event.draws) * event.sigma)
    tau = tau_dg(event.sigma, event.draws)
    dim = event.dim

    def curve(order: float) -> float:
        return min(order * length**2 / 2 + tau * dim, order * (length + tau * math.sqrt(dim)) ** 2 / 2)

    return curve


def poisson_rdp(order: int, *, rate: float, curve: Curve) -> float:
    """Return the divergence of integer order of noise on a Poisson sample; neighbours by zero-out or add/remove.

    ``log(sum_l C(a, l) (1-q)^(a-l) q^l e^((l-1) curve(l))) / (a-1)``: the binomial expansion of
    ``E_Q[((1-q) + q P/Q)^a]``, hence integers only.

    Guarantee: Noise that is symmetric about zero, integer or not: the reflection about the middle of P and Q swaps
        them, so the other direction is no larger.

    Source: Zhu and Wang 2019, ICML, Theorem 6; Mironov, Talwar, Zhang 2019, arXiv:1908.10530, equation 3 and
        Theorem 5 (the direction; its proof holds for sums over the integers as for integrals).

    Example:
        >>> round(poisson_rdp(8, rate=0.01, curve=gaussian_curve(1.0)), 6)
        0.000894
    """
    terms = [
        _log_choose(order, drawn) + (order - drawn) * math.log1p(-rate) + drawn * math.log(rate) + moment
        for drawn in range(order + 1)
        for moment in [0.0 if drawn < 2 else (drawn - 1) * curve(drawn)]
    ]
    return max(0.0, _log_sum(terms)) / (order - 1)


def truncated_rdp(order: int, *, rate: float, population: int, most: int, curve: Curve, cut_curve: Curve) -> float:
    """Return the divergence of integer order of noise on a Poisson sample that is cut to ``most`` units.

    With t the chance that the others alone fill a round, and c the chance that they do and the unit is in it,
    ``E[(P/Q)^a] <= (1-t) A + (t-c) + c e^((a-1) cut_curve(a))``, A that of the Poisson sample: whether the others fill
    a round depends on no data, where they do not the unit joins by itself, and where they do it is in or out.

    Args:
        order: From 2.
        rate: Chance of each unit to be drawn.
        population: Number of units.
        most: How many are kept, at random, where more are drawn.
        curve: Of the noise, for neighbours as in ``poisson_rdp``.
        cut_curve: Of the noise in a round that is cut: the same under zero-out; for twice the distance under
            add/remove, where another unit takes the place.

    Guarantee: As ``poisson_rdp``.

    Source: Ours, from joint convexity of ``E_Q[(P/Q)^a]``; van Erven and Harremoes 2014, arXiv:1206.2459, Theorem 13.
    """
    from scipy.special import bdtrc

    full = float(bdtrc(most - 1, population - 1, rate))
    inside = float(bdtrc(most, population, rate)) * most / population
    terms = [math.log1p(-full) + (order - 1) * poisson_rdp(order, rate=rate, curve=curve)] if full < 1 else []
    if inside > 0:
        terms += [math.log(inside) + (order - 1) * cut_curve(order)]
    if full > inside:
        terms += [math.log(full - inside)]
    return max(0.0, _log_sum(terms)) / (order - 1)


def fixed_size_rdp(order: int, *, rate: float, curve: Curve) -> float:
    """Return the divergence of integer order of noise on a sample of fixed size; neighbours by replace-one.

    Args:
        order: From 2.
        rate: Size of the sample over that of the population.
        curve: Of the noise itself under replace-one.

    Source: Wang, Balle, Kasiviswanathan 2019, arXiv:1808.00087, Theorem 9, with an infinite epsilon at order infinity.
    """
    two = curve(2)
    terms = [0.0]
    for drawn in range(2, order + 1):
        moment = math.log(2) + (drawn - 1) * curve(drawn)
        if drawn == 2:
            moment = min(moment, math.log(4) + two + math.log(-math.expm1(-two)) if two else -math.inf)
        terms.append(_log_choose(order, drawn) + drawn * math.log(rate) + moment)
    return max(0.0, _log_sum(terms)) / (order - 1)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_sum(terms: list[float]) -> float:
    peak = max(terms)
    if math.isinf(peak):
        return peak
    return peak + math.log(math.fsum(math.exp(term - peak) for term in terms))
