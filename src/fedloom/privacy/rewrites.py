"""Events written anew: without the sampling, or with continuous noise in place of integer noise."""

from __future__ import annotations

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

GRID_SIGMA_OF_LIMIT = 256.0
"""From this deviation of one draw, in grid steps, the continuous figure may stand beside the proven one."""


def unamplified(event: DpEvent) -> DpEvent:
    """Return an event for a unit that took part in every sample, before one who knows that it did.

    Example:
        >>> unamplified(PoissonSampledDpEvent(0.01, GaussianDpEvent(4.0)))
        GaussianDpEvent(noise_multiplier=4.0)
    """
    match event:
        case PoissonSampledDpEvent() | TruncatedPoissonSampledDpEvent() | SampledWithoutReplacementDpEvent():
            return unamplified(event.event)
        case SelfComposedDpEvent():
            return SelfComposedDpEvent(unamplified(event.event), event.count)
        case ComposedDpEvent():
            return ComposedDpEvent(tuple(unamplified(each) for each in event.events))
        case (
            NonPrivateDpEvent()
            | GaussianDpEvent()
            | LaplaceDpEvent()
            | DiscreteGaussianDpEvent()
            | DiscreteLaplaceDpEvent()
        ):
            return event
        case _:
            assert_never(event)


def gaussian_limit(event: DpEvent) -> DpEvent:
    """Return an event with continuous Gaussian noise in place of integer noise of the same deviation.

    No proof: in many dimensions integer noise is not dominated by continuous noise at every point of the curve.

    Raises:
        PlanError: When a draw has a deviation below 256 grid steps.
    """
    match event:
        case DiscreteGaussianDpEvent():
            if event.sigma < GRID_SIGMA_OF_LIMIT:
                raise PlanError(
                    f"{event}: the continuous limit needs a deviation of at least {GRID_SIGMA_OF_LIMIT:g} grid steps "
                    'per draw. Use the proven figure (method="rdp"), or a finer grid.'
                )
            return GaussianDpEvent(event.noise_multiplier)
        case ComposedDpEvent():
            return ComposedDpEvent(tuple(gaussian_limit(each) for each in event.events))
        case SelfComposedDpEvent():
            return SelfComposedDpEvent(gaussian_limit(event.event), event.count)
        case PoissonSampledDpEvent():
            return PoissonSampledDpEvent(event.rate, gaussian_limit(event.event))
        case TruncatedPoissonSampledDpEvent():
            inner = gaussian_limit(event.event)
            return TruncatedPoissonSampledDpEvent(event.rate, event.population, event.most, inner)
        case SampledWithoutReplacementDpEvent():
            return SampledWithoutReplacementDpEvent(event.population, event.size, gaussian_limit(event.event))
        case NonPrivateDpEvent() | GaussianDpEvent() | LaplaceDpEvent() | DiscreteLaplaceDpEvent():
            return event
        case _:
            assert_never(event)
