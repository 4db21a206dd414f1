"""Four real hospitals: what a federated run reaches, against the pooled optimum that others computed.

The data lie beside the repository (``../shared/data/heart_disease``, its README has the preparation and the folds); the
tests are skipped where they do not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.ids import ClientId
from fedloom.core.schedule import Schedule

SHARED = Path(__file__).parents[3] / "shared" / "data"
HEART = SHARED / "heart_disease"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
NUMBERS = ("age", "sex", None, "trestbps", "chol", "fbs", None, "thalach", "exang", "oldpeak")
"""Columns in the order of the files, before slope, ca and thal, which are dropped; None where categories stand."""
COLUMNS = (*filter(None, NUMBERS), "cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2")

pytestmark = pytest.mark.skipif(not (HEART / "splits.csv").exists(), reason=f"{HEART} is not there")


@cache
def hospitals() -> fedloom.data.Pooled:
    """Return the hospitals with the published folds: 740 rows, 13 features."""
    files = {name: (HEART / f"processed.{name}.data").read_text().splitlines() for name in HOSPITALS}
    rows, labels, clients, folds = [], [], [], []
    with (HEART / "splits.csv").open(newline="") as splits:
        for entry in csv.DictReader(splits):
            if entry["fold"] == "dropped":
                continue
            name = next(each for each in HOSPITALS if entry["hospital"].startswith(each[:2]))
            cells = [float(cell) for cell in files[name][int(entry["row"])].split(",")[:10]]
            numbers = [cell for cell, column in zip(cells, NUMBERS, strict=True) if column is not None]
            rows.append([*numbers, *(cells[2] == cp for cp in (2, 3, 4)), *(cells[6] == level for level in (1, 2))])
            labels.append("disease" if int(entry["label"]) else "none")
            clients.append(name)
            folds.append(entry["fold"])
    return fedloom.data.arrays(
        np.array(rows, dtype=np.float64),
        labels,
        clients=clients,
        columns=COLUMNS,
        classes=("none", "disease"),
        fold=folds,
    )


def experiment(algorithm: Any, *, rounds: int, **fields: Any) -> fedloom.Experiment:
    return fedloom.Experiment(
        data=hospitals(),
        prepare=[fedloom.standardise()],
        learner=fedloom.logistic(l2=1e-3),
        algorithm=algorithm,
        stop=fedloom.max_rounds(rounds),
        seed=1,
        **{"compare": False, "evaluate_every": rounds, **fields},
    )


@pytest.fixture(scope="module")
def optimum() -> float:
    baselines = json.loads((SHARED / "BASELINES.json").read_text())
    value: float = baselines["heart_disease"]["by_hospital"]["pooled_train_objective"]
    return value


@cache
def smoothness() -> float:
    """Return the largest eigenvalue of the Hessian's bound, X'X / 4n with a column of ones, and the penalty."""
    result = local().run(experiment(fedloom.fedsgd(0.0), rounds=1))
    data = hospitals()
    parts = [result.prepare(data.client(data.population().id(index))).split("train") for index in range(4)]
    rows = np.concatenate([part.arrays["features"] for part in parts])
    rows = np.column_stack([rows, np.ones(len(rows))])
    return float(np.linalg.eigvalsh(rows.T @ rows / (4 * len(rows)))[-1]) + 1e-3


def test_the_hospitals_are_those_of_the_benchmark() -> None:
    held = {each.client: (each.train, each.test) for each in fedloom.data.holdings(hospitals())}
    assert held == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


def test_fedsgd_reaches_the_pooled_optimum(optimum: float) -> None:
    result = local().run(experiment(fedloom.fedsgd(1 / smoothness()), rounds=300))
    assert result.metrics["train/objective"] == pytest.approx(optimum, abs=1e-4)
    assert result.metrics["eval/accuracy"] == pytest.approx(0.79134, abs=0.01)
    assert result.metrics["eval/auroc"] == pytest.approx(0.88115, abs=0.002)
    assert result.metrics["eval/log_loss"] == pytest.approx(0.43554, abs=0.005)


@pytest.mark.slow
def test_fedavg_with_many_local_steps_stays_away_from_the_optimum(optimum: float) -> None:
    """Its fixed point is another one: clients drift, and more rounds do not help."""
    schedule = Schedule(steps=20, batch_size="full", learning_rate=0.1)
    values = [
        local().run(experiment(fedloom.fedavg(schedule), rounds=rounds)).metrics["train/objective"]
        for rounds in (300, 600)
    ]
    assert all(value is not None and value > optimum + 1e-3 for value in values)
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_scaffold_with_the_same_local_steps_reaches_it(optimum: float) -> None:
    schedule = Schedule(steps=20, batch_size="full", learning_rate=0.1)
    result = local().run(experiment(fedloom.scaffold(schedule, weighting="examples"), rounds=300))
    assert result.metrics["train/objective"] == pytest.approx(optimum, abs=1e-4)


def test_a_hospital_of_one_class_and_a_constant_column_is_noted_and_takes_part() -> None:
    result = local().run(experiment(fedloom.fedsgd(0.5), rounds=3, compare=True, evaluate_every=1))
    assert result.status == "completed"
    assert all("switzerland" in record.included for record in result.rounds)
    assert "switzerland: column `chol` is constant over its 30 training rows" in result.notes
    assert "switzerland: all of its 30 training rows are of one class" in result.notes
    assert result.clients["switzerland"]["eval/auroc"] is not None  # its test rows have both classes
    assert result.metrics["pooled/auroc"] == pytest.approx(0.88115, abs=0.002)
    assert result.comparison is not None
    assert result.comparison.clients["cleveland"]["local/accuracy"] == pytest.approx(0.74, abs=0.03)


def test_standardising_by_query_is_standardising_the_pooled_rows() -> None:
    result = local().run(experiment(fedloom.fedsgd(0.0), rounds=1))
    data = hospitals()
    names = [data.population().id(index) for index in range(4)]
    raw = np.concatenate([data.client(name).split("train").arrays["features"] for name in names])
    ours = np.concatenate([result.prepare(data.client(name)).split("train").arrays["features"] for name in names])
    np.testing.assert_allclose(ours, (raw - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-12)


def test_a_run_over_the_hospitals_is_the_same_run_however_it_is_worked_through() -> None:
    run: Callable[..., str] = lambda **engine: (  # noqa: E731
        local(**engine)
        .run(experiment(fedloom.scaffold(Schedule(epochs=1, batch_size=16, learning_rate=0.05)), rounds=10))
        .model_sha256
    )
    assert len({run(), run(workers=2), run(strict=True)}) == 1


def test_three_hospitals_gain_and_switzerland_has_no_auroc_of_its_own() -> None:
    result = local().run(experiment(fedloom.fedsgd(1 / smoothness()), rounds=300, compare=True))
    assert result.worth is not None
    verdicts = {client: each.verdict for client, each in result.worth.clients.items()}
    assert verdicts == {"cleveland": "gains", "hungarian": "gains", "switzerland": "not compared", "va": "gains"}
    assert result.worth.words[0].startswith("3 of 3 clients compared gain from joining: cleveland, hungarian, va.")
    alone = result.worth.clients[ClientId("switzerland")]
    assert "all of its 30 training rows are of one class" in alone.words and "no AUROC of its own" in alone.words
    assert result.comparison is not None
    assert result.comparison.clients[ClientId("switzerland")]["local/auroc"] is None
    baselines = json.loads((SHARED / "BASELINES.json").read_text())["heart_disease"]["by_hospital"]["silos"]
    for place, hospital in enumerate(HOSPITALS):
        reference, figures = baselines[str(place)], result.comparison.clients[ClientId(hospital)]
        assert figures["pooled/auroc"] == pytest.approx(reference["pooled_on_silo_test"]["auroc"], abs=2e-3)
        assert figures["pooled/log_loss"] == pytest.approx(reference["pooled_on_silo_test"]["logloss"], abs=2e-3)
        if hospital != "switzerland":
            assert figures["local/auroc"] == pytest.approx(reference["local_on_own_test"]["auroc"], abs=5e-3)
            within = result.worth.clients[ClientId(hospital)].intervals["eval/auroc"]
            assert within is not None and within.low < within.high
