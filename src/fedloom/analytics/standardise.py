"""Features with mean 0 and standard deviation 1 over all training rows of all clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.analytics.column_moments import ColumnMoments, column_moments
from fedloom.analytics.columns import check_names, features_of, with_features
from fedloom.analytics.moments import Moments, moments
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.params import Vector
from fedloom.core.query import Preparation


@component("fedloom.preparations")
def standardise(columns: Sequence[str] | None = None) -> Preparation[Any, Any]:
    """Subtract the mean of each feature and divide by its standard deviation.

    Mean and deviation are those of the training rows of all clients together, as if they had been pooled. A constant
    column is centred and not scaled. Features of type float32 stay float32; the arithmetic is in float64. A client
    sends ``1 + 2 c`` numbers for ``c`` columns, twice.

    Args:
        columns: Numeric columns to change; None: all of them.

    Raises:
        ComponentError: When ``columns`` is empty or names a column twice. A column that is not there is a DataError
            before round 1, a missing value one in the first round: put ``impute`` before it.

    Example:
        >>> change = standardise().transform(Moments(count=2.0, mean=(2.0,), variance=(4.0,)))
        >>> change.apply(ClientDataset({"features": np.array([[6.0], [0.0]])})).arrays["features"].tolist()
        [[2.0], [-1.0]]
    """
    check_names("standardise", columns)
    if columns is None:
        return Preparation(query=moments(), transform=Standardise, report=constant_columns)
    return Preparation(
        query=column_moments(columns, asked_by="standardise"),
        transform=StandardiseColumns,
        report=lambda answer, _schema: constant_columns(answer.moments, Schema(answer.columns.names)),
    )


@dataclass(frozen=True, slots=True)
class Standardise:
    """The change of rows that an answer gives, where every column is changed."""

    answer: Moments

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with standardised features.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        features = features_of("standardise", data, len(self.answer.mean))
        scaled = standardised(self.answer, features)
        return with_features(data, scaled.astype(np.float32) if features.dtype == np.float32 else scaled)

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names."""
        return before


@dataclass(frozen=True, slots=True)
class StandardiseColumns:
    """The change of rows that an answer gives, where some columns are changed."""

    answer: ColumnMoments

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with the named features standardised.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        columns = self.answer.columns
        features = features_of("standardise", data, columns.width)
        return with_features(data, columns.put(features, standardised(self.answer.moments, columns.of(features))))

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names."""
        return before


def standardised(answer: Moments, values: Vector) -> Vector:
    """Return values, one column for each of the answer, centred and scaled in float64.

    Example:
        >>> standardised(Moments(count=2.0, mean=(2.0,), variance=(4.0,)), np.array([[6.0]])).tolist()
        [[2.0]]
    """
    scaled: Vector = values - np.array(answer.mean)
    scaled /= np.where(is_constant(answer), 1.0, np.sqrt(answer.variance))
    return scaled


def is_constant(answer: Moments) -> npt.NDArray[np.bool_]:
    """Return True for the columns that do not vary, but for what rounding left of a mean: ``std <= n * eps * |mean|``.

    A sum of ``n`` equal terms may be off by that much in the mean, and a constant column must not be blown up by it.

    Example:
        >>> is_constant(Moments(count=10.0, mean=(0.1, 0.1), variance=(1e-34, 1e-4))).tolist()
        [True, False]
    """
    rounding = answer.count * np.finfo(np.float64).eps * np.abs(answer.mean)
    return np.asarray(np.sqrt(answer.variance) <= rounding)


def constant_columns(answer: Moments, schema: Schema) -> tuple[str, ...]:
    """Return a sentence for each column that is constant.

    Example:
        >>> constant_columns(Moments(count=3.0, mean=(1.0, 2.0), variance=(0.0, 1.0)), Schema(("site", "age")))
        ('column `site` is constant over all training rows: it is centred, not scaled, and says nothing',)
    """
    return tuple(
        f"column `{name}` is constant over all training rows: it is centred, not scaled, and says nothing"
        for name, constant in zip(schema.columns, is_constant(answer).tolist(), strict=True)
        if constant
    )
