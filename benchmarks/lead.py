"""fedloom as the leader of a contest: one real run of its engine into a run folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from contest import Contest
from federation import cohort_of, experiment, params_of
from threadpoolctl import threadpool_limits
from workloads import Params

import fedloom


def fedloom_rounds(contest: Contest, *, workers: int = 1, learner: Any = None) -> Params:
    """Do the task's rounds: cohort, local work, encode, sum, server step, record, and a checkpoint where one is due.

    The run's first round has its start in it, and its last round the evaluation.
    """
    task = contest.task
    plan = experiment(task.rows, rounds=len(task.cohorts), learner=learner)

    def between(record: fedloom.RoundRecord) -> None:
        if sorted(cohort_of(record.included)) != sorted(contest.cohort):
            raise RuntimeError(f"round {record.round}: fedloom drew another cohort than the task says")
        contest.round_done()

    with threadpool_limits(limits=1, user_api="blas"), tempfile.TemporaryDirectory() as folder:
        contest.start()
        result = fedloom.local(workers=workers).run(plan, output=Path(folder), on_round=[between])
    return params_of(result)
