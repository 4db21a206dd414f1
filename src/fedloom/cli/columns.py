"""What the columns of somebody's CSV seem to be: the guesses that ``fedloom new`` writes down for people to correct."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedloom.data.csv_rows import read_csv
from fedloom.data.sheet import MISSING, Wanted, number_of

Kind = Literal["number", "text", "id", "constant", "empty", "free text"]
MOST_CATEGORIES = 50
"""A column of text with more different values is taken for free text: names, dates, remarks."""
MOST_CLASSES = 10
"""A numeric label with at most this many whole values is taken for classes."""
_ID_NAMES = re.compile(r"(?:.*[_ .-])?(?:id|uid|uuid|guid|key|index|idx|nr|no|rowid|udi)|unnamed.*|row", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column as it was found."""

    name: str
    kind: Kind
    distinct: int
    missing: int
    whole: bool
    """Whether every value is a whole number."""
    values: tuple[str, ...]
    """The different values, sorted, where there are few."""


def read_columns(path: Path) -> tuple[tuple[Column, ...], int]:
    """Return the columns of a CSV file in its order, and the number of rows.

    Raises:
        DataError: When the file cannot be read as CSV; it names path and line.
    """
    sheet = read_csv(path, lambda names, _where: Wanted(numbers=(), texts=tuple(names)))
    described = [describe(name, sheet.texts[:, place].tolist()) for place, name in enumerate(sheet.wanted.texts)]
    return tuple(described), len(sheet)


def describe(name: str, cells: Sequence[str]) -> Column:
    """Return what a column seems to be.

    Example:
        >>> describe("age", ["61", "40", "?", "40"]).kind, describe("sex", ["f", "m", "f", "m"]).kind
        ('number', 'text')
        >>> describe("patient_id", ["1", "2", "3", "4"]).kind
        'id'
    """
    present = [cell for cell in cells if cell.lower() not in MISSING]
    different = sorted(set(present))
    numbers = [number for cell in different if (number := number_of(cell)) is not None and math.isfinite(number)]
    numeric = len(numbers) == len(different)
    whole = numeric and all(number.is_integer() for number in numbers)
    return Column(
        name=name,
        kind=_kind(name, different, rows=len(present), numeric=numeric, whole=whole, numbers=numbers),
        distinct=len(different),
        missing=len(cells) - len(present),
        whole=whole,
        values=tuple(different) if len(different) <= MOST_CATEGORIES else (),
    )


def _kind(
    name: str, different: Sequence[str], *, rows: int, numeric: bool, whole: bool, numbers: Sequence[float]
) -> Kind:
    if not different:
        return "empty"
    if len(different) == 1:
        return "constant"
    every = len(different) == rows and rows > 2
    if every and (not numeric or whole) and (_ID_NAMES.fullmatch(name.strip()) or _counts(whole, numbers)):
        return "id"
    if numeric:
        return "number"
    if len(different) <= MOST_CATEGORIES and not (every and rows > MOST_CLASSES):
        return "text"
    return "free text"


def _counts(whole: bool, numbers: Sequence[float]) -> bool:
    """Return whether the values are whole numbers without a gap, each once: a row number by any name."""
    return whole and len(numbers) > MOST_CLASSES and max(numbers) - min(numbers) == len(numbers) - 1
