"""Join tokens: one invitation for one site, used once, with the address to dial and the fingerprint of the root."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from fedloom.entropy import fresh_secret
from fedloom.errors import TrustError
from fedloom.secure.encoding import frame
from fedloom.secure.fingerprints import FINGERPRINT_BYTES, written
from fedloom.secure.peers import admin, site

_LABEL = b"fedloom/join-token/v1"
_CHECK = b"fedloom/join-token/v1/check"
_PREFIX = "fedloom-join-"
_FORM = 1
_SECRET = 16
_CHECKSUM = 4
_LONGEST_ADDRESS = 253 + 6
DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An invitation as the invited has it."""

    secret: bytes = field(repr=False)
    """128 bits of entropy."""
    anchor: bytes
    """Fingerprint of the federation's root, 20 bytes: ``Anchor.short``."""
    address: str
    """Host and port to dial."""

    @property
    def text(self) -> str:
        """The token as one line: ``fedloom-join-`` and base32, with a checksum against typing errors."""
        content = bytes((_FORM,)) + self.secret + self.anchor + self.address.encode()
        return _PREFIX + base64.b32encode(content + _checksum(content)).decode().rstrip("=").lower()

    @property
    def fingerprint(self) -> str:
        """Of the root, as people compare it."""
        return written(self.anchor)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """An invitation as the coordinator keeps it: without the secret. Times are seconds since 1970."""

    id: str
    """Of the secret: see ``token_id``."""
    role: Literal["site", "admin"] = "site"
    organisation: str
    client: str
    """Whom it invites: the names that the certificate will carry."""
    expires_at: float
    used_at: float | None = None
    used_for: bytes = b""
    """Digest of the request that used it."""


def token_id(secret: bytes) -> str:
    """Return the name of a token's record: a hash, from which nobody finds the secret.

    Example:
        >>> token_id(bytes(range(16)))[:16]
        '484b39fe2f07f5ae'
    """
    return hashlib.sha256(frame(_LABEL, secret)).hexdigest()


def issue_token(
    federation: str,
    *,
    organisation: str,
    client: str,
    anchor: bytes,
    address: str,
    now: float,
    valid_s: float = DAY,
    role: Literal["site", "admin"] = "site",
) -> tuple[Token, TokenRecord]:
    """Return a new invitation, and the record of it that is stored.

    Args:
        federation: Whose.
        organisation: Whom the site belongs to; of an operator it is ``admin``, whatever is given.
        client: The site's name, or the operator's.
        anchor: ``Anchor.short``.
        address: Host and port of the entry port.
        now: Seconds since 1970.
        valid_s: How long it can be used.
        role: What the invited will be.

    Raises:
        TrustError: ``wrong_name``, when a name cannot stand in a certificate, or the address is too long or no text.

    Security:
        Adversary: one who guesses tokens (2**128), or reads the store of the coordinator (it has hashes only). Whoever
        sees the token first uses it: the operators compare the fingerprint of the request before it is approved.
    """
    subject = (
        admin(federation, name=client)
        if role == "admin"
        else site(federation, organisation=organisation, client=client)
    )
    if not 0 < len(address) <= _LONGEST_ADDRESS or not address.isascii() or not address.isprintable():
        raise TrustError(f"{address!r} is no address to dial: expected host:port", reason="wrong_name")
    token = Token(secret=fresh_secret().random_bytes(_SECRET), anchor=anchor, address=address)
    record = TokenRecord(
        id=token_id(token.secret),
        role=role,
        organisation=subject.organisation,
        client=client,
        expires_at=now + valid_s,
    )
    return token, record


def read_token(text: str) -> Token:
    """Return the token that somebody typed or pasted; spaces, line ends and capitals do not matter.

    Raises:
        TrustError: ``unreadable``, with what to do.

    Example:
        >>> token = Token(secret=bytes(range(16)), anchor=bytes(20), address="fl.example.org:443")
        >>> read_token(token.text.upper()) == token
        True
    """
    letters = re.sub(r"\s+", "", text).lower()
    if not letters.startswith(_PREFIX):
        raise TrustError(f"this is no join token: it begins with {_PREFIX!r}", reason="unreadable")
    body = letters.removeprefix(_PREFIX).upper()
    try:
        content = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise TrustError(
            "the join token has a sign that is none of its letters: copy it again", reason="unreadable"
        ) from error
    said, check = content[:-_CHECKSUM], content[-_CHECKSUM:]
    whole = len(said) > 1 + _SECRET + FINGERPRINT_BYTES and hmac.compare_digest(_checksum(said), check)
    if not whole or base64.b32encode(content).decode().rstrip("=") != body:  # the last letter has bits to spare
        raise TrustError("the join token was mistyped or cut short: copy it again, whole", reason="unreadable")
    if said[0] != _FORM or not said[1 + _SECRET + FINGERPRINT_BYTES :].isascii():
        raise TrustError("the join token is of a newer fedloom: update this one", reason="unreadable")
    secret, anchor = said[1 : 1 + _SECRET], said[1 + _SECRET : 1 + _SECRET + FINGERPRINT_BYTES]
    return Token(secret=secret, anchor=anchor, address=said[1 + _SECRET + FINGERPRINT_BYTES :].decode())


def redeem(record: TokenRecord | None, secret: bytes, *, request: bytes, now: float) -> TokenRecord:
    """Return the record as used: to be stored in the transaction that keeps what follows from it.

    The request that used the token may ask again, after its answer was lost: it gets the same record.

    Args:
        record: Stored under ``token_id(secret)``; None: there is none.
        secret: ``Request.token``.
        request: ``Request.digest``.
        now: Seconds since 1970, by the coordinator's clock.

    Raises:
        TrustError: ``token_unknown``, ``token_used`` or ``token_expired``.

    Constant time:
        In the secret: hashes are compared, and those so that no timing tells how much of them is equal.
    """
    if record is None or not hmac.compare_digest(record.id, token_id(secret)):
        raise TrustError("nobody was invited with this token: ask the coordinator's operator", reason="token_unknown")
    if record.used_at is not None:
        if hmac.compare_digest(record.used_for, request):
            return record
        raise TrustError(
            "this token was used already: a token is for one site, once. If it was not used there, tell the "
            "coordinator's operator, who invites again",
            reason="token_used",
        )
    if now >= record.expires_at:
        raise TrustError(
            "this token has expired: ask the coordinator's operator for another one", reason="token_expired"
        )
    return replace(record, used_at=now, used_for=request)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(frame(_CHECK, content)).digest()[:_CHECKSUM]
