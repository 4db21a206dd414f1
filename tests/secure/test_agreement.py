"""Key agreement, sealing and signing: published vectors, our derivations written a second time, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import hmac
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import Error
from fedloom.secure.agreement import (
    PrivateKey,
    SigningKey,
    channel_key,
    check_public,
    derive,
    hkdf,
    open_sealed,
    pair_seed,
    private_key,
    seal,
    self_seed,
    signing_key,
    verify,
)
from fedloom.secure.encoding import CHANNEL, PAIR_MASK

VECTORS = Path(__file__).parents[1] / "vectors"
quick = settings(max_examples=25, derandomize=True, database=None, deadline=None)
raws = st.binary(min_size=32, max_size=32)
names = st.text(max_size=6)
RAW = bytes(range(32))
SID = bytes(range(100, 132))


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def unhex(case: dict[str, Any], *keys: str) -> list[bytes]:
    return [bytes.fromhex(case[key]) for key in keys]


# ---- The references: written from the documents, with nothing of fedloom ---------------------------------------------


def framed(*fields: bytes | str | int) -> bytes:
    out = b""
    for field in fields:
        tag = {bytes: b"b", str: b"s", int: b"i"}[type(field)]
        content = field if isinstance(field, bytes) else str(field).encode()
        out += struct.pack(">cQ", tag, len(content)) + content
    return out


def hkdf_by_hand(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    out = block = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]


def x25519_by_hand(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    p = 2**255 - 19
    k = (int.from_bytes(scalar, "little") & ~7 & ~(1 << 255)) | 1 << 254
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in range(254, -1, -1):
        swap = k >> bit & 1
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % p, x1 * (d * a - c * b) ** 2 % p
        e = a * a - b * b
        x2, z2 = a * a * b * b % p, e * (a * a + 121665 * e) % p
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def gcm_by_hand(key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
    """NIST SP 800-38D, section 7.1, for a nonce of 12 bytes, from single AES blocks."""

    def block(content: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(content)

    def times(x: int, y: int) -> int:
        product = 0
        for bit in range(127, -1, -1):
            product ^= y * (x >> bit & 1)
            y = y >> 1 ^ (0xE1 << 120) * (y & 1)
        return product

    def padded(content: bytes) -> bytes:
        return content + bytes(-len(content) % 16)

    stream = b"".join(block(nonce + struct.pack(">I", 2 + i)) for i in range(-(-len(plain) // 16)))
    sealed = bytes(a ^ b for a, b in zip(plain, stream, strict=False))
    hashed, subkey = 0, int.from_bytes(block(bytes(16)), "big")
    authenticated = padded(aad) + padded(sealed) + struct.pack(">QQ", 8 * len(aad), 8 * len(sealed))
    for start in range(0, len(authenticated), 16):
        hashed = times(hashed ^ int.from_bytes(authenticated[start : start + 16], "big"), subkey)
    tag = hashed ^ int.from_bytes(block(nonce + struct.pack(">I", 1)), "big")
    return sealed + tag.to_bytes(16, "big")


# ---- Published vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", vectors("hkdf_rfc5869.json")["cases"], ids=lambda case: case["name"])
def test_hkdf_is_that_of_rfc_5869(case: dict[str, Any]) -> None:
    secret, salt, info, output = unhex(case, "ikm", "salt", "info", "okm")
    assert hkdf(secret, salt=salt, info=info, length=len(output)) == output
    assert hkdf_by_hand(secret, salt, info, len(output)) == output


@pytest.mark.parametrize("case", vectors("x25519_rfc7748.json")["cases"], ids=lambda case: case["name"])
def test_the_exchange_is_that_of_rfc_7748(case: dict[str, Any]) -> None:
    scalar, point, output = unhex(case, "scalar", "u", "output")
    assert private_key(scalar).exchange(point) == output
    assert x25519_by_hand(scalar, point) == output


@pytest.mark.parametrize("case", vectors("x25519_rfc7748.json")["keys"], ids=lambda case: case["name"])
def test_public_keys_are_those_of_rfc_7748(case: dict[str, Any]) -> None:
    private, public = unhex(case, "private", "public")
    assert private_key(private).public == public
    assert x25519_by_hand(private, (9).to_bytes(32, "little")) == public


@pytest.mark.parametrize("case", vectors("ed25519_rfc8032.json")["cases"], ids=lambda case: case["name"])
def test_signatures_are_those_of_rfc_8032(case: dict[str, Any]) -> None:
    secret, public, message, signature = unhex(case, "secret", "public", "message", "signature")
    key = signing_key(secret)
    assert (key.public, key.sign(message)) == (public, signature)
    assert verify(public, signature, message)
    assert not verify(public, signature, message + b"x")


@pytest.mark.parametrize("case", vectors("aes_gcm.json")["cases"], ids=lambda case: case["name"])
def test_aes_gcm_is_that_of_its_specification(case: dict[str, Any]) -> None:
    """Ties the reference that ``seal`` is held against to published numbers."""
    key, nonce, plain, aad, sealed = unhex(case, "key", "nonce", "plain", "aad", "sealed")
    assert gcm_by_hand(key, nonce, plain, aad) == sealed
    assert AESGCM(key).encrypt(nonce, plain, aad) == sealed


# ---- Our derivations: pinned, and from the references ----------------------------------------------------------------


@pytest.mark.parametrize("case", vectors("secure_aggregation.json")["pairs"], ids=lambda case: case["name"])
def test_the_keys_of_a_pair_are_those_that_were_recorded(case: dict[str, Any]) -> None:
    """A client and a server of two versions must agree on these: a change is a new version of the labels."""
    sid, mine, theirs, channel, seed = unhex(case, "sid", "mine", "theirs", "channel_key", "pair_seed")
    here, there = case["one"], case["other"]
    a, b = private_key(mine), private_key(theirs)
    assert channel_key(a, b.public, sid=sid, sender=here, receiver=there) == channel
    assert pair_seed(a, b.public, sid=sid, one=here, other=there) == seed
    shared = x25519_by_hand(mine, x25519_by_hand(theirs, (9).to_bytes(32, "little")))
    assert hkdf_by_hand(shared, sid, framed(b"fedloom/sa/v1/channel", here, there, b""), 32) == channel
    first, second = sorted([here, there])
    assert hkdf_by_hand(shared, sid, framed(b"fedloom/sa/v1/pairmask", first, second, b""), 32) == seed


def test_a_self_seed_is_the_one_that_was_recorded() -> None:
    case = vectors("secure_aggregation.json")["self"]
    sid, own, seed = unhex(case, "sid", "own", "seed")
    assert self_seed(own, sid=sid, owner=case["owner"]) == seed
    label = b"fedloom/sa/v1/selfmask"
    assert hkdf_by_hand(own, sid, framed(label, case["owner"], case["owner"], b""), 32) == seed


def test_a_sealed_message_is_the_one_that_was_recorded() -> None:
    case = vectors("secure_aggregation.json")["sealed"]
    sid, key, plain, sealed = unhex(case, "sid", "key", "plain", "sealed")
    sender, receiver = case["sender"], case["receiver"]
    assert seal(key, plain, sid=sid, step=case["step"], sender=sender, receiver=receiver) == sealed
    assert gcm_by_hand(key, bytes(12), plain, framed(sid, case["step"], sender, receiver)) == sealed


# ---- Properties ------------------------------------------------------------------------------------------------------


@quick
@given(raws)
def test_an_honest_public_key_is_never_refused(raw: bytes) -> None:
    check_public(private_key(raw).public)


@quick
@given(raws, raws, names, names)
def test_both_sides_get_the_same_keys(left: bytes, right: bytes, one: str, other: str) -> None:
    if one == other:
        other += "'"
    a, b = private_key(left), private_key(right)
    assert pair_seed(a, b.public, sid=SID, one=one, other=other) == pair_seed(
        b, a.public, sid=SID, one=other, other=one
    )
    there = channel_key(a, b.public, sid=SID, sender=one, receiver=other)
    assert there == channel_key(b, a.public, sid=SID, sender=one, receiver=other)
    assert there != channel_key(a, b.public, sid=SID, sender=other, receiver=one)


def test_no_two_uses_share_a_key() -> None:
    """Every argument of a derivation, changed alone, gives another key."""
    plain: dict[str, Any] = {"sid": SID, "label": CHANNEL, "first": "a", "second": "b", "more": b""}
    others: list[dict[str, Any]] = [
        {"sid": SID[::-1]},
        {"label": PAIR_MASK},
        {"first": "b", "second": "a"},
        {"first": "ab", "second": ""},
        {"second": "c"},
        {"more": b"x"},
    ]
    keys = [derive(RAW, **plain), derive(RAW[::-1], **plain), *(derive(RAW, **plain | other) for other in others)]
    assert len(set(keys)) == 2 + len(others)
    assert {len(key) for key in keys} == {32}
    assert len(derive(RAW, **plain, length=80)) == 80


@pytest.mark.parametrize("raw", [b"", RAW[:31], RAW + b"x"])
def test_keys_of_another_length_are_refused_by_name(raw: bytes) -> None:
    received = f"received {len(raw)}"
    with pytest.raises(Error, match=f"private key of X25519.*{received}"):
        private_key(raw)
    with pytest.raises(Error, match=f"signing key of Ed25519.*{received}"):
        signing_key(raw)
    with pytest.raises(Error, match=f"public key of X25519.*{received}"):
        private_key(RAW).exchange(raw)
    with pytest.raises(Error, match=f"public key of X25519.*{received}"):
        check_public(raw)
    with pytest.raises(Error, match=f"self seed.*{received}"):
        self_seed(raw, sid=SID, owner="a")
    with pytest.raises(Error, match=f"channel key.*{received}"):
        seal(raw, b"", sid=SID, step=1, sender="a", receiver="b")
    with pytest.raises(Error, match=f"channel key.*{received}"):
        open_sealed(raw, bytes(16), sid=SID, step=1, sender="a", receiver="b")


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_hkdf_gives_no_more_than_it_has(length: int) -> None:
    assert len(hkdf(RAW, salt=b"", info=b"", length=8160)) == 8160
    with pytest.raises(Error, match="from 1 to 8160"):
        hkdf(RAW, salt=b"", info=b"", length=length)


def low_order() -> list[bytes]:
    """All encodings of the points that give zero: 0, 1, p - 1, two of order 8, and what is equal to them."""
    p = 2**255 - 19
    eight = 325606250916557431795983626356110631294008115727848805560023387167927233504
    other = 39382357235489614581723060781553021112529911719440698176882885853963445705823
    points = [0, 1, p - 1, eight, other, p, p + 1]
    return [(point | top << 255).to_bytes(32, "little") for point in points for top in (0, 1)]


@pytest.mark.parametrize("point", low_order(), ids=bytes.hex)
def test_a_public_key_of_low_order_is_refused(point: bytes) -> None:
    assert x25519_by_hand(RAW, point) == bytes(32)
    mine = private_key(RAW)
    with pytest.raises(Error, match="low order"):
        mine.exchange(point)
    with pytest.raises(Error, match="low order"):
        check_public(point)
    with pytest.raises(Error, match=r"'a' and 'b' agree on no key.*low order"):
        pair_seed(mine, point, sid=SID, one="a", other="b")
    with pytest.raises(Error, match=r"'a' and 'b' agree on no key.*low order"):
        channel_key(mine, point, sid=SID, sender="a", receiver="b")


def test_nobody_is_a_pair_with_itself() -> None:
    mine = private_key(RAW)
    with pytest.raises(Error, match="'a' twice"):
        pair_seed(mine, mine.public, sid=SID, one="a", other="a")
    with pytest.raises(Error, match="'a' twice"):
        channel_key(mine, mine.public, sid=SID, sender="a", receiver="a")


# ---- Sealing ---------------------------------------------------------------------------------------------------------

PLACE: dict[str, Any] = {"sid": SID, "step": 1, "sender": "north", "receiver": "south"}


@quick
@given(raws, st.binary(max_size=80))
def test_a_sealed_message_opens_at_its_place(key: bytes, plain: bytes) -> None:
    sealed = seal(key, plain, **PLACE)
    assert len(sealed) == len(plain) + 16
    assert open_sealed(key, sealed, **PLACE) == plain


def test_one_flipped_bit_anywhere_is_found_and_the_sender_named() -> None:
    sealed = seal(RAW, b"two shares", **PLACE)
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Error, match="from 'north' to 'south' does not authenticate"):
            open_sealed(RAW, bytes(changed), **PLACE)


@pytest.mark.parametrize(
    "other",
    [
        {"sid": bytes([SID[0] ^ 1]) + SID[1:]},
        {"step": 2},
        {"sender": "nort"},
        {"receiver": "east"},
        {"sender": "south", "receiver": "north"},
        {"sender": "northsouth", "receiver": ""},
    ],
)
def test_a_message_at_another_place_does_not_open(other: dict[str, Any]) -> None:
    sealed = seal(RAW, b"two shares", **PLACE)
    with pytest.raises(Error, match="does not authenticate"):
        open_sealed(RAW, sealed, **PLACE | other)


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 25])
def test_a_cut_message_does_not_open(cut: int) -> None:
    with pytest.raises(Error, match="does not authenticate"):
        open_sealed(RAW, seal(RAW, b"two shares", **PLACE)[:cut], **PLACE)


def test_another_key_does_not_open() -> None:
    with pytest.raises(Error, match="does not authenticate"):
        open_sealed(RAW[::-1], seal(RAW, b"two shares", **PLACE), **PLACE)


# ---- Signatures ------------------------------------------------------------------------------------------------------


def test_a_signature_is_of_one_key_and_one_message() -> None:
    key, other = signing_key(RAW), signing_key(RAW[::-1])
    signature = key.sign(b"present")
    assert verify(key.public, signature, b"present")
    assert not verify(other.public, signature, b"present")
    assert not verify(key.public, signature, b"absent")
    for bit in range(0, 512, 5):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify(key.public, bytes(changed), b"present")


def test_a_signature_moved_by_the_group_order_does_not_verify() -> None:
    """``S + L`` would verify without the check of its range: a second signature made by nobody."""
    order = 2**252 + 27742317777372353535851937790883648493
    key = signing_key(RAW)
    signature = key.sign(b"present")
    moved = int.from_bytes(signature[32:], "little") + order
    assert not verify(key.public, signature[:32] + moved.to_bytes(32, "little"), b"present")


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), b"\xff" * 32])
def test_what_is_no_key_or_no_signature_verifies_nothing(public: bytes) -> None:
    key = signing_key(RAW)
    assert not verify(public, key.sign(b"present"), b"present")
    assert not verify(key.public, public, b"present")


# ---- Secrets ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Holder:
    secret: PrivateKey | SigningKey


@pytest.mark.parametrize("make", [private_key, signing_key])
@pytest.mark.parametrize(
    "act",
    [
        lambda secret: secret == secret,  # noqa: PLR0124
        lambda secret: secret != RAW,
        [RAW].index,
        hash,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        lambda secret: pickle.dumps(Holder(secret), protocol=5),
        lambda secret: dataclasses.asdict(Holder(secret)),
        msgspec.msgpack.encode,
        json.dumps,
        bytes,
        vars,
    ],
)
def test_a_private_key_refuses_to_be_compared_copied_or_sent(
    make: Callable[[bytes], PrivateKey | SigningKey], act: Any
) -> None:
    with pytest.raises((Error, TypeError)):
        act(make(RAW))


@pytest.mark.parametrize("make", [private_key, signing_key])
def test_a_private_key_never_prints_and_its_store_gives_it_again(
    make: Callable[[bytes], PrivateKey | SigningKey],
) -> None:
    key = make(RAW)
    assert f"{key} {key!r} {key!s} {[key]} {Holder(key)}".count("<secret>") == 5
    assert key.stored() == RAW
    assert make(key.stored()).public == key.public
