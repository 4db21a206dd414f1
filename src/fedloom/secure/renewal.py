"""Renewal: a certificate for a new key of a site that is known already, before the old one ends or after."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from fedloom.core.ids import ClientId
from fedloom.core.roster import Identity, Roster
from fedloom.errors import TrustError
from fedloom.secure.agreement import verify
from fedloom.secure.certificates import at
from fedloom.secure.deny_list import DenyList
from fedloom.secure.encoding import frame
from fedloom.secure.peers import COORDINATOR, Peer
from fedloom.secure.requests import LARGEST, Request, certificate_request, no_possession, requested_key
from fedloom.secure.tls_keys import TlsKey, verify_tls

_LABEL = b"fedloom/pki/v1/renewal"
WINDOW_S = 86400.0
"""How far the sender's clock may be from the coordinator's: a recorded request cannot be used after it."""


class _Renewal(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    client: str
    made_at: int
    csr: bytes
    by_tls: bytes
    by_signing: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A request of a member of the roster, for ``issue_site``."""

    client: ClientId
    organisation: str
    request: Request


def renewal_request(tls_key: TlsKey, identity: Identity, *, federation: str, now: float) -> bytes:
    """Return the request of a site for a certificate of a new key, signed by the key that the roster has.

    Over mutual TLS while the old certificate holds; after it, the same over server-authenticated TLS.

    Args:
        tls_key: New: it replaces the one in use.
        identity: The site's own.
        federation: Whose.
        now: Seconds since 1970, best the time that the coordinator tells.
    """
    csr, made_at = certificate_request(tls_key), int(now)
    statement = _statement(federation, identity.client, made_at, csr)
    return msgspec.msgpack.encode(
        _Renewal(
            client=identity.client,
            made_at=made_at,
            csr=csr,
            by_tls=tls_key.sign(statement),
            by_signing=identity.sign(statement),
        )
    )


def read_renewal(
    data: bytes, *, federation: str, roster: Roster, denied: DenyList, now: float, peer: Peer | None
) -> Renewal:
    """Return what a site asks for, if the roster has it, it signed with both keys, and no deny list names it.

    Args:
        data: As ``renewal_request`` made it.
        federation: This one.
        roster: In force.
        denied: In force.
        now: Seconds since 1970.
        peer: Who sent it, over mutual TLS; None: its certificate has expired, and the roster's key speaks for it.

    Raises:
        TrustError: ``unreadable``; ``wrong_sender``, when the roster has no such site or the peer is another one;
            ``no_possession``; ``not_yet_valid`` or ``expired``, when it was made at another time; ``denied``.

    Security:
        Adversary: one who recorded requests, holds an expired certificate with its key, or has another site's. It gets
        no certificate: the name's Ed25519 key must sign the new TLS key, for this federation, in this day. One who has
        the Ed25519 key is the site until the deny list names it. Leaks: whether a roster has a name, to one who asks.
    """
    if len(data) > LARGEST:
        raise TrustError(f"a request of {len(data)} bytes: expected at most {LARGEST}", reason="unreadable")
    try:
        sent = msgspec.msgpack.decode(data, type=_Renewal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"this is no request to renew: {error}", reason="unreadable") from error
    client = ClientId(sent.client)
    member = roster.member(client)
    if member is None or client == COORDINATOR:
        raise TrustError(
            f"the roster has no site {client!r}: it joins with a token, by `fedloom site join`", reason="wrong_sender"
        )
    if peer is not None and peer.client != client:
        raise TrustError(
            f"{peer.client!r} asks for a certificate of {client!r}: nothing is issued", reason="wrong_sender"
        )
    statement = _statement(federation, client, sent.made_at, sent.csr)
    public = requested_key(sent.csr)
    if not verify_tls(public, sent.by_tls, statement):
        raise no_possession("TLS key")
    if not verify(member.key, sent.by_signing, statement):
        raise no_possession("Ed25519 key")
    if denied.denies_client(client) or (peer is not None and denied.denies(peer)):
        raise TrustError(
            f"{client!r} is on the deny list of {federation!r} (version {denied.version}): nothing is issued. Ask the "
            "coordinator's operator",
            reason="denied",
        )
    _check_moment(sent.made_at, now)
    request = Request(public=public, signing=member.key, digest=hashlib.sha256(statement).digest())
    return Renewal(client=client, organisation=member.organisation, request=request)


def _check_moment(made_at: int, now: float) -> None:
    if abs(now - made_at) <= WINDOW_S:
        return
    raise TrustError(
        f"the request was made at {at(made_at)} by the site's clock, and it is {at(now)} here: set the clock, then run "
        "`fedloom site renew` again",
        reason="expired" if made_at < now else "not_yet_valid",
    )


def _statement(federation: str, client: str, made_at: int, csr: bytes) -> bytes:
    return frame(_LABEL, federation, client, made_at, csr)
