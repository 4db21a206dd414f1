"""What clients hold, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.data import LABEL, ClientDataset, FederatedDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.core.labels import in_order, label_text
from fedloom.data.tables import LONGEST, plain_table


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
    names = (population.id(index) for index in range(len(population)))
    return tuple(holding(name, dataset.client(name), schema) for name in names)


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


def holding(client: ClientId, data: ClientDataset, schema: Schema) -> Holding:
    """Return what one client holds."""
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
