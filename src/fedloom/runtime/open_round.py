"""OpenRound: what one open round has received so far, wherever it is received."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec
import numpy as np
from msgspec import structs

from fedloom.core import codec
from fedloom.core.aggregator import InteractiveAggregator, MergeableServer, Payload, SumPart, SumRound
from fedloom.core.calibration import CalibrationBin
from fedloom.core.ids import ClientId
from fedloom.core.keys import Keys
from fedloom.core.messages import (
    AggregatorMessage,
    AggregatorRequest,
    ClientMessage,
    Failed,
    Failure,
    Refused,
    RoundOrder,
)
from fedloom.errors import Error
from fedloom.runtime.exchange import Exchange
from fedloom.runtime.record import NO_FIGURES, Figures, FigureTable, RoundRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundPart:
    """What one worker has received of an open round."""

    sum: SumPart
    scores: dict[ClientId, Mapping[str, float | None]]
    failures: dict[ClientId, Failure]
    bytes_up: int


class OpenRound:
    """What one open round has received so far; a worker's part of it is one of these too."""

    def __init__(
        self, cohort: Sequence[ClientId], order: RoundOrder[Any], exchange: Exchange, about: SumRound, keys: Keys
    ) -> None:
        self.cohort = cohort
        self.order = order
        self.exchange = exchange
        self.server = exchange.pipeline.aggregator.server(cohort, about, keys)
        self.scores: dict[ClientId, Mapping[str, float | None]] = {}
        self.failures: dict[ClientId, Failure] = {}
        self.bytes_up = 0
        self.bytes_down = 0
        self._waiting = set(cohort)
        self._step = 0
        self._vector_bytes: dict[tuple[tuple[str, type], ...], int] = {}

    def receive(self, sender: ClientId, message: ClientMessage) -> None:
        """Take one client's message, once."""
        order = self.order
        if sender not in self._waiting or (message.round, message.retry) != (order.round, order.retry):
            log.info(
                "client=%s round=%s retry=%s ignored: late, doubled or not invited",
                sender,
                message.round,
                message.retry,
            )
            return
        self.bytes_up += self._length(message)
        match message:
            case AggregatorMessage():
                self._fold(sender, message)
            case Refused():
                self._fail(sender, Failure(client=sender, phase=order.program, kind="refused", detail=message.reason))
            case Failed():
                self._fail(
                    sender,
                    Failure(
                        client=sender,
                        phase=order.program,
                        kind=message.kind,
                        detail=message.detail,
                        where=message.where,
                    ),
                )

    def lose(self, client: ClientId, failure: Failure) -> None:
        """Note that a client will send nothing more."""
        if client in self._waiting:
            self._fail(client, failure)

    def ask(self, messages: Sequence[tuple[ClientId, Payload]]) -> Sequence[tuple[ClientId, AggregatorRequest]]:
        """Return messages of an interactive sum as they go out; whoever gets one is waited for again."""
        aggregator = cast("InteractiveAggregator", self.exchange.pipeline.aggregator)
        self._step += 1
        empty = AggregatorRequest(
            program=self.order.program, round=self.order.round, retry=self.order.retry, step=self._step, payload=None
        )
        frame = codec.encoded_length(empty)
        for client, payload in messages:
            self.bytes_down += frame + codec.bytes_length(aggregator.length(payload))
            self._waiting.add(client)
        return [(client, structs.replace(empty, payload=payload)) for client, payload in messages]

    def partial(self) -> OpenRound:
        """Return an empty copy for a worker."""
        if not self.exchange.pipeline.aggregator.mergeable:
            raise Error(f"{self.exchange.pipeline.aggregator.name} is not mergeable: messages go one by one")
        part = OpenRound.__new__(OpenRound)
        part.__dict__.update(self.__dict__)
        part.server = self._mergeable.partial()
        part.scores, part.failures, part._waiting = {}, {}, set(self._waiting)
        part.bytes_up = part.bytes_down = 0
        return part

    def merge(self, part: OpenRound) -> None:
        """Take over what a part has received of other clients."""
        self._mergeable.merge(part._mergeable)
        self.scores |= part.scores
        self.failures |= part.failures
        self.bytes_up += part.bytes_up
        self._waiting &= part._waiting

    def export(self) -> RoundPart:
        """Return what a part has received, for another process."""
        return RoundPart(
            sum=self._mergeable.export(), scores=self.scores, failures=self.failures, bytes_up=self.bytes_up
        )

    def absorb(self, part: RoundPart) -> None:
        """Take over what a part of another process has received."""
        self._mergeable.absorb(part.sum)
        self.scores |= part.scores
        self.failures |= part.failures
        self.bytes_up += part.bytes_up
        heard = (*part.sum.sent.tolist(), *part.sum.lost.tolist())
        self._waiting.difference_update([self.cohort[place] for place in heard])

    @property
    def _mergeable(self) -> MergeableServer:
        return cast("MergeableServer", self.server)

    def record(self, status: Any, included: tuple[ClientId, ...], metrics: Figures) -> RoundRecord:
        """Return the record of this round."""
        return RoundRecord(
            round=self.order.round,
            retry=self.order.retry,
            program=self.order.program,
            status=status,
            invited=len(self.cohort),
            included=included,
            failures=self._failures(),
            metrics=metrics,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
        )

    def extend(
        self,
        record: RoundRecord,
        metrics: Figures,
        clients: FigureTable = NO_FIGURES,
        calibration: tuple[CalibrationBin, ...] = (),
    ) -> RoundRecord:
        """Return the record of the training round that this evaluation belongs to, with both."""
        return replace(
            record,
            metrics={**record.metrics, **metrics},
            clients=clients,
            calibration=calibration,
            failures=(*record.failures, *self._failures()),
            bytes_up=record.bytes_up + self.bytes_up,
            bytes_down=record.bytes_down + self.bytes_down,
        )

    def _failures(self) -> tuple[Failure, ...]:
        """Return failures in cohort order, whatever the order of arrival."""
        return tuple(self.failures[client] for client in self.cohort if client in self.failures)

    def _fold(self, sender: ClientId, message: AggregatorMessage) -> None:
        wrong = self._wrong(message.payload)
        if wrong is not None:
            self._fail(sender, Failure(client=sender, phase=self.order.program, kind="invalid", detail=wrong))
            return
        try:
            self.server.receive(sender, message.payload)
        except Error as error:
            if not self.exchange.pipeline.aggregator.interactive:
                raise
            self._fail(sender, Failure(client=sender, phase=self.order.program, kind="invalid", detail=str(error)))
            return
        self._waiting.discard(sender)
        if message.scores:
            self.scores[sender] = message.scores

    def _wrong(self, payload: Payload) -> str | None:
        if not isinstance(payload, np.ndarray):
            allowed = self.exchange.pipeline.aggregator.payloads
            return (
                None
                if isinstance(payload, tuple(allowed))
                else f"a {type(payload).__name__} is no message of this round"
            )
        wire = self.exchange.pipeline.sent
        if payload.shape != (wire.dim,) or payload.dtype != wire.dtype:
            return f"the vector is {payload.dtype} {payload.shape}; this round sums {wire.dtype} ({wire.dim},)"
        if not np.isfinite(payload).all():
            return "the update holds a NaN or an infinity: local training diverged; lower the learning rate"
        return None

    def _fail(self, client: ClientId, failure: Failure) -> None:
        self._waiting.discard(client)
        self.failures[client] = failure
        self.server.lose(client)

    def _length(self, message: ClientMessage) -> int:
        """Return the length of a message on the wire.

        Vectors of one round differ in nothing that changes it, and scores in which of them have no value.
        """
        aggregator = self.exchange.pipeline.aggregator
        if aggregator.interactive and isinstance(message, AggregatorMessage):
            length = cast("InteractiveAggregator", aggregator).length(message.payload)
            return codec.encoded_length(structs.replace(message, payload=None)) + codec.bytes_length(length)
        if not isinstance(message, AggregatorMessage) or not isinstance(message.payload, np.ndarray):
            return codec.encoded_length(message)
        form = tuple([(name, type(value)) for name, value in message.scores.items()])
        if form not in self._vector_bytes:
            self._vector_bytes[form] = codec.encoded_length(message)
        return self._vector_bytes[form]


def bytes_down(template: RoundOrder[Any], orders: Mapping[ClientId, RoundOrder[Any]]) -> int:
    """Return the length of all orders on the wire: they differ in ``committed`` alone."""
    base = codec.encoded_length(template) - len(msgspec.msgpack.encode(None))
    return sum(base + len(msgspec.msgpack.encode(order.committed)) for order in orders.values())
