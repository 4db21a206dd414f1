"""Small experiments to run in process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

import fedloom
from fedloom.core.algorithm import Algorithm
from fedloom.core.keys import Key
from fedloom.core.schedule import Schedule
from fedloom.data import silos
from fedloom.data.pooled import Pooled

SIZES = (5, 33, 64, 12, 90, 7, 28, 65, 41, 9)
"""Rows of each client: shorter and longer than a batch, and than a full batch's padding."""

ALGORITHMS: dict[str, Callable[[Schedule], Algorithm[Any, Any, Any]]] = {
    "fedavg": fedloom.fedavg,
    "fedadam": fedloom.fedadam,
    "scaffold": fedloom.scaffold,
}


def ragged(*, sizes: Sequence[int] = SIZES, columns: int = 4, seed: int = 3, test: float = 0.25) -> Pooled:
    """Return two-class clients of unequal sizes."""
    tables = {}
    for place, size in enumerate(sizes):
        draw = Key.from_seed(seed).child("ragged", place).generator()
        features = draw.standard_normal((size, columns)) + place / 5
        label = (features[:, 0] + draw.standard_normal(size) > place / 5).astype(int)
        label[:2] = (0, 1)
        tables[f"c{place}"] = (features, label)
    return silos(tables, test=test, seed=seed)


def experiment(
    algorithm: Literal["fedavg", "fedadam", "scaffold"] = "fedavg",
    *,
    dtype: Literal["float32", "float64"] = "float64",
    rounds: int = 10,
    data: Pooled | None = None,
    **fields: Any,
) -> fedloom.Experiment:
    """Return an experiment of a few milliseconds."""
    local = Schedule(epochs=1, batch_size=16, learning_rate=0.2)
    asked = fedloom.Experiment(
        data=ragged() if data is None else data,
        learner=fedloom.logistic(l2=1e-3, dtype=dtype),
        algorithm=ALGORITHMS[algorithm](local),
        stop=fedloom.max_rounds(rounds),
        seed=7,
        compare=False,
    )
    return replace(asked, **fields)


@pytest.fixture(name="ragged")
def _ragged() -> Callable[..., Pooled]:
    return ragged


@pytest.fixture(name="experiment")
def _experiment() -> Callable[..., fedloom.Experiment]:
    return experiment


class Interrupting:
    """A data set that interrupts as Ctrl-C does, at the n-th time that some client is asked for its rows."""

    def __init__(self, data: Pooled, *, after: int) -> None:
        self.data = data
        self.left = after
        assert data.spec is not None
        self.spec = replace(data.spec, made=None)  # it says the same of another value
        self.fingerprint = data.fingerprint
        self.population = data.population
        self.schema = data.schema

    def client(self, client: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.data.client(client)


@pytest.fixture
def interrupting() -> type[Interrupting]:
    return Interrupting


@pytest.fixture
def cut() -> Callable[[fedloom.Experiment, int], fedloom.Experiment]:
    """Let an experiment be interrupted, as by Ctrl-C, when the n-th client program begins."""

    def change(asked: fedloom.Experiment, after: int) -> fedloom.Experiment:
        algorithm: Any = asked.algorithm
        count = itertools.count(1)

        def client(broadcast: Any, state: Any, ctx: Any) -> Any:
            if next(count) == after:
                raise KeyboardInterrupt
            return (yield from algorithm.client(broadcast, state, ctx))

        return replace(asked, algorithm=replace(algorithm, client=client, spec=replace(algorithm.spec, made=None)))

    return change


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """Compare two results in all that counts: the model's bytes, and every figure of every round."""

    def compare(one: fedloom.RunResult, other: fedloom.RunResult) -> None:
        assert one.model_sha256 == other.model_sha256
        assert [replace(record, seconds=0.0) for record in one.records] == [
            replace(record, seconds=0.0) for record in other.records
        ]
        np.testing.assert_array_equal(one.params, other.params)

    return compare
