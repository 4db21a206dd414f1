"""Secret streams: AES-256 in counter mode over a key that only its owner holds, named by paths as public keys are.

A secret is 32 bytes. A step of a path turns them into 32 others by keyed BLAKE2b, and the words of a stream are the
keystream of AES-256 under a key derived in the same way: whoever is given a child learns nothing of its parent or of
its siblings. A stream is a function of its bytes and its path, so nothing goes wrong when a process forks or a thread
draws at the same time: two that draw the same path get the same words, and two that must not be equal are two paths.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
import numpy.typing as npt

from fedloom.core.keys import Key
from fedloom.entropy.guarded import guarded
from fedloom.errors import Error

_SIZE = 32
_ZEROS = bytes(2**18)
"""Counter mode encrypts these, a piece at a time: what is held beside the result is bounded."""
_FEWEST_VALUES = 8
"""32 bytes of entropy have fewer different values with probability below 1e-60; zeros and typed words have."""


@guarded("secrets", instead="compare what they are the secrets of, give a child, or store it with stored()")
class Secret:
    """A stream that only its owner can compute: a ``core.keys.SecretKey``.

    It does not print its content, and refuses ``==``, ``hash``, ``copy`` and ``pickle``: a secret that is compared,
    stored or sent is so by mistake, or by ``stored()``, which says it.

    Security:
        Adversary: one who sees any number of words of other paths, or holds other children, and computes less than
        2**128 steps; to it the words are random if keyed BLAKE2b and AES-256 are pseudorandom functions. At n bytes of
        one stream the counter mode differs from random words by at most (n/16)**2 / 2**129. What leaks: nothing by
        itself; but memory is not wiped (Python cannot), so one who reads the process's memory has the secret.

    Constant time:
        No: BLAKE2b and AES of OpenSSL are in practice; the Python around them is not, and depends on paths and counts,
        not on the secret.
    """

    __slots__ = ("_content", "_derived")

    def __init__(self, content: bytes, *, derived: bool) -> None:
        self._content = content
        self._derived = derived

    @property
    def derived(self) -> bool:
        """True if a public key gives it, as in simulation and rehearsal: it hides nothing."""
        return self._derived

    def child(self, *path: str | int) -> Secret:
        """Return the secret at ``path`` below this one; steps are tagged by type, so ``1`` is not ``"1"``."""
        content = self._content
        for step in path:
            word = step.encode() if isinstance(step, str) else b"%d" % step
            tagged = (b"s%d:" if isinstance(step, str) else b"i%d:") % len(word) + word
            content = _derive(content, tagged, person=b"fedloom/step/1")
        return Secret(content, derived=self._derived)

    def fill(self, buffer: memoryview) -> None:
        """Write the first bytes of this stream over a writable, contiguous buffer; the same bytes at every call."""
        fill_keystream(buffer, key=_derive(self._content, b"", person=b"fedloom/words/1"))

    def random_bytes(self, count: int) -> bytes:
        """Return the first ``count`` bytes of this stream; the same bytes at every call."""
        buffer = bytearray(count)
        self.fill(memoryview(buffer))
        return bytes(buffer)

    def random_raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the first ``count`` words of this stream, its bytes read in little-endian order."""
        words = np.empty(count, np.dtype("<u8"))
        self.fill(words.view(np.uint8).data)
        return words.astype(np.uint64, copy=False)

    def stored(self) -> bytes:
        """Return the 32 bytes, for the owner's own store; ``secret_of`` makes the secret of them again.

        Raises:
            Error: If the secret is derived: brought back, it would pass for one that hides something.
        """
        if self._derived:
            raise Error("a secret derived from a public key is not stored: derive it from the same key again")
        return self._content


def fresh_secret() -> Secret:
    """Return a secret of 32 bytes of the operating system's entropy.

    Security:
        As good as ``getrandom`` of the operating system, which waits until it is seeded.

    Example:
        >>> fresh_secret()
        <secret>
        >>> fresh_secret().derived
        False
    """
    return Secret(secrets.token_bytes(_SIZE), derived=False)


def secret_of(stored: bytes) -> Secret:
    """Return the secret that ``Secret.stored`` wrote: for a party that resumes.

    Args:
        stored: Exactly 32 bytes of entropy; no password and no seed.

    Raises:
        Error: If they are not 32 bytes, or are plainly no entropy.

    Example:
        >>> owner = fresh_secret()
        >>> again = secret_of(owner.stored())
        >>> again.random_bytes(8) == owner.random_bytes(8)
        True
    """
    content = bytes(memoryview(stored))  # a text is refused here: it is a password, no entropy
    if len(content) != _SIZE:
        raise Error(f"a stored secret is {_SIZE} bytes; received {len(content)}. Read back what Secret.stored() gave")
    if len(set(content)) < _FEWEST_VALUES:
        raise Error(
            f"a stored secret is {_SIZE} bytes of entropy; received only {len(set(content))} different byte values. "
            "Make one with fresh_secret()"
        )
    return Secret(content, derived=False)


def derived_secret(key: Key) -> Secret:
    """Return the secret that a public key gives: for simulation and rehearsal, where a run must be repeatable.

    Security:
        None: whoever knows the run's seed computes it. ``derived`` is true, here and in every child, so that reports
        can say "not private" and plans can refuse.

    Example:
        >>> secret = derived_secret(Key.from_seed(7))
        >>> secret.child("noise", 3).derived
        True
        >>> int(secret.child("noise", 3).random_raw(1)[0])
        9304120398307829200
    """
    return Secret(_derive(key.digest, b"", person=b"fedloom/public/1"), derived=True)


def fill_keystream(buffer: memoryview, *, key: bytes, counter: bytes = bytes(16)) -> None:
    """Write the keystream of AES-256 in counter mode over a writable, contiguous buffer.

    Args:
        buffer: What is overwritten, from its first byte to its last.
        key: 32 bytes, used for this one stream.
        counter: The first counter block, 16 bytes, counted up as one big-endian number.

    Source: NIST SP 800-38A, section 6.5.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # 40 ms: not before it is used

    left = buffer.cast("B")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    zeros = memoryview(_ZEROS)
    while left:
        written = encryptor.update_into(zeros[: len(left)], left)
        left = left[written:]


def _derive(content: bytes, data: bytes, *, person: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SIZE, key=content, person=person).digest()
