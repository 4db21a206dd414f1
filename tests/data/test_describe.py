"""What clients hold, and warnings and errors about their rows that never show a value."""

from __future__ import annotations

import numpy as np
import pytest

from fedloom.core.data import ClientDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.data import arrays, check_rows, holdings, holdings_table
from fedloom.data.tables import plain_table
from fedloom.errors import DataError

B = ClientId("hospital b")
SCHEMA = Schema(("age", "bp"), "outcome", ("well", "ill"))


def client(features: np.ndarray, label: np.ndarray | None = None) -> ClientDataset:
    label = np.arange(len(features)) % 2 if label is None else label
    return ClientDataset({"features": features, "label": label}, {"train": slice(0, len(features))})


def varied(rows: int = 6) -> np.ndarray:
    return np.arange(2.0 * rows).reshape(rows, 2)


def test_holdings_count_rows_by_split_and_by_class() -> None:
    data = arrays(varied(5), ["ill", "well", "ill", "ill", "ill"], clients=["a", "a", "b", "b", "b"], test=0.34)
    first, second = holdings(data)
    assert (first.client, first.train + first.test, dict(first.classes)) == ("a", 2, {"ill": 1, "well": 1})
    assert (second.train, second.test, dict(second.classes)) == (2, 1, {"ill": 3})


def test_regression_has_no_classes_to_count() -> None:
    data = arrays(varied(2), [0.5, 1.5], clients=["a", "a"], task="regression", test=0.0)
    assert [dict(each.classes) for each in holdings(data)] == [{}]


def test_the_table_of_many_clients_stops_but_its_totals_do_not() -> None:
    data = arrays(varied(5), np.array([0, 1, 0, 1, 1]), clients=list("abcde"), test=0.0)
    assert holdings_table(holdings(data), limit=2).splitlines() == [
        "client  train  validation  test  0  1",
        "a           1           0     0  1  0",
        "b           1           0     0  0  1",
        "all         5           0     0  2  3",
        "3 more clients are in the totals",
    ]


def test_a_table_of_nothing_is_its_header() -> None:
    assert plain_table(("client", "rows"), []) == "client  rows"
    assert holdings_table([]) == "client  train  validation  test"


def test_good_rows_give_no_warnings() -> None:
    assert check_rows(B, client(varied()), SCHEMA, columns=("age", "bp")) == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_unusable_features_name_client_column_count_and_rows_and_no_value(bad: float) -> None:
    features = varied(8) + 7000.0
    features[[1, 2, 3, 4, 5, 6], 1] = bad
    with pytest.raises(DataError) as caught:
        check_rows(B, client(features), SCHEMA)
    message = str(caught.value)
    assert "hospital b: column `bp` is NaN or infinite in 6 of 8 rows (first: 1, 2, 3, 4, 5)" in message
    assert "70" not in message
    assert "`age`" not in message


def test_many_unusable_columns_are_counted() -> None:
    schema = Schema(tuple(f"x{place}" for place in range(9)), "y", ("a", "b"))
    with pytest.raises(DataError, match=r"`x4` .* and 4 more columns"):
        check_rows(B, client(np.full((3, 9), np.nan)), schema)


def test_a_label_of_a_regression_must_be_finite() -> None:
    with pytest.raises(DataError, match="label `outcome` is NaN or infinite in 1 of 2 rows"):
        check_rows(B, client(varied(2), np.array([1.0, np.nan])), Schema(("age", "bp"), "outcome"))


def test_a_missing_column_is_named_where_names_are_known() -> None:
    with pytest.raises(DataError, match="hospital b: expects 2 features, has 1; missing `age`"):
        check_rows(B, client(varied()[:, :1]), SCHEMA, columns=("bp",))
    with pytest.raises(DataError, match=r"expects 2 features, has 1\. Give"):
        check_rows(B, client(varied()[:, :1]), SCHEMA)
    with pytest.raises(DataError, match="missing `bp`, not expected `sex`"):
        check_rows(B, client(varied()), SCHEMA, columns=("age", "sex"))


def test_constant_columns_and_one_class_are_warnings() -> None:
    features = varied(4)
    features[:, 1] = 3.0
    warnings = check_rows(B, client(features, np.ones(4, dtype=np.int64)), SCHEMA)
    assert warnings == (
        "hospital b: column `bp` is constant over its 4 training rows",
        "hospital b: all of its 4 training rows are of one class",
    )


def test_a_client_without_training_rows_is_a_warning() -> None:
    assert check_rows(B, ClientDataset(dict(client(varied()).arrays)), SCHEMA) == ("hospital b: has no training rows",)


def test_equal_numbers_to_predict_are_not_one_class() -> None:
    assert check_rows(B, client(varied(3), np.ones(3)), Schema(("age", "bp"), "outcome")) == ()
