"""Clients that a column makes: every row once, names in order, and what cannot be is refused with a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.keys import Key
from fedloom.data import arrays, by_column, csv
from fedloom.errors import ComponentError, DataError

KEY = Key.from_seed(5)
CREDIT = Path(__file__).parents[3] / "shared" / "data" / "credit_default"
quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)


@quick
@given(st.lists(st.integers(-5, 5), min_size=30, max_size=60), st.integers(0, 2**32))
def test_every_value_is_a_client_that_holds_exactly_its_rows(values: list[int], seed: int) -> None:
    column = np.array(values, dtype=float)
    cut = by_column("x")
    assert cut.names is not None
    names = cut.names(column)
    hands = cut.split(column, Key.from_seed(seed))
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(values)))
    assert list(names) == sorted(names) and set(names) == set(map(str, values))
    assert all(set(column[hand].tolist()) == {float(name)} for name, hand in zip(names, hands, strict=True))


@quick
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.sets(st.integers(-50, 50), min_size=1, max_size=12))
def test_intervals_hold_their_upper_bound_and_not_their_lower(values: list[float], bounds: set[int]) -> None:
    edges = sorted(bounds)
    # A row in each interval, so that none is empty.
    column = np.array([*values, *edges, edges[-1] + 1])
    cut = by_column("x", bins=edges)
    assert cut.names is not None
    names = cut.names(column)
    hands = cut.split(column, KEY)
    assert list(names) == sorted(names) and len(names) == len(hands) == len(edges) + 1
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(column)))
    for low, high, hand in zip([-np.inf, *edges], [*edges, np.inf], hands, strict=True):
        assert (column[hand] > low).all() and (column[hand] <= high).all()


def test_a_data_set_has_clients_named_by_value_and_keeps_the_column() -> None:
    features = np.array([[1.0, 10], [2, 20], [1, 30], [2, 40], [1, 50], [2, 60]])
    data = arrays(features, [0, 1] * 3, partition=by_column("ward"), columns=["ward", "age"], test=0.0)
    assert data.roll.names == ("1", "2")
    assert data.client(data.roll.id(0)).arrays["features"].tolist() == features[::2].tolist()
    assert data.schema().columns == ("ward", "age")
    other = arrays(features, [0, 1] * 3, partition=by_column("ward"), columns=["ward", "age"], test=0.0, seed=9)
    assert other.fingerprint == data.fingerprint, "nothing is drawn"


def test_classes_can_be_clients_by_their_names() -> None:
    data = arrays(np.ones((6, 1)), ["ill", "well"] * 3, partition=by_column("label"), test=0.0)
    assert data.roll.names == ("ill", "well")
    regression = arrays(
        np.ones((6, 1)), np.arange(6.0), partition=by_column("label", bins=[2]), test=0.0, task="regression"
    )
    assert [regression.roll.size(index) for index in range(2)] == [3, 3]


def test_a_row_goes_where_its_column_says_whoever_the_person() -> None:
    """As with named clients, two who know the same person split for themselves."""
    features = np.array([[0.0], [1.0], [0.0], [1.0]])
    data = arrays(features, [0, 1, 0, 1], partition=by_column("x0"), group=["p", "p", "q", "q"], test=0.0)
    assert [data.client(data.roll.id(n)).arrays["features"].tolist() for n in range(2)] == [[[0.0]] * 2, [[1.0]] * 2]


def test_credit_limits_are_the_silos_of_the_shared_baseline() -> None:
    if not CREDIT.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    bins = [50_000, 100_000, 200_000, 350_000]
    limits = by_column("LIMIT_BAL", bins=bins)
    data = csv(CREDIT / "UCI_Credit_Card.csv", label="default.payment.next.month", partition=limits, test=0.0)
    assert data.roll.names[:2] == ("1: up to 50000", "2: above 50000 to 100000")
    assert data.roll.names[-1] == "5: above 350000"
    assert data.roll.sizes().tolist() == [7676, 4822, 7880, 6265, 3357]


def test_an_interval_without_rows_is_refused_with_the_sizes() -> None:
    with pytest.raises(DataError, match="an interval of column 'x' has no row") as caught:
        by_column("x", bins=[1, 2]).split(np.array([0.0, 5.0, 6.0]), KEY)
    assert [line.split()[-1] for line in str(caught.value).splitlines()[2:5]] == ["1", "0", "2"]


@pytest.mark.parametrize(
    ("values", "bins", "told"),
    [
        (np.arange(9.0), None, "9 different values in 9 rows, fewer than two rows a client. Give bins"),
        (np.array(["a", "b", "c"]), None, "Choose a column that groups rows"),
        (np.array(["a", "b", "a"]), [1], "bins cut numbers, and column 'x' holds text"),
        (np.array([1.0, np.nan, 1.0]), [1], "1 of 3 values of column 'x' are missing"),
        (np.array(["a", "", "a", "a"]), None, "1 of 4 values of column 'x' are missing"),
        (np.empty(0), None, "no rows"),
    ],
)
def test_columns_that_make_no_clients_are_refused(values: np.ndarray, bins: list[float] | None, told: str) -> None:
    with pytest.raises(DataError, match=told):
        by_column("x", bins=bins).split(values, KEY)


def test_an_unknown_column_is_told_with_its_nearest_spelling() -> None:
    with pytest.raises(DataError, match=r"no column 'agee' among 2. Did you mean 'age'\?.*name that as client"):
        arrays(np.ones((4, 1)), [0, 1, 0, 1], partition=by_column("agee"), columns=["age"])


@pytest.mark.parametrize("bins", [[], [2, 1], [1, 1], [1, float("nan")], [float("inf")]])
def test_bounds_must_be_finite_and_ascending(bins: list[float]) -> None:
    with pytest.raises(ComponentError, match="finite"):
        by_column("x", bins=bins)


def test_a_column_of_text_makes_a_client_of_each_category(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("age,ward,outcome\n" + "".join(f"{n},{'north' if n % 3 else 'south'},{n % 2}\n" for n in range(12)))
    data = csv(path, label="outcome", categories=["ward"], partition=by_column("ward"), test=0.0)
    assert data.roll.names == ("north", "south") and data.schema().texts == ("ward",)
    assert data.client(data.roll.id(1)).arrays["texts"].tolist() == [["south"]] * 4
    whole = csv(path, label="outcome", client="ward", columns=["age"], test=0.0)
    for index in range(2):
        one, other = (each.client(each.roll.id(index)).arrays["features"] for each in (data, whole))
        assert one.tolist() == other.tolist()
