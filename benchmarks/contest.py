"""A contest: whoever leads does its own rounds, and between two of them every rival does one, on the same cohort.

What is clocked of the leader is the time between two of its calls, so everything it does counts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from losses import MOVED, TOLERANCE, distance, mean_loss
from workloads import Params, Task, Workload


class Rival(Protocol):
    """A loop that does rounds on cohorts it is given."""

    name: str

    def round(self, cohort: Sequence[int]) -> None:
        """Do one round."""
        ...

    def params(self) -> Params:
        """Return the parameters, by the names of the task's start."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of each counted round, final loss and distance moved, by contestant; rounds stand at equal places."""

    workload: Workload
    seconds: Mapping[str, Sequence[float]]
    losses: Mapping[str, float]
    moved: Mapping[str, float]

    @property
    def agrees(self) -> bool:
        """Whether all contestants have done the same work."""
        losses, moved, model = self.losses.values(), self.moved.values(), self.workload.model
        return max(losses) - min(losses) <= TOLERANCE[model] and max(moved) <= (1 + MOVED[model]) * min(moved)


def judged(task: Task, seconds: Mapping[str, Sequence[float]], params: Mapping[str, Params]) -> Outcome:
    """Return the outcome of contestants, given the last parameters of each."""
    return Outcome(
        task.rows.workload,
        seconds,
        losses={name: mean_loss(own, task.rows) for name, own in params.items()},
        moved={name: distance(own, task.start) for name, own in params.items()},
    )


class Contest:
    """Clocks the leader's rounds, and lets the rivals do theirs in between.

    Every contestant starts after one pass over all rows, so that none finds its cohort in a cache that another has just
    filled.
    """

    def __init__(self, task: Task, rivals: Sequence[Rival], *, leader: str = "fedloom") -> None:
        self.task = task
        self.rivals = rivals
        self.leader = leader
        self.rounds = 0
        self.first_done_at: float | None = None
        """Time of day at which the leader's first round was done: a process that started this one knows the rest."""
        self.seconds: dict[str, list[float]] = {leader: [], **{rival.name: [] for rival in rivals}}
        self._started = time.perf_counter()

    @property
    def cohort(self) -> Sequence[int]:
        """The clients of the round that is going on."""
        return self.task.cohorts[self.rounds]

    def start(self) -> None:
        """Say that the leader begins now: what it took to get ready is not part of a round."""
        self.task.rows.touch()
        self._started = time.perf_counter()

    def round_done(self) -> None:
        """Take over after a round of the leader, and hand back when every rival has done one."""
        self.seconds[self.leader].append(time.perf_counter() - self._started)
        if self.first_done_at is None:
            self.first_done_at = time.time()
        cohort = self.cohort
        first = self.rounds % max(len(self.rivals), 1)
        for rival in [*self.rivals[first:], *self.rivals[:first]]:
            self.task.rows.touch()
            started = time.perf_counter()
            rival.round(cohort)
            self.seconds[rival.name].append(time.perf_counter() - started)
        self.rounds += 1
        self.start()

    def told(self, seconds: Sequence[float], *, first_done_at: float) -> None:
        """Take the seconds of a leader that clocks itself, because nobody can come between its rounds."""
        self.seconds[self.leader].extend(seconds)
        self.first_done_at = first_done_at

    def rivals_alone(self, rounds: range) -> None:
        """Let the rivals do some rounds while the leader rests."""
        for number in rounds:
            for rival in self.rivals:
                self.task.rows.touch()
                started = time.perf_counter()
                rival.round(self.task.cohorts[number])
                self.seconds[rival.name].append(time.perf_counter() - started)

    def outcome(self, params: Params) -> Outcome:
        """Return what came out, given the leader's last parameters; the first round and the last are not counted."""
        found = {self.leader: params, **{rival.name: rival.params() for rival in self.rivals}}
        return judged(self.task, {name: taken[1:-1] for name, taken in self.seconds.items()}, found)


Leader = Callable[[Contest], Params]
"""Runs the rounds of a contest's task: calls ``start``, and ``round_done`` after each round; returns its parameters."""


def loops(task: Task, *, numpy_too: bool = True) -> list[Rival]:
    """Return the plain loops that can do the task here: PyTorch's with torch, numpy's of linear models."""
    rivals: list[Rival] = []
    if importlib.util.find_spec("torch") is not None:
        from torch_loop import TorchLoop

        rivals.append(TorchLoop(task))
    if numpy_too and task.rows.workload.model == "linear":
        from numpy_loop import NumpyLoop

        rivals.append(NumpyLoop(task))
    return rivals
