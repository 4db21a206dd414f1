"""What a run leaves: rounds.npz, model.safetensors, record.json; each tells the same as the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors

import fedloom
from fedloom import local
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema
from fedloom.errors import StoreError
from fedloom.experiment.registry import resolve
from fedloom.store import read_model

Make = Callable[..., fedloom.Experiment]


def saved_rounds(folder: Path) -> tuple[np.ndarray, list[Any]]:
    with np.load(folder / "rounds.npz") as file:
        return file["params"], json.loads(str(file["leaves"]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_rounds_go_from_the_start_to_the_model(dtype: str, tmp_path: Path, experiment: Make) -> None:
    result = local().run(experiment(dtype=dtype, rounds=5), output=tmp_path, save_rounds=True)
    assert result.folder is not None
    params, leaves = saved_rounds(result.folder)
    assert params.shape == (6, 5) and params.dtype == dtype
    np.testing.assert_array_equal(params[0], np.zeros(5))
    _, model, _ = read_model(result.folder / "model.safetensors")
    np.testing.assert_array_equal(params[-1], model)
    assert leaves == [["coef", [1, 4], "parameter"], ["intercept", [1], "parameter"]]
    assert len(np.unique(params, axis=0)) == 6
    np.testing.assert_array_equal(result.history, params)


def test_saved_rounds_begin_at_a_given_start(tmp_path: Path, experiment: Make) -> None:
    np.save(tmp_path / "w0.npy", np.arange(5.0))
    learner = fedloom.logistic(start=tmp_path / "w0.npy")
    result = local().run(experiment(rounds=1, learner=learner), save_rounds=True)
    assert result.history is not None
    np.testing.assert_array_equal(result.history[0], np.arange(5.0))


def test_a_skipped_round_repeats_its_row(experiment: Make) -> None:
    """Nobody is in the sample now and then: the model stays, and so does the count of rows."""
    asked = experiment(cohort=fedloom.poisson(0.1), policy=fedloom.RoundPolicy(quorum=1, on_short="skip"))
    result = local().run(asked, save_rounds=True)
    assert result.history is not None and result.history.shape == (11, 5)
    statuses = [record.status for record in result.rounds]
    assert "skipped" in statuses and "closed" in statuses
    for number, status in enumerate(statuses, start=1):
        assert np.array_equal(result.history[number], result.history[number - 1]) == (status == "skipped")


def test_without_saved_rounds_there_is_no_such_file(tmp_path: Path, experiment: Make) -> None:
    result = local().run(experiment(rounds=1), output=tmp_path)
    assert result.history is None and result.folder is not None
    assert not (result.folder / "rounds.npz").exists()


def test_a_model_file_alone_predicts_what_the_run_predicts(tmp_path: Path, experiment: Make, ragged: Any) -> None:
    asked = experiment(rounds=3, prepare=[fedloom.standardise()], data=ragged(seed=8))
    result = local().run(asked, output=tmp_path)
    assert result.folder is not None
    layout, params, metadata = read_model(result.folder / "model.safetensors")
    assert set(metadata) == {
        "digest", "learner", "model_sha256", "preparations", "prepared", "raw", "schema", "versions"
    }  # fmt: skip
    assert metadata["digest"] == asked.digest == result.digest
    assert metadata["model_sha256"] == result.model_sha256

    schema = msgspec.json.decode(metadata["schema"], type=Schema)
    assert schema == result.schema and schema.columns == ("x0", "x1", "x2", "x3") and schema.classes == ("0", "1")
    (answer,) = msgspec.json.decode(metadata["prepared"])
    preparation = fedloom.standardise()
    transform = preparation.transform(msgspec.convert(answer, type=preparation.query.answer))

    raw = asked.data.client(asked.data.population().id(4))
    prepared = transform.apply(raw).arrays[FEATURES]
    leaves = layout.unflatten(params)
    logits = prepared @ leaves["coef"][0] + leaves["intercept"][0]
    ours = result.prepare(raw).arrays[FEATURES] @ result.leaves()["coef"][0] + result.leaves()["intercept"][0]
    np.testing.assert_array_equal(logits, ours)
    accuracy = float(((logits > 0) == raw.arrays[LABEL])[raw.rows["test"]].mean())
    assert accuracy == pytest.approx(result.clients[asked.data.population().id(4)]["eval/accuracy"])


def test_leaves_of_a_model_file_are_readable_by_other_programs(tmp_path: Path, experiment: Make) -> None:
    result = local().run(experiment(rounds=1), output=tmp_path)
    assert result.folder is not None
    with safetensors.safe_open(result.folder / "model.safetensors", framework="numpy") as file:
        assert sorted(file.keys()) == ["coef", "intercept"]
        np.testing.assert_array_equal(file.get_tensor("coef"), result.leaves()["coef"])
        assert json.loads(file.metadata()["schema"])["columns"] == ["x0", "x1", "x2", "x3"]


def test_metrics_have_the_names_of_the_table(experiment: Make) -> None:
    result = local().run(experiment(rounds=2, compare=True))
    figures = {"accuracy", "balanced_accuracy", "log_loss", "auroc", "average_precision", "brier"}
    over, phases = ("", "/mean", "/worst", "/spread"), ("eval", "local", "pooled")
    wanted = {f"{phase}/{name}{suffix}" for phase in phases for name in figures for suffix in over}
    wanted |= {f"{phase}/calibration_error" for phase in phases}
    assert set(result.metrics) == wanted | {"train/objective", "train/loss", "fit/loss", "step/norm"}
    assert set(result.clients) == {f"c{place}" for place in range(10)}


def test_metrics_of_a_regression_are_its_own(experiment: Make) -> None:
    draw = np.linspace(-1, 1, 40)
    tables = {name: (np.stack([draw, draw**2], axis=1), slope * draw) for name, slope in (("a", 1.0), ("b", 3.0))}
    data = fedloom.data.silos(tables, task="regression")
    result = local().run(experiment(rounds=2, data=data, learner=fedloom.ridge(l2=0.1)))
    phases = {f"eval/{name}{suffix}" for name in ("rmse", "r2") for suffix in ("", "/mean", "/worst", "/spread")}
    assert set(result.metrics) == phases | {"train/objective", "train/loss", "fit/loss", "step/norm"}


def test_the_objective_is_loss_and_penalty_over_all_training_rows(experiment: Make) -> None:
    asked = experiment(rounds=2)
    result = local().run(asked)
    population = asked.data.population()
    clients = [asked.data.client(population.id(index)).split("train") for index in range(len(population))]
    rows = np.concatenate([client.arrays[FEATURES] for client in clients])
    labels = np.concatenate([client.arrays[LABEL] for client in clients])
    w = result.leaves()["coef"][0]
    logits = rows @ w + result.leaves()["intercept"][0]
    loss = float(np.mean(np.logaddexp(0, logits) - labels * logits))
    assert result.metrics["train/loss"] == pytest.approx(loss, abs=1e-12)
    assert result.metrics["train/objective"] == pytest.approx(loss + 1e-3 / 2 * float(w @ w), abs=1e-12)


def test_a_client_of_one_class_has_no_auroc_and_is_noted(experiment: Make, ragged: Any) -> None:
    data = ragged(sizes=(20, 20))
    label = data.label.copy()
    first = data.client(data.population().id(0))
    label[: len(first.arrays[LABEL])] = 1
    result = local().run(experiment(rounds=1, data=replace(data, label=label, spec=None)))
    assert result.clients["c0"]["eval/auroc"] is None
    assert result.clients["c1"]["eval/auroc"] is not None
    assert any("c0" in note and "one class" in note for note in result.notes)
    assert msgspec.json.decode(msgspec.json.encode(result.as_json()))["clients"]["c0"]["eval/auroc"] is None


def test_seconds_of_a_round_hold_training_and_evaluation(monkeypatch: pytest.MonkeyPatch, experiment: Make) -> None:
    """A clock that only training and evaluation of clients move: every round has both."""
    now = [0.0]
    monkeypatch.setattr("fedloom.engines.rounds.time.monotonic", lambda: now[0])
    asked = experiment(rounds=3)
    algorithm: Any = asked.algorithm

    def client(broadcast: Any, state: Any, ctx: Any) -> Any:
        now[0] += 1.0
        return (yield from algorithm.client(broadcast, state, ctx))

    result = local().run(replace(asked, algorithm=replace(algorithm, client=client)))
    assert [record.seconds for record in result.rounds] == [10.0] * 3


def test_a_clock_that_goes_backwards_gives_no_negative_duration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, experiment: Make
) -> None:
    from fedloom.store import RunFolder, list_runs

    now = [2e9]

    def back() -> float:
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr("fedloom.engines.rounds.time.monotonic", back)
    monkeypatch.setattr("fedloom.engines.journal.time.monotonic", back)
    monkeypatch.setitem(RunFolder.create.__func__.__kwdefaults__, "now", back)  # type: ignore[attr-defined]
    asked = experiment(rounds=3)
    ids = [local().run(asked, output=tmp_path).run_id for _ in range(3)]
    runs = list_runs(tmp_path)
    assert [run.run_id for run in runs] == ids  # the order of creation, though each is named an hour before the last
    assert ids == sorted(ids, reverse=True)
    result = local().run(asked, output=tmp_path)
    assert [record.seconds for record in result.records] == [0.0] * 3
    assert [record.round for record in result.records] == [1, 2, 3]


def test_a_journal_whose_clock_was_set_back_still_writes() -> None:
    from fedloom.engines.journal import Journal

    now = [100.0]
    journal = Journal(folder=None, every_s=5.0, clock=lambda: now[0], _written_at=100.0)
    assert not journal.due()
    now[0] = 104.9
    assert not journal.due()
    now[0] = 105.0
    assert journal.due()
    now[0] = 50.0
    assert journal.due()


def test_nothing_is_written_without_an_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Make
) -> None:
    monkeypatch.chdir(tmp_path)
    local().run(experiment(rounds=1, compare=True), save_rounds=True)
    assert not list(tmp_path.iterdir())


def test_a_query_is_answered_without_a_run(experiment: Make, ragged: Any) -> None:
    data = ragged()
    answer = local(workers=2).query(fedloom.moments(), data=data, seed=1)
    counts = [data.client(data.population().id(index)).count("train") for index in range(len(data.population()))]
    assert answer.count == sum(counts)


def test_rounds_are_refused_where_layout_and_shape_differ(tmp_path: Path, experiment: Make) -> None:
    from fedloom.store import write_rounds

    result = local().run(experiment(rounds=1))
    with pytest.raises(StoreError, match="shape"):
        write_rounds(tmp_path / "rounds.npz", np.zeros((2, 3)), result.learner.layout)


def test_components_by_name_give_the_bytes_of_the_objects(experiment: Make) -> None:
    from fedloom.core.component import spec_of

    asked = experiment("fedadam", rounds=2)
    named = replace(
        asked,
        learner=spec_of(asked.learner),
        algorithm=spec_of(asked.algorithm),
        stop=spec_of(asked.stop),
        cohort=spec_of(asked.cohort),
    )
    assert resolve(spec_of(asked.stop)).rounds == 2
    assert named.digest == asked.digest
    assert local().run(named).model_sha256 == local().run(asked).model_sha256


def test_prepared_rows_of_a_client_are_those_that_it_trained_on(experiment: Make, ragged: Any) -> None:
    result = local().run(experiment(rounds=1, prepare=[fedloom.standardise()]))
    data = ragged()
    population = data.population()
    rows = np.concatenate(
        [
            result.prepare(data.client(population.id(index))).split("train").arrays[FEATURES]
            for index in range(len(population))
        ]
    )
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-12)
    assert isinstance(result.prepare(ClientDataset({FEATURES: rows})), ClientDataset)


def test_a_comparison_that_the_learner_cannot_make_is_refused_before_round_1(experiment: Make, tmp_path: Path) -> None:
    asked = experiment(compare=True, learner=fedloom.sklearn_estimator("SGDClassifier"))
    with pytest.raises(fedloom.errors.PlanError, match="compare = true trains pooled and local models"):
        local().run(asked, output=tmp_path)
    assert not list(tmp_path.iterdir())
