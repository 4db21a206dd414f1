"""Grid: the integers that stand for a bounded vector: how fine they are, how long they get, how many of them add up.

All of it is arithmetic before round 1. Four things bind the scale ``2**bits``: the sum of all invited clients must not
leave half of Z_m; noise must fit beside it; the noise must be cheap to draw exactly; and rounding, which makes a vector
longer, must not make it much longer, because noise grows with the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fedloom.core.integer_noise import MOST_INFLATION, MOST_SIGMA, draws_of, share_sigma

_LENGTH_BITS = 30
"""A vector is at most 2**30 steps long: its squared norm fits 64 bits."""
_SCALES = 64
"""Scales that are tried, from the finest on."""
_WRAPS = 1e-9
"""Chance that noise wraps somewhere in the vector of a round: it would cost accuracy there, never privacy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """What is put on the grid, and what the sum must hold."""

    bound: float
    """On the norm of one client's parts."""
    dim: int
    """Number of parts."""
    clients: int
    """Invited to a round at most."""
    modulus_bits: int
    weight: bool = False
    """Whether a weight of at most 1 travels beside them."""
    noise_multiplier: float | None = None
    noise_each: bool = False
    """Whether every client adds that noise, not the server alone."""
    noise_shares: int | None = None
    """How many clients' shares make up that noise, where every client adds a share of it; None: it is not shared."""
    l1: float | None = None
    """On the L1 norm of the parts, where the noise is a Laplace one: its scale then follows from this bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A scale for what is bounded, and what follows from it."""

    bits: int
    """A step is ``2**-bits``."""
    length: float
    """The bound before rounding, in steps."""
    most_square: int
    """Largest squared norm of the rounded parts; more is drawn again, or refused."""
    most: int
    """Largest coordinate of one client."""
    l1: int | None
    """Largest L1 norm of the rounded parts, where noise is measured by it."""
    inflation: float
    """By what share rounding raises the bound that noise is measured by."""
    noise: int
    """Standard deviation, or Laplace scale, of one draw of noise, in steps; 0: no noise."""
    draws: int
    """Draws of noise that one party adds up: the server, or each client; 0: no noise."""
    full: int
    """How far the sum of all clients, with its noise, can get from zero."""

    @property
    def l2(self) -> float:
        """Bound on the norm of the rounded parts, in steps."""
        return _root(self.most_square)


def most_square(steps: int, dim: int) -> int:
    """Return the largest squared norm that conditional rounding lets pass, for vectors up to ``steps`` long.

    Stochastic rounding adds ``dim / 4`` to a squared norm at most in expectation. A draw passes with probability at
    least ``1 - exp(-1/2)``, 0.39, whatever the vector; where the other bound is smaller, always.

    Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Algorithm 1 (conditional rounding), with granularity 1 and
        beta = exp(-1/2), so that ``sqrt(2 log(1/beta))`` is 1; roots are rounded up to integers (differs: the bound is
        at most a few units larger, and exact).

    Example:
        >>> round(math.sqrt(most_square(4096, 10**6)) / 4096 - 1, 4)
        0.0076
    """
    root = _whole_root(dim)
    return min(steps**2 + steps + -(-(dim + 2 * root) // 4), (steps + root) ** 2)


def most_sum(steps: int, dim: int) -> int:
    """Return the largest L1 norm that conditional rounding lets pass, for vectors up to ``steps`` long in that norm.

    Stochastic rounding leaves an L1 norm as it is in expectation, and moves it by more than ``sqrt(dim)`` upwards with
    probability at most ``exp(-2)``, by Hoeffding's inequality over coordinates that vary by one step each. Together
    with ``most_square`` a draw passes with probability at least ``1 - exp(-1/2) - exp(-2)``, 0.25.

    Example:
        >>> most_sum(1000, 100)
        1010
    """
    return steps + _whole_root(dim)


def grid(given: Bounded, bits: int) -> Grid:
    """Return the grid of a scale, whether it fits or not."""
    length = math.ldexp(given.bound, bits)
    steps = math.ceil(length)
    square = most_square(steps, given.dim)
    most = max(steps + 1, math.isqrt(square), math.ceil(math.ldexp(1.0, bits)) if given.weight else 0)
    longest, inflation = None, _root(square) / length - 1.0
    if given.l1 is not None:
        longest = most_sum(math.ceil(math.ldexp(given.l1, bits)), given.dim)
        inflation = longest / math.ldexp(given.l1, bits) - 1.0
    noise, draws, tail = 0, 0, 0
    if given.noise_multiplier is not None:
        beyond = math.log(2.0 * max(given.dim, 1) / _WRAPS)
        noises = given.clients if given.noise_each or given.noise_shares is not None else 1
        if longest is None:
            multiplier = given.noise_multiplier / math.sqrt(given.noise_shares or 1)
            draws = draws_of(multiplier, _root(square))
            noise = share_sigma(multiplier, _root(square), draws)
            tail = math.ceil(noise * math.sqrt(draws * noises) * math.sqrt(2.0 * beyond))
        else:
            draws, noise = 1, math.ceil(given.noise_multiplier * longest)
            tail = math.ceil(noise * (beyond if noises == 1 else 2.0 * (math.sqrt(noises * beyond) + beyond))) + 1
    return Grid(
        bits=bits,
        length=length,
        most_square=square,
        most=most,
        l1=longest,
        inflation=inflation,
        noise=noise,
        draws=draws,
        full=given.clients * most + tail,
    )


def fits(found: Grid, given: Bounded) -> bool:
    """Return whether the sum of all clients stays in its half of Z_m, and its squares in 64 bits."""
    return found.full < 1 << (given.modulus_bits - 1) and found.length <= 1 << _LENGTH_BITS


def finest(given: Bounded) -> Grid | None:
    """Return the finest grid that the modulus holds; None when not even a very coarse one does.

    Example:
        >>> alone = Bounded(bound=1.0, dim=10, clients=100, modulus_bits=32)
        >>> finest(alone).bits
        24
    """
    return next((found for found in _from_fine(given, _most_bits(given)) if fits(found, given)), None)


def for_noise(given: Bounded, top: int) -> Grid | None:
    """Return the grid for a noise: the finest one whose noise is one draw, if rounding is harmless there.

    Otherwise the coarsest one on which it is harmless; its noise is the sum of several draws, Laplace noise one wider
    draw. None: there is none up to ``top`` bits.

    Example:
        >>> wide = Bounded(bound=1.0, dim=10**6, clients=100, modulus_bits=32, noise_multiplier=5.0)
        >>> found = for_noise(wide, 20)
        >>> found.bits, found.draws, round(found.inflation, 3)
        (11, 7, 0.03)
    """
    cheap = (found for found in _from_fine(given, top) if found.draws == 1 and found.noise <= MOST_SIGMA)
    single = next(cheap, None)
    if single is not None and single.inflation <= MOST_INFLATION:
        return single
    needed = least_bits(given)
    return grid(given, needed) if needed <= top else None


def least_bits(given: Bounded) -> int:
    """Return the bits from which on rounding is harmless to the bound."""
    bits = _most_bits(given)
    while grid(given, bits - 1).inflation <= MOST_INFLATION:
        bits -= 1
    return bits


def _root(square: int) -> float:
    """Return a number that is not below the square root."""
    return math.nextafter(math.sqrt(square), math.inf)


def _whole_root(number: int) -> int:
    """Return the square root, rounded up."""
    return math.isqrt(number - 1) + 1 if number else 0


def _from_fine(given: Bounded, top: int) -> Iterator[Grid]:
    return (grid(given, bits) for bits in range(top, top - _SCALES, -1))


def _most_bits(given: Bounded) -> int:
    """Return the scale from which on the bound is more than ``2**_LENGTH_BITS`` steps."""
    return _LENGTH_BITS + 1 - math.frexp(given.bound)[1]
