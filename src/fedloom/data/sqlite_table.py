"""Datasets from one query of an SQLite file, which is opened for reading only."""

from __future__ import annotations

import re
import sqlite3
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np

from fedloom.core.component import component
from fedloom.core.labels import label_text
from fedloom.data.memory import Task, owners_of
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled
from fedloom.data.sheet import Roles, Sheet, categories_of, checked, no_number, number_of, stacked
from fedloom.data.sheet_dataset import Rules, dataset_of
from fedloom.data.source_file import check_file
from fedloom.errors import DataError, NoRows

_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
"""What a statement may do: SQLite asks for each action before it runs one."""
_SELECT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:SELECT|WITH)\b", re.IGNORECASE | re.DOTALL)
_SHOWN = 60
"""Characters of a query that an error shows: enough to tell it from another."""

Cell = None | int | float | str | bytes
T = TypeVar("T")


@component("fedloom.datasets")
def sqlite(
    path: Path,
    *,
    query: str,
    label: str,
    client: str | None = None,
    partition: Partition | None = None,
    group: str | None = None,
    columns: Sequence[str] | None = None,
    categories: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    fold: str | None = None,
    test: float = 0.25,
    validation: float = 0.0,
    seed: int = 0,
    task: Task = "classification",
) -> Pooled:
    """Return a dataset of the rows that one SELECT gives; NULL stands for a value that is not known.

    The split and a partition follow the order of the rows. Without ``ORDER BY`` that is whatever order SQLite finds
    them in, which another version or an index may change; the fingerprint of the data then differs, and a resumed run
    says so.

    Args:
        path: The SQLite file. It is opened for reading only.
        query: One SELECT, or WITH ... SELECT. Its columns are named as SQLite names them: use AS.
        label: Column to predict.
        client: Column that names each row's client; exclusive with ``partition``.
        partition: A way to deal the rows to clients.
        group: Column that names each row's person, whose rows stay on one side of the split.
        columns: Features to read; by default every column but label, client, group and fold.
        categories: Columns that hold names of categories, not numbers.
        classes: Names of all classes in the order of their indices.
        fold: Column that says train, validation or test for each row, in place of ``test`` and ``validation``.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the partition and the split.
        task: "classification" or "regression".

    Raises:
        ComponentError: When arguments exclude each other, or a share is outside its range.
        DataError: When the query is no single SELECT, fails, or gives what cannot be used; it names file, query, row
            and column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "clinic.db")
        ...     with closing(sqlite3.connect(path)) as base:
        ...         _ = base.executescript(
        ...             "CREATE TABLE v(age, ward, ill); INSERT INTO v VALUES (61,'n',1), (40,'s',0)"
        ...         )
        ...     data = sqlite(path, query="SELECT * FROM v ORDER BY age", label="ill", client="ward", test=0.0)
        >>> data.schema().columns, data.features.tolist()
        (('age',), [[40.0], [61.0]])
    """
    roles = Roles(label=label, client=client, group=group, fold=fold, columns=columns, categories=categories)
    rules = Rules(roles=roles, classes=classes, test=test, validation=validation, seed=seed, task=task)
    chosen = owners_of(client, partition, name="client")
    sheet = _read(Path(path), query, roles)
    return dataset_of(sheet, rules, owners=chosen if isinstance(chosen, Partition) else sheet.words[chosen])


def _read(path: Path, query: str, roles: Roles) -> Sheet:
    return _asked(path, query, lambda source, cursor: _rows(source, cursor, roles))


def _asked(path: Path, query: str, read: Callable[[str, sqlite3.Cursor], T]) -> T:
    """Return what is read of the answer to a query."""
    words = " ".join(query.split())
    source = f"{path}: query {words if len(words) <= _SHOWN else words[:_SHOWN] + '...'!r}"
    if _SELECT.match(query) is None:
        raise DataError(f"{source}: expected one SELECT, or WITH ... SELECT; a dataset only reads")
    check_file(path, kind="an SQLite file")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
            base.execute("PRAGMA query_only = ON")
            base.set_authorizer(_only_reading)
            return read(source, base.execute(query))
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise DataError(f"{source}: {error}. Expected one SELECT on the tables of the file") from error


def names_in_sqlite(path: Path, query: str) -> list[str]:
    """Return the names of the columns that a query gives, without reading a row.

    Raises:
        DataError: When the query is no single SELECT, or fails.
    """
    return _asked(path, query, lambda _source, cursor: [str(column[0]) for column in cursor.description])


def _only_reading(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _rows(source: str, cursor: sqlite3.Cursor, roles: Roles) -> Sheet:
    names = [str(column[0]) for column in cursor.description]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise DataError(f"{source}: two columns are named {name!r}; name one of them otherwise, by AS")
    wanted = roles.wanted(names, source)
    places = [names.index(name) for name in wanted.numbers]
    beside = {name: (names.index(name), list[str]()) for name in (*wanted.texts, *wanted.words)}

    def where(row: int) -> str:
        return f"{source}: row {row}, counted from 0"

    cells = array("d")
    count = 0
    for record in cursor:
        try:
            numbers = array("d", [record[place] for place in places])
        except TypeError:
            numbers = array("d", [_number(where(count), names[place], record[place]) for place in places])
        cells.extend(numbers)
        for name, (place, column) in beside.items():
            column.append(_word(where(count), name, record[place]))
        count += 1
    if not count:
        raise NoRows(f"{source}: gave no rows; expected at least one")
    return checked(
        Sheet(
            wanted=wanted,
            features=np.array(cells, dtype=np.float64).reshape(count, len(places)),
            texts=stacked([categories_of(beside[name][1]) for name in wanted.texts], count),
            words={name: np.array(beside[name][1]) for name in wanted.words},
            where=where,
        )
    )


def _number(where: str, column: str, cell: Cell) -> float:
    if cell is None:
        return float("nan")
    if isinstance(cell, int | float):
        return float(cell)
    number = number_of(cell) if isinstance(cell, str) else None
    if number is None:
        raise no_number(where, column)
    return number


def _word(where: str, column: str, cell: Cell) -> str:
    if isinstance(cell, bytes):
        raise DataError(f"{where}: column {column!r} holds bytes (a BLOB); expected text or a number")
    return "" if cell is None else label_text(cell)
