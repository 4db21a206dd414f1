"""Rows that occur twice: found among all clients, counted, and named by place only."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.data import arrays, duplicates, generated

rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=40)


@given(rows)
def test_the_count_of_shared_rows_is_that_of_a_count_by_hand(given_rows: list[tuple[str, int, int]]) -> None:
    clients, features, labels = zip(*given_rows, strict=True)
    data = arrays(np.array(features)[:, None], labels, clients=clients, classes=("0", "1"), test=0.0)
    owners: dict[tuple[int, int], set[str]] = {}
    for client, feature, label in given_rows:
        owners.setdefault((feature, label), set()).add(client)
    shared = sum(len(held) > 1 for held in owners.values())
    said = duplicates(data)
    if shared == 0:
        assert said == ()
    elif shared == 1:
        assert said[0].startswith("1 row occurs at more than one client: ")
    else:
        assert said[0].startswith(f"{shared} different rows occur at more than one client; the first: ")


def test_both_places_of_the_first_shared_row_are_named() -> None:
    features = [[7001.0], [7002.0], [7003.0], [7002.0], [7004.0]]
    data = arrays(features, [0, 1, 0, 1, 0], clients=["n", "n", "s", "s", "s"], test=0.0)
    assert duplicates(data) == ("1 row occurs at more than one client: n row 1 = s row 1",)


def test_a_repeated_row_of_one_client_in_one_split_is_no_duplicate() -> None:
    assert duplicates(arrays(np.ones((4, 2)), [0, 0, 0, 0], clients=["a"] * 4, classes=("0", "1"), test=0.0)) == ()


def test_rows_in_training_and_in_test_of_one_client_are_counted() -> None:
    fold = ["train", "train", "test", "test", "train", "test"]
    data = arrays(
        [[1.0], [2.0], [2.0], [3.0], [5.0], [5.0]], [0, 1, 1, 1, 0, 0], clients=["n"] * 4 + ["s"] * 2, fold=fold
    )
    assert duplicates(data) == (
        "2 test rows equal training rows of their clients, at 2 clients; the first: n row 2 = row 1",
    )


def test_a_row_that_another_client_tests_is_shared_and_not_torn() -> None:
    fold = ["train", "train", "test"]
    said = duplicates(arrays([[1.0], [2.0], [1.0]], [0, 0, 0], clients=["n", "s", "s"], fold=fold))
    assert said == ("1 row occurs at more than one client: n row 0 = s row 1",)


def test_label_and_texts_are_part_of_a_row() -> None:
    def said(labels: list[int], texts: list[list[str]]) -> tuple[str, ...]:
        return duplicates(
            arrays(np.ones((2, 1)), labels, clients=["a", "b"], texts=texts, text_columns=["t", "u"], test=0.0)
        )

    assert said([0, 0], [["x", "y"], ["x", "y"]]) != ()
    assert said([0, 1], [["x", "y"], ["x", "y"]]) == ()
    assert said([0, 0], [["x", "y"], ["y", "x"]]) == ()
    assert said([0, 0], [["x", ""], ["", "x"]]) == ()


@pytest.mark.parametrize(("left", "right"), [(0.0, -0.0), (np.nan, np.nan)])
def test_equal_zeros_and_missing_values_are_equal(left: float, right: float) -> None:
    assert duplicates(arrays([[left], [right]], [0, 0], clients=["a", "b"], test=0.0)) != ()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_hold_the_same_numbers_in_other_columns_differ(dtype: str) -> None:
    swapped = np.array([[1, 2], [2, 1]], dtype=dtype)
    assert duplicates(arrays(swapped, [0, 0], clients=["a", "b"], test=0.0)) == ()


def test_small_whole_numbers_do_not_collide() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 5), axis=-1).reshape(-1, 5)
    assert duplicates(arrays(grid, np.zeros(len(grid)), clients=np.arange(len(grid)) % 7, test=0.0)) == ()


def test_only_the_first_clients_are_looked_at() -> None:
    data = arrays(np.ones((3, 1)), [0, 0, 0], clients=["a", "b", "c"], test=0.0)
    assert duplicates(data, limit=1) == ()
    assert duplicates(data, limit=2) == ("1 row occurs at more than one client: a row 0 = b row 0",)


def test_any_dataset_of_the_protocol_will_do_and_an_empty_client_too() -> None:
    assert duplicates(generated(3, rows=5, features=2)) == ()


@pytest.mark.slow
def test_thirty_thousand_rows_take_a_moment() -> None:
    features = np.arange(900_000.0).reshape(30_000, 30)
    data = arrays(features, np.arange(30_000) % 2, clients=np.arange(30_000) % 5)
    start = time.perf_counter()
    assert duplicates(data) == ()
    assert time.perf_counter() - start < 0.5
