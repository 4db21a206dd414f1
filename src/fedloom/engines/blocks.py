"""Blocks: clients of one round computed together, and their messages folded where they are received."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from fedloom.core.aggregator import InteractiveAggregator
from fedloom.core.data import ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.messages import (
    AggregatorRequest,
    ClientMessage,
    Failure,
    Program,
    RoundOrder,
)
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.secrets import client_secret
from fedloom.errors import DataError
from fedloom.experiment.plan import AnyPlan
from fedloom.runtime.client import ClientNode, stream_block
from fedloom.runtime.coordinator import Coordinator
from fedloom.runtime.effects import Send
from fedloom.runtime.on_the_wire import (
    decode_message,
    decode_order,
    decode_request,
    encode_message,
    encode_order,
    encode_request,
    interactive_sum,
)
from fedloom.runtime.open_round import OpenRound
from fedloom.runtime.ports import ClientStates
from fedloom.runtime.sessions import MemorySessions, Sessions
from fedloom.runtime.simulation import VECTOR_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """What it takes to compute a block of clients: their rows and states, and how to go about it.

    ``debug`` raises a client's exception where it happens; ``strict`` sends every order and message through its bytes.
    """

    data: PreparedData
    states: ClientStates
    debug: bool
    strict: bool
    sessions: Sessions = field(default_factory=MemorySessions)
    """Of clients in the middle of an interactive sum."""

    def fold(
        self,
        plan: AnyPlan,
        to: Coordinator[Any, Any, Any] | OpenRound,
        clients: Sequence[ClientId],
        orders: Mapping[ClientId, RoundOrder[Any]],
    ) -> None:
        """Compute a block and fold its messages into a round, or into a worker's part of it."""
        nodes: list[ClientNode[Any, Any]] = []
        sessions = self._sessions(plan, orders[clients[0]].program)
        for client in clients:
            try:
                data = self.data.client(client)
            except DataError as error:
                phase = orders[client].program
                to.lose(client, Failure(client=client, phase=phase, kind="refused", detail=str(error)))
                continue
            nodes.append(self._node(plan, client, data, sessions))
        asked = [orders[node.client] for node in nodes]
        if self.strict:
            asked = [decode_order(encode_order(order), plan, order.program) for order in asked]
        with np.errstate(over="ignore"):  # a sum that overflows is told by the check on the aggregate
            for place, message in stream_block(nodes, asked):
                client = nodes[place].client
                lost = lost_at(plan, orders[client], client, step=0)
                if lost is not None:
                    to.lose(client, lost)
                else:
                    to.receive(client, self._arrived(message, plan, orders[client].program))

    def answer(self, plan: AnyPlan, to: Coordinator[Any, Any, Any], send: Send) -> None:
        """Take a message of an interactive sum to its client, and the answer back."""
        client, request = send.to, send.request
        node = self._node(plan, client, self.data.client(client), self._sessions(plan, request.program))
        if self.strict:
            aggregator, wire = interactive_sum(plan, request.program)
            request = decode_request(encode_request(request, aggregator), aggregator, wire)
        message = node.answer(request)
        lost = lost_at(plan, request, client, step=request.step)
        if lost is not None:
            to.lose(client, lost)
        else:
            to.receive(client, self._arrived(message, plan, request.program))

    def close(self, clients: Iterable[ClientId]) -> None:
        """Let clients forget what they keep of sums: the round is over."""
        for client in clients:
            self.sessions.end(client)

    def _arrived(self, message: ClientMessage, plan: AnyPlan, program: Program) -> ClientMessage:
        return decode_message(encode_message(message, plan, program), plan, program) if self.strict else message

    def _sessions(self, plan: AnyPlan, program: Program) -> Sessions | None:
        return self.sessions if plan.program_of(program)[1].pipeline.aggregator.interactive else None

    def _node(
        self, plan: AnyPlan, client: ClientId, data: ClientDataset, sessions: Sessions | None
    ) -> ClientNode[Any, Any]:
        return ClientNode(
            client=client,
            plan=plan,
            data=data,
            states=self.states,
            secret=client_secret(plan, client),
            sessions=sessions,
            debug=self.debug,
        )


def blocks_of(clients: Sequence[ClientId], size: int) -> list[Sequence[ClientId]]:
    """Return a cohort cut into blocks, before anyone is lost: composition is a function of the cohort alone.

    Example:
        >>> blocks_of([ClientId("a"), ClientId("b"), ClientId("c")], 2)
        [['a', 'b'], ['c']]
    """
    return [clients[start : start + size] for start in range(0, len(clients), size)]


def even_block(plan: AnyPlan, clients: int, block: int, workers: int) -> int:
    """Return a size of blocks up to ``block`` that gives every worker as many: none waits while another has one more.

    Where a client's bytes depend on its company, the size is left as it is, so that no number of workers changes them.
    """
    if clients == 0 or (plan.learner is not None and plan.learner.capabilities.block == "close"):
        return block
    each = -(-clients // (workers * block))
    return max(1, -(-clients // (workers * each)))


SCRIPTED = "simulated: the client was lost, as simulate.losses says"


def lost_at(
    plan: AnyPlan, asked: RoundOrder[Any] | AggregatorRequest, client: ClientId, *, step: int
) -> Failure | None:
    """Return the failure that a simulated world makes of a client's message of a step, None where it arrives.

    The client has computed and kept its state. In an interactive sum a lost client is lost at one of the steps up to
    that which brings its vector: the same clients are in the sum as in one of a single message.
    """
    if plan.world is None or asked.program != "train":
        return None
    key, aggregator = plan.round_key(asked.round, asked.retry), plan.exchange.pipeline.aggregator
    scripted = plan.world.lost_step(asked.round, asked.retry, client)
    if scripted is not None:
        steps = cast("InteractiveAggregator", aggregator).vector_step if aggregator.interactive else 0
        lost = scripted == step if steps else scripted <= VECTOR_STEP and step == 0
        return Failure(client=client, phase="train", kind="lost", detail=SCRIPTED) if lost else None
    failure = plan.world.failure(key, client)
    if failure is None or not aggregator.interactive:
        return failure
    steps = 1 + cast("InteractiveAggregator", aggregator).vector_step
    drawn = int(key.child("simulate", "step", client).random_raw(1)[0]) % steps
    return failure if step == drawn else None
