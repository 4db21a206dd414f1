"""simulate: a whole run in one function, over ports in memory, with any order of work, losses and one crash.

It is the loop of an engine without its cares (no threads, no clock, no files), so that a test of an algorithm, a stage
or the coordinator needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.data import FederatedDataset, Split
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, permutation
from fedloom.core.learner import Learner
from fedloom.core.messages import ClientMessage, Failure, RoundOrder
from fedloom.core.metrics import NO_METRICS
from fedloom.core.params import Dtype, ParamSpec, Vector, model_sha256
from fedloom.errors import Error
from fedloom.pipeline import Pipeline, chain, mean_pipeline
from fedloom.runtime.client import ClientNode, run_block
from fedloom.runtime.cohort import Cohort, everyone
from fedloom.runtime.coordinator import Coordinator, Stopped, initial_state
from fedloom.runtime.effects import Append, Closed, Keep, Save, Send
from fedloom.runtime.exchange import exchange
from fedloom.runtime.plan import Evaluation, RunPlan, as_evaluation, evaluation_metrics, keeps_state, train_exchange
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.ports import MemoryLedger, MemoryStates, StoredState, encode_stored
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import RunState, encode_state
from fedloom.runtime.stopping import Stop, max_rounds

AnyPlan: TypeAlias = RunPlan[Any, Any, Any]
Arrival: TypeAlias = Literal["cohort", "reversed"] | Key
Drop: TypeAlias = Callable[[RoundOrder[Any], ClientId], bool]
ClientMemory: TypeAlias = Literal["as saved", "as left"]


def plan_for(
    data: FederatedDataset,
    algorithm: AnyAlgorithm,
    learner: Learner | None = None,
    *,
    cohort: Cohort | None = None,
    policy: RoundPolicy | None = None,
    pipeline: Pipeline | None = None,
    stop: Stop | None = None,
    seed: int = 7,
    evaluate_every: int | None = None,
    splits: tuple[Split, ...] = ("train",),
    dtype: Dtype = "float64",
) -> AnyPlan:
    """Return the plan of training ``algorithm`` on ``data``, without an experiment around it.

    Args:
        data: Rows of all clients.
        algorithm: What is run.
        learner: What trains; None for an algorithm that asks for no training.
        cohort: Everybody by default.
        policy: The default policy by default.
        pipeline: The weighted mean by default; a plain total for an algorithm without learner.
        stop: Ten rounds by default.
        seed: Of all public randomness.
        evaluate_every: Evaluate after this many rounds, on ``splits``; None: never.
        splits: Splits that evaluation reads.
        dtype: Type of the vector, for an algorithm without learner.
    """
    key = Key.from_seed(seed).child("train")
    population = data.population()
    layout = ParamSpec(()) if learner is None else learner.layout
    metrics = NO_METRICS if learner is None else learner.fit_metrics
    start = np.empty(0, dtype) if learner is None else learner.init(key.child("init"))
    carrier = (chain() if learner is None else mean_pipeline()) if pipeline is None else pipeline
    carried = train_exchange(
        algorithm,
        layout,
        metrics,
        carrier,
        dtype=dtype if learner is None else learner.dtype,
        most_clients=len(population),
    )
    evaluation = None
    if evaluate_every is not None and learner is not None:
        reported = exchange({}, evaluation_metrics(learner, splits), chain(), dtype="float64", weight=False)
        evaluation = Evaluation(
            splits=splits,
            algorithm=as_evaluation(algorithm, splits),
            exchange=reported,
            cohort=everyone(),
            every=evaluate_every,
        )
    return RunPlan(
        digest=f"testing:{algorithm.name}:{seed}",
        phase=0,
        program="train",
        algorithm=algorithm,
        exchange=carried,
        start=start,
        key=key,
        population=population,
        cohort=everyone() if cohort is None else cohort,
        policy=RoundPolicy() if policy is None else policy,
        stop=max_rounds(10) if stop is None else stop,
        stateful=keeps_state(algorithm, carried, start),
        learner=learner,
        evaluation=evaluation,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How a simulated run ended. ``effects`` counts what the coordinator asked for, those before a crash included."""

    plan: AnyPlan
    state: RunState[Any]
    records: tuple[RoundRecord, ...]
    clients: Mapping[ClientId, StoredState]
    ledger: MemoryLedger
    effects: int
    stopped: Stopped | None

    @property
    def params(self) -> Vector:
        """The published model."""
        params: Vector = self.plan.algorithm.params(self.state.server)
        return params

    @property
    def sha256(self) -> str:
        """The identity of the published model."""
        layout = ParamSpec(()) if self.plan.learner is None else self.plan.learner.layout
        return model_sha256(layout, self.params)

    @property
    def bytes(self) -> bytes:
        """Everything that a resume would start from: the run's state and each client's, in client order."""
        kept = [client.encode() + encode_stored(self.clients[client]) for client in sorted(self.clients)]
        return encode_state(self.state) + b"".join(kept)

    @property
    def included(self) -> tuple[tuple[ClientId, ...], ...]:
        """Who was in the sum, by closed round."""
        return tuple(record.included for record in self.records if record.status == "closed")


def simulate(
    plan: AnyPlan,
    data: FederatedDataset,
    *,
    order: Arrival = "cohort",
    block: int = 1_000,
    partials: int = 0,
    drop: Drop | None = None,
    rounds: int | None = None,
    crash_after: int | None = None,
    client_memory: ClientMemory = "as saved",
    start: Simulation | None = None,
) -> Simulation:
    """Run a plan to its stop, or for a number of rounds.

    Args:
        plan: What to run.
        data: Rows of all clients.
        order: In which messages arrive: as the cohort, against it, or shuffled by a key.
        block: Clients that are computed together; blocks are cut from the cohort before anyone is lost.
        partials: Workers that fold messages into a partial sum each; 0: the coordinator receives all of them.
        drop: Whether a client's reply is lost, after the client has computed it.
        rounds: End after this many rounds, as if the process were stopped between two.
        crash_after: Drop coordinator and open round after so many effects, and go on from the last saved state.
        client_memory: What clients hold after the crash: what they held at that save, or what they hold now.
        start: Go on from where another run ended.
    """
    loop = _Loop(plan, data, start)
    until = None if rounds is None else loop.coordinator.state.round + rounds
    stopped: Stopped | None = None
    while until is None or loop.coordinator.state.round < until or loop.coordinator.state.pending is not None:
        orders = loop.coordinator.open_round()
        if isinstance(orders, Stopped):
            stopped = orders
            break
        arrived = list(deliveries(plan, data, loop.states, orders, block=block, order=order, drop=drop))
        _receive(loop.coordinator, arrived, partials)
        loop.close(crash_after, client_memory)
    return Simulation(
        plan=plan,
        state=loop.coordinator.state,
        records=tuple(loop.records),
        clients=dict(loop.states.states),
        ledger=loop.ledger,
        effects=loop.effects,
        stopped=stopped,
    )


def deliveries(
    plan: AnyPlan,
    data: FederatedDataset,
    states: MemoryStates,
    orders: Mapping[ClientId, RoundOrder[Any]],
    *,
    block: int = 1_000,
    order: Arrival = "cohort",
    drop: Drop | None = None,
) -> Sequence[tuple[ClientId, ClientMessage | Failure]]:
    """Compute all orders of a round; return each client's message, or its loss, in order of arrival."""
    names = tuple(orders)
    messages: list[tuple[ClientId, ClientMessage | Failure]] = []
    for first in range(0, len(names), block):
        nodes = [
            ClientNode(client=c, plan=plan, data=data.client(c), states=states) for c in names[first : first + block]
        ]
        for node, message in zip(nodes, run_block(nodes, [orders[node.client] for node in nodes]), strict=True):
            asked = orders[node.client]
            failure: Failure | None = None
            if drop is not None and drop(asked, node.client):
                failure = Failure(client=node.client, phase=asked.program, kind="lost", detail="dropped by the test")
            elif plan.world is not None and asked.program == "train":
                failure = plan.world.failure(plan.round_key(asked.round, asked.retry), node.client)
            messages.append((node.client, message if failure is None else failure))
    if isinstance(order, Key):
        return [messages[place] for place in permutation(order, len(messages)).tolist()]
    return messages if order == "cohort" else messages[::-1]


class _Loop:
    """Coordinator, client memories and what is durable, through at most one crash."""

    def __init__(self, plan: AnyPlan, data: FederatedDataset, start: Simulation | None) -> None:
        self.plan = plan
        self.data = data
        self.effects = 0
        self.ledger = MemoryLedger() if start is None else start.ledger
        self.states = MemoryStates({} if start is None else dict(start.clients))
        self.records: list[RoundRecord] = [] if start is None else list(start.records)
        self.saved = initial_state(plan) if start is None else start.state
        self.saved_clients = dict(self.states.states)
        self.coordinator = Coordinator(plan, self.saved, self.records)

    def close(self, crash_after: int | None, client_memory: ClientMemory) -> None:
        """Perform the effects of a round one by one; die where it was asked."""
        if self._dies(crash_after, client_memory):
            return
        while effects := self.coordinator.advance():
            for effect in effects:
                self.effects += 1
                match effect:
                    case Append():
                        self.ledger.append(
                            effect.event, phase=self.plan.phase, round_number=effect.round, retry=effect.retry
                        )
                    case Save():
                        self.saved, self.saved_clients = effect.state, dict(self.states.states)
                    case Closed():
                        self.records.append(effect.record)
                    case Keep() | Send():
                        raise Error("simulate() runs one-message sums without noise")
                if self._dies(crash_after, client_memory):
                    return

    def _dies(self, crash_after: int | None, client_memory: ClientMemory) -> bool:
        if crash_after is None or self.effects != crash_after:
            return False
        self.effects += 1  # so that it dies once
        if client_memory == "as saved":
            self.states = MemoryStates(dict(self.saved_clients))
        self.records = self.records[: self.saved.records]
        self.coordinator = Coordinator(self.plan, self.saved, self.records)
        return True


def _receive(
    coordinator: Coordinator[Any, Any, Any],
    arrived: Sequence[tuple[ClientId, ClientMessage | Failure]],
    partials: int,
) -> None:
    parts = [coordinator.partial() for _ in range(partials)]
    for number, (client, message) in enumerate(arrived):
        to = parts[number % partials] if parts else coordinator
        if isinstance(message, Failure):
            to.lose(client, message)
        else:
            to.receive(client, message)
    for part in parts:
        coordinator.merge(part)
