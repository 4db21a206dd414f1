"""Pooled data in memory: nothing lost, nothing copied without need, each client apart from the others."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.data import ClientDataset, FederatedDataset, Population
from fedloom.core.ids import ClientId
from fedloom.data import Pooled, arrays, by_column, dirichlet, iid, silos
from fedloom.data.partition import Partition
from fedloom.errors import ComponentError, DataError

owners = st.lists(st.sampled_from("abcd"), min_size=1, max_size=50)


def numbered(count: int) -> np.ndarray:
    """Features that tell the row they are from."""
    return np.arange(count, dtype=np.float64)[:, None] * [1.0, 10.0]


def clients_of(data: Pooled) -> dict[str, ClientDataset]:
    roll = data.population()
    return {roll.id(index): data.client(roll.id(index)) for index in range(len(roll))}


def rows_of(client: ClientDataset) -> list[int]:
    return [int(value) for value in client.arrays["features"][:, 0]]


@given(owners, st.floats(0, 0.6), st.floats(0, 0.35), st.integers(0, 99))
def test_every_row_is_with_its_client_with_its_label(
    names: list[str], test: float, validation: float, seed: int
) -> None:
    label = np.arange(len(names)) % 3
    data = arrays(numbered(len(names)), label, clients=names, test=test, validation=validation, seed=seed)
    held = clients_of(data)
    assert list(held) == sorted(set(names))
    for name, client in held.items():
        rows = rows_of(client)
        assert sorted(rows) == [row for row, owner in enumerate(names) if owner == name]
        classes = data.schema().classes
        assert classes is not None
        assert [int(classes[index]) for index in client.arrays["label"]] == label[rows].tolist()


@given(owners, st.floats(0, 0.6), st.floats(0, 0.35))
def test_a_client_is_train_then_validation_then_test_and_always_trains(
    names: list[str], test: float, validation: float
) -> None:
    data = arrays(numbered(len(names)), np.zeros(len(names)), clients=names, test=test, validation=validation)
    roll = data.population()
    for index, client in enumerate(clients_of(data).values()):
        train, valid, tested = (client.rows[fold] for fold in ("train", "validation", "test"))
        assert (train.start, train.stop, valid.stop, tested.stop) == (
            0,
            valid.start,
            tested.start,
            len(rows_of(client)),
        )
        assert roll.size(index) == client.count("train") >= 1
    assert roll.examples == sum(roll.size(index) for index in range(len(roll)))


@given(owners, owners)
def test_a_clients_split_is_the_same_whoever_else_takes_part(mine: list[str], others: list[str]) -> None:
    own, everyone = ["me"] * len(mine), ["me"] * len(mine) + others
    label = np.arange(len(everyone)) % 2
    alone = arrays(numbered(len(own)), label[: len(own)], clients=own, classes=("0", "1"))
    together = arrays(numbered(len(everyone)), label, clients=everyone, classes=("0", "1"))
    assert alone.client(ClientId("me")).fingerprint == together.client(ClientId("me")).fingerprint


@given(owners)
def test_grouped_and_scattered_rows_give_the_same_clients(names: list[str]) -> None:
    order = np.argsort(names, kind="stable")
    scattered = arrays(numbered(len(names)), np.zeros(len(names)), clients=names)
    grouped = arrays(numbered(len(names))[order], np.zeros(len(names)), clients=np.array(names)[order])
    for name, client in clients_of(scattered).items():
        assert client.fingerprint == grouped.client(ClientId(name)).fingerprint


@pytest.mark.parametrize("test", [0.0, 0.25])
def test_rows_that_lie_together_are_not_copied(test: float) -> None:
    features = np.ones((40, 5), dtype=np.float32)
    data = arrays(features, np.arange(40) % 2, clients=["b"] * 15 + ["a"] * 25, test=test)
    assert data.features is features


def test_a_client_without_a_drawn_split_is_a_view() -> None:
    features = np.ones((4, 2))
    data = arrays(features, np.zeros(4), clients=["a", "a", "b", "b"], test=0.0)
    assert np.shares_memory(data.client(ClientId("b")).arrays["features"], features)


def test_rows_already_in_the_given_folds_are_views_too() -> None:
    features = np.ones((4, 2))
    fold = ["train", "test", "train", "validation"]
    data = arrays(features, np.zeros(4), clients=["b", "b", "a", "a"], fold=fold)
    client = data.client(ClientId("a"))
    assert np.shares_memory(client.arrays["features"], features)
    assert (client.count("train"), client.count("validation"), client.count("test")) == (1, 1, 0)


def test_a_client_costs_sixteen_bytes_and_its_name() -> None:
    data = arrays(np.ones((3000, 1)), np.zeros(3000), clients=np.repeat(np.arange(1000), 3))
    assert data.roll.spans.nbytes == 16 * 1000
    assert sys.getsizeof(data.roll.names) <= 8 * 1000 + 64


def test_the_dataset_satisfies_the_protocols_of_the_core() -> None:
    data: FederatedDataset = arrays(np.ones((2, 1)), [0, 1], clients=["a", "b"], test=0.0)
    population: Population = data.population()
    assert population.index(ClientId("b")) == 1
    assert data.spec is not None
    assert data.spec.group == "fedloom.datasets"


def test_a_spec_holds_digests_of_rows_and_never_the_rows() -> None:
    data = arrays([[123.25], [321.5]], ["secret", "known"], clients=["ann", "bob"], group=["p1", "p2"], test=0.0)
    assert data.spec is not None
    text = str(data.spec.as_json())
    assert not any(word in text for word in ("123.25", "secret", "ann", "p1"))
    same = arrays(
        np.array([[123.25], [321.5]]), ["secret", "known"], clients=["ann", "bob"], group=["p1", "p2"], test=0.0
    )
    assert same.spec is not None
    assert same.spec.digest == data.spec.digest


def test_an_unknown_client_is_an_error_with_the_nearest_name() -> None:
    data = arrays(np.ones((2, 1)), [0, 1], clients=["north", "south"], test=0.0)
    with pytest.raises(DataError, match=r"'nort' among 2\. Did you mean 'north'"):
        data.client(ClientId("nort"))


@pytest.mark.parametrize(("clients", "partition"), [(None, None), (["a", "a"], iid(1))])
def test_exactly_one_of_clients_and_partition_is_given(clients: list[str] | None, partition: Partition | None) -> None:
    with pytest.raises(ComponentError, match="expected one of them"):
        arrays(np.ones((2, 1)), [0, 1], clients=clients, partition=partition)


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [("float32", "float32"), ("float64", "float64"), ("uint8", "float32"), ("int64", "float64"), ("object", "float64")],
)
def test_features_become_the_smallest_float_that_holds_them(given_type: str, kept: str) -> None:
    data = arrays(np.ones((2, 1), dtype=given_type), [0, 1], clients=["a", "a"])
    assert data.features.dtype == kept


def test_given_classes_set_the_order_and_may_name_absent_ones() -> None:
    data = arrays(np.ones((2, 1)), ["well", "ill"], clients=["a", "a"], classes=("well", "worse", "ill"), test=0.0)
    assert data.schema().classes == ("well", "worse", "ill")
    assert data.client(ClientId("a")).arrays["label"].tolist() == [0, 2]


def test_indices_in_place_of_names_are_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"np.array\(classes\)\[label\]"):
        arrays(np.ones((2, 1)), [0, 1], clients=["a", "a"], classes=("benign", "malignant"))


def test_regression_keeps_numbers_and_has_no_classes() -> None:
    data = arrays(np.ones((2, 1)), [1, 3], clients=["a", "a"], task="regression", test=0.0)
    assert data.schema().classes is None
    assert data.label.dtype == np.float64


@given(st.lists(st.integers(0, 9), min_size=8, max_size=60), st.integers(0, 50))
def test_a_partition_with_groups_keeps_a_person_at_one_client_and_on_one_side(persons: list[int], seed: int) -> None:
    clients = min(2, len(set(persons)))
    count = len(persons)
    data = arrays(numbered(count), np.arange(count) % 2, partition=iid(clients), group=persons, seed=seed)
    sides: dict[int, set[tuple[str, str]]] = {}
    for name, client in clients_of(data).items():
        rows = rows_of(client)
        for fold, where in client.rows.items():
            for row in rows[where]:
                sides.setdefault(persons[row], set()).add((name, fold))
    assert all(len(side) == 1 for side in sides.values())


def test_a_partition_may_leave_a_client_empty_only_by_its_own_choice() -> None:
    lone = Partition(2, lambda labels, _key: (np.arange(len(labels)), np.arange(0)))
    data = arrays(np.ones((3, 1)), [0, 1, 1], partition=lone)
    assert [data.population().size(index) for index in range(2)] == [2, 0]
    assert data.client(ClientId("client-1")).arrays["features"].shape == (0, 1)


def test_a_partition_that_deals_a_row_twice_is_refused() -> None:
    twice = Partition(2, lambda labels, _key: (np.arange(len(labels)), np.arange(1)))
    with pytest.raises(DataError, match="twice or never"):
        arrays(np.ones((3, 1)), [0, 1, 1], partition=twice)


def test_the_seed_governs_partition_and_split() -> None:
    def prints(seed: int) -> list[str]:
        data = arrays(numbered(60), np.arange(60) % 2, partition=dirichlet(3, 5.0), seed=seed)
        return [client.fingerprint for client in clients_of(data).values()]

    assert prints(1) == prints(1) != prints(2)


def test_silos_are_the_same_dataset_as_their_pooled_rows() -> None:
    apart = silos({"b": (numbered(3), [0, 1, 1]), "a": (numbered(2), [1, 0])})
    pooled = arrays(
        np.concatenate([numbered(2), numbered(3)]), np.array([1, 0, 0, 1, 1]), clients=["a", "a", "b", "b", "b"]
    )
    assert apart.spec is not None
    assert pooled.spec is not None
    assert apart.spec.digest == pooled.spec.digest


def test_a_silo_with_another_number_of_columns_is_named() -> None:
    with pytest.raises(DataError, match="'b': expects 3 features, has 2"):
        silos({"a": (np.ones((1, 3)), [0]), "b": (np.ones((1, 2)), [1])})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": np.ones(4)}, "features have shape"),
        ({"features": np.ones((0, 2))}, "at least one of each"),
        ({"features": np.array([["a", "b"]] * 4)}, "not all numbers"),
        ({"label": [0, 1]}, "label has shape"),
        ({"clients": ["a", "b"]}, "clients has shape"),
        ({"clients": ["a", "", "a", "b"]}, "client names are missing"),
        ({"group": ["p", None, "p", "p"]}, "groups are missing"),
        ({"columns": ["x"]}, "1 different column names for 2 features"),
        ({"columns": ["x", "x"]}, "1 different column names"),
        ({"fold": ["train", "tset", "test", "train"]}, "fold 'tset' at row 1"),
        ({"fold": ["test", "test", "train", "train"]}, "client 'a' has 2 rows and none"),
        ({"fold": ["train", "test", "train", "test"], "group": [1, 1, 2, 2]}, "2 times"),
        ({"classes": ["0", "0"]}, "twice"),
        ({"label": [0.5, 1.5, 2.5, 3.5]}, "regression"),
        ({"label": ["x", "y", "x", "y"], "task": "regression"}, "not all numbers"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_so(changed: dict[str, object], words: str) -> None:
    good: dict[str, object] = {"features": np.ones((4, 2)), "label": [0, 1, 0, 1], "clients": ["a", "a", "b", "b"]}
    with pytest.raises(DataError, match=words):
        arrays(**{**good, **changed})  # type: ignore[arg-type]


TEXTS: list[list[object]] = [["f", "n"], ["m", None], ["f", 4.0], ["m", float("nan")]]


@pytest.mark.parametrize("clients", [list("abab"), list("aabb"), list("bbaa")])
def test_texts_stay_with_their_rows(clients: list[str]) -> None:
    data = arrays(numbered(4), [0, 1, 0, 1], clients=clients, texts=TEXTS, text_columns=["sex", "ward"], test=0.5)
    assert data.schema().texts == ("sex", "ward")
    expected = [["f", "n"], ["m", ""], ["f", "4"], ["m", ""]]
    for client in clients_of(data).values():
        assert client.arrays["texts"].tolist() == [expected[row] for row in rows_of(client)]


def test_texts_count_in_spec_and_fingerprint_and_are_never_in_the_spec() -> None:
    def made(texts: list[list[str]] | None) -> Pooled:
        columns = () if texts is None else ["sex"]
        return arrays(np.ones((2, 1)), [0, 1], clients=["a", "b"], texts=texts, text_columns=columns, test=0.0)

    one, two, none = made([["secret"], ["m"]]), made([["m"], ["secret"]]), made(None)
    assert one.spec is not None and two.spec is not None and none.spec is not None
    assert len({one.fingerprint, two.fingerprint, none.fingerprint}) == 3
    assert one.spec.digest != two.spec.digest
    assert "secret" not in str(one.spec.as_json())
    assert "texts" not in none.spec.arguments


def test_spec_and_fingerprint_of_rows_without_texts_are_those_of_version_0_1() -> None:
    data = arrays(numbered(4), [0, 1, 0, 1], clients=list("abab"), test=0.5)
    assert data.spec is not None
    assert data.spec.digest[:16] == "38ca7f8b2a5c66bc"
    assert data.fingerprint[:16] == "2860311975a04acf"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"texts": None}, "text_columns = .* without texts"),
        ({"text_columns": []}, r"0 text_columns"),
        ({"text_columns": ["x0", "ward"]}, "3 different names for 4"),
        ({"texts": TEXTS[:3]}, r"texts have shape \(3, 2\), for 4 rows"),
        ({"texts": np.array(["f", "m", "f", "m"])}, r"texts have shape \(4,\)"),
    ],
)
def test_texts_that_do_not_fit_are_an_error(changed: dict[str, object], words: str) -> None:
    good: dict[str, object] = {"clients": list("aabb"), "texts": TEXTS, "text_columns": ["sex", "ward"]}
    with pytest.raises(DataError, match=words):
        arrays(np.ones((4, 2)), [0, 1, 0, 1], **{**good, **changed})  # type: ignore[arg-type]


def test_features_may_be_texts_alone() -> None:
    data = arrays(np.empty((2, 0)), [0, 1], clients=["a", "b"], texts=[["f"], ["m"]], text_columns=["sex"], test=0.0)
    assert (data.features.shape, data.schema().columns) == ((2, 0), ())


def test_a_partition_by_a_column_of_texts_deals_by_its_names() -> None:
    data = arrays(
        numbered(4), [0, 1, 0, 1], partition=by_column("sex"), texts=[["f"], ["m"], ["f"], ["m"]], text_columns=["sex"]
    )
    assert [*data.roll.names] == ["f", "m"]


def test_persons_at_several_clients_are_a_note_and_dealt_persons_never() -> None:
    persons = np.arange(12) // 3
    apart = arrays(numbered(12), np.arange(12) % 2, clients=np.arange(12) % 2, group=persons)
    assert apart.notes[0].startswith("4 of 4 groups (persons) have rows at more than one client")
    assert arrays(numbered(12), np.arange(12) % 2, partition=iid(2), group=persons).notes == ()
