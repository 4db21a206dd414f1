"""What a run and its worker processes say to each other: one pipe each way, every message its length and msgpack.

Nothing is pickled. A worker builds the experiment from its JSON, so it knows only what installed packages provide by
name; arrays travel as their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from fedloom.core.aggregator import SumPart
from fedloom.core.ids import ClientId
from fedloom.core.messages import Failure
from fedloom.core.params import Vector
from fedloom.engines.pipes import Logged, read_frame, write_frame
from fedloom.runtime.open_round import RoundPart


class Setup(Struct, frozen=True, tag=True, kw_only=True):
    """First message: the experiment as JSON, and where its rows lie."""

    experiment: bytes
    base: str
    rows: str
    strict: bool


class Phase(Struct, frozen=True, tag=True, kw_only=True):
    """A phase begins: its number, what the preparations before it found, and the splits that have rows."""

    number: int
    digest: str
    prepared: bytes
    splits: tuple[str, ...]


class Work(Struct, frozen=True, tag=True, kw_only=True):
    """Orders of a round for the clients at places ``start`` to ``stop`` of the cohort."""

    program: str
    order: bytes
    cohort: bytes
    """Indices into the population, int64."""
    start: int
    stop: int
    block: int
    committed: bytes
    """Of the clients from ``start`` on: the round that each was last included in, -1 for none; int64."""
    states: tuple[bytes, ...]
    """What each of them keeps; empty where clients keep nothing."""


class Part(Struct, frozen=True, tag=True, kw_only=True):
    """Answer to ``Work``: a part of the round, and what its clients keep now."""

    nodes: bytes
    values: bytes
    dtype: str
    sent: bytes
    lost: bytes
    scores: dict[str, dict[str, float | None]]
    failures: dict[str, Failure]
    bytes_up: int
    states: dict[str, bytes]
    log: Logged
    """What was logged meanwhile."""


class Ready(Struct, frozen=True, tag=True):
    """Answer to ``Setup`` and ``Phase``."""


class Raised(Struct, frozen=True, tag=True, kw_only=True):
    """Answer to anything: an exception that is no client's failure."""

    text: str
    trace: str


ToWorker: TypeAlias = Setup | Phase | Work
FromWorker: TypeAlias = Part | Ready | Raised
_TO: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_FROM: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def send(pipe: BinaryIO, message: ToWorker | FromWorker) -> None:
    """Write a message and flush it."""
    write_frame(pipe, msgspec.msgpack.encode(message))


def read_order(pipe: BinaryIO) -> ToWorker | None:
    """Return the next message to a worker; None when the run has closed the pipe."""
    data = read_frame(pipe)
    return None if data is None else _TO.decode(data)


def read_answer(pipe: BinaryIO) -> FromWorker | None:
    """Return the next message of a worker; None when it has ended."""
    data = read_frame(pipe)
    return None if data is None else _FROM.decode(data)


def part_message(part: RoundPart, states: Mapping[ClientId, bytes], *, log: Logged) -> Part:
    """Return a part of a round as it travels."""
    return Part(
        nodes=part.sum.nodes.tobytes(),
        values=part.sum.values.tobytes(),
        dtype=part.sum.values.dtype.str,
        sent=part.sum.sent.tobytes(),
        lost=part.sum.lost.tobytes(),
        scores={client: dict(scores) for client, scores in part.scores.items() if scores},
        failures={str(client): failure for client, failure in part.failures.items()},
        bytes_up=part.bytes_up,
        states={str(client): data for client, data in states.items()},
        log=log,
    )


def round_part(message: Part) -> RoundPart:
    """Return the part of a round that a message holds."""
    nodes = np.frombuffer(message.nodes, np.int64).reshape(-1, 3)
    present = int(nodes[:, 2].sum())
    values: Vector = np.frombuffer(message.values, message.dtype)
    return RoundPart(
        sum=SumPart(
            nodes=nodes,
            values=values.reshape(present, -1) if present else values.reshape(0, 0),
            sent=np.frombuffer(message.sent, np.int64),
            lost=np.frombuffer(message.lost, np.int64),
        ),
        scores={ClientId(client): scores for client, scores in message.scores.items()},
        failures={ClientId(client): failure for client, failure in message.failures.items()},
        bytes_up=message.bytes_up,
    )
