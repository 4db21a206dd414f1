"""Rows of a site's store: what each is, and what names it. What is secret among them is sealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.messages import Program
from fedloom.store.blobs import Digest
from fedloom.store.events_chain import EVENTS
from fedloom.store.federation_rows import RoundKey
from fedloom.store.store_folder import META
from fedloom.store.tables import Table

FORMAT = 1

OutgoingKind: TypeAlias = Literal["message", "refused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedState:
    """What a client keeps between rounds of a run."""

    run: RunId
    client: ClientId
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSum:
    """The client side of an interactive sum that lasts."""

    run: RunId
    client: ClientId
    phase: int
    program: Program
    round: RoundNumber
    retry: int
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The latest sum that was begun: it, and all before it, are never begun again."""

    run: RunId
    client: ClientId
    phase: int
    program: Program
    round: RoundNumber
    retry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What the site answers at one step of a round: written before its first byte leaves, and never another."""

    run: RunId
    phase: int
    program: Program
    round: RoundNumber
    retry: int
    step: int
    kind: OutgoingKind
    blob: Digest | None = None
    detail: str = ""
    answer: str | None = None
    """What the coordinator said to it; None: not yet submitted."""

    @property
    def key(self) -> RoundKey:
        """The round that it is part of."""
        return RoundKey(self.run, self.phase, self.program, self.round, self.retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What the site's operator has allowed: the digest of what was shown, and the signed bytes that say so."""

    run: RunId
    digest: str
    signed: bytes
    until: float | None = None
    """By the site's clock; None: without end."""
    max_rounds: int | None = None
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The fingerprint of the data that a run saw last."""

    run: RunId
    data_set: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """The next number of the site's signed messages in a run: those below it may have been used."""

    run: str
    next: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A coordinator as it was seen last: an older store of it has come from a backup."""

    name: str
    epoch: str
    ledger: str | None = None
    chain: str | None = None
    round: str = ""
    """The latest round that it was in, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The newest signed offer of a run that the site has acted on: an older one is a replay."""

    run: RunId
    sequence: int
    message: bytes
    digest: bytes
    """Of the envelope: with it, what was asked can be shown to others."""


_ROUND = ("run", "phase", "program", "round", "retry")
STATES = Table(name="state", row=SealedState, key=("run", "client"))
SUMS = Table(name="sum", row=SealedSum, key=("run", "client", *_ROUND[1:]))
BEGUN = Table(name="begun", row=Begun, key=("run", "client", "phase", "program"))
OUTBOX = Table(name="outbox", row=Outgoing, key=(*_ROUND, "step"))
PERMISSIONS = Table(name="permission", row=Permission, key=("run",))
SEEN = Table(name="seen", row=Seen, key=("run", "data_set"))
COUNTERS = Table(name="counter", row=Counter, key=("run",))
PEERS = Table(name="peer", row=Peer, key=("name",))
ORDERS = Table(name="order_seen", row=Order, key=("run",))
TABLES: tuple[Table[Any], ...] = (META, STATES, SUMS, BEGUN, OUTBOX, PERMISSIONS, SEEN, COUNTERS, PEERS, ORDERS, EVENTS)
