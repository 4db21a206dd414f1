"""What a round costs around local training: the time of a run's rounds, less the time inside ``Learner.fit``."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from federation import experiment, learner_of
from threadpoolctl import threadpool_limits
from workloads import Workload, draw_rows

import fedloom


class ClockedLearner:
    """A learner that adds up the time of its ``fit``, and is otherwise the one it was made from."""

    def __init__(self, learner: Any) -> None:
        self._learner = learner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        """Return what the learner has of that name."""
        return getattr(self._learner, name)

    def fit(self, jobs: Sequence[Any]) -> Any:
        """Do the local work, with the clock running."""
        started = time.perf_counter()
        try:
            return self._learner.fit(jobs)
        finally:
            self.seconds += time.perf_counter() - started

    def take(self) -> float:
        """Return the seconds since the last time, and start anew."""
        taken, self.seconds = self.seconds, 0.0
        return taken


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Median seconds of a round, and of it outside local training."""

    round_s: float
    own_s: float


def cost_of(workload: Workload, *, rounds: int) -> Cost:
    """Run a workload with one worker and nobody else, and return what its counted rounds cost."""
    made: list[ClockedLearner] = []
    builder = learner_of(workload)

    def build(schema: fedloom.Schema) -> Any:
        made.append(ClockedLearner(builder.build(schema)))
        return made[-1]

    plan = experiment(draw_rows(workload), rounds=rounds + 2, learner=dataclasses.replace(builder, build=build))
    whole: list[float] = []
    inside: list[float] = []
    started = time.perf_counter()

    def between(_record: fedloom.RoundRecord) -> None:
        nonlocal started
        whole.append(time.perf_counter() - started)
        inside.append(sum(learner.take() for learner in made))
        started = time.perf_counter()

    with threadpool_limits(limits=1, user_api="blas"), tempfile.TemporaryDirectory() as folder:
        fedloom.local().run(plan, output=Path(folder), on_round=[between])
    own = [of_round - of_fit for of_round, of_fit in zip(whole[1:-1], inside[1:-1], strict=True)]
    return Cost(statistics.median(whole[1:-1]), statistics.median(own))
