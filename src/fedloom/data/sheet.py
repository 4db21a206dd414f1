"""A sheet: rows of a file as they were read, by names of columns, and the place in the file where each row stands."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data.pooled import nearest
from fedloom.errors import ComponentError, DataError

MISSING = frozenset({"", "?", "na", "nan"})
"""Cells, in lower case, that stand for a value that is not known."""

SHOWN = 5
"""Columns or rows that a message names before it stops: enough to find the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Names of the columns to read: features that are numbers, features that are texts, and other words of a row."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    label: str | None = None
    """Which of the words is the label: it may not be one of ``MISSING``, as others may (a client named NA)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which column is for what, as a person declared it.

    ``columns`` are the features to read, None for every column without another role; those among ``categories`` are
    texts. A category is read whether ``columns`` names it or not.

    Raises:
        ComponentError: When a list of names is one string, or names a column twice or for two roles.
    """

    label: str
    client: str | None = None
    group: str | None = None
    fold: str | None = None
    columns: Sequence[str] | None = None
    categories: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what can be known before a file is read."""
        for name, columns in [("columns", self.columns), ("categories", self.categories)]:
            if isinstance(columns, str):
                raise ComponentError(f"{name} = {columns!r}; expected a list of names, such as [{columns!r}]")
            both = [column for column in columns or () if column in self.words]
            if columns is not None and (both or len(set(columns)) != len(columns)):
                raise ComponentError(
                    f"{name} = {list(columns)}; expected different features, none of them label, client, group or "
                    f"fold ({', '.join(self.words)})"
                )

    @property
    def words(self) -> tuple[str, ...]:
        """Columns that are no features, the label first."""
        roles = (self.label, self.client, self.group, self.fold)
        return tuple(dict.fromkeys(name for name in roles if name is not None))

    def wanted(self, names: Sequence[str], where: str) -> Wanted:
        """Return the columns to read of a file that has columns of these names.

        Raises:
            DataError: When a column is not there, or no feature is left.

        Example:
            >>> roles = Roles(label="outcome", client="ward", categories=["sex"])
            >>> roles.wanted(["age", "sex", "ward", "outcome"], "visits.csv: line 1").numbers
            ('age',)
        """
        for name in [*self.words, *(self.columns or ()), *self.categories]:
            if name not in names:
                raise DataError(f"{where}: there is no column {name!r}{nearest(name, names)}")
        numbers, texts = self.features(names)
        if not numbers and not texts:
            raise DataError(f"{where}: expected one or more features beside {', '.join(self.words)}")
        return Wanted(numbers=numbers, texts=texts, words=self.words, label=self.label)

    def features(self, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the features of a file, numbers and texts: declared ones as declared, others in the file's order."""
        beside = {*self.words, *self.categories}
        chosen = names if self.columns is None else self.columns
        return tuple(name for name in chosen if name not in beside), tuple(self.categories)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """Rows that were read.

    ``features`` has shape ``(n, numbers)``, ``texts`` of strings shape ``(n, texts)``, each array of ``words`` shape
    ``(n,)``. ``where`` returns the place of a row: "visits.csv: line 7".
    """

    wanted: Wanted
    features: Vector
    texts: Vector
    words: Mapping[str, Vector]
    where: Callable[[int], str]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features)


def unlike(expected: Sequence[str], names: Sequence[str]) -> str:
    """Return in words how columns differ from the expected ones, whatever their order; empty where they do not.

    Example:
        >>> unlike(["age", "bp"], ["bp"])
        'expects 2 features, has 1; missing `age`'
    """
    missing = [name for name in expected if name not in names]
    surplus = [name for name in names if name not in expected]
    parts = [f"{word} {listed(rest)}" for word, rest in [("missing", missing), ("not expected", surplus)] if rest]
    return f"expects {len(expected)} features, has {len(names)}; {', '.join(parts)}" if parts else ""


def listed(names: Sequence[str]) -> str:
    """Return names as a message lists them: the first few, and how many more there are.

    Example:
        >>> listed(["a", "b"]), listed(list("abcdefgh"))
        ('`a`, `b`', '`a`, `b`, `c`, `d`, `e` and 3 more')
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + more


def checked(sheet: Sheet) -> Sheet:
    """Return a sheet whose numbers are finite or missing, and whose words are all there.

    Raises:
        DataError: For the first row, and in it the first column, where that is not so.
    """
    if sheet.features.size and bool(np.isinf(sheet.features).any()):
        row, column = (int(place) for place in np.argwhere(np.isinf(sheet.features))[0])
        raise DataError(
            f"{sheet.where(row)}: column {sheet.wanted.numbers[column]!r} is infinite; expected a finite number, or an "
            "empty cell where it is not known"
        )
    for name in sheet.wanted.words:
        absent = _absent(sheet.words[name], label=name == sheet.wanted.label)
        if absent.any():
            row = int(np.argmax(absent))
            raise DataError(f"{sheet.where(row)}: column {name!r} is missing; fill it in or leave the row out")
    return sheet


def _absent(words: Vector, *, label: bool) -> Vector:
    if words.dtype.kind == "U":
        text = np.strings.lower(np.strings.strip(words))
        return np.isin(text, sorted(MISSING)) if label else np.asarray(text == "")
    return ~np.isfinite(words) if words.dtype.kind == "f" else np.zeros(len(words), dtype=np.bool_)


def number_of(cell: str) -> float | None:
    """Return the number that a cell of text holds, NaN where it is missing, None where it is something else.

    Example:
        >>> number_of(" 1e2"), number_of("NA"), number_of("1_000"), number_of("north")
        (100.0, nan, None, None)
    """
    text = cell.strip()
    if text.lower() in MISSING:
        return float("nan")
    try:
        # Python reads 1_000 as a number; in data it is a slip.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def no_number(where: str, column: str) -> DataError:
    """Return the error for a cell of text in a column of numbers."""
    return DataError(
        f"{where}: column {column!r} is not a number; expected one, or an empty cell, ?, NA or nan. If the column "
        "holds names of categories, name it in `categories`; else correct the cell, or leave the column out by "
        "`columns`"
    )


def categories_of(cells: Iterable[str]) -> list[str]:
    """Return names of categories, empty where missing; numbers as labels are named, so that 1.0 and 1 are one name.

    Example:
        >>> categories_of([" north", "4.0", "?"])
        ['north', '4', '']
    """
    seen: dict[str, str] = {}
    return [seen[cell] if cell in seen else seen.setdefault(cell, _category(cell)) for cell in cells]


def _category(cell: str) -> str:
    text = label_text(cell)
    return "" if text.lower() in MISSING else text


def stacked(columns: Sequence[Sequence[str]], rows: int) -> Vector:
    """Return columns of text as one array of shape ``(rows, columns)``."""
    return np.array(columns, dtype=np.str_).T.copy() if columns else np.empty((rows, 0), dtype="<U1")


def under_each_other(sheets: Sequence[Sheet]) -> Sheet:
    """Return sheets of the same columns as one."""
    ends = list(accumulate(len(sheet) for sheet in sheets))

    def where(row: int) -> str:
        number = bisect_right(ends, row)
        return sheets[number].where(row - (ends[number] - len(sheets[number])))

    return Sheet(
        wanted=sheets[0].wanted,
        features=np.concatenate([sheet.features for sheet in sheets]),
        texts=np.concatenate([sheet.texts for sheet in sheets]),
        words={name: _joined([sheet.words[name] for sheet in sheets]) for name in sheets[0].words},
        where=where,
    )


def _joined(parts: Sequence[Vector]) -> Vector:
    """Return words of several files as one array: text, as soon as one of them is text."""
    if len({part.dtype.kind for part in parts}) > 1:
        parts = [np.array([label_text(value) for value in part.tolist()]) for part in parts]
    return np.concatenate(parts)
