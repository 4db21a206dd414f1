"""Sites: who takes part, which session of each counts, what was last seen of its store, tokens and sequence numbers."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fedloom.core.ids import ClientId, RunId
from fedloom.errors import StoreError
from fedloom.store.epochs import Verdict, compare, head_text, parse_epoch, went_back
from fedloom.store.events_chain import EventsChain
from fedloom.store.federation_rows import (
    CONTRIBUTIONS,
    SEQUENCES,
    SITES,
    TASKS,
    TOKENS,
    Contribution,
    Sequence,
    Site,
    Task,
    Token,
)
from fedloom.store.ledger_head import Head
from fedloom.store.table_file import TableFile

_SERIALS = 8
"""Certificates last a week and are renewed each day: those of a week."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a Hello was answered: the session, how many the site has had, and what became of its store."""

    session: str
    number: int
    store: Verdict
    """``older`` and ``copy``: it was restored from a backup or runs twice, and must not take part."""


class Sites:
    """The sites of a coordinator's store. Threads may share it."""

    def __init__(self, file: TableFile, events: EventsChain) -> None:
        self._file = file
        self._events = events

    def add(self, name: ClientId, organisation: str) -> Site:
        """Take a site in; one that is here already stays as it is.

        Raises:
            StoreError: When the name belongs to another organisation.
        """
        with self._file.writing("site") as tables:
            tables.fold()
            found = tables.get(SITES, name)
            if found is None:
                self._events.append("site", {"site": name, "organisation": organisation})
                return tables.put(SITES, Site(name=name, organisation=organisation))
        if found.organisation != organisation:
            raise StoreError(
                f"site {name!r} is of {found.organisation!r}, not of {organisation!r}: choose another name"
            )
        return found

    def site(self, name: ClientId) -> Site:
        """Return a site.

        Raises:
            StoreError: When there is none of that name.
        """
        with self._file.reading() as tables:
            found = tables.get(SITES, name)
        if found is None:
            raise StoreError(f"no site {name!r} has joined: expected one of {[site.name for site in self.all()]}")
        return found

    def all(self) -> tuple[Site, ...]:
        """Return all sites, by name."""
        with self._file.reading() as tables:
            return tables.where(SITES)

    def hello(
        self,
        name: ClientId,
        *,
        serial: str,
        epoch: str,
        ledger: Head | None,
        chain: Head | None,
        at: float,
    ) -> Greeting:
        """Open a session, which ends the site's others, and compare its store with what was seen of it last.

        What is remembered goes forward only: a store that went back is compared with the newer one again, until
        ``adopt`` says that its operator has dealt with it.

        Raises:
            StoreError: When the site has not joined, or a head or epoch is none.
        """
        now = parse_epoch(epoch)
        with self._file.writing("hello") as tables:
            before = self.site(name)
            store = compare(None if before.epoch is None else parse_epoch(before.epoch), now)
            if store in ("same", "later") and (went_back(before.ledger, ledger) or went_back(before.chain, chain)):
                store = "older"
            site = replace(before, session=secrets.token_hex(16), sessions=before.sessions + 1, hello=at)
            if serial not in site.serials:
                site = replace(site, serials=(*site.serials, serial)[-_SERIALS:])
            if store in ("first", "same", "later"):
                site = replace(site, epoch=epoch, ledger=head_text(ledger), chain=head_text(chain))
            tables.put(SITES, site)
            self._events.append("hello", {"site": name, "session": site.sessions, "store": store})
        return Greeting(session=site.session or "", number=site.sessions, store=store)

    def adopt(self, name: ClientId, *, epoch: str, ledger: Head | None, chain: Head | None) -> None:
        """Take a site's store as it is now for the one to go on from, after its operator has confirmed it.

        A session that is open ends: it may be of another copy of the store.

        Raises:
            StoreError: When the site has not joined, or the epoch is none.
        """
        parse_epoch(epoch)
        with self._file.writing("adopt") as tables:
            tables.fold()
            before = self.site(name)
            now = replace(before, epoch=epoch, ledger=head_text(ledger), chain=head_text(chain), session=None)
            tables.put(SITES, now)
            self._events.append("adopt", {"site": name, "epoch": epoch, "ledger": head_text(ledger)})

    def saw(self, name: ClientId, *, ledger: Head | None) -> None:
        """Remember the head of its ledger that a site has told with a result.

        Raises:
            StoreError: When it is behind what was seen before.
        """
        with self._file.writing("saw") as tables:
            site = self.site(name)
            if went_back(site.ledger, ledger):
                raise StoreError(
                    f"site {name!r} shows ledger {head_text(ledger)}, behind {site.ledger} seen before: its ledger was "
                    "restored. Its operator must adopt it"
                )
            if site.ledger != head_text(ledger):
                tables.put(SITES, replace(site, ledger=head_text(ledger)))

    def current(self, name: ClientId, session: str) -> bool:
        """Return whether a session is the newest of its site: nothing that another one sends counts."""
        with self._file.reading() as tables:
            found = tables.get(SITES, name)
        return found is not None and found.session is not None and secrets.compare_digest(found.session, session)

    def goodbye(self, name: ClientId, session: str) -> None:
        """End a session, if it is the one that counts."""
        with self._file.writing("goodbye") as tables:
            site = tables.get(SITES, name)
            if site is not None and site.session == session:
                tables.put(SITES, replace(site, session=None))
                self._events.append("goodbye", {"site": name, "session": site.sessions})

    def suspend(self, name: ClientId, reason: str | None) -> None:
        """Invite a site no more, and end its session; None: invite it again.

        Raises:
            StoreError: When the site has not joined.
        """
        with self._file.writing("suspend") as tables:
            tables.fold()
            site = self.site(name)
            session, failures = (site.session, 0) if reason is None else (None, site.failures)
            tables.put(SITES, replace(site, suspended=reason, session=session, failures=failures))
            self._events.append("suspend", {"site": name, "reason": reason})

    def suspended(self, name: ClientId) -> str | None:
        """Return why a site is not invited; None: it is, or has never come."""
        with self._file.reading() as tables:
            found = tables.get(SITES, name)
        return None if found is None else found.suspended

    def count(
        self, *, failed: Mapping[ClientId, str], well: Iterable[ClientId], most: int | None
    ) -> tuple[ClientId, ...]:
        """Count in how many rounds in a row the work of sites has failed; suspend whoever comes to ``most``.

        Args:
            failed: Whose work failed in a round, and how.
            well: Whose work is in it.
            most: Failures in a row; None: nobody is suspended.

        Returns:
            Who was suspended.

        Raises:
            StoreError: When it cannot be written.
        """
        out = []
        with self._file.writing("count failures") as tables:
            for name in sorted({*failed, *well}):
                found = tables.get(SITES, name)
                if found is None or found.suspended is not None or not (name in failed or found.failures):
                    continue
                number = found.failures + 1 if name in failed else 0
                tables.put(SITES, replace(found, failures=number))
                if most is not None and number >= most:
                    self.suspend(name, f"its work failed in {number} rounds in a row, in the last one: {failed[name]}")
                    out.append(name)
        return tuple(out)

    def tokens(self) -> tuple[Token, ...]:
        """Return all join tokens."""
        with self._file.reading() as tables:
            return tables.where(TOKENS)

    def token(self, token: str) -> bytes | None:
        """Return the record of a join token."""
        with self._file.reading() as tables:
            found = tables.get(TOKENS, token)
        return None if found is None else found.record

    def save_token(self, token: str, record: bytes) -> None:
        """Write the record of a join token; read and write it inside one ``together`` to use it once."""
        with self._file.writing("token") as tables:
            tables.fold()
            tables.put(TOKENS, Token(token=token, record=record))

    def runs(self, name: ClientId) -> frozenset[RunId]:
        """Return the runs in which a site was ever asked for anything."""
        with self._file.reading() as tables:
            return frozenset(task.run for task in tables.where(TASKS, site=name))

    def asked(self, name: ClientId, run: RunId) -> tuple[Task, ...]:
        """Return all that a site was ever asked in a run, by round and step."""
        with self._file.reading() as tables:
            return tables.where(TASKS, run=run, site=name)

    def said(self, name: ClientId, run: RunId) -> tuple[Contribution, ...]:
        """Return all that came of a site in a run and counted, losses included, by round and step."""
        with self._file.reading() as tables:
            return tables.where(CONTRIBUTIONS, run=run, site=name)

    def messages(self, sender: str) -> tuple[Sequence, ...]:
        """Return the latest signed message of a sender in each run."""
        with self._file.reading() as tables:
            return tables.where(SEQUENCES, sender=sender)

    def last_message(self, sender: str, run: str) -> Sequence | None:
        """Return the latest signed message of a sender in a run."""
        with self._file.reading() as tables:
            return tables.get(SEQUENCES, sender, run)

    def remember(self, message: Sequence) -> None:
        """Write the latest signed message of a sender, inside the ``together`` that has its effect.

        Raises:
            StoreError: When its number is not above the one that is here, and it is not the same message.
        """
        with self._file.writing("remember") as tables:
            found = tables.get(SEQUENCES, message.sender, message.run)
            if found is not None and message.sequence <= found.sequence and message != found:
                raise StoreError(
                    f"message {message.sequence} of {message.sender!r} comes after {found.sequence}: it is not new"
                )
            tables.put(SEQUENCES, message)
