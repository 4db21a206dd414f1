"""Features with mean 0 and standard deviation 1 over all training rows of all clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.analytics.moments import Moments, MomentsState, moments
from fedloom.core.component import component
from fedloom.core.data import FEATURES, ClientDataset, Schema
from fedloom.core.query import Preparation
from fedloom.errors import DataError


@component("fedloom.preparations")
def standardise() -> Preparation[MomentsState, Moments]:
    """Subtract the mean of each feature and divide by its standard deviation.

    Mean and deviation are those of the training rows of all clients together, as if they had been pooled. A constant
    column is centred and not scaled. Features of type float32 stay float32; the arithmetic is in float64.

    Example:
        >>> change = standardise().transform(Moments(count=2.0, mean=(2.0,), variance=(4.0,)))
        >>> change.apply(ClientDataset({"features": np.array([[6.0], [0.0]])})).arrays["features"].tolist()
        [[2.0], [-1.0]]
    """
    return Preparation(query=moments(), transform=Standardise, report=constant_columns)


@dataclass(frozen=True, slots=True)
class Standardise:
    """The change of rows that an answer gives."""

    answer: Moments

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with standardised features.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        features = data.arrays[FEATURES]
        mean = np.array(self.answer.mean)
        if features.ndim != 2 or features.shape[1] != len(mean):
            raise DataError(f"standardise: features have shape {features.shape}; expected (rows, {len(mean)})")
        scaled = features - mean
        scaled /= np.where(is_constant(self.answer), 1.0, np.sqrt(self.answer.variance))
        if features.dtype == np.float32:
            scaled = scaled.astype(np.float32)
        return ClientDataset({**data.arrays, FEATURES: scaled}, data.rows)

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names."""
        return before


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
