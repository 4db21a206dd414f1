"""The events of a store: what happened, in order, each with a digest over the one before it; nothing is ever changed.

``sha256`` of event n is the SHA-256 of that of event n-1 (64 zeros before the first), and of its number, time, kind and
detail as canonical JSON. It is the audit log, the feed of a dashboard and the source of a replay at once. A head that a
peer remembers shows a chain that was cut short or rewritten, which the chain alone cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedloom.core.component import Json, canonical_json
from fedloom.errors import StoreError
from fedloom.store.ledger_head import Head
from fedloom.store.table_file import TableFile
from fedloom.store.tables import Reader, Table

START = "0" * 64
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. ``at`` is for people: the order is that of ``seq``."""

    seq: int
    at: float
    kind: str
    detail: dict[str, Any]
    sha256: str


EVENTS = Table(name="event", row=Event, key=("seq",))


def event_sha256(previous: str, *, seq: int, at: float, kind: str, detail: Mapping[str, Json]) -> str:
    """Return the digest of an event in a chain.

    Example:
        >>> first = event_sha256(START, seq=1, at=0.0, kind="opened", detail={})
        >>> first == event_sha256(START, seq=1, at=0.0, kind="closed", detail={})
        False
    """
    return hashlib.sha256(canonical_json([previous, seq, at, kind, dict(detail)])).hexdigest()


class EventsChain:
    """The events of one file of tables, which must have ``EVENTS`` among them."""

    def __init__(self, file: TableFile, *, now: Callable[[], float]) -> None:
        self._file = file
        self._now = now

    def append(self, kind: str, detail: Mapping[str, Json]) -> Event:
        """Write an event: durable when this returns, or with the transaction that this is part of.

        Args:
            kind: What happened, in a word or two.
            detail: Names, numbers and digests; never a secret, a message of user code, or a row.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("event") as tables:
            last = tables.last(EVENTS)
            seq, previous = (1, START) if last is None else (last.seq + 1, last.sha256)
            at = float(self._now())
            sha256 = event_sha256(previous, seq=seq, at=at, kind=kind, detail=detail)
            return tables.put(EVENTS, Event(seq=seq, at=at, kind=kind, detail=dict(detail), sha256=sha256))

    def head(self) -> Head:
        """Return how many events there are and the digest of the last: what a peer remembers."""
        with self._file.reading() as tables:
            last = tables.last(EVENTS)
        return Head(0, START) if last is None else Head(last.seq, last.sha256)

    def since(self, seq: int, *, limit: int = _PAGE) -> tuple[Event, ...]:
        """Return at most ``limit`` events after a number, in order."""
        with self._file.reading() as tables:
            return tables.after(EVENTS, seq, limit=limit)

    def holds(self, head: Head) -> bool:
        """Return whether this chain goes on from a head that was seen before: False: it was cut short or rewritten."""
        if head.rows == 0:
            return head.sha256 == START
        with self._file.reading() as tables:
            found = tables.get(EVENTS, head.rows)
        return found is not None and found.sha256 == head.sha256

    def verify(self) -> Head:
        """Compute the whole chain again; return its head.

        Raises:
            StoreError: When an event is missing or is not the one that was written: the first such is named.
        """
        seq, previous = 0, START
        with self._file.reading() as tables:
            for event in _all(tables):
                seq += 1
                expected = event_sha256(previous, seq=seq, at=event.at, kind=event.kind, detail=event.detail)
                if event.seq != seq or event.sha256 != expected:
                    raise StoreError(
                        f"{self._file.path} is damaged (its events are no chain from number {seq} on): restore the "
                        "folder from a backup, and compare with the heads that the other parties remember"
                    )
                previous = expected
        return Head(seq, previous)


def _all(tables: Reader) -> Any:
    seq = 0
    while page := tables.after(EVENTS, seq, limit=_PAGE):
        yield from page
        seq = page[-1].seq
