"""Keys that two clients agree on, messages sealed under them, and signatures: X25519, HKDF, AES-GCM and Ed25519.

Nothing here is computed by us: the primitives are those of the ``cryptography`` package. What is ours is what goes into
them, so that no two uses share a key: the session's id, a label for the purpose, and both names.
"""

from __future__ import annotations

from fedloom.entropy.guarded import guarded
from fedloom.errors import Error
from fedloom.secure.encoding import CHANNEL, PAIR_MASK, SELF_MASK, frame

KEY_BYTES = 32
_NONCE = bytes(12)
"""Fixed, which is sound ONLY because ``channel_key`` gives a key that seals one message, stored before it is sent."""


@guarded("private keys", instead="compare public keys, and store one with stored()")
class PrivateKey:
    """A private key of X25519, for one session. It does not print, and refuses ``==``, ``hash``, ``copy``, ``pickle``.

    Security:
        Adversary: one who sees public keys and what is derived from exchanges; finding a shared value is the
        Diffie-Hellman problem on Curve25519, about 2**128 steps. Leaks: nothing; memory is not wiped (Python cannot).

    Constant time:
        X25519 of OpenSSL is.

    Source:
        RFC 7748, sections 5 and 6.1.

    Example:
        >>> one, other = private_key(bytes(range(32))), private_key(bytes(range(1, 33)))
        >>> one
        <secret>
        >>> one.exchange(other.public) == other.exchange(one.public)
        True
    """

    __slots__ = ("_key", "_public", "_raw")

    def __init__(self, raw: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._raw = raw
        self._key = X25519PrivateKey.from_private_bytes(raw)
        self._public = self._key.public_key().public_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._public

    def stored(self) -> bytes:
        """Return the 32 bytes, to be split into shares or kept in the owner's own store."""
        return self._raw

    def exchange(self, public: bytes) -> bytes:
        """Return the 32 bytes shared with the owner of ``public``: input of ``derive``, and no key by itself.

        Raises:
            Error: If the key has another length, or is of low order: the result would be zero whoever asks.

        Security:
            Several public keys give the same result (the top bit is ignored; a point of low order may be added), so
            the names, which the derivation binds, tell parties apart, and not the bytes of their keys.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        _check_length("a public key of X25519", public, KEY_BYTES)
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:  # OpenSSL refuses an all-zero result
            raise Error("a public key of low order: its shared value is zero for everybody. Drop its sender") from error


@guarded("signing keys", instead="compare public keys, and store one with stored()")
class SigningKey:
    """A private key of Ed25519, a client's long-term identity. It refuses what ``PrivateKey`` refuses.

    Security:
        Adversary: one who has any messages signed that it chooses; it signs no other message in fewer than about 2**128
        steps. Leaks: nothing; memory is not wiped.

    Constant time:
        Ed25519 signing of OpenSSL is.

    Source:
        RFC 8032, section 5.1.

    Example:
        >>> key = signing_key(bytes(range(32)))
        >>> key
        <secret>
        >>> verify(key.public, key.sign(b"present"), b"present")
        True
    """

    __slots__ = ("_key", "_public", "_raw")

    def __init__(self, raw: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._raw = raw
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self._public = self._key.public_key().public_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes: what the roster holds."""
        return self._public

    def stored(self) -> bytes:
        """Return the 32 bytes, for the owner's own store."""
        return self._raw

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes. Begin every message with ``frame(label, sid, ...)``."""
        return self._key.sign(message)


def private_key(raw: bytes) -> PrivateKey:
    """Return the private key of X25519 that these 32 bytes are.

    Args:
        raw: Entropy, used for nothing else; or what ``PrivateKey.stored`` gave.

    Raises:
        Error: If they are not 32 bytes.

    Security:
        As good as the entropy: bytes that others know hide nothing.

    Constant time:
        As ``PrivateKey``.

    Source:
        RFC 7748, section 6.1.

    Example:
        >>> private_key(bytes(range(32))).public.hex()[:16]
        '8f40c5adb68f2562'
    """
    _check_length("a private key of X25519", raw, KEY_BYTES)
    return PrivateKey(bytes(raw))


def signing_key(raw: bytes) -> SigningKey:
    """Return the private key of Ed25519 that these 32 bytes are.

    Args:
        raw: Entropy, used for nothing else; or what ``SigningKey.stored`` gave.

    Raises:
        Error: If they are not 32 bytes.

    Security:
        As good as the entropy.

    Constant time:
        As ``SigningKey``.

    Source:
        RFC 8032, section 5.1.5.

    Example:
        >>> signing_key(bytes(range(32))).public.hex()[:16]
        '03a107bff3ce10be'
    """
    _check_length("a signing key of Ed25519", raw, KEY_BYTES)
    return SigningKey(bytes(raw))


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the owner of ``public`` signed the message; False as well for a key or signature that is none.

    Security:
        Adversary: one without the private key. Take ``public`` from the roster, never from who sends the signature: a
        malformed key of low order "signs" any message. Leaks: nothing; all is public.

    Constant time:
        No, and it need not be.

    Source:
        RFC 8032, section 5.1.7, without the cofactor.

    Example:
        >>> key = signing_key(bytes(range(32)))
        >>> verify(key.public, key.sign(b"present"), b"absent")
        False
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """Return ``length`` bytes of HKDF with SHA-256.

    Args:
        secret: What only those who may have the key know.
        salt: Public; empty is the same as zeros.
        info: What the key is for: a ``frame``.
        length: From 1 to 8,160.

    Raises:
        Error: If the length is another.

    Security:
        Adversary: one who chooses salt and info and sees other outputs; this one is random to it if the secret has
        enough entropy and HMAC-SHA256 is a pseudorandom function (a random oracle, for a Diffie-Hellman secret).
        Leaks: nothing.

    Constant time:
        SHA-256 is; lengths are public.

    Source:
        RFC 5869.

    Example:
        >>> hkdf(bytes(range(32)), salt=b"", info=frame("example")).hex()[:16]
        'f69a29ae000ee1a6'
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if not 1 <= length <= 255 * 32:
        raise Error(f"hkdf(length={length}): expected from 1 to 8160 bytes")
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def derive(
    shared: bytes, *, sid: bytes, label: bytes, first: str, second: str, length: int = KEY_BYTES, more: bytes = b""
) -> bytes:
    """Return a key for one purpose, of one session, between two names.

    ``HKDF-SHA256(shared, salt = sid, info = frame(label, first, second, more))``.

    Args:
        shared: What ``PrivateKey.exchange`` gave, or another secret.
        sid: The session's id.
        label: The purpose; see ``encoding``.
        first: In the order that the purpose says: sender first, or sorted.
        second: The other name.
        length: Of the key.
        more: Whatever else the key is to be bound to.

    Security:
        As ``hkdf``: keys of other sessions, purposes, names or order are independent of this one.

    Constant time:
        As ``hkdf``.

    Source:
        RFC 5869; what the salt and the info are is ours.

    Example:
        >>> key = derive(bytes(32), sid=b"one", label=CHANNEL, first="a", second="b")
        >>> key == derive(bytes(32), sid=b"two", label=CHANNEL, first="a", second="b")
        False
    """
    return hkdf(shared, salt=sid, info=frame(label, first, second, more), length=length)


def check_public(public: bytes) -> None:
    """Refuse a public key with which nobody agrees on anything, before it is handed to others.

    A server that hands one on lets a single client end the session of all others: each of them must stop there.

    Args:
        public: As it was advertised.

    Raises:
        Error: If the key has another length than 32 bytes, or is of low order.

    Security:
        Adversary: a client that wants sessions to fail. Every private key is a multiple of 8, so the result is zero for
        all of them or for none: one that everybody knows shows it. Leaks: nothing; public keys are public.

    Constant time:
        As ``PrivateKey``, and it need not be.

    Source:
        RFC 7748, section 6.1, on the check for the all-zero value.

    Example:
        >>> check_public(private_key(bytes(range(32))).public)
        >>> check_public(bytes(32))
        Traceback (most recent call last):
        fedloom.errors.Error: a public key of low order...
    """
    private_key(bytes(KEY_BYTES)).exchange(public)


def channel_key(mine: PrivateKey, theirs: bytes, *, sid: bytes, sender: str, receiver: str) -> bytes:
    """Return the key of the one message that ``sender`` seals for ``receiver`` in this session; both compute it.

    Args:
        mine: The caller's channel key, of whichever of the two it is.
        theirs: The public channel key of the other.
        sid: The session's id.
        sender: Whose message.
        receiver: For whom; the other direction has another key.

    Raises:
        Error: If the public key is none, or the two names are one.

    Security:
        Adversary: the server and all other clients, who see both public keys. It must not have chosen ``theirs``:
        check its signature first. Leaks: nothing. One key is for one message: see ``seal``.

    Constant time:
        As ``PrivateKey`` and ``hkdf``.

    Source:
        Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", round 1. Differs:
        a key for each direction, bound to the session.

    Example:
        >>> a, b = private_key(bytes(range(32))), private_key(bytes(range(1, 33)))
        >>> there = channel_key(a, b.public, sid=bytes(32), sender="a", receiver="b")
        >>> there == channel_key(b, a.public, sid=bytes(32), sender="a", receiver="b")
        True
    """
    shared = _exchanged(mine, theirs, sender, receiver)
    return derive(shared, sid=sid, label=CHANNEL, first=sender, second=receiver)


def pair_seed(mine: PrivateKey, theirs: bytes, *, sid: bytes, one: str, other: str) -> bytes:
    """Return the seed of the mask that two clients share in this session, the same from both sides.

    Args:
        mine: The caller's mask key.
        theirs: The public mask key of the other.
        sid: The session's id.
        one: The name of one of them.
        other: The name of the other; the order does not matter.

    Raises:
        Error: If the public key is none, or the two names are one.

    Security:
        Adversary: as ``channel_key``, until the server rebuilds the mask key of one of them, who is then taken as
        lost. Leaks: nothing.

    Constant time:
        As ``PrivateKey`` and ``hkdf``.

    Source:
        Bonawitz et al. 2017, round 2, ``s_uv``. Differs: bound to the session and the names.

    Example:
        >>> a, b = private_key(bytes(range(32))), private_key(bytes(range(1, 33)))
        >>> seed = pair_seed(a, b.public, sid=bytes(32), one="a", other="b")
        >>> seed == pair_seed(b, a.public, sid=bytes(32), one="b", other="a")
        True
    """
    first, second = sorted((one, other))
    shared = _exchanged(mine, theirs, one, other)
    return derive(shared, sid=sid, label=PAIR_MASK, first=first, second=second)


def self_seed(own: bytes, *, sid: bytes, owner: str) -> bytes:
    """Return the seed of the mask that a client has for itself, from the 32 bytes ``b`` that it splits into shares.

    Args:
        own: The client's ``b``: 32 bytes of entropy, for this session only.
        sid: The session's id.
        owner: The client.

    Raises:
        Error: If ``own`` is not 32 bytes.

    Security:
        Adversary: the server, which gets ``b`` of the clients whose mask keys it does not get. Leaks: nothing.

    Constant time:
        As ``hkdf``.

    Source:
        Bonawitz et al. 2017, round 2, ``PRG(b_u)``. Differs: bound to the session and the name.

    Example:
        >>> self_seed(bytes(range(32)), sid=bytes(32), owner="a").hex()[:16]
        '99beee1469f3463e'
    """
    _check_length("a self seed", own, KEY_BYTES)
    return derive(own, sid=sid, label=SELF_MASK, first=owner, second=owner)


def seal(key: bytes, plain: bytes, *, sid: bytes, step: int, sender: str, receiver: str) -> bytes:
    """Return the message encrypted and authenticated, with its place in the session: AES-256-GCM.

    The nonce is fixed, twelve zero bytes. That is allowed ONLY because a ``channel_key`` is of one session and
    direction, and seals one message, which is stored before it is sent and never computed again: a second message under
    the key would show the XOR of the two and let anybody forge.

    Args:
        key: From ``channel_key``; 32 bytes.
        plain: The message.
        sid: Authenticated with it, not sent.
        step: Of the protocol; the same.
        sender: The same.
        receiver: The same.

    Returns:
        16 bytes more than the message.

    Raises:
        Error: If the key is not 32 bytes.

    Security:
        Adversary: the server, which carries it and may change, drop or move it. Leaks: the length. It commits to no
        key: whoever knows two keys can make one ciphertext for both; the commitments to shares stop that.

    Constant time:
        AES-GCM of OpenSSL is, on processors with AES instructions.

    Source:
        NIST SP 800-38D; what is authenticated with the message is ours.

    Example:
        >>> sealed = seal(bytes(range(32)), b"share", sid=bytes(32), step=1, sender="a", receiver="b")
        >>> len(sealed), open_sealed(bytes(range(32)), sealed, sid=bytes(32), step=1, sender="a", receiver="b")
        (21, b'share')
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    _check_length("a channel key", key, KEY_BYTES)
    return AESGCM(key).encrypt(_NONCE, plain, frame(sid, step, sender, receiver))


def open_sealed(key: bytes, sealed: bytes, *, sid: bytes, step: int, sender: str, receiver: str) -> bytes:
    """Return the message that ``seal`` encrypted, if not a bit of it or of its place was changed.

    Args:
        key: From ``channel_key``; 32 bytes.
        sealed: What arrived.
        sid: As the receiver knows it, like all that follow.
        step: Of the protocol.
        sender: Whose message it should be.
        receiver: The caller.

    Raises:
        Error: If anything was changed, naming the sender; or if the key is not 32 bytes.

    Security:
        Adversary: as ``seal``; a forgery passes with probability below 2**-100 for messages up to a MiB. A refusal does
        not tell who changed it: the sender or the server between.

    Constant time:
        As ``seal``.

    Source:
        NIST SP 800-38D.

    Example:
        >>> open_sealed(bytes(range(32)), bytes(21), sid=bytes(32), step=1, sender="a", receiver="b")
        Traceback (most recent call last):
        fedloom.errors.Error: ...from 'a' to 'b'...
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    _check_length("a channel key", key, KEY_BYTES)
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, frame(sid, step, sender, receiver))
    except InvalidTag as error:
        raise Error(
            f"the sealed message of step {step} from {sender!r} to {receiver!r} does not authenticate: it, its place "
            "or its session was changed. Abort the session"
        ) from error


def _check_length(what: str, content: bytes, length: int) -> None:
    if len(content) != length:
        raise Error(f"{what} is {length} bytes; received {len(content)}")


def _exchanged(mine: PrivateKey, theirs: bytes, one: str, other: str) -> bytes:
    if one == other:
        raise Error(f"a pair is two clients; received {one!r} twice")
    try:
        return mine.exchange(theirs)
    except Error as error:
        raise Error(f"{one!r} and {other!r} agree on no key: {error}") from error
