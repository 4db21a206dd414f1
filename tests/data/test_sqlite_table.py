"""Rows of one SELECT: read only, and errors that name file, query, row and column."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.ids import ClientId
from fedloom.data import Pooled, csv, sqlite
from fedloom.errors import ComponentError, DataError

MAKE = """
CREATE TABLE visits(age, bp REAL, sex TEXT, ward TEXT, outcome TEXT);
INSERT INTO visits VALUES (61, 120.5, 'f', 'north', 'ill'), (40, NULL, 'm', 'south', 'well'),
                          ('55.5', 100, NULL, 'north', 'well');
"""
QUERY = "SELECT * FROM visits ORDER BY rowid"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made(tmp_path / "clinic #1.db", MAKE)


def made(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as base:
        base.executescript(script)
    return path


def read(path: Path, query: str = QUERY, **changed: object) -> Pooled:
    settings = {"label": "outcome", "client": "ward", "categories": ["sex"], "test": 0.0, **changed}
    return sqlite(path, query=query, **settings)  # type: ignore[arg-type]


def test_rows_are_those_of_the_same_csv(path: Path, tmp_path: Path) -> None:
    data = read(path)
    file = tmp_path / "visits.csv"
    file.write_text("age,bp,sex,ward,outcome\n61,120.5,f,north,ill\n40,,m,south,well\n55.5,100,,north,well\n")
    same = csv(file, label="outcome", client="ward", categories=["sex"], test=0.0)
    assert (data.schema(), data.fingerprint) == (same.schema(), same.fingerprint)
    assert np.isnan(data.client(ClientId("south")).arrays["features"]).tolist() == [[False, True]]


def test_a_query_may_compute_join_and_begin_with_a_comment(path: Path) -> None:
    query = (
        "-- of the elderly\n/* all */ WITH old AS (SELECT * FROM visits WHERE age > 50) SELECT abs(age) AS years, o.* "
    )
    data = read(path, query + "FROM old o ORDER BY 1;", columns=["years"], classes=["well", "ill"])
    assert data.features.ravel().tolist() == [55.5, 61.0]
    assert data.label.tolist() == [0, 1]


def test_a_recursive_query_works(path: Path) -> None:
    query = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5) "
    query += "SELECT x, 'w' AS w, x % 2 AS y FROM n"
    data = sqlite(path, query=query, label="y", client="w", test=0.0)
    assert data.label.tolist() == ["1", "0", "1", "0", "1"]


def test_the_order_of_rows_shows_in_the_fingerprint(path: Path) -> None:
    assert read(path).fingerprint != read(path, QUERY + " DESC").fingerprint


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM visits",
        "INSERT INTO visits SELECT * FROM visits",
        "PRAGMA query_only = OFF",
        "ATTACH 'other.db' AS other",
        "VALUES (1)",
        "EXPLAIN SELECT 1",
        "",
        "-- nothing",
        "WITH old AS (SELECT 1) DELETE FROM visits",
        "SELECT 1; DELETE FROM visits",
        "SELECT * FROM visits; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT * FROM pragma_database_list",
    ],
)
def test_anything_but_one_select_is_refused_and_changes_nothing(path: Path, query: str) -> None:
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"[Ee]xpected one SELECT"):
        read(path, query)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("script", "query", "words"),
    [
        ("UPDATE visits SET age = 'old' WHERE rowid = 2", QUERY, "row 1, counted from 0: column 'age' is not a number"),
        ("UPDATE visits SET age = x'00' WHERE rowid = 3", QUERY, "row 2, counted from 0: column 'age' is not a number"),
        ("UPDATE visits SET age = 9e999 WHERE rowid = 3", QUERY, "row 2, counted from 0: column 'age' is infinite"),
        (
            "UPDATE visits SET outcome = NULL WHERE rowid = 1",
            QUERY,
            "row 0, counted from 0: column 'outcome' is missing",
        ),
        ("UPDATE visits SET ward = ' ' WHERE rowid = 1", QUERY, "row 0, counted from 0: column 'ward' is missing"),
        ("UPDATE visits SET sex = x'00' WHERE rowid = 3", QUERY, "row 2, counted from 0: column 'sex' holds bytes"),
        ("", "SELECT * FROM visits WHERE bp > 999", "gave no rows"),
        ("", "SELECT *, age FROM visits", "two columns are named 'age'"),
        ("", "SELECT age, sex, ward FROM visits", "there is no column 'outcome'"),
        ("", "SELECT * FROM visit", "no such table: visit"),
        ("", "SELECT * FROM visits WHERE", "incomplete input"),
        ("", "SELECT * FROM visits WHERE age > ?", "Expected one SELECT"),
    ],
)
def test_a_fault_names_file_query_row_and_column(path: Path, script: str, query: str, words: str) -> None:
    made(path, script)
    with pytest.raises(DataError) as caught:
        read(path, query)
    assert str(caught.value).startswith(f"{path}: query '{query[:20]}")
    assert words in str(caught.value)


def test_a_long_query_is_shown_by_its_beginning(path: Path) -> None:
    with pytest.raises(DataError, match=r"query 'SELECT x, x[x, ]*\.\.\.': no such column"):
        read(path, "SELECT " + ", ".join(["x"] * 100) + " FROM visits")


def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    absent = path.with_name("clinic #2.db")
    with pytest.raises(DataError, match=r"there is no such file\. Did you mean 'clinic #1\.db'"):
        read(absent)
    assert not absent.exists()


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "visits.db"
    path.write_text("age,outcome\n" * 100)
    with pytest.raises(DataError, match="file is not a database"):
        read(path)
    with pytest.raises(DataError, match="is a folder; expected an SQLite file"):
        read(tmp_path)


def test_client_and_partition_exclude_each_other(path: Path) -> None:
    with pytest.raises(ComponentError, match="received neither"):
        read(path, client=None)
