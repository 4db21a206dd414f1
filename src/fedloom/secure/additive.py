"""Additive sharing in Z_m: a vector as one share of words and one or two seeds, which sum to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedloom.core.params import Vector
from fedloom.errors import Error
from fedloom.secure.masks import add_masks


def hidden_words(values: Vector, seeds: Sequence[bytes]) -> Vector:
    """Return the share of words: the values minus the mask of each seed.

    Args:
        values: Residues, ``(d,)``, of uint32 or uint64: modulo the range of the type.
        seeds: 32 bytes each, drawn for this vector and used for no other.

    Raises:
        Error: If there is no seed: the words would be the values.

    Security:
        Adversary: one who lacks at least one seed; to it the words are uniform, whatever the values, if AES in counter
        mode is a pseudorandom function. Leaks: ``d``.

    Constant time:
        Yes, in practice: additions of whole arrays and AES of OpenSSL; what it takes depends on ``d`` and their number.

    Source: Corrigan-Gibbs and Boneh 2017, Prio, arXiv:1703.06255, appendix "Additional optimizations", PRG secret
        sharing. Differs: in Z_(2**w) and not in a prime field, so that a raw word of keystream is uniform.

    Example:
        >>> values = np.array([1, 2, 3], np.uint32)
        >>> seeds = [bytes(range(32)), bytes(range(32, 64))]
        >>> words = hidden_words(values, seeds)
        >>> (words + seed_total(seeds, 3, dtype="uint32")).tolist()
        [1, 2, 3]
    """
    if not seeds:
        raise Error("additive sharing needs a seed for each server but the first; received none")
    words = np.array(values, order="C")
    add_masks(words, [(seed, -1) for seed in seeds])
    return words


def seed_total(seeds: Sequence[bytes], dim: int, *, dtype: str) -> Vector:
    """Return the sum of the masks that some seeds stand for, ``(dim,)``.

    Security:
        Adversary: one who lacks at least one of the seeds; to it the sum is uniform. Leaks: nothing else.

    Constant time:
        Yes, in practice, as ``hidden_words``.
    """
    total = np.zeros(dim, dtype)
    add_masks(total, [(seed, 1) for seed in seeds])
    return total


def ring_total(terms: Iterable[Vector], dim: int, *, dtype: str) -> Vector:
    """Return the sum of vectors of residues, ``(dim,)``: one at a time, so that a generator of them may be large.

    Example:
        >>> ring_total([np.array([2**32 - 1], np.uint32), np.array([3], np.uint32)], 1, dtype="uint32").tolist()
        [2]
    """
    total = np.zeros(dim, dtype)
    for term in terms:
        np.add(total, term, out=total)
    return total
