"""Reports of runs that were really made: what engines write is what the report reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.cli.demo import experiment
from fedloom.reports import readable, write

_NUMBER = re.compile(
    r'<data value="([^"]*)" data-metric="([^"]*)" data-value="\1"(?: data-client="([^"]*)")?([^>]*)>([^<]*)<'
)


def run(tmp_path: Path, **changes: Any) -> fedloom.RunResult:
    fields: dict[str, Any] = {
        "data": fedloom.data.sklearn_set("breast_cancer", partition=fedloom.data.dirichlet(4, alpha=0.5)),
        "prepare": [fedloom.standardise()],
        "learner": fedloom.logistic(l2=1e-3),
        "algorithm": fedloom.fedavg(fedloom.Schedule(batch_size=16, learning_rate=0.1)),
        "stop": fedloom.max_rounds(2),
        "seed": 3,
    }
    return fedloom.local().run(fedloom.Experiment(**fields | changes), output=tmp_path)


def page_of(result: fedloom.RunResult) -> str:
    assert result.folder is not None
    return write(result.folder).read_text(encoding="utf-8")


def test_the_numbers_of_page_result_and_record_agree(tmp_path: Path) -> None:
    result = run(tmp_path)
    page = page_of(result)
    told = result.as_json()
    assert result.folder is not None
    assert json.loads((result.folder / "record.json").read_text())["summary"] == json.loads(json.dumps(told))
    metrics: Any = told["metrics"]
    clients: Any = told["clients"]
    seen = 0
    for exact, metric, client, rest, text in _NUMBER.findall(page):
        known = (
            clients[unescape(client)].get(metric) if client else metrics.get(metric) if "round" not in rest else None
        )
        if known is not None:
            seen += 1
            assert float(exact) == known and text in {readable.figure(known), readable.signed(known)}
    assert seen > 60
    named = {metric for _, metric, client, _, _ in _NUMBER.findall(page) if not client}
    assert {m for m in metrics if m.startswith(("eval/", "local/", "pooled/"))} <= named
    for name in ("model_sha256", "digest"):
        assert str(told[name]) in page


def test_the_numbers_of_the_page_and_the_terminal_agree(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command("demo", "--output", tmp_path / "runs")
    assert code == 0
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/record.json"))
    page = write(folder).read_text(encoding="utf-8")
    shown = {(client, metric): text for _, metric, client, rest, text in _NUMBER.findall(page) if client}
    rows = re.findall(r"^(east|north|south|west) +\d+ +\d+% +(\S+) +(\S+) +(\S+)", out, re.MULTILINE)
    assert len(rows) == 4
    for client, *figures in rows:
        assert [shown[client, f"{phase}/auroc"] for phase in ("local", "eval", "pooled")] == figures


def test_the_command_writes_the_page_again(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    folder = run(tmp_path / "runs").folder
    assert folder is not None
    code, out, err = command("report", "last")
    assert (code, Path(out.strip()).name, err) == (0, "report.html", "")
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    code, out, err = command("report", folder.name, "--output", tmp_path / "runs", "--json")
    assert code == 0 and Path(json.loads(out)["report"]).read_bytes() == first
    (folder / "metrics.csv").unlink()
    code, out, err = command("report", "last")
    assert code == 2 and "metrics.csv is missing" in err


def test_preparations_show_their_answers_in_short(tmp_path: Path) -> None:
    page = page_of(run(tmp_path))
    assert "standardise" in page and re.search(r"mean: 30 values, [\d.]+, [\d.]+, [\d.]+, …", page)


def test_a_regression_has_a_report(tmp_path: Path) -> None:
    data = fedloom.data.sklearn_set("diabetes", partition=fedloom.data.iid(3))
    page = page_of(run(tmp_path, data=data, learner=fedloom.ridge(l2=0.1)))
    assert "RMSE" in page and "AUROC" not in page


def test_many_classes_have_a_report(tmp_path: Path) -> None:
    data = fedloom.data.sklearn_set("digits", partition=fedloom.data.dirichlet(5, alpha=0.5))
    page = page_of(run(tmp_path, data=data, compare=False))
    assert "accuracy" in page and "<image" in page


def test_a_run_without_test_rows_has_a_report(tmp_path: Path) -> None:
    data = fedloom.data.sklearn_set("breast_cancer", partition=fedloom.data.iid(3), test=0.0)
    assert "Loss by round" in page_of(run(tmp_path, data=data))


def test_an_interrupted_run_has_a_report(tmp_path: Path) -> None:
    def press_ctrl_c(record: Any) -> None:
        if record.program == "train":
            raise KeyboardInterrupt

    with pytest.raises(fedloom.RunInterrupted) as left:
        fedloom.local().run(experiment(0), output=tmp_path, on_round=[press_ctrl_c])
    assert left.value.folder is not None
    page = write(left.value.folder).read_text(encoding="utf-8")
    assert "interrupted" in page and "fedloom resume" in page
