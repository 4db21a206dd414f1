"""Features between 0 and 1 by ranges that everybody knows: nobody is asked, so nothing is learnt of any row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.analytics.columns import Columns, features_of, numeric_columns, with_features
from fedloom.analytics.public_answer import public_answer
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.query import Preparation
from fedloom.errors import ComponentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """The answer, which was public: by column the least and the greatest value that counts."""

    columns: Columns
    low: tuple[float, ...]
    high: tuple[float, ...]


@component("fedloom.preparations")
def min_max(ranges: Mapping[str, Sequence[float]]) -> Preparation[Ranges, Ranges]:
    """Scale columns to 0..1 by public ranges, ``(x - low) / (high - low)``, and clip what lies outside.

    The smallest and greatest value of all rows are those of single persons, so they are not asked for: name the range
    that is possible, such as 0 to 110 years. Values outside are clipped to it, so that no row is larger than the
    columns say: bounds on what one row can change (clipping, privacy) rest on that. A missing value stays missing. No
    client sends anything.

    Args:
        ranges: Name of a numeric column to its lowest and highest value. Other columns stay as they are.

    Raises:
        ComponentError: When no range is given, or one is not two finite numbers in ascending order. A column that is
            not there is a DataError before round 1.

    Example:
        >>> change = min_max({"age": (0, 110)})
        >>> answer = change.query.result(change.query.init(Schema(("age",))))
        >>> rows = ClientDataset({"features": np.array([[55.0], [-1.0], [200.0]])})
        >>> change.transform(answer).apply(rows).arrays["features"].tolist()
        [[0.5], [0.0], [1.0]]
    """
    if not ranges:
        raise ComponentError("min_max: ranges is empty; expected a range for one column or more: {age = [0, 110]}")
    for name, ends in ranges.items():
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ComponentError(
                f"min_max: the range of `{name}` is {list(ends)}; expected two numbers, the lower first"
            )

    def known(schema: Schema) -> Ranges:
        columns = numeric_columns("min_max", schema, list(ranges))
        return Ranges(
            columns=columns,
            low=tuple(float(ranges[name][0]) for name in columns.names),
            high=tuple(float(ranges[name][1]) for name in columns.names),
        )

    return Preparation(query=public_answer("min_max", Ranges, known), transform=MinMax)


@dataclass(frozen=True, slots=True)
class MinMax:
    """The change of rows that ranges give."""

    answer: Ranges

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with the named features between 0 and 1.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        columns, low, high = self.answer.columns, np.array(self.answer.low), np.array(self.answer.high)
        features = features_of("min_max", data, columns.width)
        values = np.clip(columns.of(features).astype(np.float64), low, high)
        return with_features(data, columns.put(features, (values - low) / (high - low)))

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names."""
        return before
