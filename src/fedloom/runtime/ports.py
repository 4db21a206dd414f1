"""Ports: what a run needs of durable storage, as protocols, and versions in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedloom.core import codec
from fedloom.core.events import DpEvent
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.params import Vector
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A client's state after one round: the algorithm's, and the stages' memory."""

    round: RoundNumber
    state: Any
    memory: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredState:
    """What a client keeps: the state that counts, and one that counts if its round did."""

    committed: Slot | None = None
    pending: Slot | None = None

    def settle(self, committed: RoundNumber | None) -> StoredState:
        """Return what is kept once the client knows the last round it was included in."""
        if self.pending is None:
            return self
        return StoredState(committed=self.pending if self.pending.round == committed else self.committed)


NOTHING_STORED = StoredState()


class ClientStates(Protocol):
    """Where clients keep their states. Writing is cheap; it is durable when the engine says so."""

    def load(self, client: ClientId) -> StoredState:
        """Return what a client keeps; an empty state for a new one."""
        ...

    def save(self, client: ClientId, state: StoredState) -> None:
        """Replace what a client keeps."""
        ...


class Ledger(Protocol):
    """Privacy events, each written before what it releases is used; a repeated key is written once."""

    def append(self, event: DpEvent, *, phase: int, round_number: RoundNumber, retry: int) -> None:
        """Write an event under its key."""
        ...


class Checkpoints(Protocol):
    """States of a run and the records of its rounds."""

    def save(self, state: RunState[Any]) -> None:
        """Make a state the one that a resume starts from, at once or at the next write."""
        ...

    def close(self, record: RoundRecord) -> None:
        """Add a record to the history."""
        ...


@dataclass(slots=True)
class MemoryStates:
    """ClientStates in a dictionary. ``changed`` names the clients written since it was last emptied."""

    states: dict[ClientId, StoredState] = field(default_factory=dict)
    changed: set[ClientId] = field(default_factory=set)

    def load(self, client: ClientId) -> StoredState:
        """Return what a client keeps."""
        return self.states.get(client, NOTHING_STORED)

    def save(self, client: ClientId, state: StoredState) -> None:
        """Replace what a client keeps."""
        self.states[client] = state
        self.changed.add(client)

    def take_changed(self) -> Iterator[tuple[ClientId, StoredState]]:
        """Yield what changed since the last call, in client order, and forget that it did."""
        names, self.changed = sorted(self.changed), set()
        for client in names:
            yield client, self.states[client]


@dataclass(slots=True)
class MemoryLedger:
    """Ledger in a list."""

    events: dict[tuple[int, RoundNumber, int], DpEvent] = field(default_factory=dict)

    def append(self, event: DpEvent, *, phase: int, round_number: RoundNumber, retry: int) -> None:
        """Write an event under its key, once."""
        self.events.setdefault((phase, round_number, retry), event)


@dataclass(slots=True)
class MemoryCheckpoints:
    """Checkpoints in memory: every state that was saved, and the history."""

    states: list[RunState[Any]] = field(default_factory=list)
    records: list[RoundRecord] = field(default_factory=list)

    def save(self, state: RunState[Any]) -> None:
        """Keep a state."""
        self.states.append(state)

    def close(self, record: RoundRecord) -> None:
        """Keep a record."""
        self.records.append(record)


def encode_stored(stored: StoredState) -> bytes:
    """Return what a client keeps as bytes: the length of the committed slot, that slot, the pending one."""
    committed, pending = (b"" if slot is None else codec.encode(slot) for slot in (stored.committed, stored.pending))
    return len(committed).to_bytes(8, "little") + committed + pending


def decode_stored(data: bytes, like: Slot) -> StoredState:
    """Return what ``encode_stored`` was given; each slot is built as ``like`` is.

    Raises:
        CodecError: When the bytes are damaged, or anything differs from the template.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    committed, pending = (codec.decode(part, like) if part else None for part in (data[8:end], data[end:]))
    return StoredState(committed=committed, pending=pending)
