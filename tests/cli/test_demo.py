"""``fedloom demo``: what a newcomer sees first."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedloom import local
from fedloom.cli.demo import experiment
from fedloom.store import list_runs

Run = Callable[..., tuple[int, str, str]]
HOSPITALS = ("east", "north", "south", "west")


def test_the_demo_takes_under_five_seconds_and_leaves_nothing_running(tmp_path: Path, fedloom_: Run) -> None:
    began = time.monotonic()
    code, out, err = fedloom_("demo")
    assert time.monotonic() - began < 5
    assert code == 0
    rows = {found[1]: found for line in out.splitlines() if (found := re.match(r"(\w+) +(\d+) +(\d+)% ", line))}
    assert tuple(rows) == HOSPITALS
    mix = [int(row[3]) for row in rows.values()]
    assert min(mix) <= 30 and max(mix) >= 80
    assert sum(int(row[2]) for row in rows.values()) == 569
    assert "█" in out and "\x1b" not in out + err
    assert len(err.splitlines()) == 20
    (run,) = list_runs(tmp_path / "runs")
    assert run.status == "completed" and str(run.folder.relative_to(tmp_path)) in out


@pytest.mark.parametrize("seed", range(5))
def test_the_federated_model_is_as_good_as_the_pooled_one(seed: int) -> None:
    metrics = local().run(experiment(seed)).metrics
    federated, pooled = metrics["eval/auroc"], metrics["pooled/auroc"]
    assert federated is not None and pooled is not None
    assert federated >= pooled - 0.005


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"COLUMNS": "40", "NO_COLOR": "1", "PYTHONIOENCODING": "latin-1"},
        {"TERM": "dumb", "COLUMNS": "40"},
    ],
)
def test_the_demo_is_readable_anywhere(env: Mapping[str, str], fedloom_: Run) -> None:
    code, out, err = fedloom_("demo", env=env)
    assert code == 0 and "Traceback" not in err and "\x1b" not in out + err
    table = out[out.index("hosp") if "hosp" in out else 0 :]
    for hospital in HOSPITALS:
        row = next(line for line in table.splitlines() if line.startswith(hospital))
        assert re.search(r"\d+ +\d+% +\d\.\d{3} +\d\.\d{3} +\d\.\d{3}$", row.replace("|", " ").rstrip()), row
    if "PYTHONIOENCODING" in env:
        assert out.isascii() and "####" in out and "?" not in out
    if env.get("COLUMNS") == "40":
        assert max(len(line) for line in out.splitlines() if "AUROC" not in line and "run" not in line) <= 48


def test_the_demo_prints_one_json_object(command: Run) -> None:
    code, out, err = command("demo", "--json")
    assert (code, err) == (0, "") and out.count("\n") == 1
    result = json.loads(out)
    assert result["status"] == "completed" and set(result["clients"]) == set(HOSPITALS)
    assert result["metrics"]["eval/auroc"] > 0.98


def test_the_demo_needs_no_network(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any, address: Any) -> None:
        raise AssertionError(f"the demo called {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    assert command("demo")[0] == 0


def test_the_run_of_a_demo_can_be_resumed_by_name(command: Run) -> None:
    first = json.loads(command("demo", "--json")[1])
    code, out, _ = command("resume", "last", "--set", "stop.0.rounds=21", "--json")
    assert code == 0
    assert json.loads(out)["rounds"] == 21 and json.loads(out)["run"] == first["run"]
    assert os.sep not in first["run"]
