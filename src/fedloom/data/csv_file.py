"""Datasets from one CSV file, with errors that say where in the file to look."""

from __future__ import annotations

import csv as reader_of_csv
import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedloom.core.component import component
from fedloom.core.data import Schema
from fedloom.core.params import Vector
from fedloom.data.labels import coded
from fedloom.data.memory import Task, as_numbers, owners_of, persons
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled, Table, nearest, pool
from fedloom.data.splits import Shares
from fedloom.errors import ComponentError, DataError

MISSING = frozenset({"", "?", "na", "nan"})
"""Cells, in lower case, that stand for a number that is not known."""


@component("fedloom.datasets")
def csv(
    path: Path,
    *,
    label: str,
    client: str | None = None,
    partition: Partition | None = None,
    group: str | None = None,
    columns: Sequence[str] | None = None,
    test: float = 0.25,
    validation: float = 0.0,
    seed: int = 0,
    task: Task = "classification",
) -> Pooled:
    r"""Return a dataset of the rows of a CSV file: UTF-8, commas, names of columns in the first line.

    Features are numbers; an empty cell, ``?``, ``NA`` and ``nan`` become NaN. Labels of a classification stay text:
    one file cannot know which classes the others hold, so the schema has none until ``label_set`` has asked.

    Args:
        path: The file.
        label: Column to predict.
        client: Column that names each row's client; exclusive with ``partition``.
        partition: A way to deal the rows to clients.
        group: Column that names each row's person, whose rows stay on one side of the split.
        columns: Features to read; by default every column but label, client and group.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the partition and the split.
        task: "classification" or "regression".

    Raises:
        ComponentError: When arguments exclude each other, or a share is outside its range.
        DataError: When the file cannot be read as described; it names path, line and column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "visits.csv")
        ...     _ = path.write_text("age,ward,outcome\n61,north,ill\n40,south,well\n?,south,ill\n")
        ...     data = csv(path, label="outcome", client="ward", test=0.0)
        >>> data.schema().columns, data.client(data.population().id(1)).arrays["label"].tolist()
        (('age',), ['well', 'ill'])
    """
    if task not in ("classification", "regression"):
        raise ComponentError(f'task = {task!r}; expected "classification" or "regression"')
    shares = Shares(test, validation)
    chosen = owners_of(client, partition, name="client")
    source = Path(path)
    sheet = _read(source, label=label, others=(client, group), columns=columns)
    owners = chosen if isinstance(chosen, Partition) else np.array(sheet.texts[chosen])
    labels = np.array(sheet.texts[label])
    table = Table(
        features=sheet.features,
        label=labels if task == "classification" else _numbers(source, label, sheet),
        stratum=coded(labels)[1] if task == "classification" else None,
        columns=Schema(sheet.columns, label),
        person=None if group is None else persons(np.array(sheet.texts[group])),
    )
    return pool(table, owners=owners, shares=shares, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sheet:
    columns: tuple[str, ...]
    features: Vector
    texts: dict[str, list[str]]
    lines: Sequence[int]
    """Line of each row in the file."""


def _read(path: Path, *, label: str, others: Sequence[str | None], columns: Sequence[str] | None) -> _Sheet:
    records = _records(path, _text(path))
    _, header = next(records, (1, []))
    names = _header(path, header)
    wanted = [label, *(name for name in others if name is not None)]
    for name in [*wanted, *(columns or ())]:
        if name not in names:
            raise DataError(f"{path}: line 1: there is no column {name!r}{nearest(name, names)}")
    chosen = tuple(name for name in names if name not in wanted) if columns is None else tuple(columns)
    both = [name for name in chosen if name in wanted]
    if not chosen or both or len(set(chosen)) != len(chosen):
        raise DataError(
            f"{path}: columns = {list(chosen)}; expected one or more different features, "
            f"none of them label, client or group ({', '.join(wanted)})"
        )
    places = [names.index(name) for name in chosen]
    cells, lines = array("d"), array("q")
    texts: dict[str, list[str]] = {name: [] for name in wanted}
    kept = [(name, names.index(name), texts[name]) for name in texts]
    for line, record in records:
        if len(record) != len(names):
            raise DataError(
                f"{path}: line {line}: {len(record)} fields; expected {len(names)}, as in line 1. "
                "Look for a missing or surplus comma, or a decimal comma"
            )
        for name, place, column in kept:
            text = record[place].strip()
            if not text or (name == label and text.lower() in MISSING):
                raise DataError(f"{path}: line {line}: column {name!r} is missing; fill it in or leave the row out")
            column.append(text)
        cells.extend(_row(path, line, record, places, names))
        lines.append(line)
    if not lines:
        raise DataError(f"{path}: no rows below the header; expected one line for each row")
    features = np.frombuffer(cells, dtype=np.float64).reshape(len(lines), len(chosen))
    return _Sheet(columns=chosen, features=features, texts=texts, lines=lines)


def _text(path: Path) -> str:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected a CSV file. Give the path of one file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        siblings = sorted(each.name for each in path.parent.glob("*")) if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file{nearest(path.name, siblings)}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder counts from behind a byte order mark; error.object is what it counted in.
        before = bytes(error.object[: error.start])
        line = before.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
        raise DataError(f"{path}: line {line}: is not UTF-8 text; save the file as CSV UTF-8") from error


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not an empty line, with the line that it starts in."""
    reader = reader_of_csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except reader_of_csv.Error as error:
        raise DataError(f"{path}: line {line}: is not CSV: {error}. Look for a quote that is not closed") from error


def _header(path: Path, header: Sequence[str]) -> list[str]:
    names = [name.strip() for name in header]
    if not any(names):
        raise DataError(f"{path}: is empty; expected names of columns in line 1 and a line for each row")
    for mark, name in [(";", "semicolons"), ("\t", "tabs")]:
        if len(names) == 1 and mark in header[0]:
            raise DataError(
                f"{path}: line 1: columns are separated by {name}; expected commas. Save the file with commas"
            )
    for place, name in enumerate(names):
        if not name:
            raise DataError(f"{path}: line 1: column {place + 1} has no name; give it one")
        if name in names[:place]:
            raise DataError(f"{path}: line 1: two columns are named {name!r}; rename one of them")
    return names


def _row(path: Path, line: int, record: Sequence[str], places: Sequence[int], names: Sequence[str]) -> list[float]:
    try:
        values = [float(record[place]) for place in places]
    except ValueError:
        return [_number(path, line, names[place], record[place]) for place in places]
    # Python reads 1_000 as a number; in data it is a slip.
    if "_" in "".join(record):
        return [_number(path, line, names[place], record[place]) for place in places]
    return values


def _number(path: Path, line: int, column: str, cell: str) -> float:
    text = cell.strip()
    if text.lower() in MISSING:
        return float("nan")
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise DataError(
        f"{path}: line {line}: column {column!r} is not a number; expected one, or an empty cell, ?, NA or nan. "
        "Encode text as numbers, or leave the column out by `columns`"
    )


def _numbers(path: Path, label: str, sheet: _Sheet) -> Vector:
    values = [_number(path, line, label, text) for line, text in zip(sheet.lines, sheet.texts[label], strict=True)]
    return as_numbers(np.array(values))
