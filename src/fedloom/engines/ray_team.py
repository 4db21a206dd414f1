"""RayTeam: long-lived workers of a cluster that are dealt stretches of each round, and replaced when they are lost.

Who computes a stretch, and how often it is begun, changes nothing: keys follow client and round, states travel with the
order, and a part is folded into the round once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import numpy as np

from fedloom.core import codec
from fedloom.core.component import Json
from fedloom.core.data import FederatedDataset
from fedloom.core.ids import ClientId
from fedloom.core.messages import RoundOrder
from fedloom.engines.blocks import even_block
from fedloom.engines.pipes import log_again
from fedloom.engines.processes import slot_like, stretches
from fedloom.engines.ray_dealing import TRIES, Dealing, Lost, Place
from fedloom.engines.ray_memory import Memory, fitting
from fedloom.engines.ray_messages import Report, Stretch, encoded
from fedloom.engines.shared_rows import taken_apart
from fedloom.engines.teams import OneMessage, Orders
from fedloom.engines.worker import PLACEHOLDER
from fedloom.engines.worker_messages import Part, Phase, Raised, Setup, Work, round_part
from fedloom.errors import WorkerError
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.spec import Experiment
from fedloom.runtime.coordinator import Coordinator
from fedloom.runtime.ports import MemoryStates, Slot, decode_stored, encode_stored

STRETCHES = 3
"""For each worker and round: enough that a slow one is waited for less, few enough that parts are few nodes."""
START_S = 180.0
"""A run without any worker waits so long for one to start."""
_LISTEN_S = 1.0
log = logging.getLogger(__name__)


class Crew(Protocol):
    """A cluster as a team sees it. Tickets are answered in any order; a worker carries out its tickets one by one."""

    @property
    def most(self) -> int:
        """Most workers that the run may have."""
        ...

    def share(self, setup: Setup, head: bytes, arrays: dict[str, Any]) -> None:
        """Put what every worker starts with where all nodes can read it."""
        ...

    def put(self, data: bytes) -> Any:
        """Put bytes where all nodes can read them."""
        ...

    def hire(self, *, memory: int) -> Any:
        """Start a worker and return it at once; ``memory`` is what its node must have for it, 0 for unknown."""
        ...

    def begin(self, worker: Any, phase: bytes) -> Any:
        """Tell a worker the phase; return a ticket."""
        ...

    def work(self, worker: Any, common: Any, mine: bytes) -> Any:
        """Give a worker a stretch of a round, and what ``put`` returned for it; return a ticket."""
        ...

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return those tickets that have an answer, at once when there is one, else none after ``timeout_s``."""
        ...

    def take(self, ticket: Any) -> Report:
        """Return the answer to a ticket.

        Raises:
            Lost: When the worker was lost before.
        """
        ...

    def dismiss(self, worker: Any) -> None:
        """End a worker, whatever it does."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Member:
    """A worker as the team knows it."""

    number: int
    worker: Any
    ticket: Any
    """Of what it was asked last; None when it has answered."""
    place: Place | None = None
    """The stretch that it computes."""
    memory: Memory | None = None
    """None until it has taken up its first phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What a stretch of one round is made of."""

    common: Any
    clients: tuple[ClientId, ...]
    orders: Orders
    states: Callable[[ClientId], bytes] | None
    dealing: Dealing

    def stretch(self, place: Place) -> bytes:
        clients = self.clients[place.start : place.stop]
        committed = [-1 if (last := self.orders[client].committed) is None else last for client in clients]
        kept = () if self.states is None else tuple(map(self.states, clients))
        stretch = Stretch(
            start=place.start, stop=place.stop, committed=np.array(committed, np.int64).tobytes(), states=kept
        )
        return encoded(stretch)


class RayTeam(OneMessage):
    """The workers of one run on a cluster. They are started at the first phase and end with the block."""

    def __init__(
        self,
        crew: Crew,
        experiment: Experiment,
        data: FederatedDataset,
        states: MemoryStates,
        *,
        base: str,
        strict: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crew = crew
        self._experiment = experiment
        self._data = data
        self._states = states
        self._base = base
        self._strict = strict
        self._clock = clock
        self._members: list[_Member] = []
        self._most = crew.most
        self._hired = 0
        self._never_came = 0
        self._phase = b""
        self._peaks: dict[str, int] = {}
        """Highest peak of a worker in this phase, by machine."""
        self._lost: Lost | None = None

    def begin(self, plan: AnyPlan, prepared: Sequence[Json]) -> None:
        """Put the rows into the cluster where they are not, and tell the workers the phase."""
        if not self._phase:
            tree = {**self._experiment.as_json(), "data": PLACEHOLDER}
            encoded_tree = msgspec.json.encode(tree)
            setup = Setup(experiment=encoded_tree, base=self._base, rows="", strict=self._strict)
            self._crew.share(setup, *taken_apart(self._data))
        self._phase = encoded(
            Phase(
                number=plan.phase,
                digest=plan.digest,
                prepared=msgspec.json.encode(list(prepared)),
                splits=() if plan.evaluation is None else plan.evaluation.splits,
            )
        )
        self._peaks.clear()
        for member in self._members:
            member.ticket = self._crew.begin(member.worker, self._phase)
        self._hire()

    def work(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], orders: Orders, *, block: int) -> None:
        """Carry out the orders of a round: whoever is free takes the next stretch of whole blocks.

        Raises:
            WorkerError: When a worker raised, or workers are lost again and again.
        """
        if not orders:
            return
        like = slot_like(plan) if plan.stateful else None
        block = even_block(plan, len(orders), block, STRETCHES * self._most)
        current = self._open(plan, orders, block=block, stateful=plan.stateful)
        waited_since = self._clock()
        while current.dealing.left:
            self._hire()
            self._deal(current)
            for member, part in self._hear(current):
                self._absorb(coordinator, part, like)
                current.dealing.done()
                member.place = None
            if any(member.memory is not None for member in self._members):
                waited_since = self._clock()
            elif self._clock() - waited_since > START_S:
                raise self._nobody()

    def _open(self, plan: AnyPlan, orders: Orders, *, block: int, stateful: bool) -> _Round:
        clients = tuple(orders)
        template: RoundOrder[Any] = replace(orders[clients[0]], committed=None)
        population = plan.population
        indices = np.array([population.index(client) for client in clients], np.int64)
        common = Work(
            program=template.program,
            order=codec.encode(template),
            cohort=indices.tobytes(),
            start=0,
            stop=0,
            block=block,
            committed=b"",
            states=(),
        )
        return _Round(
            common=self._crew.put(encoded(common)),
            clients=clients,
            orders=orders,
            states=(lambda client: encode_stored(self._states.load(client))) if stateful else None,
            dealing=Dealing(stretches(population, indices, block, STRETCHES * self._most)),
        )

    def _hire(self) -> None:
        """Start one worker; when it has come and its memory is known, the others."""
        known = [member.memory for member in self._members if member.memory is not None]
        wanted = self._most if known else 1
        while len(self._members) < wanted and self._never_came < TRIES:
            worker = self._crew.hire(memory=max((memory.own for memory in known), default=0))
            ticket = self._crew.begin(worker, self._phase)
            self._members.append(_Member(number=self._hired, worker=worker, ticket=ticket))
            self._hired += 1

    def _deal(self, current: _Round) -> None:
        for member in self._members:
            if not current.dealing.waiting:
                return
            if member.ticket is None and self._may_begin(member):
                member.place = current.dealing.take()
                member.ticket = self._crew.work(member.worker, current.common, current.stretch(member.place))

    def _may_begin(self, member: _Member) -> bool:
        """Tell whether a free worker may compute: a phase's first stretch is alone on its machine, to be measured."""
        machine = _machine(member)
        others = (other for other in self._members if _machine(other) == machine)
        return machine in self._peaks or all(other.place is None for other in others)

    def _hear(self, current: _Round) -> Iterator[tuple[_Member, Part]]:
        """Wait for answers and yield the parts among them."""
        asked = {member.ticket: member for member in self._members if member.ticket is not None}
        for ticket in self._crew.wait(list(asked), _LISTEN_S):
            member = asked[ticket]
            if member not in self._members:
                continue  # let go a moment ago
            try:
                report = self._crew.take(ticket)
            except Lost as lost:
                self._lose(member, lost, current)
                continue
            if isinstance(report.answer, Raised):
                raised = report.answer
                raise WorkerError(f"worker {member.number} raised {raised.text}\n{raised.trace.rstrip()}")
            member.ticket, member.memory = None, report.memory
            if isinstance(report.answer, Part):
                machine = report.memory.machine
                self._peaks[machine] = max(self._peaks.get(machine, 0), report.memory.peak)
                yield member, report.answer
            else:
                self._never_came = 0
            self._fit(member)

    def _absorb(self, coordinator: Coordinator[Any, Any, Any], part: Part, like: Slot | None) -> None:
        coordinator.absorb(round_part(part))
        log_again(part.log)
        for client, data in part.states.items():
            assert like is not None, "clients keep something only where the plan says so"
            self._states.save(ClientId(client), decode_stored(data, like))

    def _lose(self, member: _Member, lost: Lost, current: _Round) -> None:
        """Take leave of a worker that was lost; what it was computing is done again."""
        self._lost = lost
        self._members.remove(member)
        self._crew.dismiss(member.worker)
        log.warning("worker=%d lost: %s", member.number, lost.why)
        if member.memory is None:
            self._never_came += 1
        if lost.memory and self._members:
            self._most = max(1, self._most - 1)  # in its place the next would be lost too
        if member.place is not None:
            current.dealing.again(member.place, lost, current.clients)
        if not self._members and self._never_came >= TRIES:
            raise self._nobody()

    def _fit(self, measured: _Member) -> None:
        """Let those workers of a machine go that have no room beside the others at the highest peak seen."""
        assert measured.memory is not None, "it has just been measured"
        machine = measured.memory.machine
        here = [measured, *(other for other in self._members if other is not measured and _machine(other) == machine)]
        memories = [member.memory for member in reversed(here) if member.memory is not None]
        peak = max(self._peaks.get(machine, 0), *(memory.peak for memory in memories))
        room = fitting(memories, peak=peak)
        idle = [member for member in reversed(here) if member.place is None]
        for member in idle[: max(0, len(here) - room)]:
            self._members.remove(member)
            self._crew.dismiss(member.worker)
            self._most = max(1, self._most - 1)
            log.warning(
                "worker=%d let go: a worker holds up to %d MB, and %d of them fit on %s, where %d MB are free",
                member.number,
                peak >> 20,
                room,
                memories[-1].machine,
                memories[-1].free >> 20,
            )

    def _nobody(self) -> WorkerError:
        why = "" if self._lost is None else f" (the last was lost: {self._lost.why})"
        return WorkerError(
            f"no worker is there, and none could be started in {START_S:.0f} s{why}: the cluster has no room for one, "
            "or its nodes cannot run this version of fedloom; what was committed is kept: resume the run"
        )

    def __enter__(self) -> Self:
        """Return the team."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""
        for member in self._members:
            self._crew.dismiss(member.worker)
        self._members.clear()


def _machine(member: _Member) -> str | None:
    return None if member.memory is None else member.memory.machine
