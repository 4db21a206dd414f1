"""TLS from three PEM files, read again when they change. There is no way to speak without TLS or a certificate.

gRPC negotiates TLS 1.3 with the hybrid key exchange X25519MLKEM768 by itself; the server checks on every call that it
did (``identity.check_channel``). ``ssl`` of Python serves the two other ports (``probe``, ``entry``), which carry no
work.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedloom.transport.errors import TlsFilesError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the root, this party's certificate with its intermediates, and its key lie. All PEM."""

    root: Path
    chain: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPair:
    """Contents of the files at one moment: they belong together."""

    root: bytes
    chain: bytes
    key: bytes

    def __repr__(self) -> str:
        """Return no key."""
        return "<TLS pair>"


def read_pair(files: TlsFiles) -> TlsPair:
    """Return what the files hold.

    Raises:
        TlsFilesError: When one cannot be read, or the key is not the certificate's.
    """
    try:
        pair = TlsPair(root=files.root.read_bytes(), chain=files.chain.read_bytes(), key=files.key.read_bytes())
    except OSError as error:
        raise TlsFilesError(f"{error.filename}: {error.strerror}. TLS needs root, certificate and key.") from error
    _check(files)
    return pair


def server_context(files: TlsFiles, *, client_certificates: bool) -> ssl.SSLContext:
    """Return a context for a port beside gRPC's: TLS 1.3 only.

    Raises:
        TlsFilesError: When the files cannot be used.
    """
    read_pair(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.chain, files.key)
    if client_certificates:
        context.load_verify_locations(files.root)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(root: bytes, *, files: TlsFiles | None = None) -> ssl.SSLContext:
    """Return a context that trusts one root and nothing else, with a certificate of its own if ``files`` are given.

    Raises:
        TlsFilesError: When root or files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=root.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise TlsFilesError(f"the root certificate cannot be read: {error}") from error
    if files is not None:
        read_pair(files)
        context.load_cert_chain(files.chain, files.key)
    return context


def server_credentials(files: TlsFiles, *, told: Callable[[str], None]) -> grpc.ServerCredentials:
    """Return credentials of a server that asks every client for a certificate, and follows its files.

    A change is taken over at the next handshake. Files that do not fit together, as in the moment between the writing
    of the one and of the other, leave the certificate that is in use; ``told`` gets the reason.

    Raises:
        TlsFilesError: When the files cannot be used now.
    """
    seen = _stamp(files)
    pair = read_pair(files)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        try:
            stamp = _stamp(files)
            if stamp == seen:
                return None
            fresh = _configuration(read_pair(files))
        except TlsFilesError as error:
            told(str(error))
            return None
        seen = stamp
        return fresh

    return grpc.dynamic_ssl_server_credentials(_configuration(pair), fetch, require_client_authentication=True)


def channel_credentials(pair: TlsPair) -> grpc.ChannelCredentials:
    """Return credentials of a client. A new channel, with newly read files, is how a client follows a change."""
    return grpc.ssl_channel_credentials(pair.root, pair.key, pair.chain)


def _configuration(pair: TlsPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], pair.root)


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    stamps = []
    for path in (files.root, files.chain, files.key):
        try:
            stat = path.stat()
        except OSError as error:
            raise TlsFilesError(f"{path}: {error.strerror}.") from error
        stamps.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(stamps)


def _check(files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(files.root)
    except ssl.SSLError as error:
        raise TlsFilesError(f"{files.root} holds no certificate in PEM form.") from error
    try:
        # A password would be asked for on the terminal: a key of this kind has none.
        context.load_cert_chain(files.chain, files.key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesError(
                f"the key in {files.key} is not that of the certificate in {files.chain}: "
                "one of them is of another day; put back the pair that belongs together."
            ) from error
        raise TlsFilesError(f"{files.chain} or {files.key} cannot be read as PEM: {error.reason or error}.") from error
