"""Shamir's secret sharing of 32 bytes, in the field of 2**256 + 297 elements.

That is the least prime above 2**256: every 32-byte string is an element as it is. A smaller field would change a key by
reducing it; one of 2**256 elements has no coordinates that can be multiplied as integers.

Source:
    Shamir 1979, "How to share a secret", Communications of the ACM 22 (11).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

from fedloom.errors import Error

PRIME = 2**256 + 297
SHARE_BYTES = 33
_SECRET_BYTES = 32
_DRAWN_BYTES = 48
"""For one coefficient: 384 bits, reduced, are within 2**-127 of uniform, and their number is known beforehand."""
_FEWEST = 2


def split(secret: bytes, *, threshold: int, places: Sequence[int], entropy: Callable[[int], bytes]) -> list[bytes]:
    """Return a share for each place: the value there of a random polynomial, of degree ``threshold - 1``.

    The polynomial's value at 0 is the secret.

    Args:
        secret: 32 bytes.
        threshold: How many shares give the secret back; from 2 to the number of places.
        places: Distinct positive integers, one for each holder.
        entropy: Called once, with a number of bytes; returns that many. It must be a stream of its own for every
            secret: ``Secret.child(...).random_bytes`` with another path each time. Two secrets split with the same
            bytes have shares whose difference is the difference of the secrets.

    Returns:
        In the order of the places, 33 bytes each, in big-endian order.

    Raises:
        Error: If anything is outside of what is described here.

    Security:
        Adversary: whoever holds fewer than ``threshold`` shares, with unbounded computation. Every secret is equally
        likely to it, up to 2**-127 for each coefficient, and as far as the entropy is random. Leaks: nothing. A dealer
        may deal shares of no polynomial: commitments and the known public key show that, not this function.

    Constant time:
        No: integers of Python. Whoever times the dealer closely may learn of the secret; deal where nobody does.

    Source:
        Shamir 1979. Differs: coefficients by reducing 384 bits instead of rejection, so that one call gives them all.

    Example:
        >>> shares = split(bytes(range(32)), threshold=2, places=[1, 2, 3], entropy=lambda count: bytes([7]) * count)
        >>> combine([shares[2], shares[0]], coefficients([3, 1])) == bytes(range(32))
        True
    """
    if len(secret) != _SECRET_BYTES:
        raise Error(f"a secret to split is {_SECRET_BYTES} bytes; received {len(secret)}")
    _check_places(places)
    if not _FEWEST <= threshold <= len(places):
        raise Error(f"threshold = {threshold}: expected from {_FEWEST} to the number of places, {len(places)}")
    drawn = entropy(_DRAWN_BYTES * (threshold - 1))
    if len(drawn) != _DRAWN_BYTES * (threshold - 1):
        raise Error(f"entropy gave {len(drawn)} bytes of {_DRAWN_BYTES * (threshold - 1)}: nothing was dealt")
    highest_first = [
        int.from_bytes(drawn[start : start + _DRAWN_BYTES], "big") % PRIME
        for start in range(0, len(drawn), _DRAWN_BYTES)
    ]
    polynomial = [*highest_first, int.from_bytes(secret, "big")]
    return [_value(polynomial, place).to_bytes(SHARE_BYTES, "big") for place in places]


def coefficients(places: Sequence[int]) -> list[int]:
    """Return the weights by which the shares of these places add up to the secret.

    The weight of x is the product of ``y / (y - x)`` over the other places y, modulo the prime. It depends on the
    places alone: compute it once for a set of holders, and use it for all their secrets.

    Args:
        places: Distinct positive integers, at least one.

    Returns:
        In the order of the places, each below the prime.

    Raises:
        Error: If there are none, or they are not distinct and positive.

    Security:
        Adversary: none; places are public.

    Constant time:
        No, and it need not be.

    Source:
        Lagrange's formula at 0, with one inversion in all: Montgomery 1987, "Speeding the Pollard and elliptic curve
        methods of factorization", section 10.3.1.

    Example:
        >>> [weight - PRIME if weight > PRIME // 2 else weight for weight in coefficients([1, 2, 3])]
        [3, -3, 1]
    """
    _check_places(places)
    numerator = math.prod(places) % PRIME
    inverses = _inverses([x * math.prod(y - x for y in places if y != x) % PRIME for x in places])
    return [numerator * inverse % PRIME for inverse in inverses]


def combine(shares: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """Return the secret of which these are shares.

    Args:
        shares: As many as the threshold says, or more, of one secret; 33 bytes each.
        weights: ``coefficients`` of their places, in the same order.

    Returns:
        32 bytes. Shares that are wrong or too few give some other 32 bytes, or an error: check the result against what
        is known of the secret, its public key or its commitment.

    Raises:
        Error: If there are none, if one is not 33 bytes of a number below the prime, or if the sum is no 32 bytes.

    Security:
        Adversary: a holder that hands in a wrong share; it is not found here (its commitment finds it), and may choose
        by how much the result is off. Leaks: the secret, to whoever combines.

    Constant time:
        No: integers of Python. Whoever combines knows the secret; the time may tell others of it.

    Source:
        Shamir 1979, as ``split``.

    Example:
        >>> combine([bytes(33), bytes(33)], coefficients([1, 2])).hex()[:8]
        '00000000'
    """
    if len(shares) != len(weights) or not shares:
        raise Error(f"received {len(shares)} shares and {len(weights)} weights: expected some, and a weight for each")
    values = list(map(int.from_bytes, shares))
    if set(map(len, shares)) != {SHARE_BYTES} or max(values) >= PRIME:
        wrong = [
            number
            for number, (share, value) in enumerate(zip(shares, values, strict=True), start=1)
            if len(share) != SHARE_BYTES or value >= PRIME
        ]
        raise Error(f"shares {wrong}, counted from 1, are none: expected {SHARE_BYTES} bytes below 2**256 + 297")
    secret: int = sum(map(operator.mul, values, weights)) % PRIME
    if secret >> 256:
        raise Error(f"the {len(shares)} shares give no 32 bytes: one is wrong, or they are too few")
    return secret.to_bytes(_SECRET_BYTES, "big")


def _value(polynomial: Sequence[int], place: int) -> int:
    """Return the polynomial's value; unreduced to the end: a place is small, so the sum grows by few bits a step."""
    value = 0
    for coefficient in polynomial:
        value = value * place + coefficient
    return value % PRIME


def _inverses(numbers: Sequence[int]) -> list[int]:
    """Return the inverses of numbers that are not 0 modulo the prime, by one inversion of their product."""
    before = [1]
    for number in numbers:
        before.append(before[-1] * number % PRIME)
    inverse = pow(before.pop(), -1, PRIME)
    inverses = []
    for number, product in zip(reversed(numbers), reversed(before), strict=True):
        inverses.append(inverse * product % PRIME)
        inverse = inverse * number % PRIME
    return inverses[::-1]


def _check_places(places: Sequence[int]) -> None:
    if not places or min(places) < 1 or max(places) >= PRIME or len(set(places)) != len(places):
        raise Error(f"places {list(places)[:8]}: expected one or more distinct integers from 1 on; the secret is at 0")
