"""Datasets from arrays in memory: one pooled table, or one table for each silo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from fedloom.core.component import component
from fedloom.core.data import LABEL, Schema
from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data.labels import coded, refuse_missing
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled, Table, pool
from fedloom.data.splits import FOLDS, Ints, Shares
from fedloom.errors import ComponentError, DataError

Task = Literal["classification", "regression"]
T = TypeVar("T")


def arrays(
    features: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    clients: Sequence[object] | Vector | None = None,
    partition: Partition | None = None,
    columns: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    fold: Sequence[str] | Vector | None = None,
    test: float = 0.25,
    validation: float = 0.0,
    group: Sequence[object] | Vector | None = None,
    texts: Sequence[Sequence[object]] | Vector | None = None,
    text_columns: Sequence[str] = (),
    seed: int = 0,
    task: Task = "classification",
) -> Pooled:
    """Return a dataset of rows in memory.

    Features of type float32 and float64 are kept as they are, and are not copied where each client's rows already lie
    together; other numbers become the smallest float that holds them.

    Args:
        features: Numbers, shape ``(n, d)``.
        label: Class or number of each row, shape ``(n,)``.
        clients: Name of each row's client; exclusive with ``partition``.
        partition: A way to deal the rows to clients.
        columns: Names of the features; ``x0``, ``x1``, ... by default.
        classes: Names of all classes in the order of their indices; the distinct labels in order by default. Labels
            are names, never indices.
        fold: "train", "validation" or "test" for each row, in place of a drawn split.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        group: Person of each row. A client's rows of one person are never on two sides, and a partition deals whole
            persons. Two clients who know the same person each split for themselves, as they would in real life.
        texts: Names of categories, shape ``(n, t)``, beside the numbers; None and NaN are missing ones.
        text_columns: Names of the columns of ``texts``.
        seed: Governs the partition and the split.
        task: "classification" makes labels indices of classes; "regression" keeps numbers.

    Returns:
        A dataset that is also reachable client by client.

    Raises:
        ComponentError: When arguments exclude each other, or a share is outside its range.
        DataError: When the arrays do not fit together, or labels are missing.

    Example:
        >>> data = arrays(np.ones((4, 2)), ["no", "yes", "no", "yes"], clients=["b", "b", "a", "a"], test=0.5)
        >>> data.schema().classes, data.population().id(0), data.client(data.population().id(0)).count("test")
        (('no', 'yes'), 'a', 1)
    """
    # Sequences become arrays first: a spec holds the digest of an array, but a list in full, and rows are private.
    build = _arrays if texts is None else partial(_with_texts, texts=_texts(texts), text_columns=tuple(text_columns))
    if texts is None and text_columns:
        raise DataError(f"arrays: text_columns = {list(text_columns)} without texts; give both or neither")
    return build(
        np.asarray(features),
        np.asarray(label),
        clients=_optional(clients),
        partition=partition,
        columns=None if columns is None else tuple(columns),
        classes=None if classes is None else tuple(classes),
        fold=_optional(fold),
        test=test,
        validation=validation,
        group=_optional(group),
        seed=seed,
        task=task,
    )


def silos(
    tables: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    columns: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    test: float = 0.25,
    validation: float = 0.0,
    seed: int = 0,
    task: Task = "classification",
) -> Pooled:
    """Return a dataset of one pair of features and label for each client.

    It is ``arrays`` of the tables under each other, in name order, and has the same spec.

    Args:
        tables: Client name to ``(X, y)``, as scikit-learn takes them.
        columns: Names of the features.
        classes: Names of all classes in the order of their indices.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the split.
        task: "classification" or "regression".

    Raises:
        DataError: When a table is empty, or tables differ in their number of columns.

    Example:
        >>> data = silos({"b": (np.ones((3, 2)), [0, 1, 1]), "a": (np.zeros((1, 2)), [1])}, test=0.0)
        >>> [data.population().size(index) for index in range(2)]
        [1, 3]
    """
    if not tables:
        raise DataError("silos received no tables; expected a mapping of client name to (X, y)")
    pairs = {name: (np.asarray(tables[name][0]), np.asarray(tables[name][1])) for name in sorted(tables)}
    width = len(columns) if columns is not None else None
    for name, (rows, label) in pairs.items():
        if rows.ndim != 2 or label.shape != rows.shape[:1] or not len(label):
            raise DataError(
                f"client {name!r}: X has shape {rows.shape} and y {label.shape}; expected (n, d) and (n,), n above 0"
            )
        width = rows.shape[1] if width is None else width
        if rows.shape[1] != width:
            raise DataError(f"client {name!r}: expects {width} features, has {rows.shape[1]}")
    return arrays(
        np.concatenate([rows for rows, _ in pairs.values()]),
        np.concatenate([label for _, label in pairs.values()]),
        clients=np.repeat(np.array(list(pairs)), [len(label) for _, label in pairs.values()]),
        columns=columns,
        classes=classes,
        test=test,
        validation=validation,
        seed=seed,
        task=task,
    )


@component("fedloom.datasets", "arrays")
def _arrays(
    features: Vector,
    label: Vector,
    *,
    clients: Vector | None,
    partition: Partition | None,
    columns: tuple[str, ...] | None,
    classes: tuple[str, ...] | None,
    fold: Vector | None,
    test: float,
    validation: float,
    group: Vector | None,
    seed: int,
    task: Task,
) -> Pooled:
    shares = Shares(test, validation)
    owners = owners_of(clients, partition, name="clients")
    table = _table(as_features(features), label, columns=columns, classes=classes, group=group, task=task)
    _check_lengths(len(table.features), clients=clients, fold=fold)
    return pool(table, owners=owners, shares=shares if fold is None else _folds(fold), seed=seed)


@component("fedloom.datasets", "arrays")
def _with_texts(
    features: Vector,
    label: Vector,
    *,
    texts: Vector,
    text_columns: tuple[str, ...],
    clients: Vector | None,
    partition: Partition | None,
    columns: tuple[str, ...] | None,
    classes: tuple[str, ...] | None,
    fold: Vector | None,
    test: float,
    validation: float,
    group: Vector | None,
    seed: int,
    task: Task,
) -> Pooled:
    # A builder of its own, so that the spec of rows without texts, and their digest, stay what they are.
    shares = Shares(test, validation)
    owners = owners_of(clients, partition, name="clients")
    numbers = np.empty((len(texts), 0)) if features.shape == (len(texts), 0) else as_features(features)
    table = _table(numbers, label, columns=columns, classes=classes, group=group, task=task)
    _check_lengths(len(numbers), clients=clients, fold=fold)
    if texts.shape != (len(numbers), len(text_columns)) or not text_columns:
        raise DataError(
            f"arrays: texts have shape {texts.shape}, for {len(numbers)} rows and {len(text_columns)} text_columns; "
            "expected a row for each row of features, and a name for each column"
        )
    names = (*table.columns.columns, *text_columns)
    if len(set(names)) != len(names):
        raise DataError(f"arrays: columns and text_columns have {len(set(names))} different names for {len(names)}")
    schema = replace(table.columns, texts=text_columns)
    table = replace(table, columns=schema, texts=texts)
    return pool(table, owners=owners, shares=shares if fold is None else _folds(fold), seed=seed)


def _table(
    features: Vector,
    label: Vector,
    *,
    columns: tuple[str, ...] | None,
    classes: tuple[str, ...] | None,
    group: Vector | None,
    task: Task,
) -> Table:
    _check_lengths(len(features), label=label, group=group)
    label, stratum, names = _labels(label, classes, task)
    named = columns or tuple(f"x{place}" for place in range(features.shape[1]))
    if len(named) != features.shape[1] or len(set(named)) != len(named):
        raise DataError(f"arrays: {len(set(named))} different column names for {features.shape[1]} features")
    return Table(
        features=features,
        label=label,
        stratum=stratum,
        columns=Schema(named, LABEL, names),
        person=None if group is None else persons(group),
    )


def _check_lengths(count: int, **columns: Vector | None) -> None:
    for name, column in columns.items():
        if column is not None and column.shape != (count,):
            raise DataError(
                f"arrays: {name} has shape {column.shape}; expected ({count},), one for each row of features"
            )


def _texts(texts: Sequence[Sequence[object]] | Vector) -> Vector:
    """Return names of categories as an array of text, missing ones empty."""
    if isinstance(texts, np.ndarray) and texts.dtype.kind == "U":
        return texts
    # Of lists that mix text with numbers NumPy would make text, and of NaN the word.
    table = np.asarray(texts, dtype=object)
    return np.array([_name(value) for value in table.ravel().tolist()], dtype=np.str_).reshape(table.shape)


def _name(value: object) -> str:
    return "" if value is None or value != value else label_text(value)  # noqa: PLR0124 (only NaN differs from itself)


def owners_of(clients: T | None, partition: Partition | None, *, name: str) -> Partition | T:
    """Return whichever of the two says who owns which row.

    Raises:
        ComponentError: When both are given, or neither.
    """
    if clients is not None and partition is None:
        return clients
    if partition is not None and clients is None:
        return partition
    given = "neither" if partition is None else "both"
    raise ComponentError(
        f"{name} and partition: received {given}; expected one of them. Give {name} where a column names each row's "
        "client, partition to deal the rows (iid(1) makes them one client)"
    )


def as_features(features: Vector) -> Vector:
    """Return features as floats of shape ``(n, d)``; float32 and float64 as they are.

    Raises:
        DataError: When the shape is another, there are no rows or columns, or a value is not a number.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise DataError(f"features have shape {features.shape}; expected (rows, columns), at least one of each")
    if features.dtype in (np.float32, np.float64):
        return features
    if features.dtype.kind in "biuf":
        return features.astype(np.result_type(features.dtype, np.float32))
    try:
        return features.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"features have type {features.dtype} and are not all numbers; expected numbers. Encode text columns first"
        ) from error


def persons(group: Vector) -> Ints:
    """Return the person of each row as a number, in the order of their names."""
    refuse_missing(group, what="groups")
    texts = [label_text(value) for value in group.tolist()]
    place = {text: index for index, text in enumerate(sorted(set(texts)))}
    return np.array([place[text] for text in texts], dtype=np.int64)


def as_numbers(label: Vector) -> Vector:
    """Return the labels of a regression as float64.

    Raises:
        DataError: When one is missing or not a number.
    """
    refuse_missing(label)
    try:
        return label.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"task = 'regression' and labels of type {label.dtype}, not all numbers; expected numbers. "
            'For names of classes, give task="classification"'
        ) from error


def _labels(
    label: Vector, classes: tuple[str, ...] | None, task: Task
) -> tuple[Vector, Ints | None, tuple[str, ...] | None]:
    """Return labels as a learner reads them, the class of each row, and the names of all classes."""
    if task == "regression":
        if classes is not None:
            raise ComponentError('classes and task="regression" exclude each other; leave one of them out')
        return as_numbers(label), None, None
    if task != "classification":
        raise ComponentError(f'task = {task!r}; expected "classification" or "regression"')
    names, index = coded(label)
    if classes is None:
        return index, index, names
    if len(set(classes)) != len(classes):
        raise DataError(f"classes = {classes} names a class twice; expected different names")
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DataError(
            f"labels name {len(unknown)} classes that are not among {classes}, such as {unknown[0]!r}. Add them to "
            "classes; where labels are indices, give np.array(classes)[label]"
        )
    index = np.array([classes.index(name) for name in names], dtype=np.int64)[index]
    return index, index, classes


def _folds(fold: Vector) -> npt.NDArray[np.int8]:
    codes = np.full(len(fold), -1, dtype=np.int8)
    for code, name in enumerate(FOLDS):
        codes[fold == name] = code
    if (codes < 0).any():
        row = int(np.argmin(codes))
        raise DataError(f"fold {str(fold[row])!r} at row {row}, counted from 0; expected one of {', '.join(FOLDS)}")
    return codes


def _optional(column: Sequence[object] | Vector | None) -> Vector | None:
    return None if column is None else np.asarray(column)
