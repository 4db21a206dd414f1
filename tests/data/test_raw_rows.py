"""Rows to predict on: found by the names of an agreed schema, in the order of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedloom.core.data import Schema
from fedloom.data import csv, iid, rows_of_csv
from fedloom.errors import DataError

SCHEMA = Schema(("age", "bp"), "outcome", ("well", "ill"), ("sex",))
CONTENT = "name,sex,bp,outcome,age\nAnn,f,120,ill,61\nBob,,,well,40\nCem,m,?,well,NA\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(CONTENT)
    return path


def test_columns_are_found_by_name_others_are_ignored_and_rows_keep_their_order(path: Path) -> None:
    data = rows_of_csv(path, SCHEMA)
    assert set(data.arrays) == {"features", "texts"}
    expected = np.array([[61, 120], [40, np.nan], [np.nan, np.nan]])
    assert np.array_equal(data.arrays["features"], expected, equal_nan=True)
    assert data.arrays["texts"].tolist() == [["f"], [""], ["m"]]
    assert (data.count("test"), data.count("train"), len(data)) == (3, 0, 3)


def test_labels_become_indices_of_the_classes_when_asked_for_and_there(path: Path) -> None:
    assert rows_of_csv(path, SCHEMA, label=True).arrays["label"].tolist() == [1, 0, 0]
    path.write_text("sex,bp,age\nf,1,2\n")
    assert "label" not in rows_of_csv(path, SCHEMA, label=True).arrays


def test_without_classes_the_label_is_a_number(path: Path) -> None:
    path.write_text("y,x\n2.5,1\n-1,2\n")
    assert rows_of_csv(path, Schema(("x",), "y"), label=True).arrays["label"].tolist() == [2.5, -1.0]
    path.write_text("y,x\n2.5,1\nmuch,2\n")
    with pytest.raises(DataError, match="line 3: column 'y' is not a number"):
        rows_of_csv(path, Schema(("x",), "y"), label=True)


def test_raw_rows_are_those_that_the_dataset_was_made_of(path: Path) -> None:
    path.write_text("sex,age,outcome\n1.0,61,ill\n2,40,well\n1,3.5,well\n")
    data = csv(path, label="outcome", partition=iid(1), categories=["sex"], classes=["ill", "well"], test=0.0)
    raw = rows_of_csv(path, data.schema(), label=True)
    assert data.texts is not None
    for held, read in [(data.features, "features"), (data.label, "label"), (data.texts, "texts")]:
        assert np.array_equal(held, raw.arrays[read])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sex,bp,agee\nf,1,2\n", r"line 1: expects 3 features, has 2; missing `age`\. Did you mean 'agee'"),
        ("sex,wt\nf,1\n", r"has 1; missing `age`, `bp`\. Columns are found by their names"),
        ("age,bp\n1,2\n", "missing `sex`"),
        ("sex,bp,age\nf,1,old\n", "line 2: column 'age' is not a number"),
        ("sex,bp,age\nf,1,2\nf,inf,2\n", "line 3: column 'bp' is infinite"),
        ("sex,bp,age,outcome\nf,1,2,dead\n", "line 2: column 'outcome' has the label 'dead'"),
        ("sex,bp,age,outcome\nf,1,2,ill\nf,1,2,\n", "line 3: column 'outcome' is missing"),
        ("sex,bp,age\nf,1,2\nf,1\n", "line 3: 2 fields"),
        ("sex,bp,age\n", "no rows below the header"),
    ],
)
def test_a_fault_is_named_with_its_place(path: Path, content: str, words: str) -> None:
    path.write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        rows_of_csv(path, SCHEMA, label=True)
    assert str(caught.value).startswith(f"{path}: ")
