"""The workloads that speed is asked for, and their rows: drawn once, in client order, so that no view copies.

This module imports numpy alone, so that a rival can read its rows in an environment without fedloom.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Params: TypeAlias = dict[str, Floats]
"""Leaves by name: ``coef`` and ``intercept`` of a linear model, the ``state_dict`` of a network."""

LEARNING_RATE = 0.1
SHIFT = 0.3
"""Spread of the clients' centres, in units of the spread of their rows."""
LOGIT_SPREAD = 3.0
"""Spread of the logits that labels are drawn from: a linear model learns most of them, not all."""
IMAGE = (1, 28, 28)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is asked of fedloom's rounds; None: nothing."""

    of_torch: float | None = None
    """Largest ratio to the PyTorch loop with one worker."""
    of_torch_two: float | None = None
    """The same with two workers."""
    of_numpy: float | None = None
    """Largest ratio to the numpy loop."""
    own_us_client: float | None = None
    """Largest cost around local training, in microseconds a client."""
    own_share: float | None = None
    """Largest share of a round that is not local training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Shapes of one workload, and what is asked of its rounds."""

    name: str
    model: Literal["linear", "mlp", "cnn"] = "linear"
    clients: int
    cohort: int
    rows: int
    """Of each client; their mean where sizes differ."""
    features: int
    classes: int
    batch: int
    spread: float
    """Standard deviation of a feature."""
    lognormal: bool = False
    """Whether the clients' sizes are log-normal (sigma 1) in place of equal."""
    limits: Limits

    @property
    def outputs(self) -> int:
        """Logits of a row: one for two classes."""
        return 1 if self.classes == 2 else self.classes


# A row of W1 and W4 has the squared norm of an MNIST digit, about 100; the features of W3 are standardised.
W1 = Workload(
    name="W1", clients=1000, cohort=100, rows=60, features=784, classes=10, batch=10, spread=0.35,
    limits=Limits(of_torch=0.10, of_numpy=0.85, own_us_client=60.0),
)  # fmt: skip
W2 = Workload(
    name="W2", model="cnn", clients=200, cohort=20, rows=50, features=784, classes=62, batch=10, spread=0.35,
    limits=Limits(of_torch=0.95, of_torch_two=0.58, own_share=0.10),
)  # fmt: skip
W3 = Workload(
    name="W3", clients=10, cohort=10, rows=5000, features=100, classes=2, batch=64, spread=1.0,
    limits=Limits(of_torch=0.06, of_numpy=0.85),
)  # fmt: skip
W4 = Workload(
    name="W4", model="mlp", clients=1000, cohort=100, rows=60, features=784, classes=10, batch=10, spread=0.35,
    limits=Limits(of_torch=0.28, own_share=0.10),
)  # fmt: skip
UNEQUAL = 1.5
"""How much larger a ratio may be where sizes are log-normal."""


def unequal(workload: Workload) -> Workload:
    """Return the workload with log-normal sizes of the same mean, and what is then asked of it.

    The limits of the framework's own cost and of the numpy loop are for equal sizes only.
    """
    limits = workload.limits
    ratios = (limits.of_torch, limits.of_torch_two)
    of_torch, of_torch_two = (None if ratio is None else UNEQUAL * ratio for ratio in ratios)
    return replace(
        workload,
        name=f"{workload.name}-lognormal",
        lognormal=True,
        limits=Limits(of_torch=of_torch, of_torch_two=of_torch_two),
    )


EQUAL = (W1, W2, W3, W4)
WORKLOADS = (*EQUAL, *map(unequal, EQUAL))


def workload_named(name: str) -> Workload:
    """Return a workload by name."""
    return next(workload for workload in WORKLOADS if workload.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of all clients under each other: client ``k`` has those from ``starts[k]`` to ``starts[k + 1]``."""

    workload: Workload
    starts: Ints
    features: Floats
    labels: Ints

    @property
    def sizes(self) -> Ints:
        """Rows of each client."""
        return np.diff(self.starts)

    def client(self, index: int) -> tuple[Floats, Ints]:
        """Return one client's features and labels, as views."""
        start, stop = self.starts[index], self.starts[index + 1]
        return self.features[start:stop], self.labels[start:stop]

    def touch(self) -> None:
        """Read every number once, so that whoever is clocked next finds nobody's cohort in a cache."""
        np.add.reduce(self.features, axis=None)


def draw_rows(workload: Workload, *, seed: int = 0) -> Rows:
    """Return rows whose labels come from one linear model, and whose features lie about a centre of each client."""
    rng = np.random.default_rng(seed)
    outputs, width = workload.outputs, workload.features
    coef = rng.standard_normal((width, outputs), dtype=np.float32)
    coef *= np.float32(LOGIT_SPREAD / (workload.spread * np.sqrt(width)))
    # Sizes from a generator of their own: rows of equal sizes do not depend on it.
    sizes = draw_sizes(workload, np.random.default_rng([seed, 1]))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    features = np.empty((starts[-1], width), np.float32)
    labels = np.empty(len(features), np.int64)
    rows = Rows(workload=workload, starts=starts, features=features, labels=labels)
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


def draw_sizes(workload: Workload, rng: np.random.Generator) -> Ints:
    """Return the rows of each client: equal, or log-normal with sigma 1, at least one, and the same sum to a row."""
    if not workload.lognormal:
        return np.full(workload.clients, workload.rows, np.int64)
    drawn = rng.lognormal(sigma=1.0, size=workload.clients)
    edges = np.rint(np.cumsum(drawn) * (workload.rows * workload.clients / drawn.sum())).astype(np.int64)
    return np.maximum(np.diff(edges, prepend=0), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a contestant is given: rows, the parameters it starts from, and the cohort of every round."""

    rows: Rows
    start: Params
    cohorts: Sequence[Sequence[int]]
    folder: Path | None = None
    """Where it was read from."""

    def write(self, folder: Path) -> None:
        """Write the task to a folder, for a process of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "features.npy", self.rows.features)
        np.save(folder / "labels.npy", self.rows.labels)
        np.save(folder / "starts.npy", self.rows.starts)
        np.savez(folder / "start.npz", **self.start)
        about = {"workload": asdict(self.rows.workload), "cohorts": [list(cohort) for cohort in self.cohorts]}
        (folder / "task.json").write_text(json.dumps(about))

    @staticmethod
    def read(folder: Path, *, mapped: bool = False) -> Task:
        """Return the task of a folder; mapped rows are in memory once, however many processes read them."""
        about = json.loads((folder / "task.json").read_text())
        shapes = about["workload"]
        workload = Workload(**{**shapes, "limits": Limits(**shapes["limits"])})
        labels, starts = (np.load(folder / f"{name}.npy") for name in ("labels", "starts"))
        # Copy-on-write, so that torch takes them without a warning.
        features = np.load(folder / "features.npy", mmap_mode="c" if mapped else None)
        with np.load(folder / "start.npz") as leaves:
            start = dict(leaves)
        rows = Rows(workload=workload, starts=starts, features=features, labels=labels)
        return Task(rows=rows, start=start, cohorts=about["cohorts"], folder=folder)
