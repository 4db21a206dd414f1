"""Datasets from a folder with one file for each client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedloom.core.component import component
from fedloom.core.labels import label_text
from fedloom.data.csv_rows import names_in_csv, read_csv
from fedloom.data.memory import Task
from fedloom.data.npz_file import names_in_npz, read_npz
from fedloom.data.parquet_file import names_in_parquet, read_parquet
from fedloom.data.pooled import Pooled, nearest
from fedloom.data.sheet import SHOWN, Roles, Sheet, under_each_other, unlike
from fedloom.data.sheet_dataset import Rules, dataset_of
from fedloom.data.source_file import unreadable
from fedloom.errors import ComponentError, DataError

_READ: Mapping[str, Callable[[Path, Roles], Sheet]] = {
    ".csv": lambda path, roles: read_csv(path, roles.wanted),
    ".npz": read_npz,
    ".parquet": read_parquet,
}
_NAMES: Mapping[str, Callable[[Path, Roles], Sequence[str]]] = {
    ".csv": lambda path, _: names_in_csv(path),
    ".npz": names_in_npz,
    ".parquet": lambda path, _: names_in_parquet(path),
}


@component("fedloom.datasets")
def folder(
    path: Path,
    *,
    label: str,
    pattern: str = "*.csv",
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
    r"""Return a dataset of a folder's files: ``north.csv`` holds the rows of the client ``north``.

    All files have the same columns, in any order. A file is CSV, NumPy (``.npz``) or Parquet, by the end of its name;
    in a NumPy archive label, group and fold are arrays of those names. Hidden files, and files that the pattern does
    not match, are not looked at.

    Args:
        path: The folder.
        label: Column to predict.
        pattern: Which files to read, such as ``*.csv`` or ``site-*.parquet``.
        group: Column that names each row's person, whose rows stay on one side of the split.
        columns: Features to read; by default every column but label, group and fold.
        categories: Columns that hold names of categories, not numbers.
        classes: Names of all classes in the order of their indices.
        fold: Column that says train, validation or test for each row, in place of ``test`` and ``validation``.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the split.
        task: "classification" or "regression".

    Raises:
        ComponentError: When arguments exclude each other, or one is outside its range.
        DataError: When there is no such file, or files differ in their columns or cannot be read; it names the file,
            and line and column where they are known.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = Path(place, "north.csv").write_text("age,bp,outcome\n61,120,ill\n")
        ...     _ = Path(place, "south.csv").write_text("outcome,bp,age\nwell,118,40\n")
        ...     data = folder(Path(place), label="outcome", test=0.0)
        >>> data.schema().columns, data.client(data.population().id(1)).arrays["features"].tolist()
        (('age', 'bp'), [[40.0, 118.0]])
    """
    roles = Roles(label=label, group=group, fold=fold, columns=columns, categories=categories)
    rules = Rules(roles=roles, classes=classes, test=test, validation=validation, seed=seed, task=task)
    files = _files(Path(path), pattern)
    agreed = _agreed(files, roles)
    sheets = [_READ[file.suffix.lower()](file, agreed) for file in files]
    owners = np.repeat(np.array([file.stem for file in files]), [len(sheet) for sheet in sheets])
    return dataset_of(under_each_other(sheets), rules, owners=owners)


def _files(path: Path, pattern: str) -> tuple[Path, ...]:
    if not pattern or "/" in pattern or "**" in pattern:
        raise ComponentError(f"pattern = {pattern!r}; expected names in one folder, such as '*.csv'")
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file; expected a folder with one file for each client")
    try:
        entries = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except FileNotFoundError as error:
        siblings = sorted(each.name for each in path.parent.glob("*/")) if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such folder{nearest(path.name, siblings)}") from error
    except OSError as error:
        raise unreadable(path, error) from error
    inner = next((each for each in entries if each.is_dir()), None)
    if inner is not None:
        raise DataError(f"{inner}: is a folder; expected one file for each client in {path}. Move it elsewhere")
    files = tuple(each for each in entries if each.match(pattern))
    if not files:
        there = ", ".join(each.name for each in entries[:SHOWN]) or "nothing"
        raise DataError(f"{path}: no file is named {pattern}; there is {there}")
    seen: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() not in _READ:
            raise DataError(
                f"{file}: expected a name that ends in {', '.join(_READ)}. Give a `pattern` that leaves it out"
            )
        other = seen.setdefault(label_text(file.stem), file)
        if other != file:
            raise DataError(
                f"{file}: is for the client {label_text(file.stem)!r}, as is {other.name}; expected one file for each "
                "client. Rename one, put their rows in one file, or give a narrower `pattern`"
            )
    return files


def _agreed(files: Sequence[Path], roles: Roles) -> Roles:
    """Return roles that name the features of all files, and refuse a file that has others."""
    held = {file: [n for n in _NAMES[file.suffix.lower()](file, roles) if n not in roles.words] for file in files}
    if roles.columns is not None:
        expected = tuple(dict.fromkeys((*roles.columns, *roles.categories)))
        held = {file: [name for name in names if name in expected] for file, names in held.items()}
    else:
        # What most files have is meant; of several such sets, the one of the first file.
        counts = Counter(frozenset(names) for names in held.values())
        usual = max(counts, key=lambda each: counts[each])
        expected = tuple(next(names for names in held.values() if frozenset(names) == usual))
    for file, names in held.items():
        problem = unlike(expected, names)
        if problem:
            raise DataError(f"{file}: {problem}. Give every file the same columns, or choose features by `columns`")
    return replace(roles, columns=expected)
