"""Aggregator: the one interactive part of an update's way, as two state machines without IO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId
from fedloom.core.keys import Keys
from fedloom.core.params import Vector
from fedloom.core.wire import WireType

Payload: TypeAlias = Any
"""A ``Vector``, or one of the aggregator's own frozen message types."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Messages that go out before more can come in; none: wait."""

    messages: Sequence[tuple[ClientId, Payload]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """The reduced value, and who is in it, in cohort order."""

    total: Vector
    included: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """No value can be had from this round."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class SumPart:
    """What a worker's partial server has received, as arrays that travel between processes."""

    nodes: npt.NDArray[np.int64]
    """Rows ``(level, index, present)``: nodes of the tree over cohort places that are sums already."""
    values: Vector
    """Of the nodes that are present, in their order."""
    sent: npt.NDArray[np.int64]
    """Places of the clients that sent."""
    lost: npt.NDArray[np.int64]
    """Places of the clients that will not."""


class AggregatorServer(Protocol):
    """The server side of one round's sum."""

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Fold a message in; keep no more than must be kept."""
        ...

    def lose(self, client: ClientId) -> None:
        """Note that a client will send nothing more."""
        ...

    def advance(self) -> Continue | Finish | Abort:
        """Return what follows, when a phase is complete or its deadline passed."""
        ...

    def partial(self) -> Self:
        """Return an empty server of the same round for a worker; only where the aggregator is mergeable."""
        ...

    def merge(self, other: Self) -> None:
        """Fold in what a worker's partial server has received."""
        ...

    def export(self) -> SumPart:
        """Return what a partial server has received, for another process; only where the aggregator is mergeable."""
        ...

    def absorb(self, part: SumPart) -> None:
        """Fold in what a partial server of another process has received."""
        ...


class AggregatorClient(Protocol):
    """The client side of one round's sum."""

    def open(self) -> Payload:
        """Return the first message."""
        ...

    def reply(self, message: Payload) -> Payload:
        """Return the answer to a message of the server."""
        ...


class Aggregator(Protocol):
    """Creates both sides, and says what it does to the wire type. Attributes are read-only."""

    @property
    def name(self) -> str:
        """Name in files."""
        ...

    @property
    def spec(self) -> ComponentSpec | None:
        """What built it."""
        ...

    @property
    def mergeable(self) -> bool:
        """True for sums: workers may fold their clients and return one partial."""
        ...

    @property
    def shows_messages(self) -> bool:
        """True where the server reads each client's message: nothing is hidden, so scores may travel beside it."""
        ...

    @property
    def payloads(self) -> Sequence[type]:
        """Frozen message types of its own, beside ``Vector``."""
        ...

    def plan(self, wire: WireType) -> WireType:
        """Return the wire type of the reduced value; raises PipelineError."""
        ...

    def server(self, cohort: Sequence[ClientId], keys: Keys) -> AggregatorServer:
        """Return the server side for a cohort, in cohort order."""
        ...

    def client(self, me: ClientId, value: Vector, keys: Keys) -> AggregatorClient:
        """Return the client side of one client's encoded value."""
        ...
