"""Random streams named by a path: no generator state to share, save or get out of step.

``run.child("round", 3, 0).child("client", "hospital-7")`` is the same stream in every process that can write down the
path, whatever was drawn before it. Orders and subsets are built from raw 64-bit words, because numpy promises the
bits of a bit generator and not those of ``Generator.permutation``.
"""

from __future__ import annotations

import hashlib
import operator
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fedloom.errors import Error

_LITTLE = np.dtype("<u8")
_PACKED_FROM = 512
"""Sorting words that carry their places is ten times as fast as sorting places, from about this many on."""


class Stream(Protocol):
    """A source of random words that can name streams below itself."""

    def child(self, *path: str | int) -> Stream:
        """Return the stream at ``path`` below this one."""
        ...

    def random_raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the first ``count`` words of this stream; the same words at every call."""
        ...


class SecretKey(Stream, Protocol):
    """A stream that only its owner can compute; no ``repr``, no ``==``, no pickle."""

    def child(self, *path: str | int) -> SecretKey:
        """Return the secret at ``path`` below this one."""
        ...

    @property
    def derived(self) -> bool:
        """True in simulation and rehearsal, where secrets come from the run's seed."""
        ...


class _Philox(threading.local):
    """One bit generator a thread: setting its whole state costs a tenth of building it anew."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.fresh = self.bits.state


_philox = _Philox()


class Key(Struct, frozen=True):
    """A public stream, named by a path that starts at the run's seed.

    A key *is* its path, written unambiguously: each step is tagged by type and prefixed by length. It is hashed when
    something is drawn, so naming a stream costs next to nothing.

    Example:
        >>> run = Key.from_seed(7)
        >>> run.child("round", 3) == run.child("round").child(3)
        True
        >>> int(run.child("round", 3).random_raw(1)[0])
        12328613202036050731
    """

    path: bytes

    @classmethod
    def from_seed(cls, seed: int) -> Key:
        """Return the root key of a seed.

        Raises:
            Error: When the seed is negative or does not fit 64 bits.
        """
        if not 0 <= seed < 2**64:
            raise Error(f"seed = {seed}: expected an integer from 0 to 2**64 - 1")
        return cls(b"fedloom/run/1" + operator.index(seed).to_bytes(8, "little"))

    def child(self, *path: str | int) -> Key:
        """Return the key at ``path`` below this one; steps are tagged by type, so ``1`` is not ``"1"``."""
        written = self.path
        for step in path:
            if isinstance(step, str):
                word = step.encode()
                written += b"s%d:%b" % (len(word), word)
            else:
                word = b"%d" % step
                written += b"i%d:%b" % (len(word), word)
        return Key(written)

    @property
    def digest(self) -> bytes:
        """BLAKE2b-256 of the path."""
        return hashlib.blake2b(self.path, digest_size=32, person=b"fedloom/key/1").digest()

    def random_raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the first ``count`` words of Philox4x64-10 keyed by the first half of the digest."""
        state = _philox.fresh
        state["state"]["key"] = np.frombuffer(self.digest, _LITTLE, count=2)
        _philox.bits.state = state
        return _philox.bits.random_raw(count)

    def generator(self) -> np.random.Generator:
        """Return a numpy generator that starts this stream: for shapes of draws that ``random_raw`` has no word for."""
        return np.random.Generator(np.random.Philox(key=np.frombuffer(self.digest, _LITTLE, count=2)))

    def torch_seed(self) -> int:
        """Return a seed for ``torch.Generator.manual_seed``."""
        return int.from_bytes(self.digest[16:24], "little") >> 1


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NoSecret:
    """The secret key of a run that protects nothing: drawing from it is an error, never a weak number."""

    @property
    def derived(self) -> bool:
        """True: nothing here is secret."""
        return True

    def child(self, *path: str | int) -> NoSecret:
        """Return itself, whatever the path."""
        del path
        return self

    def random_raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Refuse.

        Raises:
            Error: Always.
        """
        raise Error(f"{count} secret words were asked for in a run that was opened without secret keys")

    def __repr__(self) -> str:
        """Return a fixed word: secrets do not print."""
        return "<secret>"


NO_SECRET = NoSecret()


class Keys(Struct, frozen=True):
    """The two streams of a party: one that anybody with the run's seed can recompute, one that nobody else can."""

    public: Key
    secret: SecretKey


def uniforms(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return words as float64 in [0, 1): the upper 53 bits of each."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(stream: Stream, count: int) -> npt.NDArray[np.int64]:
    """Return an order of ``0 .. count - 1`` drawn from the stream.

    The places sorted by their words, the lowest bits of each word giving way to its place: so all words differ, and any
    sort gives the same order.

    Example:
        >>> sorted(permutation(Key.from_seed(1), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    order: npt.NDArray[np.int64] = permutations([stream], count)[0]
    return order


def permutations(streams: Sequence[Stream], count: int) -> npt.NDArray[np.int64]:
    """Return an order of ``0 .. count - 1`` for each stream, shape ``(streams, count)``: rows as ``permutation`` gives.

    Example:
        >>> keys = [Key.from_seed(1), Key.from_seed(2)]
        >>> bool((permutations(keys, 5)[1] == permutation(keys[1], 5)).all())
        True
    """
    words = np.empty((len(streams), count), np.uint64)
    for row, stream in zip(words, streams, strict=True):
        row[:] = stream.random_raw(count)
    places = np.uint64((1 << max(count - 1, 0).bit_length()) - 1)
    if count < _PACKED_FROM:
        words |= places
        order: npt.NDArray[np.int64] = words.argsort(axis=1, kind="stable")
        return order
    words &= ~places
    words |= np.arange(count, dtype=np.uint64)
    words.sort(axis=1)
    words &= places
    return words.astype(np.int64)


def distinct(stream: Stream, size: int, *, below: int) -> npt.NDArray[np.int64]:
    """Return ``size`` different integers below ``below``, ascending, in memory that does not grow with ``below``.

    Floyd's sampling on words taken modulo the range, with words that would bias it rejected.

    Source: Bentley and Floyd 1987, "A sample of brilliance", algorithm F2.

    Example:
        >>> distinct(Key.from_seed(1), 3, below=3).tolist()
        [0, 1, 2]
    """
    if not 0 <= size <= below:
        raise Error(f"distinct(size={size}, below={below}): size must lie between 0 and {below}")
    chosen: set[int] = set()
    words = _words(stream)
    for top in range(below - size, below):
        drawn = _draw_below(top + 1, words)
        chosen.add(top if drawn in chosen else drawn)
    return np.array(sorted(chosen), dtype=np.int64)


def _draw_below(bound: int, words: Iterator[int]) -> int:
    fair = 2**64 - 2**64 % bound
    return next(word for word in words if word < fair) % bound


def _words(stream: Stream) -> Iterator[int]:
    chunk = 0
    while True:
        yield from stream.child("words", chunk).random_raw(256).tolist()
        chunk += 1
