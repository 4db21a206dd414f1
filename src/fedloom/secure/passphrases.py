"""Passphrases: keys that rest in a file which nobody opens who does not know the words."""

from __future__ import annotations

import base64
import binascii
import hashlib

from fedloom.entropy import fresh_secret, secret_of
from fedloom.errors import Error, TrustError
from fedloom.secure.at_rest import open_at_rest, seal_at_rest
from fedloom.secure.encoding import frame

_LABEL = b"fedloom/passphrase/v1"
_FORM = 1
_SALT = 16
_COST = 17
_COSTS = range(14, 21)
"""2**14 is the least that this machine opens, 2**20 (1 GiB) the most that a file makes it compute."""
_BLOCK = 8
_FEWEST = 12
_BEGIN, _END = b"-----BEGIN FEDLOOM SEALED KEY-----", b"-----END FEDLOOM SEALED KEY-----"


def seal_under(passphrase: str, plain: bytes, *, place: str, cost: int = _COST) -> bytes:
    """Return the content as text lines that open under the passphrase only: scrypt, then AES-256-GCM.

    Args:
        passphrase: At least 12 characters.
        plain: The content.
        place: What it is, bound to it: sealed as one thing, it does not open as another.
        cost: scrypt's N is ``2**cost``; 17 takes 128 MiB and about half a second for each guess.

    Raises:
        Error: When the passphrase is shorter, or the cost outside 14 to 20.

    Security:
        Adversary: one who has the file. It tries passphrases at scrypt's cost each; a good one is five random words.
        Leaks: the length of the content.

    Constant time:
        As ``seal_at_rest``; scrypt's accesses to memory depend on the passphrase.

    Source:
        RFC 7914; N = 2**17, r = 8, p = 1.

    Example:
        >>> sealed = seal_under("five words of no poem", b"key", place="root", cost=14)
        >>> open_under("five words of no poem", sealed, place="root")
        b'key'
    """
    if len(passphrase) < _FEWEST:
        raise Error(f"a passphrase of {len(passphrase)} characters is guessed: use {_FEWEST} or more, such as 5 words")
    salt = fresh_secret().random_bytes(_SALT)
    owner = secret_of(_stretched(passphrase, salt, cost))
    sealed = bytes((_FORM, cost)) + salt + seal_at_rest(owner, plain, place=frame(_LABEL, place, cost, salt))
    text = base64.b64encode(sealed)
    lines = (text[start : start + 64] for start in range(0, len(text), 64))
    return b"\n".join((_BEGIN, *lines, _END, b""))


def open_under(passphrase: str, sealed: bytes, *, place: str) -> bytes:
    """Return what ``seal_under`` has sealed.

    Raises:
        TrustError: ``unreadable``, when it is nothing sealed; ``wrong_passphrase``, when it does not open.

    Security:
        As ``seal_under``.

    Constant time:
        As ``seal_under``.
    """
    begin, end = sealed.find(_BEGIN), sealed.find(_END)
    try:
        content = base64.b64decode(b"".join(sealed[begin + len(_BEGIN) : end].split()), validate=True)
    except binascii.Error as error:
        raise TrustError("this sealed key was changed or cut short", reason="unreadable") from error
    if begin < 0 or end < begin or len(content) < 2 + _SALT or content[0] != _FORM or content[1] not in _COSTS:
        raise TrustError(f"this is no key sealed under a passphrase: it has no {_BEGIN.decode()}", reason="unreadable")
    cost, salt, rest = content[1], content[2 : 2 + _SALT], content[2 + _SALT :]
    owner = secret_of(_stretched(passphrase, salt, cost))
    try:
        return open_at_rest(owner, rest, place=frame(_LABEL, place, cost, salt))
    except Error as error:
        raise TrustError(
            f"the {place} does not open: the passphrase is another one, or the file was changed",
            reason="wrong_passphrase",
        ) from error


def _stretched(passphrase: str, salt: bytes, cost: int) -> bytes:
    if cost not in _COSTS:
        raise Error(f"scrypt(cost={cost}): expected from {_COSTS[0]} to {_COSTS[-1]}")
    n = 1 << cost
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=_BLOCK, p=1, maxmem=256 * n * _BLOCK, dklen=32)
