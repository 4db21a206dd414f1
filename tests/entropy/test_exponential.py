"""exp(-x): the probability is exact, by counting the words that lead to each outcome."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedloom.core.keys import Key
from fedloom.entropy.exponential import (
    ONE_WORD,
    exp_minus,
    exp_minus_fraction,
    exp_minus_mixed,
    exp_minus_one,
    geometric,
)
from fedloom.entropy.words import Bools, UInts, Words

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
TOP = 2**64 - 1
NONE = TOP // ONE_WORD * ONE_WORD - 1
EVENT = TOP // ONE_WORD * (ONE_WORD // 2) - 1
"""Two words: in the series for x = 1 the first stops at step 2, the second at step 3."""
STREAM = Key.from_seed(5).child("exponential")


class Answers(Words):
    """Words that answer each event as a list says, and note its probability: one path through the series."""

    def __init__(self, answers: Iterable[bool]) -> None:
        self.answers = iter(answers)
        self.mass = Fraction(1)

    def events(self, numerators: UInts, denominator: int) -> Bools:
        answers = [next(self.answers) for _ in numerators]
        for numerator, answer in zip(numerators.tolist(), answers, strict=True):
            self.mass *= Fraction(numerator, denominator) if answer else 1 - Fraction(numerator, denominator)
        return np.array(answers, np.bool_)


class First(Words):
    """Words that begin with those of a list and go on with those of a stream."""

    def __init__(self, words: Iterable[int]) -> None:
        super().__init__(STREAM)
        self._piece = np.array(list(words), np.uint64)


def uints(*values: int) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 1), (1, 2), (2, 7), (99, 100), (2**60 - 2, 2**60 - 1)])
def test_the_series_adds_up_to_the_exponential(numerator: int, denominator: int) -> None:
    """The path that ends at step k has probability x**(k-1)/(k-1)! - x**k/k!, exactly; the odd ones are an event."""
    x, total, seen = Fraction(numerator, denominator), Fraction(0), Fraction(0)
    for k in range(1, 25):
        asked = [1 if denominator * step <= TOP else 2 for step in range(1, k + 1)]  # a product of two beyond 64 bits
        words = Answers([True] * sum(asked[:-1]) + [False] * asked[-1])
        happened = exp_minus_fraction(words, uints(numerator), denominator).item()
        expected = x ** (k - 1) / math.factorial(k - 1) - x**k / math.factorial(k)
        if denominator * k <= TOP:
            assert words.mass == expected
        assert happened == (k % 2 == 1)
        total += expected * happened
        seen += expected
    assert seen == 1 - x**24 / math.factorial(24)
    assert abs(total - Fraction(math.exp(-x))) < Fraction(1, 10**15)


def test_a_step_beyond_64_bits_has_its_probability_too() -> None:
    """2**60 - 1 times 17 does not fit: n/d and 1/17 must both happen."""
    denominator = 2**60 - 1
    asked: list[tuple[int, int]] = []

    class Noting(Words):
        def events(self, numerators: UInts, denominator: int) -> Bools:
            asked.append((int(numerators[0]), denominator))
            return np.array([len(asked) < 18], np.bool_)

    exp_minus_fraction(Noting(STREAM), uints(5), denominator)
    assert asked[:16] == [(5, denominator * k) for k in range(1, 17)]
    assert asked[16:] == [(5, denominator), (1, 17)]


def test_exp_minus_one_is_exact_but_for_the_word_that_leaves_the_end_open() -> None:
    """The outcome changes at 17!/k! only; counted, the integers that lead to an event are the alternating series."""
    step = TOP // ONE_WORD
    borders = [ONE_WORD // math.factorial(k) for k in range(17, 0, -1)]
    events = Fraction(0)
    for low, high in itertools.pairwise(borders):
        ends = [low * step, (low + 1) * step - 1, (high - 1) * step, high * step - 1]
        answers = exp_minus_one(First(ends), 4).tolist()
        assert len(set(answers)) == 1
        events += Fraction(high - low, ONE_WORD) * answers[0]
    assert borders[0] == 1
    assert borders[-1] == ONE_WORD
    series = sum((Fraction((-1) ** k, math.factorial(k)) for k in range(18)), Fraction(0))
    assert events == series  # all but r = 0, which has 1/17!


def test_the_open_end_is_decided_by_the_rest_of_the_series() -> None:
    """r = 0: step 18 happens with 1/18, and so on; an event if the first step that does not is odd."""
    not_at_18 = exp_minus_one(First([0, TOP // 18]), 1)
    not_at_19 = exp_minus_one(First([0, TOP // 18 - 1, TOP // 19]), 1)
    assert (not_at_18.item(), not_at_19.item()) == (False, True)


def test_a_word_past_the_last_multiple_of_17_factorial_is_passed_over() -> None:
    limit = TOP // ONE_WORD * ONE_WORD
    assert exp_minus_one(First([limit, NONE]), 1).item() is False
    assert exp_minus_one(First([TOP, EVENT]), 1).item() is True


@pytest.mark.parametrize("whole", [1, 2, 5])
def test_the_whole_part_needs_as_many_events_of_exp_minus_one(whole: int) -> None:
    for passed in range(whole + 1):
        words = First([0, *[EVENT] * passed, NONE])  # the first word: x's fraction is 0, so the series ends at once
        assert exp_minus(words, uints(3 * whole), 3).item() is (passed == whole)


def test_whole_parts_of_any_size_are_compared_exactly() -> None:
    wholes = np.array([0, 1, 2**100], dtype=object)
    words = First([0, 0, 0, EVENT, EVENT, NONE])
    assert exp_minus_mixed(words, wholes, uints(0, 0, 0), denominator=3).tolist() == [True, True, False]


@quick
@given(st.lists(st.integers(0, 5000), max_size=20), st.integers(1, 1000))
def test_integer_and_object_whole_parts_give_the_same_events(numerators: list[int], denominator: int) -> None:
    wholes = np.array([n // denominator for n in numerators], dtype=object)
    parts = uints(*[n % denominator for n in numerators])
    mixed = exp_minus_mixed(Words(STREAM), wholes, parts, denominator=denominator)
    assert mixed.tolist() == exp_minus(Words(STREAM), uints(*numerators), denominator).tolist()


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [(0, 5), (1, 1000), (1, 3), (1, 1), (3, 2), (4, 1), (2**60 - 2, 2**60 - 1), (2**61, 2**60 - 1)],
)
def test_events_are_as_frequent_as_they_are_likely(numerator: int, denominator: int) -> None:
    """False alarm 1e-4 for each."""
    count = 20_000
    words = Words(STREAM.child(numerator, denominator))
    seen = int(exp_minus(words, np.full(count, numerator, np.uint64), denominator).sum())
    likely = math.exp(-numerator / denominator)
    assert min(binom.cdf(seen, count, likely), binom.sf(seen - 1, count, likely)) >= 0.5e-4


def test_a_geometric_number_counts_events_in_a_row() -> None:
    # Three numbers advance together: the second ends at once, the third after one event, the first after two.
    assert geometric(First([EVENT, NONE, EVENT, EVENT, NONE, NONE]), 3).tolist() == [2, 0, 1]
    assert geometric(First([]), 0).tolist() == []
