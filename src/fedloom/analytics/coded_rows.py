"""Numbers in place of categories: what one_hot and ordinal have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.analytics.categories import Categories, Layout
from fedloom.analytics.columns import features_of, kept_dtype, with_features, without
from fedloom.analytics.text_columns import text_array, with_texts
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.params import Vector
from fedloom.errors import DataError


def coded_rows(builder: str, data: ClientDataset, layout: Layout, blocks: Sequence[Vector]) -> ClientDataset:
    """Return the rows without the layout's columns, and with new numeric columns after the others."""
    features = features_of(builder, data, layout.features)
    numbers = [column.position for column in layout.columns if not column.text]
    kept = np.delete(features, numbers, axis=1)
    dtype = kept_dtype(features)
    coded = with_features(data, np.concatenate([kept, *blocks], axis=1, dtype=dtype))
    gone = [column.position for column in layout.columns if column.text]
    if not gone:
        return coded
    return with_texts(coded, np.delete(text_array(builder, data, layout.texts), gone, axis=1))


def coded_schema(builder: str, before: Schema, layout: Layout, new: Sequence[str]) -> Schema:
    """Return the schema without the layout's columns, and with new numeric columns after the others.

    Raises:
        DataError: When there is a column of such a name already.
    """
    gone = [column.name for column in layout.columns]
    rest = without(before, columns=gone, texts=gone)
    taken = [name for name in new if name in rest.columns or name in rest.texts]
    if taken:
        raise DataError(f"{builder}: there is a column `{taken[0]}` already; give it another name")
    return replace(rest, columns=(*rest.columns, *new))


def folded_categories(answer: Categories, _schema: Schema) -> tuple[str, ...]:
    """Return a sentence for each column that says nothing, or in which rows have rare categories.

    Example:
        >>> from fedloom.analytics.categories import Column
        >>> column = Column(name="job", position=0, text=True)
        >>> answer = Categories(
        ...     layout=Layout(columns=(column,), texts=1, features=0),
        ...     names=(("clerk", "cook"),),
        ...     rows=((20.0, 12.0),),
        ...     folded=(3.0,),
        ... )
        >>> folded_categories(answer, Schema((), texts=("job",)))
        ('column `job`: 3 training rows have a rare category; 2 common ones',)
    """
    sentences: list[str] = []
    for number, column in enumerate(answer.layout.columns):
        names, folded = answer.names[number], answer.folded[number]
        if folded > 0.5:
            sentences.append(
                f"column `{column.name}`: {folded:.0f} training rows have a rare category; {len(names)} common ones"
            )
        elif len(names) == 1:
            sentences.append(
                f"column `{column.name}` has one category, `{names[0]}`, in all training rows of all clients"
            )
    return tuple(sentences)
