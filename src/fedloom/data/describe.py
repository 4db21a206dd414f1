"""What clients hold, as a table; and what is wrong with a client's rows, before a round is spent on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.data import FEATURES, LABEL, ClientDataset, FederatedDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.core.labels import in_order, label_text
from fedloom.core.params import Vector
from fedloom.data.tables import LONGEST, plain_table
from fedloom.errors import DataError

SHOWN = 5
"""Columns or rows that a message names before it stops: enough to find the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Rows of one client by split, and its rows of each class over all splits; no classes for regression."""

    client: ClientId
    train: int
    validation: int
    test: int
    classes: Mapping[str, int]


def holdings(dataset: FederatedDataset) -> tuple[Holding, ...]:
    """Return what each client holds, in name order; this reads every client once.

    Example:
        >>> from fedloom.data.memory import arrays
        >>> data = arrays(np.ones((3, 1)), ["ill", "well", "ill"], clients=["a", "a", "b"], test=0.0)
        >>> [(each.client, each.train, dict(each.classes)) for each in holdings(data)]
        [('a', 2, {'ill': 1, 'well': 1}), ('b', 1, {'ill': 1})]
    """
    population = dataset.population()
    schema = dataset.schema()
    return tuple(_holding(dataset, population.id(index), schema) for index in range(len(population)))


def holdings_table(rows: Sequence[Holding], *, limit: int = LONGEST) -> str:
    """Return holdings as plain text, a column for each class that any client has, and a line of totals.

    Example:
        >>> kind = Holding(client=ClientId("a"), train=2, validation=0, test=1, classes={"ill": 3})
        >>> print(holdings_table([kind]))
        client  train  validation  test  ill
        a           2           0     1    3
        all         2           0     1    3
    """
    classes = in_order([name for row in rows for name in row.classes])
    lines = [
        (row.client, row.train, row.validation, row.test, *(row.classes.get(name, 0) for name in classes))
        for row in rows
    ]
    totals = ("all", *(sum(column) for column in zip(*(line[1:] for line in lines), strict=True)))
    shown = plain_table(
        ("client", "train", "validation", "test", *classes), [*lines[:limit], totals] if lines else [], limit=limit + 1
    )
    return shown + (f"\n{len(lines) - limit} more clients are in the totals" if len(lines) > limit else "")


def check_rows(
    client: ClientId, data: ClientDataset, schema: Schema, *, columns: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return warnings about a client's rows, one sentence each; no message holds a value.

    Args:
        client: Whose rows they are.
        data: The rows.
        schema: What was agreed.
        columns: Names of the client's own columns, where they are known.

    Raises:
        DataError: When the number of columns differs from the schema's, or a feature or label is NaN or infinite. Rows
            are counted from 0 over train, validation and test.

    Example:
        >>> data = ClientDataset({"features": np.ones((3, 1)), "label": np.array([0, 1, 1])}, {"train": slice(0, 3)})
        >>> check_rows(ClientId("north"), data, Schema(("age",), "outcome", ("0", "1")))
        ('north: column `age` is constant over its 3 training rows',)
    """
    features = data.arrays[FEATURES]
    _check_width(client, features, schema, columns)
    problems = [
        _unusable(f"column `{name}`", features[:, place])
        for place, name in enumerate(schema.columns)
        if not np.isfinite(features[:, place]).all()
    ]
    label = data.arrays.get(LABEL)
    if label is not None and label.dtype.kind == "f" and not np.isfinite(label).all():
        problems.append(_unusable(f"label `{schema.label or LABEL}`", label))
    if problems:
        more = f"; and {len(problems) - SHOWN} more columns" if len(problems) > SHOWN else ""
        raise DataError(
            f"{client}: {'; '.join(problems[:SHOWN])}{more}. Expected finite numbers: leave rows or columns out"
        )
    return _warnings(client, data.split("train"), schema)


def _warnings(client: ClientId, train: ClientDataset, schema: Schema) -> tuple[str, ...]:
    features = train.arrays[FEATURES]
    label = train.arrays.get(LABEL)
    count = len(features)
    if count == 0:
        return (f"{client}: has no training rows",)
    constant = np.flatnonzero((features == features[0]).all(axis=0)).tolist() if count > 1 else []
    warnings = [
        f"{client}: column `{schema.columns[place]}` is constant over its {count} training rows" for place in constant
    ]
    classes = schema.classes is not None or (label is not None and label.dtype.kind not in "f")
    if label is not None and classes and bool((label == label[0]).all()):
        warnings.append(f"{client}: all of its {count} training rows are of one class")
    return tuple(warnings)


def _check_width(client: ClientId, features: Vector, schema: Schema, columns: Sequence[str] | None) -> None:
    expected = len(schema.columns)
    if features.ndim != 2:
        raise DataError(f"{client}: features have shape {features.shape}; expected (rows, {expected})")
    missing = [name for name in schema.columns if columns is not None and name not in columns]
    surplus = [name for name in columns or () if name not in schema.columns]
    if features.shape[1] == expected and not missing and not surplus:
        return
    parts = [
        f"{word} {', '.join(f'`{name}`' for name in names[:SHOWN])}" + (" and others" if len(names) > SHOWN else "")
        for word, names in [("missing", missing), ("not expected", surplus)]
        if names
    ]
    detail = "; " + ", ".join(parts) if parts else ""
    raise DataError(
        f"{client}: expects {expected} features, has {features.shape[1]}{detail}. "
        "Give every client the same columns in the same order"
    )


def _unusable(what: str, values: Vector) -> str:
    rows = np.flatnonzero(~np.isfinite(values))
    first = ", ".join(map(str, rows[:SHOWN].tolist()))
    return f"{what} is NaN or infinite in {len(rows)} of {len(values)} rows (first: {first})"


def _holding(dataset: FederatedDataset, client: ClientId, schema: Schema) -> Holding:
    data = dataset.client(client)
    label = data.arrays.get(LABEL)
    counts: Mapping[str, int] = {}
    if label is not None and schema.classes is not None:
        held = np.bincount(label, minlength=len(schema.classes)).tolist()
        counts = {name: count for name, count in zip(schema.classes, held, strict=True) if count}
    elif label is not None and label.dtype.kind != "f":
        by_name = Counter(label_text(value) for value in label.tolist())
        counts = {name: by_name[name] for name in in_order(list(by_name))}
    return Holding(
        client=client,
        train=data.count("train"),
        validation=data.count("validation"),
        test=data.count("test"),
        classes=counts,
    )
