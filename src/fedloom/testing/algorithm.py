"""check_algorithm: the laws that every algorithm keeps, whatever its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np

from fedloom.core import codec
from fedloom.core.algorithm import AnyAlgorithm, ClientContext
from fedloom.core.data import ClientDataset
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.learner import Job, Learner
from fedloom.core.messages import RoundOrder
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.core.update import Aggregate, Update
from fedloom.core.work import (
    ClientReply,
    ClientRequest,
    LocalEvaluation,
    LocalGradient,
    LocalQuery,
    LocalWork,
    QueryResult,
)
from fedloom.runtime.cohort import uniform
from fedloom.runtime.ports import StoredState, encode_stored
from fedloom.runtime.stopping import max_rounds
from fedloom.testing.fakes import federation
from fedloom.testing.simulation import plan_for, simulate

BuildAlgorithm: TypeAlias = Callable[[Schedule], AnyAlgorithm]
Move: TypeAlias = Callable[[Vector], Vector]

_LOCAL = Schedule(epochs=1, batch_size=8, learning_rate=0.1)
_ONE_STEP = Schedule(steps=1, batch_size="full", learning_rate=0.1)
_SIZES = (9, 4, 17, 11, 6)


def check_algorithm(build: BuildAlgorithm, learner: Learner, *, move: Move = lambda delta: delta) -> None:
    """Check an algorithm against every law below.

    Args:
        build: Returns the algorithm for a schedule of local work.
        learner: Trains two-class rows of three columns in float64, as ``federation`` makes them.
        move: What the server makes of the mean delta of round 1; the delta itself by default.

    Raises:
        AssertionError: With the law that is broken.
    """
    check_one_step_is_centralised(build(_ONE_STEP), learner, move=move)
    check_updates_match_parts(build(_LOCAL), learner)
    check_arrival_changes_no_byte(build(_LOCAL), learner)
    check_states_survive_the_codec(build(_LOCAL), learner)
    check_absent_clients_keep_their_state(build(_LOCAL), learner)


def check_one_step_is_centralised(algorithm: AnyAlgorithm, learner: Learner, *, move: Move) -> None:
    """One client with all rows and one full-batch step of 0.1: the server moves by ``move(-0.1 * gradient)``."""
    data = federation((30,))
    run = simulate(plan_for(data, algorithm, learner), data, rounds=1)
    start = run.plan.start
    rows = data.client(ClientId("a")).split("train")
    expected = start + move(-0.1 * learner.gradient(start, rows).gradient)
    far = float(np.abs(run.params - expected).max())
    assert far <= 1e-10, f"{algorithm.name}: one client, one step is {far:.3g} away from the centralised step"


def check_updates_match_parts(algorithm: AnyAlgorithm, learner: Learner) -> None:
    """Updates have the declared parts, the learner's type and the declared weight; inputs stay whole.

    Arrays of broadcast and client state are read-only while the program runs.
    """
    data = federation(_SIZES)
    server = algorithm.init(learner.init(Key.from_seed(0)))
    declared = algorithm.parts(learner.layout)
    for name, client in data.clients.items():
        broadcast = freeze(algorithm.broadcast(server))
        state = freeze(algorithm.client_init(broadcast))
        update, _ = run_program(algorithm, broadcast, state, learner, client, client=ClientId(name))
        assert set(update.parts) == set(declared), f"parts {list(update.parts)}; declared {list(declared)}"
        for part, layout in declared.items():
            vector = update.parts[part]
            assert vector.shape == (layout.size,), f"part {part!r} has shape {vector.shape}; declared ({layout.size},)"
            assert vector.dtype == learner.dtype, f"part {part!r} is {vector.dtype}; the model is {learner.dtype}"
            assert np.isfinite(vector).all(), f"part {part!r} is not finite"
        count = client.count("train")
        expected = float(count) if algorithm.weighting == "examples" else 1.0
        assert update.weight == expected, f"weight {update.weight} for {count} rows and weighting {algorithm.weighting}"
        kinds = learner.fit_metrics.kinds if algorithm.metrics is None else algorithm.metrics.kinds
        assert set(update.metrics) <= set(kinds), f"metrics {set(update.metrics)}; declared {set(kinds)}"


def check_arrival_changes_no_byte(algorithm: AnyAlgorithm, learner: Learner) -> None:
    """Order of arrival, size of blocks and number of partial sums change no byte of server, clients and records."""
    data = federation(_SIZES)
    for cohort in (None, uniform(3)):
        plan = plan_for(data, algorithm, learner, cohort=cohort, stop=max_rounds(3))
        first = simulate(plan, data)
        shuffled = simulate(plan, data, order=Key.from_seed(3))
        others = [
            simulate(plan, data, order="reversed"),
            simulate(plan, data, block=1),
            simulate(plan, data, block=2, partials=1),
            simulate(plan, data, order=Key.from_seed(4), partials=2),
        ]
        for other in (shuffled, *others):
            assert other.bytes == first.bytes, f"{algorithm.name}: the order of work changed the run's state"
            assert other.records == first.records, f"{algorithm.name}: the order of work changed the records"


def check_states_survive_the_codec(algorithm: AnyAlgorithm, learner: Learner) -> None:
    """Server state, broadcast and client state come back from bytes, and the next round is the same from either."""
    data = federation(_SIZES)
    plan = plan_for(data, algorithm, learner)
    run = simulate(plan, data, rounds=2)
    like = algorithm.init(plan.start)
    server = codec.decode(codec.encode(run.state.server), like)
    assert codec.encode(server) == codec.encode(run.state.server), "the server state changed on its way through bytes"
    broadcast = algorithm.broadcast(run.state.server)
    template = algorithm.broadcast(like)
    received = codec.decode(codec.encode(broadcast), template)
    client = ClientId("a")
    stored = run.clients[client].pending if client in run.clients else None
    state = algorithm.client_init(broadcast) if stored is None else stored.state
    kept = codec.decode(codec.encode(state), algorithm.client_init(template))
    rows = data.client(client)
    here, after = run_program(algorithm, broadcast, state, learner, rows, client=client)
    there, after_there = run_program(algorithm, freeze(received), freeze(kept), learner, rows, client=client)
    assert all(here.parts[part].tobytes() == there.parts[part].tobytes() for part in here.parts), "another update"
    assert codec.encode(after) == codec.encode(after_there), "another client state"
    aggregate = Aggregate(parts=here.parts, weight=1.0, clients=1.0, participation=1.0, round=RoundNumber(3))
    steps = [codec.encode(algorithm.step(freeze(one), aggregate)) for one in (run.state.server, server)]
    assert steps[0] == steps[1], "the server's next step differs"


def check_absent_clients_keep_their_state(algorithm: AnyAlgorithm, learner: Learner) -> None:
    """What a client keeps changes by rounds that it was included in, and by no others: a lost reply changes nothing."""
    data = federation(_SIZES)

    def drop(order: RoundOrder[Any], client: ClientId) -> bool:
        return (order.round + ord(client)) % 3 == 0

    plan = plan_for(data, algorithm, learner, cohort=uniform(4), stop=max_rounds(6))
    run = simulate(plan, data, rounds=1, drop=drop)
    for _ in range(4):
        before = {client: _settled(stored, run.included, client) for client, stored in run.clients.items()}
        run = simulate(plan, data, rounds=1, drop=drop, start=run)
        for client, stored in before.items():
            if client not in run.included[-1]:
                after = _settled(run.clients[client], run.included, client)
                assert after == stored, f"{algorithm.name}: client {client} was not in the sum, and its state changed"


def run_program(
    algorithm: AnyAlgorithm,
    broadcast: Any,
    state: Any,
    learner: Learner,
    data: ClientDataset,
    *,
    client: ClientId,
    round_number: int = 1,
) -> tuple[Update, Any]:
    """Run one client program to its end, each question answered by the learner; return update and new state."""
    key = Key.from_seed(2).child("client", client)
    context = ClientContext(client, RoundNumber(round_number), data.count("train"), key)
    program = algorithm.client(broadcast, state, context)
    reply: ClientReply | None = None
    wave = 0
    while True:
        try:
            request = next(program) if reply is None else program.send(reply)
        except StopIteration as stop:
            update, renewed = stop.value
            return update, renewed
        reply = _answer(request, learner, data, context, wave)
        wave += 1


def freeze(value: Any) -> Any:
    """Return a state as it is, its arrays read-only from now on: a program that writes into them raises."""
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    elif isinstance(value, Mapping):
        for item in value.values():
            freeze(item)
    elif isinstance(value, list | tuple):
        for item in value:
            freeze(item)
    elif is_dataclass(value):
        for field in fields(value):
            freeze(getattr(value, field.name))
    return value


def _answer(
    request: ClientRequest, learner: Learner, data: ClientDataset, context: ClientContext, wave: int
) -> ClientReply:
    match request:
        case LocalWork():
            schedule = request.schedule.at(context.round, context.client)
            work = LocalWork(
                start=request.start,
                schedule=schedule,
                linear=request.linear,
                prox=request.prox,
                anchor=request.anchor,
            )
            return learner.fit([Job(work, data.split("train"), Keys(context.key.child("wave", wave), NO_SECRET))])[0]
        case LocalGradient():
            return learner.gradient(request.at, data.split("train"))
        case LocalQuery():
            return QueryResult(request.read(data.split("train")))
        case LocalEvaluation():
            return learner.evaluate(request.params, [data.split(request.split)])[0]


def _settled(stored: StoredState, included: tuple[tuple[ClientId, ...], ...], client: ClientId) -> bytes:
    """Return what counts of a client's state: the pending slot where its round counted, else the committed one."""
    last = max((number for number, names in enumerate(included, start=1) if client in names), default=None)
    return encode_stored(StoredState(committed=stored.settle(None if last is None else RoundNumber(last)).committed))
