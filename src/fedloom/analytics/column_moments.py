"""The moments of some columns: the question of ``moments``, put to a part of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedloom.analytics.columns import Columns, features_of, numeric_columns, with_features
from fedloom.analytics.moments import Moments, MomentsState, moments
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.params import ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMoments:
    """The answer: which columns, and their moments in the same order."""

    columns: Columns
    moments: Moments


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnState:
    """What the server knows so far."""

    columns: Columns
    moments: MomentsState


def column_moments(columns: Sequence[str], *, asked_by: str) -> Query[ColumnState, ColumnMoments]:
    """Ask for count, mean and variance of the named columns.

    Args:
        columns: Names of numeric columns.
        asked_by: Whose columns they are: messages name it.

    Example:
        >>> column_moments(["bp"], asked_by="standardise").init(Schema(("age", "bp"))).columns.positions
        (1,)
    """
    inner = moments()

    def of(schema: Schema) -> Columns:
        return numeric_columns(asked_by, schema, columns)

    def parts(schema: Schema) -> Mapping[str, ParamSpec]:
        return inner.parts(Schema(of(schema).names))

    def init(schema: Schema) -> ColumnState:
        return ColumnState(columns=of(schema), moments=inner.init(Schema(of(schema).names)))

    def ask(state: ColumnState) -> LocalQuery:
        question = inner.ask(state.moments)

        def read(data: ClientDataset) -> Mapping[str, Vector]:
            train = data.split("train")
            return question.read(
                with_features(train, state.columns.of(features_of(asked_by, train, state.columns.width)))
            )

        return LocalQuery(read)

    def step(state: ColumnState, aggregate: Aggregate) -> ColumnState:
        return replace(state, moments=inner.step(state.moments, aggregate))

    return Query(
        name=inner.name,
        answer=ColumnMoments,
        parts=parts,
        init=init,
        ask=ask,
        step=step,
        done=lambda state: inner.done(state.moments),
        result=lambda state: ColumnMoments(columns=state.columns, moments=inner.result(state.moments)),
    )


def _refuse_missing(builder: str, columns: Columns, values: Vector) -> None:
    """Stop a client that has missing values, where its rows are: their sum would spoil everybody's."""
    missing = np.isnan(values).sum(axis=0).tolist()
    found = [f"`{name}` ({count})" for name, count in zip(columns.names, missing, strict=True) if count]
    if found:
        raise DataError(
            f"{builder}: training rows have missing values in {', '.join(found)}. Put impute before it, or leave those "
            "rows out"
        )
