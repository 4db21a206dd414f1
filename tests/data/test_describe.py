"""What clients hold, as a table."""

from __future__ import annotations

import numpy as np

from fedloom.data import arrays, holdings, holdings_table
from fedloom.data.tables import plain_table


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
