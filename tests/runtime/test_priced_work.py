"""Under private steps a client does the work that its plan has priced, draws anew in every round, and tells no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedloom.algorithms import fedavg, scaffold
from fedloom.core.algorithm import AnyAlgorithm, evaluate, gradient, train
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key
from fedloom.core.learner import Learner
from fedloom.core.messages import AggregatorMessage, Failed, RoundOrder
from fedloom.core.private_steps import PrivateSteps
from fedloom.core.schedule import Ramp, Schedule
from fedloom.core.update import Update
from fedloom.core.work import LocalEvaluation, LocalGradient, LocalWork
from fedloom.entropy.secret import derived_secret
from fedloom.learners import logistic
from fedloom.runtime.client import ClientNode
from fedloom.runtime.ports import MemoryStates
from fedloom.testing import federation, plan_for, schema_of

DATA = federation((30, 20))
A = ClientId("a")
PRIVATE = PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=0.4, rows=25)
LOCAL = Schedule(steps=3, learning_rate=0.2, private=PRIVATE)


def learner() -> Learner:
    return logistic().build(schema_of("binary"))


def told(algorithm: AnyAlgorithm, *, round_number: int = 1, retry: int = 0) -> Any:
    """Return the answer of one client with a secret of its own to one order, under a server state that stays."""
    plan = plan_for(DATA, algorithm, learner())
    node = ClientNode(
        client=A, plan=plan, data=DATA.client(A), states=MemoryStates(), secret=derived_secret(Key.from_seed(3))
    )
    order: RoundOrder[Any] = RoundOrder(
        round=RoundNumber(round_number),
        retry=retry,
        digest=plan.digest,
        program="train",
        broadcast=algorithm.broadcast(algorithm.init(plan.start)),
        settings=plan.exchange.pipeline.settings(plan.exchange.pipeline.init()),
    )
    return node.receive(order)


def asks(*requests: Any, local: Schedule | None) -> AnyAlgorithm:
    """Return fedavg with a client program that asks for other things."""

    def client(params: Any, _state: Any, _ctx: Any) -> Any:
        moved = params
        for request in requests:
            answer = yield request(params)
            moved = getattr(answer, "params", moved)
        return Update({"delta": moved - params}, 1), None

    return replace(fedavg(LOCAL, weighting="uniform"), client=client, local=local)


def works(schedule: Schedule) -> Any:
    return lambda params: LocalWork(start=params, schedule=schedule)


def test_every_round_and_every_retry_draws_rows_and_noise_anew() -> None:
    algorithm = fedavg(LOCAL, weighting="uniform")
    first, again = told(algorithm), told(algorithm)
    assert isinstance(first, AggregatorMessage)
    assert np.array_equal(first.payload, again.payload)
    second, retried = told(algorithm, round_number=2), told(algorithm, retry=1)
    moves = [message.payload[:4] for message in (first, second, retried)]
    assert min(np.abs(a - b).max() for a, b in zip(moves, moves[1:] + moves[:1], strict=True)) > 1e-3


def test_a_private_update_carries_no_metric_of_bare_rows() -> None:
    def client(params: Any, state: Any, ctx: Any) -> Any:
        found = yield from train(LocalWork(start=params, schedule=LOCAL))
        assert dict(found.metrics) == {}
        return Update({"delta": found.params - params}, 1, found.metrics), state

    assert isinstance(told(replace(fedavg(LOCAL, weighting="uniform"), client=client)), AggregatorMessage)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (asks(works(LOCAL), works(LOCAL), local=LOCAL), "after other work"),
        (asks(works(replace(LOCAL, steps=4)), local=LOCAL), "asks for 4 steps"),
        (asks(works(replace(LOCAL, private=None)), local=LOCAL), "not told is not priced"),
        (asks(works(replace(LOCAL, private=replace(PRIVATE, clip=5.0))), local=LOCAL), "clip=5.0"),
        (asks(works(replace(LOCAL, private=replace(PRIVATE, rate=0.9))), local=LOCAL), "rate=0.9"),
        (asks(works(LOCAL), local=None), "tells the plan of nothing"),
        (asks(LocalGradient, local=LOCAL), "LocalGradient, which reads rows without noise"),
        (asks(lambda params: LocalEvaluation(params, "train"), local=LOCAL), "LocalEvaluation"),
        (scaffold(LOCAL, option="I"), "LocalGradient"),
    ],
)
def test_work_that_was_not_priced_is_a_crash_of_the_program_and_nothing_leaves(
    algorithm: AnyAlgorithm, said: str
) -> None:
    message = told(algorithm)
    assert isinstance(message, Failed)
    assert said in message.detail


@pytest.mark.parametrize(
    "algorithm",
    [
        asks(works(replace(LOCAL, steps=2)), local=LOCAL),  # what a slow client does of its work
        asks(works(LOCAL), local=LOCAL),
        scaffold(replace(LOCAL, steps={"a": 2, "b": 4}), option="II"),
        fedavg(replace(LOCAL, learning_rate=Ramp(lambda done: 0.1 / (1 + done))), weighting="uniform", prox=0.1),
        fedavg(replace(LOCAL, private=replace(PRIVATE, rows={"a": 30, "b": 20})), weighting="uniform"),
    ],
)
def test_what_was_priced_is_done(algorithm: AnyAlgorithm) -> None:
    assert isinstance(told(algorithm), AggregatorMessage)


def test_without_private_steps_a_program_may_ask_for_anything() -> None:
    bare = replace(LOCAL, private=None)

    def client(params: Any, state: Any, _ctx: Any) -> Any:
        yield from gradient(LocalGradient(params))
        yield from evaluate(LocalEvaluation(params, "train"))
        found = yield from train(LocalWork(start=params, schedule=bare))
        return Update({"delta": found.params - params}, 1, found.metrics), state

    assert isinstance(told(replace(fedavg(bare, weighting="uniform"), client=client, local=None)), AggregatorMessage)
