"""Sites: who takes part, which session of each counts, what was last seen of its store, tokens and sequence numbers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from fedloom.core.ids import ClientId
from fedloom.errors import StoreError
from fedloom.store.epochs import Verdict, compare, head_text, parse_epoch, went_back
from fedloom.store.events_chain import EventsChain
from fedloom.store.federation_rows import SEQUENCES, SITES, TOKENS, Sequence, Site, Token
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

        Raises:
            StoreError: When the site has not joined, or the epoch is none.
        """
        parse_epoch(epoch)
        with self._file.writing("adopt") as tables:
            tables.fold()
            tables.put(SITES, replace(self.site(name), epoch=epoch, ledger=head_text(ledger), chain=head_text(chain)))
            self._events.append("adopt", {"site": name, "epoch": epoch, "ledger": head_text(ledger)})

    def saw(self, name: ClientId, *, ledger: Head | None, chain: Head | None) -> None:
        """Remember the heads that a site has told, at the end of a round.

        Raises:
            StoreError: When one is behind what was seen before.
        """
        with self._file.writing("saw") as tables:
            site = self.site(name)
            if went_back(site.ledger, ledger) or went_back(site.chain, chain):
                raise StoreError(
                    f"site {name!r} shows ledger {head_text(ledger)} and events {head_text(chain)}, behind "
                    f"{site.ledger} and {site.chain} seen before: its store was restored. Its operator must adopt it"
                )
            tables.put(SITES, replace(site, ledger=head_text(ledger), chain=head_text(chain)))

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
            tables.put(SITES, replace(site, suspended=reason, session=site.session if reason is None else None))
            self._events.append("suspend", {"site": name, "reason": reason})

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
