"""Messages of a secure sum: small frozen values of fixed fields, and their bytes.

What a message holds is checked by whoever receives it; here only its form is: field types, and a limit on the whole.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from fedloom.core.wire import WireType
from fedloom.errors import CodecError

SEALED = 114
"""Bytes of what one client seals for another: two shares of 33, two salts of 16, a tag of 16."""
OPENED = 49
"""Bytes of a share in the clear, with its salt."""
HASH = 32
_PER_CLIENT = 512
_BESIDE = 1 << 16
_MOST_CLIENTS = 1024


class Advertise(Struct, frozen=True, array_like=True, tag=0):
    """Step 0, client: two fresh public keys, signed by the client's own key."""

    channel: bytes
    mask: bytes
    signature: bytes


class Entry(Struct, frozen=True, array_like=True):
    """What the roll says of one client."""

    place: int
    """1 + its position among all that advertised, in the order of their names: where its shares are evaluated."""
    client: str
    channel: bytes
    mask: bytes
    signature: bytes


class Roll(Struct, frozen=True, array_like=True, tag=1):
    """To step 1, server: who has advertised, in the order of places; with a graph, the client and its neighbours."""

    size: int
    """Of the whole roll."""
    entries: tuple[Entry, ...]


class Shares(Struct, frozen=True, array_like=True, tag=2):
    """Step 1, client: sealed shares of its two secrets, and commitments to them; in the order of places."""

    sealed: bytes
    """One of ``SEALED`` bytes for each holder but itself."""
    seed: bytes
    """Commitment to its self seed."""
    commitments: bytes
    """Two hashes for each holder: of the share of the mask key, then of that of the self seed."""
    signature: bytes


class Parcel(Struct, frozen=True, array_like=True):
    """What one client has sealed for another, and committed to."""

    place: int
    sealed: bytes
    commitments: bytes


class Delivery(Struct, frozen=True, array_like=True, tag=3):
    """To step 2, server: from every other client that shared, in the order of places."""

    parcels: tuple[Parcel, ...]


class Masked(Struct, frozen=True, array_like=True, tag=4):
    """Step 2, client: its vector under its masks, as little-endian words."""

    vector: bytes


class Survivors(Struct, frozen=True, array_like=True, tag=5):
    """To step 3, server: the places of those whose masked vector is in the sum."""

    places: tuple[int, ...]


class Consistent(Struct, frozen=True, array_like=True, tag=6):
    """Step 3, client: its signature on the survivors that it was told."""

    signature: bytes


class Witnesses(Struct, frozen=True, array_like=True, tag=7):
    """To step 4, server: signatures of survivors on their list."""

    places: tuple[int, ...]
    signatures: bytes
    """64 bytes for each place."""


class Unmask(Struct, frozen=True, array_like=True, tag=8):
    """Step 4, client: one share, with its salt, for each client that it holds shares of; in the order of places."""

    shares: bytes


Message: TypeAlias = Advertise | Roll | Shares | Delivery | Masked | Survivors | Consistent | Witnesses | Unmask
MESSAGES: tuple[type, ...] = (Advertise, Roll, Shares, Delivery, Masked, Survivors, Consistent, Witnesses, Unmask)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """Return a message as bytes.

    Example:
        >>> unpack(pack(Consistent(bytes(64))), most=100) == Consistent(bytes(64))
        True
    """
    return _encoder.encode(message)


def length(message: Message) -> int:
    """Return ``len(pack(message))`` without a copy of a vector."""
    if not isinstance(message, Masked):
        return len(pack(message))
    count = len(message.vector)
    return len(pack(Masked(b""))) + count + (0 if count < 1 << 8 else 1 if count < 1 << 16 else 3)


def unpack(data: bytes, *, most: int) -> Message:
    """Return the message that some bytes are.

    Raises:
        CodecError: When they are more than ``most``, or no message.
    """
    if len(data) > most:
        raise CodecError(f"a message of {len(data)} bytes; this sum has none above {most}")
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"the bytes are no message of a secure sum: {error}") from error
    return message


def most_bytes(wire: WireType) -> int:
    """Return a limit on the messages of a sum of this wire type."""
    words = 0 if wire.dim is None else wire.dim * (8 if wire.dtype == "uint64" else 4)
    return words + _PER_CLIENT * _MOST_CLIENTS + _BESIDE
