"""One name for all categories that few rows have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedloom.analytics.categories import Categories, CategoriesState, categories_of, indices
from fedloom.analytics.coded_rows import folded_categories
from fedloom.analytics.text_columns import text_array, text_columns, with_texts
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.labels import label_text
from fedloom.core.query import Preparation
from fedloom.errors import ComponentError


@component("fedloom.preparations")
def fold_rare(
    columns: Sequence[str] | None = None, min_count: int = 10, *, into: str = "other", max_categories: int = 64
) -> Preparation[CategoriesState, Categories]:
    """Rename categories that fewer than ``min_count`` training rows of all clients have; the columns stay text.

    A category that was in no training row is renamed too, in rows of prediction. Missing values stay missing. Common
    categories are written as their names: without space around them, ``1`` for ``1.0``. A category that is called as
    ``into`` says takes the rare ones in. The categories are agreed on as ``categories`` describes: 66 kB a round and
    client.

    Args:
        columns: Columns of text; None: all of them.
        min_count: Rows that a category must have to keep its name.
        into: Name of the rest.
        max_categories: Most categories of a column that keep their names.

    Raises:
        ComponentError: When an argument is outside its range. A column that is not there or holds numbers is a
            DataError before round 1.

    Example:
        >>> change = fold_rare(into="rest")
        >>> from fedloom.analytics.categories import Column, Layout
        >>> layout = Layout(columns=(Column(name="job", position=0, text=True),), texts=1, features=0)
        >>> answer = Categories(layout=layout, names=(("cook",),), rows=((30.0,),), folded=(2.0,))
        >>> rows = ClientDataset({"texts": np.array([["cook"], ["smith"], [""]])})
        >>> change.transform(answer).apply(rows).arrays["texts"][:, 0].tolist()
        ['cook', 'rest', '']
    """
    if not into.strip() or label_text(into) != into:
        raise ComponentError(f"fold_rare: into = {into!r}; expected the name of a category, without space around it")
    query = categories_of(columns, min_count=min_count, max_categories=max_categories, known=None, asked_by="fold_rare")

    def init(schema: Schema) -> CategoriesState:
        text_columns("fold_rare", schema, columns)
        return query.init(schema)

    return Preparation(
        query=replace(query, init=init),
        transform=lambda answer: FoldRare(answer, into),
        report=folded_categories,
    )


@dataclass(frozen=True, slots=True)
class FoldRare:
    """The change of rows that an answer gives."""

    answer: Categories
    into: str

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with the names of common categories, and one name for all others.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        layout = self.answer.layout
        # Copied as Python strings, which have no common width that a new name could exceed.
        texts = text_array("fold_rare", data, layout.texts).astype(object)
        for column, names in zip(layout.columns, self.answer.names, strict=True):
            written = np.array([*names, self.into, ""], dtype=object)
            texts[:, column.position] = written[indices("fold_rare", data, layout, column, names)]
        return with_texts(data, texts.astype(np.str_))

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names, and stay text."""
        return before
