"""The entry port: for those who have no certificate yet, or none any more. TLS of the server only, small JSON bodies.

``GET /healthz``, ``GET /time``, ``GET /anchor`` (the federation's root, to be compared with the fingerprint in a join
token), ``POST /join`` and ``POST /renew``. What these ask for carries its own proof; this port believes nobody.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from fedloom.errors import TransportError
from fedloom.transport.addresses import split
from fedloom.transport.clocks import BAD_DATES, FAR_S, apart, without_dates
from fedloom.transport.errors import Code, Refusal, Refused, Unreachable
from fedloom.transport.threads import SmallPort
from fedloom.transport.tls import TlsFiles, client_context, server_context

_LOG = logging.getLogger(__name__)
LARGEST = 64 << 10
"""Bytes of a body."""
_PATIENCE_S = 10.0
R = TypeVar("R")


class JoinRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party asks to become a member: ``secure.requests.signing_request``, token included."""

    request: Annotated[bytes, Meta(max_length=16 << 10)]


class RenewRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member whose certificate has ended asks for another, signed with its key of the roster."""

    request: Annotated[bytes, Meta(max_length=16 << 10)]


class EntryReply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A certificate, or when to ask again."""

    state: Literal["issued", "waiting"]
    chain: Annotated[bytes, Meta(max_length=16 << 10)] = b""
    roster: Annotated[bytes, Meta(max_length=32 << 10)] = b""
    port: Annotated[int, Meta(ge=0, lt=1 << 16)] = 0
    """Of the same host: where sites work."""
    probe_port: Annotated[int, Meta(ge=0, lt=1 << 16)] = 0
    """Of the same host: where a refused certificate is explained."""
    retry_after_s: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0


class ServerTime(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's clock, and which fedloom it runs."""

    server_time_s: float
    version: str


class _AnchorReply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    anchor: Annotated[bytes, Meta(max_length=16 << 10)]


class EntryService(Protocol):
    """What a coordinator does behind the entry port. To say no, a method raises ``Refused``."""

    def anchor(self) -> bytes:
        """Return the federation's root as ``secure.anchors`` stores it."""
        ...

    def join(self, request: JoinRequest, *, address: str) -> EntryReply:
        """Take in a request to join; the same request again gets the same answer."""
        ...

    def renew(self, request: RenewRequest, *, address: str) -> EntryReply:
        """Renew after expiry."""
        ...

    def healthy(self) -> bool:
        """Say whether the process lives."""
        ...


class EntryPort:
    """Serves an ``EntryService``.

    Args:
        service: Answers.
        tls: The coordinator's.
        version: Of fedloom.
        host: Address to listen at; empty: all.
        port: 0 lets the system choose.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        service: EntryService,
        tls: TlsFiles,
        *,
        version: str,
        host: str = "",
        port: int = 0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._tls = tls
        self._version = version
        self._wall = wall
        self._port = SmallPort(self._serve, host=host, port=port, threads=8, name="entry")
        self.port = self._port.port

    def start(self) -> None:
        """Begin to answer."""
        self._port.start()

    def stop(self) -> None:
        """End. Safe to repeat."""
        self._port.stop()

    def _serve(self, connection: socket.socket, address: str) -> None:
        context = server_context(self._tls, client_certificates=False)
        connection.settimeout(_PATIENCE_S)
        try:
            with context.wrap_socket(connection, server_side=True) as line:
                _Exchange(line, self, address)
        except OSError as error:
            _LOG.info("event=entry_cut address=%s reason=%s", address, error)

    def answer(self, method: str, path: str, body: bytes, *, address: str) -> tuple[int, object]:
        """Return status and body for a request."""
        match method, path:
            case "GET", "/healthz":
                return (200, {"alive": True}) if self._service.healthy() else (503, {"alive": False})
            case "GET", "/time":
                return 200, ServerTime(server_time_s=self._wall(), version=self._version)
            case "GET", "/anchor":
                return 200, _AnchorReply(anchor=self._service.anchor())
            case "POST", "/join":
                return 200, self._service.join(_read(body, JoinRequest), address=address)
            case "POST", "/renew":
                return 200, self._service.renew(_read(body, RenewRequest), address=address)
        raise Refused(Code.NOT_FOUND, "there is nothing of that name here.")


class _Exchange(http.server.BaseHTTPRequestHandler):
    """One request and its answer; the connection then closes."""

    timeout = _PATIENCE_S
    server_version = "fedloom"
    sys_version = ""

    def __init__(self, line: ssl.SSLSocket, port: EntryPort, address: str) -> None:
        self._port = port
        self._address = address
        super().__init__(line, (address, 0), None)  # type: ignore[arg-type]  # it asks its server for nothing

    def do_GET(self) -> None:
        self._answered(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 7 and int(length) <= LARGEST):
            self._send(
                413, Refusal(code=Code.TOO_LARGE, sentence=f"a body of {length[:9]!r} bytes; at most {LARGEST}.")
            )
            return
        self._answered(self.rfile.read(int(length)))

    def _answered(self, body: bytes) -> None:
        try:
            status, reply = self._port.answer(self.command, self.path, body, address=self._address)
        except Refused as error:
            _LOG.warning("event=entry_refused address=%s code=%s", self._address, error.refusal.code)
            status, reply = _STATUS.get(error.refusal.code, 403), error.refusal
        except Exception:
            _LOG.exception("event=entry_failed address=%s", self._address)
            status, reply = (
                500,
                Refusal(code=Code.INTERNAL, sentence="the coordinator failed at this; its log says why."),
            )
        self._send(status, reply)

    def _send(self, status: int, reply: object) -> None:
        # msgspec writes a refusal as an array, as everywhere; people and monitors read the other replies.
        data = msgspec.json.encode(reply)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        _LOG.debug("event=entry address=%s said=%s", self._address, format % args)


def fetch_anchor(address: str) -> bytes:
    """Return what a server says is its federation's root: worth nothing before ``open_anchor`` has compared it.

    Raises:
        Unreachable, Refused: As ``ask``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # nothing is believed: the fingerprint in the token decides
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    found = _ask(address, context, "/anchor", body=None, kind=_AnchorReply)
    return found.anchor


def server_time(address: str, root: bytes) -> ServerTime:
    """Return the coordinator's clock.

    Raises:
        Unreachable, Refused: As ``ask``.
    """
    return _ask(address, client_context(root), "/time", body=None, kind=ServerTime)


def undated_time(address: str, root: bytes) -> ServerTime:
    """Return the clock of a server of the root, whatever the dates of its certificate: to compare clocks, no more.

    Raises:
        Unreachable, Refused: As ``ask``.
    """
    return _ask(address, without_dates(client_context(root)), "/time", body=None, kind=ServerTime)


def ask(address: str, root: bytes, request: JoinRequest | RenewRequest) -> EntryReply:
    """Ask to join or to renew, at a server whose certificate is under the federation's root.

    Raises:
        Refused: What the coordinator says.
        Unreachable: When there is none, or it is not who it should be.
    """
    path = "/join" if isinstance(request, JoinRequest) else "/renew"
    return _ask(address, client_context(root), path, body=msgspec.json.encode(request), kind=EntryReply)


def _ask(address: str, context: ssl.SSLContext, path: str, *, body: bytes | None, kind: type[R]) -> R:
    host, port = split(address)
    line = http.client.HTTPSConnection(host, port, context=context, timeout=_PATIENCE_S)
    try:
        line.request("GET" if body is None else "POST", path, body=body)
        answer = line.getresponse()
        data = answer.read(4 * LARGEST)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{_unproven(address, context, error)} `fedloom doctor` shows what it presented.") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer from the entry port at {address}: {error}") from error
    finally:
        line.close()
    try:
        if answer.status != 200:
            raise Refused.of(msgspec.json.decode(data, type=Refusal))
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise TransportError(f"the answer of {address} to {path} cannot be read: {error}") from error


def _unproven(address: str, context: ssl.SSLContext, error: ssl.SSLCertVerificationError) -> str:
    """Say why a server was not taken for the coordinator: its name, its dates or its root."""
    why = error.verify_message.rstrip(".")
    if error.verify_code in _OTHER_NAME:
        return f"the server at {address} has a certificate for another name: {why}."
    if error.verify_code not in BAD_DATES:
        return f"the server at {address} is not the coordinator of this federation: {why}."
    words = f"the certificate of the server at {address} does not hold by this clock: {why}."
    with contextlib.suppress(TransportError):
        told = _ask(address, without_dates(context), "/time", body=None, kind=ServerTime)
        offset_s = told.server_time_s - time.time()
        words += f" Your clock is {apart(offset_s)}." if abs(offset_s) > FAR_S else ""
    return words


def _read(body: bytes, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Code.MALFORMED, f"{kind.__name__}: {error}") from None


_OTHER_NAME = frozenset({62, 64})  # numbers of OpenSSL's X509_V_ERR_*: of a host name, and of an address
_STATUS: dict[str, int] = {Code.MALFORMED: 400, Code.NOT_FOUND: 404, Code.BUSY: 503, Code.DRAINING: 503}
