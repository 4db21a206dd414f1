"""The verbs as a table: which message asks, which one answers, who may ask, and which threads serve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec

from fedloom.secure.peers import Role
from fedloom.transport import admin, verbs
from fedloom.transport.errors import Code, Refusal, Refused
from fedloom.transport.fields import MAX_MESSAGE, Message

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Lane: TypeAlias = Literal["control", "poll", "beat", "bulk", "watch"]
"""Threads of their own, so that polls that wait and bytes that flow never keep a heartbeat waiting."""
SERVICE = f"{verbs.PROTOCOL}.Work"


@dataclass(frozen=True, eq=False)
class Verb(Generic[Q, R]):
    """One verb."""

    method: str
    """Of the service."""
    request: type[Q]
    reply: type[R]
    roles: frozenset[Role]
    lane: Lane = "control"
    shape: Literal["unary", "download", "upload", "events"] = "unary"

    @property
    def path(self) -> str:
        """Path of the call."""
        return f"/{SERVICE}/{self.request.__name__}"


_SITE: frozenset[Role] = frozenset({"site"})
_ADMIN: frozenset[Role] = frozenset({"admin"})

HELLO = Verb("hello", verbs.Hello, verbs.HelloReply, _SITE)
POLL = Verb("poll", verbs.Poll, verbs.Offers, _SITE, lane="poll")
CLAIM = Verb("claim", verbs.Claim, verbs.Claimed, _SITE)
DECLINE = Verb("decline", verbs.Decline, verbs.Noted, _SITE)
HEARTBEAT = Verb("heartbeat", verbs.Heartbeat, verbs.HeartbeatReply, _SITE, lane="beat")
BEGIN_UPLOAD = Verb("begin_upload", verbs.BeginUpload, verbs.UploadAt, _SITE)
UPLOAD = Verb("resume_upload", verbs.Upload, verbs.UploadAt, _SITE, lane="bulk", shape="upload")
FETCH = Verb("open_blob", verbs.Fetch, verbs.Noted, _SITE | _ADMIN, lane="bulk", shape="download")
SUBMIT = Verb("submit", verbs.Submit, verbs.SubmitReply, _SITE)
FAIL = Verb("fail", verbs.Fail, verbs.SubmitReply, _SITE)
APPROVE = Verb("approve", verbs.Approve, verbs.Noted, _SITE)
RECALL = Verb("recall", verbs.Recall, verbs.Recalled, _SITE)
RECORD = Verb("record", verbs.Record, verbs.RecordReply, _SITE)
ADOPT = Verb("adopt", verbs.Adopt, verbs.Noted, _SITE)
GOODBYE = Verb("goodbye", verbs.Goodbye, verbs.Noted, _SITE)
CREATE_RUN = Verb("create_run", admin.CreateRun, admin.RunAt, _ADMIN)
APPROVE_RUN = Verb("approve_run", admin.ApproveRun, admin.RunAt, _ADMIN)
PAUSE = Verb("pause", admin.Pause, admin.RunAt, _ADMIN)
RESUME = Verb("resume", admin.Resume, admin.RunAt, _ADMIN)
ABORT = Verb("abort", admin.Abort, admin.RunAt, _ADMIN)
LIST_RUNS = Verb("list_runs", admin.ListRuns, admin.RunList, _ADMIN)
WATCH_RUN = Verb("watch_run", admin.WatchRun, admin.RunEvent, _ADMIN, lane="watch", shape="events")
LIST_SITES = Verb("list_sites", admin.ListSites, admin.SiteList, _ADMIN)
INVITE_SITE = Verb("invite_site", admin.InviteSite, admin.Invitation, _ADMIN)
REVOKE = Verb("revoke", admin.Revoke, verbs.Noted, _ADMIN)
READMIT = Verb("readmit", admin.Readmit, verbs.Noted, _ADMIN)
HEALTH = Verb("health", admin.Health, admin.HealthReply, _SITE | _ADMIN)

VERBS: tuple[Verb[Message, Message], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Verb)
)


def encode(message: Message) -> bytes:
    """Return a message as it travels.

    Raises:
        Refused: When it is larger than a control message may be; what is larger is a blob.
    """
    data = msgspec.msgpack.encode(message)
    if len(data) > MAX_MESSAGE:
        raise Refused(
            Code.TOO_LARGE, f"{type(message).__name__} takes {len(data)} bytes; at most {MAX_MESSAGE} travel."
        )
    return data


def decode_request(verb: Verb[Q, R], data: bytes) -> Q:
    """Return the request that a peer sent, all limits checked.

    Raises:
        Refused: When the bytes are not such a request; it names the field.
    """
    if len(data) > MAX_MESSAGE:
        name = verb.request.__name__
        raise Refused(Code.TOO_LARGE, f"{name} came with {len(data)} bytes; at most {MAX_MESSAGE} are read.")
    try:
        return msgspec.msgpack.decode(data, type=verb.request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Code.MALFORMED, f"{verb.request.__name__}: {error}") from None


def decode_answer(verb: Verb[Q, R], data: bytes) -> R:
    """Return the reply that a peer sent.

    Raises:
        Refused: When the peer refused, or the bytes are neither a reply nor a refusal.
    """
    if len(data) > MAX_MESSAGE:
        raise Refused(Code.TOO_LARGE, f"the answer to {verb.request.__name__} has {len(data)} bytes.")
    try:
        answer: Message = msgspec.msgpack.decode(data, type=verb.reply | Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Code.MALFORMED, f"the answer to {verb.request.__name__}: {error}") from None
    if isinstance(answer, Refusal):
        raise Refused.of(answer)
    assert isinstance(answer, verb.reply)  # the decoder was given no third type
    return answer
