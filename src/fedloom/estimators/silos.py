"""What ``fit`` takes: a mapping of silo name to its rows, or one table with a group for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data import Pooled
from fedloom.data import silos as silos_of
from fedloom.errors import DataError

ONE = "all"
"""Name of the silo where neither a mapping nor groups are given."""


class SiloError(DataError, ValueError):
    """Rows of a silo that cannot be used; a ``ValueError`` too, as scikit-learn's users expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silos:
    """The rows of each silo, checked by scikit-learn, by name."""

    features: Mapping[str, Vector]
    labels: Mapping[str, Vector]
    """Empty where there are none."""
    order: Mapping[str, Vector] | None
    """Which rows of the one table are each silo's; None for a mapping."""

    @property
    def rows(self) -> int:
        """Rows of all silos together."""
        return sum(map(len, self.features.values()))

    @property
    def joined(self) -> Vector:
        """The labels of all silos under each other."""
        kinds = {name: label.dtype.kind in "biuf" for name, label in self.labels.items()}
        if len(set(kinds.values())) > 1:
            numbers = next(name for name, number in kinds.items() if number)
            texts = next(name for name, number in kinds.items() if not number)
            raise SiloError(
                f"silo {numbers!r} has labels that are numbers, silo {texts!r} labels that are text; give all of them "
                "one kind"
            )
        return np.concatenate(list(self.labels.values()))


def read_labelled(estimator: Any, X: Any, y: Any, groups: Any, *, numeric: bool) -> Silos:
    """Return rows with labels; sets ``n_features_in_`` and ``feature_names_in_`` of the estimator.

    Raises:
        SiloError: When a silo has no rows, other columns than the first, or no pair (X, y).
        ValueError: As scikit-learn raises it, for a single table.
    """
    if not _is_mapping(X):
        features, labels = validate_data(estimator, X, y, dtype=(np.float64, np.float32), y_numeric=numeric)
        if not numeric:
            check_classification_targets(labels)
        return _grouped(features, labels, groups)
    _refuse_beside(y=y, groups=groups)
    read: dict[str, tuple[Vector, Vector]] = {}
    for name, pair in _named(X):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise SiloError(f"silo {name!r} is a {type(pair).__name__}; expected a pair (X, y)")
        with _Blame(name):
            _refuse_empty(pair[0])
            read[name] = validate_data(
                estimator, *pair, dtype=(np.float64, np.float32), y_numeric=numeric, reset=not read
            )
            if not numeric:
                check_classification_targets(read[name][1])
    return Silos(
        features={name: rows for name, (rows, _) in read.items()},
        labels={name: label for name, (_, label) in read.items()},
        order=None,
    )


def read_rows(estimator: Any, X: Any, groups: Any) -> Silos:
    """Return rows without labels; a silo may be given as (X, y), whose second is left out.

    Raises:
        SiloError: When a silo has no rows, or other columns than the first.
        ValueError: As scikit-learn raises it, for a single table.
    """
    if not _is_mapping(X):
        return _grouped(validate_data(estimator, X, dtype=(np.float64, np.float32)), None, groups)
    _refuse_beside(groups=groups)
    read: dict[str, Vector] = {}
    for name, given in _named(X):
        with _Blame(name):
            table = given[0] if isinstance(given, tuple) and len(given) == 2 else given
            _refuse_empty(table)
            read[name] = validate_data(estimator, table, dtype=(np.float64, np.float32), reset=not read)
    return Silos(features=read, labels={}, order=None)


def class_codes(silos: Silos) -> tuple[Vector, dict[str, Vector]]:
    """Return all classes in order, and each silo's labels as their indices."""
    classes = np.unique(silos.joined)
    return classes, {name: np.searchsorted(classes, label) for name, label in silos.labels.items()}


def class_names(classes: Vector) -> tuple[str, ...]:
    """Return names of classes for a record: their texts, or their indices where two have one text."""
    names = tuple(label_text(value) for value in classes.tolist())
    distinct = len(set(names)) == len(names) and all(names)
    return names if distinct else tuple(map(str, range(len(names))))


def dataset(estimator: Any, silos: Silos, *, codes: Mapping[str, Vector] | None, classes: tuple[str, ...]) -> Pooled:
    """Return the rows as a federated data set, all of them for training; without codes a label is a number."""
    tables = {
        name: (rows, _label(silos, name) if codes is None else np.array(classes)[codes[name]])
        for name, rows in silos.features.items()
    }
    return silos_of(
        tables,
        columns=columns_of(estimator),
        classes=None if codes is None else classes,
        test=0.0,
        task="regression" if codes is None else "classification",
    )


def columns_of(estimator: Any) -> tuple[str, ...]:
    """Return the names of the columns, ``x0``, ``x1``, ... where the rows came without."""
    named = getattr(estimator, "feature_names_in_", None)
    if named is None:
        return tuple(f"x{place}" for place in range(estimator.n_features_in_))
    return tuple(map(str, named))


def _is_mapping(X: Any) -> bool:
    return isinstance(X, Mapping) and not issparse(X)  # some sparse matrices are dictionaries too


def _label(silos: Silos, name: str) -> Vector:
    return silos.labels[name] if silos.labels else np.zeros(len(silos.features[name]))


def _grouped(features: Vector, labels: Vector | None, groups: Any) -> Silos:
    if groups is None:
        places = {ONE: np.arange(len(features))}
    else:
        groups = column_or_1d(groups)
        check_consistent_length(features, groups)
        texts = np.array([label_text(value) for value in groups.tolist()])
        if np.isin(texts, ["", "nan", "None"]).any():
            raise SiloError("groups has missing values; expected the name of a silo for every row")
        places = {str(name): np.flatnonzero(texts == name) for name in np.unique(texts)}
    return Silos(
        features={name: features[rows] for name, rows in places.items()},
        labels={} if labels is None else {name: labels[rows] for name, rows in places.items()},
        order=places,
    )


def _named(silos: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    if not silos:
        raise SiloError("fit received no silos; expected a mapping of name to (X, y)")
    return sorted((str(name), rows) for name, rows in silos.items()) if _distinct(silos) else []


def _distinct(silos: Mapping[Any, Any]) -> bool:
    names = [str(name) for name in silos]
    if len(set(names)) < len(names):
        raise SiloError(f"two silos have one name, as text: {sorted(names)}")
    return True


def _refuse_beside(**given: Any) -> None:
    beside = [name for name, value in given.items() if value is not None]
    if beside:
        raise SiloError(f"fit received a mapping of silos and {' and '.join(beside)}; the mapping says both")


def _refuse_empty(table: Any) -> None:
    if getattr(table, "shape", (1,))[0] == 0 or (isinstance(table, list) and not table):
        raise SiloError("has no rows; expected at least one. Leave it out")


class _Blame:
    """A context that names the silo in an error about its rows."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise an error about rows again, with the silo's name before it."""
        if isinstance(error, ValueError | TypeError):
            raise SiloError(f"silo {self.name!r}: {error}") from error
