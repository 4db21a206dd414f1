"""Envelopes: who says what to whom, where in a run, and in which order; signed with the key that the roster has.

Every message that changes a state travels in one. The channel names its sender too; the envelope holds after it: in
the store, before an auditor, and against whoever carries it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import msgspec

from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Identity, Roster
from fedloom.errors import Error, TrustError
from fedloom.secure.agreement import verify
from fedloom.secure.encoding import frame

_LABEL = b"fedloom/envelope/v1"
_DIGEST = 32
_MESSAGE_ID = 16
_LARGEST_NUMBER = 2**63 - 1
_LONGEST_TEXT = 200
LARGEST = 1 << 12
"""Bytes of an envelope: one is below 2 KiB."""


class Header(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """The place of a message. Numbers begin at 0, texts have up to 200 characters."""

    federation: str
    sender: ClientId
    receiver: ClientId
    run: RunId
    round: int
    retry: int
    step: int
    """Of the round: what the protocol above numbers."""
    message_id: bytes
    """16 bytes; the same for the same message, whenever it is sent again."""
    sequence: int
    """Of the sender in this run: every new message has a higher one. Reserved in the sender's store before its use."""
    expires_at: int
    """Seconds since 1970 by the sender's clock: advice to the receiver, and no protection against replay."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """A header, what it is about, and the sender's signature over both."""

    header: Header
    body: bytes
    """SHA-256 of the body."""
    signature: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that is signed."""
        return hashlib.sha256(_statement(self.header, self.body)).digest()

    def stored(self) -> bytes:
        """Return the envelope as bytes; the same for the same envelope."""
        return msgspec.msgpack.encode(self)


class Seen(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """The newest message of one sender in one run: the receiver's store has one, changed with the message's effect."""

    sequence: int
    message_id: bytes
    digest: bytes
    """Of the envelope."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A new message: do what it says, and store ``seen`` in the same transaction."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Repeat:
    """The newest message once more: nothing is done, and the answer is the one that was given."""

    seen: Seen


def body_digest(body: bytes) -> bytes:
    """Return what an envelope says of its body: SHA-256, which is also its address as a blob."""
    return hashlib.sha256(body).digest()


def seal_envelope(body_digest: bytes, header: Header, identity: Identity) -> Envelope:
    """Return the signed envelope of a message.

    Args:
        body_digest: SHA-256 of the body.
        header: Its place, the sender being the identity's client.
        identity: The sender's own.

    Raises:
        Error: When a field is outside its bounds, or the header names another sender.

    Security:
        Adversary: whoever carries messages, sees others of the same sender and changes, repeats or moves them: every
        field is signed, under a label of its own. Sequences, which the receiver stores, stop the repeating. Leaks: the
        header. Two envelopes of one sequence and other content prove that the sender, or one with its key, lied.

    Source:
        Ours; the fields are those of SPIFFE names, of the round, and of an inbox with idempotency keys.

    Example:
        >>> from fedloom.core.roster import Member
        >>> from fedloom.secure.agreement import signing_key
        >>> from fedloom.secure.roster import LocalIdentity, roster
        >>> own = signing_key(bytes(range(32)))
        >>> north = LocalIdentity(ClientId("north"), own)
        >>> members = roster("trial", 1, [Member(client=north.client, organisation="a", key=own.public)])
        >>> place = Header(
        ...     federation="trial",
        ...     sender=north.client,
        ...     receiver=ClientId("coordinator"),
        ...     run=RunId("r"),
        ...     round=1,
        ...     retry=0,
        ...     step=0,
        ...     message_id=bytes(16),
        ...     sequence=1,
        ...     expires_at=0,
        ... )
        >>> envelope = seal_envelope(body_digest(b"update"), place, north)
        >>> opened = open_envelope(envelope, b"update", members, sender=north.client, receiver=ClientId("coordinator"))
        >>> judge(None, envelope).seen.sequence
        1
    """
    _check(header, body_digest)
    if header.sender != identity.client:
        raise Error(f"{identity.client!r} signs no message of {header.sender!r}")
    return Envelope(header=header, body=body_digest, signature=identity.sign(_statement(header, body_digest)))


def read_envelope(data: bytes) -> Envelope:
    """Return the envelope that ``Envelope.stored`` wrote, its fields within their bounds; nothing is verified yet.

    Raises:
        TrustError: ``unreadable``.
    """
    if len(data) > LARGEST:
        raise TrustError(f"an envelope of {len(data)} bytes: expected at most {LARGEST}", reason="unreadable")
    try:
        envelope = msgspec.msgpack.decode(data, type=Envelope)
        _check(envelope.header, envelope.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Error) as error:
        raise TrustError(f"this is no envelope: {error}", reason="unreadable") from error
    return envelope


def open_envelope(
    envelope: Envelope, body: bytes, members: Roster, *, sender: ClientId, receiver: ClientId, key: bytes | None = None
) -> Header:
    """Return the header, if it is of this sender for this receiver, with this body, and nothing was changed.

    Args:
        envelope: As it arrived.
        body: As it arrived.
        members: The roster in force here, for the federation and the sender's key.
        sender: Whom TLS or the store names: never what the envelope says.
        receiver: The caller.
        key: The sender's key, where the roster does not count it as a member: the coordinator's.

    Raises:
        TrustError: ``wrong_federation``, ``wrong_sender``, ``wrong_receiver``, ``not_signed`` or ``changed_body``.
    """
    return check_envelope(envelope, body_digest(body), members, sender=sender, receiver=receiver, key=key)


def check_envelope(
    envelope: Envelope,
    body_digest: bytes,
    members: Roster,
    *,
    sender: ClientId,
    receiver: ClientId,
    key: bytes | None = None,
) -> Header:
    """Return the header as ``open_envelope`` does, for a body whose SHA-256 the caller has computed.

    Raises:
        TrustError: As ``open_envelope``.
    """
    header = envelope.header
    if header.federation != members.federation:
        raise TrustError(
            f"the message is of the federation {header.federation!r}; this one is {members.federation!r}",
            reason="wrong_federation",
        )
    if header.sender != sender:
        raise TrustError(f"{sender!r} sent a message of {header.sender!r}: it is not used", reason="wrong_sender")
    if header.receiver != receiver:
        raise TrustError(f"the message is for {header.receiver!r}; this is {receiver!r}", reason="wrong_receiver")
    if key is None:
        member = members.member(sender)
        if member is None:
            raise TrustError(
                f"the roster in force here has no {sender!r}: its message is not used", reason="wrong_sender"
            )
        key = member.key
    if not verify(key, envelope.signature, _statement(header, envelope.body)):
        raise TrustError(
            f"the message of step {header.step} is not signed by the key that the roster has for {sender!r}: it was "
            "changed, or its sender has another key",
            reason="not_signed",
        )
    if not hmac.compare_digest(envelope.body, body_digest):
        raise TrustError(f"the body of the message of {sender!r} is not the one that was signed", reason="changed_body")
    return header


def judge(newest: Seen | None, envelope: Envelope) -> Fresh | Repeat:
    """Return what to do with a message that ``open_envelope`` has opened.

    A sender sends its next message of a run after the last one was answered, so that one number is all the state.

    Args:
        newest: Stored for this sender and run; None: nothing came yet.
        envelope: Opened.

    Raises:
        TrustError: ``replayed``, for an older message, or another one under the newest's number or id.
    """
    header = envelope.header
    said = Seen(sequence=header.sequence, message_id=header.message_id, digest=envelope.digest)
    if newest is None:
        return Fresh(said)
    if said == newest:
        return Repeat(newest)
    if header.sequence <= newest.sequence or header.message_id == newest.message_id:
        what = "with another content" if header.sequence == newest.sequence else "again or late"
        raise TrustError(
            f"the message {header.sequence} of {header.sender!r} in run {header.run!r} came {what}: the newest is "
            f"{newest.sequence}. It is not used",
            reason="replayed",
        )
    return Fresh(said)


def has_expired(header: Header, now: float) -> bool:
    """Return whether the sender, by its own clock, no longer expects the message to be of use: advice only."""
    return now >= header.expires_at


def _statement(header: Header, body: bytes) -> bytes:
    return frame(
        _LABEL,
        header.federation,
        header.sender,
        header.receiver,
        header.run,
        header.round,
        header.retry,
        header.step,
        header.message_id,
        header.sequence,
        body,
        header.expires_at,
    )


def _check(header: Header, body: bytes) -> None:
    texts = (header.federation, header.sender, header.receiver, header.run)
    numbers = (header.round, header.retry, header.step, header.sequence, header.expires_at)
    if not all(0 < len(text) <= _LONGEST_TEXT for text in texts):
        raise Error(f"a name in an envelope has from 1 to {_LONGEST_TEXT} characters")
    if not all(0 <= number <= _LARGEST_NUMBER for number in numbers):
        raise Error("a number in an envelope is from 0 to 2**63 - 1")
    if len(body) != _DIGEST or len(header.message_id) != _MESSAGE_ID:
        raise Error(
            f"an envelope has {_DIGEST} bytes of SHA-256 and {_MESSAGE_ID} of id; received {len(body)} and "
            f"{len(header.message_id)}"
        )
