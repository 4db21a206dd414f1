"""Rows of a CSV file by names of columns, with errors that say where in the file to look."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fedloom.data.sheet import Sheet, Wanted, categories_of, checked, no_number, number_of, stacked
from fedloom.data.source_file import content_of
from fedloom.errors import DataError, NoRows


def read_csv(path: Path, choose: Callable[[Sequence[str], str], Wanted]) -> Sheet:
    """Return the rows of a CSV file: UTF-8, commas, names of columns in the first line.

    Args:
        path: The file.
        choose: Takes the names of all columns, and how an error names that line; returns the columns to read.

    Raises:
        DataError: When the file cannot be read as described; it names path, line and column.
    """
    records = _records(path, _text(path))
    names = _header(path, next(records, (1, []))[1])
    wanted = choose(names, f"{path}: line 1")
    places = [names.index(name) for name in wanted.numbers]
    beside = {name: (names.index(name), list[str]()) for name in (*wanted.texts, *wanted.words)}
    kept = list(beside.values())
    cells, lines = array("d"), array("q")
    for line, record in records:
        if len(record) != len(names):
            raise DataError(
                f"{path}: line {line}: {len(record)} fields; expected {len(names)}, as in line 1. "
                "Look for a missing or surplus comma, or a decimal comma"
            )
        for place, column in kept:
            column.append(record[place].strip())
        cells.extend(_row(path, line, record, places, names))
        lines.append(line)
    if not lines:
        raise NoRows(f"{path}: no rows below the header; expected one line for each row")
    return checked(
        Sheet(
            wanted=wanted,
            features=np.array(cells, dtype=np.float64).reshape(len(lines), len(places)),
            texts=stacked([categories_of(beside[name][1]) for name in wanted.texts], len(lines)),
            words={name: np.array(beside[name][1]) for name in wanted.words},
            where=lambda row: f"{path}: line {lines[row]}",
        )
    )


def names_in_csv(path: Path) -> list[str]:
    """Return the names of the columns of a CSV file.

    Raises:
        DataError: When it cannot be read, or a name is missing or stands twice.
    """
    return _header(path, next(_records(path, _text(path)), (1, []))[1])


def _text(path: Path) -> str:
    content = content_of(path, kind="a CSV file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder counts from behind a byte order mark; error.object is what it counted in.
        before = bytes(error.object[: error.start])
        line = before.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
        raise DataError(f"{path}: line {line}: is not UTF-8 text; save the file as CSV UTF-8") from error


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not an empty line, with the line that it starts in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
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
    # What Python reads as a number and data may not mean (1_000) is looked at cell by cell.
    if "_" in "".join(record):
        return [_number(path, line, names[place], record[place]) for place in places]
    return values


def _number(path: Path, line: int, column: str, cell: str) -> float:
    number = number_of(cell)
    if number is None:
        raise no_number(f"{path}: line {line}", column)
    return number
