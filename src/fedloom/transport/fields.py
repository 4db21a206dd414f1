"""Kinds of fields of a message, each with its limit, so that no message can be larger than the line allows.

msgspec checks a limit before it makes the value: a length that is announced costs nothing until it has been accepted.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

MAX_MESSAGE = 1 << 20
"""Bytes of a control message, by construction: what is larger is a blob."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
"""Ids, names, codes, versions."""
Text: TypeAlias = Annotated[str, Meta(max_length=2000)]
"""One sentence for people."""
Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""SHA-256."""
Number: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""Counts, offsets, rounds, epochs."""
Length: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 50)]
"""Bytes of a blob."""
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e10)]
"""A duration, or a time since 1970 by the sender's clock. Comparison refuses NaN."""
Figure: TypeAlias = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]
"""A finite score."""
Signature: TypeAlias = Annotated[bytes, Meta(max_length=4096)]
"""A signed envelope around the message without it, opaque here; empty where the sender does not sign."""
Document: TypeAlias = Annotated[bytes, Meta(max_length=256 << 10)]
"""A small document in its own format: a schema, a roster, a deny list."""
INLINE = 64 << 10
Inline: TypeAlias = Annotated[bytes, Meta(max_length=INLINE)]
"""A blob that is small enough to travel in a message: no call of its own is spent on it."""
Ids: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=200)]


class Message(Struct, frozen=True, kw_only=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """Base of what travels: an array of its name and its fields, no more and no fewer than it has."""
