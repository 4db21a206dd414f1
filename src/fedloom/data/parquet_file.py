"""Datasets from one Parquet file; needs the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.core.component import component
from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data.memory import Task, owners_of
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled
from fedloom.data.sheet import Roles, Sheet, categories_of, checked, no_number, stacked
from fedloom.data.sheet_dataset import Rules, dataset_of
from fedloom.data.source_file import check_file, unreadable
from fedloom.errors import DataError, MissingExtra, NoRows


@component("fedloom.datasets")
def parquet(
    path: Path,
    *,
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
    """Return a dataset of the rows of a Parquet file; a null stands for a value that is not known.

    Args:
        path: The file.
        label: Column to predict.
        client: Column that names each row's client; exclusive with ``partition``.
        partition: A way to deal the rows to clients.
        group: Column that names each row's person, whose rows stay on one side of the split.
        columns: Features to read; by default every column but label, client, group and fold.
        categories: Columns that hold names of categories: of type string or dictionary, or whole numbers.
        classes: Names of all classes in the order of their indices.
        fold: Column that says train, validation or test for each row, in place of ``test`` and ``validation``.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the partition and the split.
        task: "classification" or "regression".

    Raises:
        ComponentError: When arguments exclude each other, or a share is outside its range.
        DataError: When the file cannot be read as described; it names path, row and column.
        MissingExtra: When pyarrow is not installed.

    Example:
        >>> data = parquet(Path("visits.parquet"), label="outcome", client="ward")  # doctest: +SKIP
    """
    roles = Roles(label=label, client=client, group=group, fold=fold, columns=columns, categories=categories)
    rules = Rules(roles=roles, classes=classes, test=test, validation=validation, seed=seed, task=task)
    chosen = owners_of(client, partition, name="client")
    sheet = read_parquet(Path(path), roles)
    return dataset_of(sheet, rules, owners=chosen if isinstance(chosen, Partition) else sheet.words[chosen])


def read_parquet(path: Path, roles: Roles) -> Sheet:
    """Return the rows of a Parquet file.

    Raises:
        DataError: When it cannot be read as described; it names path, row and column.
        MissingExtra: When pyarrow is not installed.
    """
    with _opened(path) as file:
        wanted = roles.wanted(_names(path, file), str(path))
        try:
            table = file.read(columns=[*wanted.numbers, *wanted.texts, *wanted.words])
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is damaged: {error}") from error
    count = table.num_rows
    if not count:
        raise NoRows(f"{path}: has no rows; expected at least one")
    features = np.empty((count, len(wanted.numbers)))
    for place, name in enumerate(wanted.numbers):
        features[:, place] = _numbers(path, table.column(name), name)
    return checked(
        Sheet(
            wanted=wanted,
            features=features,
            texts=stacked([categories_of(_words(path, table.column(name), name)) for name in wanted.texts], count),
            words={name: np.array(_words(path, table.column(name), name)) for name in wanted.words},
            where=lambda row: f"{path}: row {row}, counted from 0",
        )
    )


def names_in_parquet(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        DataError: When it cannot be read.
        MissingExtra: When pyarrow is not installed.
    """
    with _opened(path) as file:
        return _names(path, file)


def _opened(path: Path) -> Any:
    try:
        from pyarrow import parquet as reader
    except ImportError as error:
        raise MissingExtra(f"reading {path}", extra="parquet") from error
    check_file(path, kind="a Parquet file")
    try:
        return reader.ParquetFile(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        raise DataError(f"{path}: is no Parquet file, or is damaged: {str(error).strip()}") from error


def _names(path: Path, file: Any) -> list[str]:
    names: list[str] = list(file.schema_arrow.names)
    for place, name in enumerate(names):
        if name in names[:place]:
            raise DataError(f"{path}: two columns are named {name!r}; rename one of them")
    return names


def _numbers(path: Path, column: Any, name: str) -> Vector:
    from pyarrow import float64, types

    kind = column.type
    if _is_text(kind):
        raise no_number(str(path), name)
    readable = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    if not any(each(kind) for each in readable):
        raise DataError(
            f"{path}: column {name!r} has type {kind}; expected numbers. Make numbers of it, or leave it out by "
            "`columns`"
        )
    return np.asarray(column.cast(float64(), safe=False).to_numpy(), dtype=np.float64)


def _words(path: Path, column: Any, name: str) -> list[str]:
    from pyarrow import types

    kind = column.type
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    if not _is_text(kind) and not any(each(kind) for each in plain):
        raise DataError(f"{path}: column {name!r} has type {kind}; expected text or numbers. Store it as text")
    return ["" if value is None else label_text(value) for value in column.to_pylist()]


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(inner) or types.is_large_string(inner))
