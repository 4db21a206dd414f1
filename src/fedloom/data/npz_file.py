"""Datasets from a NumPy archive: arrays under fixed names, never a pickled object."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedloom.core.component import component
from fedloom.core.data import FEATURES, LABEL, TEXTS
from fedloom.core.params import Vector
from fedloom.data.memory import Task, as_features, owners_of
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled, nearest
from fedloom.data.sheet import Roles, Sheet, categories_of, checked, stacked
from fedloom.data.sheet_dataset import Rules, dataset_of
from fedloom.data.source_file import check_file, unreadable
from fedloom.errors import ComponentError, DataError, NoRows

COLUMNS = "columns"
TEXT_COLUMNS = "text_columns"
CLASSES = "classes"
_WORDS = ("client", "group", "fold")


@component("fedloom.datasets")
def npz(
    path: Path,
    *,
    partition: Partition | None = None,
    test: float = 0.25,
    validation: float = 0.0,
    seed: int = 0,
    task: Task = "classification",
) -> Pooled:
    """Return a dataset of the arrays of a NumPy archive (``.npz``).

    ``features`` of shape ``(n, d)`` and ``label`` of shape ``(n,)`` are needed. Of the same length may be ``client``,
    ``group`` (the person of a row), ``fold`` (train, validation or test) and ``texts`` (names of categories, shape
    ``(n, t)``, with their columns in ``text_columns``). ``columns`` are the names of the features, ``classes`` those of
    all classes: labels that are whole numbers then are indices of them, unless the classes are numbers themselves.

    Args:
        path: The file.
        partition: A way to deal the rows to clients, where the file has no ``client``.
        test: Share of each client's rows that is held back for test, where the file has no ``fold``.
        validation: Share of each client's rows that is held back for validation, where the file has no ``fold``.
        seed: Governs the partition and the split.
        task: "classification" or "regression".

    Raises:
        ComponentError: When arguments exclude each other or what the file holds.
        DataError: When an array is missing, holds objects, or does not fit the others; it names file and array.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "visits.npz")
        ...     np.savez(path, features=np.ones((3, 1)), label=np.array([0, 1, 1]), client=np.array(["a", "b", "b"]))
        ...     data = npz(path, test=0.0)
        >>> data.schema().columns, data.population().size(1)
        (('x0',), 2)
    """
    path = Path(path)
    arrays = _arrays(path)
    present = {name: name for name in _WORDS if name in arrays}
    roles = Roles(label=LABEL, categories=_names(path, arrays, TEXT_COLUMNS), **present)
    classes = _names(path, arrays, CLASSES) or None
    rules = Rules(roles=roles, classes=classes, test=test, validation=validation, seed=seed, task=task)
    if roles.client is not None and partition is not None:
        raise ComponentError(f"{path} has an array 'client', which says whose each row is; leave the partition out")
    owners = owners_of(roles.client, partition, name="client")
    sheet = _sheet(path, arrays, roles)
    return dataset_of(sheet, rules, owners=owners if isinstance(owners, Partition) else sheet.words[owners])


def read_npz(path: Path, roles: Roles) -> Sheet:
    """Return the rows of a NumPy archive whose label, group and fold are arrays of those names.

    Raises:
        DataError: When an array is missing, holds objects, or does not fit the others; it names file and array.
    """
    return _sheet(path, _arrays(path), roles)


def names_in_npz(path: Path, roles: Roles) -> list[str]:
    """Return the names of a NumPy archive's columns, those of the arrays that roles name among them.

    Raises:
        DataError: When it cannot be read.
    """
    arrays = _arrays(path)
    return [*_columns(path, arrays), *(name for name in roles.words if name in arrays)]


def _arrays(path: Path) -> Mapping[str, Vector]:
    check_file(path, kind="a NumPy archive (.npz)")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: is one array; expected an archive of several, as numpy.savez writes it")
        with archive:
            return {name: _array(path, archive, name) for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no NumPy archive (.npz), or is damaged. Write it with numpy.savez") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _array(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> Vector:
    try:
        array = archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: array {name!r} cannot be read: it holds Python objects, or is damaged. Save numbers, or text as "
            "numpy.array(values, dtype=str)"
        ) from error
    if array.dtype.kind not in "biufU":
        raise DataError(f"{path}: array {name!r} holds neither numbers nor text; save it as one of them")
    return array


def _sheet(path: Path, arrays: Mapping[str, Vector], roles: Roles) -> Sheet:
    names = _columns(path, arrays)
    for name in roles.words:
        if name not in arrays:
            raise DataError(f"{path}: there is no array {name!r}{nearest(name, sorted(arrays))}")
    features, texts = _features(path, arrays), _texts(path, arrays)
    count = len(features)
    for name in (*roles.words, *([TEXTS] if TEXTS in arrays else [])):
        if len(arrays[name].shape) != (2 if name == TEXTS else 1) or len(arrays[name]) != count:
            raise DataError(
                f"{path}: array {name!r} has shape {arrays[name].shape} and 'features' {features.shape}; expected one "
                "entry for each row of 'features'"
            )
    wanted = roles.wanted([*names, *roles.words], str(path))
    text_columns = _names(path, arrays, TEXT_COLUMNS)
    numbers = names[: features.shape[1]]
    mixed = [name for name in wanted.numbers if name not in numbers] or [
        name for name in wanted.texts if name not in text_columns
    ]
    if mixed:
        raise DataError(
            f"{path}: column {mixed[0]!r} is one of 'text_columns', or one of `categories`, and not both; name the "
            "columns of text, and no other, in `categories`"
        )
    chosen = [numbers.index(name) for name in wanted.numbers]
    return checked(
        Sheet(
            wanted=wanted,
            features=features if chosen == list(range(features.shape[1])) else features[:, chosen],
            texts=stacked([categories_of(texts[:, text_columns.index(name)].tolist()) for name in wanted.texts], count),
            words={name: _word(path, arrays, name, roles.label) for name in roles.words},
            where=lambda row: f"{path}: row {row}, counted from 0",
        )
    )


def _features(path: Path, arrays: Mapping[str, Vector]) -> Vector:
    if FEATURES not in arrays:
        raise DataError(f"{path}: there is no array 'features'{nearest(FEATURES, sorted(arrays))}")
    features = arrays[FEATURES]
    if features.ndim == 2 and not len(features):
        raise NoRows(f"{path}: array 'features' has no rows; expected at least one")
    if features.ndim == 2 and len(features) and not features.shape[1] and TEXTS in arrays:
        return features.astype(np.float64)
    try:
        return as_features(features)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _texts(path: Path, arrays: Mapping[str, Vector]) -> Vector:
    """Return the texts, and refuse texts without names of their columns, or names without texts."""
    names = _names(path, arrays, TEXT_COLUMNS)
    texts = arrays.get(TEXTS, np.empty((0, 0), dtype="<U1"))
    if texts.ndim != 2 or texts.dtype.kind != "U" or texts.shape[1] != len(names):
        raise DataError(
            f"{path}: array 'texts' has type {texts.dtype} and shape {texts.shape}, and 'text_columns' "
            f"{len(names)} names; expected text of shape (rows, {len(names)})"
        )
    return texts


def _columns(path: Path, arrays: Mapping[str, Vector]) -> list[str]:
    features = _features(path, arrays)
    columns = _names(path, arrays, COLUMNS) or tuple(f"x{place}" for place in range(features.shape[1]))
    names = [*columns, *_names(path, arrays, TEXT_COLUMNS)]
    if len(columns) != features.shape[1] or len(set(names)) != len(names):
        raise DataError(
            f"{path}: array 'columns' has {len(columns)} names, {len(set(names))} different ones with 'text_columns', "
            f"for {features.shape[1]} features; expected a name of its own for each column"
        )
    return names


def _names(path: Path, arrays: Mapping[str, Vector], key: str) -> tuple[str, ...]:
    names = arrays.get(key, np.empty(0, dtype="<U1"))
    if names.ndim != 1:
        raise DataError(f"{path}: array {key!r} has shape {names.shape}; expected a list of names")
    return tuple(str(name) for name in names.tolist())


def _word(path: Path, arrays: Mapping[str, Vector], name: str, label: str) -> Vector:
    """Return an array of ``words``; indices of classes as the names of them."""
    values = arrays[name]
    classes = _names(path, arrays, CLASSES) if name == label else ()
    if not classes or values.dtype.kind not in "iu" or all(each.lstrip("-").isdecimal() for each in classes):
        return values
    outside = (values < 0) | (values >= len(classes))
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{path}: row {row}, counted from 0: the label is the index {values[row]} among {len(classes)} classes; "
            f"expected 0 to {len(classes) - 1}"
        )
    return np.array(classes)[values]
