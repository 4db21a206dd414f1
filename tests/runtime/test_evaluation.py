"""Evaluation: figures over all rows, and each client's own."""

from __future__ import annotations

import numpy as np
import pytest

from fedloom.algorithms import fedavg, scaffold
from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.schedule import Schedule
from fedloom.learners import logistic
from fedloom.runtime.stopping import max_rounds
from fedloom.runtime.summary import over_clients
from fedloom.testing import federation, plan_for, pooled_rows, simulate

DATA = federation((30, 12, 21), test=25)
LEARNER = logistic(l2=0.1).build(DATA.schema())


def run(every: int, rounds: int = 5, *, data: object = DATA, algorithm: object = None) -> object:
    made = fedavg(Schedule(batch_size=8)) if algorithm is None else algorithm
    plan = plan_for(DATA, made, LEARNER, stop=max_rounds(rounds), evaluate_every=every, splits=("train", "test"))  # type: ignore[arg-type]
    return simulate(plan, data)  # type: ignore[arg-type]


def test_the_training_objective_is_that_of_the_pooled_rows() -> None:
    ended = run(1)
    whole = LEARNER.gradient(ended.params, pooled_rows(DATA))  # type: ignore[attr-defined]
    assert ended.records[-1].metrics["train/objective"] == pytest.approx(whole.loss, rel=1e-12)  # type: ignore[attr-defined]


def test_test_figures_are_over_all_test_rows_and_each_client_has_its_own() -> None:
    ended = run(1)
    record = ended.records[-1]  # type: ignore[attr-defined]
    clients = [DATA.client(ClientId(name)).split("test") for name in "abc"]
    pooled = ClientDataset({k: np.concatenate([c.arrays[k] for c in clients]) for k in (FEATURES, LABEL)}, {})
    exact = LEARNER.evaluate(ended.params, [pooled])[0].scores  # type: ignore[attr-defined]
    for name in ("accuracy", "brier", "log_loss"):
        assert record.metrics[f"eval/{name}"] == pytest.approx(exact[name], rel=1e-12)
    assert record.metrics["eval/auroc"] == pytest.approx(exact["auroc"], abs=0.005)
    assert "eval/objective" not in record.metrics and "train/accuracy" not in record.metrics
    for name, client in zip("abc", clients, strict=True):
        own = LEARNER.evaluate(ended.params, [client])[0].scores  # type: ignore[attr-defined]
        assert record.clients[name]["eval/auroc"] == own["auroc"], "one client's figure is exact"
        assert record.clients[name]["eval/accuracy"] == own["accuracy"]
    assert record.metrics["eval/accuracy/worst"] == min(record.clients[name]["eval/accuracy"] for name in "abc")


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_evaluation_is_due_every_few_rounds_and_at_the_end(every: int, evaluated: list[int]) -> None:
    ended = run(every)
    assert [r.round for r in ended.records if "eval/accuracy" in r.metrics] == evaluated  # type: ignore[attr-defined]
    assert [r.round for r in ended.records] == [1, 2, 3, 4, 5], "an evaluation is no round of its own"  # type: ignore[attr-defined]


@pytest.mark.parametrize("algorithm", [fedavg(Schedule(batch_size=8)), scaffold(Schedule(batch_size=8))])
def test_evaluation_changes_no_byte_of_the_model(algorithm: object) -> None:
    assert run(1, algorithm=algorithm).sha256 == run(9, algorithm=algorithm).sha256  # type: ignore[attr-defined]


def test_figures_over_clients() -> None:
    assert over_clients("eval/log_loss", [1.0, None, 3.0]) == {
        "eval/log_loss/mean": 2.0,
        "eval/log_loss/worst": 3.0,
        "eval/log_loss/spread": 1.0,
    }
    assert over_clients("eval/auroc", [None]) == {}
