"""Exact draws from a stream of random words: integers below a bound, coins, and events of rational probability.

Nothing here is a float: a probability is a pair of integers, and an event has it exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedloom.core.keys import Stream
from fedloom.errors import Error

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

IN_A_ROW = 1000
"""No sampler sees so many unlikely events in a row: with random words, below 1e-290. It reports the stream instead."""
_TOP = 2**64 - 1
_FIRST = 2**8
_LARGEST = 2**15
"""256 KiB of words: a piece stays in the cache, and naming one costs little beside filling it."""


class Words:
    """The words of a stream in their order, each given out once, drawn in pieces of bounded size.

    Piece ``i`` is the stream's child ``("words", i)``; sizes double from 256 words to 32,768. So what is given out is a
    function of the stream and of the counts asked for, and a few words cost little.

    Security:
        Whoever can time a caller learns about how many words it rejected. Draw noise in a batch of its own, before or
        after the data are touched, never per coordinate in step with them.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pieces = 0
        self._piece: UInts = np.empty(0, np.uint64)

    def take(self, count: int) -> UInts:
        """Return the next ``count`` words."""
        parts: list[UInts] = []
        while count > len(self._piece):
            parts.append(self._piece)
            count -= len(self._piece)
            size = min(_FIRST << min(self._pieces, 16), _LARGEST)
            self._piece = self._stream.child("words", self._pieces).random_raw(size)
            self._pieces += 1
        taken, self._piece = self._piece[:count], self._piece[count:]
        return np.concatenate([*parts, taken]) if parts else taken

    def take_below(self, limit: int, count: int) -> UInts:
        """Return the next ``count`` words below a positive ``limit``: uniform, the others being passed over."""
        words = self.take(count)
        if limit > _TOP or not len(words):
            return words
        bound = np.uint64(limit)
        if words.max() < bound:
            return words
        words = words.copy()
        for _ in range(IN_A_ROW):
            over = np.flatnonzero(words >= bound)
            if not len(over):
                return words
            words[over] = self.take(len(over))
        raise not_random(f"words of at least {limit}")

    def below(self, bound: int, count: int) -> UInts:
        """Return ``count`` integers uniform below ``bound``, from 1 to 2**64 - 1."""
        step = _TOP // bound
        return self.take_below(step * bound, count) // np.uint64(step)

    def events(self, numerators: UInts, denominator: int) -> Bools:
        """Return one event for each numerator, of probability exactly ``numerator / denominator``.

        Each is ``r < numerator`` for an ``r`` uniform below the denominator, compared without dividing.

        Args:
            numerators: At most the denominator.
            denominator: From 1 to 2**64 - 1.
        """
        step = _TOP // denominator
        words = self.take_below(step * denominator, len(numerators))
        happened: Bools = words < numerators * np.uint64(step)
        return happened

    def coins(self, count: int) -> Bools:
        """Return ``count`` events of probability 1/2, 64 from a word."""
        words = self.take(-(-count // 64)).astype("<u8", copy=False)
        return np.unpackbits(words.view(np.uint8), count=count, bitorder="little").view(np.bool_)


def not_random(events: str) -> Error:
    """Return the error of a sampler that would otherwise run for ever, or count until a number wraps."""
    return Error(f"{IN_A_ROW} {events} in a row: the stream is not random. Nothing was drawn; replace the secret")
