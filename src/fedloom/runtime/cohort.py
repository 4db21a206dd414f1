"""Cohorts: which clients are invited to a round, drawn as indices into the population."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec, component
from fedloom.core.data import Population
from fedloom.core.events import (
    DpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.core.keys import Stream, distinct, uniforms
from fedloom.errors import ComponentError

Indices: TypeAlias = npt.NDArray[np.int64]
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Draws the clients of a round.

    ``draw(stream, population, away)`` returns ascending indices into the population, none of ``away`` (ascending, or
    None), in memory that does not grow with the population beyond 16 bytes a client.
    """

    name: str
    draw: Callable[[Stream, Population, Indices | None], Indices]
    expected: Callable[[int], float]
    """Expected size for a population."""
    least: int = 1
    """Clients that the population must have."""
    most: Callable[[int], int] = lambda population: population
    """Largest size for a population: a sum in Z_m has room for so many."""
    fewest: Callable[[int], int] = lambda _population: 0
    """Smallest size for a population of which nobody is away."""
    event: Callable[[DpEvent, int], DpEvent] = lambda event, _population: event
    """The privacy event of a round, given that of its sum and the number of clients in the population.

    Raises ComponentError where the cohort depends on what clients hold, so that no event covers it.
    """
    spec: ComponentSpec | None = None


@component("fedloom.cohorts", "all")
def everyone() -> Cohort:
    """Invite every client that is not away.

    Example:
        >>> from fedloom.core.keys import Key
        >>> from fedloom.testing import federation
        >>> everyone().draw(Key.from_seed(0), federation([5, 5, 5, 5]).population(), np.array([1])).tolist()
        [0, 2, 3]
    """

    def draw(_stream: Stream, population: Population, away: Indices | None) -> Indices:
        present = np.arange(len(population))
        return present if away is None else np.delete(present, away)

    return Cohort(name="all", draw=draw, expected=float, fewest=int)


@component("fedloom.cohorts")
def uniform(size: int) -> Cohort:
    """Invite ``size`` different clients, every set of them equally likely; all present ones when there are fewer.

    Example:
        >>> from fedloom.core.keys import Key
        >>> from fedloom.testing import federation
        >>> len(uniform(3).draw(Key.from_seed(0), federation([5, 5, 5, 5]).population(), None))
        3
    """
    if size < 1:
        raise ComponentError(f"uniform(size={size}): expected 1 or more")

    def draw(stream: Stream, population: Population, away: Indices | None) -> Indices:
        present = len(population) - (0 if away is None else len(away))
        chosen = distinct(stream, min(size, present), below=present)
        # The i-th present client lies behind as many away ones as have at most i present ones before them.
        return chosen if away is None else chosen + np.searchsorted(away - np.arange(len(away)), chosen, side="right")

    return Cohort(
        name="uniform",
        draw=draw,
        expected=lambda population: float(min(size, population)),
        least=size,
        most=lambda population: min(size, population),
        fewest=lambda population: min(size, population),
        event=lambda event, population: SampledWithoutReplacementDpEvent(population, min(size, population), event),
    )


@component("fedloom.cohorts")
def by_size(size: int) -> Cohort:
    """Invite ``size`` different clients, drawn by their training rows; all that are present when there are fewer.

    The first is a client with the chance of its share of the rows, the next of its share of what is left, and so on.
    So a large client is invited more often than a small one, but less than in proportion to its rows, the more so the
    larger ``size`` is; with one client a round it is in proportion. A client without training rows is never invited.
    The cohort does not change the weights of the mean: with ``weighting = "examples"`` a large client counts twice, by
    being drawn and by its weight; "uniform" leaves the first.

    Source:
        Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", Algorithm A-ES: the largest
        ``u ** (1 / w)``; we take the smallest ``-log(1 - u) / w`` (differs: same order, no underflow). Li et al. 2020,
        arXiv:1812.06127, Algorithm 2, where a device is chosen with probability p_k, is commonly run with replacement;
        this is without.

    Example:
        >>> from fedloom.core.keys import Key
        >>> from fedloom.testing import federation
        >>> by_size(2).draw(Key.from_seed(0), federation([1, 900, 1, 800]).population(), None).tolist()
        [1, 3]
    """
    if size < 1:
        raise ComponentError(f"by_size(size={size}): expected 1 or more")

    def draw(stream: Stream, population: Population, away: Indices | None) -> Indices:
        rows = population.sizes()
        first, waits = np.empty(0, np.int64), np.empty(0)
        for start, drawn in _uniforms(stream, len(population)):
            held = rows[start : start + len(drawn)]
            wait = np.full(len(drawn), np.inf)
            np.divide(-np.log1p(-drawn), held, out=wait, where=held > 0)
            if away is not None:
                low, high = np.searchsorted(away, [start, start + len(drawn)])
                wait[away[low:high] - start] = np.inf
            able = np.flatnonzero(np.isfinite(wait))
            first, waits = np.append(first, start + able), np.append(waits, wait[able])
            best = np.argsort(waits, kind="stable")[:size]
            first, waits = first[best], waits[best]
        return np.sort(first)

    return Cohort(
        name="by_size",
        draw=draw,
        expected=lambda population: float(min(size, population)),
        least=size,
        most=lambda population: min(size, population),
        fewest=lambda population: min(size, population),
        event=_by_rows,
    )


def _by_rows(_event: DpEvent, _population: int) -> DpEvent:
    raise ComponentError(
        "cohort.by_size draws clients by their number of rows, so that cohorts tell of the rows: a private run needs "
        "poisson, truncated_poisson, uniform or all"
    )


@component("fedloom.cohorts")
def poisson(rate: float) -> Cohort:
    """Invite each client independently with probability ``rate``; a cohort may be empty.

    In a private run it is drawn from secret entropy, and counts: one who sees the models and no cohort knows less of
    each client. Elsewhere it is drawn from the run's public key.

    Example:
        >>> from fedloom.core.keys import Key
        >>> from fedloom.testing import federation
        >>> poisson(0.5).draw(Key.from_seed(0), federation([5, 5, 5, 5]).population(), None).tolist()
        [3]
    """
    if not 0 < rate <= 1:
        raise ComponentError(f"poisson(rate={rate}): expected a number above 0, at most 1")

    def draw(stream: Stream, population: Population, away: Indices | None) -> Indices:
        chunks = [start + np.flatnonzero(drawn < rate) for start, drawn in _uniforms(stream, len(population))]
        drawn = np.concatenate(chunks)
        return drawn if away is None else np.setdiff1d(drawn, away, assume_unique=True)

    return Cohort(
        name="poisson",
        draw=draw,
        expected=lambda population: rate * population,
        event=lambda event, _population: PoissonSampledDpEvent(rate, event),
    )


@component("fedloom.cohorts")
def truncated_poisson(rate: float, most: int) -> Cohort:
    """Invite as ``poisson``; of more than ``most`` clients, keep that many, every set of them equally likely.

    A sum of integers must have room for the largest cohort: a cap leaves more bits for each client than the whole
    population would. It costs a little privacy, which the event says.

    Source: Chua, Ghazi, Kamath, Kumar, Manurangsi, Sinha, Zhang 2024, arXiv:2406.16305 ("truncated Poisson batches").

    Example:
        >>> from fedloom.core.keys import Key
        >>> from fedloom.testing import federation
        >>> truncated_poisson(1.0, 2).draw(Key.from_seed(0), federation([5, 5, 5, 5]).population(), None).tolist()
        [0, 2]
    """
    if most < 1:
        raise ComponentError(f"truncated_poisson(most={most}): expected 1 or more")
    drawn_alone = poisson(rate)

    def draw(stream: Stream, population: Population, away: Indices | None) -> Indices:
        drawn = drawn_alone.draw(stream, population, away)
        if len(drawn) <= most:
            return drawn
        return drawn[distinct(stream.child("kept"), most, below=len(drawn))]

    return Cohort(
        name="truncated_poisson",
        draw=draw,
        expected=lambda population: min(rate * population, float(most)),
        most=lambda population: min(most, population),
        event=lambda event, population: TruncatedPoissonSampledDpEvent(rate, population, most, event),
    )


def _uniforms(stream: Stream, count: int) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Yield a number in [0, 1) for each client, in chunks, with the index of each chunk's first."""
    for start in range(0, count, _CHUNK):
        yield start, uniforms(stream.child(start).random_raw(min(_CHUNK, count - start)))
