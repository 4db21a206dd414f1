"""Local steps that protect single rows: what they are, the grid that their noise lies on, and what they cost.

A step draws each row by itself with a public chance, clips the gradient of each row it drew, sums, and divides by the
size that the batch is *expected* to have. The sum is one of integers, on a grid of which ``clip`` is a power of two of
steps; noise is added there, as integers, before anything is a float again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fedloom.core.events import (
    DiscreteGaussianDpEvent,
    DpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from fedloom.core.ids import ClientId
from fedloom.core.integer_noise import MOST_DRAWS, MOST_INFLATION, MOST_SIGMA, draws_of, share_sigma
from fedloom.errors import ComponentError

MOST_BITS = 20
"""The finest grid; sums of rows are exact on one at least 16 times as fine."""
_SLACK = 2.0**-13
"""Part of the bound of a row, under shared noise, that is kept for the rounding of float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSteps:
    """How a local step protects the rows it reads.

    Args:
        clip: Bound on the norm of one row's gradient, intercepts included, penalty left out.
        noise_multiplier: Noise of each step over what one row can change; "shared": the client adds none, because a
            stage of the pipeline adds it to the sum over clients, or a share of it at each.
        rate: Chance of each row to be read by a step, drawn by the client from its own secret entropy.
        rows: The number of training rows that the client declares. Steps divide by ``rate * rows``, never by a count
            of rows: declared once, it is public, and need not be exact. A table gives it by client.

    Guarantee: Neighbouring data differ in one row, there or not; the unit is the row. Every step is one sum whose
        change by a row is bounded on integers, under noise that is calibrated to that bound: ``record_event``.

    Raises:
        ComponentError: When a number is outside its range.

    Source: Abadi et al. 2016, arXiv:1607.00133v2, Algorithm 1. Steps divide by the expected size of a batch, as there;
        rows are drawn independently, which its analysis assumes; noise is an integer's (differs).

    Example:
        >>> PrivateSteps(clip=1.0, noise_multiplier=1.1, rate=0.05, rows=200).expected
        10.0
    """

    clip: float
    noise_multiplier: float | Literal["shared"]
    rate: float
    rows: int | Mapping[str, int]

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        if not 0 < self.clip < math.inf:
            raise ComponentError(f"private: clip = {self.clip}; expected a number above 0")
        noise: object = self.noise_multiplier
        if noise != "shared" and not (isinstance(noise, int | float) and 0 < noise < math.inf):
            raise ComponentError(f'private: noise_multiplier = {noise!r}; expected a number above 0, or "shared"')
        if not 2.0**-40 <= self.rate <= 1:
            raise ComponentError(f"private: rate = {self.rate}; expected a chance above 0, at most 1")
        counts = self.rows.values() if isinstance(self.rows, Mapping) else [self.rows]
        for count in counts:
            if count < 1:
                raise ComponentError(f"private: rows = {count}; expected 1 or more")

    @property
    def shared(self) -> bool:
        """True where the noise is added outside the client."""
        return self.noise_multiplier == "shared"

    @property
    def expected(self) -> float:
        """The public denominator of a step."""
        assert isinstance(self.rows, int), "schedule.at() has put a number in place of a table"
        return self.rate * self.rows

    def at(self, client: ClientId) -> PrivateSteps:
        """Return the steps of one client.

        Raises:
            ComponentError: When ``rows`` is a table without this client.
        """
        if not isinstance(self.rows, Mapping):
            return self
        if client not in self.rows:
            raise ComponentError(f"private: rows has no entry for client {client!r}")
        return replace(self, rows=self.rows[client])


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseGrid:
    """The integers that a noised sum is made of.

    The exact sum is rounded to the nearest step, whatever it is. Two sums that differ by a vector ``g`` of norm at most
    ``2**bits`` are then rounded to integers that differ from each other by less than one more step a coordinate, so by
    a norm of at most ``l2 = 2**bits + sqrt(dim)``.
    """

    bits: int
    """The clip is ``2**bits`` steps."""
    l2: float
    """Bound on what one row changes, in steps, rounding included."""
    sigma: int
    """Standard deviation of one draw, in steps, rounded up."""
    draws: int
    """Independent draws that are added."""
    dim: int

    @property
    def inflation(self) -> float:
        """The part of the clip that rounding adds to the bound."""
        return self.l2 / 2.0**self.bits - 1

    @property
    def event(self) -> DpEvent:
        """One noised sum, without its sampling."""
        return DiscreteGaussianDpEvent(float(self.sigma), self.l2, self.dim, self.draws)


def noise_grid(noise_multiplier: float, dim: int) -> NoiseGrid:
    """Return the finest grid on which the noise keeps to ``MOST_SIGMA``; several draws where rounding asks for more.

    Raises:
        ComponentError: When the noise needs more draws than are reasonable: it is far too large, or the model is.

    Example:
        >>> grid = noise_grid(1.1, 101)
        >>> grid.bits, grid.sigma, grid.draws, round(grid.inflation, 4)
        (11, 2264, 1, 0.0049)
    """
    finest = (bits for bits in range(MOST_BITS, -1, -1) if noise_multiplier * _bound(bits, dim) <= MOST_SIGMA)
    bits, draws = next(finest, 0), 1
    if math.sqrt(dim) > MOST_INFLATION * 2**bits or noise_multiplier * _bound(bits, dim) > MOST_SIGMA:
        bits = max(0, math.ceil(math.log2(math.sqrt(dim) / MOST_INFLATION)))
        draws = draws_of(noise_multiplier, _bound(bits, dim))
    if draws > MOST_DRAWS or bits > MOST_BITS:
        raise ComponentError(
            f"noise_multiplier = {noise_multiplier} over {dim} parameters is the sum of {draws} draws of "
            f"integer noise; at most {MOST_DRAWS} are reasonable. Choose less noise, or a smaller model"
        )
    bound = _bound(bits, dim)
    return NoiseGrid(bits=bits, l2=bound, sigma=share_sigma(noise_multiplier, bound, draws), draws=draws, dim=dim)


def record_event(private: PrivateSteps, *, steps: int, dim: int) -> DpEvent:
    """Return what one client's local work of one round releases about a row, wherever its result goes.

    Args:
        private: How each step protects its rows.
        steps: Local steps.
        dim: Number of parameters.

    Raises:
        ComponentError: Under shared noise: what adds it prices it.

    Example:
        >>> private = PrivateSteps(clip=1.0, noise_multiplier=1.1, rate=0.05, rows=200)
        >>> event = record_event(private, steps=20, dim=101)
        >>> event.count, event.event.rate, event.event.event.sigma
        (20, 0.05, 2264.0)
    """
    noise = private.noise_multiplier
    if isinstance(noise, str):
        raise ComponentError('private: noise_multiplier = "shared" is priced by the stage that adds the noise')
    event = noise_grid(noise, dim).event
    if private.rate < 1:
        event = PoissonSampledDpEvent(private.rate, event)
    return event if steps == 1 else SelfComposedDpEvent(event, steps)


def record_bound(private: PrivateSteps, *, learning_rate: float) -> float:
    """Return what one row can change in a client's delta under shared noise, in the norm, in parameter units.

    ``learning_rate * clip / expected``, and a little for the rounding of the float64 numbers between the client's exact
    sum and its delta: the learner refuses where public numbers say that the little is not enough (``room_for``).

    Example:
        >>> private = PrivateSteps(clip=2.0, noise_multiplier="shared", rate=0.1, rows=200)
        >>> round(record_bound(private, learning_rate=0.5), 4)
        0.05
    """
    return learning_rate * private.clip / private.expected * (1 + _SLACK)


def room_for(bound: float, dim: int) -> float:
    """Return the largest parameter, and step, that float64 rounds finely enough for ``bound``.

    From the exact sum to the integers that travel there are a dozen roundings, each of at most ``2**-53`` of a number
    below this; 16 of them in every coordinate, for two neighbours, stay within the slack of ``record_bound``.
    """
    return bound * _SLACK / (math.sqrt(dim) * 2 * 16 * 2.0**-53)


def _bound(bits: int, dim: int) -> float:
    return math.nextafter(2.0**bits + math.sqrt(dim), math.inf)
