"""Leaves of a privacy event: each kind of release once, with how often it happened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias, assert_never, cast

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
from fedloom.errors import ComponentError, PlanError

Noise: TypeAlias = GaussianDpEvent | LaplaceDpEvent | DiscreteGaussianDpEvent | DiscreteLaplaceDpEvent
Sampled: TypeAlias = PoissonSampledDpEvent | TruncatedPoissonSampledDpEvent | SampledWithoutReplacementDpEvent
Leaf: TypeAlias = NonPrivateDpEvent | Noise | Sampled
Leaves: TypeAlias = dict[Leaf, int]


def leaves(event: DpEvent) -> Leaves:
    """Return the different releases in an event with their counts: 10,000 equal rounds are one leaf.

    A sample of everybody is no sample, and noise of scale 0 is none.

    Raises:
        ComponentError: When a number in the event is out of its range.
        PlanError: When there is a sample inside a sample.

    Example:
        >>> leaves(SelfComposedDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(1.0)), 3))
        {PoissonSampledDpEvent(rate=0.1, event=GaussianDpEvent(noise_multiplier=1.0)): 3}
    """
    found: Leaves = {}
    _collect(event, 1, found)
    return found


def noises(event: DpEvent) -> Mapping[Noise, int]:
    """Return the noises of what one sample was used for, with their counts.

    Raises:
        PlanError: When there is a sample among them.
    """
    inner = leaves(event)
    if any(isinstance(leaf, Sampled) for leaf in inner):
        raise PlanError(
            f"{event} is a sample inside a sample, which no accountant here prices: state the outer sample alone."
        )
    return cast(dict[Noise, int], inner)


def _collect(event: DpEvent, count: int, found: Leaves) -> None:
    match event:
        case SelfComposedDpEvent():
            _whole("count", event.count, event, least=0)
            _collect(event.event, count * event.count, found)
        case ComposedDpEvent():
            for each in event.events:
                _collect(each, count, found)
        case PoissonSampledDpEvent() | TruncatedPoissonSampledDpEvent() | SampledWithoutReplacementDpEvent():
            _collect_sampled(event, count, found)
        case GaussianDpEvent() | LaplaceDpEvent():
            _number("noise_multiplier", event.noise_multiplier, event)
            _add(event if event.noise_multiplier else NonPrivateDpEvent(), count, found)
        case DiscreteGaussianDpEvent():
            _number("sigma", event.sigma, event)
            _number("l2", event.l2, event)
            _whole("dim", event.dim, event)
            _whole("draws", event.draws, event)
            if event.draws > 1 and 0 < event.sigma < 0.5:
                raise PlanError(
                    f"{event}: sums of integer noise are bounded from sigma 0.5 of a draw: scale up, or draw once"
                )
            if event.l2 or not event.sigma:  # a bound of 0: nobody contributes anything
                _add(event if event.sigma else NonPrivateDpEvent(), count, found)
        case DiscreteLaplaceDpEvent():
            _number("scale", event.scale, event)
            _number("l1", event.l1, event)
            if event.l1 or not event.scale:
                _add(event if event.scale else NonPrivateDpEvent(), count, found)
        case NonPrivateDpEvent():
            _add(event, count, found)
        case _:
            assert_never(event)


def _collect_sampled(event: Sampled, count: int, found: Leaves) -> None:
    if isinstance(event, SampledWithoutReplacementDpEvent):
        _whole("population", event.population, event)
        _whole("size", event.size, event)
        if event.size > event.population:
            raise ComponentError(f"{event}: size={event.size} is more than the population")
        everybody = event.size == event.population
    else:
        if not 0 < event.rate <= 1:
            raise ComponentError(f"{event}: rate={event.rate}: expected a number above 0, at most 1")
        everybody = event.rate == 1
        if isinstance(event, TruncatedPoissonSampledDpEvent):
            _whole("population", event.population, event)
            _whole("most", event.most, event)
            if event.most >= event.population:
                return _collect(PoissonSampledDpEvent(event.rate, event.event), count, found)
            everybody = False
    inner = leaves(event.event)
    if NonPrivateDpEvent() in inner:
        return _add(NonPrivateDpEvent(), count, found)
    noises(event.event)
    if everybody:
        return _collect(event.event, count, found)
    return _add(event, count, found) if inner else None


def _add(leaf: Leaf, count: int, found: Leaves) -> None:
    if count:
        found[leaf] = found.get(leaf, 0) + count


def _number(name: str, value: float, event: DpEvent) -> None:
    if not 0 <= value < math.inf:
        raise ComponentError(f"{event}: {name}={value}: expected a number from 0, and finite")


def _whole(name: str, value: int, event: DpEvent, *, least: int = 1) -> None:
    if value != int(value) or value < least:
        raise ComponentError(f"{event}: {name}={value}: expected a whole number from {least}")
