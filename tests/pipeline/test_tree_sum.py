"""TreeSum: one value for one set of present slots, however its terms come."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.keys import Key, permutation
from fedloom.errors import Error
from fedloom.pipeline import TreeSum, tree_total

quick = settings(max_examples=200, derandomize=True, database=None, deadline=None)
cases = st.lists(st.booleans(), min_size=1, max_size=33)


def values_of(count: int, seed: int = 0, dtype: str = "float64") -> Any:
    """Numbers of many sizes, so that another order of additions gives other bytes."""
    draw = Key.from_seed(seed).generator()
    return (draw.standard_normal((count, 3)) * 10.0 ** draw.integers(-8, 9, (count, 3))).astype(dtype)


def reference(values: Any, present: list[bool]) -> Any:
    """Sum by recursion over halves of a power of two; absent slots are absent, not zero."""

    def node(start: int, width: int) -> Any:
        if width == 1:
            return values[start] if start < len(present) and present[start] else None
        left, right = node(start, width // 2), node(start + width // 2, width // 2)
        return right if left is None else left if right is None else left + right

    return node(0, 1 << max(len(present) - 1, 0).bit_length())


def same(left: Any, right: Any) -> bool:
    return (left is None and right is None) or (
        left is not None and right is not None and left.tobytes() == right.tobytes()
    )


@quick
@given(cases, st.integers(0, 2**32), st.sampled_from(["float32", "float64"]), st.booleans())
def test_any_order_of_arrival_gives_the_bytes_of_the_tree(
    present: list[bool], seed: int, dtype: str, tell: bool
) -> None:
    values = values_of(len(present), seed, dtype)
    tree = TreeSum(len(present))
    for slot in permutation(Key.from_seed(seed), len(present)).tolist():
        if present[slot]:
            tree.add(slot, values[slot])
        elif tell:
            tree.lose(slot)
    assert same(tree.total(), reference(values, present)), "whether a lost slot is mentioned changes nothing"


@quick
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32))
def test_blocks_give_the_bytes_of_one_by_one(slots: int, block: int, seed: int) -> None:
    values = values_of(slots, seed)
    tree = TreeSum(slots)
    starts = list(range(0, slots, block))
    for place in permutation(Key.from_seed(seed), len(starts)).tolist():
        tree.add_block(starts[place], values[starts[place] : starts[place] + block])
    assert same(tree.total(), reference(values, [True] * slots))


@quick
@given(cases, st.integers(1, 4), st.integers(0, 2**32))
def test_merged_trees_give_the_bytes_of_one(present: list[bool], workers: int, seed: int) -> None:
    values = values_of(len(present), seed)
    draw = Key.from_seed(seed).generator()
    trees = [TreeSum(len(present)) for _ in range(workers)]
    for slot, here in enumerate(present):
        tree = trees[int(draw.integers(workers))]
        if here:
            tree.add(slot, values[slot])
        else:
            tree.lose(slot)
    whole = TreeSum(len(present))
    for place in permutation(Key.from_seed(seed), workers).tolist():
        whole.merge(trees[place])
    assert same(whole.total(), reference(values, present))


@quick
@given(st.integers(1, 20), st.data())
def test_a_slot_that_is_given_again_is_an_error_or_changes_nothing(slots: int, data: Any) -> None:
    """The tree forgets which slots lie below a finished node; ``plain_sum`` knows, and refuses all of them."""
    values = values_of(slots)
    first = data.draw(st.lists(st.integers(0, slots - 1), unique=True, min_size=1))
    tree = TreeSum(slots)
    for slot in first:
        tree.add(slot, values[slot])
    before = tree.total().copy()  # type: ignore[union-attr]
    again = data.draw(st.sampled_from(first))
    with contextlib.suppress(Error):
        tree.add(again, np.full(3, 1e12))
    for slot in set(range(slots)) - set(first):
        tree.lose(slot)
    assert same(tree.total(), before)


@pytest.mark.parametrize("slot", [-1, 3, 4, 100])
def test_a_slot_outside_is_refused(slot: int) -> None:
    tree = TreeSum(3)
    with pytest.raises(Error):
        tree.add(slot, np.ones(1))


def test_trees_of_other_sizes_do_not_merge() -> None:
    with pytest.raises(Error):
        TreeSum(3).merge(TreeSum(4))


def test_arrays_that_were_given_are_read_and_never_written_or_kept() -> None:
    for slots in (1, 2, 3, 5):
        values = values_of(slots)
        before = values.copy()
        tree = TreeSum(slots)
        for slot in range(slots):
            tree.add(slot, values[slot])
        total = tree.total()
        assert total is not None
        assert values.tobytes() == before.tobytes(), "nothing was summed into the caller's arrays"
        wanted = total.copy()
        values[:] = 0
        assert tree.total().tobytes() == wanted.tobytes(), "the tree holds no view of the caller's arrays"  # type: ignore[union-attr]
    block = values_of(5)
    before, tree = block.copy(), TreeSum(6)
    tree.add_block(0, block)
    tree.add(5, np.ones(3))
    assert block.tobytes() == before.tobytes()


def test_asking_twice_for_the_total_gives_the_same() -> None:
    tree = TreeSum(7)
    for slot in (0, 1, 2, 5):
        tree.add(slot, values_of(7)[slot])
    first = tree.total().copy()  # type: ignore[union-attr]
    assert tree.total().tobytes() == first.tobytes()  # type: ignore[union-attr]
    tree.add(6, values_of(7)[6])
    assert same(tree.total(), reference(values_of(7), [True, True, True, False, False, True, True]))


def test_nothing_present_has_no_total() -> None:
    assert TreeSum(0).total() is None
    assert TreeSum(3).total() is None
    tree = TreeSum(2)
    tree.lose(0)
    tree.lose(1)
    assert tree.total() is None


@quick
@given(st.integers(0, 40), st.integers(0, 2**32))
def test_the_total_of_a_block_is_that_of_its_tree(rows: int, seed: int) -> None:
    values = values_of(rows, seed)
    if rows:
        assert same(tree_total(values), reference(values, [True] * rows))
    else:
        assert tree_total(values).tolist() == [0.0, 0.0, 0.0]


def test_in_slot_order_memory_is_logarithmic() -> None:
    slots, size = 256, 10_000
    value = np.ones(size)
    tracemalloc.start()
    tree = TreeSum(slots)
    for slot in range(slots):
        tree.add(slot, value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (8 + 3) * value.nbytes
    assert tree.total()[0] == slots  # type: ignore[index]


def test_the_rounding_error_grows_with_the_logarithm() -> None:
    values = np.full((1 << 16, 1), 0.1, dtype=np.float32)
    exact = float(np.float32(0.1)) * (1 << 16)
    assert abs(float(tree_total(values)[0]) - exact) <= 17 * np.finfo(np.float32).eps / 2 * exact
