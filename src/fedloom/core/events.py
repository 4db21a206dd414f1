"""Privacy events: what was released, in words that accountants read later.

A closed union of our own. A release without protection is ``NonPrivateDpEvent``: epsilon is then infinite, visibly. An
event says nothing of unit and adjacency: who prices it states both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class NonPrivateDpEvent:
    """A release that no guarantee covers."""


@dataclass(frozen=True, slots=True)
class GaussianDpEvent:
    """A sum with Gaussian noise; ``noise_multiplier`` is sigma over the bound of one contribution at the sum."""

    noise_multiplier: float


@dataclass(frozen=True, slots=True)
class LaplaceDpEvent:
    """A sum with Laplace noise; ``noise_multiplier`` is the scale over the L1 bound of one contribution at the sum."""

    noise_multiplier: float


@dataclass(frozen=True, slots=True)
class DiscreteGaussianDpEvent:
    """A sum in Z_m of ``dim`` coordinates with integer noise, all in grid steps.

    The noise is the sum of ``draws`` independent discrete Gaussians of standard deviation ``sigma`` each.
    """

    sigma: float
    l2: float
    """Bound on the norm of one contribution at the sum, rounding included."""
    dim: int
    draws: int = 1

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the bound of one contribution."""
        return self.sigma * math.sqrt(self.draws) / self.l2


@dataclass(frozen=True, slots=True)
class DiscreteLaplaceDpEvent:
    """A sum in Z_m with discrete Laplace noise of a ``scale``; ``l1`` bounds one contribution. Both in grid steps."""

    scale: float
    l1: float


@dataclass(frozen=True, slots=True)
class PoissonSampledDpEvent:
    """An event on a cohort, or a batch, that each unit joined independently with probability ``rate``."""

    rate: float
    event: DpEvent


@dataclass(frozen=True, slots=True)
class TruncatedPoissonSampledDpEvent:
    """As ``PoissonSampledDpEvent`` on a population of known size; of more than ``most``, so many are kept at random."""

    rate: float
    population: int
    most: int
    event: DpEvent


@dataclass(frozen=True, slots=True)
class SampledWithoutReplacementDpEvent:
    """An event on ``size`` different units of a population, every set of them equally likely."""

    population: int
    size: int
    event: DpEvent


@dataclass(frozen=True, slots=True)
class SelfComposedDpEvent:
    """The same event ``count`` times."""

    event: DpEvent
    count: int


@dataclass(frozen=True, slots=True)
class ComposedDpEvent:
    """Events one after the other; each may depend on what the ones before it released."""

    events: tuple[DpEvent, ...]


DpEvent: TypeAlias = (
    NonPrivateDpEvent
    | GaussianDpEvent
    | LaplaceDpEvent
    | DiscreteGaussianDpEvent
    | DiscreteLaplaceDpEvent
    | PoissonSampledDpEvent
    | TruncatedPoissonSampledDpEvent
    | SampledWithoutReplacementDpEvent
    | SelfComposedDpEvent
    | ComposedDpEvent
)
