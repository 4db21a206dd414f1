"""The categories of columns over all clients, and the rows of a client as indices of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.analytics.columns import check_names, features_of, named
from fedloom.analytics.prefix_tree import (
    WINDOW,
    Limits,
    Trees,
    counted,
    grown,
    grown_up,
    planted,
    texts_of,
    width,
)
from fedloom.analytics.text_columns import text_array
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.labels import in_order, label_text
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import ComponentError, DataError

PART = "categories"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column whose values are categories: of text, or of numbers that stand for something."""

    name: str
    position: int
    """Where it stands in ``texts`` or ``features``."""
    text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns in their order, those of text first, and how many others there are."""

    columns: tuple[Column, ...]
    texts: int
    """Columns of the array ``texts``, the others included."""
    features: int
    """Columns of the array ``features``, the others included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Categories:
    """The answer: by column of the layout, its categories in class order, and how many rows have others.

    ``rows`` are the training rows of each category; 0 where the categories were public. Counts are floats because a
    protected sum need not be whole.
    """

    layout: Layout
    names: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[float, ...], ...]
    folded: tuple[float, ...]
    """Training rows of categories with fewer than ``min_count`` rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CategoriesState:
    """What the server knows so far: a tree for each column that is asked about."""

    layout: Layout
    asked: tuple[int, ...]
    """Which columns of the layout the trees are of."""
    trees: Trees


@component("fedloom.queries")
def categories(
    columns: Sequence[str] | None = None,
    *,
    min_count: int = 1,
    max_categories: int = 64,
) -> Query[CategoriesState, Categories]:
    """Ask which categories occur in the training rows of all clients, and how often.

    The names are found by prefix trees (``prefix_tree``): a round tells how many rows go on in which way after each
    known beginning. Ways that fewer than ``min_count`` rows of all clients take are not followed, so the server learns
    the beginning of such a name and not the name. A number is named as a person would write it, ``1`` for 1.0, and
    space around a name is no part of it. Missing values (empty, NaN) are no category.

    With ``min_count`` 1 a client sends 12,320 numbers a round, 99 kB, and there are about two rounds more than places
    along a name where others part from it; with more, 8,224 numbers, 66 kB, and a round for each byte of the longest
    name and one for its end. More than 32 beginnings at a time take several rounds.

    Args:
        columns: Columns of text, and columns of numbers that stand for categories; None: all columns of text.
        min_count: Rows of all clients together that a category must have.
        max_categories: Most categories of a column.

    Raises:
        ComponentError: When an argument is outside its range. A column that is not there is a DataError before round 1;
            too many categories, a name of more than 64 bytes or a column without values are one in the round that
            finds them.

    Example:
        >>> query = categories()
        >>> schema = Schema((), texts=("sex",))
        >>> data = ClientDataset({"texts": np.array([["f"], ["m"], ["f"]])}, {"train": slice(0, 3)})
        >>> sent = query.ask(query.init(schema)).read(data)["categories"][:257]
        >>> {chr(way): int(sent[way]) for way in np.flatnonzero(sent)}
        {'f': 2, 'm': 1}
    """
    return categories_of(columns, min_count=min_count, max_categories=max_categories, known=None, asked_by=PART)


def categories_of(
    columns: Sequence[str] | None,
    *,
    min_count: int,
    max_categories: int,
    known: Mapping[str, Sequence[str]] | None,
    asked_by: str,
) -> Query[CategoriesState, Categories]:
    """Return the query of ``categories``; columns that are ``known`` are not asked about, messages name who asks."""
    check_names(asked_by, columns)
    public = {name: _checked(asked_by, name, given) for name, given in ({} if known is None else known).items()}
    for name, least, value in (("min_count", 1, min_count), ("max_categories", 1, max_categories)):
        if value < least:
            raise ComponentError(f"{asked_by}: {name} = {value}; expected {least} or more")
    idle = sorted(set(public) - set(columns)) if columns is not None else []
    if idle:
        raise ComponentError(f"{asked_by}: categories has `{idle[0]}`, which is not in columns; add it there")

    def limits(state: CategoriesState) -> Limits:
        return Limits(
            least=min_count,
            most=max_categories,
            name=lambda tree: f"{asked_by}: column `{state.layout.columns[state.asked[tree]].name}`",
            advice=f"more than max_categories = {max_categories} categories, or beginnings of them. Raise "
            "max_categories or min_count; if the column is an identifier or a note, leave it out",
        )

    def init(schema: Schema) -> CategoriesState:
        layout = layout_of(asked_by, schema, columns, also=tuple(public))
        asked = tuple(number for number, column in enumerate(layout.columns) if column.name not in public)
        return CategoriesState(layout=layout, asked=asked, trees=planted(len(asked), max_categories))

    def ask(state: CategoriesState) -> LocalQuery:
        def read(data: ClientDataset) -> Mapping[str, Vector]:
            train = data.split("train")

            def texts(tree: int) -> Mapping[str, int]:
                return _counts(asked_by, train, state.layout, state.layout.columns[state.asked[tree]])

            return {PART: counted(state.trees, min_count, texts)}

        return LocalQuery(read)

    def step(state: CategoriesState, aggregate: Aggregate) -> CategoriesState:
        trees = grown(state.trees, np.asarray(aggregate[PART], dtype=np.float64), limits(state))
        for tree, number in enumerate(state.asked):
            if trees.pruned[tree] < 0.5 and not (trees.tree[: trees.used] == tree).any():
                raise DataError(
                    f"{asked_by}: no client has a value in column `{state.layout.columns[number].name}`; expected one "
                    "in some training row. Leave the column out"
                )
        return replace(state, trees=trees)

    def result(state: CategoriesState) -> Categories:
        found = [_found(state, number, public) for number in range(len(state.layout.columns))]
        pruned = dict(zip(state.asked, state.trees.pruned.tolist(), strict=True))
        return Categories(
            layout=state.layout,
            names=tuple(tuple(column) for column in found),
            rows=tuple(tuple(column.values()) for column in found),
            folded=tuple(pruned.get(number, 0.0) for number in range(len(found))),
        )

    return Query(
        name=PART,
        answer=Categories,
        parts=lambda _schema: {PART: ParamSpec((Leaf(PART, (WINDOW, width(min_count))),))},
        init=init,
        ask=ask,
        step=step,
        done=lambda state: grown_up(state.trees),
        result=result,
    )


def layout_of(builder: str, schema: Schema, columns: Sequence[str] | None, *, also: Sequence[str] = ()) -> Layout:
    """Return the columns of categories in the order of the schema; None: all of text, and those of ``also``.

    Raises:
        DataError: When a name is no column.
    """
    wanted = set(columns) if columns is not None else {*schema.texts, *also}
    unknown = [name for name in (columns or also) if name not in schema.columns and name not in schema.texts]
    if unknown:
        raise DataError(f"{builder}: there is no column `{unknown[0]}`; the columns are {named(schema)}")
    both = [
        Column(name=name, position=place, text=text)
        for text, names in ((True, schema.texts), (False, schema.columns))
        for place, name in enumerate(names)
        if name in wanted
    ]
    return Layout(columns=tuple(both), texts=len(schema.texts), features=len(schema.columns))


def indices(
    builder: str, data: ClientDataset, layout: Layout, column: Column, names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return the index of each row's category among ``names``: -1 where it is missing, ``len(names)`` for any other."""
    values, inverse = _distinct(values_of(builder, data, layout, column))
    place = {"": -1, **{name: index for index, name in enumerate(names)}}
    found = np.array([place.get(category_text(value), len(names)) for value in values], dtype=np.int64)
    return found[inverse] if found.size else np.zeros(0, dtype=np.int64)


def values_of(builder: str, data: ClientDataset, layout: Layout, column: Column) -> Vector:
    """Return the values of one column."""
    if column.text:
        return text_array(builder, data, layout.texts)[:, column.position]
    return features_of(builder, data, layout.features)[:, column.position]


def category_text(value: object) -> str:
    """Return the name of a value's category; empty where it is missing.

    Example:
        >>> category_text(2.0), category_text(" f"), category_text(float("nan"))
        ('2', 'f', '')
    """
    return "" if value != value else label_text(value)  # noqa: PLR0124


def _counts(builder: str, data: ClientDataset, layout: Layout, column: Column) -> Mapping[str, int]:
    """Return the categories of a client's column, with their numbers of rows."""
    values = values_of(builder, data, layout, column)
    raw: Mapping[Any, int]
    if column.text:
        raw = Counter(values.tolist())
    else:
        different, rows = np.unique(values, return_counts=True)
        raw = dict(zip(different.tolist(), rows.tolist(), strict=True))
    counts: Counter[str] = Counter()
    for value, number in raw.items():
        counts[category_text(value)] += number
    del counts[""]
    return counts


def _distinct(values: Vector) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Return the different values, and which of them each row has."""
    if values.dtype.kind != "U":
        different, inverse = np.unique(values, return_inverse=True)
        return different.tolist(), inverse
    # Numbering strings as they appear takes a third of the time of sorting them.
    seen: dict[str, int] = {}
    return_inverse = np.array([seen.setdefault(value, len(seen)) for value in values.tolist()], dtype=np.int64)
    return list(seen), return_inverse


def _found(state: CategoriesState, number: int, known: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Return the categories of a column in their order, with their rows."""
    name = state.layout.columns[number].name
    if number not in state.asked:
        return dict.fromkeys(known[name], 0.0)
    rows = dict(texts_of(state.trees, state.asked.index(number), f"{PART}: column `{name}`"))
    return {text: rows[text] for text in in_order(list(rows))}


def _checked(builder: str, column: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the public categories of a column, by the names that values get."""
    if isinstance(given, str) or not given:
        raise ComponentError(f"{builder}: the categories of `{column}` are {given!r}; expected a list of names")
    names = tuple(category_text(name) for name in given)
    if "" in names or len(set(names)) != len(names):
        raise ComponentError(
            f"{builder}: the categories of `{column}` are {list(given)}; expected different names that are not empty "
            "(1 and 1.0 are one)"
        )
    return names
