"""Two federations of real tables, where a plain global linear model helps nobody or harms: the verdict says so.

The data lie beside the repository (``../shared/data``); the tests are skipped where they do not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom

SHARED = Path(__file__).parents[3] / "shared" / "data"
AI4I, CREDIT = SHARED / "ai4i2020", SHARED / "credit_default"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(features: Any, label: Any, clients: Any, fold: Any) -> Any:
    """Return the result of a run that comes to its optimum: gradient descent with momentum over all rows."""
    return fedloom.local().run(
        fedloom.Experiment(
            data=fedloom.data.arrays(np.array(features, dtype=np.float64), label, clients=clients, fold=fold),
            prepare=[fedloom.standardise()],
            learner=fedloom.logistic(l2=1e-3),
            algorithm=fedloom.fedavgm(fedloom.Schedule(steps=1, batch_size="full", learning_rate=0.5)),
            stop=fedloom.max_rounds(200),
            evaluate_every=200,
            seed=0,
        )
    )


def baseline(name: str, silos: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((SHARED / "BASELINES.json").read_text())[name][silos]
    return found


@pytest.mark.skipif(not (AI4I / "splits.csv").exists(), reason=f"{AI4I} is not there")
def test_the_plant_of_most_machines_is_better_off_alone() -> None:
    fold = {row["UDI"]: row["fold"] for row in rows_of(AI4I / "splits.csv")}
    table = rows_of(AI4I / "ai4i2020.csv")
    features = [[float(row[name]) for name in row if "[" in name] for row in table]
    result = run(
        features,
        [row["Machine failure"] for row in table],
        [row["Type"] for row in table],
        [fold[row["UDI"]] for row in table],
    )
    reference = baseline("ai4i2020", "by_type")
    assert result.metrics["train/objective"] == pytest.approx(reference["pooled_train_objective"], abs=1e-5)
    assert result.metrics["eval/auroc"] == pytest.approx(reference["pooled_linear"]["auroc"], abs=0.005)
    assert {client: each.verdict for client, each in result.worth.clients.items()} == {
        "H": "unclear",
        "L": "loses",
        "M": "unclear",
    }
    assert result.worth.words[0].startswith("For 1 of 3 clients compared one global model is not worth joining: L.")
    assert "No client is shown to gain" in " ".join(result.worth.words)


@pytest.mark.skipif(not (CREDIT / "splits.csv").exists(), reason=f"{CREDIT} is not there")
def test_no_bank_is_shown_to_gain_from_a_global_linear_model() -> None:
    splits = {row["ID"]: row for row in rows_of(CREDIT / "splits.csv")}
    table = rows_of(CREDIT / "UCI_Credit_Card.csv")
    left_out = ("ID", "SEX", "EDUCATION", "MARRIAGE", "default.payment.next.month")
    features = [
        [
            *(float(value) for name, value in row.items() if name not in left_out),
            *(row["SEX"] == level for level in "12"),
            *((row["EDUCATION"] if row["EDUCATION"] in "123" else "4") == level for level in "1234"),
            *((row["MARRIAGE"] if row["MARRIAGE"] in "12" else "3") == level for level in "123"),
        ]
        for row in table
    ]
    result = run(
        features,
        [row["default.payment.next.month"] for row in table],
        [splits[row["ID"]]["silo_limit"] for row in table],
        [splits[row["ID"]]["fold"] for row in table],
    )
    reference = baseline("credit_default", "by_limit")
    assert result.metrics["train/objective"] == pytest.approx(reference["pooled_train_objective"], abs=1e-5)
    assert {each.verdict for each in result.worth.clients.values()} == {"unclear"}
    assert result.worth.words[0].startswith("For 5 of 5 clients compared no difference is shown: 0, 1, 2, 3, 4.")
    assert "do not show that joining was worth it" in result.worth.words[0]
    third = result.worth.clients["2"]
    assert third.differences["auroc"].high < 0 and "AUROC 0.0118 lower" in third.words
    assert any("more than 0.01 below that of the own model at 2" in words for words in result.worth.words)
