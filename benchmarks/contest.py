"""A contest: one real run of the engine, with a round of every rival between two of its rounds, on the same cohort."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy_loop import NumpyLoop
from threadpoolctl import threadpool_limits
from workloads import Rows, Workload, cohort_of, draw_rows, experiment, mean_loss

import fedloom

TOLERANCE = 1e-3
"""Largest difference between the final losses: all contestants have then done the same work."""


class Rival(Protocol):
    """A loop that does rounds on cohorts it is given."""

    name: str

    def round(self, cohort: Sequence[int]) -> None:
        """Do one round."""
        ...

    def loss(self) -> float:
        """Return the mean loss over all rows."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of each counted round and final loss, by contestant; the rounds stand at equal places."""

    workload: Workload
    seconds: Mapping[str, Sequence[float]]
    losses: Mapping[str, float]

    @property
    def agrees(self) -> bool:
        """Whether all contestants reached the same loss."""
        return max(self.losses.values()) - min(self.losses.values()) <= TOLERANCE


class Contest:
    """The engine's ``on_round``: clocks the round that ended, then lets the rivals do theirs.

    What is clocked of the engine is the time between two of its calls, so everything it does counts: cohort, local
    work, encode, sum, server step, record, checkpoint. Every contestant starts after one pass over all rows, so that
    none finds its cohort in a cache that another has just filled.
    """

    def __init__(self, rows: Rows, rivals: Sequence[Rival]) -> None:
        self.rows = rows
        self.rivals = rivals
        self.seconds: dict[str, list[float]] = {"fedloom": [], **{rival.name: [] for rival in rivals}}
        self._started = time.perf_counter()

    def __call__(self, record: fedloom.RoundRecord) -> None:
        """Take over after a round of the engine."""
        self.seconds["fedloom"].append(time.perf_counter() - self._started)
        cohort = cohort_of(record.included)
        first = record.round % max(len(self.rivals), 1)
        for rival in [*self.rivals[first:], *self.rivals[:first]]:
            self._pass_over_rows()
            started = time.perf_counter()
            rival.round(cohort)
            self.seconds[rival.name].append(time.perf_counter() - started)
        self._pass_over_rows()
        self._started = time.perf_counter()

    def _pass_over_rows(self) -> None:
        np.add.reduce(self.rows.features, axis=None)


def has_torch() -> bool:
    """Return whether the PyTorch loop can run here."""
    return importlib.util.find_spec("torch") is not None


def hold(workload: Workload, *, rounds: int) -> Outcome:
    """Run a workload for ``rounds`` counted rounds.

    The first round is not counted, because it has the engine's start in it, nor the last, which has its evaluation.
    """
    rows = draw_rows(workload)
    rivals: list[Rival] = [NumpyLoop(rows)]
    if has_torch():
        from torch_loop import TorchLoop

        rivals.insert(0, TorchLoop(rows))
    contest = Contest(rows, rivals)
    plan = experiment(rows, rounds=rounds + 2)
    with threadpool_limits(limits=1, user_api="blas"), tempfile.TemporaryDirectory() as folder:
        result = fedloom.local().run(plan, output=Path(folder), on_round=[contest])
        leaves = result.leaves()
        losses = {"fedloom": mean_loss(leaves["coef"], leaves["intercept"], rows)}
        losses |= {rival.name: rival.loss() for rival in rivals}
    return Outcome(workload, {name: taken[1:-1] for name, taken in contest.seconds.items()}, losses)
