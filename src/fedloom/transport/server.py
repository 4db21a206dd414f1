"""The server of a federation: gRPC with threads, every call authorised, every kind of call with threads of its own.

One port serves all. Polls, heartbeats, control calls, bulk and watching each have their own threads
(``calls.Lane``): a hundred polls that wait, or uploads at full speed, leave those of the heartbeats free. A second port
for heartbeats would be one more hole in a firewall for the same effect.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from msgspec.structs import replace

from fedloom.transport import verbs
from fedloom.transport.calls import UPLOAD, VERBS, Lane, Verb, decode_request, encode
from fedloom.transport.chunks import CHUNK, SEGMENT, frame, read_frame
from fedloom.transport.errors import Code, PortBusy, Refusal, Refused
from fedloom.transport.fields import Message
from fedloom.transport.identity import check_channel, fact, read_identity
from fedloom.transport.limits import Gate, Penalties, PerCaller, Watchdog
from fedloom.transport.service import Caller, Service
from fedloom.transport.tls import TlsFiles, server_credentials

_LOG = logging.getLogger(__name__)
_SWEEP_S = 2.0
_ACK_S = 1.0
"""A slow line hears how far it has come after every chunk, a fast one after every segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much a server takes on at once."""

    sites: int = 200
    uploads: int = 8
    downloads: int = 8
    waiting: int = 32
    """Uploads, and as many downloads, that may wait for a place."""
    watchers: int = 8
    idle_s: float = 60.0
    """A stream that has not moved for so long is ended."""

    @property
    def threads(self) -> dict[Lane, int]:
        """Threads of each lane, made when they are first needed."""
        bulk = self.uploads + self.downloads + 2 * self.waiting
        return {"control": 24, "poll": self.sites + 8, "beat": 8, "bulk": bulk, "watch": self.watchers}


class Server:
    """Serves a ``Service`` until it is stopped.

    Args:
        service: Answers the calls.
        tls: Its certificate, and the root of the federation.
        federation: Whose identities may call.
        hosts: Addresses to listen at; by default all of IPv6 and IPv4.
        port: 0 lets the system choose.
        capacity: How much at once.
        require_pq: Refuse a connection whose key exchange a quantum computer breaks.
        clock: Monotonic seconds.

    Raises:
        PortBusy: When somebody listens there already.
        TlsFilesError: When the certificate cannot be used.
    """

    def __init__(
        self,
        service: Service,
        tls: TlsFiles,
        *,
        federation: str,
        hosts: tuple[str, ...] = ("[::]",),
        port: int = 0,
        capacity: Capacity | None = None,
        require_pq: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._federation = federation
        self._require_pq = require_pq
        self._capacity = capacity or Capacity()
        self._clock = clock
        self.watchdog = Watchdog(idle_s=self._capacity.idle_s, clock=clock)
        self._penalties = Penalties(allowed=20, window_s=60.0, clock=clock)
        self._gates: dict[str, Gate] = {
            "poll": Gate("waiting sites", limit=self._capacity.sites, again_s=15.0),
            "upload": Gate("uploads", limit=self._capacity.uploads, waiting=self._capacity.waiting),
            "download": Gate("downloads", limit=self._capacity.downloads, waiting=self._capacity.waiting),
            "events": Gate("watchers", limit=self._capacity.watchers, again_s=15.0),
        }
        self._polls = PerCaller("poll", limit=2)
        self._streams = PerCaller("stream", limit=4)
        self._draining = threading.Event()
        threads = self._capacity.threads
        self._pools = {
            lane: ThreadPoolExecutor(count, thread_name_prefix=f"fedloom-{lane}") for lane, count in threads.items()
        }
        self._server = grpc.server(
            self._pools["control"],
            handlers=[_Handlers({verb.path: self._handler(verb) for verb in VERBS})],
            options=_OPTIONS,
            # More than this would queue without end: gRPC itself refuses them, with RESOURCE_EXHAUSTED.
            maximum_concurrent_rpcs=sum(threads.values()) + 64,
        )
        credentials = server_credentials(
            tls, told=lambda reason: _LOG.warning("event=certificate_kept reason=%s", reason)
        )
        self.port = _bind(self._server, hosts, port, credentials)
        self._sweeper = threading.Thread(target=self._sweep, name="fedloom-sweep", daemon=True)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        self._sweeper.start()

    def drain(self) -> None:
        """Take on nothing new; go on with heartbeats, and with uploads and results of what was begun."""
        self._draining.set()

    def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new calls, give open ones so many seconds, then end them. Safe to repeat.

        A thread that waits in ``Service.poll`` is not woken by this: the service wakes its own.
        """
        self._stopped.set()
        self._server.stop(grace_s).wait()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- Calls -------------------------------------------------------------------------------------------------------

    def _handler(self, verb: Verb[Message, Message]) -> grpc.RpcMethodHandler:
        makers: dict[str, Callable[[], grpc.RpcMethodHandler]] = {
            "unary": lambda: grpc.unary_unary_rpc_method_handler(self._in_lane(verb, self._unary(verb))),
            "download": lambda: grpc.unary_stream_rpc_method_handler(self._in_lane(verb, self._download(verb))),
            "events": lambda: grpc.unary_stream_rpc_method_handler(self._in_lane(verb, self._events(verb))),
            "upload": lambda: grpc.stream_stream_rpc_method_handler(self._in_lane(verb, self._upload())),
        }
        return makers[verb.shape]()

    def _in_lane(self, verb: Verb[Message, Message], behaviour: Any) -> Any:
        # gRPC's way to give a method threads of its own; test_server proves that they are used.
        behaviour.experimental_thread_pool = self._pools[verb.lane]
        return behaviour

    def _unary(self, verb: Verb[Message, Message]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        method = getattr(self._service, verb.method)

        def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
            with _told(verb) as answered:
                caller = self._admitted(verb, context)
                request = self._read(verb, data, caller)
                if verb.lane == "poll":
                    with self._gates["poll"].entered(), self._polls.entered(caller.client):
                        answered.append(encode(method(caller, request)))
                else:
                    answered.append(encode(method(caller, request)))
            return answered[0]

        return answer

    def _download(self, verb: Verb[Message, Message]) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
        def chunks(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with _told(verb) as refused:
                caller = self._admitted(verb, context)
                request = self._read(verb, data, caller)
                assert isinstance(request, verbs.Fetch)
                with (
                    self._gates["download"].entered(),
                    self._streams.entered(caller.client),
                    self._watched(caller, context) as moved,
                ):
                    reader = self._service.open_blob(caller, request)
                    try:
                        offset = request.offset
                        while offset < reader.length:
                            piece = reader.read(offset, CHUNK)
                            yield frame(offset, piece)
                            moved()
                            offset += len(piece)
                    finally:
                        reader.close()
            yield from refused

        return chunks

    def _events(self, verb: Verb[Message, Message]) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
        method = getattr(self._service, verb.method)

        def events(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with _told(verb) as refused:
                caller = self._admitted(verb, context)
                request = self._read(verb, data, caller)
                with self._gates["events"].entered(), self._streams.entered(caller.client):
                    for event in method(caller, request):
                        # Only the sending is watched: a run in which nothing happens is no reader that has stopped.
                        with self._watched(caller, context):
                            yield encode(event)
            yield from refused

        return events

    def _upload(self) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def acknowledgements(frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with _told(UPLOAD) as refused:
                caller = self._admitted(UPLOAD, context)
                first = next(frames, None)
                if first is None:
                    raise Refused(Code.MALFORMED, "an upload begins with the message that names it.")
                request = self._read(UPLOAD, first, caller)
                with (
                    self._gates["upload"].entered(),
                    self._streams.entered(caller.client),
                    self._watched(caller, context) as moved,
                ):
                    yield from self._receive(caller, request, frames, moved)
            yield from refused

        return acknowledgements

    def _receive(
        self, caller: Caller, request: verbs.Upload, frames: Iterator[bytes], moved: Callable[[], None]
    ) -> Iterator[bytes]:
        at = self._service.resume_upload(caller, request)
        told, told_at = at.offset, self._clock()
        committed = at.offset
        if request.offset > committed:
            yield encode(replace(at, offset=committed, damaged=True))
            return
        for data in frames:
            moved()
            try:
                chunk = read_frame(data)
            except Refused as error:
                if error.refusal.code != Code.CORRUPT_UPLOAD:
                    self._penalties.count(caller.client)
                    raise
                _LOG.warning("event=damaged_chunk client=%s upload=%s", caller.client, at.upload)
                yield encode(replace(at, offset=committed, damaged=True))
                return
            gap = chunk.offset > committed
            if not gap:
                committed = self._service.write_chunk(caller, at.upload, chunk.offset, chunk.data)
            if gap or chunk.offset > committed:
                yield encode(replace(at, offset=committed, damaged=True))
                return
            now = self._clock()
            if committed - told >= SEGMENT or now - told_at >= _ACK_S:
                told, told_at = committed, now
                yield encode(replace(at, offset=committed))
        if committed < at.length:
            yield encode(replace(at, offset=committed))
            return
        self._service.finish_upload(caller, at.upload)
        yield encode(replace(at, offset=committed, done=True))

    # ---- Who, and whether --------------------------------------------------------------------------------------------

    def _admitted(self, verb: Verb[Any, Any], context: grpc.ServicerContext) -> Caller:
        facts = context.auth_context()
        group = check_channel(facts, require_pq=self._require_pq)
        context.send_initial_metadata((("fedloom-group", group),))
        peer = read_identity(fact(facts, "x509_pem_cert"), federation=self._federation)
        client, role = peer.client, peer.role
        caller = Caller(peer=peer, address=context.peer(), group=group)
        if (refusal := self._service.authorise(caller)) is not None:
            _LOG.warning("event=refused client=%s address=%s code=%s", client, caller.address, refusal.code)
            raise Refused.of(refusal)
        if role not in verb.roles:
            raise Refused(
                Code.DENIED,
                f"{verb.request.__name__} is for {' and '.join(sorted(verb.roles))}s; {client} is a {role}.",
            )
        if self._draining.is_set() and verb.method in _NEW_WORK:
            raise Refused(Code.DRAINING, "the coordinator is stopping.", retryable=True, retry_after_s=10.0)
        return caller

    def _read(self, verb: Verb[Any, Any], data: bytes, caller: Caller) -> Any:
        self._penalties.check(caller.client)
        try:
            return decode_request(verb, data)
        except Refused as error:
            self._penalties.count(caller.client)
            _LOG.warning("event=malformed client=%s verb=%s", caller.client, verb.request.__name__)
            raise error from None

    @contextmanager
    def _watched(self, caller: Caller, context: grpc.ServicerContext) -> Iterator[Callable[[], None]]:
        def allowed() -> bool:
            return self._service.authorise(caller) is None

        with self.watchdog.watching(context.cancel, allowed=allowed) as moved:
            yield moved

    def _sweep(self) -> None:
        while not self._stopped.wait(_SWEEP_S):
            try:
                if ended := self.watchdog.sweep():
                    _LOG.warning("event=streams_ended count=%d", ended)
            except Exception:
                _LOG.exception("event=sweep_failed")


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


_NEW_WORK = frozenset({"poll", "claim", "create_run", "approve_run", "resume"})
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    # A chunk in few frames, not in 64: half the time that receiving takes.
    ("grpc.http2.max_frame_size", 1 << 20),
    # A line that is silent is asked whether it is there; a site may ask every 20 s, with or without a call open.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The time above does not end a line that swallows everything: this one does, and is a minute by default.
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", 20_000),
    # Certificates are checked when a connection is made: none outlives its certificate for long.
    ("grpc.max_connection_age_ms", 6 * 3600 * 1000),
    ("grpc.max_connection_age_grace_ms", 15 * 60 * 1000),
)


def _bind(server: grpc.Server, hosts: tuple[str, ...], port: int, credentials: grpc.ServerCredentials) -> int:
    for host in hosts:
        try:
            bound = server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise PortBusy(
                f"{host}:{port} cannot be listened at: another process has the port, or the address is not of this "
                "machine. Stop the other process, or choose another port."
            )
        port = int(bound)
    return port


@contextmanager
def _told(verb: Verb[Any, Any]) -> Iterator[list[bytes]]:
    """Collect the answer of a call; what it raises becomes a refusal, without the text of an error of ours."""
    answers: list[bytes] = []
    try:
        yield answers
    except Refused as error:
        answers.append(encode(error.refusal))
    except grpc.RpcError:  # the peer has gone in the middle of its stream: nobody is there to be told
        _LOG.info("event=stream_cut verb=%s", verb.request.__name__)
    except Exception:
        _LOG.exception("event=call_failed verb=%s", verb.request.__name__)
        answers.append(
            encode(
                Refusal(
                    code=Code.INTERNAL,
                    sentence="the coordinator failed at this call; its log says why.",
                    retryable=True,
                    retry_after_s=10.0,
                )
            )
        )
