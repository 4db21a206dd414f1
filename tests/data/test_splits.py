"""The split of each client's rows: sizes, balance, independence of other clients, persons kept whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.keys import Key
from fedloom.data.splits import FOLDS, Rows, Shares, folds, majority
from fedloom.errors import ComponentError

TEST = FOLDS.index("test")
shares = st.builds(Shares, st.floats(0, 0.6), st.floats(0, 0.35))
classes = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def split(rows: Rows, given_shares: Shares, *, clients: int = 1, seed: int = 0) -> npt.NDArray[np.int8]:
    names = [f"client-{index}" for index in range(clients)]
    return folds(rows, names, shares=given_shares, key=Key.from_seed(seed))


def alone(stratum: list[int]) -> Rows:
    return Rows(owner=np.zeros(len(stratum), dtype=np.int64), stratum=np.array(stratum))


@given(classes, shares, st.integers(0, 1000))
def test_folds_have_their_sizes_to_the_row_and_training_keeps_one(
    stratum: list[int], given_shares: Shares, seed: int
) -> None:
    count = len(stratum)
    held = min(int((given_shares.test + given_shares.validation) * count + 0.5), count - 1)
    sizes = np.bincount(split(alone(stratum), given_shares, seed=seed), minlength=3)
    assert sizes[0] == count - held
    assert sizes[TEST] == min(int(given_shares.test * count + 0.5), held)


@given(classes, st.floats(0, 0.9), st.integers(0, 1000))
def test_every_class_is_tested_by_its_share_up_to_rounding(stratum: list[int], test: float, seed: int) -> None:
    tested = split(alone(stratum), Shares(test), seed=seed) == TEST
    labels = np.array(stratum)
    share = tested.mean()
    for each in set(stratum):
        mine = labels == each
        assert abs(tested[mine].sum() - share * mine.sum()) <= len(set(stratum))


@given(classes, classes, shares)
def test_a_clients_split_does_not_depend_on_other_clients(
    mine: list[int], other: list[int], given_shares: Shares
) -> None:
    both = Rows(owner=np.repeat([0, 1], [len(mine), len(other)]), stratum=np.array(mine + other))
    together = split(both, given_shares, clients=2)
    assert np.array_equal(together[: len(mine)], split(alone(mine), given_shares))


@given(classes, shares)
def test_rows_of_clients_may_lie_among_each_other(mine: list[int], given_shares: Shares) -> None:
    owner = np.tile([0, 1], len(mine))
    together = split(Rows(owner=owner, stratum=np.repeat(mine, 2)), given_shares, clients=2)
    assert np.array_equal(together[::2], split(alone(mine), given_shares))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), min_size=1, max_size=60), shares)
def test_a_persons_rows_stay_on_one_side(pairs: list[tuple[int, int]], given_shares: Shares) -> None:
    stratum, person = (np.array(column) for column in zip(*pairs, strict=True))
    fold = split(Rows(owner=np.zeros_like(person), stratum=stratum, person=person), given_shares)
    assert all(len(set(fold[person == each])) == 1 for each in set(person.tolist()))
    assert (fold == 0).any()


def test_persons_of_equal_size_split_as_rows_do() -> None:
    person = np.repeat(np.arange(40), 3)
    fold = split(
        Rows(owner=np.zeros(120, dtype=np.int64), stratum=np.zeros(120, dtype=np.int64), person=person), Shares()
    )
    assert np.bincount(fold).tolist() == [90, 0, 30]


def test_a_class_of_one_row_is_tested_as_often_as_any_row() -> None:
    # Of 400 clients with shares of 1/4: 100 expected, standard deviation 8.7; outside 5 of them once in 1.7 million.
    owner = np.repeat(np.arange(400), 8)
    stratum = np.tile([0] * 7 + [1], 400)
    tested = split(Rows(owner=owner, stratum=stratum), Shares(0.25), clients=400) == TEST
    assert 56 <= tested[stratum == 1].sum() <= 144


def test_other_seeds_give_other_splits() -> None:
    rows = alone([0] * 40)
    assert not np.array_equal(split(rows, Shares(), seed=1), split(rows, Shares(), seed=2))


@pytest.mark.parametrize(("test", "validation"), [(1.0, 0.0), (-0.1, 0.0), (0.5, 0.5), (0.0, float("nan"))])
def test_shares_must_leave_rows_to_train_on(test: float, validation: float) -> None:
    with pytest.raises(ComponentError, match="expected"):
        Shares(test, validation)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40))
def test_majority_is_the_commonest_class_and_of_several_the_first(pairs: list[tuple[int, int]]) -> None:
    stratum, raw = (np.array(column) for column in zip(*pairs, strict=True))
    _, unit = np.unique(raw, return_inverse=True)
    expected = [int(np.argmax(np.bincount(stratum[unit == each]))) for each in range(unit.max() + 1)]
    assert majority(stratum, unit, unit.max() + 1).tolist() == expected
