"""The mean of each column over the values that are present, and how many are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedloom.analytics.columns import Columns, features_of, numeric_columns
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import DataError

PART = "means"
ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """The answer, over the training rows of all clients. Counts are floats: a protected sum need not be whole."""

    columns: Columns
    rows: float
    present: tuple[float, ...]
    mean: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeansState:
    """What the server knows so far; ``answered`` counts rounds."""

    columns: Columns
    answered: int
    rows: float
    present: Vector
    mean: Vector


def means(columns: Sequence[str] | None = None, *, asked_by: str = PART) -> Query[MeansState, Means]:
    """Ask for the mean of the values that are present, then for the deviations from it.

    Each client sends its number of training rows, and by column the number of values that are present and the sum of
    their deviations from the mean known so far, which is 0 in the first round: ``1 + 2 c`` numbers for ``c`` columns,
    twice. The second sum repairs what rounding did to the first.

    Args:
        columns: Numeric columns; None: all.
        asked_by: Whose columns they are: messages name it.

    Source:
        The corrected sum of Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", applied to the
        mean (differs).

    Example:
        >>> query = means()
        >>> data = ClientDataset({"features": np.array([[1.0], [np.nan], [3.0]])}, {"train": slice(0, 3)})
        >>> query.ask(query.init(Schema(("age",)))).read(data)["means"].tolist()
        [3.0, 2.0, 4.0]
    """

    def of(schema: Schema) -> Columns:
        return numeric_columns(asked_by, schema, columns)

    def parts(schema: Schema) -> Mapping[str, ParamSpec]:
        return {PART: ParamSpec((Leaf(PART, (1 + 2 * len(of(schema).names),)),))}

    def init(schema: Schema) -> MeansState:
        chosen = of(schema)
        zeros = np.zeros(len(chosen.names))
        return MeansState(columns=chosen, answered=0, rows=0.0, present=zeros, mean=zeros)

    def ask(state: MeansState) -> LocalQuery:
        def read(data: ClientDataset) -> Mapping[str, Vector]:
            features = state.columns.of(features_of(asked_by, data.split("train"), state.columns.width))
            deviations = features - state.mean  # float64 also where features are float32, because the mean is
            absent = np.isnan(deviations)
            deviations[absent] = 0.0
            count = float(len(features))
            return {PART: np.concatenate([[count], count - absent.sum(axis=0), deviations.sum(axis=0)])}

        return LocalQuery(read)

    def step(state: MeansState, aggregate: Aggregate) -> MeansState:
        totals = np.asarray(aggregate[PART], dtype=np.float64)
        width = len(state.mean)
        rows, present, sums = float(totals[0]), totals[1 : 1 + width], totals[1 + width :]
        check_present(asked_by, state.columns, rows, present)
        _check_finite(asked_by, state.columns, sums)
        return replace(state, answered=state.answered + 1, rows=rows, present=present, mean=state.mean + sums / present)

    return Query(
        name=PART,
        answer=Means,
        parts=parts,
        init=init,
        ask=ask,
        step=step,
        done=lambda state: state.answered >= ROUNDS or not state.columns.names,
        result=_result,
    )


def _result(state: MeansState) -> Means:
    return Means(
        columns=state.columns,
        rows=state.rows,
        present=tuple(state.present.tolist()),
        mean=tuple(state.mean.tolist()),
    )


def check_present(builder: str, columns: Columns, rows: float, present: Vector) -> None:
    """Refuse columns of which nobody has a value.

    Raises:
        DataError: When there are no rows, or a column is missing in all of them. Half a value is above what rounding
            leaves of none.
    """
    if not rows > 0.5:
        raise DataError(f"{builder}: {rows:g} training rows in all clients together; expected at least one")
    empty = [name for name, count in zip(columns.names, present.tolist(), strict=True) if not count > 0.5]
    if empty:
        names = ", ".join(f"`{name}`" for name in empty)
        raise DataError(
            f"{builder}: no client has a value in {names}; expected one in some training row. Leave such columns out, "
            'or fill them with impute(strategy="constant", value=...)'
        )


def _check_finite(builder: str, columns: Columns, sums: Vector) -> None:
    broken = [name for name, total in zip(columns.names, sums.tolist(), strict=True) if not np.isfinite(total)]
    if broken:
        names = ", ".join(f"`{name}`" for name in broken)
        raise DataError(
            f"{builder}: the values of {names} sum to no finite number; some client has infinite values there"
        )
