"""Partitions deal every row once, the same way for the same key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.keys import Key
from fedloom.data import Partition, dirichlet, iid, shards
from fedloom.data.partition import client_names
from fedloom.errors import ComponentError, DataError

KEY = Key.from_seed(5)


@st.composite
def partitions(draw: st.DrawFn) -> Partition:
    clients = draw(st.integers(1, 6))
    return draw(
        st.sampled_from(
            [iid(clients), dirichlet(clients, 100.0), dirichlet(clients, 1.0, min_rows=0), shards(clients, 2)]
        )
    )


@given(partitions(), st.lists(st.integers(0, 3), min_size=60, max_size=90), st.integers(0, 2**32))
def test_every_row_goes_to_exactly_one_client_in_ascending_order(
    partition: Partition, labels: list[int], seed: int
) -> None:
    hands = partition.split(np.array(labels), Key.from_seed(seed))
    assert len(hands) == partition.clients
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(labels)))
    assert all((np.diff(hand) > 0).all() for hand in hands)


@given(partitions(), st.integers(0, 2**32))
def test_the_same_key_deals_the_same_rows(partition: Partition, seed: int) -> None:
    labels = np.arange(80) % 3
    once, again = (partition.split(labels, Key.from_seed(seed)) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))


def test_another_key_deals_other_rows() -> None:
    labels = np.arange(100) % 2
    for partition in (iid(4), dirichlet(4, 1.0), shards(4)):
        one, other = (partition.split(labels, Key.from_seed(seed)) for seed in (1, 2))
        assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(st.integers(1, 20), st.integers(0, 60))
def test_iid_clients_differ_by_one_row_at_most(clients: int, surplus: int) -> None:
    sizes = [len(hand) for hand in iid(clients).split(np.zeros(clients + surplus), KEY)]
    assert max(sizes) - min(sizes) <= 1


def test_a_large_alpha_gives_every_client_the_mix_of_the_whole() -> None:
    labels = np.arange(1000) % 2
    for hand in dirichlet(4, 1e7).split(labels, KEY):
        assert abs(labels[hand].mean() - 0.5) < 0.01


def test_a_small_alpha_gives_each_class_to_few_clients() -> None:
    labels = np.arange(1000) % 10
    hands = dirichlet(5, 1e-3).split(labels, KEY)
    held = np.array([np.bincount(labels[hand], minlength=10) for hand in hands])
    assert (held > 0).sum(axis=0).mean() <= 2


def test_dirichlet_draws_again_until_every_client_has_its_rows() -> None:
    labels = np.arange(60) % 2
    for seed in range(20):
        assert min(map(len, dirichlet(5, 0.7, min_rows=3).split(labels, Key.from_seed(seed)))) >= 3


def test_shards_of_one_class_each_leave_a_client_no_more_classes_than_shards() -> None:
    labels = np.repeat(np.arange(10), 20)
    assert all(len(set(labels[hand])) <= 2 for hand in shards(5, 2).split(labels, KEY))


def test_partitions_work_on_labels_that_are_text() -> None:
    labels = np.array(["ill", "well"] * 20)
    for partition in (iid(3), dirichlet(3, 10.0), shards(3)):
        assert sum(map(len, partition.split(labels, KEY))) == 40


@pytest.mark.parametrize("partition", [iid(9), dirichlet(9, 1.0), dirichlet(9, 1.0, min_rows=0), shards(9, 1)])
def test_more_clients_than_rows_is_an_error_that_names_both(partition: Partition) -> None:
    with pytest.raises(DataError, match="received 8 rows; expected at least 9"):
        partition.split(np.zeros(8), KEY)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        iid(1).split(np.zeros(0), KEY)


def test_an_impossible_dirichlet_shows_the_sizes_and_suggests_another_alpha() -> None:
    with pytest.raises(DataError) as caught:
        dirichlet(4, 1e-4, min_rows=20).split(np.arange(100) % 2, KEY)
    message = str(caught.value)
    assert "client-3" in message
    assert "larger alpha" in message
    assert "fewer clients" in message


def test_dirichlet_refuses_numbers_to_predict() -> None:
    with pytest.raises(DataError, match="iid or shards"):
        dirichlet(2, 1.0).split(np.array([0.5, 1.25, 3.0]), KEY)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_alpha_must_be_a_finite_number_above_zero(alpha: float) -> None:
    with pytest.raises(ComponentError):
        dirichlet(2, alpha)


def test_counts_below_one_are_refused() -> None:
    for build in (lambda: iid(0), lambda: shards(0), lambda: shards(2, 0), lambda: dirichlet(2, 1.0, min_rows=-1)):
        with pytest.raises(ComponentError, match="expected"):
            build()


def test_a_partition_carries_what_built_it() -> None:
    spec = dirichlet(3, 0.5).spec
    assert spec is not None
    assert spec.as_json() == {
        "group": "fedloom.partitions",
        "name": "dirichlet",
        "arguments": {"clients": 3, "alpha": 0.5, "min_rows": 1},
    }


@given(st.integers(1, 3000))
def test_names_in_order_are_indices_in_order(count: int) -> None:
    names = client_names(count)
    assert list(names) == sorted(names)
