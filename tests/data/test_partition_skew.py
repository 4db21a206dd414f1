"""Skewed partitions deal every row once, keep what they promise, and refuse what cannot be, with a table."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedloom.core.keys import Key
from fedloom.data import Partition, Pooled, arrays, dirichlet, feature_noise, iid, labels_per_client, quantity
from fedloom.errors import ComponentError, DataError

KEY = Key.from_seed(5)
quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)


def deals_every_row_once(hands: tuple[np.ndarray, ...], rows: int) -> bool:
    ascending = all((np.diff(hand) > 0).all() for hand in hands)
    return ascending and sorted(np.concatenate(hands).tolist()) == list(range(rows))


@st.composite
def labelled(draw: st.DrawFn) -> tuple[int, int, np.ndarray]:
    """Clients, labels of each, and rows of which that can be: uneven classes, small ones among them."""
    classes = draw(st.integers(1, 7))
    labels = draw(st.integers(1, classes))
    clients = draw(st.integers(1, 9))
    counts = draw(st.lists(st.integers(1, 30), min_size=classes, max_size=classes))
    assume(clients * labels >= classes)
    assume(sum(min(count, clients) for count in counts) >= clients * labels)
    order = draw(st.randoms(use_true_random=False))
    of_row = [index for index, count in enumerate(counts) for _ in range(count)]
    order.shuffle(of_row)
    return clients, labels, np.array(of_row)


@quick
@given(labelled(), st.integers(0, 2**32))
def test_every_client_holds_its_number_of_classes_and_every_class_has_a_client(
    case: tuple[int, int, np.ndarray], seed: int
) -> None:
    clients, labels, of_row = case
    hands = labels_per_client(clients, labels).split(of_row, Key.from_seed(seed))
    assert len(hands) == clients and deals_every_row_once(hands, len(of_row))
    held = [set(of_row[hand].tolist()) for hand in hands]
    assert all(len(classes) == labels for classes in held)
    assert set.union(*held) == set(of_row.tolist())
    holders = Counter(label for classes in held for label in classes)
    rows = Counter(of_row.tolist())
    full = max(holders.values())
    assert all(holders[label] >= min(full - 1, rows[label], clients) for label in rows), "as even as the rows allow"
    for label in rows:
        shares = [int((of_row[hand] == label).sum()) for hand in hands if (of_row[hand] == label).any()]
        assert max(shares) - min(shares) <= 1


@quick
@given(st.integers(1, 8), st.floats(0.05, 50), st.integers(0, 3), st.integers(0, 2**32))
def test_quantity_deals_every_row_and_leaves_no_client_short(clients: int, alpha: float, least: int, seed: int) -> None:
    try:
        hands = quantity(clients, alpha, min_rows=least).split(np.zeros(120), Key.from_seed(seed))
    except DataError as error:
        assert "larger alpha" in str(error)
        return
    assert len(hands) == clients and deals_every_row_once(hands, 120)
    assert min(map(len, hands)) >= least


@pytest.mark.parametrize(
    "partition", [labels_per_client(4, 2), quantity(4, 1.0), feature_noise(4, 0.5)], ids=lambda p: p.spec.name
)
def test_the_same_key_deals_the_same_rows_and_another_key_others(partition: Partition) -> None:
    labels = np.arange(100) % 5
    one, again, other = (partition.split(labels, Key.from_seed(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_who_holds_which_labels_is_drawn() -> None:
    """Ten clients of two of ten classes: all pairs come up, each about as often as any other."""
    of_row = np.repeat(np.arange(10), 4)
    pairs: Counter[tuple[int, ...]] = Counter()
    for seed in range(300):
        hands = labels_per_client(10, 2).split(of_row, Key.from_seed(seed))
        pairs.update(tuple(sorted(set(of_row[hand].tolist()))) for hand in hands)
    assert len(pairs) == 45
    # Each is expected 67 times, with a standard deviation of 8 or so: five of them.
    assert min(pairs.values()) > 27 and max(pairs.values()) < 107


def test_a_small_alpha_makes_sizes_uneven_and_leaves_classes_mixed() -> None:
    labels = np.arange(4000) % 2
    hands = quantity(5, 0.5, min_rows=50).split(labels, KEY)
    assert max(map(len, hands)) > 3 * min(map(len, hands))
    for hand in hands:  # hypergeometric: 6 standard deviations, false alarm below 1e-7
        assert abs(labels[hand].mean() - 0.5) < 6 * 0.5 / np.sqrt(len(hand))
    even = [len(hand) for hand in quantity(5, 1e7).split(labels, KEY)]
    assert max(even) - min(even) < 20


@pytest.mark.parametrize(
    ("clients", "labels", "counts", "told"),
    [
        (3, 4, [5, 5, 5], "there are 3 classes. Use fewer labels"),
        (2, 2, [5, 5, 5, 5, 5], "5 classes do not all find a client. Use more clients or more labels"),
        (9, 2, [2, 3, 30], "too few rows: clients can hold 14 of them, not 18. Use fewer clients or fewer labels"),
    ],
)
def test_impossible_labels_are_refused_with_the_rows_of_each_class(
    clients: int, labels: int, counts: list[int], told: str
) -> None:
    of_row = np.repeat([f"kind-{index}" for index in range(len(counts))], counts)
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        labels_per_client(clients, labels).split(of_row, KEY)
    table = str(caught.value).splitlines()[1:]
    assert [line.split() for line in table[1:]] == [[f"kind-{n}", str(count)] for n, count in enumerate(counts)]


@pytest.mark.parametrize("build", [quantity, dirichlet])
def test_an_impossible_alpha_shows_sizes_and_an_alpha_that_works(build: object) -> None:
    labels = np.arange(200) % 2
    with pytest.raises(DataError) as caught:
        build(4, 1e-3, min_rows=10).split(labels, KEY)  # type: ignore[operator]
    said = str(caught.value)
    assert "client-3" in said and "fewer clients" in said
    found = re.search(r"larger alpha \((\S+) works here\)", said)
    assert found is not None, said
    hands = build(4, float(found[1]), min_rows=10).split(labels, KEY)  # type: ignore[operator]
    assert min(map(len, hands)) >= 10


@pytest.mark.parametrize(
    "partition",
    [labels_per_client(9, 1), labels_per_client(5, 2), quantity(9, 1.0), quantity(3, 1.0, min_rows=3)],
    ids=["labels 9 x 1", "labels 5 x 2", "quantity 9", "quantity 3 x 3"],
)
def test_too_few_rows_are_an_error_that_names_both(partition: Partition) -> None:
    with pytest.raises(DataError, match=r"received 8 rows; expected at least (9|10)"):
        partition.split(np.arange(8) % 2, KEY)


def test_labels_with_decimals_are_refused() -> None:
    with pytest.raises(DataError, match="labels are numbers with decimals"):
        labels_per_client(2, 1).split(np.array([0.5, 1.25, 3.0]), KEY)


@pytest.mark.parametrize(
    "build",
    [
        lambda: labels_per_client(0, 1),
        lambda: labels_per_client(1, 0),
        lambda: quantity(0, 1.0),
        lambda: quantity(2, 0.0),
        lambda: quantity(2, -1.0),
        lambda: quantity(2, float("nan")),
        lambda: quantity(2, 1.0, min_rows=-1),
        lambda: feature_noise(0, 1.0),
        lambda: feature_noise(2, -0.1),
        lambda: feature_noise(2, float("inf")),
        lambda: feature_noise(2, 1.0, unit="metre"),  # type: ignore[arg-type]
    ],
)
def test_arguments_outside_their_range_are_refused(build: object) -> None:
    with pytest.raises(ComponentError, match="expected"):
        build()  # type: ignore[operator]


def noisy(features: np.ndarray, sigma: float, clients: int = 4, **options: object) -> Pooled:
    label = np.arange(len(features)) % 2
    return arrays(features, label, partition=feature_noise(clients, sigma, **options), test=0.25)  # type: ignore[arg-type]


def test_noise_grows_from_client_to_client_on_rows_of_every_split() -> None:
    data = noisy(np.zeros((8000, 5)), 2.0)
    for number in range(4):
        rows = data.client(data.population().id(number))
        assert rows.count("test") == 500
        for split in ("train", "test"):
            variance = rows.split(split).arrays["features"].var()
            # Of n = 2,500 values or more the variance is known to sqrt(2 / n): 6 of them, false alarm below 1e-8.
            assert variance == pytest.approx(2.0 * (number + 1) / 4, rel=6 * np.sqrt(2 / 2500))


def test_without_noise_it_is_iid_and_its_rows_are_those_of_the_table() -> None:
    features = np.arange(60.0).reshape(30, 2)
    same = arrays(features, np.arange(30) % 2, partition=iid(4), test=0.25)
    data = noisy(features, 0.0)
    assert data.features.tolist() == same.features.tolist()
    assert data.roll.names == same.roll.names


def test_noise_in_deviations_is_a_part_of_each_columns_own_spread() -> None:
    features = np.random.Generator(np.random.Philox(1)).standard_normal((20_000, 2)) * [1.0, 1e5]
    data = noisy(features, 1.0, clients=1, unit="deviation")
    assert np.sqrt(data.features.var(axis=0) / features.var(axis=0)) == pytest.approx([2**0.5] * 2, rel=0.03)


def test_noise_keeps_missing_values_types_and_what_was_passed_in() -> None:
    features = np.ones((40, 3), dtype=np.float32)
    features[::7, 1] = np.nan
    before = features.copy()
    for unit in ("feature", "deviation"):
        data = noisy(features, 0.5, unit=unit)
        assert data.features.dtype == np.float32
        assert np.isnan(data.features).sum() == np.isnan(before).sum()
    assert np.array_equal(features, before, equal_nan=True)


def test_a_clients_noise_hangs_on_its_name_and_not_on_its_place() -> None:
    change = feature_noise(2, 1.0).change
    assert change is not None
    zeros, one, two = np.zeros((6, 2)), np.array([0, 2, 4]), np.array([1, 3, 5])
    first = change(zeros, [("a", one), ("b", two)], KEY)
    second = change(zeros, [("b", two), ("a", one)], KEY)
    assert np.allclose(first[one], second[one] / np.sqrt(2))
    assert np.allclose(first[two], second[two] * np.sqrt(2))


@pytest.mark.parametrize(
    "partition", [labels_per_client(4, 1), quantity(4, 2.0), feature_noise(4, 0.0)], ids=lambda p: p.spec.name
)
def test_a_persons_rows_go_to_one_client(partition: Partition) -> None:
    person = np.repeat(np.arange(40), 3)
    data = arrays(person[:, None].astype(float), person % 2, partition=partition, group=person, test=0.25)
    names = [data.population().id(index) for index in range(4)]
    held = [set(data.client(name).arrays["features"].ravel().tolist()) for name in names]
    assert sum(map(len, held)) == len(set.union(*held)) == 40
