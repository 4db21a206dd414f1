"""Numbers that change by round: learning-rate decay and the like, as pure functions of the round from 0."""

from __future__ import annotations

import math

from fedloom.core.component import component
from fedloom.core.schedule import Ramp
from fedloom.errors import ComponentError
from fedloom.optim.ranges import check_positive


@component("fedloom.ramps")
def exponential(start: float, *, decay: float, floor: float = 0.0) -> Ramp:
    """Return ``max(start * decay^round, floor)``.

    Example:
        >>> exponential(0.1, decay=0.5).at(2)
        0.025
    """
    check_positive("exponential", start=start, decay=decay)
    check_positive("exponential", zero=True, floor=floor)
    return Ramp(lambda t: max(start * decay**t, floor))


@component("fedloom.ramps")
def inverse(start: float, *, rate: float, power: float = 1.0) -> Ramp:
    """Return ``start / (1 + rate * round)^power``: power 1 for strongly convex problems, 0.5 else.

    Example:
        >>> inverse(0.1, rate=1.0).at(1)
        0.05
    """
    check_positive("inverse", start=start, power=power)
    check_positive("inverse", zero=True, rate=rate)
    return Ramp(lambda t: start / (1 + rate * t) ** power)


@component("fedloom.ramps")
def steps(start: float, *, every: int, factor: float) -> Ramp:
    """Return ``start * factor^(round // every)``.

    Example:
        >>> steps(0.1, every=10, factor=0.5).at(19)
        0.05
    """
    check_positive("steps", start=start, factor=factor)
    if every < 1:
        raise ComponentError(f"steps(every={every}): expected 1 or more")
    return Ramp(lambda t: start * factor ** (t // every))


@component("fedloom.ramps")
def cosine(start: float, *, rounds: int, floor: float = 0.0) -> Ramp:
    """Return half a cosine from ``start`` at round 0 to ``floor`` at round ``rounds``, flat after it.

    Example:
        >>> cosine(0.1, rounds=10).at(5)
        0.05
    """
    check_positive("cosine", start=start)
    check_positive("cosine", zero=True, floor=floor)
    if rounds < 1:
        raise ComponentError(f"cosine(rounds={rounds}): expected 1 or more")
    return Ramp(lambda t: floor + (start - floor) * (1 + math.cos(math.pi * min(t, rounds) / rounds)) / 2)


@component("fedloom.ramps")
def warmup(top: float, *, rounds: int) -> Ramp:
    """Return a line from ``top / (rounds + 1)`` up to ``top`` at round ``rounds``, flat after it.

    Example:
        >>> warmup(0.3, rounds=2).at(0)
        0.09999999999999999
    """
    check_positive("warmup", top=top)
    if rounds < 1:
        raise ComponentError(f"warmup(rounds={rounds}): expected 1 or more")
    return Ramp(lambda t: top * min((t + 1) / (rounds + 1), 1.0))
