"""ClientNode: the client side of a round, without IO; one client, or a block, by the same path.

``begin`` starts a program for each order, ``drive`` answers all programs in waves, ``finish`` encodes what they return.
A client alone is a block of one. Programs are answered together, but each update is made, encoded and handed on before
the next one: a block of large updates would pass through memory once for every step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import GeneratorType
from typing import Any, Generic, TypeVar

import numpy as np
from msgspec import Struct, structs

from fedloom.core.aggregator import SumRound
from fedloom.core.algorithm import Algorithm, AnyAlgorithm, ClientContext, ClientProgram
from fedloom.core.data import ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.keys import NO_SECRET, Keys, SecretKey
from fedloom.core.learner import Job, Learner
from fedloom.core.messages import (
    AggregatorMessage,
    AggregatorRequest,
    ClientMessage,
    Failed,
    FailureKind,
    Refused,
    RoundOrder,
)
from fedloom.core.messages import Program as ProgramName
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Roster
from fedloom.core.update import Update
from fedloom.core.wire import WireType
from fedloom.core.work import (
    ClientReply,
    ClientRequest,
    EvaluationResult,
    LocalEvaluation,
    LocalGradient,
    LocalQuery,
    LocalResult,
    LocalWork,
    QueryResult,
)
from fedloom.errors import PlanError
from fedloom.runtime.blame import blame, place_of
from fedloom.runtime.exchange import Exchange
from fedloom.runtime.plan import RunPlan
from fedloom.runtime.ports import NOTHING_STORED, ClientStates, Slot, StoredState
from fedloom.runtime.priced_work import check_priced
from fedloom.runtime.sessions import Sessions
from fedloom.runtime.sum_side import SumSide

B = TypeVar("B")
C = TypeVar("C")
log = logging.getLogger(__name__)
_ENCODED_BYTES = 1 << 20
"""Updates that are encoded at once: as many as share the cost of a stage's calls and stay in the cache."""


class ClientNode(Struct, Generic[B, C], frozen=True, kw_only=True):
    """One client: its rows, its state, the plan it has checked, and its secrets."""

    client: ClientId
    plan: RunPlan[Any, B, C]
    data: ClientDataset
    states: ClientStates
    secret: SecretKey = NO_SECRET
    sessions: Sessions | None = None
    """Where client sides of interactive sums are kept; a plan with such a sum needs it."""
    identity: Identity | None = None
    """The client's own key, where messages of a sum are signed; None: a simulated one."""
    roster: Roster | None = None
    """Whom the client has approved to take part; None: simulated."""
    debug: bool = False
    """Raise a program's exception in place, for work on an algorithm or learner."""

    def receive(self, order: RoundOrder[B]) -> ClientMessage:
        """Do what one order asks."""
        return run_block([self], [order])[0]

    def answer(self, request: AggregatorRequest) -> ClientMessage:
        """Answer a message of an interactive sum that this client has begun, as ``SumSide.answer`` does."""
        return self.side(request.program).answer(request)

    def begun(self, order: RoundOrder[B]) -> ClientMessage | None:
        """Return the first message of an interactive sum that was begun before for this order; None: there is none."""
        if self.sessions is None:
            return None
        return self.side(order.program).begun(order.program, order.round, order.retry)

    def side(self, program: ProgramName) -> SumSide:
        """Return this client in the sums of a program."""
        return SumSide(
            client=self.client,
            phase=self.plan.phase,
            aggregator=self.plan.program_of(program)[1].pipeline.aggregator,
            sessions=self.sessions,
            roster=self.roster,
            identity=self.identity,
        )


class Program(Struct, Generic[C], kw_only=True):
    """A started client program and what it runs with."""

    node: ClientNode[Any, C]
    order: RoundOrder[Any]
    algorithm: AnyAlgorithm
    exchange: Exchange
    generator: ClientProgram[C]
    context: ClientContext
    train: ClientDataset
    stored: StoredState
    memory: Vector


class Outcome(Struct, Generic[C], frozen=True):
    """How a program ended: with an update and a state, or with the reason why not.

    With an update *and* a reason: the update is zero, in the place of one that cannot be sent.
    """

    update: Update | None = None
    state: C | None = None
    problem: Refused | Failed | None = None


def run_block(nodes: Sequence[ClientNode[B, C]], orders: Sequence[RoundOrder[B]]) -> Sequence[ClientMessage]:
    """Do what the orders ask, all nodes together; messages in the order of the nodes.

    The nodes share one plan, and the orders are of one round and program.
    """
    messages = dict(stream_block(nodes, orders))
    return [messages[place] for place in range(len(nodes))]


def stream_block(
    nodes: Sequence[ClientNode[B, C]], orders: Sequence[RoundOrder[B]]
) -> Iterator[tuple[int, ClientMessage]]:
    """Do what the orders ask, as ``run_block`` does; yield the place of each node and its message when it is made."""
    started: list[Program[C]] = []
    places: list[int] = []
    for place, (node, order) in enumerate(zip(nodes, orders, strict=True)):
        begun = None if node.sessions is None else node.begun(order)
        program = begin(node, order) if begun is None else begun
        if isinstance(program, Program):
            started.append(program)
            places.append(place)
        else:
            yield place, program
    for position, message in finish(started, drive(started)):
        yield places[position], message


def begin(node: ClientNode[B, C], order: RoundOrder[B]) -> Program[C] | Refused | Failed:
    """Check an order, settle the client's state by its word, and start the program it names."""
    plan = node.plan
    if order.digest != plan.digest:
        return _refused(order, f"PLAN_MISMATCH: the order is of experiment {order.digest[:12]}, not {plan.digest[:12]}")
    algorithm, exchange = plan.program_of(order.program)
    train = node.data.split("train")
    examples = node.data.count("train")
    if examples == 0 and order.program != "query":
        return _refused(order, "NO_DATA: no training rows")
    key = plan.round_key(order.round, order.retry).child("client", node.client)
    context = ClientContext(node.client, order.round, examples, key)
    stored, state, memory = _settle(node, order, algorithm, exchange)
    try:
        generator = algorithm.client(order.broadcast, state, context)
    except Exception as error:
        return _report_crash(node, order, error)
    if not isinstance(generator, GeneratorType):
        detail = f"the client program returned a {type(generator).__name__}; it must yield: begin with `yield from`"
        return _failed(order, "crashed", detail, place_of(algorithm.client))
    return Program(
        node=node,
        order=order,
        algorithm=algorithm,
        exchange=exchange,
        generator=generator,
        context=context,
        train=train,
        stored=stored,
        memory=memory,
    )


def drive(programs: Sequence[Program[C]]) -> Iterator[tuple[int, Outcome[C]]]:
    """Run programs to their ends in waves: collect each one's next request, answer all of a kind together.

    Yields the position and outcome of each program at its end.
    """
    replies: dict[int, ClientReply | None] = dict.fromkeys(range(len(programs)))
    wave = 0
    while replies:
        requests: dict[int, ClientRequest] = {}
        for position in tuple(replies):
            asked = _priced(programs[position], _advance(programs[position], replies.pop(position)), wave)
            if isinstance(asked, Outcome):
                yield position, asked
            else:
                requests[position] = asked
        for position, answer in _answer(programs, requests, wave).items():
            if isinstance(answer, Outcome):
                yield position, answer
            else:
                replies[position] = answer
        wave += 1


def finish(
    programs: Sequence[Program[C]], outcomes: Iterable[tuple[int, Outcome[C]]]
) -> Iterator[tuple[int, ClientMessage]]:
    """Encode updates as they come, keep the clients' states as pending, and yield position and message of each."""
    sound: list[int] = []
    ended: list[Outcome[C]] = []
    most = _encoded_at_once(programs[0].exchange.wire) if programs else 1
    for position, ending in outcomes:
        outcome, program, problem = ending, programs[position], ending.problem
        if problem is None and outcome.update is not None:
            wrong = program.exchange.check(outcome.update)
            problem = None if wrong is None else _failed(program.order, "invalid", wrong)
        if problem is not None and _takes_part_anyway(program):
            outcome = _nothing(program, problem)
        elif problem is not None:
            yield position, problem
            continue
        sound.append(position)
        ended.append(outcome)
        if len(sound) == most:
            yield from zip(sound, _encode([programs[i] for i in sound], ended), strict=True)
            sound, ended = [], []
    yield from zip(sound, _encode([programs[i] for i in sound], ended), strict=True)


def _encode(programs: Sequence[Program[C]], outcomes: Sequence[Outcome[C]]) -> list[ClientMessage]:
    if not programs:
        return []
    exchange, order = programs[0].exchange, programs[0].order
    updates = [outcome.update for outcome in outcomes if outcome.update is not None]
    rows = exchange.rows(updates)
    shows = exchange.pipeline.aggregator.shows_messages
    # Where the server reads single messages it refuses what is not finite; where it does not, the client must.
    finite = [True] * len(rows) if shows else [bool(np.isfinite(row).all()) for row in rows]
    diverged = "the update holds a NaN or an infinity: local training diverged; lower the learning rate"
    if not all(finite) and _takes_part_anyway(programs[0]):
        mended = [
            outcome if sound else _nothing(program, _failed(order, "invalid", diverged))
            for program, outcome, sound in zip(programs, outcomes, finite, strict=True)
        ]
        return _encode(programs, mended)
    keys = [Keys(program.context.key, _round_secret(program, "encode")) for program in programs]
    memory = (
        np.stack([program.memory for program in programs]) if exchange.pipeline.memory else _no_memory(len(programs))
    )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            encoded, renewed = exchange.pipeline.encode(rows, order.settings, memory, keys)
    except Exception as error:
        if len(programs) == 1:
            told = _told(programs[0], error, shows=shows)
            problem = _failed(order, "invalid", f"the update cannot be encoded: {told}")
            if _takes_part_anyway(programs[0]) and outcomes[0].problem is None:
                return _encode(programs, [_nothing(programs[0], problem)])
            return [problem]
        # One by one, so that the one to blame is known and the others count.
        return [m for pair in zip(programs, outcomes, strict=True) for m in _encode([pair[0]], [pair[1]])]
    messages: list[ClientMessage] = []
    about = _about(programs[0])
    for position, (program, update) in enumerate(zip(programs, updates, strict=True)):
        if not finite[position]:
            messages.append(_failed(order, "invalid", diverged))
            continue
        if outcomes[position].problem is None:
            _keep_pending(program, outcomes[position].state, renewed[position])
        message = _first_message(program, encoded[position], about, keys[position])
        if isinstance(message, AggregatorMessage) and shows and not exchange.silent:
            message = structs.replace(message, scores=update.scores)
        messages.append(message)
    return messages


def _told(program: Program[Any], error: Exception, *, shows: bool) -> str:
    """Return what the server is told of an update that cannot be encoded: no figure of a client that it may not see."""
    if shows:
        return str(error)
    log.warning("client=%s round=%s cannot be encoded: %s", program.node.client, program.order.round, error)
    return "the reason stays in the client's own log, because it may name a figure of the client's rows"


def _takes_part_anyway(program: Program[Any]) -> bool:
    """Return whether a client whose update cannot be sent sends zero in its place, under its share of the noise.

    Where clients share the noise, the server is not trusted: that an update cannot be sent may tell of the rows that it
    was made from, and a client that was not there would be missed by everybody.
    """
    return program.order.program == "train" and program.exchange.pipeline.sent.noise_shares is not None


def _nothing(program: Program[Any], problem: Refused | Failed) -> Outcome[Any]:
    reason = problem.reason if isinstance(problem, Refused) else f"{problem.kind}: {problem.detail}"
    log.warning("client=%s round=%s sends zero: %s", program.node.client, program.order.round, reason)
    wire = program.exchange.wire
    parts = {name: np.zeros(layout.size, wire.dtype) for name, layout in program.exchange.parts.items()}
    return Outcome(Update(parts, 1), None, problem)


def _about(program: Program[Any]) -> SumRound:
    order = program.order
    about = program.node.plan.sum_round(order, invited=0 if order.invited is None else order.invited)
    return about if program.node.roster is None else replace(about, roster=program.node.roster)


def _first_message(program: Program[Any], value: Vector, about: SumRound, keys: Keys) -> ClientMessage:
    node, order = program.node, program.order
    aggregator = program.exchange.pipeline.aggregator
    if aggregator.interactive:
        return node.side(order.program).open(value, about, keys)
    side = aggregator.client(node.client, value, about, keys)
    return AggregatorMessage(round=order.round, retry=order.retry, payload=side.open())


def _encoded_at_once(wire: WireType) -> int:
    assert wire.dim is not None, "an exchange is made when the schema is agreed"
    return max(1, _ENCODED_BYTES // (wire.dim * np.dtype(wire.dtype).itemsize))


def _no_memory(clients: int) -> Vector:
    return np.empty((clients, 0))


def _settle(
    node: ClientNode[B, C], order: RoundOrder[B], algorithm: Algorithm[Any, Any, Any], exchange: Exchange
) -> tuple[StoredState, Any, Vector]:
    """Return what the client keeps now, and the state and memory that this order's program starts from."""
    settled = NOTHING_STORED
    if node.plan.stateful:
        stored = node.states.load(node.client)
        settled = stored.settle(order.committed)
        if settled is not stored:
            node.states.save(node.client, settled)
    if settled.committed is not None:
        return settled, settled.committed.state, settled.committed.memory
    return settled, algorithm.client_init(order.broadcast), exchange.pipeline.start_memory


def _keep_pending(program: Program[C], state: C | None, memory: Vector) -> None:
    node, order = program.node, program.order
    if order.program == "evaluate" or not node.plan.stateful:
        return
    pending = Slot(round=order.round, state=state, memory=memory.copy())
    node.states.save(node.client, StoredState(committed=program.stored.committed, pending=pending))


def _advance(program: Program[C], reply: ClientReply | None) -> ClientRequest | Outcome[C]:
    """Send a program its answer; return what it asks next, or how it ended."""
    generator = program.generator
    try:
        return next(generator) if reply is None else generator.send(reply)
    except StopIteration as stop:
        ended = stop.value
    except Exception as error:
        return _crashed(program, error)
    if isinstance(ended, tuple) and len(ended) == 2 and isinstance(ended[0], Update):
        return Outcome(ended[0], ended[1])
    detail = f"the client program returned a {type(ended).__name__}; expected an Update and the client's new state"
    return Outcome(problem=_failed(program.order, "crashed", detail, place_of(program.algorithm.client)))


def _priced(program: Program[C], asked: ClientRequest | Outcome[C], wave: int) -> ClientRequest | Outcome[C]:
    """Return what was asked, or the end of a program that asks for more of its rows than the plan has priced."""
    if isinstance(asked, Outcome):
        return asked
    try:
        check_priced(program.algorithm, asked, program.context, first=wave == 0)
    except PlanError as error:
        return _crashed(program, error)
    return asked


def _answer(
    programs: Sequence[Program[C]], requests: dict[int, ClientRequest], wave: int
) -> dict[int, ClientReply | Outcome[C]]:
    """Answer one wave: local work and evaluations of all clients together, the other requests one by one."""
    work = {position: request for position, request in requests.items() if isinstance(request, LocalWork)}
    looks = {position: request for position, request in requests.items() if isinstance(request, LocalEvaluation)}
    answers: dict[int, ClientReply | Outcome[C]] = dict(_fit_block(programs, work, wave))
    answers.update(_evaluate_block(programs, looks))
    for position, request in requests.items():
        if position not in answers:
            answers[position] = _reply(programs[position], request, wave)
    return answers


def _fit_block(programs: Sequence[Program[C]], work: dict[int, LocalWork], wave: int) -> dict[int, LocalResult]:
    """Train a block; when that raises, return nothing: one by one will show which client is to blame."""
    if not work:
        return {}
    first = programs[next(iter(work))]
    try:
        jobs = [_job(programs[position], request, wave) for position, request in work.items()]
        return dict(zip(work, _learner(first).fit(jobs), strict=True))
    except Exception:
        if first.node.debug:
            raise
        return {}


def _evaluate_block(programs: Sequence[Program[C]], looks: dict[int, LocalEvaluation]) -> dict[int, EvaluationResult]:
    """Evaluate a block, clients of one model and split together; when that raises, return nothing, as above."""
    together: dict[tuple[int, str], list[int]] = {}
    for position, request in looks.items():
        together.setdefault((id(request.params), request.split), []).append(position)
    results: dict[int, EvaluationResult] = {}
    try:
        for positions in together.values():
            request = looks[positions[0]]
            held = [position for position in positions if programs[position].node.data.count(request.split)]
            results |= dict.fromkeys(positions, EvaluationResult({}))
            if held:
                found = _evaluate(programs[held[0]], request, [programs[position].node.data for position in held])
                results.update(zip(held, found, strict=True))
    except Exception:
        if any(programs[position].node.debug for position in looks):
            raise
        return {}
    return results


def _reply(program: Program[C], request: ClientRequest, wave: int) -> ClientReply | Outcome[C]:
    """Answer one request of one program; an exception is that client's crash."""
    try:
        match request:
            case LocalWork():
                return _learner(program).fit([_job(program, request, wave)])[0]
            case LocalGradient():
                return _learner(program).gradient(request.at, program.train)
            case LocalQuery():
                return QueryResult(request.read(program.train))
            case LocalEvaluation():
                data = program.node.data
                return _evaluate(program, request, [data])[0] if data.count(request.split) else EvaluationResult({})
            case _:
                raise PlanError(
                    f"a client program asked for a {type(request).__name__}; it may ask for a ClientRequest"
                )
    except Exception as error:
        return _crashed(program, error)


def _job(program: Program[Any], work: LocalWork, wave: int) -> Job:
    context = program.context
    schedule = work.schedule.at(context.round, context.client)
    if schedule is not work.schedule:
        work = structs.replace(work, schedule=schedule)
    return Job(work, program.train, Keys(context.key.child("wave", wave), _round_secret(program, "wave", wave)))


def _round_secret(program: Program[Any], *path: str | int) -> SecretKey:
    """Return the secret of one use: a node keeps one for the run, and noise drawn twice under one path would cancel."""
    secret, order = program.node.secret, program.order
    return secret if secret is NO_SECRET else secret.child(order.program, order.round, order.retry, *path)


def _evaluate(
    program: Program[Any], request: LocalEvaluation, data: Sequence[ClientDataset]
) -> Sequence[EvaluationResult]:
    learner, split = _learner(program), request.split
    asked = learner.losses if split == "train" else learner.evaluate
    return asked(request.params, [each.split(split) for each in data])


def _learner(program: Program[Any]) -> Learner:
    learner = program.node.plan.learner
    if learner is None:
        raise PlanError(f"{program.order.program} rounds have no learner: a query may only ask its question")
    return learner


def _crashed(program: Program[Any], error: Exception) -> Outcome[Any]:
    return Outcome(problem=_report_crash(program.node, program.order, error))


def _report_crash(node: ClientNode[Any, Any], order: RoundOrder[Any], error: Exception) -> Failed:
    if node.debug:
        raise error
    log.warning("client=%s round=%s crashed", node.client, order.round, exc_info=error)
    pipeline = node.plan.program_of(order.program)[1].pipeline
    said = str(error) if pipeline.aggregator.shows_messages else "the message stays in the client's own log"
    return _failed(order, "crashed", f"{type(error).__name__}: {said}", blame(error))


def _refused(order: RoundOrder[Any], reason: str) -> Refused:
    return Refused(round=order.round, retry=order.retry, reason=reason)


def _failed(order: RoundOrder[Any], kind: FailureKind, detail: str, where: str | None = None) -> Failed:
    return Failed(round=order.round, retry=order.retry, kind=kind, detail=detail, where=where)
