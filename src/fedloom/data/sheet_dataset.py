"""A sheet becomes a dataset: labels as names or indices, rows to their clients, each client's rows to its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.data import Schema
from fedloom.core.params import Vector
from fedloom.data.labels import coded
from fedloom.data.memory import Task, persons
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled, Table, pool
from fedloom.data.sheet import Roles, Sheet, no_number, number_of
from fedloom.data.splits import FOLDS, Ints, Shares
from fedloom.errors import ComponentError, DataError

_UNSPLIT = Shares()
"""What ``test`` and ``validation`` are where nobody gave them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rows become a dataset.

    Raises:
        ComponentError: When arguments exclude each other, or a share is outside its range.
    """

    roles: Roles
    classes: Sequence[str] | None
    test: float
    validation: float
    seed: int
    task: Task

    def __post_init__(self) -> None:
        """Check everything that can be known before a file is read."""
        shares = Shares(self.test, self.validation)
        if self.roles.fold is not None and shares != _UNSPLIT:
            raise ComponentError(
                f"fold = {self.roles.fold!r} says which rows are for test and validation; leave out test = {self.test} "
                f"and validation = {self.validation}"
            )
        if self.classes is None:
            return
        if self.task == "regression":
            raise ComponentError('classes and task = "regression" exclude each other; leave one of them out')
        if isinstance(self.classes, str) or len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ComponentError(f"classes = {self.classes!r}; expected a list of two or more different names")


def dataset_of(sheet: Sheet, rules: Rules, *, owners: Partition | Vector) -> Pooled:
    """Return the rows of a sheet as a dataset.

    Args:
        sheet: All rows.
        rules: How they are to be read.
        owners: A partition, or the client of each row.

    Raises:
        DataError: When a label or a fold is none of those that are expected, with its place in the file.
    """
    roles = rules.roles
    label, stratum = _labels(sheet, rules)
    classes = None if rules.classes is None else tuple(rules.classes)
    texts = sheet.wanted.texts
    table = Table(
        features=sheet.features,
        label=label,
        stratum=stratum,
        columns=Schema(sheet.wanted.numbers, roles.label, classes, texts),
        person=None if roles.group is None else persons(sheet.words[roles.group]),
        texts=sheet.texts if texts else None,
        where=sheet.where,
    )
    shares = Shares(rules.test, rules.validation) if roles.fold is None else _folds(sheet, roles.fold)
    return pool(table, owners=owners, shares=shares, seed=rules.seed)


def class_indices(sheet: Sheet, label: str, classes: Sequence[str]) -> Ints:
    """Return the index of each row's class.

    Raises:
        DataError: For the first row whose label is none of the classes, with its place.
    """
    names, index = coded(sheet.words[label])
    place = {name: number for number, name in enumerate(classes)}
    found = np.array([place.get(name, -1) for name in names], dtype=np.int64)[index]
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        raise DataError(
            f"{sheet.where(row)}: column {label!r} has the label {names[index[row]]!r}, which is not among the classes "
            f"{', '.join(map(repr, classes))} ({np.count_nonzero(found < 0)} such rows). Correct it, or add the class"
        )
    return found


def numbers_to_predict(sheet: Sheet, label: str) -> Vector:
    """Return the labels of a regression as float64.

    Raises:
        DataError: For the first row whose label is no finite number, with its place.
    """
    words = sheet.words[label]
    if words.dtype.kind in "biuf":
        return words.astype(np.float64)
    numbers = [number_of(word) for word in words.tolist()]
    for row, number in enumerate(numbers):
        if number is None:
            raise no_number(sheet.where(row), label)
        if not np.isfinite(number):
            raise DataError(f"{sheet.where(row)}: column {label!r} is infinite; expected a finite number to predict")
    return np.array(numbers, dtype=np.float64)


def _labels(sheet: Sheet, rules: Rules) -> tuple[Vector, Ints | None]:
    """Return labels as the dataset holds them, and the class of each row by which splits are balanced."""
    label = rules.roles.label
    if rules.task == "regression":
        return numbers_to_predict(sheet, label), None
    if rules.classes is not None:
        index = class_indices(sheet, label, rules.classes)
        return index, index
    words = sheet.words[label]
    if words.dtype.kind == "f" and bool((words != np.floor(words)).any()):
        raise DataError(
            f"{sheet.where(int(np.argmax(words != np.floor(words))))}: column {label!r} is a number with decimals; "
            'expected the name or number of a class. For a number to predict, give task = "regression"'
        )
    return words, coded(words)[1]


def _folds(sheet: Sheet, fold: str) -> npt.NDArray[np.int8]:
    words = sheet.words[fold]
    codes = np.full(len(words), -1, dtype=np.int8)
    for code, name in enumerate(FOLDS):
        codes[words == name] = code
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataError(
            f"{sheet.where(row)}: column {fold!r} is {str(words[row])!r}; expected one of {', '.join(FOLDS)}"
        )
    return codes
