"""The two workloads that speed is asked for, and their rows: drawn once, in client order, so that no view copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import fedloom
from fedloom import data
from fedloom.data import Pooled

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

LEARNING_RATE = 0.1
SHIFT = 0.3
"""Spread of the clients' centres, in units of the spread of their rows."""
LOGIT_SPREAD = 3.0
"""Spread of the logits that labels are drawn from: a linear model learns most of them, not all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Shapes of one workload, and what is asked of its rounds."""

    name: str
    clients: int
    cohort: int
    rows: int
    """Of each client."""
    features: int
    classes: int
    batch: int
    spread: float
    """Standard deviation of a feature."""
    of_torch: float
    """Largest ratio to the PyTorch loop."""
    of_numpy: float
    """Largest ratio to the numpy loop."""

    @property
    def outputs(self) -> int:
        """Logits of a row: one for two classes."""
        return 1 if self.classes == 2 else self.classes


# A row of W1 has the squared norm of an MNIST digit, about 100; the features of W3 are standardised.
W1 = Workload(
    name="W1", clients=1000, cohort=100, rows=60, features=784, classes=10, batch=10, spread=0.35,
    of_torch=0.12, of_numpy=0.85,
)  # fmt: skip
W3 = Workload(
    name="W3", clients=10, cohort=10, rows=5000, features=100, classes=2, batch=64, spread=1.0,
    of_torch=0.08, of_numpy=0.85,
)  # fmt: skip
WORKLOADS = (W1, W3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of all clients under each other: client ``k`` has the ``k``-th ``workload.rows`` of them."""

    workload: Workload
    features: Floats
    labels: Ints

    def client(self, index: int) -> tuple[Floats, Ints]:
        """Return one client's features and labels, as views."""
        start, stop = index * self.workload.rows, (index + 1) * self.workload.rows
        return self.features[start:stop], self.labels[start:stop]


def draw_rows(workload: Workload, *, seed: int = 0) -> Rows:
    """Return rows whose labels come from one linear model, and whose features lie about a centre of each client."""
    rng = np.random.default_rng(seed)
    outputs, width = workload.outputs, workload.features
    coef = rng.standard_normal((width, outputs), dtype=np.float32)
    coef *= np.float32(LOGIT_SPREAD / (workload.spread * np.sqrt(width)))
    features = np.empty((workload.clients * workload.rows, width), np.float32)
    labels = np.empty(len(features), np.int64)
    rows = Rows(workload=workload, features=features, labels=labels)
    for index in range(workload.clients):
        mine, label = rows.client(index)
        rng.standard_normal(dtype=np.float32, out=mine)
        mine += np.float32(SHIFT) * rng.standard_normal(width, dtype=np.float32)
        mine *= np.float32(workload.spread)
        logits = mine @ coef
        if outputs == 1:
            label[:] = rng.logistic(size=len(mine)) < logits[:, 0]
        else:
            label[:] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return rows


def experiment(rows: Rows, *, rounds: int) -> fedloom.Experiment:
    """Return the workload as an experiment of ``rounds`` rounds that is evaluated in the last one only."""
    workload = rows.workload
    names = np.array([f"client-{index:04d}" for index in range(workload.clients)])
    table: Pooled = data.arrays(rows.features, rows.labels, clients=np.repeat(names, workload.rows), test=0.0)
    return fedloom.Experiment(
        data=table,
        learner=fedloom.logistic(l2=0.0, dtype="float32"),
        algorithm=fedloom.fedavg(
            fedloom.Schedule(epochs=1, batch_size=workload.batch, learning_rate=LEARNING_RATE),
        ),
        cohort=fedloom.everyone() if workload.cohort == workload.clients else fedloom.uniform(workload.cohort),
        stop=fedloom.max_rounds(rounds),
        seed=1,
        evaluate_every=rounds + 1,
        compare=False,
    )


def cohort_of(included: Sequence[str]) -> list[int]:
    """Return the indices of clients that ``experiment`` has named."""
    return [int(name.removeprefix("client-")) for name in included]


def mean_loss(weight: npt.NDArray[np.floating], bias: npt.NDArray[np.floating], rows: Rows) -> float:
    """Return the mean loss of a linear model over all rows, in float64: ``weight`` is ``(outputs, features)``."""
    total = 0.0
    for start in range(0, len(rows.labels), 4096):
        z = rows.features[start : start + 4096].astype(np.float64) @ weight.T.astype(np.float64) + bias
        y = rows.labels[start : start + 4096]
        if z.shape[1] == 1:
            total += float((np.logaddexp(0.0, z[:, 0]) - y * z[:, 0]).sum())
        else:
            total += float((np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]).sum())
    return total / len(rows.labels)
