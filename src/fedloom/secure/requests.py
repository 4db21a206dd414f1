"""Requests: what a site sends to be certified, with proof that it holds both keys. Private keys stay where they are.

A request carries keys and no names: whose they are says the join token's record, or the roster.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedloom.errors import TrustError
from fedloom.secure.agreement import SigningKey, verify
from fedloom.secure.encoding import frame
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.join import Token, token_id
from fedloom.secure.tls_keys import TlsKey, verify_tls

_LABEL = b"fedloom/pki/v1/join"
LARGEST = 1 << 13
"""Bytes of a request; one is below 1 KiB."""


class _Join(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    token: bytes
    csr: bytes
    signing: bytes
    by_tls: bytes
    by_signing: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The keys of a party that has shown to hold them."""

    public: bytes
    """Of TLS: SubjectPublicKeyInfo in DER, ECDSA over P-256."""
    signing: bytes
    """Ed25519, 32 bytes: for the roster."""
    digest: bytes
    """SHA-256 of all that was asked: the same request again is the same question."""
    token: bytes = field(default=b"", repr=False)
    """The join token's secret; empty in a renewal."""

    @property
    def fingerprint(self) -> str:
        """Of the Ed25519 key: what the site's operator reads out before the coordinator's approves."""
        return fingerprint(self.signing)


def signing_request(tls_key: TlsKey, signing_key: SigningKey, *, token: Token) -> bytes:
    """Return the request of a site that joins.

    Args:
        tls_key: Its new key for TLS.
        signing_key: Its new Ed25519 key, under which the roster will have it.
        token: As it was invited. It travels inside: send the request to a server that showed the token's root only.

    Security:
        Adversary: one who reads requests of others, and asks for certificates of their keys, or of theirs and its own.
        Both keys sign the federation, the token and both keys, so neither is moved into another request. Leaks: the
        token, to the server.

    Source:
        RFC 2986 for the CSR; the two signatures over one statement are ours.

    Example:
        >>> from fedloom.secure.agreement import signing_key
        >>> from fedloom.secure.tls_keys import new_tls_key
        >>> token = Token(secret=bytes(range(16)), anchor=bytes(20), address="fl.example.org:443")
        >>> sent = signing_request(new_tls_key(), signing_key(bytes(range(32))), token=token)
        >>> read_request(sent, anchor=bytes(20)).fingerprint
        'kzdv vj2u mndu yauf 35o3 6k6k w462 mujv'
    """
    csr = certificate_request(tls_key)
    statement = _statement(token.anchor, token.secret, csr, signing_key.public)
    return msgspec.msgpack.encode(
        _Join(
            token=token.secret,
            csr=csr,
            signing=signing_key.public,
            by_tls=tls_key.sign(statement),
            by_signing=signing_key.sign(statement),
        )
    )


def read_request(data: bytes, *, anchor: bytes) -> Request:
    """Return what a site that joins asks for, if it holds both keys. Redeem ``.token`` before anything is issued.

    Args:
        data: As ``signing_request`` made it.
        anchor: ``Anchor.short`` of this federation.

    Raises:
        TrustError: ``unreadable``, or ``no_possession``.
    """
    if len(data) > LARGEST:
        raise TrustError(f"a request of {len(data)} bytes: expected at most {LARGEST}", reason="unreadable")
    try:
        sent = msgspec.msgpack.decode(data, type=_Join)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"this is no request to join: {error}", reason="unreadable") from error
    public = requested_key(sent.csr)
    statement = _statement(anchor, sent.token, sent.csr, sent.signing)
    if not verify_tls(public, sent.by_tls, statement):
        raise no_possession("TLS key")
    if not verify(sent.signing, sent.by_signing, statement):
        raise no_possession("Ed25519 key")
    return Request(public=public, signing=sent.signing, digest=hashlib.sha256(statement).digest(), token=sent.token)


def certificate_request(tls_key: TlsKey) -> bytes:
    """Return a CSR in DER for the key, without names."""
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return built.sign(tls_key.private, SHA256()).public_bytes(Encoding.DER)


def requested_key(csr: bytes) -> bytes:
    """Return the public key of a CSR that its own key has signed: SubjectPublicKeyInfo in DER.

    Raises:
        TrustError: ``unreadable``; ``wrong_usage``, for a key other than ECDSA over P-256; ``no_possession``.
    """
    try:
        asked = x509.load_der_x509_csr(csr)
        key = asked.public_key()
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise TrustError(
                f"a key for TLS is ECDSA over P-256; the request is for {type(key).__name__}", reason="wrong_usage"
            )
        signed = asked.is_signature_valid
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise TrustError(f"this is no certificate signing request: {error}", reason="unreadable") from error
    if not signed:
        raise no_possession("TLS key")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def no_possession(key: str) -> TrustError:
    """Return the error of a request whose sender does not show that it has a key."""
    return TrustError(
        f"the request is not signed by the {key} that it names, for this federation and this token: nothing is issued",
        reason="no_possession",
    )


def _statement(anchor: bytes, token: bytes, csr: bytes, signing: bytes) -> bytes:
    return frame(_LABEL, anchor, token_id(token), csr, signing)
