"""The PyTorch loop as the leader of a contest: alone in a process, for its memory and its start."""

from __future__ import annotations

from contest import Contest
from torch_loop import TorchLoop
from workloads import Params


def torch_rounds(contest: Contest) -> Params:
    """Do the task's rounds."""
    loop = TorchLoop(contest.task)
    contest.start()
    for cohort in contest.task.cohorts:
        loop.round(cohort)
        contest.round_done()
    return loop.params()
