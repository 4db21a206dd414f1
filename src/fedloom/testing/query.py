"""check_query and check_preparation: the answer does not depend on how rows lie over clients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from fedloom.core.component import Json
from fedloom.core.data import FEATURES, LABEL, TEXTS, ClientDataset, FederatedDataset, Schema, Transform
from fedloom.core.keys import Key, permutation
from fedloom.core.params import Vector
from fedloom.core.query import AnyPreparation, AnyQuery
from fedloom.experiment.plan import query_plan
from fedloom.testing.fakes import ListDataset
from fedloom.testing.simulation import Arrival, simulate

_SPLITS = (1, 2, 3, 7)


def check_query(
    query: AnyQuery, rows: ClientDataset, schema: Schema, *, expected: Any = None, close: float = 1e-9
) -> None:
    """Check that a query answers for split rows what it answers for pooled ones.

    Splits are drawn, some clients have no rows, and messages come in any order.

    Args:
        query: The query.
        rows: Training rows of all clients together.
        schema: What their columns mean.
        expected: The pooled answer, computed another way; None: it is not compared with anything else.
        close: Relative tolerance of numbers.

    Raises:
        AssertionError: With the law that is broken.
    """
    whole = answer(query, ListDataset({"all": rows}, schema))
    if expected is not None:
        assert_close(whole, expected, close)
    for data in splits_of(rows, schema):
        assert_close(answer(query, data), whole, close)
        forward, backward = (msgspec.to_builtins(answer(query, data, order=o)) for o in ("cohort", "reversed"))
        assert forward == backward, f"{query.name}: the order of arrival changed the answer"
    assert_close(_through_json(query, whole), whole, 0.0)


def check_preparation(preparation: AnyPreparation, rows: ClientDataset, schema: Schema, *, close: float = 1e-9) -> None:
    """Check a preparation: its query, and that its transform does to split rows what it does to pooled ones.

    Raises:
        AssertionError: With the law that is broken.
    """
    query = preparation.query
    check_query(query, rows, schema, close=close)
    result = answer(query, ListDataset({"all": rows}, schema))
    transform = preparation.transform(result)
    received = preparation.transform(_through_json(query, result))
    before = {name: array.copy() for name, array in rows.arrays.items()}
    prepared = transform.apply(rows)
    again = received.apply(rows)
    assert dict(prepared.rows) == dict(rows.rows), f"{query.name}: the transform changed which rows are for what"
    for name, array in prepared.arrays.items():
        assert _same(array, again.arrays[name]), f"{query.name}: a rebuilt transform gives another {name}"
    assert all(_same(rows.arrays[name], array) for name, array in before.items()), "apply wrote into its rows"
    assert transform.schema(schema) == received.schema(schema), f"{query.name}: a rebuilt transform, another schema"
    count = rows.count("train")
    for part in (slice(0, 0), slice(0, 1), slice(1, count)):
        piece = ClientDataset({name: array[part] for name, array in rows.arrays.items()}, {})
        changed = transform.apply(piece).arrays
        assert changed.keys() == prepared.arrays.keys(), f"{query.name}: the arrays depend on the rows"
        for name, array in changed.items():
            wanted = prepared.arrays[name][part]
            assert _same(array, wanted), f"{query.name}: {name} of a row depends on its neighbours"
        bare = ClientDataset({name: array for name, array in piece.arrays.items() if name != LABEL}, {})
        for name, array in transform.apply(bare).arrays.items():
            assert _same(array, changed[name]), f"{query.name}: {name} depends on whether there are labels"
    _check_layout(query, transform, schema, prepared)
    assert isinstance(preparation.report(result, schema), tuple)


def _check_layout(query: AnyQuery, transform: Transform, schema: Schema, prepared: ClientDataset) -> None:
    """Check that the rows after a transform have the columns that its schema names."""
    after = transform.schema(schema)
    for name, columns in ((FEATURES, after.columns), (TEXTS, after.texts)):
        found = prepared.arrays[name].shape[1] if name in prepared.arrays else 0
        assert found == len(columns), f"{query.name}: {name} has {found} columns, its schema {len(columns)}"


def answer(query: AnyQuery, data: FederatedDataset, *, order: Arrival = "cohort") -> Any:
    """Return what a query answers over a data set, by the rounds that an engine would run; none where it is public."""
    start = query.init(data.schema())
    if query.done(start):
        return query.result(start)
    plan = query_plan(
        query, data.schema(), digest="testing", phase=0, key=Key.from_seed(1), population=data.population()
    )
    run = simulate(plan, data, order=order)
    assert run.state.stopped == "answered", f"{query.name}: {run.stopped}; {run.records[-1:]}"
    return query.result(run.state.server)


def splits_of(rows: ClientDataset, schema: Schema) -> Sequence[ListDataset]:
    """Return the rows dealt to 1, 2, 3 and 7 clients, in drawn order, and one client without rows beside them."""
    count = rows.count("train")
    datasets: list[ListDataset] = []
    for clients in _SPLITS:
        key = Key.from_seed(5).child(clients)
        order = permutation(key, count)
        cuts = [0, *sorted((1 + permutation(key.child("cuts"), count - 1)[: clients - 1]).tolist()), count]
        dealt = {
            f"client-{number}": _take(rows, order[start:stop])
            for number, (start, stop) in enumerate(itertools.pairwise(cuts))
        }
        dealt["empty"] = _take(rows, order[:0])
        datasets.append(ListDataset(dealt, schema))
    return datasets


def assert_close(found: Any, expected: Any, close: float) -> None:
    """Assert that two answers are the same but for rounding of their numbers."""
    left, right = msgspec.to_builtins(found), msgspec.to_builtins(expected)
    assert _close(left, right, close), f"answered {left}; expected {right}"


def _close(left: Json, right: Json, close: float) -> bool:
    if isinstance(left, float | int) and isinstance(right, float | int) and not isinstance(left, bool):
        return math.isclose(left, right, rel_tol=close, abs_tol=close)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(_close(a, b, close) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_close(left[key], right[key], close) for key in left)
    return bool(left == right)


def _same(left: Vector, right: Vector) -> bool:
    """Return whether two arrays are equal; missing numbers are."""
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def _through_json(query: AnyQuery, result: Any) -> Any:
    """Return a result as a site receives it: JSON, read into the query's type of answer."""
    return msgspec.convert(msgspec.json.decode(msgspec.json.encode(result)), type=query.answer)


def _take(rows: ClientDataset, order: Any) -> ClientDataset:
    arrays = {name: array[: rows.count("train")][order] for name, array in rows.arrays.items()}
    return ClientDataset(arrays, {"train": slice(0, len(order))})
