"""``fedloom predict`` and ``fedloom evaluate``: raw rows through the preparations of a finished model."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.engines.trained_model import TrainedModel
from fedloom.experiment import config

Run = Callable[..., tuple[int, str, str]]
FILE = """
seed = 5
[data]
name = "csv"
path = "rows.csv"
client = "ward"
{data}
[[prepare]]
name = "impute"
strategy = "mean"
{prepare}
[[prepare]]
name = "standardise"
[[prepare]]
name = "one_hot"
[learner]
name = "{learner}"
[algorithm]
name = "fedavg"
local = {{ epochs = 1, batch_size = 16, learning_rate = 0.05 }}
[[stop]]
name = "max_rounds"
rounds = 20
"""
TASKS = {
    "declared": {"data": 'label = "outcome"\ncategories = ["sex"]\nclasses = ["well", "ill"]\ncolumns = ["x", "y"]',
                 "prepare": "", "learner": "logistic"},
    "agreed": {"data": 'label = "outcome"\ncategories = ["sex"]\ncolumns = ["x", "y"]',
               "prepare": '[[prepare]]\nname = "label_set"', "learner": "logistic"},
    "numbers": {"data": 'label = "days"\ncategories = ["sex"]\ncolumns = ["x", "y"]\ntask = "regression"',
                "prepare": "", "learner": "ridge"},
}  # fmt: skip


def write_rows(path: Path) -> Path:
    draw = Key.from_seed(9).generator()
    lines = ["x,y,sex,ward,outcome,days"]
    for row in range(90):
        x, y = draw.normal(size=2)
        outcome = "ill" if x + 0.5 * y + 0.4 * draw.normal() > 0 else "well"
        first = "" if row % 13 == 5 else repr(float(x))
        lines.append(f"{first},{float(y)!r},{'fmx'[row % 3]},{'ab'[row % 2]},{outcome},{3 + x:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def trained(request: pytest.FixtureRequest, tmp_path: Path, command: Run) -> dict[str, Any]:
    write_rows(tmp_path / "rows.csv")
    (tmp_path / "run.toml").write_text(FILE.format(**TASKS[request.param]))
    code, out, err = command("run", "run.toml", "--json", "--set", "compare=false")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("trained", ["declared", "agreed"], indirect=True)
def test_predictions_are_those_of_the_run_bit_for_bit(trained: dict[str, Any], tmp_path: Path, command: Run) -> None:
    code, out, err = command("predict", "last", "rows.csv")
    assert (code, err) == (0, "")
    found = table(out)
    classes = trained["classes"]
    assert list(found[0]) == ["row", "prediction", *(f"p({name})" for name in classes)]
    assert [row["row"] for row in found] == [str(number) for number in range(1, 91)]
    settings = config.read(tmp_path / "run.toml")
    inside = fedloom.local().run(settings.experiment, base=tmp_path)
    wards = ["ab"[row % 2] for row in range(90)]
    for name in "ab":
        mine = [row for row, ward in zip(found, wards, strict=True) if ward == name]
        data: Any = settings.experiment.data
        client = inside.prepare(data.client(ClientId(name)))
        probabilities = inside.learner.predict(inside.params, client.arrays["features"])
        given = {tuple(float(row[f"p({each})"]) for each in classes) for row in mine}
        assert given == {tuple(row) for row in probabilities.tolist()}
    for row in found:
        values = [float(row[f"p({name})"]) for name in classes]
        assert row["prediction"] == classes[int(np.argmax(values))] and sum(values) == pytest.approx(1)


@pytest.mark.parametrize("trained", ["numbers"], indirect=True)
def test_a_regression_predicts_numbers(trained: dict[str, Any], tmp_path: Path, command: Run) -> None:
    found = table(command("predict", f"runs/{trained['run']}/model.safetensors", "rows.csv")[1])
    assert list(found[0]) == ["row", "prediction"]
    model = TrainedModel.read(tmp_path / "runs" / trained["run"])
    given = json.loads(command("predict", trained["run"], "rows.csv", "--json")[1])
    assert [float(row["prediction"]) for row in found] == [each["prediction"] for each in given["predictions"]]
    assert model.schema.classes is None and given["classes"] is None
    code, out, _ = command("evaluate", "last", "rows.csv", "--json")
    assert code == 0 and json.loads(out)["metrics"]["r2"] > 0.2


@pytest.mark.parametrize("trained", ["declared", "agreed"], indirect=True)
def test_evaluation_prints_the_figures_of_the_run(trained: dict[str, Any], tmp_path: Path, command: Run) -> None:
    """The test rows of one client, written to a file of their own, have the figures that the run has of them."""
    data: Any = config.read(tmp_path / "run.toml").experiment.data
    client = data.client(ClientId("a")).split("test")
    features, texts, labels = (client.arrays[name] for name in ("features", "texts", "label"))
    names = trained["classes"]
    lines = ["outcome,sex,surplus,y,x"]  # columns are found by their names
    for numbers, text, label in zip(features.tolist(), texts.tolist(), labels.tolist(), strict=True):
        x, y = ("" if math.isnan(number) else repr(number) for number in numbers)
        lines.append(f"{label if isinstance(label, str) else names[label]},{text[0]},7,{y},{x}")
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    code, out, err = command("evaluate", "last", "test.csv", "--json")
    assert (code, err) == (0, "")
    metrics = json.loads(out)["metrics"]
    own = trained["clients"]["a"]
    assert {name: metrics[name] for name in ("accuracy", "auroc", "log_loss", "brier")} == {
        name: own[f"eval/{name}"] for name in ("accuracy", "auroc", "log_loss", "brier")
    }
    code, out, _ = command("evaluate", "last", "test.csv")
    assert code == 0 and f"{metrics['auroc']:.6f}" in out


@pytest.mark.parametrize("trained", ["declared"], indirect=True)
def test_predictions_go_to_a_new_file(trained: dict[str, Any], tmp_path: Path, command: Run) -> None:
    code, out, _ = command("predict", "last", "rows.csv", "--out", "found.csv")
    assert (code, out) == (0, "found.csv: 90 rows\n")
    assert (tmp_path / "found.csv").read_text() == command("predict", "last", "rows.csv")[1]
    code, out, err = command("predict", "last", "rows.csv", "--out", "found.csv")
    assert (code, out) == (2, "") and "found.csv exists and is left as it is" in err


@pytest.mark.parametrize("trained", ["declared"], indirect=True)
def test_rows_that_do_not_fit_are_refused_with_their_place(
    trained: dict[str, Any], tmp_path: Path, command: Run
) -> None:
    cases = {
        "x,sex\n1,f\n": "missing `y`",
        "x,y,sex\n1,tall,f\n": "line 2: column 'y' is not a number",
        "x,y,sex\n": "no rows below the header",
        "": "is empty",
    }
    for content, wanted in cases.items():
        (tmp_path / "new.csv").write_text(content)
        code, out, err = command("predict", "last", "new.csv")
        assert (code, out) == (2, "") and wanted in err, (content, err)
    (tmp_path / "new.csv").write_text("x,y,sex,outcome\n1,2,f,dead\n")
    code, _, err = command("evaluate", "last", "new.csv")
    assert code == 2 and "line 2" in err and "dead" in err
    (tmp_path / "new.csv").write_text("x,y,sex\n1,2,f\n")
    code, _, err = command("evaluate", "last", "new.csv")
    assert code == 2 and "there is no column 'outcome'" in err
    (tmp_path / "new.csv").write_text("x,y,sex\n,2,never seen\n")
    assert command("predict", "last", "new.csv")[0] == 0


def test_what_is_no_model_is_refused(tmp_path: Path, command: Run) -> None:
    write_rows(tmp_path / "rows.csv")
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    for name, wanted in (
        ("bad.safetensors", "is damaged"),
        ("nothing", "no run 'nothing'"),
        (".", "model.safetensors"),
    ):
        for verb in ("predict", "evaluate"):
            code, out, err = command(verb, name, "rows.csv")
            assert (code, out) == (2, "") and wanted in err and "Traceback" not in err, err
