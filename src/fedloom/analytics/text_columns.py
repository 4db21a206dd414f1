"""Which columns of text a preparation works on, and their strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.analytics.columns import named
from fedloom.core.data import TEXTS, ClientDataset, Schema
from fedloom.core.params import Vector
from fedloom.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Columns of text of a schema: part of answers, because a transform is built from nothing else."""

    names: tuple[str, ...]
    positions: tuple[int, ...]
    """Where they stand in the array ``texts``, ascending."""
    width: int
    """Columns of ``texts``, the others included."""


def text_columns(builder: str, schema: Schema, columns: Sequence[str] | None) -> Texts:
    """Return columns of text of a schema, in its order; None: all of them.

    Raises:
        DataError: When a name is no column, or a column of numbers.

    Example:
        >>> text_columns("fold_rare", Schema((), texts=("sex", "job")), ["job"])
        Texts(names=('job',), positions=(1,), width=2)
    """
    for name in columns or ():
        if name in schema.columns:
            raise DataError(f"{builder}: column `{name}` holds numbers; expected a column of text")
        if name not in schema.texts:
            raise DataError(f"{builder}: there is no column `{name}`; the columns are {named(schema)}")
    chosen = [(place, name) for place, name in enumerate(schema.texts) if columns is None or name in columns]
    return Texts(
        names=tuple(name for _, name in chosen),
        positions=tuple(place for place, _ in chosen),
        width=len(schema.texts),
    )


def text_array(builder: str, data: ClientDataset, width: int) -> Vector:
    """Return the texts of a client.

    Raises:
        DataError: When they are not strings in ``width`` columns.
    """
    texts = data.arrays.get(TEXTS)
    if texts is None or texts.ndim != 2 or texts.shape[1] != width or texts.dtype.kind != "U":
        found = "no array `texts`" if texts is None else f"texts of shape {texts.shape} and type {texts.dtype}"
        raise DataError(f"{builder}: the rows have {found}; expected strings of shape (rows, {width})")
    return texts


def with_texts(data: ClientDataset, texts: Vector) -> ClientDataset:
    """Return the rows with other texts; without the array where no column is left."""
    arrays = {name: array for name, array in data.arrays.items() if name != TEXTS}
    return ClientDataset({**arrays, TEXTS: texts} if texts.shape[1] else arrays, data.rows)
