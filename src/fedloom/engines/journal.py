"""Journal: what a run has committed, in memory, and what of it is durable.

Effects are applied whole, or not at all; a write puts state, changed client states, records and events into one
transaction of the run folder. Simulations write at most every few seconds: what a crash loses is computed again, to the
same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedloom.core.events import DpEvent
from fedloom.core.ids import RoundNumber
from fedloom.core.params import Vector
from fedloom.runtime.effects import Append, Keep
from fedloom.runtime.ports import MemoryStates, encode_stored
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import RunState, encode_state
from fedloom.store import RunFolder


class RunLedger(Protocol):
    """What a run writes to a privacy ledger, each thing durable when the call returns. Keys are phase, round, retry."""

    def commit(self, key: tuple[int, int, int], event: DpEvent) -> None:
        """Charge a release, before it is made; the same one again changes nothing."""
        ...

    def keep(self, key: tuple[int, int, int], released: bytes) -> None:
        """Store what was released, before anything reads it."""
        ...

    def drop_kept(self, before: tuple[int, int, int]) -> None:
        """Remove what was stored before a key: the rounds that used it are durable."""
        ...


@dataclass(slots=True, kw_only=True)
class Journal:
    """Commits of one run. Without a folder nothing is durable."""

    folder: RunFolder | None
    every_s: float
    clock: Callable[[], float] = time.monotonic
    states: MemoryStates = field(default_factory=MemoryStates)
    records: list[RoundRecord] = field(default_factory=list)
    params: dict[int, Vector] | None = None
    """Parameters by round, 0 the start, where the run saves them."""
    events: list[tuple[int, RoundNumber, int, DpEvent]] = field(default_factory=list)
    ledger: RunLedger | None = None
    """The account of this run in a privacy ledger."""
    state: RunState[Any] | None = None
    fingerprint: str | None = None
    _restored: bytes | None = None
    """The state that the folder held when it was opened, until the first write."""
    _durable_records: int = 0
    _durable_params: int = 0
    _durable_events: int = 0
    _written_at: float | None = None

    def charge(self, phase: int, charged: Append) -> None:
        """Write an event down before what it covers is released: durably where the run has a privacy ledger."""
        if self.ledger is not None:
            self.ledger.commit((phase, charged.round, charged.retry), charged.event)
        self.events.append((phase, charged.round, charged.retry, charged.event))

    def keep(self, phase: int, kept: Keep) -> None:
        """Store a released sum before anything reads it, where the run has a privacy ledger.

        Noise that comes from the seed is drawn again as it was: elsewhere there is nothing to keep.
        """
        if self.ledger is not None:
            self.ledger.keep((phase, kept.round, kept.retry), kept.released.tobytes())

    def commit(self, state: RunState[Any] | None, records: Sequence[RoundRecord]) -> None:
        """Take over a state and the records that it counts."""
        self.records.extend(records)
        if state is not None:
            self.state = state

    def due(self) -> bool:
        """Return whether the next write has waited long enough; a clock that was set back hides how long: yes."""
        return self._written_at is None or not 0 <= self.clock() - self._written_at < self.every_s

    @property
    def wrote(self) -> bool:
        """Whether the folder holds anything more than when it was opened."""
        return self._written_at is not None

    def write(self) -> None:
        """Make everything committed durable, in one transaction; nothing is written where nothing is new.

        Raises:
            StoreError: When the folder cannot take it; what was durable before stays so.
        """
        if self.folder is None or self.state is None:
            return
        state = encode_state(self.state)
        if state == self._restored and len(self.records) == self._durable_records and not self.states.changed:
            return
        params: Mapping[int, Vector] = self.params or {}
        changed = list(self.states.take_changed())
        try:
            self.folder.write(
                state=state,
                clients=((client, encode_stored(stored)) for client, stored in changed),
                records=list(enumerate(self.records))[self._durable_records :],
                params=((number, params[number].tobytes()) for number in sorted(params)[self._durable_params :]),
                events=[
                    (phase, number, retry, event) for phase, number, retry, event in self.events[self._durable_events :]
                ],
                fingerprint=self.fingerprint,
            )
        except BaseException:
            self.states.changed.update(client for client, _ in changed)
            raise
        if self.ledger is not None:
            self.ledger.drop_kept((self.state.phase, self.state.round + 1, 0))
        self._durable_records = len(self.records)
        self._durable_params = len(params)
        self._durable_events = len(self.events)
        self._written_at = self.clock()
        self._restored = None

    def restore(self, state: bytes, records: Sequence[RoundRecord]) -> None:
        """Start from the state and the records that a folder holds already."""
        self._restored = state
        self.records = list(records)
        self._durable_records = len(self.records)

    def restore_params(self, params: Mapping[int, Vector]) -> None:
        """Start from the parameters by round that a folder holds already, where the run saves them."""
        if self.params is not None:
            self.params = dict(params)
            self._durable_params = len(self.params)
