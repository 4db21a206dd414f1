"""Coordinator: the server side of one phase of a run as a state machine. No clock, no socket, no file, no thread.

``open_round`` gives the orders of a round, ``receive`` and ``lose`` take what becomes of them, ``advance`` returns
effects up to the next thing that must be durable; the engine performs each and asks again. A crash between any two
effects loses nothing that was counted: the next coordinator starts from the last saved state and comes to the same
bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fedloom.core.aggregator import Abort, Continue, Finish, InteractiveServer, Payload
from fedloom.core.events import NonPrivateDpEvent
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import NO_SECRET, Keys, SecretKey
from fedloom.core.messages import ClientMessage, Failure, Program, RoundOrder
from fedloom.core.params import Vector
from fedloom.core.update import Aggregate
from fedloom.core.wire import SumInfo
from fedloom.errors import AlgorithmError, DataError, Error
from fedloom.runtime.blame import blame
from fedloom.runtime.effects import Append, Closed, Effect, Hold, Keep, Save, Send
from fedloom.runtime.open_round import OpenRound, RoundPart, bytes_down
from fedloom.runtime.plan import RunPlan
from fedloom.runtime.record import Figures, FigureTable, RoundRecord
from fedloom.runtime.state import RunState
from fedloom.runtime.stopping import STEP_NORM
from fedloom.runtime.summary import calibration_of, client_figures, evaluation_figures, fit_figures

S = TypeVar("S")
B = TypeVar("B")
C = TypeVar("C")
log = logging.getLogger(__name__)
_ANSWERED = ("refused", "crashed", "invalid")
"""Failures of clients that were there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """There is no next round; ``failed`` where the run could not go on, in contrast to having reached its end."""

    reason: str
    failed: bool = False


def initial_state(plan: RunPlan[S, B, C], *, prepared: tuple[Any, ...] = (), records: int = 0) -> RunState[S]:
    """Return the state before the first round of a phase."""
    return RunState(
        digest=plan.digest,
        phase=plan.phase,
        round=0,
        retry=0,
        server=plan.algorithm.init(plan.start),
        stages=plan.exchange.pipeline.init(),
        prepared=prepared,
        records=records,
    )


def noise_secret(secret: SecretKey, *, phase: int, round_number: int, retry: int) -> SecretKey:
    """Return what a coordinator draws the noise of a round from: no two rounds, and no two retries, share it."""
    return _round_secret(secret, phase, round_number, retry).child("noise")


def _round_secret(secret: SecretKey, phase: int, round_number: int, retry: int) -> SecretKey:
    return secret.child("phase", phase, "round", round_number, retry)


class Coordinator(Generic[S, B, C]):
    """The server side of one phase.

    Args:
        plan: What is run.
        state: Where it stands: ``initial_state(plan)``, or one that was saved.
        records: The history of this phase, as far as ``state`` has it.
        secret: The coordinator's own entropy, for noise.
    """

    def __init__(
        self,
        plan: RunPlan[S, B, C],
        state: RunState[S],
        records: Sequence[RoundRecord] = (),
        *,
        secret: SecretKey | None = None,
    ) -> None:
        self._plan = plan
        self._state = state
        self._records = list(records)
        self._secret: SecretKey = NO_SECRET if secret is None else secret
        self._open: OpenRound | None = None
        self._closing: Iterator[Sequence[Effect]] | None = None
        self._seconds = 0.0
        self._short = ""

    @property
    def state(self) -> RunState[S]:
        """The state after the last finished step."""
        return self._state

    @property
    def records(self) -> Sequence[RoundRecord]:
        """The history of this phase."""
        return self._records

    @property
    def program(self) -> Program:
        """Of the open round.

        Raises:
            Error: When no round is open.
        """
        if self._open is None:
            raise Error("no round is open")
        return self._open.order.program

    def open_round(self, away: npt.NDArray[np.int64] | None = None) -> Mapping[ClientId, RoundOrder[Any]] | Stopped:
        """Return one order per invited client, or why there is no next round.

        Args:
            away: Indices into the population of clients that cannot be invited, ascending; None: everyone can.

        Raises:
            Error: When a round is open already.
        """
        if self._open is not None:
            raise Error("a round is open: close it by advance() before the next")
        plan, state = self._plan, self._state
        if state.stopped is not None:
            return Stopped(reason=state.stopped)
        if state.retry > plan.policy.retries:
            times = "" if plan.policy.on_short == "stop" else f" {state.retry} times"
            why = f": {self._short}" if self._short else ""
            return Stopped(reason=f"round {state.round + 1} was short of updates{times}{why}", failed=True)
        evaluating = state.pending is not None and plan.evaluation is not None
        program: Program = "evaluate" if evaluating else plan.program
        round_number = RoundNumber(state.round if evaluating else state.round + 1)
        cohort = plan.evaluation.cohort if evaluating and plan.evaluation is not None else plan.cohort
        key = plan.round_key(round_number, state.retry)
        if plan.world is not None and program == "train":
            away = _union(away, plan.world.away(key, round_number, plan.population))
        if plan.private and program == "train":
            # Who is drawn is part of the protection: it comes from secret entropy, and nobody comes for who is away.
            secret = self._round_secret(round_number, state.retry).child("cohort")
            drawn = cohort.draw(secret, plan.population, None)
            drawn = drawn if away is None else np.setdiff1d(drawn, away, assume_unique=True)
        else:
            drawn = cohort.draw(key.child(f"{program} cohort"), plan.population, away)
        clients = [plan.population.id(index) for index in drawn.tolist()]
        algorithm, exchange = plan.program_of(program)
        template: RoundOrder[Any] = RoundOrder(
            round=round_number,
            retry=state.retry,
            digest=plan.digest,
            program=program,
            broadcast=algorithm.broadcast(state.server),
            settings=exchange.pipeline.settings(state.stages if not evaluating else exchange.pipeline.init()),
            invited=len(clients) if exchange.pipeline.aggregator.interactive else None,
        )
        orders = {
            client: replace(template, committed=state.included[client]) if client in state.included else template
            for client in clients
        }
        about = plan.sum_round(template, invited=len(clients))
        self._open = OpenRound(clients, template, exchange, about, Keys(key, self._secret))
        self._open.bytes_down = bytes_down(template, orders)
        return orders

    def charge(self) -> Sequence[Effect]:
        """Return what must be durable before the orders of the open round leave: the event that answering them is."""
        plan = self._plan
        if self._open is None or plan.event is None or not plan.leaves_noised:
            return ()
        return [Append(event=plan.event, round=self._open.order.round, retry=self._open.order.retry)]

    def receive(self, sender: ClientId, message: ClientMessage) -> None:
        """Take one client's message; what is late, doubled or of nobody invited is noted and changes nothing."""
        if self._open is None:
            log.info("client=%s late", sender)
            return
        self._open.receive(sender, message)

    def lose(self, client: ClientId, failure: Failure) -> None:
        """Note that nothing more will come from a client in this round."""
        if self._open is not None:
            self._open.lose(client, failure)

    def partial(self) -> OpenRound:
        """Return an empty copy of the open round for a worker to receive into.

        Raises:
            Error: When no round is open, or the aggregator is not mergeable.
        """
        if self._open is None:
            raise Error("no round is open")
        return self._open.partial()

    def merge(self, part: OpenRound) -> None:
        """Take over what a worker's part of the round has received."""
        if self._open is not None:
            self._open.merge(part)

    def absorb(self, part: RoundPart) -> None:
        """Take over what a worker's part in another process has received."""
        if self._open is not None:
            self._open.absorb(part)

    def advance(self, seconds: float = 0.0) -> Sequence[Effect]:
        """Return the effects up to the next thing that must be durable; empty: it waits for messages, or is done.

        Args:
            seconds: By the engine's clock, since the last time it said so: the record of the round gets them, and a
                stop may read them there.
        """
        if self._open is None:
            return ()
        self._seconds += seconds
        if self._closing is None:
            match self._open.server.advance():
                case Continue(messages):
                    return self._ask(messages)
                case Abort(reason):
                    self._closing = self._close_empty(reason)
                case Finish(total, included):
                    self._closing = self._close(total, included)
        effects = next(self._closing, None)
        if effects is None:
            self._open = self._closing = None
            return ()
        return effects

    def _ask(self, messages: Sequence[tuple[ClientId, Payload]]) -> Sequence[Effect]:
        """Return the effects of messages that go out in mid-sum: what they rest on is stored first."""
        if not messages:
            return ()
        opened = self._opened
        requests = opened.ask(messages)
        return [Hold(cast("InteractiveServer", opened.server)), *(Send(to, request) for to, request in requests)]

    def _close(self, total: Vector, included: tuple[ClientId, ...]) -> Iterator[Sequence[Effect]]:
        opened = self._opened
        order = opened.order
        if order.program == "evaluate":
            yield from self._close_evaluation(total, included)
            return
        needed = self._plan.policy.needed(len(opened.cohort))
        if self._heard(included) < needed:
            yield from self._close_short(
                f"{len(included)} of {len(opened.cohort)} clients sent an update; {needed} are needed"
            )
            return
        pipeline = opened.exchange.pipeline
        yield from self._charged()
        noise = noise_secret(self._secret, phase=self._plan.phase, round_number=order.round, retry=order.retry)
        released = pipeline.release(total, noise)
        if released is not total:
            yield [Keep(released=released, included=included, round=order.round, retry=order.retry)]
        aggregate, stages = self._aggregate(released, len(included))
        server = self._step(aggregate)
        figures = fit_figures(aggregate.metrics) | self._moved(server)
        record = self._timed(opened.record("closed", included, figures))
        self._state = replace(
            self._state,
            round=order.round,
            retry=0,
            server=server,
            stages=stages,
            included=self._included(included, order.round),
            pending=record,
        )
        if self._evaluation_due(record):
            yield [Save(self._state)]
        else:
            yield self._finish_round(record)

    def _close_empty(self, reason: str) -> Iterator[Sequence[Effect]]:
        """Close a round without a sum: where clients of a private run have answered all the same, noise alone is it."""
        opened = self._opened
        needed = max(1, self._plan.policy.needed(len(opened.cohort)))
        wire = opened.exchange.pipeline.sent
        noised = opened.order.program == "train" and not self._plan.leaves_noised
        if noised and self._heard(()) >= needed and wire.dim is not None:
            yield from self._close(np.zeros(wire.dim, wire.dtype), ())
        else:
            yield from self._close_short(reason)

    def _heard(self, included: tuple[ClientId, ...]) -> int:
        """Return how many clients count for the quorum.

        In a private run these are also those whose answer cannot be used. Their rows may be why, and a round that is
        skipped for it would tell of them: they add zero, which the noise covers.
        """
        if not self._plan.private:
            return len(included)
        answered = {client for client, failure in self._opened.failures.items() if failure.kind in _ANSWERED}
        return len(answered.union(included))

    def _charged(self) -> Iterator[Sequence[Effect]]:
        """Yield the event of the sum, unless its parts were charged when they left the clients."""
        plan, order = self._plan, self._opened.order
        if not plan.leaves_noised:
            event = NonPrivateDpEvent() if plan.event is None else plan.event
            yield [Append(event=event, round=order.round, retry=order.retry)]

    def _round_secret(self, round_number: int, retry: int) -> SecretKey:
        return _round_secret(self._secret, self._plan.phase, round_number, retry)

    def _close_evaluation(self, total: Vector, included: tuple[ClientId, ...]) -> Iterator[Sequence[Effect]]:
        opened, plan = self._opened, self._plan
        record, evaluation, learner = self._state.pending, plan.evaluation, plan.learner
        assert record is not None and evaluation is not None and learner is not None, (
            "an evaluation round has all three"
        )
        info = self._info(len(included))
        decoded, _ = opened.exchange.pipeline.decode(total, opened.exchange.pipeline.init(), info)
        metrics = opened.exchange.read_metrics(decoded)
        clients = {client: client_figures(opened.scores[client]) for client in included if opened.scores.get(client)}
        figures = evaluation_figures(learner, evaluation.splits, metrics, clients)
        calibration = calibration_of(metrics)
        yield self._finish_round(self._timed(opened.extend(record, figures, FigureTable.of(clients), calibration)))

    def _close_short(self, reason: str) -> Iterator[Sequence[Effect]]:
        opened, policy = self._opened, self._plan.policy
        order = opened.order
        if order.program == "evaluate":
            record = self._state.pending
            assert record is not None, "an evaluation round has a pending record"
            yield self._finish_round(self._timed(opened.extend(record, {})))
            return
        if self._plan.private:  # what a round without a release tells of its clients is charged as the release is
            yield from self._charged()
        if not opened.cohort or policy.on_short == "skip" or self._plan.private:
            self._state = replace(self._state, round=order.round, retry=0)
            yield self._finish_round(self._timed(opened.record("skipped", (), {})))
            return
        stop = policy.on_short == "stop" or order.retry >= policy.retries
        log.warning("round=%s retry=%s short: %s", order.round, order.retry, reason)
        self._short = reason
        self._state = replace(self._state, retry=policy.retries + 1 if stop else order.retry + 1)
        record = self._timed(opened.record("retried", (), {}))
        self._records.append(record)
        self._state = replace(self._state, records=self._state.records + 1)
        yield [Closed(record), Save(self._state)]

    def _finish_round(self, record: RoundRecord) -> Sequence[Effect]:
        """Commit a round's record, and with it the decision whether the phase ends."""
        self._records.append(record)
        stopped = self._plan.stop.holds(self._records)
        if stopped is None and self._plan.program == "query" and self._query_done():
            stopped = "answered"
        self._state = replace(self._state, pending=None, records=self._state.records + 1, stopped=stopped)
        # The record first: a state counts the records before it, and a record whose state was not saved is cut off.
        return [Closed(record), Save(self._state)]

    def _timed(self, record: RoundRecord) -> RoundRecord:
        """Return a record with the seconds that have not been put in one."""
        record = replace(record, seconds=record.seconds + self._seconds)
        self._seconds = 0.0
        return record

    def _moved(self, server: S) -> Figures:
        """Return how far a step took the published parameters."""
        if self._plan.program != "train":
            return {}
        params = self._plan.algorithm.params
        change = params(server).astype(np.float64) - params(self._state.server)
        return {STEP_NORM: math.sqrt(float(np.square(change).sum()))}

    def _evaluation_due(self, record: RoundRecord) -> bool:
        evaluation = self._plan.evaluation
        if evaluation is None:
            return False
        last = self._plan.stop.holds([*self._records, record]) is not None
        return last or record.round % evaluation.every == 0

    def _query_done(self) -> bool:
        done = self._plan.done
        return done is not None and done(self._state.server)

    def _aggregate(self, released: Vector, clients: int) -> tuple[Aggregate, tuple[Any, ...]]:
        opened, plan = self._opened, self._plan
        info = self._info(clients)
        decoded, stages = opened.exchange.pipeline.decode(released, self._state.stages, info)
        if not np.isfinite(decoded).all():
            raise AlgorithmError(
                f"round {opened.order.round}: the aggregate holds a NaN or an infinity though every update was finite: "
                "the sum overflowed, or its weights are all zero"
            )
        by_rows = plan.algorithm.weighting == "examples" and plan.algorithm.needs.examples
        aggregate = opened.exchange.aggregate(
            decoded,
            clients=info.expected_clients if plan.private else clients,
            population=len(plan.population),
            examples=plan.population.examples if by_rows else None,
            round_number=opened.order.round,
        )
        return aggregate, stages

    def _step(self, aggregate: Aggregate) -> S:
        algorithm = self._plan.algorithm
        try:
            server = algorithm.step(self._state.server, aggregate)
            params = algorithm.params(server)
        except Exception as error:
            if self._plan.program == "query" and isinstance(error, DataError):
                raise  # what the clients hold has no answer: the rows or the setting are to blame, not the step
            raise AlgorithmError(
                f"round {aggregate.round}: the server step of {algorithm.name} raised {type(error).__name__}: {error} "
                f"({blame(error)}). Nothing of this round was committed: mend it and resume"
            ) from error
        if not np.isfinite(params).all():
            raise AlgorithmError(
                f"round {aggregate.round}: the server step of {algorithm.name} gave a NaN or an infinity; the round "
                "was not committed. Lower the server's learning rate and start again"
            )
        return server

    def _included(self, included: tuple[ClientId, ...], round_number: RoundNumber) -> Mapping[ClientId, RoundNumber]:
        if not self._plan.stateful:
            return self._state.included
        return {**self._state.included, **dict.fromkeys(included, round_number)}

    def _info(self, clients: int) -> SumInfo:
        expected = self._plan.cohort.expected(len(self._plan.population))
        known = round(expected) if self._plan.private else clients
        return SumInfo(clients=known, expected_clients=expected, round=self._opened.order.round)

    @property
    def _opened(self) -> OpenRound:
        assert self._open is not None, "a round is closed only when it is open"
        return self._open


def _union(one: npt.NDArray[np.int64] | None, other: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
    if one is None or other is None:
        return other if one is None else one
    return np.union1d(one, other)
