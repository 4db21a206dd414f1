"""Simulation of an imperfect world: clients that are away, replies that are lost, clients that are slow.

What happens is a function of the run's seed, the round, its repetition and the client's name: the same in any order of
work, and whoever else takes part. It happens to training alone: preparations and evaluations reach every client.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import GeneratorType
from typing import Any, Literal, cast

import numpy as np
from msgspec import structs

from fedloom.core.algorithm import AnyAlgorithm, ClientContext, ClientProgram
from fedloom.core.data import Population
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, uniforms
from fedloom.core.messages import Failure
from fedloom.core.schedule import Schedule
from fedloom.core.update import Update
from fedloom.core.work import LocalWork
from fedloom.errors import ComponentError, DataError, PlanError
from fedloom.runtime.cohort import Indices

Absences = Mapping[str, Sequence[Sequence[int]]]
"""By client: the first and the last round of each time it is away."""


LAST_STEP = 4
"""Of the longest sum: a client's fifth message."""
VECTOR_STEP = 2
"""Up to this step a client that is lost is in no sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    """A pattern that repeats: of every ``period`` rounds a client is away for ``share``, from a round of its own on.

    Raises:
        ComponentError: When a number is outside its range.
    """

    period: int
    share: float

    def __post_init__(self) -> None:
        """Check both numbers once, where they are written."""
        if self.period < 2:
            raise ComponentError(f"simulate: daily.period = {self.period}; expected 2 rounds or more")
        if not 0 < self.share < 1:
            raise ComponentError(f"simulate: daily.share = {self.share}; expected a number between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What is imperfect in the simulated world. A client is away where any of ``away``, ``daily``, ``absences`` says.

    Who is away is not invited. Who drops out has computed, and its reply is lost: the coordinator sees a failure
    "lost". A slow client is slow in every round; it is "late" every time, or it does a part of its local steps.

    Args:
        away: Chance of each client to be away in a round; drawn again when a round is repeated.
        daily: A pattern that repeats.
        absences: By client, pairs of the first and the last round that it is away.
        dropout: Chance of each invited client to drop out of a round.
        losses: By client, pairs of a round and a step: in the first try of that round the client is lost before its
            message of that step. Steps 0, 1 and 2 come before its vector is in the sum; a sum of one message has all
            three in one. From step 3 on it is in a secure sum already, and in any other too.
        stragglers: Chance of each client to be slow, drawn once for the whole run.
        slow: What becomes of a slow client: "late" or "partial".
        work: With "partial": the part of its local steps that a slow client does, rounded down, one at least.

    Raises:
        ComponentError: When a number is outside its range.

    Source:
        Li et al. 2020, arXiv:1812.06127, Section 5.2: stragglers that do less local work ("partial"), or are dropped as
        FedAvg would drop them ("late"). There who is slow, and how much, is drawn each round; here a client is slow in
        all of them and does ``work`` (differs).

    Example:
        >>> Simulation(dropout=0.1, absences={"north": [[3, 5]]}).away
        0.0
    """

    away: float = 0.0
    daily: Daily | None = None
    absences: Absences | None = None
    dropout: float = 0.0
    losses: Absences | None = None
    stragglers: float = 0.0
    slow: Literal["late", "partial"] = "late"
    work: float = 0.5

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        for name, chance in [("away", self.away), ("dropout", self.dropout)]:
            if not 0 <= chance < 1:
                raise ComponentError(f"simulate: {name} = {chance}; expected a chance from 0 up to, not including, 1")
        if self.slow not in ("late", "partial"):
            raise ComponentError(f'simulate: slow = {self.slow!r}; expected "late" or "partial"')
        if not 0 <= self.stragglers <= 1 or (self.stragglers == 1 and self.slow == "late"):
            raise ComponentError(
                f"simulate: stragglers = {self.stragglers}; expected a chance from 0 to 1, below 1 where slow is late"
            )
        if not 0 < self.work <= 1:
            raise ComponentError(f"simulate: work = {self.work}; expected a part above 0, at most 1")
        for client, pairs in (self.losses or {}).items():
            for pair in pairs:
                if len(pair) != 2 or pair[0] < 1 or not 0 <= pair[1] <= LAST_STEP:
                    raise ComponentError(
                        f"simulate: losses of {client!r} have {list(pair)}; expected [round, step]: a round from 1 on, "
                        f"a step from 0 to {LAST_STEP}"
                    )
        for client, spans in (self.absences or {}).items():
            for span in spans:
                if len(span) != 2 or not 1 <= span[0] <= span[1]:
                    raise ComponentError(
                        f"simulate: absences of {client!r} have {list(span)}; expected [first, last], rounds from 1 on"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A simulation in one run: who is away, lost and slow."""

    simulation: Simulation
    key: Key
    """Of training: all draws hang below it."""

    def away(self, round_key: Key, round_number: int, population: Population) -> Indices | None:
        """Return the clients that are away in a round, ascending; None where nobody can be.

        With ``away`` or ``daily`` every client is looked at: some microseconds each.
        """
        asked = self.simulation
        spans = (asked.absences or {}).items()
        gone = {
            population.index(ClientId(client))
            for client, times in spans
            if any(first <= round_number <= last for first, last in times)
        }
        if asked.away or asked.daily is not None:
            gone.update(self._absent(round_key.child("simulate", "away"), round_number, population))
        return np.array(sorted(gone), dtype=np.int64) if gone else None

    def failure(self, round_key: Key, client: ClientId) -> Failure | None:
        """Return why an invited client's reply does not arrive in a training round, None where it does."""
        asked = self.simulation
        if asked.dropout and _chance(round_key.child("simulate", "dropout", client)) < asked.dropout:
            return Failure(client=client, phase="train", kind="lost", detail="simulated: the reply was lost")
        if asked.slow == "late" and self.is_slow(client):
            return Failure(client=client, phase="train", kind="late", detail="simulated: the client is slow")
        return None

    def lost_step(self, round_number: int, retry: int, client: ClientId) -> int | None:
        """Return the step of a round before which a client is lost, by the script; None: it is not."""
        scripted = (self.simulation.losses or {}).get(client, ())
        return next((step for number, step in scripted if number == round_number), None) if retry == 0 else None

    def is_slow(self, client: ClientId) -> bool:
        """Return whether a client is a straggler."""
        share = self.simulation.stragglers
        return share > 0 and _chance(self.key.child("simulate", "slow", client)) < share

    def _absent(self, key: Key, round_number: int, population: Population) -> Iterator[int]:
        chance, daily = self.simulation.away, self.simulation.daily
        for index in range(len(population)):
            client = population.id(index)
            if chance and _chance(key.child(client)) < chance:
                yield index
            elif daily is not None:
                start = int(_fixed_chance(self.key.child("simulate", "daily", client)) * daily.period)
                if (round_number + start) % daily.period < daily.share * daily.period:
                    yield index


def check_simulation(simulation: Simulation, population: Population) -> None:
    """Refuse absences of clients that there are not.

    Raises:
        PlanError: When a client is unknown.
    """
    for field, named in (("absences", simulation.absences), ("losses", simulation.losses)):
        for client in named or {}:
            try:
                population.index(ClientId(client))
            except DataError as error:
                raise PlanError(f"simulate.{field}: {error}") from error


def with_partial_work(algorithm: AnyAlgorithm, world: World) -> AnyAlgorithm:
    """Return an algorithm whose slow clients do a part of their local steps.

    The client program is the same; where it asks for local work, the schedule of what it asks for is cut. A part of the
    work is its beginning: the same rows in the same order.
    """

    def client(broadcast: Any, state: Any, ctx: ClientContext) -> ClientProgram[Any]:
        program = algorithm.client(broadcast, state, ctx)
        if not world.is_slow(ctx.client) or not isinstance(program, GeneratorType):
            return program
        return _slowed(program, ctx, world.simulation.work)

    return replace(algorithm, client=client)


def part_of(schedule: Schedule, examples: int, work: float) -> Schedule:
    """Return the first part of a schedule's steps, for a client with so many training rows.

    Example:
        >>> part_of(Schedule(epochs=2, batch_size=10), 45, 0.5).steps
        5
    """
    steps = schedule.steps
    if steps is None:
        full = schedule.batch_size == "full" or schedule.batch_size >= examples
        per_epoch = 1 if full else -(-examples // int(schedule.batch_size))
        steps = (1 if schedule.epochs is None else schedule.epochs) * per_epoch
    assert isinstance(steps, int), "the schedule is that of one client"
    return replace(schedule, epochs=None, steps=max(1, int(work * steps)))


def _slowed(program: ClientProgram[Any], ctx: ClientContext, work: float) -> ClientProgram[Any]:
    try:
        asked = next(program)
        while True:
            if isinstance(asked, LocalWork):
                schedule = part_of(asked.schedule.at(ctx.round, ctx.client), ctx.examples, work)
                asked = structs.replace(asked, schedule=schedule)
            asked = program.send((yield asked))
    except StopIteration as stop:
        return cast("tuple[Update, Any]", stop.value)


def _chance(key: Key) -> float:
    return float(uniforms(key.random_raw(1))[0])


_fixed_chance = functools.lru_cache(maxsize=1 << 17)(_chance)
"""Of draws that are the same in every round."""
