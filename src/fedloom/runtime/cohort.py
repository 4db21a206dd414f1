"""Cohorts: which clients are invited to a round, drawn as indices into the population."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec, component
from fedloom.core.events import DpEvent, PoissonSampledDpEvent
from fedloom.core.keys import Stream, distinct, uniforms
from fedloom.errors import ComponentError

Indices: TypeAlias = npt.NDArray[np.int64]
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Draws the clients of a round.

    ``draw(stream, population, away)`` returns ascending indices below ``population``, none of ``away`` (ascending, or
    None), in memory that does not grow with the population beyond 16 bytes a client.
    """

    name: str
    draw: Callable[[Stream, int, Indices | None], Indices]
    expected: Callable[[int], float]
    """Expected size for a population."""
    least: int = 1
    """Clients that the population must have."""
    event: Callable[[DpEvent], DpEvent] = lambda event: event
    """The privacy event of a round, given that of its sum."""
    spec: ComponentSpec | None = None


@component("fedloom.cohorts", "all")
def everyone() -> Cohort:
    """Invite every client that is not away.

    Example:
        >>> from fedloom.core.keys import Key
        >>> everyone().draw(Key.from_seed(0), 4, np.array([1])).tolist()
        [0, 2, 3]
    """

    def draw(_stream: Stream, population: int, away: Indices | None) -> Indices:
        present = np.arange(population)
        return present if away is None else np.delete(present, away)

    return Cohort(name="all", draw=draw, expected=float)


@component("fedloom.cohorts")
def uniform(size: int) -> Cohort:
    """Invite ``size`` different clients, every set of them equally likely; all present ones when there are fewer.

    Example:
        >>> from fedloom.core.keys import Key
        >>> len(uniform(3).draw(Key.from_seed(0), 1_000_000, None))
        3
    """
    if size < 1:
        raise ComponentError(f"uniform(size={size}): expected 1 or more")

    def draw(stream: Stream, population: int, away: Indices | None) -> Indices:
        present = population - (0 if away is None else len(away))
        chosen = distinct(stream, min(size, present), below=present)
        # The i-th present client lies behind as many away ones as have at most i present ones before them.
        return chosen if away is None else chosen + np.searchsorted(away - np.arange(len(away)), chosen, side="right")

    return Cohort(name="uniform", draw=draw, expected=lambda population: float(min(size, population)), least=size)


@component("fedloom.cohorts")
def poisson(rate: float) -> Cohort:
    """Invite each client independently with probability ``rate``; a cohort may be empty.

    Drawn from the run's public key: whoever knows the seed knows the cohorts, so no amplification may be claimed.

    Example:
        >>> from fedloom.core.keys import Key
        >>> 450 < len(poisson(0.05).draw(Key.from_seed(0), 10_000, None)) < 550
        True
    """
    if not 0 < rate <= 1:
        raise ComponentError(f"poisson(rate={rate}): expected a number above 0, at most 1")

    def draw(stream: Stream, population: int, away: Indices | None) -> Indices:
        chunks = [
            start + np.flatnonzero(uniforms(stream.child(start).random_raw(min(_CHUNK, population - start))) < rate)
            for start in range(0, population, _CHUNK)
        ]
        drawn = np.concatenate(chunks)
        return drawn if away is None else np.setdiff1d(drawn, away, assume_unique=True)

    return Cohort(
        name="poisson",
        draw=draw,
        expected=lambda population: rate * population,
        event=lambda event: PoissonSampledDpEvent(rate, event),
    )
