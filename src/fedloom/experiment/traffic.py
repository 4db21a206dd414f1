"""How many bytes the rounds of a plan will move, found without training: the runtime's own messages, and their lengths.

Cohorts are drawn as the coordinator will draw them, and the simulated world loses the replies that it will lose. What
stands here is exact as long as no client fails and no round is tried again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from fedloom.core import codec
from fedloom.core.aggregator import InteractiveAggregator
from fedloom.core.data import ClientDataset, FederatedDataset, Transform
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import AggregatorMessage, AggregatorRequest, ClientMessage, Program, RoundOrder
from fedloom.experiment.plan import AnyPlan
from fedloom.runtime.client import ClientNode, run_block
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.exchange import Exchange
from fedloom.runtime.ports import MemoryStates
from fedloom.runtime.simulation import VECTOR_STEP, World

MOST_INVITED = 1_000_000
"""Up to this many invitations over all rounds the cohorts of every round are drawn."""
ONE = RoundNumber(1)


def evaluated_rounds(plan: AnyPlan, rounds: Sequence[int]) -> tuple[list[int], bool]:
    """Return the rounds that are evaluated, and whether that is certain: a round that is short may be tried again."""
    assert plan.evaluation is not None, "training has an evaluation"
    due = {number for number in rounds if number % plan.evaluation.every == 0 or number == rounds[-1]}
    if len(rounds) * plan.cohort.expected(len(plan.population)) > MOST_INVITED:
        return sorted(due), False
    certain = True
    for number in rounds:
        invited = invited_to(plan, "train", plan.cohort, number)
        if len(heard_of(plan, "train", number, invited)) < max(1, plan.policy.needed(len(invited))):
            due.discard(number)
            certain = certain and (not len(invited) or plan.policy.on_short == "skip")
    return sorted(due), certain


def total_bytes(
    plan: AnyPlan, program: Program, cohort: Cohort, *, rounds: Sequence[int], each: npt.NDArray[np.int64]
) -> tuple[int, int] | None:
    """Return the bytes of all rounds up and down; None where drawing every cohort would take too long."""
    if len(rounds) * cohort.expected(len(plan.population)) > MOST_INVITED:
        return None
    up = down = 0
    # What an order says of the last round that counted is some bytes longer from round 128 on.
    committed = np.zeros(len(plan.population), dtype=np.int64)
    last = 0
    for number in rounds:
        if program == "evaluate" and plan.stateful:
            for trained in range(last + 1, number + 1):
                committed[heard_of(plan, "train", trained, invited_to(plan, "train", plan.cohort, trained))] = trained
            last = number
        invited = invited_to(plan, program, cohort, number)
        heard = heard_of(plan, program, number, invited)
        up += int(each[heard].sum()) + len(heard) * (_packed(number) - _packed(1))
        down += order_bytes(plan, program, RoundNumber(number), invited=len(invited)) * len(invited)
        if plan.stateful:
            down += sum(_packed(int(value)) - 1 for value in committed[invited] if value)
            if program == "train":
                committed[heard] = number
    return up, down


def invited_to(plan: AnyPlan, program: Program, cohort: Cohort, number: int) -> npt.NDArray[np.int64]:
    """Return the clients that are invited to a round, as the coordinator draws them."""
    key = plan.round_key(number, 0)
    absent = plan.world is not None and program == "train"
    away = plan.world.away(key, number, plan.population) if absent and plan.world is not None else None
    return cohort.draw(key.child(f"{program} cohort"), plan.population, away)


def heard_of(plan: AnyPlan, program: Program, number: int, invited: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return those of the invited clients whose reply the simulated world does not lose."""
    if plan.world is None or program != "train":
        return invited
    key, world = plan.round_key(number, 0), plan.world
    names = [plan.population.id(index) for index in invited.tolist()]
    return invited[[world.failure(key, name) is None and _arrives(world, number, name) for name in names]]


def _arrives(world: World, number: int, client: ClientId) -> bool:
    step = world.lost_step(number, 0, client)
    return step is None or step > VECTOR_STEP


def order_bytes(plan: AnyPlan, program: Program, number: RoundNumber, *, invited: int) -> int:
    """Return what comes down to a client that was in no round before: the order, and messages of the sum."""
    algorithm, exchange = plan.program_of(program)
    interactive = exchange.pipeline.aggregator.interactive
    order: RoundOrder[Any] = RoundOrder(
        round=number,
        retry=0,
        digest=plan.digest,
        program=program,
        broadcast=algorithm.broadcast(algorithm.init(plan.start)),
        settings=exchange.pipeline.settings(exchange.pipeline.init()),
        invited=invited if interactive else None,
    )
    if not interactive:
        return codec.encoded_length(order)
    frame = codec.encoded_length(AggregatorRequest(program=program, round=number, retry=0, step=1, payload=None))
    aggregator, (_, down) = _specimens(plan, exchange, invited)
    sums = sum(frame + codec.bytes_length(aggregator.length(message)) for message in down)
    return codec.encoded_length(order) + sums


def sum_bytes(plan: AnyPlan, program: Program, *, invited: int) -> int:
    """Return what a client sends of the sum of the first round."""
    _, exchange = plan.program_of(program)
    if not exchange.pipeline.aggregator.interactive:
        return codec.encoded_length(_sum_message(exchange))
    frame = codec.encoded_length(AggregatorMessage(round=ONE, retry=0, payload=None))
    aggregator, (up, _) = _specimens(plan, exchange, invited)
    return sum(frame + codec.bytes_length(aggregator.length(message)) for message in up)


def _specimens(plan: AnyPlan, exchange: Exchange, invited: int) -> tuple[InteractiveAggregator, Any]:
    aggregator = cast("InteractiveAggregator", exchange.pipeline.aggregator)
    cohort = [plan.population.id(index) for index in range(invited)]
    return aggregator, aggregator.specimens(exchange.pipeline.sent, cohort)


def _sum_message(exchange: Exchange) -> AggregatorMessage:
    """Return a message of the first round as long as every client's; its numbers are zero."""
    wire = exchange.pipeline.sent
    return AggregatorMessage(round=ONE, retry=0, payload=np.zeros(wire.dim or 0, wire.dtype))


def evaluation_messages(
    plan: AnyPlan, dataset: FederatedDataset, transforms: Sequence[Transform], *, clients: Sequence[ClientId]
) -> list[ClientMessage]:
    """Return what some clients answer to an evaluation of the start: its length depends on who has a figure."""
    algorithm, exchange = plan.program_of("evaluate")
    hidden = not exchange.pipeline.aggregator.shows_messages
    order: RoundOrder[Any] = RoundOrder(
        round=ONE,
        retry=0,
        digest=plan.digest,
        program="evaluate",
        broadcast=algorithm.broadcast(algorithm.init(plan.start)),
        settings=exchange.pipeline.settings(exchange.pipeline.init()),
    )
    messages: list[ClientMessage] = []
    for name in clients:
        data = _prepared(dataset.client(name), transforms)
        if hidden and data.count("train"):  # all are of one length: no figures of a client's own stand beside the sum
            messages.append(_sum_message(exchange))
            continue
        node = ClientNode(client=name, plan=plan, data=data, states=MemoryStates())
        messages.extend(run_block([node], [order]))
    return messages


def _prepared(data: ClientDataset, transforms: Sequence[Transform]) -> ClientDataset:
    for transform in transforms:
        data = transform.apply(data)
    return data


@functools.lru_cache(maxsize=4096)
def _packed(number: int) -> int:
    return len(msgspec.msgpack.encode(number))
