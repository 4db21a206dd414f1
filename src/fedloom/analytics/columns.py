"""Which columns a preparation works on: chosen by name before round 1, and by position ever after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedloom.core.data import FEATURES, ClientDataset, Schema
from fedloom.core.params import Vector
from fedloom.errors import ComponentError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Numeric columns of a schema: part of answers, because a transform is built from nothing else.

    Example:
        >>> numeric_columns("min_max", Schema(("age", "bp", "chol")), ["chol", "age"])
        Columns(names=('age', 'chol'), positions=(0, 2), width=3)
    """

    names: tuple[str, ...]
    positions: tuple[int, ...]
    """Where they stand in the array ``features``, ascending."""
    width: int
    """Columns of ``features``, the others included."""

    def of(self, features: Vector) -> Vector:
        """Return their values, shape ``(rows, len(names))``."""
        return features if len(self.positions) == self.width else features[:, self.positions]

    def put(self, features: Vector, values: Vector) -> Vector:
        """Return a copy of the features with other values in these columns; float32 stays, all else is float64."""
        changed = features.astype(kept_dtype(features))
        changed[:, self.positions] = values
        return changed


def check_names(builder: str, columns: Sequence[str] | None) -> None:
    """Refuse a list of columns that no schema could fit.

    Raises:
        ComponentError: When it is empty, a plain string, or names a column twice.
    """
    if columns is None:
        return
    if isinstance(columns, str):
        raise ComponentError(f'{builder}: columns = "{columns}"; expected a list of names: ["{columns}"]')
    if not columns:
        raise ComponentError(f"{builder}: columns is empty; expected names, or none at all for every column that fits")
    twice = sorted({name for name in columns if list(columns).count(name) > 1})
    if twice:
        raise ComponentError(f"{builder}: columns names `{twice[0]}` twice; expected each name once")


def numeric_columns(builder: str, schema: Schema, columns: Sequence[str] | None) -> Columns:
    """Return numeric columns of a schema, in its order; None: all of them.

    Raises:
        DataError: When a name is no column, or a column of text.
    """
    for name in columns or ():
        if name in schema.texts:
            raise DataError(
                f"{builder}: column `{name}` holds text; expected a column of numbers. Use one_hot or ordinal, or "
                f'impute(strategy="constant", text=...)'
            )
        if name not in schema.columns:
            raise DataError(f"{builder}: there is no column `{name}`; the columns are {named(schema)}")
    chosen = [(place, name) for place, name in enumerate(schema.columns) if columns is None or name in columns]
    return Columns(
        names=tuple(name for _, name in chosen),
        positions=tuple(place for place, _ in chosen),
        width=len(schema.columns),
    )


def named(schema: Schema) -> str:
    """Return the names of all columns, for a message.

    Example:
        >>> named(Schema(("age",), texts=("sex",)))
        '`age`, `sex`'
    """
    return ", ".join(f"`{name}`" for name in (*schema.columns, *schema.texts)) or "none"


def features_of(builder: str, data: ClientDataset, width: int) -> Vector:
    """Return the features of a client.

    Raises:
        DataError: When they are not ``width`` columns.
    """
    features = data.arrays[FEATURES]
    if features.ndim != 2 or features.shape[1] != width:
        raise DataError(f"{builder}: features have shape {features.shape}; expected (rows, {width})")
    return features


def with_features(data: ClientDataset, features: Vector) -> ClientDataset:
    """Return the rows with other features."""
    return ClientDataset({**data.arrays, FEATURES: features}, data.rows)


def kept_dtype(features: Vector) -> npt.DTypeLike:
    """Return float32 for float32, float64 for anything else.

    Example:
        >>> kept_dtype(np.zeros(1, dtype=np.int64)).__name__
        'float64'
    """
    return np.float32 if features.dtype == np.float32 else np.float64


def without(schema: Schema, *, columns: Sequence[str] = (), texts: Sequence[str] = ()) -> Schema:
    """Return a schema that lacks some columns."""
    return replace(
        schema,
        columns=tuple(name for name in schema.columns if name not in columns),
        texts=tuple(name for name in schema.texts if name not in texts),
    )
