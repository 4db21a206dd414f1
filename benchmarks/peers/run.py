"""Measure fedloom and its peers on the same workloads: round time against the PyTorch loop, peak memory, start.

Flags that may stand several times: ``--peer NAME``, ``--workload NAME``. And ``--rounds N``, 5 counted ones by default;
``--output FOLDER`` for ``peers.json``, ``peers.md`` and ``peers.png``. Every contestant has two processes of
its own, in an environment of its own: one where the PyTorch loop does a round between two of its rounds, for times, and
one where it is alone, for peak memory and start. What cannot be installed or run is reported with its reason.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from federation import task_of
from peers.environments import PEERS, NotInstalled, python_of
from peers.results import Result, table, write
from processes import Session, SessionFailed, hold
from workloads import EQUAL, Task, workload_named

OWN = ("fedloom", "fedloom, 2 workers", "P0")
_UNCOUNTED = 2
"""The first round and the last: of many contestants they hold the start, or the end."""


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, and return the exit code: 1 when a contestant has not done the same work."""
    parser = argparse.ArgumentParser(description="Measure fedloom and its peers.")
    parser.add_argument("--peer", action="append", choices=[*OWN, *PEERS])
    parser.add_argument("--workload", action="append", choices=[workload.name for workload in EQUAL])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    results: list[Result] = []
    for name in given.workload or [workload.name for workload in EQUAL]:
        with tempfile.TemporaryDirectory() as folder:
            task = task_of(workload_named(name), rounds=given.rounds + _UNCOUNTED)
            task.write(Path(folder) / "task")
            for leader in given.peer or [*OWN, *PEERS]:
                results.append(_measured(leader, task, Path(folder)))
                print(results[-1].line, file=sys.stderr, flush=True)
    print("\n".join(table(results)))
    if given.output is not None:
        write(given.output, results, rounds=given.rounds)
    return 0 if all(result.same_work is not False for result in results) else 1


def _measured(leader: str, task: Task, folder: Path) -> Result:
    workload = task.rows.workload.name
    if leader == "nvflare" and task.rows.workload.cohort < task.rows.workload.clients:
        reason = "its FedAvg recipe trains every site in every round, so there is no cohort out of a population"
        return Result(workload=workload, leader=leader, reason=reason)
    try:
        python = sys.executable if leader in OWN else str(python_of(leader))
        beside, alone = _sessions(leader, folder, rounds=len(task.cohorts), python=python)
    except (NotInstalled, SessionFailed) as error:
        return Result(workload=workload, leader=leader, reason=str(error))
    outcome = beside.outcome(task)
    mine, loop = outcome.seconds[leader], outcome.seconds["P0"]
    return Result(
        workload=workload,
        leader=leader,
        round_ms=statistics.median(mine) * 1e3,
        loop_ms=statistics.median(loop) * 1e3,
        ratio=statistics.median(mine) / statistics.median(loop),
        peak_mb=alone.peak_mb,
        start_s=alone.start_s,
        same_work=outcome.agrees,
        losses=dict(outcome.losses),
        moved=dict(outcome.moved),
        versions=dict(beside.versions),
        seconds={name: list(taken) for name, taken in outcome.seconds.items()},
    )


def _sessions(leader: str, folder: Path, *, rounds: int, python: str) -> Iterator[Session]:
    task = folder / "task"
    for name, beside in (("beside", True), ("alone", False)):
        try:
            yield hold(leader, task, output=folder / name / leader, rounds=rounds, beside=beside, python=python)
        except SessionFailed as error:
            # Once more: on a busy machine NVIDIA FLARE gives a site's process up after 60 s, and waits for ever.
            print(f"{error}\ntrying once more", file=sys.stderr, flush=True)
            yield hold(leader, task, output=folder / name / "again", rounds=rounds, beside=beside, python=python)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
