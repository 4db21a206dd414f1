"""Aggregator: the one interactive part of an update's way, as two state machines without IO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Roster
from fedloom.core.wire import WireType

Payload: TypeAlias = Any
"""A ``Vector``, or one of the aggregator's own frozen message types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRound:
    """What both sides know of one round's sum before its first message; each side makes its own.

    An interactive aggregator binds all of it into what is signed and derived, so that two parties which were told
    different things have nothing to say to each other.
    """

    invited: int
    """Size of the cohort."""
    wire: WireType
    """What one client sends."""
    digest: str
    """Of the experiment."""
    phase: int
    program: str
    round: RoundNumber
    retry: int
    key: Key
    """Of the phase: public."""
    order: bytes
    """SHA-256 of what the order broadcasts; empty where the aggregator is not interactive."""
    run: str = ""
    """Names the run; empty in simulation."""
    roster: Roster | None = None
    """Who may take part, approved by the party that holds this value; None in simulation: derived from ``key``."""


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
    """The server side of one round's sum. What it refuses to take from a sender raises Error, and changes nothing."""

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Fold a message in; keep no more than must be kept."""
        ...

    def lose(self, client: ClientId) -> None:
        """Note that a client will send nothing more."""
        ...

    def advance(self) -> Continue | Finish | Abort:
        """Return what follows, when a phase is complete or its deadline passed."""
        ...


class MergeableServer(AggregatorServer, Protocol):
    """The server side of a sum that workers fold parts of; what a mergeable aggregator makes."""

    def partial(self) -> Self:
        """Return an empty server of the same round for a worker."""
        ...

    def merge(self, other: Self) -> None:
        """Fold in what a worker's partial server has received."""
        ...

    def export(self) -> SumPart:
        """Return what a partial server has received, for another process."""
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
        """True for sums: the server is a ``MergeableServer``, so workers may fold their clients into a partial one."""
        ...

    @property
    def shows_messages(self) -> bool:
        """True where the server reads each client's message: nothing is hidden, so scores may travel beside it."""
        ...

    @property
    def payloads(self) -> Sequence[type]:
        """Frozen message types of its own, beside ``Vector``."""
        ...

    @property
    def interactive(self) -> bool:
        """True where a sum takes more than one message of a client: then it is an ``InteractiveAggregator``."""
        ...

    def deployed(self) -> Aggregator:
        """Return what adds up between organisations, where a simulation may compute the sum by itself.

        Raises:
            PlanError: When it cannot be run there.
        """
        ...

    def words(self, wire: WireType) -> Sequence[str]:
        """Return what a plan says of it in sentences: who learns what, who is trusted, how many may be missing."""
        ...

    def honest(self, wire: WireType) -> int | None:
        """Return how many contributions of clients that are trusted every opened sum has, at least.

        None where single contributions are read: there is no sum that a share of noise could hide in.
        """
        ...

    def survivors(self, wire: WireType) -> int | None:
        """Return how many contributions every opened sum has, at least, of whomever; None as in ``honest``."""
        ...

    def plan(self, wire: WireType) -> WireType:
        """Return the wire type of the reduced value; raises PipelineError."""
        ...

    def server(self, cohort: Sequence[ClientId], about: SumRound, keys: Keys) -> AggregatorServer:
        """Return the server side for a cohort, in cohort order."""
        ...

    def client(
        self, me: ClientId, value: Vector, about: SumRound, keys: Keys, identity: Identity | None = None
    ) -> AggregatorClient:
        """Return the client side of one client's encoded value; without an identity a simulated one."""
        ...


class InteractiveClient(AggregatorClient, Protocol):
    """A client side that has secrets and a past: what it has sent it sends again, and nothing else in its place.

    Whoever drives it makes ``stored()`` durable before a message leaves, and brings the client back from it.
    """

    def stored(self) -> bytes:
        """Return all that it must keep, its secrets and its messages among it."""
        ...


class InteractiveServer(AggregatorServer, Protocol):
    """A server side that must outlive its process: what it has announced it never announces otherwise.

    Whoever drives it makes ``stored()`` durable before messages of ``Continue`` leave.
    """

    def stored(self) -> bytes:
        """Return all that it must keep."""
        ...


class InteractiveAggregator(Aggregator, Protocol):
    """An aggregator whose sum takes several messages."""

    @property
    def vector_step(self) -> int:
        """The client's message that brings its vector: 0 is the first. Whoever is lost before it is not in the sum."""
        ...

    def resume_server(
        self, cohort: Sequence[ClientId], stored: bytes, about: SumRound, keys: Keys
    ) -> tuple[InteractiveServer, Continue]:
        """Return a server side as ``stored()`` left it, and the messages that may not have left."""
        ...

    def resume(
        self, me: ClientId, stored: bytes, *, roster: Roster | None, identity: Identity | None
    ) -> InteractiveClient:
        """Return a client side as ``stored()`` left it."""
        ...

    def specimens(self, wire: WireType, cohort: Sequence[ClientId]) -> tuple[Sequence[Payload], Sequence[Payload]]:
        """Return messages as long as those that a client sends and gets in a round in which nobody is lost."""
        ...

    def pack(self, payload: Payload) -> bytes:
        """Return one of its messages as it travels."""
        ...

    def length(self, payload: Payload) -> int:
        """Return ``len(pack(payload))`` without copying a vector."""
        ...

    def unpack(self, data: bytes, wire: WireType) -> Payload:
        """Return the message that ``data`` is; raises CodecError, and reads no more than the round can need."""
        ...
