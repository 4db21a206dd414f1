"""What coordinator and clients say to each other, as bytes and back: each side decodes into what it expects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
from msgspec import structs

from fedloom.core import codec
from fedloom.core.aggregator import InteractiveAggregator, Payload
from fedloom.core.ids import RoundNumber
from fedloom.core.messages import (
    AggregatorMessage,
    AggregatorRequest,
    ClientMessage,
    Failed,
    Program,
    Refused,
    RoundOrder,
)
from fedloom.core.wire import WireType
from fedloom.errors import CodecError
from fedloom.runtime.plan import RunPlan

_FIRST = RoundNumber(1)


def order_like(plan: RunPlan[Any, Any, Any], program: Program) -> RoundOrder[Any]:
    """Return an order of a program as its bytes are decoded: what it broadcasts has these types and shapes."""
    algorithm, exchange = plan.program_of(program)
    pipeline = exchange.pipeline
    return RoundOrder(
        round=_FIRST,
        retry=0,
        digest=plan.digest,
        program=program,
        broadcast=algorithm.broadcast(algorithm.init(plan.start)),
        settings=pipeline.settings(pipeline.init()),
        committed=None,
        invited=None,
    )


def encode_order(order: RoundOrder[Any]) -> bytes:
    """Return an order as it travels."""
    return codec.encode(order)


def decode_order(data: bytes, plan: RunPlan[Any, Any, Any], program: Program) -> RoundOrder[Any]:
    """Return an order of the program that is expected.

    Raises:
        CodecError: When the bytes are none, or of another experiment's shapes.
    """
    order = codec.decode(data, order_like(plan, program))
    if order.program != program:
        raise CodecError(f"an order to {order.program}; expected one to {program}")
    return order


def encode_message(message: ClientMessage, plan: RunPlan[Any, Any, Any], program: Program) -> bytes:
    """Return a client's message as it travels."""
    aggregator, _ = _sum_of(plan, program)
    if isinstance(message, AggregatorMessage) and aggregator is not None:
        message = structs.replace(message, payload=aggregator.pack(message.payload))
    return codec.encode(message)


def decode_message(data: bytes, plan: RunPlan[Any, Any, Any], program: Program) -> ClientMessage:
    """Return a client's message.

    Raises:
        CodecError: When the bytes are none, or the vector is not of this program's sum.
    """
    aggregator, wire = _sum_of(plan, program)
    payload: Payload = np.zeros(wire.dim or 0, wire.dtype) if aggregator is None else b""
    likes: list[ClientMessage] = [
        Refused(round=_FIRST, retry=0, reason=""),
        Failed(round=_FIRST, retry=0, kind="lost", detail=""),
        AggregatorMessage(round=_FIRST, retry=0, payload=payload),
    ]
    message = codec.decode_one_of(data, likes)
    if isinstance(message, AggregatorMessage) and aggregator is not None:
        return structs.replace(message, payload=aggregator.unpack(message.payload, wire))
    return message


def encode_request(request: AggregatorRequest, aggregator: InteractiveAggregator) -> bytes:
    """Return a message of an interactive sum as it travels to a client."""
    return codec.encode(structs.replace(request, payload=aggregator.pack(request.payload)))


def decode_request(data: bytes, aggregator: InteractiveAggregator, wire: WireType) -> AggregatorRequest:
    """Return a message of an interactive sum to a client.

    Raises:
        CodecError: When the bytes are none.
    """
    like = AggregatorRequest(program="train", round=_FIRST, retry=0, step=1, payload=b"")
    request = codec.decode(data, like)
    if request.program not in ("train", "evaluate", "query"):
        raise CodecError(f"a message of a sum in the program {request.program!r}: there is none")
    return structs.replace(request, payload=aggregator.unpack(request.payload, wire))


def interactive_sum(plan: RunPlan[Any, Any, Any], program: Program) -> tuple[InteractiveAggregator, WireType]:
    """Return the aggregator of a program's sum, and what a client sends of it.

    Raises:
        CodecError: When the sum is one of a single message.
    """
    aggregator, wire = _sum_of(plan, program)
    if aggregator is None:
        raise CodecError(f"the sum of {program} has one message of a client: nothing is asked for after it")
    return aggregator, wire


def uncommitted(order: RoundOrder[Any]) -> RoundOrder[Any]:
    """Return an order as all clients get it, without the word that is for one of them."""
    return replace(order, committed=None)


def _sum_of(plan: RunPlan[Any, Any, Any], program: Program) -> tuple[InteractiveAggregator | None, WireType]:
    pipeline = plan.program_of(program)[1].pipeline
    aggregator = pipeline.aggregator
    return cast("InteractiveAggregator", aggregator) if aggregator.interactive else None, pipeline.sent
