"""The number of its category in place of each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.analytics.categories import Categories, CategoriesState, categories_of, indices
from fedloom.analytics.coded_rows import coded_rows, coded_schema, folded_categories
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.query import Preparation


@component("fedloom.preparations")
def ordinal(
    columns: Sequence[str] | None = None,
    *,
    min_count: int = 1,
    max_categories: int = 64,
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Preparation[CategoriesState, Categories]:
    """Replace columns of categories by one column of their numbers, of the same name, after the numeric ones.

    Categories are numbered from 0 in class order: by number where all are numbers, else as text. Where the order means
    something ("low", "middle", "high"), name them in ``categories``, in that order. A category that is rare or was in
    no training row gets the number after the last one, and a missing value -1: nothing stays missing.

    The categories are agreed on as ``categories`` describes: 66 to 99 kB a round and client.

    Args:
        columns: Columns of text, and columns of numbers that stand for categories; None: all columns of text, and the
            keys of ``categories``.
        min_count: Rows of all clients together that a category must have to get a number of its own.
        max_categories: Most categories of a column.
        categories: Public categories by column, in their order; about these nobody is asked.

    Raises:
        ComponentError: When an argument is outside its range. A column that is not there is a DataError before round 1,
            categories that are too many or too long one in the round that finds them.

    Example:
        >>> change = ordinal(categories={"size": ["small", "large"]})
        >>> schema = Schema((), texts=("size",))
        >>> coded = change.transform(change.query.result(change.query.init(schema)))
        >>> texts = np.array([["large"], ["huge"], [""]])
        >>> coded.apply(ClientDataset({"features": np.zeros((3, 0)), "texts": texts})).arrays["features"].tolist()
        [[1.0], [2.0], [-1.0]]
    """
    query = categories_of(
        columns, min_count=min_count, max_categories=max_categories, known=categories, asked_by="ordinal"
    )
    return Preparation(
        query=query,
        transform=Ordinal,
        report=folded_categories,
        fills=columns is not None or categories is not None,
    )


@dataclass(frozen=True, slots=True)
class Ordinal:
    """The change of rows that an answer gives."""

    answer: Categories

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with numbers in place of categories.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        layout = self.answer.layout
        blocks = [
            indices("ordinal", data, layout, column, names)[:, None].astype(np.float64)
            for column, names in zip(layout.columns, self.answer.names, strict=True)
        ]
        return coded_rows("ordinal", data, layout, blocks)

    def schema(self, before: Schema) -> Schema:
        """Return the schema with these columns after the numeric ones."""
        return coded_schema(
            "ordinal", before, self.answer.layout, [column.name for column in self.answer.layout.columns]
        )
