"""Integer noise: the discrete Gaussian and the discrete Laplace, exactly, many at once.

Noise that protects is drawn here. No decision is made with a float: which floats can be reached at all tells what the
noise was added to, and a law that is right up to rounding needs a delta of its own. What is drawn is a function of the
stream and of the parameters; the first k of n numbers are the same as k numbers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from fedloom.core.keys import Stream
from fedloom.entropy.exponential import exp_minus, exp_minus_fraction, exp_minus_mixed, geometric
from fedloom.entropy.words import IN_A_ROW, Bools, Ints, UInts, Words, not_random
from fedloom.errors import Error

Rational: TypeAlias = Fraction | int | tuple[int, int]

EXACT_BELOW = 2**60
"""Of ``2 p q t**2`` for a variance p/q, with t the root of the variance rounded down, plus 1."""
LAPLACE_BELOW = 2**40
"""Of both terms of a Laplace scale."""
_SQUARES_BELOW = 2**32
_FIRST_BATCH = 2**6
_LARGEST_BATCH = 2**15


def discrete_gaussian(stream: Stream, variance: Rational, size: int) -> Ints:
    """Draw integers of probability proportional to ``exp(-x**2 / (2 * variance))``.

    ``variance`` is the parameter sigma**2. The numbers' own variance is less: by 14 % at sigma = 0.5,
    by 2e-7 at 1.

    Args:
        stream: Names this one draw: the same stream gives the same noise, which then protects nothing.
        variance: Positive and rational, p/q; ``2 p q t**2`` must be below 2**60, for t the root of p/q rounded down,
            plus 1. So a whole sigma may be up to 27,553.
        size: How many.

    Returns:
        Shape ``(size,)``.

    Raises:
        Error: Outside of that range: nothing wraps, and nothing is rounded to fit.

    Guarantee:
        The law is exact for random words: added to integers whose neighbours differ by at most D in l2 norm, one number
        to each, it gives D**2 / (2 * variance)-zero-concentrated differential privacy. Calibration is the caller's.

    Security:
        As good as the stream; a public key (``core.keys.Key``) gives noise that anybody with the seed can subtract.
        Leaks by time about how many candidates were rejected: draw in a batch of its own, not in step with the data.

    Constant time:
        No.

    Source:
        Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Algorithm 3. Differs (same law): candidates are drawn in
        batches, the rejected ones replaced by those that follow.

    Example:
        >>> from fedloom.core.keys import Key
        >>> discrete_gaussian(Key.from_seed(7).child("noise"), Fraction(25, 4), 8).tolist()
        [0, -1, -2, 1, 1, -2, 0, -1]
    """
    law = _GaussianLaw.of(variance)
    return _collect(lambda words, count: _gaussian_batch(words, law, count), stream, size)


def discrete_laplace(stream: Stream, scale: Rational, size: int) -> Ints:
    """Draw integers of probability proportional to ``exp(-|x| / scale)``.

    Args:
        stream: Names this one draw: the same stream gives the same noise, which then protects nothing.
        scale: Positive and rational, both of its terms below 2**40.
        size: How many.

    Returns:
        Shape ``(size,)``.

    Raises:
        Error: Outside of that range.

    Guarantee:
        The law is exact for random words: added to integers whose neighbours differ by at most D in l1 norm, one number
        to each, it gives (D / scale, 0)-differential privacy. Calibration is the caller's.

    Security:
        As ``discrete_gaussian``.

    Constant time:
        No.

    Source:
        Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Algorithm 2. Differs (same law): drawn in batches, the
        rejected candidates replaced by those that follow.

    Example:
        >>> from fedloom.core.keys import Key
        >>> discrete_laplace(Key.from_seed(7).child("noise"), 3, 8).tolist()
        [0, -1, 13, -2, 4, 1, 1, -2]
    """
    t, s = _terms(scale, "discrete_laplace(scale=...)")
    if max(t, s) >= LAPLACE_BELOW:
        raise Error(
            f"discrete_laplace(scale={t}/{s}): expected both terms below 2**40. Round the scale up to a fraction of a "
            "smaller denominator, or the values to a coarser grid"
        )
    return _collect(lambda words, count: _laplace_batch(words, t, s, count), stream, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _GaussianLaw:
    """How a candidate x of Laplace scale t is judged: kept with probability ``exp(-(|x| - p/(q t))**2 q / (2 p))``."""

    p: int
    q: int
    t: int

    @classmethod
    def of(cls, variance: Rational) -> _GaussianLaw:
        """Return the law of a variance, checked to be in the exact range."""
        p, q = _terms(variance, "discrete_gaussian(variance=...)")
        law = cls(p=p, q=q, t=math.isqrt(p // q) + 1)
        if law.denominator >= EXACT_BELOW:
            raise Error(
                f"discrete_gaussian(variance={p}/{q}): 2 * {p} * {q} * {law.t}**2 has {law.denominator.bit_length()} "
                "bits; expected less than 2**60, up to where the sampler is exact. Round the variance up to a fraction "
                "of a smaller denominator, or take a coarser grid, or the sum of several draws"
            )
        return law

    @property
    def denominator(self) -> int:
        """Of the exponent: ``(|x| q t - p)**2 / (2 p q t**2)``."""
        return 2 * self.p * self.q * self.t**2

    @property
    def largest(self) -> int:
        """The largest ``|x|`` for which the numerator fits a word."""
        return (_SQUARES_BELOW - 1 + self.p) // (self.q * self.t)


def _gaussian_batch(words: Words, law: _GaussianLaw, count: int) -> Ints:
    values = _laplace_batch(words, law.t, 1, count)
    sizes = np.abs(values)
    if not len(sizes) or int(sizes.max()) <= law.largest:
        return values[_kept(words, sizes, law)]
    narrow = sizes <= law.largest
    kept = np.empty(len(values), np.bool_)
    kept[narrow] = _kept(words, sizes[narrow], law)
    kept[~narrow] = _kept_wide(words, sizes[~narrow], law)
    return values[kept]


def _kept(words: Words, sizes: Ints, law: _GaussianLaw) -> Bools:
    # Fits: p < 2**30, for p**2 <= p q t**2 < 2**59; and the sizes are at most law.largest.
    distance = np.abs(sizes * np.int64(law.q * law.t) - np.int64(law.p)).astype(np.uint64)
    return exp_minus(words, distance * distance, law.denominator)


def _kept_wide(words: Words, sizes: Ints, law: _GaussianLaw) -> Bools:
    """As ``_kept``, for the candidates, mostly few, whose numerator needs more than 64 bits."""
    pairs = [divmod((size * law.q * law.t - law.p) ** 2, law.denominator) for size in sizes.tolist()]
    wholes = np.array([whole for whole, _ in pairs], dtype=object)
    parts: UInts = np.array([part for _, part in pairs], dtype=np.uint64)
    return exp_minus_mixed(words, wholes, parts, denominator=law.denominator)


def _laplace_batch(words: Words, t: int, s: int, count: int) -> Ints:
    """Return those of ``count`` candidates that are kept: discrete Laplace of scale t/s."""
    rests = words.below(t, count) if t > 1 else np.zeros(count, np.uint64)
    if t > 1:
        rests = rests[exp_minus_fraction(words, rests, t)]
    wholes = geometric(words, len(rests))
    # Below 2**40 * 1000: it does not wrap.
    sizes = (rests.astype(np.int64) + t * wholes) // s
    negative = words.coins(len(sizes))
    kept = ~(negative & (sizes == 0))  # one zero, not two
    values: Ints = np.where(negative, -sizes, sizes)[kept]
    return values


def _collect(batch: Callable[[Words, int], Ints], stream: Stream, size: int) -> Ints:
    """Return the first ``size`` numbers of the batches, whose sizes depend on their place alone."""
    if size < 0:
        raise Error(f"size = {size}: expected a count of 0 or more")
    words, values, count = Words(stream), np.empty(size, np.int64), _FIRST_BATCH
    found = empty = 0
    while found < size:
        new = batch(words, count)[: size - found]
        values[found : found + len(new)] = new
        found += len(new)
        count = min(2 * count, _LARGEST_BATCH)
        empty = 0 if len(new) else empty + 1
        if empty >= IN_A_ROW:  # each with probability below 1e-6: a quarter of the candidates is kept
            raise not_random("batches without a number")
    return values


def _terms(number: object, name: str) -> tuple[int, int]:
    """Return a positive rational as its numerator and denominator, without a common factor."""
    terms = (0, 0)
    match number:
        case (numbers.Integral() as numerator, numbers.Integral() as denominator):
            terms = int(numerator), int(denominator)
        case numbers.Rational():
            terms = int(number.numerator), int(number.denominator)
    if min(terms) < 1:
        raise Error(f"{name}: expected a positive fraction, or a pair of positive integers; received {number!r}")
    lowest = Fraction(*terms)
    return lowest.numerator, lowest.denominator
