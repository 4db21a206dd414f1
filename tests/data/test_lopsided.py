"""A deal that leaves clients without a class or without test rows is told once, with the table of those clients."""

from __future__ import annotations

import numpy as np

from fedloom.data import arrays, holdings, iid, labels_per_client
from fedloom.data.lopsided import lopsided

FEATURES = np.arange(120.0).reshape(60, 2)


def test_clients_of_one_class_are_named_with_what_they_hold() -> None:
    data = arrays(FEATURES, np.repeat(["a", "b", "c"], 20), partition=labels_per_client(4, 1), test=0.25)
    said = lopsided(holdings(data))
    assert said is not None and said.startswith("of 4 clients, 4 hold rows of one class alone; another seed")
    assert [line.split()[0] for line in said.splitlines()[2:]] == [f"client-{n}" for n in range(4)] + ["all"]


def test_clients_without_test_rows_are_named_only_where_others_have_some() -> None:
    owners = np.repeat(["large", "small"], [58, 2])
    label = np.arange(60) % 2
    data = arrays(FEATURES, label, clients=owners, test=0.2)
    said = lopsided(holdings(data))
    assert said is not None and said.startswith("of 2 clients, 1 has no test rows; ")
    assert [line.split()[0] for line in said.splitlines()[2:]] == ["small", "all"]
    assert lopsided(holdings(arrays(FEATURES, label, clients=owners, test=0.0))) is None


def test_an_even_deal_a_regression_and_a_table_of_one_class_need_no_note() -> None:
    even = arrays(FEATURES, np.arange(60) % 2, partition=iid(3), test=0.25)
    numbers = arrays(FEATURES, np.arange(60.0), partition=iid(3), test=0.25, task="regression")
    one = arrays(FEATURES, np.zeros(60), partition=iid(3), test=0.25)
    assert [lopsided(holdings(data)) for data in (even, numbers, one)] == [None] * 3
