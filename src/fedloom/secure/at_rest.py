"""At rest: what a party keeps of its secrets, encrypted and bound to its place in the store."""

from __future__ import annotations

from fedloom.entropy import Secret, fresh_secret
from fedloom.errors import Error
from fedloom.secure.encoding import frame

_LABEL = b"fedloom/at-rest/v1"
_FORM = b"\x01"
"""First byte of what is sealed: another form gets another one."""
_SALT = 24
"""Bytes: after 2**64 writes two of them are equal with probability below 2**-65."""
_TAG = 16
_NONCE = bytes(12)
"""Fixed, which is sound ONLY because each write has a key of its own, from a salt of its own."""


def seal_at_rest(owner: Secret, plain: bytes, *, place: bytes) -> bytes:
    """Return bytes encrypted and authenticated for the store of their owner: AES-256-GCM, with a fresh key each time.

    Args:
        owner: Of the store; kept apart from what it seals.
        plain: What is kept; at most 2**31 - 1 bytes.
        place: The row that it is kept in, as a ``frame``: moved to another place it does not open.

    Returns:
        41 bytes more than the content: form, salt, ciphertext, tag.

    Security:
        Adversary: one who reads and changes the store and has not the owner's secret. It learns sizes, times and which
        row changed; what it changes or moves does not open. An older content put back in its own place does: against a
        store that was restored, its peers must remember how far it was.

    Constant time:
        AES-GCM of OpenSSL is, on processors with AES instructions; lengths are public.

    Source:
        NIST SP 800-38D; the key of a write is the child of the owner's secret that a random salt names.

    Example:
        >>> from fedloom.entropy import fresh_secret
        >>> owner = fresh_secret()
        >>> sealed = seal_at_rest(owner, b"share", place=b"row 1")
        >>> len(sealed), open_at_rest(owner, sealed, place=b"row 1")
        (46, b'share')
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = fresh_secret().random_bytes(_SALT)
    return b"".join((_FORM, salt, AESGCM(_key(owner, salt)).encrypt(_NONCE, plain, _bound(place))))


def open_at_rest(owner: Secret, sealed: bytes, *, place: bytes) -> bytes:
    """Return what ``seal_at_rest`` has sealed under the same secret for the same place.

    Raises:
        Error: When it is of another owner or place, or anything was changed: nothing of it is returned.

    Security:
        As ``seal_at_rest``; a forgery passes with probability below 2**-92 for contents up to a GiB.

    Constant time:
        As ``seal_at_rest``.

    Example:
        >>> open_at_rest(fresh_secret(), bytes([1] * 60), place=b"row 1")
        Traceback (most recent call last):
        fedloom.errors.Error: what is stored does not open: ...
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(sealed) < len(_FORM) + _SALT + _TAG or not sealed.startswith(_FORM):
        raise Error("what is stored does not open: it is no sealed content of this form, or was cut short")
    salt, rest = sealed[len(_FORM) :][:_SALT], memoryview(sealed)[len(_FORM) + _SALT :]
    try:
        return AESGCM(_key(owner, salt)).decrypt(_NONCE, rest, _bound(place))
    except InvalidTag as error:
        raise Error(
            "what is stored does not open: it was changed or moved, or was sealed under another key. It is not used"
        ) from error


def _key(owner: Secret, salt: bytes) -> bytes:
    return owner.child("at rest", salt.hex()).random_bytes(32)


def _bound(place: bytes) -> bytes:
    return frame(_LABEL, place)
