"""Parquet files: the rows of the same CSV, and an error that names the extra where pyarrow is absent."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.data import Pooled, csv, folder, iid, parquet
from fedloom.errors import DataError, MissingExtra

GOOD: dict[str, list[Any]] = {
    "age": [61, 40, None],
    "bp": [120.5, float("nan"), 100.0],
    "sex": ["f", None, "m"],
    "ward": ["north", "south", "north"],
    "outcome": ["ill", "well", "well"],
}


def read(path: Path, table: dict[str, Any], **changed: object) -> Pooled:
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    writer.write_table(pyarrow.table(table), path)
    settings = {"label": "outcome", "client": "ward", "categories": ["sex"], "test": 0.0, **changed}
    return parquet(path, **settings)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.parquet"


def test_without_pyarrow_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingExtra, match=r"visits\.parquet needs the `parquet` extra: pip install 'fedloom\[parquet\]'"
    ):
        parquet(path, label="outcome", partition=iid(2))


def test_rows_are_those_of_the_same_csv(path: Path, tmp_path: Path) -> None:
    data = read(path, GOOD)
    file = tmp_path / "visits.csv"
    file.write_text("age,bp,sex,ward,outcome\n61,120.5,f,north,ill\n40,,,south,well\n,100,m,north,well\n")
    same = csv(file, label="outcome", client="ward", categories=["sex"], test=0.0)
    assert (data.schema(), data.fingerprint) == (same.schema(), same.fingerprint)


def test_dictionaries_decimals_truth_values_and_small_types_are_read(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = {
        **GOOD,
        "sex": pyarrow.array(["f", None, "m"]).dictionary_encode(),
        "age": pyarrow.array([61, 40, None], pyarrow.int8()),
        "bp": pyarrow.array(["1.25", None, "2.5"]).cast(pyarrow.decimal128(5, 2)),
        "smokes": [True, False, None],
        "outcome": [1.0, 0.0, 0.0],
    }
    data = read(path, table, classes=["0", "1"], partition=iid(1), client=None, columns=["age", "bp", "smokes"])
    expected = np.array([[61, 1.25, 1], [40, np.nan, 0], [np.nan, 2.5, np.nan]])
    assert np.array_equal(data.features, expected, equal_nan=True)
    assert data.label.tolist() == [1, 0, 0]
    assert data.texts is not None
    assert data.texts.ravel().tolist() == ["f", "", "m"]


def test_a_regression_label_is_the_same_number_bit_for_bit(path: Path) -> None:
    values = [0.1, 1 / 3, 1e300]
    assert (
        read(path, {**GOOD, "outcome": values, "ward": ["n"] * 3}, columns=["age"], task="regression").label.tolist()
        == values
    )


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    for name in ("north", "south"):
        read(tmp_path / f"{name}.parquet", GOOD)
    data = folder(tmp_path, label="outcome", pattern="*.parquet", categories=["sex"], columns=["bp"], test=0.0)
    assert [data.population().size(index) for index in range(2)] == [3, 3]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"age": ["61", "40", "1"]}, "column 'age' is not a number"),
        ({"age": [datetime.date(2000, 1, 1)] * 3}, "column 'age' has type date32[day]; expected numbers"),
        ({"sex": [datetime.date(2000, 1, 1)] * 3}, "column 'sex' has type date32[day]; expected text or numbers"),
        ({"age": [1.0, 2.0, float("inf")]}, "row 2, counted from 0: column 'age' is infinite"),
        ({"outcome": ["ill", None, "well"]}, "row 1, counted from 0: column 'outcome' is missing"),
        ({"ward": ["n", "s", ""]}, "row 2, counted from 0: column 'ward' is missing"),
        ({"outcomes": ["a", "b", "c"], "outcome": None}, "there is no column 'outcome'. Did you mean 'outcomes'"),
        ({name: [] for name in GOOD}, "has no rows"),
    ],
)
def test_a_fault_names_file_row_and_column(path: Path, changed: dict[str, Any], words: str) -> None:
    table = {name: values for name, values in {**GOOD, **changed}.items() if values is not None}
    with pytest.raises(DataError) as caught:
        read(path, table)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"age,outcome\n1,2\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_parquet_file_is_named(path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"visits\.parquet: is no Parquet file"):
        parquet(path, label="outcome", partition=iid(1))


def test_a_missing_file_is_named(path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"visits\.parquet: there is no such file"):
        parquet(path, label="outcome", partition=iid(1))
