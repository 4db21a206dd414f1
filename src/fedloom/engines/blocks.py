"""Blocks: clients of one round computed together, and their messages folded where they are received."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedloom.core import codec
from fedloom.core.ids import ClientId
from fedloom.core.messages import AggregatorMessage, ClientMessage, Failed, Failure, Refused, RoundOrder
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.secrets import client_secret
from fedloom.errors import DataError
from fedloom.experiment.plan import AnyPlan
from fedloom.runtime.client import ClientNode, stream_block
from fedloom.runtime.coordinator import Coordinator
from fedloom.runtime.open_round import OpenRound
from fedloom.runtime.ports import ClientStates


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """What it takes to compute a block of clients: their rows and states, and how to go about it.

    ``debug`` raises a client's exception where it happens; ``strict`` sends every order and message through its bytes.
    """

    data: PreparedData
    states: ClientStates
    debug: bool
    strict: bool

    def fold(
        self,
        plan: AnyPlan,
        to: Coordinator[Any, Any, Any] | OpenRound,
        clients: Sequence[ClientId],
        orders: Mapping[ClientId, RoundOrder[Any]],
    ) -> None:
        """Compute a block and fold its messages into a round, or into a worker's part of it."""
        nodes: list[ClientNode[Any, Any]] = []
        for client in clients:
            try:
                data = self.data.client(client)
            except DataError as error:
                phase = orders[client].program
                to.lose(client, Failure(client=client, phase=phase, kind="refused", detail=str(error)))
                continue
            secret = client_secret(plan, client)
            nodes.append(
                ClientNode(client=client, plan=plan, data=data, states=self.states, secret=secret, debug=self.debug)
            )
        asked = [orders[node.client] for node in nodes]
        if self.strict:
            asked = [codec.decode(codec.encode(order), order) for order in asked]
        with np.errstate(over="ignore"):  # a sum that overflows is told by the check on the aggregate
            for place, message in stream_block(nodes, asked):
                client = nodes[place].client
                lost = _lost(plan, orders[client], client)
                if lost is not None:
                    to.lose(client, lost)
                else:
                    to.receive(client, _through_bytes(message) if self.strict else message)


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


def _lost(plan: AnyPlan, order: RoundOrder[Any], client: ClientId) -> Failure | None:
    """Return the failure that a simulated world makes of a reply: the client has computed and kept its state."""
    if plan.world is None or order.program != "train":
        return None
    return plan.world.failure(plan.round_key(order.round, order.retry), client)


def _through_bytes(message: ClientMessage) -> ClientMessage:
    """Return a message as it arrives after its way through bytes."""
    likes: list[ClientMessage] = [
        Refused(round=message.round, retry=0, reason=""),
        Failed(round=message.round, retry=0, kind="lost", detail=""),
    ]
    if isinstance(message, AggregatorMessage):
        likes.append(AggregatorMessage(round=message.round, retry=0, payload=message.payload))
    return codec.decode_one_of(codec.encode(message), likes)
