"""TLS keys: ECDSA over P-256, one for each certificate. Ed25519 stays for messages: gRPC refuses it in certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedloom.entropy.guarded import guarded
from fedloom.errors import TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@guarded("private keys", instead="compare public keys, and store one with stored()")
class TlsKey:
    """A private key of ECDSA over P-256. It does not print, and refuses ``==``, ``hash``, ``copy`` and ``pickle``.

    Security:
        Adversary: one who sees certificates, handshakes and signatures of its choice; it signs nothing in fewer than
        about 2**128 steps. Leaks: nothing; memory is not wiped.

    Constant time:
        ECDSA over P-256 of OpenSSL is.

    Source:
        FIPS 186-5.

    Example:
        >>> key = new_tls_key()
        >>> key
        <secret>
        >>> tls_key(key.stored()).public == key.public
        True
    """

    __slots__ = ("_key",)

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key

    @property
    def private(self) -> EllipticCurvePrivateKey:
        """The key as ``cryptography`` has it, for the modules of this package that sign certificates."""
        return self._key

    @property
    def public(self) -> bytes:
        """The public key: SubjectPublicKeyInfo in DER."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """Return a signature of ECDSA with SHA-256, in DER."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._key.sign(message, ECDSA(SHA256()))

    def stored(self) -> bytes:
        """Return the key as PEM, not encrypted: for a file that only its owner reads."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_tls_key() -> TlsKey:
    """Return a new key, from the operating system's entropy."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    return TlsKey(generate_private_key(SECP256R1()))


def tls_key(stored: bytes) -> TlsKey:
    """Return the key that ``TlsKey.stored`` wrote.

    Raises:
        TrustError: ``unreadable``, when it is no private key of ECDSA over P-256 in PEM.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(stored, password=None)
    except (ValueError, TypeError) as error:
        raise TrustError(f"this is no private key in PEM: {error}", reason="unreadable") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise TrustError(
            f"a key for TLS is ECDSA over P-256; received {type(key).__name__}. Make one with new_tls_key()",
            reason="unreadable",
        )
    return TlsKey(key)


def verify_tls(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the holder of the key signed the message: ``TlsKey.sign``.

    Args:
        public: SubjectPublicKeyInfo in DER, of ECDSA over P-256; another key signs nothing.
        signature: In DER.
        message: What was signed.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(public)
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            return False
        key.verify(signature, message, ECDSA(SHA256()))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
