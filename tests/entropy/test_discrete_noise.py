"""Discrete noise: what it refuses, that it is a function of its stream, and its law by exact enumeration."""

from __future__ import annotations

import hashlib
import itertools
import math
import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.keys import NO_SECRET, Key, Stream
from fedloom.entropy import discrete_noise
from fedloom.entropy.discrete_noise import discrete_gaussian, discrete_laplace
from fedloom.entropy.exponential import ONE_WORD
from fedloom.entropy.secret import derived_secret, fresh_secret
from fedloom.entropy.words import Bools, Ints, UInts, Words
from fedloom.errors import Error

quick = settings(max_examples=25, derandomize=True, database=None, deadline=None)
SECRET = derived_secret(Key.from_seed(5)).child("discrete noise")
rationals = st.fractions(min_value=Fraction(1, 500), max_value=1000, max_denominator=500)


def test_noise_is_what_was_recorded() -> None:
    """A release that is drawn again after a crash must be the same: a change is a change of bits."""
    gaussian = discrete_gaussian(SECRET.child("golden"), (81, 4), 10_000)
    laplace = discrete_laplace(SECRET.child("golden"), (7, 2), 10_000)
    assert gaussian[:8].tolist() == [-13, 1, 17, 8, 2, 1, 8, -3]
    assert laplace[:8].tolist() == [-9, 0, 0, 12, 0, 0, 6, 1]
    assert hashlib.sha256(gaussian.astype("<i8").tobytes()).hexdigest()[:16] == "9571f2dec0b1a7cd"
    assert hashlib.sha256(laplace.astype("<i8").tobytes()).hexdigest()[:16] == "26420d869994d094"


@quick
@given(rationals, st.integers(0, 300), st.integers(0, 300))
def test_fewer_numbers_are_the_first_of_more(rational: Fraction, few: int, many: int) -> None:
    few, many = sorted((few, many))
    for draw in (discrete_gaussian, discrete_laplace):
        long, short = draw(SECRET, rational, many), draw(SECRET, rational, few)
        assert long.dtype == np.int64
        assert long.shape == (many,)
        assert np.array_equal(long[:few], short)


@pytest.mark.parametrize("size", [63, 64, 65, 4000, 30_000])
def test_numbers_do_not_depend_on_the_borders_of_batches(size: int) -> None:
    whole = discrete_gaussian(SECRET, 16, 30_001)
    assert np.array_equal(discrete_gaussian(SECRET, 16, size), whole[:size])


def test_a_smaller_batch_is_the_same_law_and_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches stand in the stream's use, so their sizes are part of what a recorded draw means."""
    before = discrete_gaussian(SECRET, 16, 500)
    monkeypatch.setattr(discrete_noise, "_FIRST_BATCH", 32)
    assert not np.array_equal(discrete_gaussian(SECRET, 16, 500), before)


def test_other_streams_give_other_noise() -> None:
    drawn = [
        discrete_gaussian(stream, 10**6, 20).tolist() for stream in (SECRET.child(1), SECRET.child(2), fresh_secret())
    ]
    assert len({tuple(numbers) for numbers in drawn}) == 3


def test_equal_rationals_give_equal_noise() -> None:
    expected = discrete_gaussian(SECRET, Fraction(9, 4), 50).tolist()
    assert discrete_gaussian(SECRET, (9, 4), 50).tolist() == expected
    assert discrete_gaussian(SECRET, (18, 8), 50).tolist() == expected
    assert discrete_laplace(SECRET, 3, 50).tolist() == discrete_laplace(SECRET, (6, 2), 50).tolist()
    assert discrete_laplace(SECRET, np.int64(3), 50).tolist() == discrete_laplace(SECRET, 3, 50).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variance", [27_553**2, Fraction(1, 2**59 - 1), Fraction(2**29, 1), Fraction(10**6 + 3, 1000), Fraction(1, 4)]
)
def test_the_whole_exact_range_is_drawn_from(variance: Fraction) -> None:
    drawn = discrete_gaussian(SECRET, variance, 300)
    assert np.abs(drawn).max() <= 12 * math.sqrt(variance)  # beyond with probability below 1e-30
    assert (variance < Fraction(1, 100)) == (not drawn.any())


@pytest.mark.parametrize(
    "variance",
    [27_554**2, 40_000**2, Fraction(1, 2**59), Fraction(0.3), Fraction(10**9 + 7, 10**9), 2**70, Fraction(1, 2**70)],
)
def test_a_variance_outside_of_the_exact_range_is_refused(variance: Fraction) -> None:
    with pytest.raises(Error, match=r"expected less than 2\*\*60"):
        discrete_gaussian(SECRET, variance, 1)


@pytest.mark.parametrize("scale", [2**40, Fraction(1, 2**40), Fraction(0.3), 2**70])
def test_a_scale_outside_of_the_exact_range_is_refused(scale: Fraction) -> None:
    with pytest.raises(Error, match=r"both terms below 2\*\*40"):
        discrete_laplace(SECRET, scale, 1)


@pytest.mark.parametrize("draw", [discrete_gaussian, discrete_laplace])
@pytest.mark.parametrize(
    "rational", [0, -1, Fraction(-1, 2), (1, 0), (0, 1), (-1, -2), 2.5, math.inf, "2", (1, 2, 3), (2.0, 1), None]
)
def test_what_is_no_positive_fraction_is_refused(draw: Callable[..., Ints], rational: Any) -> None:
    with pytest.raises(Error, match="expected a positive fraction"):
        draw(SECRET, rational, 1)


@pytest.mark.parametrize("draw", [discrete_gaussian, discrete_laplace])
def test_a_negative_size_and_an_absent_secret_are_refused(draw: Callable[..., Ints]) -> None:
    with pytest.raises(Error, match="size = -1"):
        draw(SECRET, 2, -1)
    with pytest.raises(Error, match="without secret keys"):
        draw(NO_SECRET, 2, 1)
    assert draw(NO_SECRET, 2, 0).tolist() == []


@pytest.mark.parametrize("word", [0, 2**64 - 1, (2**64 - 1) // ONE_WORD * (ONE_WORD // 2) - 1])
@pytest.mark.parametrize("draw", [discrete_gaussian, discrete_laplace])
def test_a_stream_that_repeats_one_word_is_an_error_and_not_a_loop_without_end(
    draw: Callable[..., Ints], word: int
) -> None:
    """All rejected, all kept, or "once more" each time: a broken source of entropy is noticed, no number wraps."""

    class Stuck:
        def child(self, *path: str | int) -> Stream:
            return self

        def random_raw(self, count: int) -> UInts:
            return np.full(count, word, np.uint64)

    with pytest.raises(Error, match="the stream is not random"):
        draw(Stuck(), 9, 1)


def test_candidates_that_are_all_rejected_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discrete_noise, "_laplace_batch", lambda words, t, s, count: np.empty(0, np.int64))
    monkeypatch.setattr(discrete_noise, "_LARGEST_BATCH", 64)
    with pytest.raises(Error, match="batches without a number"):
        discrete_laplace(SECRET, 9, 1)


class Branch(Exception):
    """A choice that the script does not make: its options."""

    def __init__(self, masses: Sequence[Fraction]) -> None:
        self.masses = masses


class Choices(Words):
    """Words of one candidate that take the options of a script, and raise at the first choice after it."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script = list(script)

    def choose(self, masses: Sequence[Fraction]) -> int:
        assert sum(masses) == 1
        if not self.script:
            raise Branch(masses)
        return self.script.pop(0)

    def below(self, bound: int, count: int) -> UInts:
        return np.array([self.choose([Fraction(1, bound)] * bound) for _ in range(count)], np.uint64)

    def events(self, numerators: UInts, denominator: int) -> Bools:
        odds = [Fraction(n, denominator) for n in numerators.tolist()]
        return np.array([self.choose([1 - p, p]) == 1 for p in odds], np.bool_)

    def coins(self, count: int) -> Bools:
        return np.array([self.choose([Fraction(1, 2)] * 2) == 1 for _ in range(count)], np.bool_)

    def take_below(self, limit: int, count: int) -> UInts:
        """The one word that decides exp(-1): its 17 outcomes are the intervals between 17!/(k+1)! and 17!/k!."""
        step = (2**64 - 1) // ONE_WORD
        assert limit == step * ONE_WORD
        borders = [ONE_WORD // math.factorial(k) for k in range(1, 18)] + [0]
        masses = [Fraction(high - low, ONE_WORD) for high, low in itertools.pairwise(borders)]
        return np.array([borders[self.choose(masses) + 1] * step for _ in range(count)], np.uint64)


def outcomes(
    batch: Callable[[Words, int], Ints], *, floor: Fraction
) -> tuple[dict[tuple[int, ...], Fraction], Fraction]:
    """Follow every path of one candidate whose probability is above the floor: exact masses, and what was left out."""
    found: dict[tuple[int, ...], Fraction] = {}
    left_out = Fraction(0)
    open_paths: list[tuple[tuple[int, ...], Fraction]] = [((), Fraction(1))]
    while open_paths:
        script, mass = open_paths.pop()
        if mass < floor:
            left_out += mass
            continue
        try:
            result = tuple(batch(Choices(script), 1).tolist())
        except Branch as branch:
            open_paths += [((*script, i), mass * odds) for i, odds in enumerate(branch.masses) if odds]
        else:
            found[result] = found.get(result, Fraction(0)) + mass
    assert sum(found.values()) + left_out == 1
    return found, left_out


@pytest.mark.parametrize(
    ("variance", "floor"),
    [
        (Fraction(1, 4), Fraction(1, 1000)),
        pytest.param(Fraction(1, 4), Fraction(1, 20_000), marks=pytest.mark.slow),
        pytest.param(Fraction(2), Fraction(1, 20_000), marks=pytest.mark.slow),
        pytest.param(Fraction(25, 4), Fraction(1, 20_000), marks=pytest.mark.slow),
    ],
)
def test_the_law_of_one_candidate_is_gaussian_by_exact_enumeration(variance: Fraction, floor: Fraction) -> None:
    """Kept at x with (1 - 1/e)/(2 t) exp(-|x|/t) exp(-(|x| - variance/t)**2 / (2 variance)), a multiple of the law."""
    law = discrete_noise._GaussianLaw.of(variance)
    found, left_out = outcomes(lambda words, count: discrete_noise._gaussian_batch(words, law, count), floor=floor)
    assert left_out < (0.08 if floor == Fraction(1, 1000) else 0.03)
    constant = (1 - math.exp(-1)) / (2 * law.t) * math.exp(-variance / (2 * law.t**2))
    for value in range(-4, 5):
        mass, likely = float(found.get((value,), 0)), constant * math.exp(-(value**2) / (2 * variance))
        assert mass <= likely + 1e-12
        assert likely <= mass + float(left_out) + 1e-12


@pytest.mark.parametrize(
    ("scale", "floor"),
    [
        (Fraction(1), Fraction(1, 10_000)),
        (Fraction(1, 2), Fraction(1, 10_000)),
        pytest.param(Fraction(3, 2), Fraction(1, 20_000), marks=pytest.mark.slow),
        pytest.param(Fraction(3), Fraction(1, 20_000), marks=pytest.mark.slow),
        pytest.param(Fraction(2, 3), Fraction(1, 20_000), marks=pytest.mark.slow),
    ],
)
def test_the_law_of_one_candidate_is_laplace_by_exact_enumeration(scale: Fraction, floor: Fraction) -> None:
    """Kept at x with zero * exp(-|x| / scale), where all sizes add up to (1 - 1/e)/t / (1 - exp(-1/t))."""
    t, s = scale.numerator, scale.denominator
    found, left_out = outcomes(lambda words, count: discrete_noise._laplace_batch(words, t, s, count), floor=floor)
    assert left_out < 0.01
    kept = (1 - math.exp(-1)) / t / (1 - math.exp(-1 / t))  # of U, before the sign
    zero = kept * (1 - math.exp(-1 / scale)) / 2
    for value in range(-6, 7):
        mass, likely = float(found.get((value,), 0)), zero * math.exp(-abs(value) / scale)
        assert mass <= likely + 1e-12
        assert likely <= mass + float(left_out) + 1e-12


@pytest.mark.parametrize(
    "variance", [Fraction(1, 2**40), Fraction(27_000**2), Fraction(5, 3 * 2**20), Fraction(10**8, 7)]
)
def test_numbers_that_need_more_than_64_bits_are_judged_alike(variance: Fraction) -> None:
    """Judged with Python's integers, candidates fare as with words, where words can hold them."""
    law = discrete_noise._GaussianLaw.of(variance)
    sizes = np.arange(min(law.largest, 10 * law.t) + 1, dtype=np.int64)[:: max(1, law.t // 50)]
    with_words = discrete_noise._kept(Words(SECRET), sizes, law)
    with_integers = discrete_noise._kept_wide(Words(SECRET), sizes, law)
    assert with_words.tolist() == with_integers.tolist()


def test_a_candidate_beyond_64_bits_is_kept_as_rarely_as_it_should() -> None:
    """At the end of the range squares overflow from 6.7 sigma on: they are judged apart, not wrapped."""
    law = discrete_noise._GaussianLaw.of(27_553**2)
    assert law.largest < 7 * 27_553
    far = np.full(2000, law.largest + 1, np.int64)
    assert not discrete_noise._kept_wide(Words(SECRET), far, law).any()  # each with probability 2e-7


@pytest.mark.slow
def test_a_million_numbers_are_drawn_in_bounded_memory() -> None:
    tracemalloc.start()
    try:
        drawn = discrete_gaussian(SECRET, 16, 10**6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < drawn.nbytes + 10 * 2**20
