"""Answers: what a site makes of a task: its worker trains, its policy decides, and what comes of it is written down.

Rows are read in a worker process that has no key; the vector that it returns is hidden here, where the keys are. An
answer becomes durable in one transaction with the client's new state and its side of a secure sum.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from fedloom.core import codec
from fedloom.core.aggregator import Aggregator, SumRound
from fedloom.core.component import ComponentSpec
from fedloom.core.ids import RunId
from fedloom.core.keys import Key, Keys
from fedloom.core.messages import AggregatorMessage, AggregatorRequest, ClientMessage, Failed, Program, Refused
from fedloom.core.roster import Identity, Roster
from fedloom.core.wire import WireType
from fedloom.engines.pipes import log_again
from fedloom.engines.secrets import rehearsed_secret
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.engines.site_gate import Gate, Refusing
from fedloom.engines.site_hand import Limits, WorkerGone
from fedloom.engines.site_messages import Looked, SiteSetup, Train, Trained, wire_of
from fedloom.engines.site_post import Post
from fedloom.engines.site_runs import KeptExperiments, aggregator_of, read_experiment
from fedloom.entropy import fresh_secret
from fedloom.errors import CodecError, Error, PlanError
from fedloom.experiment.remote import RunFacts, read_facts
from fedloom.experiment.spec import Experiment
from fedloom.runtime.on_the_wire import decode_request
from fedloom.runtime.sum_side import SumSide
from fedloom.store.federation_rows import RoundKey
from fedloom.store.site_rows import Outgoing
from fedloom.store.site_store import SiteStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteData:
    """Where a site's rows lie, by its own policy."""

    source: ComponentSpec
    base: Path
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run, as a site looks at it before it says yes."""

    run: RunId
    experiment: Experiment
    facts: RunFacts
    received: bytes = b""
    """The experiment as it came, versions and all."""


Judge = Callable[[Asked], tuple[str, ...]]
"""Returns the codes of what speaks against a run; none: it may run here."""


class Hand(Protocol):
    """What trains for one run: ``SiteHand``, whose worker is a process."""

    def look(self) -> Looked:
        """Return what the site has."""
        ...

    def train(self, asked: Train) -> Trained:
        """Return what came of an order."""
        ...

    def cancel(self) -> None:
        """End what it is at, from another thread."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class MakeHand(Protocol):
    """Makes the hand of a run that begins."""

    def __call__(self, setup: SiteSetup, *, limits: Limits, moved: Callable[[], None]) -> Hand:
        """Return it."""
        ...


@dataclass(slots=True)
class _Work:
    """A run at this site."""

    experiment: Experiment
    digest: str
    """Of the experiment: to make it costs more than a step of a sum."""
    data: SiteData
    hand: Hand
    aggregators: dict[Program, Aggregator] = field(default_factory=dict)
    wires: dict[tuple[int, str], WireType] = field(default_factory=dict)


class Answers:
    """Makes the answers of one site, a task at a time.

    Args:
        post: Writes them down.
        store: The site's own.
        identity: The site's key.
        roster: Whom the operator has approved.
        data: By the digest of an experiment's data: where the rows lie.
        judge: Whether a run may happen here.
        gate: Asked before each task of a run that was approved.
        limits: What a worker that begins may take.
        rehearsal: Draw secrets from the seed: synthetic or public data only.
        hand: What trains for a run.
        moved: Called whenever a worker says that it goes on.
    """

    def __init__(
        self,
        post: Post,
        store: SiteStore,
        identity: Identity,
        *,
        roster: Callable[[], Roster],
        data: Callable[[Experiment], SiteData],
        judge: Judge,
        gate: Gate,
        limits: Callable[[], Limits],
        rehearsal: bool,
        hand: MakeHand,
        moved: Callable[[], None],
    ) -> None:
        self._post = post
        self._store = store
        self._identity = identity
        self._roster = roster
        self._data = data
        self._judge = judge
        self._gate = gate
        self._limits = limits
        self._rehearsal = rehearsal
        self._make_hand = hand
        self._moved = moved
        self._runs: dict[RunId, _Work] = {}
        self._experiments = KeptExperiments(store.folder / "experiments")
        self._at_work: Hand | None = None

    def make(self, key: RoundKey, step: int, inputs: list[bytes]) -> Outgoing:
        """Make the answer to a task and write it down.

        Raises:
            Undecided: When nothing is answered yet.
            StoreError: When it cannot be written.
        """
        try:
            with_facts = step > 0 if key.phase == HANDSHAKE else step == 0
            due = 2 if with_facts else 1
            if len(inputs) != due:
                raise CodecError(f"a task of this kind comes with {due} contents, this one with {len(inputs)}")
            if self._gate.follow(key.run):
                self.end_workers()
            if key.phase == HANDSHAKE:
                return self._handshake(key, step, inputs)
            return self._sum(key, step, inputs[0]) if step else self._order(key, inputs[0], read_facts(inputs[1]))
        except WorkerGone as gone:
            log.warning("run=%s round=%s the worker is gone: %s", key.run, key.round, gone)
            return self._post.write(
                key, step, Failed(round=key.round, retry=key.retry, kind="crashed", detail=gone.code)
            )
        except (CodecError, PlanError) as error:
            log.warning("run=%s round=%s cannot be carried out: %s", key.run, key.round, error)
            refused = Refused(round=key.round, retry=key.retry, reason=_code_of(error))
            return self._post.write(key, step, refused)

    def cancel(self) -> bool:
        """End what a worker is at, from another thread; return whether one was at work."""
        hand = self._at_work
        if hand is not None:
            hand.cancel()
        return hand is not None

    def done(self) -> None:
        """Note that no worker is at work any more: what was made of the task is written down, or nothing was."""
        self._at_work = None

    def rest(self, *, but: Collection[RunId]) -> None:
        """End the workers of all runs but these; they begin anew when they are asked."""
        for run, work in self._runs.items():
            if run not in but:
                work.hand.close()

    def forget(self, run: RunId) -> None:
        """Let go of a run: its worker, and the experiment that was kept."""
        work = self._runs.pop(run, None)
        if work is not None:
            work.hand.close()
        self._experiments.forget(run)

    def end_workers(self) -> None:
        """End the workers, so that the next are begun by the rules of now."""
        for work in self._runs.values():
            work.hand.close()
        self._runs.clear()

    def _handshake(self, key: RoundKey, step: int, inputs: list[bytes]) -> Outgoing:
        work = self._work(key.run, inputs[0])
        if step == 0:
            self._at_work = work.hand
            looked = work.hand.look()
            work.hand.close()  # until the run is approved, which may take days, no process holds its rows
            return self._post.write_bytes(key, step, looked.facts)
        facts = read_facts(inputs[1])
        reasons = self._judge(Asked(run=key.run, experiment=work.experiment, facts=facts, received=inputs[0]))
        if reasons:
            log.warning("run=%s is refused here: %s", key.run, ", ".join(reasons))
            return self._post.write(key, step, Refused(round=key.round, retry=key.retry, reason=reasons[0]))
        return self._post.write_bytes(key, step, facts.digest.encode())

    def _order(self, key: RoundKey, order: bytes, facts: RunFacts) -> Outgoing:
        self._gate.allow(key, 0, facts)
        work = self._runs.get(key.run)
        if work is None:
            work = self._work(key.run, self._experiments.read(key.run))
        states = self._store.states(key.run, like=None)  # type: ignore[arg-type]
        secret = None if self._rehearsal else fresh_secret().stored()
        self._at_work = work.hand
        trained = work.hand.train(
            Train(
                phase=key.phase,
                facts=facts.canonical,
                program=key.program,
                order=order,
                state=states.load_bytes(self._identity.client),
                secret=secret,
            )
        )
        log_again(trained.log)
        return self._message(key, work, trained)

    def _message(self, key: RoundKey, work: _Work, trained: Trained) -> Outgoing:
        """Hide the vector that came from the worker, and write everything down together."""
        program, wire = key.program, wire_of(trained)
        likes: list[ClientMessage] = [
            Refused(round=key.round, retry=key.retry, reason=""),
            Failed(round=key.round, retry=key.retry, kind="lost", detail=""),
            AggregatorMessage(round=key.round, retry=key.retry, payload=_zeros(wire)),
        ]
        message = codec.decode_one_of(trained.message, likes)
        work.wires[key.phase, program] = wire
        if isinstance(message, AggregatorMessage) and not self._aggregator(work, program).interactive:
            self._gate.release(key)
        with self._store.together("answer"):
            self._store.end_earlier(key)  # whoever orders this round has closed those before it
            if trained.state is not None:
                states = self._store.states(key.run, like=None)  # type: ignore[arg-type]
                states.save_bytes(self._identity.client, trained.state)
            if isinstance(message, AggregatorMessage):
                message = self._hidden(key, work, trained, message)
            aggregator = self._aggregator(work, program)
            hides = aggregator.interactive or work.experiment.privacy is not None
            openly = not hides and self._gate.tells_errors()
            return self._post.write(key, 0, message, aggregator=aggregator, openly=openly)

    def _hidden(self, key: RoundKey, work: _Work, trained: Trained, message: AggregatorMessage) -> ClientMessage:
        aggregator = self._aggregator(work, key.program)
        if not aggregator.interactive:
            return message
        side = self._side(key, work)
        begun = side.begun(key.program, key.round, key.retry)
        if begun is not None:
            return begun
        phase_key = Key(trained.phase_key)
        about = SumRound(
            invited=trained.invited,
            wire=wire_of(trained),
            digest=work.digest,
            phase=key.phase,
            program=key.program,
            round=key.round,
            retry=key.retry,
            key=phase_key,
            order=trained.order_digest,
            run=key.run,
            roster=self._roster(),
        )
        mine = phase_key.child("round", key.round, key.retry).child("client", self._identity.client)
        secret = rehearsed_secret(phase_key, self._identity.client) if self._rehearsal else fresh_secret()
        return side.open(message.payload, about, Keys(mine, secret.child(key.program, key.round, key.retry)))

    def _sum(self, key: RoundKey, step: int, request: bytes) -> Outgoing:
        work = self._runs.get(key.run)
        if work is None:
            work = self._work(key.run, self._experiments.read(key.run))
        self._gate.allow(key, step, None)
        aggregator: Any = self._aggregator(work, key.program)
        if not aggregator.interactive:
            raise CodecError("a second message was asked for in a sum that has one")
        wire = work.wires.get((key.phase, key.program), WireType(dim=None, dtype="uint32"))
        asked: AggregatorRequest = decode_request(request, aggregator, wire)
        if (asked.program, asked.round, asked.retry, asked.step) != (key.program, key.round, key.retry, step):
            raise CodecError("the message is of another round or step than its task")
        if step > aggregator.vector_step:  # from here on an answer may open the sum
            self._gate.release(key)
        with self._store.together("answer"):
            answer = self._side(key, work).answer(asked)
            return self._post.write(key, step, answer, aggregator=aggregator)

    def _side(self, key: RoundKey, work: _Work) -> SumSide:
        return SumSide(
            client=self._identity.client,
            phase=key.phase,
            aggregator=self._aggregator(work, key.program),
            sessions=self._store.sessions(key.run),
            roster=self._roster(),
            identity=self._identity,
        )

    def _work(self, run: RunId, experiment: bytes) -> _Work:
        if run not in self._runs:
            self._experiments.keep(run, experiment)
            built = read_experiment(run, experiment)
            data = self._data(built)
            setup = SiteSetup(
                run=run,
                experiment=experiment,
                base=str(data.base),
                client=self._identity.client,
                source=msgspec.json.encode(data.source),
                columns=data.columns,
            )
            hand = self._make_hand(setup, limits=self._limits(), moved=self._moved)
            self._runs[run] = _Work(built, built.digest, data, hand)
        return self._runs[run]

    def _aggregator(self, work: _Work, program: Program) -> Aggregator:
        if program not in work.aggregators:
            work.aggregators[program] = aggregator_of(work.experiment, program, base=work.data.base)
        return work.aggregators[program]


def _code_of(error: Error) -> str:
    return error.code if isinstance(error, Refusing) else type(error).__name__


def _zeros(wire: WireType) -> Any:
    return np.zeros(wire.dim or 0, wire.dtype)
