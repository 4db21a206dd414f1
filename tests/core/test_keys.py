"""Keys: the same words everywhere, and one stream for one path."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.keys import NO_SECRET, Key, distinct, permutation, uniforms
from fedloom.errors import Error

quick = settings(max_examples=100, derandomize=True, database=None, deadline=None)
steps = st.lists(st.text(max_size=4) | st.integers(-(2**70), 2**70), max_size=4)
CLIENT = Key.from_seed(7).child("round", 3, 0).child("client", "hospital-7", "batches")


def test_words_are_those_that_were_recorded() -> None:
    """Every resumed run and every deployment draws these: a change breaks all of them."""
    assert CLIENT.digest.hex() == "b10d6c024f2bb134248f7e4dd507e77d48da69eff1f8e658f51ba2b799389071"
    assert CLIENT.random_raw(3).tolist() == [10898764314715948236, 13953893334805882076, 12214929711833561699]
    assert permutation(CLIENT, 8).tolist() == [4, 7, 3, 0, 6, 2, 5, 1]
    assert distinct(CLIENT, 4, below=1000).tolist() == [8, 65, 128, 828]
    assert CLIENT.torch_seed() == 3203040618984303908


def test_words_are_those_of_philox_keyed_by_the_digest() -> None:
    bits = np.random.Philox(key=np.frombuffer(CLIENT.digest[:16], "<u8"))
    assert CLIENT.random_raw(100).tolist() == bits.random_raw(100).tolist()
    assert CLIENT.generator().bit_generator.random_raw(100).tolist() == CLIENT.random_raw(100).tolist()


@quick
@given(steps, steps)
def test_two_paths_are_one_key_only_if_their_steps_are_equal(left: list[str | int], right: list[str | int]) -> None:
    root = Key.from_seed(0)
    equal = [(type(step), step) for step in left] == [(type(step), step) for step in right]
    assert (root.child(*left) == root.child(*right)) == equal
    assert (root.child(*left).digest == root.child(*right).digest) == equal


@quick
@given(steps, steps)
def test_a_child_of_a_child_is_the_child_of_the_whole_path(left: list[str | int], right: list[str | int]) -> None:
    assert Key.from_seed(1).child(*left).child(*right) == Key.from_seed(1).child(*left, *right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((1,), ("1",)),
        (("ab", "c"), ("a", "bc")),
        (("a1:b",), ("a", "b")),
        ((12, 3), (1, 23)),
        (("",), ()),
        ((-1,), (1,)),
    ],
)
def test_paths_that_look_alike_are_different(left: tuple[str | int, ...], right: tuple[str | int, ...]) -> None:
    assert Key.from_seed(0).child(*left) != Key.from_seed(0).child(*right)


@quick
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_seeds_are_different_roots(left: int, right: int) -> None:
    assert (Key.from_seed(left) == Key.from_seed(right)) == (left == right)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(Error, match="seed"):
        Key.from_seed(seed)


@quick
@given(st.integers(0, 50), st.integers(0, 50))
def test_a_stream_starts_alike_however_much_is_drawn(few: int, many: int) -> None:
    few, many = sorted((few, many))
    assert CLIENT.random_raw(many)[:few].tolist() == CLIENT.random_raw(few).tolist()


def test_threads_do_not_mix_their_words() -> None:
    found: dict[int, list[int]] = {}

    def draw(number: int) -> None:
        found[number] = [int(Key.from_seed(number).child(i).random_raw(5)[4]) for i in range(200)]

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, words in found.items():
        assert words == [int(Key.from_seed(number).child(i).random_raw(5)[4]) for i in range(200)]


@quick
@given(st.integers(0, 200), st.integers(0, 2**32))
def test_a_permutation_has_every_index_once(count: int, seed: int) -> None:
    assert sorted(permutation(Key.from_seed(seed), count).tolist()) == list(range(count))


@quick
@given(st.integers(1, 300), st.data(), st.integers(0, 2**32))
def test_distinct_numbers_are_ascending_and_below_the_bound(below: int, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(0, below))
    drawn = distinct(Key.from_seed(seed), size, below=below).tolist()
    assert len(drawn) == size
    assert drawn == sorted(set(drawn))
    assert all(0 <= number < below for number in drawn)


@pytest.mark.parametrize(("size", "below"), [(-1, 3), (4, 3)])
def test_more_distinct_numbers_than_there_are_is_refused(size: int, below: int) -> None:
    with pytest.raises(Error):
        distinct(CLIENT, size, below=below)


def test_uniforms_lie_in_zero_to_one_without_one() -> None:
    ends = uniforms(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert ends[0] == 0.0
    assert ends[1] == 1 - 2.0**-53


def test_the_secret_of_a_run_without_secrets_draws_nothing_and_does_not_print() -> None:
    with pytest.raises(Error, match="secret"):
        NO_SECRET.child("noise").random_raw(1)
    assert repr(NO_SECRET) == "<secret>"
    assert NO_SECRET.derived
