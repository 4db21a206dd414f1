"""What a site's agent and its worker say to each other: one pipe each way, every message its length and msgpack.

Nothing is pickled. The worker has the site's rows and no key: what it trains comes back as the encoded vector, and the
agent, which has the keys and no rows, makes the message of the sum from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO, TypeAlias

import msgspec
from msgspec import Struct

from fedloom.core.messages import Program
from fedloom.core.wire import WireType
from fedloom.engines.pipes import Logged, read_frame, write_frame


class SiteSetup(Struct, frozen=True, tag=True, kw_only=True):
    """First message: the experiment as it was sent, and where the site's rows lie."""

    run: str
    experiment: bytes
    base: str
    client: str
    source: bytes
    """``ComponentSpec`` of the site's own data, as JSON."""
    columns: tuple[str, ...] | None


class Look(Struct, frozen=True, tag=True):
    """Asks what the site has."""


class Looked(Struct, frozen=True, tag=True, kw_only=True):
    """What the site has: names and kinds of columns, and versions."""

    facts: bytes


class Train(Struct, frozen=True, tag=True, kw_only=True):
    """One order, and what the client keeps."""

    phase: int
    facts: bytes
    """``RunFacts``, with the results of all preparations before the phase."""
    program: Program
    order: bytes
    state: bytes | None
    secret: bytes | None
    """32 bytes for this order alone, for noise and private batches; None in a rehearsal: derived from the seed."""


class Trained(Struct, frozen=True, tag=True, kw_only=True):
    """What came of an order."""

    message: bytes
    """``Refused``, ``Failed``, or ``AggregatorMessage`` with the encoded vector in the open."""
    state: bytes | None
    """What the client keeps now; None: as before."""
    phase_key: bytes
    """Path of the phase's public key."""
    order_digest: bytes
    """Of what every client was told."""
    wire: WireType
    """Of the vector, without its modulus: 2**64 is no number of this encoding."""
    residues: bool
    """Whether it has one: the whole range of its type."""
    invited: int
    log: Logged = ()


def wire_of(trained: Trained) -> WireType:
    """Return what the vector is, modulus and all."""
    if not trained.residues:
        return trained.wire
    bits = 64 if trained.wire.dtype == "uint64" else 32
    return replace(trained.wire, modulus=1 << bits)


class Moved(Struct, frozen=True, tag=True):
    """Sent in the middle of work: the worker lives and goes on."""


class SiteRaised(Struct, frozen=True, tag=True, kw_only=True):
    """An exception that is no failure of the client's program. Its text stays at the site."""

    error: str
    text: str
    trace: str


ToSiteWorker: TypeAlias = SiteSetup | Look | Train
FromSiteWorker: TypeAlias = Looked | Trained | Moved | SiteRaised
_TO: msgspec.msgpack.Decoder[ToSiteWorker] = msgspec.msgpack.Decoder(ToSiteWorker)
_FROM: msgspec.msgpack.Decoder[FromSiteWorker] = msgspec.msgpack.Decoder(FromSiteWorker)


def send(pipe: BinaryIO, message: ToSiteWorker | FromSiteWorker) -> None:
    """Write a message and flush it."""
    write_frame(pipe, msgspec.msgpack.encode(message))


def read_to_worker(pipe: BinaryIO) -> ToSiteWorker | None:
    """Return the next message to a worker; None when the agent has closed the pipe."""
    data = read_frame(pipe)
    return None if data is None else _TO.decode(data)


def read_from_worker(pipe: BinaryIO) -> FromSiteWorker | None:
    """Return the next message of a worker; None when it has ended."""
    data = read_frame(pipe)
    return None if data is None else _FROM.decode(data)
