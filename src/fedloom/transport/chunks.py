"""Chunks of a blob: at most 1 MiB each, with its place and a checksum, both looked at before a byte of it is used.

Frame: the offset (8 bytes, little-endian), CRC-32 of offset and bytes (4 bytes, little-endian), the bytes.

TLS keeps strangers out. The checksum finds what memory or a disk has spoiled, chunk by chunk, so that only that chunk
is sent again; whether the whole is the blob of that name, its SHA-256 decides at the end. A SHA-256 for each chunk
would cost as much as that of the whole once more, 0.15 s for 256 MiB at each end.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from fedloom.transport.errors import Code, Refused

CHUNK = 1 << 20
SEGMENT = 16 << 20
"""Bytes after which a receiver says how far it has come."""
_OFFSET = 8
_HEADER = _OFFSET + 4
MAX_FRAME = _HEADER + CHUNK

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""Bytes of a blob: offset and size; fewer only at its end."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes and their place."""

    offset: int
    data: memoryview


def frame(offset: int, data: bytes) -> bytes:
    """Return a chunk as it travels.

    Example:
        >>> bytes(read_frame(frame(7, b"abc")).data)
        b'abc'
    """
    place = offset.to_bytes(_OFFSET, "little")
    return b"".join((place, _checksum(place, data), data))


def is_frame(data: bytes) -> bool:
    """Return whether bytes of a download are a frame, not a refusal: no offset has bits in its eighth byte.

    Example:
        >>> is_frame(frame(5, b"abc")), is_frame(bytes(range(100)))
        (True, False)
    """
    return len(data) >= _OFFSET and data[_OFFSET - 1] == 0


def read_frame(data: bytes) -> Chunk:
    """Return the chunk in a frame.

    Raises:
        Refused: ``MALFORMED`` or ``TOO_LARGE`` when it is no frame, ``CORRUPT_UPLOAD`` when its bytes have changed.
    """
    if len(data) <= _HEADER:
        raise Refused(Code.MALFORMED, f"a frame of {len(data)} bytes holds no chunk.")
    if len(data) > MAX_FRAME:
        raise Refused(Code.TOO_LARGE, f"a chunk of {len(data) - _HEADER} bytes; at most {CHUNK} travel in one.")
    view = memoryview(data)
    body = view[_HEADER:]
    offset = int.from_bytes(view[:_OFFSET], "little")
    if _checksum(view[:_OFFSET], body) != view[_OFFSET:_HEADER]:
        raise Refused(Code.CORRUPT_UPLOAD, f"the chunk at {offset} arrived damaged.", retryable=True)
    return Chunk(offset, body)


def frames(read: ReadAt, length: int, *, start: int) -> Iterator[bytes]:
    """Yield the chunks of a blob from ``start`` to ``length``, each read when it is asked for.

    Raises:
        EOFError: When the blob is shorter than ``length``.
    """
    offset = start
    while offset < length:
        data = read(offset, min(CHUNK, length - offset))
        if not data:
            raise EOFError(f"the blob ends at {offset}; {length} bytes were announced")
        yield frame(offset, data)
        offset += len(data)


def _checksum(place: bytes | memoryview, data: bytes | memoryview) -> bytes:
    return zlib.crc32(data, zlib.crc32(place)).to_bytes(4, "little")
