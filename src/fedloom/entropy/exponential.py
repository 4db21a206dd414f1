"""Events of probability exactly exp(-x) for rational x, many at once, in integers.

Source:
    Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Algorithm 1. Differs (same law): all events advance together;
    and for x = 1 the whole series is read off one integer below 17!.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.entropy.words import IN_A_ROW, Bools, Ints, UInts, Words, not_random

_STEPS = 17
ONE_WORD = math.factorial(_STEPS)
"""The first 17 terms of the series of exp(-1) have this common denominator; the rest is needed once in 4e14 events."""
_TOP = 2**64 - 1


def exp_minus(words: Words, numerators: UInts, denominator: int) -> Bools:
    """Return one event for each numerator, of probability exactly ``exp(-numerator / denominator)``.

    Example:
        >>> from fedloom.core.keys import Key
        >>> exp_minus(Words(Key.from_seed(1)), np.array([0, 1, 700], np.uint64), 7).tolist()
        [True, True, False]
    """
    wholes = numerators // np.uint64(denominator)
    parts = numerators - wholes * np.uint64(denominator)
    return exp_minus_mixed(words, wholes, parts, denominator=denominator)


def exp_minus_mixed(words: Words, wholes: npt.NDArray[Any], parts: UInts, *, denominator: int) -> Bools:
    """Return events of probability ``exp(-(whole + part / denominator))``, with every part below the denominator.

    ``wholes`` may be an array of Python integers, where 64 bits do not hold them.
    """
    happened = exp_minus_fraction(words, parts, denominator)
    left = np.flatnonzero(happened & (wholes > 0))
    for done in range(1, IN_A_ROW):
        if not len(left):
            return happened
        passed = exp_minus_one(words, len(left))
        happened[left[~passed]] = False
        left = left[passed]
        left = left[wholes[left] > done]
    raise not_random("events of probability exp(-1)")


def exp_minus_fraction(words: Words, numerators: UInts, denominator: int) -> Bools:
    """Return events of probability ``exp(-numerator / denominator)`` for numerators up to the denominator.

    With x the fraction, let event k have probability x/k. The first k that does not happen is odd with probability
    1 - x + x**2/2 - x**3/6 + ... = exp(-x).
    """
    happened = np.ones(len(numerators), np.bool_)
    _run_series(words, happened, np.arange(len(numerators)), numerators, denominator=denominator, first=1)
    return happened


def exp_minus_one(words: Words, count: int) -> Bools:
    """Return ``count`` events of probability exp(-1).

    In the series for x = 1 the first k steps all happen with probability 1/k!: for an ``r`` uniform below 17!, let that
    be ``r < 17!/k!``. Only ``r = 0`` leaves the end open.
    """
    step = _TOP // ONE_WORD
    drawn = words.take_below(step * ONE_WORD, count)
    happened = np.zeros(count, np.bool_)
    for k in range(2, _STEPS + 1):
        happened ^= drawn < np.uint64(ONE_WORD // math.factorial(k) * step)
    open_ended = np.flatnonzero(drawn < np.uint64(step))
    if len(open_ended):
        ones = np.ones(len(open_ended), np.uint64)
        _run_series(words, happened, open_ended, ones, denominator=1, first=_STEPS + 1)
    return happened


def geometric(words: Words, count: int) -> Ints:
    """Return ``count`` integers v of probability proportional to exp(-v), from 0 on; 1,000 would be an error."""
    values = np.zeros(count, np.int64)
    left = np.arange(count)
    for _ in range(IN_A_ROW):
        if not len(left):
            return values
        left = left[exp_minus_one(words, len(left))]
        values[left] += 1
    raise not_random("events of probability exp(-1)")


def _run_series(words: Words, happened: Bools, left: Ints, numerators: UInts, *, denominator: int, first: int) -> None:
    """Run the series from step ``first`` on, in place: ``happened`` holds whether ``first`` is odd."""
    for k in range(first, first + IN_A_ROW):
        if not len(left):
            return
        passed = np.flatnonzero(_at_step(words, numerators, denominator=denominator, k=k))
        left, numerators = left[passed], numerators[passed]
        happened[left] ^= True
    raise not_random("steps of a series that all happened")


def _at_step(words: Words, numerators: UInts, *, denominator: int, k: int) -> Bools:
    if denominator * k <= _TOP:
        return words.events(numerators, denominator * k)
    # Two events whose product has the probability: the common denominator does not fit a word.
    both: Bools = words.events(numerators, denominator) & words.events(np.ones(len(numerators), np.uint64), k)
    return both
