"""EntryCalls: what a coordinator answers to those who have no certificate: join, renew, the anchor.

A certificate is issued to a site when its token was good, the coordinator's operator has compared its fingerprint, and
the roster that the offline root has signed has its key. Each of the three is somebody else's word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct, structs

from fedloom.core.ids import ClientId
from fedloom.engines.coordinator_folder import CoordinatorFolder, PendingJoin, note_join, settle_join
from fedloom.engines.coordinator_settings import Ports
from fedloom.errors import TrustError
from fedloom.secure.authorities import Issued, issue_admin, issue_site
from fedloom.secure.certificates import read_peer
from fedloom.secure.join import Token, TokenRecord, issue_token, redeem, token_id
from fedloom.secure.renewal import read_renewal
from fedloom.secure.requests import Request, read_request
from fedloom.secure.roster import SignedRoster, roster
from fedloom.store.federation import FederationStore
from fedloom.transport.entry import EntryReply, JoinRequest, RenewRequest
from fedloom.transport.errors import Code, Refused

log = logging.getLogger(__name__)
_LARGEST_ROSTER = 32 << 10
_ASK_AGAIN_S = 15.0


class Invited(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An invitation as the store has it: the token's record, and what was asked with it."""

    record: TokenRecord
    public: bytes = b""
    """TLS key of the request that used it."""
    signing: bytes = b""
    """Ed25519 key of that request."""
    chain: bytes = b""
    """What was issued: the same request gets the same answer."""


def invite(
    store: FederationStore,
    folder: CoordinatorFolder,
    *,
    organisation: str,
    client: str,
    address: str,
    now: float,
    valid_s: float,
    role: str = "site",
) -> Token:
    """Return a new invitation, whose record is stored.

    Raises:
        TrustError: When a name cannot stand in a certificate, or is denied.
    """
    anchor = folder.anchor()
    denied = folder.deny_list()
    if denied.denies_client(ClientId(client)):
        raise TrustError(
            f"{client!r} is on the deny list (version {denied.version}): who is denied joins under another name",
            reason="denied",
        )
    token, record = issue_token(
        anchor.federation,
        organisation=organisation,
        client=client,
        anchor=anchor.short,
        address=address,
        now=now,
        valid_s=valid_s,
        role="admin" if role == "admin" else "site",
    )
    store.sites.save_token(record.id, msgspec.json.encode(Invited(record=record)))
    return token


class EntryCalls:
    """The coordinator's side of the entry port.

    Args:
        store: The coordinator's.
        folder: Its files.
        ports: Where it listens, when that is known.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        store: FederationStore,
        folder: CoordinatorFolder,
        *,
        ports: Callable[[], Ports],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._folder = folder
        self._ports = ports
        self._now = now

    def anchor(self) -> bytes:
        """Return the federation's root."""
        return self._folder.anchor().stored()

    def healthy(self) -> bool:
        """Say that the process lives."""
        return True

    def join(self, request: JoinRequest, *, address: str) -> EntryReply:
        """Take in a request to join; the same request again gets the same answer.

        Raises:
            Refused: When the token is none, used or expired, or the identity is denied.
        """
        try:
            asked = read_request(request.request, anchor=self._folder.anchor().short)
            invited = self._redeemed(asked)
        except TrustError as error:
            log.warning("event=join_refused address=%s reason=%s", address, error.reason)
            raise _refused(error) from error
        return self._answer(invited, asked, address=address)

    def _redeemed(self, asked: Request) -> Invited:
        """Use the token, in the one transaction that keeps what was asked with it."""
        name = token_id(asked.token)
        with self._store.together("join"):
            stored = self._store.sites.token(name)
            invited = None if stored is None else msgspec.json.decode(stored, type=Invited)
            record = redeem(
                None if invited is None else invited.record, asked.token, request=asked.digest, now=self._now()
            )
            assert invited is not None, "a record was redeemed"
            if invited.record != record:
                invited = structs.replace(invited, record=record, public=asked.public, signing=asked.signing)
                self._store.sites.save_token(name, msgspec.json.encode(invited))
                self._store.events.append("join", {"client": record.client, "fingerprint": asked.fingerprint})
        denied = self._folder.deny_list()
        if denied.denies_client(ClientId(invited.record.client)):
            raise TrustError(f"{invited.record.client!r} is on the deny list: nothing is issued", reason="denied")
        return invited

    def _answer(self, invited: Invited, asked: Request, *, address: str) -> EntryReply:
        record = invited.record
        waiting = PendingJoin(
            role=record.role,
            organisation=record.organisation,
            client=record.client,
            fingerprint=asked.fingerprint,
            key=asked.signing,
            asked_at=self._now(),
            address=address,
        )
        if invited.chain and read_peer(invited.chain).not_after > self._now():
            return self._reply(invited.chain)
        approved = bool(invited.chain) or note_join(self._folder, waiting)
        issued = self._issued(record, asked) if approved else None
        if issued is None:
            return EntryReply(state="waiting", retry_after_s=_ASK_AGAIN_S)
        with self._store.together("issued"):
            self._store.sites.save_token(record.id, msgspec.json.encode(structs.replace(invited, chain=issued.chain)))
            self._store.events.append("issued", {"client": record.client, "serial": issued.peer.serial})
        settle_join(self._folder, asked.fingerprint)
        log.info("event=issued client=%s serial=%s", record.client, issued.peer.serial)
        return self._reply(issued.chain)

    def _issued(self, record: TokenRecord, asked: Request) -> Issued | None:
        """Return a certificate; None: the roster does not have the site yet.

        Raises:
            Refused: When the roster has another key or organisation under the name.
        """
        authority, now = self._folder.intermediate(), self._now()
        if record.role == "admin":
            return issue_admin(authority, asked, name=record.client, now=now)
        member = self._members().member(ClientId(record.client))
        if member is None:
            return None
        if (member.key, member.organisation) != (asked.signing, record.organisation):
            raise Refused(
                Code.DENIED,
                f"the roster has {record.client!r} of {member.organisation} with another key than this request's.",
                remedy="The owner of the root compares the fingerprints, and signs a roster with the right one.",
            )
        return issue_site(authority, asked, organisation=member.organisation, client=member.client, now=now)

    def renew(self, request: RenewRequest, *, address: str) -> EntryReply:
        """Issue a certificate for a new key of a member, before its old one has ended or after.

        Raises:
            Refused: When the roster has no such member, it did not sign, or it is denied or suspended.
        """
        try:
            renewal = read_renewal(
                request.request,
                federation=self._folder.anchor().federation,
                roster=self._members(),
                denied=self._folder.deny_list(),
                now=self._now(),
                peer=None,
            )
        except TrustError as error:
            log.warning("event=renew_refused address=%s reason=%s", address, error.reason)
            raise _refused(error) from error
        suspended = next((each.suspended for each in self._store.sites.all() if each.name == renewal.client), None)
        if suspended is not None:
            raise Refused(
                Code.DENIED, f"{renewal.client} is suspended: {suspended}.", remedy="Ask the coordinator's operator."
            )
        issued = issue_site(
            self._folder.intermediate(),
            renewal.request,
            organisation=renewal.organisation,
            client=renewal.client,
            now=self._now(),
        )
        self._store.events.append("renewed", {"client": renewal.client, "serial": issued.peer.serial})
        return self._reply(issued.chain)

    def _members(self) -> SignedRoster:
        found = self._folder.roster()
        return roster(self._folder.anchor().federation, 0, []) if found is None else found.roster

    def _reply(self, chain: bytes) -> EntryReply:
        found, ports = self._folder.roster(), self._ports()
        stored = b"" if found is None else found.stored()
        return EntryReply(
            state="issued",
            chain=chain,
            roster=stored if len(stored) <= _LARGEST_ROSTER else b"",
            port=ports.sites,
            probe_port=ports.probe,
        )


_CODES = {"unreadable": Code.MALFORMED, "wrong_usage": Code.MALFORMED, "wrong_sender": Code.NOT_IN_ROSTER}


def _refused(error: TrustError) -> Refused:
    return Refused(_CODES.get(error.reason, Code.DENIED), f"{error}.")
