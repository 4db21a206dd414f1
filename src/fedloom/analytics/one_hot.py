"""A column of zeros and ones for each category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedloom.analytics.categories import Categories, CategoriesState, categories_of, indices
from fedloom.analytics.coded_rows import coded_rows, coded_schema, folded_categories
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.params import Vector
from fedloom.core.query import Preparation

Rare = Literal["fold", "zero"]
OTHER = "other"


@component("fedloom.preparations")
def one_hot(
    columns: Sequence[str] | None = None,
    *,
    min_count: int = 1,
    max_categories: int = 64,
    rare: Rare = "fold",
    drop_first: bool = False,
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Preparation[CategoriesState, Categories]:
    """Replace columns of categories by one column of 0 and 1 for each category, named ``sex=f``.

    The categories are those of all clients' training rows, agreed on as ``categories`` describes: 66 to 99 kB a round
    and client. They are in class order: by number where all are numbers, else as text. The new columns stand after the
    numeric ones, columns of text first; each is float32 where the features are, else float64.

    A row whose category has no column, because it is rare or was in no training row, goes to ``sex=other``. That column
    is there if some training row has a rare category (``min_count`` above 1), or if "other" is a category itself; where
    it is not, and with ``rare="zero"``, such a row has zeros. So has a row whose value is missing; with ``drop_first``
    it cannot be told from the first category.

    Args:
        columns: Columns of text, and columns of numbers that stand for categories; None: all columns of text, and the
            keys of ``categories``.
        min_count: Rows of all clients together that a category must have to get a column.
        max_categories: Most categories of a column.
        rare: "fold" or "zero".
        drop_first: Leave the first category of each column without one: linear models without penalty need it.
        categories: Public categories by column, in their order; about these nobody is asked.

    Raises:
        ComponentError: When an argument is outside its range. A column that is not there is a DataError before round 1,
            categories that are too many or too long one in the round that finds them.

    Example:
        >>> change = one_hot(categories={"sex": ["f", "m"]})
        >>> schema = Schema(("age",), texts=("sex",))
        >>> coded = change.transform(change.query.result(change.query.init(schema)))
        >>> coded.schema(schema).columns
        ('age', 'sex=f', 'sex=m')
        >>> rows = ClientDataset({"features": np.array([[31.0], [40.0]]), "texts": np.array([["m"], ["?"]])})
        >>> coded.apply(rows).arrays["features"].tolist()
        [[31.0, 0.0, 1.0], [40.0, 0.0, 0.0]]
    """
    query = categories_of(
        columns, min_count=min_count, max_categories=max_categories, known=categories, asked_by="one_hot"
    )
    fold, first = rare == "fold", int(drop_first)
    return Preparation(
        query=query,
        transform=lambda answer: OneHot(answer, fold=fold, first=first),
        report=folded_categories,
        fills=columns is not None or categories is not None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The columns that one column becomes: their categories, and which of them takes what has no column; -1: none."""

    names: tuple[str, ...]
    other: int


@dataclass(frozen=True, slots=True)
class OneHot:
    """The change of rows that an answer gives."""

    answer: Categories
    fold: bool
    first: int
    """How many of each column's categories go without a column: 0 or 1."""

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with zeros and ones in place of categories.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        blocks: list[Vector] = []
        for number, column in enumerate(self.answer.layout.columns):
            code = self.code(number)
            index = indices("one_hot", data, self.answer.layout, column, self.answer.names[number])
            index[index == len(self.answer.names[number])] = code.other
            block = np.zeros((len(index), len(code.names)))
            present = np.flatnonzero(index >= 0)
            block[present, index[present]] = 1.0
            blocks.append(block[:, self.first :])
        return coded_rows("one_hot", data, self.answer.layout, blocks)

    def schema(self, before: Schema) -> Schema:
        """Return the schema with a column for each category.

        Raises:
            DataError: When there is a column of such a name already.
        """
        new = [
            f"{column.name}={category}"
            for number, column in enumerate(self.answer.layout.columns)
            for category in self.code(number).names[self.first :]
        ]
        return coded_schema("one_hot", before, self.answer.layout, new)

    def code(self, number: int) -> Code:
        """Return what a column of the layout becomes."""
        names = self.answer.names[number]
        if not self.fold:
            return Code(names=names, other=-1)
        if OTHER in names:
            return Code(names=names, other=names.index(OTHER))
        if self.answer.folded[number] > 0.5:
            return Code(names=(*names, OTHER), other=len(names))
        return Code(names=names, other=-1)
