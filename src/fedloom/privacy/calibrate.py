"""Calibration: the least noise for a target, the most rounds for a noise, and epsilon by round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedloom.core.events import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from fedloom.errors import ComponentError, PlanError
from fedloom.privacy.accountants import epsilon as epsilon_of
from fedloom.privacy.accountants import rdp_curve
from fedloom.privacy.guarantee import Adjacency, Method, check_target
from fedloom.privacy.renyi import ORDERS, epsilon_of_curve

TOLERANCE = 1e-4
"""Relative: a noise is at most this much above the least that suffices."""
_LEAST_NOISE, _MOST_NOISE = 2.0**-7, 2.0**20
_MOST_ROUNDS = 10_000_000


def gaussian_rounds(rounds: int, *, rate: float = 1.0) -> Callable[[float], DpEvent]:
    """Return rounds of Gaussian noise on Poisson cohorts, as a function of the noise multiplier.

    Example:
        >>> gaussian_rounds(100)(1.5).count
        100
    """
    return lambda noise: SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), rounds)


def noise_for(
    event_of: Callable[[float], DpEvent],
    *,
    epsilon: float,
    delta: float,
    adjacency: Adjacency,
    method: Method = "best",
) -> float:
    """Return the noise multiplier at which an event costs at most an epsilon; at most 1e-4 above the least, relative.

    The event at the returned noise was priced, and fits.

    Args:
        event_of: The event at a noise multiplier; costs less with more noise. See ``gaussian_rounds``.
        epsilon: Target, above 0.
        delta: Target.
        adjacency: What differs between two neighbours.
        method: See ``Method``.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When no noise up to 2**20 reaches the target, or the method cannot price the event.

    Example:
        >>> noise = noise_for(gaussian_rounds(1), epsilon=1.0, delta=1e-5, adjacency="zero_out")
        >>> f"{noise:.3f}"
        '3.731'
    """
    _check(epsilon, delta)

    def cost(noise: float) -> float:
        return epsilon_of(event_of(noise), delta=delta, adjacency=adjacency, method=method)

    start = _quick_noise(event_of, epsilon=epsilon, delta=delta, adjacency=adjacency)
    low, high, dear, cheap = _noise_bracket(cost, epsilon, start)
    if low == high:
        return high
    return _close(cost, epsilon, low=low, high=high, dear=dear, cheap=cheap)


def rounds_for(
    round_event: DpEvent,
    *,
    epsilon: float,
    delta: float,
    adjacency: Adjacency,
    method: Method = "best",
) -> int:
    """Return how many rounds an epsilon pays for; at most ten million are counted.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When not even one round fits, or the method cannot price the event.

    Example:
        >>> rounds_for(GaussianDpEvent(10.0), epsilon=2.0, delta=1e-5, adjacency="zero_out")
        25
    """
    _check(epsilon, delta)

    def cost(rounds: int) -> float:
        return epsilon_of(SelfComposedDpEvent(round_event, rounds), delta=delta, adjacency=adjacency, method=method)

    one = cost(1)
    if one > epsilon:
        raise PlanError(
            f"one round costs epsilon {one:g} at delta {delta:g}, above the target of {epsilon:g}: more noise, or a "
            "lower sampling rate."
        )
    low, high = 1, 2
    while high <= _MOST_ROUNDS and cost(high) <= epsilon:
        low, high = high, 2 * high
    if high > _MOST_ROUNDS:
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= epsilon else (low, middle)
    return low


def epsilon_by_round(
    round_event: DpEvent,
    rounds: Sequence[int],
    *,
    delta: float,
    adjacency: Adjacency,
    method: Method = "best",
) -> tuple[float, ...]:
    """Return the epsilon after each of some numbers of equal rounds, for a plot or a table.

    Example:
        >>> spent = epsilon_by_round(GaussianDpEvent(10.0), (1, 10, 100), delta=1e-5, adjacency="zero_out")
        >>> [f"{each:.3f}" for each in spent]
        ['0.341', '1.199', '4.377']
    """
    return tuple(
        epsilon_of(SelfComposedDpEvent(round_event, count), delta=delta, adjacency=adjacency, method=method)
        for count in rounds
    )


def _check(epsilon: float, delta: float) -> None:
    check_target(epsilon=epsilon, delta=delta)
    if epsilon == 0:
        raise ComponentError("epsilon=0: expected a number above 0; no noise hides everything")


def _quick_noise(event_of: Callable[[float], DpEvent], *, epsilon: float, delta: float, adjacency: Adjacency) -> float:
    """Return a noise near the answer by Renyi divergences at whole orders, which are quick; 1 where they know none."""
    if delta == 0:
        return 1.0
    low, high = _LEAST_NOISE, _MOST_NOISE
    try:
        for _ in range(12):
            middle = math.sqrt(low * high)
            curve = rdp_curve(event_of(middle), adjacency=adjacency)
            low, high = (low, middle) if epsilon_of_curve(curve, ORDERS, delta=delta) <= epsilon else (middle, high)
    except PlanError:
        return 1.0
    return high


def _noise_bracket(cost: Callable[[float], float], epsilon: float, start: float) -> tuple[float, float, float, float]:
    """Return a noise that costs too much, one that fits, and what they cost."""
    noise, price = start, cost(start)
    if price <= epsilon:
        while price <= epsilon:
            fits, cheap = noise, price
            if noise <= _LEAST_NOISE:
                return fits, fits, cheap, cheap
            noise /= 1.25
            price = cost(noise)
        return noise, fits, price, cheap
    while price > epsilon:
        dear_noise, dear = noise, price
        noise *= 1.25
        if noise > _MOST_NOISE:
            raise PlanError(
                f"epsilon {epsilon:g} is out of reach: with noise {dear_noise:g} times the clip the event still costs "
                f"{dear:g}. Some release in it has no protection, or its cost does not depend on the noise."
            )
        price = cost(noise)
    return dear_noise, noise, dear, price


def _close(
    cost: Callable[[float], float], epsilon: float, *, low: float, high: float, dear: float, cheap: float
) -> float:
    """Return the upper end of the bracket once it is narrower than the tolerance.

    The cost is near a power of the noise, so the secant in logarithms lands close; each guess is moved by a third of
    the tolerance, now up, now down, so that both ends close in. Every third step halves the bracket instead.
    """
    step = 0
    while high > low * (1 + TOLERANCE):
        width = math.log(high / low)
        share = 0.5
        if step % 3 != 2 and cheap > 0 and math.isfinite(dear) and dear > cheap:
            share = math.log(dear / epsilon) / math.log(dear / cheap)
            share += (TOLERANCE / 3 if step % 3 == 0 else -TOLERANCE / 3) / width
        share = min(max(share, 0.3 * TOLERANCE / width), 1 - 0.3 * TOLERANCE / width)
        guess = low * math.exp(share * width)
        price = cost(guess)
        if price <= epsilon:
            high, cheap = guess, price
        else:
            low, dear = guess, price
        step += 1
    return high
