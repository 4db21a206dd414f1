"""Words: each given out once, in pieces; and events of exactly the probability that was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.keys import NO_SECRET, Key
from fedloom.entropy.words import Words
from fedloom.errors import Error

quick = settings(max_examples=50, derandomize=True, database=None, deadline=None)
STREAM = Key.from_seed(5).child("words of a test")
TOP = 2**64 - 1


class Scripted:
    """A stream whose first piece begins with the words of a list; what follows is 0."""

    def __init__(self, words: Iterable[int]) -> None:
        self.words = list(words)

    def child(self, *path: str | int) -> Scripted:
        return self if path[-1] == 0 else Scripted([])

    def random_raw(self, count: int) -> npt.NDArray[np.uint64]:
        words = np.zeros(count, np.uint64)
        words[: len(self.words)] = self.words[:count]
        words.flags.writeable = False
        return words


@quick
@given(st.lists(st.integers(0, 3000), max_size=12))
def test_words_come_in_the_same_order_however_they_are_asked_for(counts: list[int]) -> None:
    piecewise, whole = Words(STREAM), Words(STREAM)
    parts = [piecewise.take(count) for count in counts]
    assert [len(part) for part in parts] == counts
    assert np.array_equal(np.concatenate([np.empty(0, np.uint64), *parts]), whole.take(sum(counts)))


def test_pieces_are_children_of_the_stream_and_double_up_to_a_bound() -> None:
    words = Words(STREAM).take(200_000)
    sizes = [256, 512, 1024, 2048, 4096, 8192, 16384, *[32768] * 6]
    pieces = [STREAM.child("words", i).random_raw(size) for i, size in enumerate(sizes)]
    assert np.array_equal(words, np.concatenate(pieces)[:200_000])
    assert len(np.unique(words)) == len(words)


@pytest.mark.parametrize("denominator", [1, 2, 3, 7, 10, 2**32, 2**60 - 1, 2**63, 2**63 + 1, TOP])
def test_an_event_has_exactly_its_probability(denominator: int) -> None:
    """Of the words that are not passed over, the same number leads to each of the denominator's integers."""
    step = TOP // denominator
    for numerator in sorted({0, 1, denominator // 3, denominator - 1, denominator}):
        last, first = numerator * step - 1, numerator * step
        for word, expected in ((last, True), (first, False)):
            if 0 <= word < step * denominator:
                happened = Words(Scripted([word])).events(np.array([numerator], np.uint64), denominator)
                assert happened.tolist() == [expected]
        assert Fraction(first, step * denominator) == Fraction(numerator, denominator)


def test_a_word_that_would_bias_an_event_is_passed_over() -> None:
    limit = TOP // 7 * 7
    script = Scripted([limit, limit - 1, 3, TOP, limit + 1, 5])
    words = Words(script)
    assert words.take_below(limit, 3).tolist() == [TOP - (TOP - 5), limit - 1, 3]
    assert script.words[0] == limit  # what the stream gave is not written over
    assert Words(Scripted([limit, 0])).events(np.array([1], np.uint64), 7).tolist() == [True]


@pytest.mark.parametrize("bound", [1, 2, 3, 6, 1000, 2**63 + 1, TOP])
def test_integers_below_a_bound_are_equally_likely(bound: int) -> None:
    step = TOP // bound
    for value in {0, bound // 2, bound - 1}:
        assert Words(Scripted([value * step])).below(bound, 1).tolist() == [value]
        assert Words(Scripted([value * step + step - 1])).below(bound, 1).tolist() == [value]


def test_half_of_the_words_may_be_passed_over() -> None:
    bound = 2**63 + 1
    drawn = Words(STREAM).below(bound, 5000)
    kept = [word for word in Words(STREAM).take(20_000).tolist() if word < bound]
    assert set(drawn.tolist()) <= set(kept)
    assert len(set(drawn.tolist())) == 5000


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_coins_are_the_bits_of_the_words_from_the_lowest(count: int) -> None:
    words = Words(STREAM).take(4).tolist()
    bits = [bool(word >> place & 1) for word in words for place in range(64)]
    coins = Words(STREAM).coins(count)
    assert coins.dtype == np.bool_
    assert coins.tolist() == bits[:count]


def test_no_words_come_without_secrets() -> None:
    with pytest.raises(Error, match="without secret keys"):
        Words(NO_SECRET).take(1)
