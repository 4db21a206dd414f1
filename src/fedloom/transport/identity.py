"""Who is at the other end: the identity in a certificate, and the facts of the connection."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from fedloom.errors import TrustError
from fedloom.secure.peers import Peer
from fedloom.transport.errors import Code, Refused

POST_QUANTUM_GROUP = "X25519MLKEM768"


def read_identity(certificate: str, *, federation: str) -> Peer:
    """Return the holder of a certificate that the handshake has checked.

    Raises:
        Refused: When it is no site or operator of this federation.
    """
    try:
        peer = _peer(certificate)
    except TrustError as error:
        raise Refused(Code.UNAUTHENTICATED, f"{error}.") from error
    if peer.federation != federation:
        raise Refused(
            Code.UNAUTHENTICATED,
            f"the certificate is for {peer.uri}; this coordinator serves the federation {federation!r}.",
            remedy="Check the address of the coordinator.",
        )
    return peer


def check_channel(context: Mapping[str, Sequence[bytes]], *, require_pq: bool) -> str:
    """Return the key exchange of a connection, after checking that it is strong enough.

    Raises:
        Refused: For anything older than TLS 1.3; with ``require_pq``, for a key exchange that quantum computers break.
    """
    version = fact(context, "ssl_tls_version")
    group = fact(context, "ssl_negotiated_key_exchange_group")
    if version != "TLSv1.3":
        raise Refused(
            Code.WEAK_CHANNEL,
            f"the connection is {version or 'of unknown version'}; TLSv1.3 is needed.",
            remedy="" if version else "grpcio below 1.85 does not tell it: upgrade grpcio at the coordinator.",
        )
    if require_pq and group != POST_QUANTUM_GROUP:
        raise Refused(
            Code.WEAK_CHANNEL,
            f"the key exchange is {group or 'unknown'}; {POST_QUANTUM_GROUP} is required here.",
            remedy="Upgrade grpcio at the site.",
        )
    return group


def fact(context: Mapping[str, Sequence[bytes]], name: str) -> str:
    """Return a property of a connection that has exactly one value; empty when it has none or several."""
    values = context.get(name) or ()
    return values[0].decode("ascii", "replace") if len(values) == 1 else ""


@functools.lru_cache(maxsize=4096)
def _peer(certificate: str) -> Peer:
    from fedloom.secure.certificates import read_peer

    return read_peer(certificate.encode("ascii"))
