"""Names of classes and their one order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.labels import in_order, label_text
from fedloom.data.labels import coded
from fedloom.errors import DataError


@given(st.integers(-(10**6), 10**6))
def test_a_whole_number_has_one_name_however_it_is_written(value: int) -> None:
    spellings = (value, float(value), np.float32(value % 1000 + 0.0), str(value), f"{value}.0", f" {value} ")
    names = {label_text(each) for each in (spellings[0], spellings[1], *spellings[3:])}
    assert names == {str(value)}


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40))
def test_numbers_are_ordered_by_number_and_indices_name_the_labels(values: list[int]) -> None:
    names, index = coded(np.array(values))
    assert [int(name) for name in names] == sorted(set(values))
    assert [int(names[each]) for each in index] == values


@given(st.lists(st.text("abcxyz", min_size=1, max_size=3), min_size=1, max_size=20), st.randoms())
def test_order_does_not_depend_on_the_order_of_rows(texts: list[str], shuffle: object) -> None:
    assert in_order(texts) == in_order(texts[::-1]) == tuple(sorted(set(texts)))


def test_text_float_and_object_labels_name_the_same_classes() -> None:
    for label in (np.array(["1", "0"]), np.array([1.0, 0.0]), np.array([1, "0"], dtype=object), np.array([1, 0])):
        names, index = coded(label)
        assert (names, index.tolist()) == (("0", "1"), [1, 0])


@pytest.mark.parametrize(
    "label", [np.array([1.0, np.nan]), np.array(["a", ""]), np.array(["a", None], dtype=object), np.array(["a", " "])]
)
def test_a_missing_label_is_an_error_that_names_the_row(label: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"1 of 2 labels are missing \(first rows, counted from 0: 1\)"):
        coded(label)


def test_decimals_are_no_classes() -> None:
    with pytest.raises(DataError, match="regression"):
        coded(np.array([0.5, 1.0]))
