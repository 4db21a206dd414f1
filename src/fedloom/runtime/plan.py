"""RunPlan: one phase of a run after all checks, the same value at the server and at every client."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from fedloom.core import codec
from fedloom.core.aggregator import SumRound
from fedloom.core.algorithm import (
    Algorithm,
    AnyAlgorithm,
    ClientContext,
    ClientProgram,
    ask,
    delta_only,
    evaluate,
)
from fedloom.core.data import Population, Schema, Split
from fedloom.core.events import DpEvent
from fedloom.core.keys import Key
from fedloom.core.learner import Learner
from fedloom.core.messages import Program, RoundOrder
from fedloom.core.metrics import NO_METRICS, Metric, MetricSpec
from fedloom.core.params import Dtype, ParamSpec, Vector
from fedloom.core.private_steps import record_bound
from fedloom.core.query import Query
from fedloom.core.roster import Roster
from fedloom.core.update import Aggregate, Update
from fedloom.core.work import LocalEvaluation
from fedloom.errors import PlanError
from fedloom.pipeline import Pipeline
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.exchange import Exchange, exchange
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.simulation import World
from fedloom.runtime.stopping import Stop
from fedloom.runtime.summary import TRAIN_FIGURES

S = TypeVar("S")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The second program of a round's order: metrics of the model on each client's rows."""

    splits: tuple[Split, ...]
    algorithm: AnyAlgorithm
    exchange: Exchange
    cohort: Cohort
    every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan(Generic[S, B, C]):
    """Everything that coordinator and clients agree on before the first order of a phase."""

    digest: str
    phase: int
    program: Program
    algorithm: Algorithm[S, B, C]
    exchange: Exchange
    start: Vector
    """What ``algorithm.init`` gets: the parameters before round 1."""
    key: Key
    population: Population
    cohort: Cohort
    policy: RoundPolicy
    stop: Stop
    stateful: bool = False
    """Whether clients keep something from round to round."""
    learner: Learner | None = None
    evaluation: Evaluation | None = None
    done: Callable[[S], bool] | None = None
    """Of a query: whether the state holds its answer."""
    world: World | None = None
    """Of a simulation: who is away, lost and slow."""
    event: DpEvent | None = None
    """What a round releases where that is protected and priced, cohort included; None: nothing is.

    A private run draws its cohorts from secret entropy, once, and divides by public numbers.
    """
    run: str = ""
    """Names the run between organisations; empty in simulation."""
    roster: Roster | None = None
    """Who may take part between organisations, as this party has approved it; None in simulation."""
    leaves_noised: bool = False
    """Of a private run: whether clients protect what they send, so that it is released when it leaves them."""

    @property
    def private(self) -> bool:
        """Whether what the rounds release is protected and priced."""
        return self.event is not None

    @property
    def keeps_secrets(self) -> bool:
        """Whether parties draw what nobody else may know: noise, private batches, keys of an interactive sum."""
        evaluated = self.evaluation is not None and self.evaluation.exchange.pipeline.aggregator.interactive
        return self.private or self.exchange.pipeline.aggregator.interactive or evaluated

    def round_key(self, round_number: int, retry: int) -> Key:
        """Return the key that all public randomness of a round hangs below."""
        return _round_key(self.key, round_number, retry)

    def sum_round(self, order: RoundOrder[Any], *, invited: int) -> SumRound:
        """Return what server and clients know of the sum of an order."""
        _, exchange = self.program_of(order.program)
        pipeline = exchange.pipeline
        return SumRound(
            invited=invited,
            wire=pipeline.sent,
            digest=self.digest,
            phase=self.phase,
            program=order.program,
            round=order.round,
            retry=order.retry,
            key=self.key,
            order=digest_of(order) if pipeline.aggregator.interactive else b"",
            run=self.run,
            roster=self.roster,
        )

    def program_of(self, program: Program) -> tuple[AnyAlgorithm, Exchange]:
        """Return the client program that an order names, and what it sends."""
        if program == "evaluate" and self.evaluation is not None:
            return self.evaluation.algorithm, self.evaluation.exchange
        if program == self.program:
            return self.algorithm, self.exchange
        raise PlanError(f"an order for {program!r} came in a phase that runs {self.program!r}")


def deployed(plan: RunPlan[S, B, C], *, run: str, roster: Roster | None) -> RunPlan[S, B, C]:
    """Return a plan as it runs between organisations: its sums by their protocols, bound to a run and a roster.

    Raises:
        PlanError: When a sum cannot be had there.
    """

    def sent(exchange: Exchange) -> Exchange:
        pipeline = exchange.pipeline
        return replace(exchange, pipeline=replace(pipeline, aggregator=pipeline.aggregator.deployed()))

    if plan.world is not None and plan.world.simulation.slow == "partial":
        raise PlanError('simulate.slow = "partial" makes slow clients do less: there is no such thing between sites')
    evaluation = plan.evaluation
    return replace(
        plan,
        world=None,  # nothing is simulated there: who is away or lost is so in earnest
        run=run,
        roster=roster,
        exchange=sent(plan.exchange),
        evaluation=None if evaluation is None else replace(evaluation, exchange=sent(evaluation.exchange)),
    )


def digest_of(order: RoundOrder[Any]) -> bytes:
    """Return SHA-256 of what an order says to every client alike: model, settings, round."""
    return hashlib.sha256(codec.encode(replace(order, committed=None))).digest()


@functools.lru_cache(maxsize=8)
def _round_key(key: Key, round_number: int, retry: int) -> Key:
    return key.child("round", round_number, retry)


def train_exchange(
    algorithm: AnyAlgorithm,
    layout: ParamSpec,
    metrics: MetricSpec,
    pipeline: Pipeline,
    *,
    dtype: Dtype,
    most_clients: int | None = None,
    fewest_clients: int | None = None,
    silent: bool = False,
) -> Exchange:
    """Return the exchange of training: the algorithm's parts, and what it says about weights."""
    declared = metrics if algorithm.metrics is None else algorithm.metrics
    return exchange(
        algorithm.parts(layout),
        NO_METRICS if silent else declared,
        pipeline,
        dtype=dtype,
        weight=True,
        max_weight=1.0 if algorithm.weighting == "uniform" else None,
        most_clients=most_clients,
        fewest_clients=fewest_clients,
        silent=silent,
        record=_record(algorithm),
    )


def _record(algorithm: AnyAlgorithm) -> float | None:
    """Return what one row can change in a client's delta, where private steps leave the noise to a stage."""
    local = algorithm.local
    if local is None or local.private is None or not local.private.shared or algorithm.parts is not delta_only:
        return None
    assert isinstance(local.learning_rate, float | int), "schedules refuse a ramp under shared noise"
    return record_bound(local.private, learning_rate=local.learning_rate)


def as_algorithm(query: Query[S, R], schema: Schema) -> Algorithm[S, S, None]:
    """Return a query as an algorithm that needs no learner: its broadcast is its state, its update the answer."""

    def client(state: S, _: None, _ctx: ClientContext) -> ClientProgram[None]:
        answer = yield from ask(query.ask(state))
        return Update(answer.parts, 1), None

    return Algorithm(
        name=query.name,
        init=lambda _start: query.init(schema),
        broadcast=lambda state: state,
        client_init=lambda _state: None,
        client=client,
        step=query.step,
        params=lambda _state: np.empty(0),
        parts=lambda _layout: query.parts(schema),
        metrics=NO_METRICS,
        weighting="uniform",
    )


def keeps_state(algorithm: AnyAlgorithm, exchange: Exchange, start: Vector) -> bool:
    """Return whether clients keep something from round to round: the algorithm's state, or a stage's memory."""
    broadcast = algorithm.broadcast(algorithm.init(start))
    return algorithm.client_init(broadcast) is not None or exchange.pipeline.memory > 0


def as_evaluation(algorithm: Algorithm[S, B, C], splits: tuple[Split, ...]) -> AnyAlgorithm:
    """Return the program that evaluates the personal model, else the published one, on each split that has rows.

    Without personal models the order carries the published parameters and nothing else of the server's state.
    """
    personal = algorithm.personal

    def client(broadcast: Any, state: Any, _ctx: ClientContext) -> ClientProgram[Any]:
        params = broadcast if personal is None else personal(broadcast, state)
        metrics: dict[str, Metric] = {}
        scores: dict[str, float | None] = {}
        for split in splits:
            result = yield from evaluate(LocalEvaluation(params, split))
            metrics |= {f"{split}/{name}": m for name, m in result.metrics.items() if travels(split, name)}
            scores |= {f"{split}/{name}": score for name, score in result.scores.items()}
        return Update({}, 1, metrics, scores), state

    return Algorithm(
        name=f"evaluate {algorithm.name}",
        init=algorithm.init,
        broadcast=algorithm.params if personal is None else algorithm.broadcast,
        client_init=(lambda _params: None) if personal is None else algorithm.client_init,
        client=client,
        step=_no_step,
        params=algorithm.params,
        parts=lambda _layout: {},
        weighting="uniform",
    )


def evaluation_metrics(learner: Learner, splits: tuple[Split, ...]) -> MetricSpec:
    """Return the metrics that evaluation sends: the learner's, for each split; of training rows the losses alone."""
    kinds: Mapping[str, Any] = learner.evaluation_metrics.kinds
    named = ((split, name, kind) for split in splits for name, kind in kinds.items())
    return MetricSpec({f"{split}/{name}": kind for split, name, kind in named if travels(split, name)})


def travels(split: Split, metric: str) -> bool:
    """Return whether a metric of a split is sent: what no figure is made of stays at the client."""
    return split != "train" or metric in TRAIN_FIGURES


def _no_step(_state: S, _aggregate: Aggregate) -> S:
    raise AssertionError("an evaluation takes no server step")
