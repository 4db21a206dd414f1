"""Secret sharing: recorded shares, Lagrange by rationals, any threshold of shares and no fewer."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtrc

from fedloom.core.keys import Key
from fedloom.entropy.secret import derived_secret
from fedloom.errors import Error
from fedloom.secure.shamir import PRIME, coefficients, combine, split

VECTORS = Path(__file__).parents[1] / "vectors"
KNOWN = json.loads((VECTORS / "shamir.json").read_text(encoding="utf-8"))["cases"]
quick = settings(max_examples=40, derandomize=True, database=None, deadline=None)
secrets_ = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32])
SECRET = bytes(range(32))
P = 2**256 + 297


def stream(seed: int) -> Callable[[int], bytes]:
    return derived_secret(Key.from_seed(seed)).random_bytes


def coins(polynomial: Sequence[int]) -> Callable[[int], bytes]:
    """Return entropy that gives a polynomial, highest coefficient first and without the secret."""
    drawn = b"".join(coefficient.to_bytes(48, "big") for coefficient in polynomial)

    def entropy(count: int) -> bytes:
        assert count == len(drawn)
        return drawn

    return entropy


def weight_by_rationals(place: int, places: Sequence[int]) -> int:
    """Lagrange's formula at 0 over the rationals, taken into the field at the end."""
    weight = math.prod((Fraction(-other, place - other) for other in places if other != place), start=Fraction(1))
    return weight.numerator * pow(weight.denominator, -1, P) % P


def secret_by_rationals(shares: dict[int, bytes]) -> int:
    places = list(shares)
    return sum(int.from_bytes(shares[x], "big") * weight_by_rationals(x, places) for x in places) % P


def test_the_field_is_the_least_prime_above_all_secrets() -> None:
    def probably_prime(number: int) -> bool:
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            power = pow(base, odd, number)
            if power != 1 and all(pow(power, 2**i, number) != number - 1 for i in range(twos)):
                return False
        return True

    assert PRIME == P
    assert probably_prime(PRIME)
    assert not any(probably_prime(number) for number in range(2**256 + 1, PRIME, 2))


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case["name"])
def test_shares_are_those_that_were_recorded(case: dict[str, Any]) -> None:
    secret, threshold = bytes.fromhex(case["secret"]), case["threshold"]
    shares = split(
        secret, threshold=threshold, places=case["places"], entropy=lambda count: bytes.fromhex(case["entropy"])
    )
    assert [share.hex() for share in shares] == case["shares"]
    drawn = [int(case["entropy"][96 * i : 96 * i + 96], 16) % P for i in range(threshold - 1)]
    for place, share in zip(case["places"], shares, strict=True):
        powers = [coefficient * place ** (threshold - 1 - i) for i, coefficient in enumerate(drawn)]
        assert int.from_bytes(share, "big") == (sum(powers) + int.from_bytes(secret, "big")) % P
    by_place = dict(zip(case["places"], shares, strict=True))
    last = dict(list(by_place.items())[-threshold:])
    assert secret_by_rationals(last) == int.from_bytes(secret, "big")
    assert combine(list(last.values()), coefficients(list(last))) == secret


@quick
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=12, unique=True))
def test_the_weights_are_lagrange_s(places: list[int]) -> None:
    assert coefficients(places) == [weight_by_rationals(place, places) for place in places]


@quick
@given(secrets_, st.integers(0, 99), st.data())
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 6))
    threshold = data.draw(st.integers(2, count))
    places = data.draw(st.lists(st.integers(1, 200), min_size=count, max_size=count, unique=True))
    shares = dict(zip(places, split(secret, threshold=threshold, places=places, entropy=stream(seed)), strict=True))
    assert {len(share) for share in shares.values()} == {33}
    for size in (threshold, count):
        for chosen in itertools.permutations(places, size) if size < 4 else itertools.combinations(places, size):
            assert combine([shares[place] for place in chosen], coefficients(chosen)) == secret


def test_a_large_federation_shares_and_combines() -> None:
    places = range(1, 101)
    shares = split(SECRET, threshold=67, places=places, entropy=stream(5))
    assert combine(shares[33:], coefficients(places[33:])) == SECRET
    assert combine(shares, coefficients(places)) == SECRET


@quick
@given(secrets_, secrets_, st.integers(0, 99), st.data())
def test_fewer_shares_are_dealt_alike_for_every_secret(
    one: bytes, other: bytes, seed: int, data: st.DataObject
) -> None:
    """For each polynomial of a secret there is one of any other secret, as likely, with the same threshold - 1 shares.

    It is the first plus ``(other - one) * product of (1 - X / x)`` over the places seen.
    """
    threshold = data.draw(st.integers(2, 5))
    places = data.draw(st.lists(st.integers(1, 50), min_size=threshold, max_size=threshold, unique=True))
    seen, unseen = places[:-1], places[-1]
    drawn = stream(seed)(48 * (threshold - 1))
    first = [int.from_bytes(drawn[start : start + 48], "big") % P for start in range(0, len(drawn), 48)]
    difference = [(int.from_bytes(other, "big") - int.from_bytes(one, "big")) % P]  # highest first
    for place in seen:
        slope = -pow(place, -1, P)
        difference = [(slope * up + down) % P for up, down in zip([*difference, 0], [0, *difference], strict=True)]
    second = [(a + b) % P for a, b in zip(first, difference[:-1], strict=True)]
    dealt = split(one, threshold=threshold, places=places, entropy=coins(first))
    also = split(other, threshold=threshold, places=places, entropy=coins(second))
    assert dealt[:-1] == also[:-1]
    assert (dealt[-1] == also[-1]) == (one == other), unseen


def test_a_share_is_uniform_whatever_the_secret() -> None:
    """Top and bottom bits of 1,600 shares of each of two secrets; random shares would fail 2 in 10**6 times."""
    for secret in (bytes(32), b"\xff" * 32):
        values = [
            int.from_bytes(split(secret, threshold=2, places=[1, 7], entropy=stream(seed))[1], "big")
            for seed in range(1600)
        ]
        for cells in ([16 * value // P for value in values], [value % 16 for value in values]):
            counts = np.bincount(cells, minlength=16)
            assert 1e-6 < chdtrc(15, ((counts - 100) ** 2 / 100).sum()) < 1 - 1e-6


@quick
@given(secrets_, st.integers(0, 99), st.integers(0, 2), st.integers(1, P - 1))
def test_a_wrong_share_gives_another_secret_or_an_error(secret: bytes, seed: int, which: int, off: int) -> None:
    shares = split(secret, threshold=3, places=[1, 2, 3], entropy=stream(seed))
    shares[which] = ((int.from_bytes(shares[which], "big") + off) % P).to_bytes(33, "big")
    try:
        assert combine(shares, coefficients([1, 2, 3])) != secret
    except Error as error:
        assert "no 32 bytes" in str(error)


def test_a_share_short_of_the_threshold_or_at_a_wrong_place_gives_another_secret() -> None:
    shares = split(SECRET, threshold=3, places=[1, 2, 3, 4], entropy=stream(1))
    assert combine(shares[:2], coefficients([1, 2])) != SECRET
    assert combine(shares[:3], coefficients([1, 2, 4])) != SECRET
    assert combine(shares[:3], coefficients([2, 1, 3])) != SECRET


def test_a_sum_above_all_secrets_is_an_error() -> None:
    """2**256 + k is in the field and no 32 bytes."""
    with pytest.raises(Error, match="no 32 bytes"):
        combine([(2**256).to_bytes(33, "big")], [1])
    assert combine([(2**256 - 1).to_bytes(33, "big")], [1]) == b"\xff" * 32


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([bytes(33), bytes(32)], r"shares \[2\]"),
        ([bytes(34), bytes(33)], r"shares \[1\]"),
        ([P.to_bytes(33, "big"), bytes(33)], r"shares \[1\]"),
        ([b"\xff" * 33, b""], r"shares \[1, 2\]"),
        ([bytes(33)], "1 shares and 2 weights"),
    ],
)
def test_what_is_no_share_is_refused_by_its_number(shares: list[bytes], said: str) -> None:
    with pytest.raises(Error, match=said):
        combine(shares, coefficients([1, 2]))
    with pytest.raises(Error, match="0 shares"):
        combine([], [])


@pytest.mark.parametrize("places", [[], [0, 1], [1, 1], [-1, 2], [1, P], [1, P + 1]])
def test_places_that_are_none_or_not_distinct_are_refused(places: list[int]) -> None:
    with pytest.raises(Error, match="distinct integers from 1 on"):
        coefficients(places)
    with pytest.raises(Error, match="distinct integers from 1 on"):
        split(SECRET, threshold=2, places=places, entropy=stream(1))


@pytest.mark.parametrize("threshold", [-1, 0, 1, 4])
def test_a_threshold_that_protects_nothing_or_cannot_be_reached_is_refused(threshold: int) -> None:
    with pytest.raises(Error, match="from 2 to the number of places, 3"):
        split(SECRET, threshold=threshold, places=[1, 2, 3], entropy=stream(1))


@pytest.mark.parametrize("secret", [b"", SECRET[:31], SECRET + b"x"])
def test_a_secret_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(Error, match="32 bytes; received"):
        split(secret, threshold=2, places=[1, 2], entropy=stream(1))


def test_entropy_is_asked_once_and_must_be_whole() -> None:
    """Once: a stream of ``Secret`` begins anew at every call, and equal coefficients would give the secret away."""
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return stream(1)(count)

    split(SECRET, threshold=5, places=range(1, 8), entropy=entropy)
    assert asked == [4 * 48]
    with pytest.raises(Error, match="gave 7 bytes of 96"):
        split(SECRET, threshold=3, places=[1, 2, 3], entropy=lambda count: bytes(7))
