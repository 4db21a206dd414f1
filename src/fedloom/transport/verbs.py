"""What a site and its coordinator say to each other: one frozen value per verb and per reply.

No message names its sender: who calls is what the certificate says (``service.Caller``). Under a protecting pipeline
``Submit`` carries neither scores nor rows, and ``Fail`` no text: ``told_openly`` lists what a message tells.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from fedloom.transport.fields import (
    Digest,
    Document,
    Figure,
    Ids,
    Inline,
    Length,
    Message,
    Name,
    Number,
    Seconds,
    Signature,
    Text,
)

M = TypeVar("M", bound=Message)
PROTOCOL = "fedloom.v1"
"""Major version: a part of every method's path, so that another one is not understood by accident."""
LONGEST_POLL_S = 45.0
_SIZES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
Dtype: TypeAlias = Literal[
    "bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32", "int64", "uint64", "float64"
]


class Blob(Message, frozen=True):
    """Bytes that travel by themselves, named by their digest."""

    digest: Digest
    length: Length


class TaskKey(Message, frozen=True):
    """Which work a task is: the same key, the same work, however often it is offered."""

    run: Name
    phase: Number
    program: Name
    round: Number
    retry: Number
    step: Number
    """The client's message that it asks for: 0 is the one that follows the order."""


class Version(Message, frozen=True):
    """A piece of software and its version."""

    name: Name
    version: Name


class Hello(Message, frozen=True):
    """A site opens a session. An older session of the same identity is fenced by it."""

    federation: Name
    version: Name
    features: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    software: Annotated[tuple[Version, ...], Meta(max_length=64)] = ()
    schema: Document = b""
    roster_version: Number = 0
    store_epoch: Text = ""
    """Of the site's own store: which one it is, and how often it was opened."""
    ledger_head: Text | None = None
    """Of the site's own ledger: one that goes back has come from a backup."""
    events_head: Text | None = None
    """Of the site's own events."""
    seen_events: Text | None = None
    """Head of the coordinator's events that the site has seen last."""
    tasks: Ids = ()
    """Open tasks of the site."""
    sums: Ids = ()
    """Open sessions of secure sums."""


class Open(Message, frozen=True):
    """What a site shall do with a task that it still has."""

    task: Name
    verdict: Literal["continue", "upload", "drop"]


class HelloReply(Message, frozen=True):
    """The session, and what the site should know of its coordinator."""

    session: Name
    session_epoch: Number
    version: Name
    server_time_s: Seconds
    features: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    store_epoch: Text = ""
    """Of the coordinator's store: the site compares it with the last one that it has seen."""
    ledger_head: Text | None = None
    events_head: Text | None = None
    goes_on: bool = True
    """Whether the coordinator's events go on from those that the site has seen: else its store was put back."""
    roster_version: Number = 0
    deny_version: Number = 0
    heartbeat_s: Seconds = 12.0
    poll_s: Annotated[float, Meta(ge=0.0, le=LONGEST_POLL_S)] = LONGEST_POLL_S
    idle_s: Seconds = 60.0
    largest_upload: Length = 1 << 50
    tasks: Annotated[tuple[Open, ...], Meta(max_length=200)] = ()


class Poll(Message, frozen=True):
    """A site asks for work and waits for it."""

    session: Name
    capacity: Number = 1
    wait_s: Annotated[float, Meta(ge=0.0, le=LONGEST_POLL_S)] = LONGEST_POLL_S
    known: Ids = ()
    """Offers that it has already: only a change of these is worth an answer before the wait is over."""
    runs: Ids = ()
    """Runs that it still keeps something of: it is told which of them are over."""


class Offer(Message, frozen=True):
    """A task for this site. It is a row of the coordinator's store, and repeated until it is claimed."""

    task: Name
    kind: Name
    key: TaskKey
    inputs: Annotated[tuple[Blob, ...], Meta(max_length=256)] = ()
    deadline_s: Seconds | None = None
    """From now on; None: no deadline."""
    envelope: Signature = b""


class Notice(Message, frozen=True):
    """Something that the operator of a site should read."""

    code: Name
    text: Text


class Offers(Message, frozen=True):
    """Work for a site; none after a wait in which none came up."""

    offers: Annotated[tuple[Offer, ...], Meta(max_length=16)] = ()
    cancelled: Ids = ()
    ended: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Of the runs that it keeps something of, those that are over: nothing more is asked of them."""
    notices: Annotated[tuple[Notice, ...], Meta(max_length=16)] = ()
    come_back_after_s: Seconds = 0.0


class Claim(Message, frozen=True):
    """A site takes a task. The same answer for the same session, however often it asks."""

    session: Name
    task: Name
    retry: Number
    envelope: Signature = b""


class Claimed(Message, frozen=True):
    """The task is the site's for as long as its lease is extended."""

    task: Name
    lease_s: Seconds
    inputs: Annotated[tuple[Blob, ...], Meta(max_length=256)] = ()
    contents: Annotated[tuple[Inline, ...], Meta(max_length=4)] = ()
    """Of the first inputs, where they are small; an empty one is fetched."""


class Decline(Message, frozen=True):
    """A site does not take a task. Only the code is told: not how many rows, not which rule of the policy."""

    session: Name
    task: Name
    retry: Number
    reason: Name
    envelope: Signature = b""


class Noted(Message, frozen=True):
    """Done, and nothing to say."""


class Lease(Message, frozen=True):
    """A task that a site is at."""

    task: Name
    moved: bool
    """Whether its worker has moved since the last heartbeat: no count, which would tell of rows."""


class Heartbeat(Message, frozen=True):
    """A site lives. It comes at a fixed rate whatever the site does."""

    session: Name
    leases: Annotated[tuple[Lease, ...], Meta(max_length=200)] = ()
    degraded: Ids = ()
    """Codes of what is wrong at the site: a disk that is full, a certificate near its end."""


class Extension(Message, frozen=True):
    """A lease, from now on."""

    task: Name
    lease_s: Seconds


class HeartbeatReply(Message, frozen=True):
    """What has changed for the tasks that a site is at."""

    server_time_s: Seconds
    extensions: Annotated[tuple[Extension, ...], Meta(max_length=200)] = ()
    cancelled: Ids = ()
    notices: Annotated[tuple[Notice, ...], Meta(max_length=16)] = ()


class Part(Message, frozen=True):
    """One array of an upload, as its manifest has it."""

    name: Name
    dtype: Dtype
    shape: Annotated[tuple[Length, ...], Meta(max_length=8)]
    length: Length

    def __post_init__(self) -> None:
        """Refuse a length that is not the shape's.

        Raises:
            ValueError: When it is not.
        """
        size = math.prod(self.shape) * _SIZES[self.dtype]
        if size != self.length:
            raise ValueError(f"{self.dtype}{list(self.shape)} takes {size} bytes; the manifest says {self.length}")


class BeginUpload(Message, frozen=True):
    """A site is about to send a blob. The same upload, and where it stands, however often it asks."""

    session: Name
    task: Name
    retry: Number
    blob: Blob
    parts: Annotated[tuple[Part, ...], Meta(max_length=1000)] = ()
    """The arrays in it, where the aggregator shows them; empty for bytes that only the pipeline understands."""

    def __post_init__(self) -> None:
        """Refuse a manifest that names an array twice or has more bytes than the blob.

        Raises:
            ValueError: When it does.
        """
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ValueError("the manifest names an array twice")
        if sum(part.length for part in self.parts) > self.blob.length:
            raise ValueError(f"the arrays of the manifest take more than the {self.blob.length} bytes of the blob")


class Upload(Message, frozen=True):
    """First frame of a stream of chunks: which upload, and from where on."""

    session: Name
    upload: Name
    offset: Length


class UploadAt(Message, frozen=True):
    """How far an upload has come."""

    upload: Name
    offset: Length
    """Bytes that the coordinator has. The next chunk begins here."""
    length: Length
    """Of the whole."""
    done: bool = False
    """All bytes are there, their digest is right, and they are on disk."""
    damaged: bool = False
    """A chunk arrived damaged, or not where it belongs: it is to be sent again, from ``offset`` on."""


class Fetch(Message, frozen=True):
    """A peer asks for a blob, from an offset on."""

    digest: Digest
    offset: Length = 0


class Submit(Message, frozen=True):
    """A site hands in the result of a task."""

    session: Name
    task: Name
    key: TaskKey
    blob: Blob
    content: Inline = b""
    """Of the blob, where it is small; empty: it was uploaded before."""
    code_hash: Digest | None = None
    fingerprint: Digest | None = None
    """HMAC of the rows under a key of the site, new per run."""
    scores: Annotated[dict[Name, Figure | None], Meta(max_length=200)] | None = None
    rows: Number | None = None
    ledger_head: Text | None = None
    """Of the site's own ledger, in which this result is charged."""
    envelope: Signature = b""


class Fail(Message, frozen=True):
    """A site could not do a task. Class and place of the error; its text only where the site's policy lets it go."""

    session: Name
    task: Name
    key: TaskKey
    kind: Name
    error: Name
    where: Name | None = None
    """``file:line``"""
    detail: Text | None = None
    envelope: Signature = b""


class SubmitReply(Message, frozen=True):
    """What became of a result. A late one is no error: it is kept, and not summed."""

    verdict: Literal["ACCEPTED", "DUPLICATE_OK", "TOO_LATE", "REJECTED"]
    reason: Name | None = None


class Approve(Message, frozen=True):
    """A site's yes or no to a run, by the digest of what its operator was shown."""

    session: Name
    run: Name
    digest: Digest
    approved: bool
    reason: Name | None = None
    """Code of a refusal."""
    envelope: Signature = b""


class Recall(Message, frozen=True):
    """A site asks which of its heads was seen last, before it says hello: one that it has not was in another store."""


class Recalled(Message, frozen=True):
    """What was seen of a site's store last; None: nothing."""

    ledger_head: Text | None = None
    events_head: Text | None = None


class Record(Message, frozen=True):
    """A site asks what its coordinator remembers of it: its own store was put back from a backup. It has no session."""

    after: Annotated[str, Meta(max_length=200)] = ""
    """Run that was told last: the next one is told now. Empty: the first."""
    offset: Number = 0
    """Rounds of that next one that were told already."""
    seen_events: Text | None = None
    """Head of the coordinator's events that the site has seen last."""


class Contributed(Message, frozen=True):
    """A round of training that a site took on, whatever became of it."""

    phase: Number
    """As runs number them: 0 is the first."""
    round: Number
    retry: Number
    step: Number
    """The last message that it was at."""
    open: bool = False
    """Whether its first message is still waited for."""


class Took(Message, frozen=True):
    """A run that a site took part in, as its coordinator remembers it."""

    run: Name
    sequence: Number
    """Of its last signed message in that run: the next one needs a higher number."""
    experiment: Blob | None = None
    facts: Blob | None = None
    """What the sites had agreed on; None: nothing yet."""
    rounds: Annotated[tuple[Contributed, ...], Meta(max_length=8000)] = ()
    more: bool = False
    """Whether it has more rounds than these."""
    over: bool = False
    """Whether nothing more is asked of it."""


class RecordReply(Message, frozen=True):
    """What a coordinator remembers of a site, a run at a time; and which store says so."""

    store_epoch: Text
    events_head: Text | None = None
    goes_on: bool = True
    """Whether the coordinator's events go on from those that the site has seen."""
    took: Took | None = None
    """None: there are no more."""


class Adopt(Message, frozen=True):
    """A site's operator has confirmed the store that it has now, and has charged what the record shows."""

    store_epoch: Text
    ledger_head: Text | None = None
    events_head: Text | None = None
    envelope: Signature = b""


class Goodbye(Message, frozen=True):
    """A site ends its session."""

    session: Name
    reason: Name


def signed_part(message: M) -> bytes:
    """Return what the envelope of a message is about: the message, without it.

    Example:
        >>> claim = Claim(session="s1", task="t1", retry=0)
        >>> signed_part(msgspec.structs.replace(claim, envelope=b"...")) == signed_part(claim)
        True
    """
    return msgspec.msgpack.encode(msgspec.structs.replace(message, envelope=b""))


def told_openly(message: Submit | Fail) -> tuple[str, ...]:
    """Return the fields of a message that must be empty where a pipeline protects its clients.

    Example:
        >>> key = TaskKey(run="r", phase=0, program="train", round=1, retry=0, step=0)
        >>> told_openly(Fail(session="s", task="t", key=key, kind="crashed", error="ValueError", detail="age 93"))
        ('detail',)
    """
    fields = ("scores", "rows") if isinstance(message, Submit) else ("detail",)
    return tuple(name for name in fields if getattr(message, name) is not None)
