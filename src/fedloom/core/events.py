"""Privacy events: what was released, in words that accountants read later.

A closed union of our own. A release without protection is ``NonPrivateDpEvent``: epsilon is then infinite, visibly.
"""

from __future__ import annotations

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
class PoissonSampledDpEvent:
    """An event on a cohort that each client joined independently with probability ``rate``."""

    rate: float
    event: DpEvent


DpEvent: TypeAlias = NonPrivateDpEvent | GaussianDpEvent | PoissonSampledDpEvent
