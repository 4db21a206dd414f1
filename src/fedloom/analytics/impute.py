"""Values in place of missing ones: the mean or median of what all clients have, or a constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedloom.analytics.columns import Columns, check_names, features_of, named, numeric_columns, with_features
from fedloom.analytics.means import Means, means
from fedloom.analytics.public_answer import public_answer
from fedloom.analytics.quantiles import ZOOMS, Quantiles, quantiles_of
from fedloom.analytics.text_columns import Texts, text_array, text_columns, with_texts
from fedloom.core.component import component
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.query import Preparation
from fedloom.errors import ComponentError, DataError

Strategy = Literal["mean", "median", "constant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """The answer of strategy "constant", which was public: what fills numbers, and what fills texts."""

    columns: Columns
    value: float
    texts: Texts
    text: str


@component("fedloom.preparations")
def impute(
    strategy: Strategy,
    columns: Sequence[str] | None = None,
    *,
    value: float | None = None,
    text: str | None = None,
    zooms: int = ZOOMS,
) -> Preparation[Any, Any]:
    """Fill missing numbers (NaN) and missing texts (empty).

    "mean" takes the mean of the values that are present in the training rows of all clients, by sums and counts, as
    numpy.nanmean of the pooled rows. "median" takes their median, by ``quantiles``: with 11 zooms it is that of the
    pooled rows, with fewer the middle of a bin that holds it, so that the server learns no client's exact value. Rows
    of prediction are filled with the same numbers. Put it before ``standardise``.

    A client sends ``1 + 2 c`` numbers for ``c`` columns twice for the mean, ``1 + 128 c`` in each of ``zooms`` rounds
    for the median, nothing for a constant.

    Args:
        strategy: "mean" and "median" are of numbers; "constant" fills numbers with ``value`` and texts with ``text``.
        columns: Columns to fill; None: every column that the strategy has something for.
        value: With "constant", the number for missing numbers.
        text: With "constant", the text for missing texts, a category from then on: "missing".
        zooms: With "median", rounds, 3 to 11.

    Raises:
        ComponentError: When the arguments do not fit the strategy. A column that is not there or of the wrong kind is
            a DataError before round 1, one that is missing at every client a DataError in the first round.

    Example:
        >>> change = impute("constant", value=0.0).transform(
        ...     Constants(
        ...         columns=numeric_columns("", Schema(("a",)), None),
        ...         value=0.0,
        ...         texts=Texts(names=(), positions=(), width=0),
        ...         text="",
        ...     )
        ... )
        >>> change.apply(ClientDataset({"features": np.array([[1.0], [np.nan]])})).arrays["features"].tolist()
        [[1.0], [0.0]]
    """
    check_names("impute", columns)
    _check_arguments(strategy, value, text, zooms)
    match strategy:
        case "mean":
            return Preparation(
                query=means(columns, asked_by="impute"),
                transform=lambda answer: Impute(answer.columns, answer.mean),
                report=_missing,
                fills=True,
            )
        case "median":
            return Preparation(
                query=quantiles_of((0.5,), columns, zooms=zooms, asked_by="impute"),
                transform=lambda answer: Impute(answer.columns, answer.values[0]),
                report=_missing,
                fills=True,
            )
        case "constant":
            query = public_answer("impute", Constants, lambda schema: _constants(schema, columns, value, text))
            return Preparation(query=query, transform=ImputeConstants, fills=True)


@dataclass(frozen=True, slots=True)
class Impute:
    """The change of rows that fills each of some numeric columns with a number of its own."""

    columns: Columns
    values: tuple[float, ...]

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows without missing numbers in these columns.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        features = features_of("impute", data, self.columns.width)
        present = self.columns.of(features)
        return with_features(data, self.columns.put(features, np.where(np.isnan(present), self.values, present)))

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names."""
        return before


@dataclass(frozen=True, slots=True)
class ImputeConstants:
    """The change of rows that fills numbers with one number, texts with one text."""

    answer: Constants

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows without missing values in these columns.

        Raises:
            DataError: When the number of columns is not that of the answer.
        """
        columns, texts = self.answer.columns, self.answer.texts
        if columns.names:
            data = Impute(columns, (self.answer.value,) * len(columns.names)).apply(data)
        if texts.names:
            array = text_array("impute", data, texts.width)
            filled = array.astype(np.result_type(array.dtype, np.array(self.answer.text).dtype))
            held = filled[:, list(texts.positions)]
            filled[:, list(texts.positions)] = np.where(
                np.char.str_len(np.char.strip(held)) == 0, self.answer.text, held
            )
            data = with_texts(data, filled)
        return data

    def schema(self, before: Schema) -> Schema:
        """Return the schema as it was: columns keep their names."""
        return before


def _check_arguments(strategy: Strategy, value: float | None, text: str | None, zooms: int) -> None:
    if strategy != "constant" and (value is not None or text is not None):
        given = "value" if value is not None else "text"
        raise ComponentError(
            f'impute: {given} is given with strategy = "{strategy}"; it belongs to strategy = "constant"'
        )
    if strategy == "constant" and value is None and text is None:
        raise ComponentError(
            'impute: strategy = "constant" without value and text; expected value, a number for missing numbers, or '
            "text, for missing texts"
        )
    if text is not None and not text.strip():
        raise ComponentError(f"impute: text = {text!r}; expected the name of a category, an empty one is missing again")
    if strategy != "median" and zooms != ZOOMS:
        raise ComponentError(f'impute: zooms = {zooms} is given with strategy = "{strategy}"; it belongs to "median"')


def _constants(schema: Schema, columns: Sequence[str] | None, value: float | None, text: str | None) -> Constants:
    """Return the answer for a schema, after a check that each column has something to be filled with."""
    for name in columns or ():
        if name not in schema.columns and name not in schema.texts:
            raise DataError(f"impute: there is no column `{name}`; the columns are {named(schema)}")
        if name in schema.columns and value is None:
            raise DataError(
                f"impute: column `{name}` holds numbers and value is not given; give value, or leave it out"
            )
        if name in schema.texts and text is None:
            raise DataError(f"impute: column `{name}` holds text and text is not given; give text, or leave it out")
    wanted = set(schema.columns) | set(schema.texts) if columns is None else set(columns)
    numbers = [name for name in schema.columns if name in wanted and value is not None]
    words = [name for name in schema.texts if name in wanted and text is not None]
    return Constants(
        columns=numeric_columns("impute", schema, numbers),
        value=0.0 if value is None else float(value),
        texts=text_columns("impute", schema, words),
        text="" if text is None else text,
    )


def _missing(answer: Means | Quantiles, _schema: Schema) -> tuple[str, ...]:
    """Return how much of each column was filled, and a warning where that is most of it."""
    rows = answer.rows
    found = [
        (name, round(rows - present))
        for name, present in zip(answer.columns.names, answer.present, strict=True)
        if rows - present > 0.5
    ]
    if not found:
        return ()
    counts = ", ".join(f"`{name}` {missing}" for name, missing in found)
    mostly = tuple(
        f"column `{name}` is missing in {missing / rows:.0%} of all training rows: what stands there now is mostly not "
        "measured; consider to leave it out"
        for name, missing in found
        if missing > rows / 2
    )
    return (f"missing values that were filled, of {rows:.0f} training rows of all clients: {counts}", *mostly)
