"""A site's client states and sums as rows of its store, sealed: so that a step and its message are one transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedloom.core.aggregator import InteractiveClient
from fedloom.core.ids import ClientId, RunId
from fedloom.entropy import Secret
from fedloom.errors import Error, StoreError
from fedloom.runtime.ports import NOTHING_STORED, Slot, StoredState, decode_stored, encode_stored
from fedloom.runtime.sessions import SessionName
from fedloom.secure.at_rest import open_at_rest, seal_at_rest
from fedloom.secure.encoding import frame
from fedloom.store.site_rows import BEGUN, STATES, SUMS, Begun, SealedState, SealedSum
from fedloom.store.table_file import TableFile


class SiteStates:
    """``runtime.ports.ClientStates`` of one run in a site's store; ``like`` is what a slot looks like."""

    def __init__(self, file: TableFile, owner: Secret, *, store: str, run: RunId, like: Slot) -> None:
        self._file = file
        self._owner = owner
        self._store = store
        self._run = run
        self._like = like

    def load(self, client: ClientId) -> StoredState:
        """Return what a client keeps; an empty state for a new one.

        Raises:
            StoreError: When it is not what was kept.
        """
        plain = self.load_bytes(client)
        if plain is None:
            return NOTHING_STORED
        try:
            return decode_stored(plain, self._like)
        except Error as error:
            raise StoreError(f"{self._file.path}: the state of {client!r} cannot be read: {error}") from error

    def load_bytes(self, client: ClientId) -> bytes | None:
        """Return what a client keeps as ``encode_stored`` wrote it; None: nothing.

        Raises:
            StoreError: When it is not what was kept.
        """
        with self._file.reading() as tables:
            found = tables.get(STATES, self._run, client)
        if found is None:
            return None
        try:
            return open_at_rest(self._owner, found.sealed, place=self._place(client))
        except Error as error:
            raise StoreError(f"{self._file.path}: the state of {client!r} cannot be read: {error}") from error

    def save(self, client: ClientId, state: StoredState) -> None:
        """Replace what a client keeps: durable when this returns, or with the transaction that it is part of.

        Raises:
            StoreError: When it cannot be written.
        """
        self.save_bytes(client, encode_stored(state))

    def save_bytes(self, client: ClientId, state: bytes) -> None:
        """Replace what a client keeps, given as ``encode_stored`` writes it.

        Raises:
            StoreError: When it cannot be written.
        """
        sealed = seal_at_rest(self._owner, state, place=self._place(client))
        with self._file.writing("state") as tables:
            tables.put(STATES, SealedState(run=self._run, client=client, sealed=sealed))

    def _place(self, client: ClientId) -> bytes:
        return frame("state", self._store, self._run, client)


class SiteSessions:
    """``runtime.sessions.Sessions`` of one run in a site's store: as ``StoredSessions``, in a file with the outbox.

    Security:
        As ``StoredSessions``.
    """

    def __init__(self, file: TableFile, owner: Secret, *, store: str, run: RunId) -> None:
        self._file = file
        self._owner = owner
        self._store = store
        self._run = run

    def find(
        self, client: ClientId, name: SessionName, revive: Callable[[bytes], InteractiveClient]
    ) -> InteractiveClient | None:
        """Return the client side of a sum as it was kept last; None: it is not here.

        Raises:
            StoreError: When what is here is not what was kept.
        """
        with self._file.reading() as tables:
            found = tables.get(SUMS, self._run, client, *name)
        if found is None:
            return None
        try:
            return revive(open_at_rest(self._owner, found.sealed, place=self._place(client, name)))
        except Error as error:
            raise StoreError(
                f"{self._file.path}: the sum of {client!r} in {name} cannot be taken up: {error}. This site is lost to "
                "that sum, and makes no second message for it; the next round is not touched"
            ) from error

    def over(self, client: ClientId, name: SessionName) -> bool:
        """Return whether a sum was begun here and is no more, or is older than one that was begun."""
        with self._file.reading() as tables:
            here = tables.get(SUMS, self._run, client, *name)
            latest = tables.get(BEGUN, self._run, client, name.phase, name.program)
        return here is None and latest is not None and (name.round, name.retry) <= (latest.round, latest.retry)

    def keep(self, client: ClientId, name: SessionName, side: InteractiveClient) -> None:
        """Store the client side of a sum as it is now: durable when this returns, or with the transaction around it.

        Raises:
            StoreError: When it cannot be written, or the sum is over: its message must not leave.
        """
        with self._file.writing("sum") as tables:
            tables.fold()
            if self.over(client, name):
                raise StoreError(
                    f"{self._file.path}: {client!r} has begun {name} before, and keeps nothing of it: it makes no "
                    "second message for a sum"
                )
            sealed = seal_at_rest(self._owner, side.stored(), place=self._place(client, name))
            tables.put(SUMS, SealedSum(run=self._run, client=client, **name._asdict(), sealed=sealed))
            latest = tables.get(BEGUN, self._run, client, name.phase, name.program)
            if latest is None or (name.round, name.retry) > (latest.round, latest.retry):
                tables.put(BEGUN, Begun(run=self._run, client=client, **name._asdict()))

    def end(self, client: ClientId, *, but: SessionName | None = None) -> None:
        """Delete what is kept of a client's sums, save one; that they were begun is remembered.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.reading() as tables:
            left = [each for each in tables.where(SUMS, run=self._run, client=client) if _name(each) != but]
        if left:
            with self._file.writing("end sum") as tables:
                tables.fold()
                for each in left:
                    tables.remove(SUMS, each)

    def _place(self, client: ClientId, name: SessionName) -> bytes:
        return frame("session", self._store, self._run, client, *name)


def _name(row: Any) -> SessionName:
    return SessionName(row.phase, row.program, row.round, row.retry)
