"""The client of a site or an operator: a method per verb, patient with the line and not with refusals.

Every verb may be asked twice with the effect of once, so whatever failed for want of a line is asked again, with waits
of full jitter. A refusal is raised, but for ``BUSY`` and ``DRAINING``, which say themselves when to come back.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
from msgspec import structs

from fedloom.transport import admin, calls, verbs
from fedloom.transport.backoff import Jitter, Link, LinkState, wait_s
from fedloom.transport.calls import Verb, decode_answer, encode
from fedloom.transport.channels import Channels, Connection, Path
from fedloom.transport.chunks import ReadAt, frames, is_frame, read_frame
from fedloom.transport.errors import Code, Refused, Unreachable
from fedloom.transport.fields import Message
from fedloom.transport.identity import POST_QUANTUM_GROUP
from fedloom.transport.tls import TlsFiles
from fedloom.transport.verbs import PROTOCOL

_LOG = logging.getLogger(__name__)
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
CALL_S = 30.0
"""Longest wait for the answer to a call that waits for nothing."""
IDLE_S = 120.0
"""Longest time in which a stream brings nothing."""
_DAMAGES = 3
"""A chunk that arrives damaged so often in a row is not the line's fault."""
_COME_BACK = frozenset({Code.BUSY, Code.DRAINING})


class BlobSink(Protocol):
    """Where a download goes: a file that keeps what it has when the line breaks."""

    @property
    def committed(self) -> int:
        """Bytes that are there. The next chunk begins here."""
        ...

    def write(self, offset: int, data: memoryview) -> int:
        """Store a chunk that has been checked; return ``committed``."""
        ...

    def finish(self) -> object:
        """Check the digest of the whole; raise when it is another one."""
        ...


class Memory:
    """A sink for a blob that is small enough to be held."""

    def __init__(self, blob: verbs.Blob) -> None:
        self._blob = blob
        self.data = bytearray()

    @property
    def committed(self) -> int:
        """Bytes that are there."""
        return len(self.data)

    def write(self, offset: int, data: memoryview) -> int:
        """Append a chunk."""
        if offset == len(self.data):
            self.data += data
        return len(self.data)

    def finish(self) -> None:
        """Check the digest.

        Raises:
            Refused: ``CORRUPT_UPLOAD``.
        """
        if hashlib.sha256(self.data).digest() != self._blob.digest:
            self.data.clear()
            raise Refused(Code.CORRUPT_UPLOAD, f"the blob {self._blob.digest.hex()[:16]} arrived with another digest.")


class Client:
    """Talks to one coordinator. Used by several threads at once.

    Args:
        address: ``host:port``; an IPv6 address in brackets.
        tls: This party's certificate, and the root that the coordinator's must come from.
        server_name: Name to expect in the coordinator's certificate, where it is dialled by another.
        require_pq: Refuse a coordinator with which the key exchange was not X25519MLKEM768.
        patience_s: How long to try in the face of a dead line; None: for ever, until ``close``.
        tell: Called once for each change between connected and waiting.
        clock: Monotonic seconds.
        jitter: Draws in [0, 1).
        pause: Waits so many seconds; returns True when it was woken to end. The default is woken by ``close``.
    """

    def __init__(
        self,
        address: str,
        tls: TlsFiles,
        *,
        server_name: str | None = None,
        require_pq: bool = False,
        patience_s: float | None = None,
        tell: Callable[[LinkState], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Jitter | None = None,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._address = address
        self._channels = Channels(address, tls, server_name=server_name)
        self._require_pq = require_pq
        self._patience_s = patience_s
        self._clock = clock
        self._jitter = jitter or _system_jitter
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._link = Link(address, clock=clock, tell=tell or _log_state)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End all calls. Safe to repeat."""
        self._closed.set()
        self._channels.close()

    @property
    def link(self) -> LinkState | None:
        """Whether the coordinator answers; None before the first call has ended."""
        return self._link.state

    # ---- Verbs of a site ---------------------------------------------------------------------------------------------

    def hello(self, request: verbs.Hello) -> verbs.HelloReply:
        """Open a session."""
        return self.call(calls.HELLO, request)

    def poll(self, request: verbs.Poll) -> verbs.Offers:
        """Ask for work."""
        return self.call(calls.POLL, request, within_s=request.wait_s + CALL_S)

    def claim(self, request: verbs.Claim) -> verbs.Claimed:
        """Take a task."""
        return self.call(calls.CLAIM, request)

    def decline(self, request: verbs.Decline) -> verbs.Noted:
        """Leave a task."""
        return self.call(calls.DECLINE, request)

    def heartbeat(self, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        """Say that this site lives. Tried once: the next one comes soon.

        Raises:
            Unreachable: When it got no answer.
        """
        return self._once(calls.HEARTBEAT, request, within_s=10.0)

    def submit(self, request: verbs.Submit) -> verbs.SubmitReply:
        """Hand in a result."""
        return self.call(calls.SUBMIT, request)

    def fail(self, request: verbs.Fail) -> verbs.SubmitReply:
        """Say that a task could not be done."""
        return self.call(calls.FAIL, request)

    def approve(self, request: verbs.Approve) -> verbs.Noted:
        """Answer to a run."""
        return self.call(calls.APPROVE, request)

    def recall(self, request: verbs.Recall) -> verbs.Recalled:
        """Ask which heads of this site's store were seen last."""
        return self.call(calls.RECALL, request)

    def record(self, request: verbs.Record) -> verbs.RecordReply:
        """Ask what the coordinator remembers of this site."""
        return self.call(calls.RECORD, request)

    def adopt(self, request: verbs.Adopt) -> verbs.Noted:
        """Say that this site's operator has confirmed its store."""
        return self.call(calls.ADOPT, request)

    def goodbye(self, request: verbs.Goodbye) -> verbs.Noted:
        """End the session. Tried once."""
        return self._once(calls.GOODBYE, request, within_s=5.0)

    # ---- Verbs of an operator ----------------------------------------------------------------------------------------

    def create_run(self, request: admin.CreateRun) -> admin.RunAt:
        """Hand in an experiment."""
        return self.call(calls.CREATE_RUN, request)

    def approve_run(self, request: admin.ApproveRun) -> admin.RunAt:
        """Let a run go to the sites."""
        return self.call(calls.APPROVE_RUN, request)

    def pause(self, request: admin.Pause) -> admin.RunAt:
        """Open no further round."""
        return self.call(calls.PAUSE, request)

    def resume(self, request: admin.Resume) -> admin.RunAt:
        """Go on."""
        return self.call(calls.RESUME, request)

    def abort(self, request: admin.Abort) -> admin.RunAt:
        """End a run."""
        return self.call(calls.ABORT, request)

    def list_runs(self, request: admin.ListRuns) -> admin.RunList:
        """Return a page of runs."""
        return self.call(calls.LIST_RUNS, request)

    def list_sites(self, request: admin.ListSites) -> admin.SiteList:
        """Return a page of sites."""
        return self.call(calls.LIST_SITES, request)

    def invite_site(self, request: admin.InviteSite) -> admin.Invitation:
        """Issue a token."""
        return self.call(calls.INVITE_SITE, request)

    def revoke(self, request: admin.Revoke) -> verbs.Noted:
        """Shut out an identity."""
        return self.call(calls.REVOKE, request)

    def readmit(self, request: admin.Readmit) -> verbs.Noted:
        """Let a site in again that was suspended."""
        return self.call(calls.READMIT, request)

    def health(self, request: admin.Health | None = None) -> admin.HealthReply:
        """Ask whether the coordinator can work. Tried once."""
        return self._once(calls.HEALTH, request or admin.Health(), within_s=10.0)

    def watch_run(self, request: admin.WatchRun) -> Iterator[admin.RunEvent]:
        """Yield the events of a run; after a broken line, from the one after the last that came."""
        since = request.since
        effort = self._effort("prompt")
        while True:
            connection = self._channels.get("prompt")
            try:
                for data in self._open(connection, calls.WATCH_RUN, structs.replace(request, since=since)):
                    event = decode_answer(calls.WATCH_RUN, data)
                    effort.answered()
                    since = event.sequence + 1
                    yield event
                return
            except (grpc.RpcError, Refused) as error:
                effort.failed(error, connection)

    # ---- Blobs -------------------------------------------------------------------------------------------------------

    def upload(
        self, request: verbs.BeginUpload, read: ReadAt, *, progress: Callable[[int], None] | None = None
    ) -> verbs.UploadAt:
        """Send a blob, from wherever the coordinator has it to; return when it is on its disk.

        Args:
            request: Task and blob.
            read: The bytes: the same ones, however often they are asked for.
            progress: Called with the bytes that the coordinator has.

        Raises:
            Refused: ``CORRUPT_UPLOAD`` when the blob keeps arriving damaged, and what the coordinator says else.
            Unreachable: When patience has ended.
            Exception: What ``read`` raised; ``EOFError`` when it gave fewer bytes than the blob has.
        """
        effort = self._effort("bulk")
        damages = 0
        while True:
            at = self.call(calls.BEGIN_UPLOAD, request)
            if at.done:
                return at
            connection = self._channels.get("bulk")
            begun = at.offset
            try:
                at = self._send(connection, request, at=at, read=read, effort=effort, progress=progress)
            except (grpc.RpcError, Refused) as error:
                if isinstance(error, Refused) and error.refusal.code == Code.CORRUPT_UPLOAD and damages + 1 < _DAMAGES:
                    damages += 1  # the whole had another digest: it begins anew
                    continue
                effort.failed(error, connection)
                continue
            if at.done:
                return at
            damages = 0 if at.offset > begun else damages + 1
            if damages >= _DAMAGES:
                raise Refused(
                    Code.CORRUPT_UPLOAD,
                    f"the chunk at {at.offset} of {request.blob.digest.hex()[:16]} arrived damaged {damages} times.",
                    remedy="Check the memory and the disk of this machine.",
                )

    def download(self, request: verbs.Fetch, *, length: int, sink: BlobSink) -> None:
        """Fetch a blob into a sink, from wherever the sink has it to.

        Raises:
            Refused: ``CORRUPT_UPLOAD`` when chunks keep arriving damaged, and what the coordinator says else.
            Unreachable: When patience has ended.
        """
        effort = self._effort("bulk")
        damages = 0
        while sink.committed < length:
            connection = self._channels.get("bulk")
            begun = sink.committed
            try:
                asked = verbs.Fetch(digest=request.digest, offset=begun)
                self._receive(connection, asked, length=length, sink=sink, effort=effort)
            except Refused as error:
                if error.refusal.code != Code.CORRUPT_UPLOAD:
                    effort.failed(error, connection)
                    continue
                damages = 0 if sink.committed > begun else damages + 1
                if damages >= _DAMAGES:
                    raise
            except grpc.RpcError as error:
                effort.failed(error, connection)
        sink.finish()

    def fetch(self, blob: verbs.Blob, *, largest: int) -> bytes:
        """Return a small blob.

        Raises:
            Refused: ``TOO_LARGE`` when it is not small, and as ``download``.
        """
        if blob.length > largest:
            raise Refused(Code.TOO_LARGE, f"the blob has {blob.length} bytes; at most {largest} are held in memory.")
        memory = Memory(blob)
        self.download(verbs.Fetch(digest=blob.digest), length=blob.length, sink=memory)
        return bytes(memory.data)

    # ---- How ---------------------------------------------------------------------------------------------------------

    def call(self, verb: Verb[Q, R], request: Q, *, within_s: float = CALL_S) -> R:
        """Ask until there is an answer.

        Raises:
            Refused: What the coordinator says, but for ``BUSY`` and ``DRAINING`` while there is patience.
            Unreachable: When patience has ended, or the client was closed.
        """
        effort = self._effort("prompt")
        while True:
            connection = self._channels.get("prompt")
            try:
                return self._ask(connection, verb, request, within_s)
            except (grpc.RpcError, Refused) as error:
                effort.failed(error, connection)

    def _once(self, verb: Verb[Q, R], request: Q, *, within_s: float) -> R:
        connection = self._channels.get("prompt")
        try:
            return self._ask(connection, verb, request, within_s)
        except grpc.RpcError as error:
            self._channels.drop("prompt", connection)
            self._link.down(_said(error))
            raise Unreachable(f"{verb.request.__name__} got no answer from {self._address}: {_said(error)}") from error

    def _ask(self, connection: Connection, verb: Verb[Q, R], request: Q, within_s: float) -> R:
        asked = connection.channel.unary_unary(verb.path)
        with connection.beginning():
            data, call = asked.with_call(encode(request), timeout=within_s)
        self._check_group(call)
        self._link.up()
        return decode_answer(verb, data)

    def _open(self, connection: Connection, verb: Verb[Any, Any], request: Message) -> Iterator[bytes]:
        with connection.beginning():
            stream = connection.channel.unary_stream(verb.path)(encode(request))
        try:
            self._check_group(stream)
            yield from stream
        finally:
            stream.cancel()

    def _send(
        self,
        connection: Connection,
        request: verbs.BeginUpload,
        *,
        at: verbs.UploadAt,
        read: ReadAt,
        effort: _Effort,
        progress: Callable[[int], None] | None,
    ) -> verbs.UploadAt:
        failures: list[Exception] = []

        def outgoing() -> Iterator[bytes]:
            try:
                yield encode(verbs.Upload(session=request.session, upload=at.upload, offset=begun))
                yield from frames(read, request.blob.length, start=begun)
            except Exception as error:
                failures.append(error)  # gRPC, which calls this from a thread of its own, would only say CANCELLED
                stream.cancel()

        begun = at.offset
        with connection.beginning():
            stream = connection.channel.stream_stream(calls.UPLOAD.path)(outgoing())
        with _Idle(stream.cancel) as heard:
            try:
                self._check_group(stream)
                for data in stream:
                    heard()
                    now = decode_answer(calls.UPLOAD, data)
                    if now.offset > at.offset:
                        effort.answered()
                    at = now
                    if progress is not None:
                        progress(at.offset)
            except grpc.RpcError:
                if failures:
                    raise failures[0] from None
                raise
            finally:
                stream.cancel()
        return at

    def _receive(
        self, connection: Connection, request: verbs.Fetch, *, length: int, sink: BlobSink, effort: _Effort
    ) -> None:
        with connection.beginning():
            stream = connection.channel.unary_stream(calls.FETCH.path)(encode(request))
        try:
            with _Idle(stream.cancel) as heard:
                self._check_group(stream)
                for data in stream:
                    heard()
                    if not is_frame(data):
                        decode_answer(calls.FETCH, data)
                    chunk = read_frame(data)
                    if chunk.offset != sink.committed or chunk.offset + len(chunk.data) > length:
                        raise Refused(Code.CORRUPT_UPLOAD, f"a chunk at {chunk.offset}; {sink.committed} comes next.")
                    sink.write(chunk.offset, chunk.data)
                    effort.answered()
        finally:
            stream.cancel()

    def _check_group(self, call: Any) -> None:
        if not self._require_pq:
            return
        group = dict(call.initial_metadata() or ()).get("fedloom-group", "")
        if not group and call.code() not in {None, grpc.StatusCode.OK}:
            return  # it has failed: reading it says how
        if group != POST_QUANTUM_GROUP:
            raise Refused(
                Code.WEAK_CHANNEL,
                f"the key exchange with {self._address} is {group or 'unknown'}; {POST_QUANTUM_GROUP} is needed.",
                remedy="Upgrade grpcio at the coordinator.",
            )

    def _effort(self, path: Path) -> _Effort:
        return _Effort(self, path)


class _Effort:
    """One piece of work that goes on until it succeeds, patience ends, or the coordinator says no."""

    def __init__(self, client: Client, path: Path) -> None:
        self._client = client
        self._path = path
        self._began = client._clock()
        self._failures = 0

    def answered(self) -> None:
        self._failures = 0
        self._began = self._client._clock()
        self._client._link.up()

    def failed(self, error: grpc.RpcError | Refused, connection: Connection) -> None:
        """Wait before the next try, or raise."""
        client = self._client
        at_least_s = 0.0
        if isinstance(error, Refused):
            if error.refusal.code not in _COME_BACK:
                raise error
            at_least_s = error.refusal.retry_after_s
        elif error.code() not in _OF_THE_LINE:
            words = f"{client._address} does not speak {PROTOCOL}: {_said(error)}."
            raise Refused(Code.VERSION, words, remedy=_OTHER_SERVER) from error
        elif error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
            client._channels.drop(self._path, connection)
            client._link.down(_said(error))
        self._failures += 1
        pause_s = wait_s(self._failures, client._jitter, at_least_s=at_least_s)
        waited_s = client._clock() - self._began
        if client._patience_s is not None and waited_s + pause_s > client._patience_s:
            if isinstance(error, Refused):
                raise error
            raise Unreachable(
                f"no answer from the coordinator at {client._address} in {waited_s:.0f} s: {_said(error)}. gRPC gives "
                "no reason for a refused certificate; `fedloom doctor` asks the probe port for it."
            ) from error
        if client._pause(pause_s) or client._closed.is_set():
            raise Unreachable("the client was closed") from error


class _Idle:
    """Ends a stream in which nothing comes for ``IDLE_S``: one timer per stream, moved on by a flag."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._heard = False
        self._timer: threading.Timer | None = None
        self._over = False

    def __enter__(self) -> Callable[[], None]:
        self._wind()
        return self._note

    def __exit__(self, *error: object) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _note(self) -> None:
        self._heard = True

    def _wind(self) -> None:
        self._timer = threading.Timer(IDLE_S, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        if self._over:
            return
        if not self._heard:
            self._cancel()
            return
        self._heard = False
        self._wind()


_OF_THE_LINE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_OTHER_SERVER = "Check that a fedloom coordinator of the same major version listens there."


def _said(error: BaseException) -> str:
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.code().name} {error.details() or ''}".strip()
    return str(error)


def _system_jitter() -> float:
    import secrets

    return secrets.randbelow(1 << 30) / (1 << 30)


def _log_state(state: LinkState) -> None:
    level = logging.INFO if state.connected else logging.WARNING
    _LOG.log(level, "event=link address=%s connected=%s reason=%s", state.address, state.connected, state.reason)
