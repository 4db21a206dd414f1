"""The probe port: why a certificate was refused. gRPC tells neither side, so this is asked after a failed connection.

It wants a client certificate under the federation's root, looks at it as the gRPC port does, says what it found and
closes. No work is done here. Dates are not left to TLS, which would end the handshake before the holder is known: the
port looks at them itself, and so can name whose certificate it was.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgspec

from fedloom.errors import TrustError
from fedloom.secure.peers import Peer
from fedloom.transport.addresses import split
from fedloom.transport.clocks import FAR_S, apart, without_dates
from fedloom.transport.errors import Refusal, TlsFilesError
from fedloom.transport.fields import Message, Name, Seconds, Text
from fedloom.transport.service import Caller
from fedloom.transport.threads import SmallPort
from fedloom.transport.tls import TlsFiles, client_context, read_pair, server_context

_LOG = logging.getLogger(__name__)
_GREETING = b"fedloom/probe/1\n"
_LARGEST = 64 << 10
_PATIENCE_S = 5.0

Part: TypeAlias = Literal["none", "network", "coordinator", "site"]
Reason: TypeAlias = Literal[
    "ok",
    "dns",
    "refused",
    "timeout",
    "not_tls",
    "expired",
    "not_yet_valid",
    "other_authority",
    "wrong_name",
    "wrong_usage",
    "wrong_federation",
    "no_certificate",
    "denied",
    "unreadable",
]


class ProbeReply(Message, frozen=True):
    """What the coordinator saw of the one who asks."""

    ok: bool
    reason: Name
    sentence: Text
    remedy: Text = ""
    identity: Name | None = None
    server_time_s: Seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Whether two parties would accept each other; if not, whose fault it is, and what to do."""

    part: Part
    """Where the cause lies; ``none``: there is none."""
    reason: Reason
    sentence: str
    remedy: str = ""
    identity: str | None = None
    server_time_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether they would."""
        return self.reason == "ok"


class ProbePort:
    """Answers ``probe``.

    Args:
        tls: The coordinator's.
        federation: Whose identities may call.
        authorise: What the gRPC port asks on every call.
        host: Address to listen at; empty: all.
        port: 0 lets the system choose.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        tls: TlsFiles,
        *,
        federation: str,
        authorise: Callable[[Caller], Refusal | None],
        host: str = "",
        port: int = 0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tls = tls
        self._federation = federation
        self._authorise = authorise
        self._wall = wall
        self._port = SmallPort(self._serve, host=host, port=port, threads=4, name="probe")
        self.port = self._port.port

    def start(self) -> None:
        """Begin to answer."""
        self._port.start()

    def stop(self) -> None:
        """End. Safe to repeat."""
        self._port.stop()

    def _serve(self, connection: socket.socket, address: str) -> None:
        context = without_dates(server_context(self._tls, client_certificates=True))  # the files of now
        connection.settimeout(_PATIENCE_S)
        try:
            with context.wrap_socket(connection, server_side=True) as line:
                reply = self._looked_at(line, address)
                line.sendall(_GREETING + msgspec.msgpack.encode(reply))
                _closed(line)
        except ssl.SSLError as error:
            _LOG.warning("event=probe_refused address=%s reason=%s", address, _of_handshake(error))
        except OSError as error:
            _LOG.info("event=probe_cut address=%s reason=%s", address, error)

    def _looked_at(self, line: ssl.SSLSocket, address: str) -> ProbeReply:
        from fedloom.secure.certificates import at, read_peer

        now = self._wall()

        def no(reason: str, sentence: str, *, remedy: str = "", peer: Peer | None = None) -> ProbeReply:
            identity = None if peer is None else peer.uri
            _LOG.warning("event=probe_refused address=%s reason=%s identity=%s", address, reason, identity)
            return ProbeReply(
                ok=False, reason=reason, sentence=sentence, remedy=remedy, identity=identity, server_time_s=now
            )

        der = line.getpeercert(binary_form=True)
        assert der is not None  # the context asks for one, and the handshake is over
        try:
            peer = read_peer(ssl.DER_cert_to_PEM_cert(der).encode("ascii"))
        except TrustError as error:
            return no(error.reason, f"{error}.")
        if now >= peer.not_after:
            sentence = f"the certificate of {peer.uri} expired on {at(peer.not_after)}; it is {at(now)} here."
            return no("expired", sentence, remedy="Run `fedloom site renew`.", peer=peer)
        if now < peer.not_before:
            sentence = f"the certificate of {peer.uri} is valid from {at(peer.not_before)} on; it is {at(now)} here."
            return no("not_yet_valid", sentence, remedy="Compare the clocks of both machines.", peer=peer)
        if peer.federation != self._federation:
            sentence = f"the certificate is for {peer.uri}; this coordinator serves {self._federation!r}."
            return no("wrong_federation", sentence, remedy="Check the address of the coordinator.", peer=peer)
        refusal = self._authorise(Caller(peer=peer, address=address, group=""))
        if refusal is not None:
            return no("denied", refusal.sentence, remedy=refusal.remedy, peer=peer)
        return ProbeReply(ok=True, reason="ok", sentence="accepted.", identity=peer.uri, server_time_s=now)


def check_own(files: TlsFiles, *, want: Literal["client", "server"], federation: str, now: float) -> Peer:
    """Return who one is by one's own files, if the other side will accept them: asked before dialling.

    Raises:
        TrustError: When it will not; the reason is that of ``secure.certificates.verify_own_chain``.
        TlsFilesError: When a file cannot be read.
    """
    from fedloom.secure.certificates import verify_own_chain
    from fedloom.secure.tls_keys import tls_key

    try:
        root, chain, key = (path.read_bytes() for path in (files.root, files.chain, files.key))
    except OSError as error:
        raise TlsFilesError(f"{error.filename}: {error.strerror}. TLS needs root, certificate and key.") from error
    return verify_own_chain(chain, tls_key(key), root, now=now, want=want, federation=federation)


def probe(
    address: str,
    tls: TlsFiles | None,
    *,
    root: bytes | None = None,
    server_name: str | None = None,
    wall: Callable[[], float] = time.time,
) -> ProbeResult:
    """Present one's certificate at a probe port, and say what both sides think of each other.

    Where one of them finds that a certificate has ended or does not hold yet, the clocks of both are compared, too.

    Args:
        address: Of the probe port.
        tls: One's own files; None: without a certificate, which tells whether the coordinator's is right.
        root: The federation's root in PEM, where there are no files.
        server_name: Name to expect in the coordinator's certificate, where it is dialled by another.
        wall: Seconds since 1970.

    Raises:
        TlsFilesError: When one's own files cannot be used.
    """
    place = split(address)
    trusted = root if tls is None else read_pair(tls).root
    if trusted is None:
        raise TlsFilesError("a probe needs the root of the federation: pass `tls` or `root`.")
    context = client_context(trusted, files=tls)
    expected = server_name or place[0]
    try:
        found = _asked(place, context, expected)
    except ssl.SSLCertVerificationError as error:
        found = _of_coordinator(error, place, expected)
        if found.reason in _OF_DATES:
            with contextlib.suppress(OSError):
                told = _asked(place, without_dates(context), expected)
                found = replace(found, server_time_s=told.server_time_s)
    except ssl.SSLError as error:
        found = _of_site(error)
    except OSError as error:
        found = _of_network(error, address)
    return _clocks_compared(found, wall())


def _asked(place: tuple[str, int], context: ssl.SSLContext, expected: str) -> ProbeResult:
    with (
        socket.create_connection(place, timeout=_PATIENCE_S) as raw,
        context.wrap_socket(raw, server_hostname=expected) as line,
    ):
        return _heard(line)


def _clocks_compared(found: ProbeResult, now: float) -> ProbeResult:
    """Say how far the clocks are apart, where dates are what is wrong and the coordinator has told its time."""
    if found.reason not in _OF_DATES or found.server_time_s is None or abs(found.server_time_s - now) <= FAR_S:
        return found
    words = f"Your clock is {apart(found.server_time_s - now)}."
    return replace(found, sentence=f"{found.sentence} {words}", remedy="Set the clock that is wrong.")


def _heard(line: ssl.SSLSocket) -> ProbeResult:
    data = bytearray()
    while len(data) < _LARGEST and (piece := line.recv(4096)):
        data += piece
    if not data.startswith(_GREETING):
        return ProbeResult(
            part="network",
            reason="not_tls",
            sentence="what answered is no probe port of fedloom.",
            remedy="Check the port.",
        )
    try:
        reply = msgspec.msgpack.decode(data[len(_GREETING) :], type=ProbeReply)
    except msgspec.MsgspecError as error:
        return ProbeResult(part="coordinator", reason="unreadable", sentence=f"the answer cannot be read: {error}")
    reason = reply.reason if reply.reason in _REASONS else "denied"
    return ProbeResult(
        part="none" if reply.ok else "site",
        reason=msgspec.convert(reason, Reason),
        sentence=reply.sentence,
        remedy=reply.remedy,
        identity=reply.identity,
        server_time_s=reply.server_time_s,
    )


def _of_network(error: OSError, address: str) -> ProbeResult:
    if isinstance(error, socket.gaierror):
        sentence, remedy = f"{address}: the name is not known ({error.strerror}).", "Check the name, and DNS."
        return ProbeResult(part="network", reason="dns", sentence=sentence, remedy=remedy)
    if isinstance(error, TimeoutError):
        sentence = f"{address}: no answer in {_PATIENCE_S:.0f} s."
        return ProbeResult(part="network", reason="timeout", sentence=sentence, remedy="Check firewall and proxy.")
    sentence = f"{address}: {error.strerror or error}."
    return ProbeResult(
        part="network", reason="refused", sentence=sentence, remedy="Check that a coordinator runs there."
    )


def _of_coordinator(error: ssl.SSLCertVerificationError, place: tuple[str, int], expected: str) -> ProbeResult:
    reason = _VERIFY.get(error.verify_code, "unreadable")
    seen = _presented(place)
    remedy = {
        "expired": "Have the coordinator's certificate renewed; if its dates look right, set this clock.",
        "not_yet_valid": "Compare the clocks of both machines.",
        "other_authority": "Its issuer is not your federation's root: TLS is intercepted on the way, or it is another "
        "federation's coordinator. Do not go on.",
        "wrong_name": f"Dial a name that the certificate has, or have it issued for {expected!r} too.",
        "wrong_usage": "Only a coordinator's certificate may stand there.",
    }.get(reason, "")
    where = f"{place[0]}:{place[1]}"
    sentence = f"the server {where}, expected as {expected!r}, shows {seen}: {error.verify_message}."
    return ProbeResult(part="coordinator", reason=reason, sentence=sentence, remedy=remedy)


def _of_site(error: ssl.SSLError) -> ProbeResult:
    reason = _of_handshake(error)
    part: Part = "network" if reason == "not_tls" else "site"
    sentence = {
        "not_tls": f"what answers there speaks no TLS 1.3 ({error.reason}).",
        "no_certificate": "the coordinator asks for a certificate, and none was presented.",
        "other_authority": "the coordinator does not know the authority that issued this certificate.",
        "wrong_usage": "this certificate is not for a client.",
        "expired": "the coordinator finds this certificate, or the intermediate's, expired.",
    }.get(reason, f"the coordinator refused this certificate ({error.reason}).")
    remedy = {
        "not_tls": "Check the port.",
        "no_certificate": "Run `fedloom site join` first.",
        "expired": "Run `fedloom site renew`.",
    }.get(reason, "Check that certificate and address are of the same federation.")
    return ProbeResult(part=part, reason=reason, sentence=sentence, remedy=remedy)


def _of_handshake(error: ssl.SSLError) -> Reason:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(error.verify_code, "unreadable")
    return _ALERTS.get(error.reason or "", "not_tls")


def _presented(place: tuple[str, int]) -> str:
    """Say what a server presents, without believing a word of it."""
    from fedloom.secure.certificates import at, host_names, read_certificates

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(place, timeout=_PATIENCE_S) as raw,
            context.wrap_socket(raw, server_hostname=place[0]) as line,
        ):
            der = line.getpeercert(binary_form=True)
        if der is None:
            return "no certificate"
        (leaf,) = read_certificates(ssl.DER_cert_to_PEM_cert(der).encode("ascii"))
    except (OSError, TrustError) as error:
        return f"a certificate that cannot be read ({error})"
    begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    names = ", ".join(host_names(leaf)[:8]) or "no host"
    return f"a certificate for {names}, valid from {at(begins)} to {at(ends)}, issued by {leaf.issuer.rfc4514_string()}"


def _closed(line: ssl.SSLSocket) -> None:
    """Let the other side read before the socket goes: closing with unread bytes would discard what was sent."""
    with contextlib.suppress(OSError):
        line.unwrap()


_OF_DATES = frozenset({"expired", "not_yet_valid"})
_REASONS = frozenset(Reason.__args__)  # type: ignore[attr-defined]
_VERIFY: dict[int, Reason] = {  # numbers of OpenSSL's X509_V_ERR_*
    9: "not_yet_valid",
    10: "expired",
    18: "other_authority",
    19: "other_authority",
    20: "other_authority",
    21: "other_authority",
    7: "other_authority",
    26: "wrong_usage",
    62: "wrong_name",
    64: "wrong_name",
}
_ALERTS: dict[str, Reason] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "no_certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "other_authority",
    "TLSV1_ALERT_DECRYPT_ERROR": "other_authority",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "wrong_usage",
    "SSLV3_ALERT_BAD_CERTIFICATE": "unreadable",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "unreadable",
}
