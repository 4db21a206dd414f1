"""How often clients evaluate where the experiment does not say, and what the run tells of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom.core.data import FEATURES, LABEL

Make = Any


def many(clients: int) -> Any:
    rows = np.arange(4.0 * clients).reshape(-1, 1) % 7
    names = np.repeat([f"c{place:04d}" for place in range(clients)], 4)
    return fedloom.data.arrays(rows, (rows[:, 0] > 3).astype(int), clients=names, test=0.25)


@pytest.mark.parametrize(("clients", "every"), [(2, 1), (40, 1), (41, 2), (220, 6)])
def test_the_period_follows_the_number_of_clients(experiment: Make, clients: int, every: int) -> None:
    result = fedloom.local().run(experiment(rounds=7, data=many(clients)))
    evaluated = [record.round for record in result.rounds if "eval/accuracy" in record.metrics]
    assert evaluated == sorted({*range(every, 8, every), 7})
    said = [note for note in result.notes if "evaluate_every" in note]
    assert said == ([] if every == 1 else [f"{clients} clients evaluate every {every} rounds and after the last: set "
                                           "evaluate_every for another period"])  # fmt: skip


def test_a_period_that_is_given_is_kept(experiment: Make) -> None:
    result = fedloom.local().run(experiment(rounds=3, data=many(120), evaluate_every=1))
    assert all("eval/accuracy" in record.metrics for record in result.rounds)
    assert not [note for note in result.notes if "evaluate_every" in note]


def test_a_sample_that_evaluates_sets_the_period(experiment: Make) -> None:
    result = fedloom.local().run(experiment(rounds=2, data=many(120), evaluate_cohort=fedloom.uniform(20)))
    assert all(len(record.clients) == 20 for record in result.rounds)


def test_personal_models_are_what_is_evaluated_and_compared(experiment: Make, ragged: Any) -> None:
    """Each client keeps a model of its own and the server's stays at zero: figures are those of the own models."""

    def client(broadcast: Any, own: Any, ctx: Any) -> Any:
        fit = yield from fedloom.train(fedloom.LocalWork(start=own, schedule=schedule))
        return fedloom.Update({"delta": fit.params * 0}, ctx.examples), fit.params

    schedule = fedloom.Schedule(steps=4, batch_size="full", learning_rate=0.5)
    alone = fedloom.Algorithm(
        name="alone",
        init=lambda params: params,
        broadcast=lambda params: params,
        client_init=lambda params: params,
        client=client,
        step=lambda params, aggregate: params,
        params=lambda params: params,
        personal=lambda _broadcast, own: own,
    )
    asked = replace(experiment(rounds=40, data=ragged(sizes=(60, 40)), compare=True), algorithm=alone)
    result = fedloom.local().run(asked)
    assert not result.params.any()
    assert result.worth is not None and result.comparison is not None
    for client_id, figures in result.clients.items():
        data = asked.data.client(client_id).split("test")
        assert figures["eval/accuracy"] == pytest.approx(
            float((result.learner.predict(result.comparison.local[client_id], data.arrays[FEATURES]).argmax(axis=1)
                   == data.arrays[LABEL]).mean()), abs=0.101,
        )  # fmt: skip
        difference = result.worth.clients[client_id].differences["log_loss"]
        own = result.comparison.clients[client_id]["local/log_loss"]
        assert difference.value == pytest.approx(figures["eval/log_loss"] - own, abs=1e-9)
        assert abs(difference.value) < 0.1, "160 steps of gradient descent are near the optimum"
