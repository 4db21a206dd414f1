"""Certificates: what a chain says of its holder, and whether to believe it.

A federation has one offline root, one intermediate below it and leaves below that: no chain is longer. So a chain is
checked here step by step, and each thing that can be wrong has its own reason; the TLS stack checks it once more.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeVar, assert_never

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedloom.errors import TrustError, TrustReason
from fedloom.secure import fingerprints
from fedloom.secure.peers import Peer, Subject, read_uri

if TYPE_CHECKING:
    from fedloom.secure.tls_keys import TlsKey

Want = Literal["client", "server"]
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
LARGEST = 1 << 16
"""Bytes of a chain in PEM; two certificates are below 2 KiB."""
HOUR, DAY = 3600.0, 86400.0
BACKDATED = HOUR
"""A certificate holds from this long before it is issued, so that a clock that is a little slow does not refuse it."""
_WARNINGS = ((6 * HOUR, "6 hours"), (DAY, "1 day"), (3 * DAY, "3 days"))
_RENEW = "run `fedloom site renew`"


def verify_chain(
    chain: bytes, root: bytes, *, now: float, want: Want, federation: str, host: str | None = None
) -> Peer:
    """Return who holds the certificate, if the federation's root stands behind it and it is for this use, now.

    Args:
        chain: The certificate and the intermediate's, in PEM, in this order.
        root: The root's certificate in PEM, from the operator and from nowhere else.
        now: Seconds since 1970.
        want: What the holder is at this connection.
        federation: Whose member it must be.
        host: The name or address that was dialled, which a server's certificate must carry; None: not checked.

    Raises:
        TrustError: ``unreadable``, ``broken_chain``, ``other_authority``, ``wrong_usage``, ``wrong_federation``,
            ``wrong_name``, ``not_yet_valid`` or ``expired``: each names what was found.

    Security:
        Adversary: one who presents certificates and holds keys of its own, of other leaves and of other roots. It is
        nobody here unless the intermediate has certified its key under the name that is returned. The holder of the
        intermediate makes any name: certificates authenticate the channel, rosters the members. Leaks: nothing.

    Source:
        RFC 5280, section 6, for chains of exactly two below the root; no policies, no name constraints.
    """
    return _verified(chain, root, now=now, want=want, federation=federation, host=host, own=False)


def verify_own_chain(chain: bytes, key: TlsKey, root: bytes, *, now: float, want: Want, federation: str) -> Peer:
    """Return who one is oneself, if one's own certificate will be accepted: before dialling, and in the doctor.

    gRPC gives neither side the reason of a refused handshake, so each party looks at its own certificate first.

    Raises:
        TrustError: As ``verify_chain``, and ``key_mismatch``.
    """
    check_key(chain, key)
    return _verified(chain, root, now=now, want=want, federation=federation, host=None, own=True)


def check_key(chain: bytes, key: TlsKey) -> None:
    """Refuse a certificate that is for another key.

    Raises:
        TrustError: ``key_mismatch``, or ``unreadable``.
    """
    certified = _public(read_certificates(chain)[0])
    if certified != key.public:
        raise TrustError(
            f"the certificate is for the key {fingerprints.fingerprint(certified)}, the private key beside it is "
            f"{fingerprints.fingerprint(key.public)}: put the two that were made together in one place, or {_RENEW}",
            reason="key_mismatch",
        )


def read_peer(certificate: bytes) -> Peer:
    """Return what a certificate in PEM says of its holder, without asking who signed it: TLS or ``verify_chain`` has.

    Raises:
        TrustError: ``unreadable`` or ``wrong_name``.
    """
    leaf = read_certificates(certificate)[0]
    return _peer(leaf, _subject(leaf))


def fingerprint(certificate: bytes) -> str:
    """Return the fingerprint of the first certificate of a chain in PEM, for people: see ``fingerprints``.

    Raises:
        TrustError: ``unreadable``.
    """
    return fingerprints.fingerprint(read_certificates(certificate)[0].public_bytes(Encoding.DER))


def renewal_due(peer: Peer, now: float) -> bool:
    """Return whether it is time to renew: from a day after it was issued on, so that five days away are no harm."""
    return now >= peer.not_before + BACKDATED + DAY


def warnings(peer: Peer, now: float) -> tuple[str, ...]:
    """Return what to tell the operator: one sentence within three days, one day or six hours of the end, or none.

    Example:
        >>> from fedloom.secure.peers import site
        >>> from dataclasses import asdict
        >>> about = asdict(site("trial", organisation="a", client="north"))
        >>> warnings(Peer(**about, serial="1", not_before=0.0, not_after=7 * DAY), 6.5 * DAY)[0][:74]
        "the certificate of 'north' ends in 12 hours, at 1970-01-08 00:00 UTC (warn"
    """
    left = peer.not_after - now
    if left <= 0:
        return (f"the certificate of {peer.client!r} expired at {at(peer.not_after)}: {_RENEW}",)
    for limit, words in _WARNINGS:
        if left <= limit:
            return (
                f"the certificate of {peer.client!r} ends in {span(left)}, at {at(peer.not_after)} (warning at "
                f"{words}): it is renewed daily while the coordinator is reached; if it is not, see `fedloom doctor`",
            )
    return ()


def at(moment: float) -> str:
    """Return a moment as people read it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def read_certificates(chain: bytes) -> list[x509.Certificate]:
    """Return the certificates of a chain in PEM.

    Raises:
        TrustError: ``unreadable``, when there is none, or it is longer than any of ours.
    """
    if len(chain) > LARGEST:
        raise TrustError(f"a chain of {len(chain)} bytes: expected at most {LARGEST}", reason="unreadable")
    try:
        return x509.load_pem_x509_certificates(chain)
    except (ValueError, x509.InvalidVersion) as error:
        raise TrustError(f"this is no certificate in PEM: {error}", reason="unreadable") from error


def _verified(
    chain: bytes, root: bytes, *, now: float, want: Want, federation: str, host: str | None, own: bool
) -> Peer:
    found = read_certificates(chain)
    anchor = read_certificates(root)[0]
    if len(found) != 2:
        raise TrustError(
            f"a chain is the certificate and the intermediate's; received {len(found)} certificates",
            reason="broken_chain",
        )
    leaf, intermediate = found
    _check_authority(anchor, path_length=1, what="the root")
    _check_issued(intermediate, anchor, reason="other_authority", other="the root of this federation")
    _check_authority(intermediate, path_length=0, what="the intermediate")
    _check_issued(leaf, intermediate, reason="broken_chain", other="the intermediate that it came with")
    _check_leaf(leaf)
    subject = _subject(leaf)
    _check_usage(leaf, subject, want)
    if subject.federation != federation:
        raise TrustError(
            f"the certificate is of the federation {subject.federation!r}; this one is {federation!r}",
            reason="wrong_federation",
        )
    if host is not None:
        _check_host(leaf, host)
    _check_dates(anchor, now, whose="the root's certificate", remedy="make a new root: `fedloom pki`")
    _check_dates(
        intermediate, now, whose="the intermediate's certificate", remedy="issue one with the root: `fedloom pki`"
    )
    whose = "your certificate" if own else f"the certificate of {subject.client!r}"
    remedy = f"{_RENEW}{'' if own else ' there'}" if want == "client" else "the coordinator's operator issues a new one"
    _check_dates(leaf, now, whose=whose, remedy=remedy)
    return _peer(leaf, subject)


def _check_issued(child: x509.Certificate, issuer: x509.Certificate, *, reason: TrustReason, other: str) -> None:
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise TrustError(
            f"the certificate {_name(child)} is not signed by {other}, {_name(issuer)} with the fingerprint "
            f"{fingerprints.fingerprint(issuer.public_bytes(Encoding.DER))}: it is of another federation or root",
            reason=reason,
        ) from error


def _check_authority(certificate: x509.Certificate, *, path_length: int, what: str) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if constraints is None or not (constraints.critical and constraints.value.ca):
        raise TrustError(f"{what} {_name(certificate)} is the certificate of no authority", reason="broken_chain")
    if constraints.value.path_length != path_length or usage is None or not usage.value.key_cert_sign:
        raise TrustError(
            f"{what} {_name(certificate)} has path length {constraints.value.path_length}; expected {path_length} and "
            "the use of signing certificates",
            reason="broken_chain",
        )


def _check_leaf(leaf: x509.Certificate) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is None or not constraints.critical or constraints.value.ca:
        raise TrustError(f"{_name(leaf)} is the certificate of an authority, not of a party", reason="wrong_usage")
    try:
        key = leaf.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise TrustError(f"the key of {_name(leaf)} cannot be read: {error}", reason="unreadable") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise TrustError(
            f"the key of {_name(leaf)} is not ECDSA over P-256, the one kind that every TLS stack here takes",
            reason="wrong_usage",
        )


def _check_usage(leaf: x509.Certificate, subject: Subject, want: Want) -> None:
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    uses = set() if extended is None else set(extended.value)
    match want:
        case "client":
            right = uses == {ExtendedKeyUsageOID.CLIENT_AUTH} and subject.role != "coordinator"
        case "server":
            right = uses == {ExtendedKeyUsageOID.SERVER_AUTH} and subject.role == "coordinator"
        case _:
            assert_never(want)
    if not right:
        raise TrustError(
            f"the certificate of {subject.uri} is not for a {want}: a site's is for clients only, the coordinator's "
            "for servers only",
            reason="wrong_usage",
        )


def _check_host(leaf: x509.Certificate, host: str) -> None:
    names = host_names(leaf)
    if host.lower().strip("[]") not in {name.lower() for name in names}:
        raise TrustError(
            f"the server at {host!r} presented a certificate for {', '.join(names) or 'no host'}, valid until "
            f"{at(leaf.not_valid_after_utc.timestamp())}: dial one of these names, or have the coordinator's "
            f"certificate issued for {host!r} too",
            reason="wrong_name",
        )


def host_names(leaf: x509.Certificate) -> list[str]:
    """Return the DNS names and addresses that a certificate carries."""
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        return []
    addresses = map(str, names.value.get_values_for_type(x509.IPAddress))
    return [*names.value.get_values_for_type(x509.DNSName), *addresses]


def _check_dates(certificate: x509.Certificate, now: float, *, whose: str, remedy: str) -> None:
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if now < begins:
        raise TrustError(
            f"{whose} is valid from {at(begins)} on, and this clock says {at(now)}, {span(begins - now)} before: set "
            "the clock",
            reason="not_yet_valid",
        )
    if now >= ends:
        raise TrustError(f"{whose} expired on {at(ends)}, {span(now - ends)} ago: {remedy}", reason="expired")


def _subject(leaf: x509.Certificate) -> Subject:
    names = _extension(leaf, x509.SubjectAlternativeName)
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise TrustError(
            f"the certificate {_name(leaf)} carries {len(uris)} names (SAN URI); expected one", reason="wrong_name"
        )
    return read_uri(uris[0])


def _peer(leaf: x509.Certificate, subject: Subject) -> Peer:
    return Peer(
        federation=subject.federation,
        role=subject.role,
        organisation=subject.organisation,
        client=subject.client,
        serial=f"{leaf.serial_number:x}",
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> x509.Extension[_Kind] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension) as error:
        raise TrustError(
            f"the extensions of {_name(certificate)} cannot be read: {error}", reason="unreadable"
        ) from error


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _name(certificate: x509.Certificate) -> str:
    try:
        return repr(certificate.subject.rfc4514_string())
    except ValueError:
        return f"of serial {hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()[:16]}"


def span(seconds: float) -> str:
    """Return a length of time as people read it: whole units, two or more of them.

    Example:
        >>> span(90.0), span(26 * HOUR), span(9 * DAY)
        ('90 seconds', '26 hours', '9 days')
    """
    for unit, length in (("days", DAY), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{math.floor(seconds / length)} {unit}"
    return f"{math.ceil(seconds)} seconds"
