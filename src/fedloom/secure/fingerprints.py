"""Fingerprints: what two people compare over the telephone, and what a join token carries of its federation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

FINGERPRINT_BYTES = 20
"""160 bits of SHA-256: 32 letters, 8 groups of 4. To meet a given one takes 2**160 tries."""


def fingerprint(content: bytes) -> str:
    """Return what stands for the content in a conversation: 8 groups of 4 letters and digits from 2 to 7.

    Args:
        content: A public key, a digest, or a certificate in DER.

    Security:
        Adversary: one who makes another content for a given fingerprint; 2**160 tries. One who makes both contents
        needs 2**80. Leaks: nothing.

    Example:
        >>> fingerprint(b"a key")
        'r6r2 vmx2 vg3z 4cqd tdnf wwv5 a6ab ijcc'
    """
    return written(short_digest(content))


def short_digest(content: bytes) -> bytes:
    """Return the 20 bytes that ``fingerprint`` writes."""
    return hashlib.sha256(content).digest()[:FINGERPRINT_BYTES]


def written(short: bytes) -> str:
    """Return 20 bytes as a fingerprint."""
    letters = base64.b32encode(short).decode().lower()
    return " ".join(letters[start : start + 4] for start in range(0, len(letters), 4))


def same_fingerprint(one: str, other: str) -> bool:
    """Return whether two fingerprints are one, however their letters are spaced and written.

    Constant time:
        In the content, for equal lengths.

    Example:
        >>> same_fingerprint(fingerprint(b"a key"), "R6R2-VMX2-VG3Z-4CQD-TDNF-WWV5-A6AB-IJCC")
        True
    """
    return hmac.compare_digest(_letters(one), _letters(other))


def _letters(text: str) -> bytes:
    return re.sub(r"[\s-]+", "", text).lower().encode()
