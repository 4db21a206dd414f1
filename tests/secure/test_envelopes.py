"""Envelopes: recorded and written a second time, refused when anything in them was changed, and used once."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Member
from fedloom.errors import Error, TrustError
from fedloom.secure.agreement import signing_key
from fedloom.secure.envelopes import (
    LARGEST,
    Envelope,
    Fresh,
    Header,
    Repeat,
    Seen,
    body_digest,
    check_envelope,
    has_expired,
    judge,
    open_envelope,
    read_envelope,
    seal_envelope,
)
from fedloom.secure.roster import LocalIdentity, roster

VECTORS = Path(__file__).parents[1] / "vectors"
KNOWN = json.loads((VECTORS / "federation.json").read_text(encoding="utf-8"))["envelope"]
quick = settings(max_examples=25, derandomize=True, database=None, deadline=None)
NORTH, SOUTH, SERVER = ClientId("north"), ClientId("south"), ClientId("coordinator")
KEYS = {NORTH: signing_key(bytes(range(32))), SOUTH: signing_key(bytes(range(1, 33)))}
MEMBERS = roster("trial", 1, [Member(client=each, organisation=each, key=key.public) for each, key in KEYS.items()])
BODY = b"an update"
HEADER = Header(
    federation="trial",
    sender=NORTH,
    receiver=SERVER,
    run=RunId("run-1"),
    round=3,
    retry=1,
    step=2,
    message_id=bytes(range(16)),
    sequence=7,
    expires_at=1_800_000_000,
)


def sealed(body: bytes = BODY, **other: Any) -> Envelope:
    header = msgspec.structs.replace(HEADER, **other)
    return seal_envelope(body_digest(body), header, LocalIdentity(header.sender, KEYS[header.sender]))


def opened(envelope: Envelope, body: bytes = BODY, **other: Any) -> Header:
    about: dict[str, Any] = {"sender": NORTH, "receiver": SERVER} | other
    return open_envelope(envelope, body, MEMBERS, **about)


def refusal(reason: str, match: str | None = None) -> Any:
    return pytest.raises(TrustError, match=match, check=lambda error: error.reason == reason)


def test_the_envelope_is_the_one_that_was_recorded() -> None:
    envelope = sealed()
    assert envelope.stored().hex() == KNOWN["stored"]
    assert envelope.signature.hex() == KNOWN["signature"]
    fields: list[Any] = [b"fedloom/envelope/v1", "trial", "north", "coordinator", "run-1", 3, 1, 2]
    fields += [bytes(range(16)), 7, hashlib.sha256(BODY).digest(), 1_800_000_000]
    statement = b""
    for each in fields:
        content = each if isinstance(each, bytes) else str(each).encode()
        statement += struct.pack(">cQ", {bytes: b"b", str: b"s", int: b"i"}[type(each)], len(content)) + content
    assert envelope.signature == Ed25519PrivateKey.from_private_bytes(bytes(range(32))).sign(statement)
    assert envelope.digest == hashlib.sha256(statement).digest()


def test_an_envelope_travels_and_opens() -> None:
    arrived = read_envelope(sealed().stored())
    assert arrived == sealed()
    assert opened(arrived) == HEADER
    assert check_envelope(arrived, body_digest(BODY), MEMBERS, sender=NORTH, receiver=SERVER) == HEADER


def test_a_changed_body_is_told_from_a_changed_envelope() -> None:
    with refusal("changed_body", "not the one that was signed"):
        opened(sealed(), BODY + b".")
    with refusal("not_signed", "not signed by the key that the roster has"):
        opened(msgspec.structs.replace(sealed(), body=body_digest(BODY + b".")), BODY + b".")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("federation", "trial2", "wrong_federation"),
        ("sender", "south", "wrong_sender"),
        ("receiver", "north", "wrong_receiver"),
        ("run", "run-2", "not_signed"),
        ("round", 4, "not_signed"),
        ("retry", 0, "not_signed"),
        ("step", 1, "not_signed"),
        ("message_id", bytes(16), "not_signed"),
        ("sequence", 8, "not_signed"),
        ("expires_at", 1_900_000_000, "not_signed"),
    ],
)
def test_a_changed_field_is_refused(field: str, value: Any, reason: str) -> None:
    envelope = sealed()
    changed = msgspec.structs.replace(envelope.header, **{field: value})
    with refusal(reason):
        opened(msgspec.structs.replace(envelope, header=changed))


def test_every_field_of_a_header_is_in_the_test_above() -> None:
    assert len(Header.__struct_fields__) == 10


@quick
@given(st.integers(0, 8 * 64 - 1))
def test_a_flipped_bit_of_the_signature_is_refused(bit: int) -> None:
    envelope = sealed()
    signature = bytearray(envelope.signature)
    signature[bit // 8] ^= 1 << bit % 8
    with refusal("not_signed"):
        opened(msgspec.structs.replace(envelope, signature=bytes(signature)))


def test_a_site_does_not_speak_for_another() -> None:
    """D8: the sender is whom TLS names, and a body or header that says otherwise is refused."""
    with refusal("wrong_sender", "'south' sent a message of 'north'"):
        opened(sealed(), sender=SOUTH)
    forged = seal_envelope(
        body_digest(BODY), msgspec.structs.replace(HEADER, sender=SOUTH), LocalIdentity(SOUTH, KEYS[SOUTH])
    )
    with refusal("wrong_sender"):
        opened(forged)
    with refusal("not_signed"):
        opened(msgspec.structs.replace(forged, header=HEADER))
    with pytest.raises(Error, match="'south' signs no message of 'north'"):
        seal_envelope(body_digest(BODY), HEADER, LocalIdentity(SOUTH, KEYS[SOUTH]))


def test_a_sender_that_no_roster_has_is_refused() -> None:
    """D7: a certificate is not enough."""
    key = signing_key(bytes(range(2, 34)))
    east = LocalIdentity(ClientId("east"), key)
    envelope = seal_envelope(body_digest(BODY), msgspec.structs.replace(HEADER, sender=east.client), east)
    with refusal("wrong_sender", "roster in force here has no 'east'"):
        opened(envelope, sender=east.client)


def test_the_coordinator_signs_with_a_key_that_is_no_members() -> None:
    key = signing_key(bytes(range(3, 35)))
    header = msgspec.structs.replace(HEADER, sender=SERVER, receiver=NORTH)
    envelope = seal_envelope(body_digest(BODY), header, LocalIdentity(SERVER, key))
    assert opened(envelope, sender=SERVER, receiver=NORTH, key=key.public) == header
    with refusal("wrong_sender"):
        opened(envelope, sender=SERVER, receiver=NORTH)
    with refusal("not_signed"):
        opened(envelope, sender=SERVER, receiver=NORTH, key=KEYS[NORTH].public)


def test_the_label_is_part_of_what_is_signed() -> None:
    envelope = sealed()
    other = KEYS[NORTH].sign(b"".join((b"fedloom/other/v1", envelope.digest)))
    with refusal("not_signed"):
        opened(msgspec.structs.replace(envelope, signature=other))


# ---- Sequences ------------------------------------------------------------------------------------------------------


def seen(envelope: Envelope) -> Seen:
    return Seen(sequence=envelope.header.sequence, message_id=envelope.header.message_id, digest=envelope.digest)


def test_the_first_message_is_new_and_its_repetition_is_not() -> None:
    first = judge(None, sealed())
    assert first == Fresh(seen(sealed()))
    assert judge(first.seen, sealed()) == Repeat(first.seen)


def test_a_higher_sequence_is_new() -> None:
    later = sealed(sequence=9, message_id=bytes(16))
    assert judge(seen(sealed()), later) == Fresh(seen(later))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"sequence": 6, "message_id": bytes(16)}, "again or late"),
        ({"sequence": 7, "message_id": bytes(16)}, "with another content"),
        ({"body": b"another"}, "with another content"),
        ({"step": 3}, "with another content"),
        ({"expires_at": 1}, "with another content"),
        ({"sequence": 8}, "again or late"),
    ],
)
def test_what_is_neither_new_nor_the_same_is_refused(other: dict[str, Any], match: str) -> None:
    with refusal("replayed", match):
        judge(seen(sealed()), sealed(**other))


@quick
@given(st.lists(st.integers(0, 5), max_size=12))
def test_no_message_has_its_effect_twice_however_they_arrive(arrivals: list[int]) -> None:
    envelopes = [sealed(sequence=number, message_id=bytes([number]) * 16) for number in range(6)]
    newest: Seen | None = None
    effects: list[int] = []
    for number in arrivals:
        try:
            verdict = judge(newest, envelopes[number])
        except TrustError:
            assert newest is not None
            assert number < newest.sequence
            continue
        newest = verdict.seen
        if isinstance(verdict, Fresh):
            effects.append(number)
    assert effects == sorted(set(effects))
    assert set(effects) == {each for at, each in enumerate(arrivals) if each > max(arrivals[:at], default=-1)}


def test_what_is_kept_of_a_sender_is_read_back() -> None:
    kept = msgspec.msgpack.encode(seen(sealed()))
    assert judge(msgspec.msgpack.decode(kept, type=Seen), sealed()) == Repeat(seen(sealed()))


def test_expiry_is_advice() -> None:
    assert has_expired(HEADER, HEADER.expires_at)
    assert not has_expired(HEADER, HEADER.expires_at - 1)
    assert opened(sealed(expires_at=0)).expires_at == 0


# ---- Bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"run": RunId("")},
        {"run": RunId("x" * 201)},
        {"round": -1},
        {"sequence": 2**63},
        {"message_id": bytes(15)},
        {"federation": ""},
    ],
)
def test_fields_outside_their_bounds_are_neither_sealed_nor_read(other: dict[str, Any]) -> None:
    with pytest.raises(Error, match="envelope"):
        sealed(**other)
    envelope = sealed()
    changed = msgspec.structs.replace(envelope, header=msgspec.structs.replace(HEADER, **other))
    with refusal("unreadable"):
        read_envelope(changed.stored())


@pytest.mark.parametrize("data", [b"", b"\x93", b"\x91" * 3000, bytes(LARGEST + 1), b"\x93\x90\xc4\x00\xc4\x00"])
def test_what_is_no_envelope_is_unreadable(data: bytes) -> None:
    with refusal("unreadable"):
        read_envelope(data)


def test_a_field_too_many_is_refused() -> None:
    fields = msgspec.msgpack.decode(sealed().stored())
    with refusal("unreadable"):
        read_envelope(msgspec.msgpack.encode([*fields, 1]))
    with refusal("unreadable"):
        read_envelope(msgspec.msgpack.encode([[*fields[0], 1], *fields[1:]]))


def test_the_largest_envelope_is_below_the_bound() -> None:
    long = "\U0001f4e6" * 200
    header = msgspec.structs.replace(HEADER, federation=long, sender=long, receiver=long, run=long, round=2**63 - 1)
    envelope = seal_envelope(body_digest(BODY), header, LocalIdentity(ClientId(long), KEYS[NORTH]))
    assert len(envelope.stored()) < LARGEST
    assert read_envelope(envelope.stored()) == envelope
