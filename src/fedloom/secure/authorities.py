"""Authorities: the offline root of a federation, the intermediate on the coordinator's host, and what they issue."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedloom.entropy import fresh_secret
from fedloom.entropy.guarded import guarded
from fedloom.errors import TrustError
from fedloom.secure.agreement import SigningKey, signing_key
from fedloom.secure.anchors import Anchor
from fedloom.secure.certificates import BACKDATED, DAY, at, check_key, read_certificates, read_peer
from fedloom.secure.passphrases import open_under, seal_under
from fedloom.secure.peers import Peer, Subject, admin, check_federation, coordinator, site
from fedloom.secure.requests import Request
from fedloom.secure.tls_keys import TlsKey, new_tls_key, tls_key

_ROOT_FILE = "root of the federation"
LEAF_DAYS = 7
_INTERMEDIATE_DAYS = 365
_DNS = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I)


class _RootFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    federation: str
    certificate: bytes
    key: bytes
    signing: bytes


@guarded("roots", instead="store one with stored()")
class Root:
    """The root of a federation: a CA of ECDSA P-256 and an Ed25519 key. It belongs on a machine that is offline.

    It does not print its keys, and refuses ``pickle`` and ``copy``, as they do.
    """

    __slots__ = ("anchor", "key", "signing")

    def __init__(self, anchor: Anchor, key: TlsKey, signing: SigningKey) -> None:
        self.anchor = anchor
        self.signing = signing
        """Signs rosters and deny lists: ``SignedRoster.signed``, ``DenyList.signed``."""
        self.key = key
        """Signs intermediates."""

    @property
    def federation(self) -> str:
        """Whose root it is."""
        return self.anchor.federation

    def stored(self, passphrase: str, *, cost: int = 17) -> bytes:
        """Return both keys and the certificate, sealed: see ``passphrases.seal_under``."""
        document = _RootFile(
            federation=self.federation,
            certificate=self.anchor.certificate,
            key=self.key.stored(),
            signing=self.signing.stored(),
        )
        return seal_under(passphrase, msgspec.msgpack.encode(document), place=_ROOT_FILE, cost=cost)

    def __repr__(self) -> str:
        """Return whose it is, and no key."""
        return f"<root of {self.federation!r}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intermediate:
    """The authority on the coordinator's host: it issues certificates of parties, and no authority."""

    federation: str
    certificate: bytes
    """PEM."""
    key: TlsKey

    def __post_init__(self) -> None:
        """Refuse a certificate that is for another key."""
        check_key(self.certificate, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate for its holder: PEM, followed by the intermediate's."""

    chain: bytes
    peer: Peer


def new_root(federation: str, *, now: float, years: int = 10) -> Root:
    """Return the root of a new federation.

    Args:
        federation: Its name, as certificates carry it.
        now: Seconds since 1970.
        years: How long its certificate holds.

    Raises:
        TrustError: ``wrong_name``.

    Security:
        Whoever has it makes rosters, and so members: it is opened for a new roster, a deny list or an intermediate,
        on a machine that is not the coordinator's host.

    Example:
        >>> from fedloom.secure.anchors import open_anchor
        >>> root = new_root("trial", now=1.8e9)
        >>> root, open_anchor(root.anchor.stored(), meant=root.anchor.fingerprint).federation
        (<root of 'trial'>, 'trial')
    """
    check_federation(federation)
    key, signing = new_tls_key(), signing_key(fresh_secret().random_bytes(32))
    name = _named(federation, "fedloom root")
    built = (
        _builder(name, name, key.public, now=now, ends=now + years * 365.25 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_SIGNS, critical=True)
    )
    certificate = _signed(built, key)
    anchor = Anchor(federation=federation, certificate=certificate, signing=signing.public)
    return Root(anchor, key, signing)


def open_root(data: bytes, *, passphrase: str) -> Root:
    """Return the root that ``Root.stored`` sealed.

    Raises:
        TrustError: ``unreadable`` or ``wrong_passphrase``.
    """
    content = open_under(passphrase, data, place=_ROOT_FILE)
    try:
        document = msgspec.msgpack.decode(content, type=_RootFile)
    except msgspec.DecodeError as error:
        raise TrustError(f"this is no root of a federation: {error}", reason="unreadable") from error
    signing = signing_key(document.signing)
    anchor = Anchor(federation=document.federation, certificate=document.certificate, signing=signing.public)
    key = tls_key(document.key)
    check_key(anchor.certificate, key)
    return Root(anchor, key, signing)


def issue_intermediate(root: Root, *, now: float, days: int = _INTERMEDIATE_DAYS) -> Intermediate:
    """Return a new intermediate with a new key: the one thing that travels from the root to the coordinator's host.

    Raises:
        TrustError: ``expired`` or ``not_yet_valid``, when the root's certificate does not hold now.
    """
    key = new_tls_key()
    (issuer,) = read_certificates(root.anchor.certificate)
    ends = _until(issuer, now, days)
    built = (
        _builder(_named(root.federation, "fedloom intermediate"), issuer.subject, key.public, now=now, ends=ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS, critical=True)
    )
    certificate = _signed(built, root.key)
    return Intermediate(federation=root.federation, certificate=certificate, key=key)


def open_intermediate(certificate: bytes, key: bytes, *, federation: str) -> Intermediate:
    """Return the intermediate from its two files, both PEM.

    Raises:
        TrustError: ``unreadable``, or ``key_mismatch``.
    """
    return Intermediate(federation=federation, certificate=certificate, key=tls_key(key))


def issue_coordinator(
    intermediate: Intermediate, key: TlsKey, *, names: Sequence[str], now: float, days: int = LEAF_DAYS
) -> Issued:
    """Return a certificate for the coordinator: a server's, with the names under which sites dial it.

    Args:
        intermediate: Of this federation.
        key: The coordinator's own, on the same host.
        names: DNS names and addresses, at least one.
        now: Seconds since 1970.
        days: How long it holds; never longer than the intermediate.

    Raises:
        TrustError: ``wrong_name``, when there is no name or one that is none; ``expired``, when the intermediate has.
    """
    if not names:
        raise TrustError("the coordinator's certificate needs the name or address that sites dial", reason="wrong_name")
    hosts = [_host(name) for name in names]
    subject = coordinator(intermediate.federation)
    return _leaf(
        intermediate, key.public, subject, hosts=hosts, use=ExtendedKeyUsageOID.SERVER_AUTH, now=now, days=days
    )


def issue_site(
    intermediate: Intermediate,
    request: Request,
    *,
    organisation: str,
    client: str,
    now: float,
    days: int = LEAF_DAYS,
) -> Issued:
    """Return a certificate for a site: a client's.

    Args:
        intermediate: Of this federation.
        request: As ``read_request`` or ``read_renewal`` has checked it: only its key is used.
        organisation: From the token's record or from the roster, never from the request.
        client: The same.
        now: Seconds since 1970.
        days: How long it holds; never longer than the intermediate.

    Raises:
        TrustError: ``wrong_name``; ``expired`` or ``not_yet_valid``, when the intermediate does not hold now.
    """
    subject = site(intermediate.federation, organisation=organisation, client=client)
    return _leaf(intermediate, request.public, subject, use=ExtendedKeyUsageOID.CLIENT_AUTH, now=now, days=days)


def issue_admin(
    intermediate: Intermediate, request: Request, *, name: str, now: float, days: int = LEAF_DAYS
) -> Issued:
    """Return a certificate for a person who operates the coordinator: a client's, with the admin role.

    Raises:
        TrustError: As ``issue_site``.
    """
    subject = admin(intermediate.federation, name=name)
    return _leaf(intermediate, request.public, subject, use=ExtendedKeyUsageOID.CLIENT_AUTH, now=now, days=days)


def _leaf(
    intermediate: Intermediate,
    public: bytes,
    subject: Subject,
    *,
    use: x509.ObjectIdentifier,
    now: float,
    days: int,
    hosts: Sequence[x509.GeneralName] = (),
) -> Issued:
    (issuer,) = read_certificates(intermediate.certificate)
    ends = _until(issuer, now, days)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject.uri), *hosts])
    built = (
        _builder(_named(subject.organisation, subject.client), issuer.subject, public, now=now, ends=ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_AUTHENTICATES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(names, critical=False)
    )
    certificate = _signed(built, intermediate.key)
    return Issued(chain=certificate + intermediate.certificate, peer=read_peer(certificate))


def _key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in _USES})


_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_SIGNS = _key_usage("key_cert_sign", "crl_sign")
_AUTHENTICATES = _key_usage("digital_signature")


def _named(organisation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: bytes, *, now: float, ends: float
) -> x509.CertificateBuilder:
    key = load_der_public_key(public)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise TrustError(f"certificates are for ECDSA over P-256; received {type(key).__name__}", reason="wrong_usage")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - BACKDATED))
        .not_valid_after(_moment(ends))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, issuer: TlsKey) -> bytes:
    named = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private.public_key())
    return builder.add_extension(named, critical=False).sign(issuer.private, SHA256()).public_bytes(Encoding.PEM)


def _until(issuer: x509.Certificate, now: float, days: float) -> float:
    begins, ends = issuer.not_valid_before_utc.timestamp(), issuer.not_valid_after_utc.timestamp()
    if now < begins:
        raise TrustError(
            f"the issuer's certificate is valid from {at(begins)} on, and this clock says {at(now)}: set the clock",
            reason="not_yet_valid",
        )
    if now >= ends:
        raise TrustError(f"the issuer's certificate expired on {at(ends)}: it issues nothing", reason="expired")
    if days <= 0:
        raise TrustError(f"a certificate for {days} days holds at no time", reason="expired")
    return min(now + days * DAY, ends)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    if not _DNS.fullmatch(name):
        raise TrustError(
            f"{name!r} is no DNS name and no address: expected such as 'fl.example.org', without port",
            reason="wrong_name",
        )
    return x509.DNSName(name.lower())
