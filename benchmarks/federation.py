"""The workloads as fedloom runs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from workloads import IMAGE, LEARNING_RATE, Params, Rows, Task, Workload, draw_rows

import fedloom
from fedloom import data

SEED = 1
_STEM = "client-"


def experiment(rows: Rows, *, rounds: int, learner: Any = None) -> fedloom.Experiment:
    """Return the workload as an experiment of ``rounds`` rounds that is evaluated in the last one only."""
    workload = rows.workload
    names = np.array([f"{_STEM}{index:04d}" for index in range(workload.clients)])
    table = data.arrays(
        rows.features,
        rows.labels,
        clients=np.repeat(names, rows.sizes),
        classes=[str(label) for label in range(workload.classes)],
        test=0.0,
    )
    return fedloom.Experiment(
        data=table,
        learner=learner_of(workload) if learner is None else learner,
        algorithm=fedloom.fedavg(
            fedloom.Schedule(epochs=1, batch_size=workload.batch, learning_rate=LEARNING_RATE),
        ),
        cohort=fedloom.everyone() if workload.cohort == workload.clients else fedloom.uniform(workload.cohort),
        evaluate_cohort=fedloom.uniform(1),
        stop=fedloom.max_rounds(rounds),
        seed=SEED,
        evaluate_every=rounds + 1,
        compare=False,
    )


def learner_of(workload: Workload) -> Any:
    """Return the learner that a user would choose for the workload's model."""
    models = fedloom.models
    match workload.model:
        case "linear":
            return fedloom.logistic(l2=0.0, dtype="float32")
        case "mlp":
            return fedloom.torch_module(models.mlp([200]))
        case "cnn":
            return fedloom.torch_module(models.cnn(), shape=list(IMAGE))


def task_of(workload: Workload, *, rounds: int) -> Task:
    """Return the workload's rows, the parameters that fedloom starts from, and the cohorts that it draws.

    Both come from runs of the same seed: the start from one round of two small clients whose rounds are saved, the
    cohorts from a run whose clients have one row each.
    """
    small = dataclasses.replace(workload, clients=2, cohort=2, rows=1, lognormal=False)
    started = fedloom.local().run(experiment(draw_rows(small), rounds=1), save_rounds=True)
    if started.history is None:
        raise RuntimeError("the run was told to save its rounds and has no history")
    start = {name: np.array(leaf) for name, leaf in started.learner.layout.unflatten(started.history[0]).items()}
    return Task(rows=draw_rows(workload), start=start, cohorts=_cohorts(workload, rounds=rounds))


def cohort_of(included: Sequence[str]) -> list[int]:
    """Return the indices of clients that ``experiment`` has named."""
    return [int(name.removeprefix(_STEM)) for name in included]


def params_of(result: fedloom.RunResult) -> Params:
    """Return the parameters of a finished run by name."""
    leaves: Mapping[str, Any] = result.leaves()
    return dict(leaves)


def _cohorts(workload: Workload, *, rounds: int) -> list[list[int]]:
    thin = dataclasses.replace(workload, model="linear", rows=1, features=1, classes=2, lognormal=False)
    records: list[fedloom.RoundRecord] = []
    fedloom.local().run(experiment(draw_rows(thin), rounds=rounds), on_round=[records.append])
    return [cohort_of(record.included) for record in records]
