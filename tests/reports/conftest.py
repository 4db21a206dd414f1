"""Run folders for the report: written by hand, so that each says exactly what its test is about."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedloom.reports import write

HEAD = {
    "run_id": "20261121T103917Z-bd83",
    "sequence": 1,
    "created": "2026-11-21T10:39:17+00:00",
    "fedloom": "0.1.0",
    "digest": "6a2b" * 16,
    "base": "/home/someone",
    "options": {},
    "experiment": {
        "data": {"group": "fedloom.datasets", "name": "hospitals", "arguments": {"test": 0.3, "seed": 0}},
        "prepare": [{"group": "fedloom.preparations", "name": "standardise", "arguments": {}}],
        "learner": {"group": "fedloom.learners", "name": "logistic", "arguments": {"l2": 0.001, "start": None}},
        "algorithm": {
            "group": "fedloom.algorithms",
            "name": "fedavg",
            "arguments": {"local": {"epochs": 1, "batch_size": 16}, "server": None},
        },
        "stop": {"group": "fedloom.stops", "name": "max_rounds", "arguments": {"rounds": 3}},
        "seed": 0,
    },
}
OVER = ("", "/mean", "/worst", "/spread")
Make = Callable[..., Path]


def figures_of(place: int, number: int) -> dict[str, float]:
    """Return figures of a client in a round: unlike those of any other."""
    value = 0.9 - 0.3 / (number + 1) + 0.0123456789 * (place % 7)
    return {"eval/accuracy": value - 0.01, "eval/auroc": value, "eval/log_loss": 0.5 - value / 3}


def records_of(clients: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return two rounds of preparation, then rounds of training, with each client's figures still in them."""
    found = []
    for number in range(-1, rounds + 1):
        asks = number < 1
        own = {} if asks else {name: figures_of(place, number) for place, name in enumerate(clients)}
        metrics: dict[str, float | None] = {}
        if not asks:
            metrics = {"train/objective": 1 / number + 0.1, "train/loss": 1 / number, "fit/loss": 1.5 / number}
            for name in ("accuracy", "auroc", "log_loss"):
                values = [each[f"eval/{name}"] for each in own.values()]
                worst = max(values) if name == "log_loss" else min(values)
                for over, value in zip(OVER, (values[0], sum(values) / len(values), worst, 0.01), strict=True):
                    metrics[f"eval/{name}{over}"] = value
        found.append(
            {
                "round": number + 2 if asks else number,
                "retry": 0,
                "program": "query" if asks else "train",
                "status": "closed",
                "invited": len(clients),
                "included": list(clients),
                "failures": [],
                "metrics": metrics,
                "clients": own,
                "bytes_up": (600 if asks else 34_000) * len(clients),
                "bytes_down": 800 * len(clients),
                "seconds": 0.01,
            }
        )
    return found


def summary_of(
    records: Sequence[Mapping[str, Any]], classes: Sequence[str] = ("benign", "malignant")
) -> dict[str, Any]:
    """Return the summary of such rounds, with a comparison, as ``--json`` prints it."""
    last = records[-1]
    clients = {name: dict(own) for name, own in last["clients"].items()}
    metrics = dict(last["metrics"])
    worth: dict[str, Any] = {}
    for place, (name, own) in enumerate(clients.items()):
        for phase, less in (("local", 0.05), ("pooled", -0.004)):
            own |= {
                f"{phase}/{key.removeprefix('eval/')}": v - less for key, v in list(own.items()) if key[:5] == "eval/"
            }
        change = (-0.05, 0.04, 0.001)[place % 3]
        worth[name] = {
            "verdict": ("gains", "loses", "unclear")[place % 3],
            "words": f"{name} is worth {change}.",
            "test_rows": 40 + place,
            "intervals": {f"{each}/auroc": bounds_of(own[f"{each}/auroc"]) for each in ("eval", "local", "pooled")},
            "differences": {"log_loss": {"value": change, "low": change - 0.01, "high": change + 0.01}},
        }  # fmt: skip
    for phase, less in (("local", 0.05), ("pooled", -0.004)):
        metrics |= {f"{phase}/{key[5:]}": value - less for key, value in list(metrics.items()) if key[:5] == "eval/"}
    return {
        "status": "completed",
        "reason": "3 rounds done",
        "run": HEAD["run_id"],
        "folder": "runs/x",
        "digest": HEAD["digest"],
        "model_sha256": "2397" * 16,
        "rounds": sum(record["program"] == "train" for record in records),
        "seconds": 0.05,
        "bytes_up": sum(record["bytes_up"] for record in records),
        "bytes_down": sum(record["bytes_down"] for record in records),
        "metrics": metrics,
        "clients": clients,
        "failures": [],
        "notes": ["column 3 is constant at north."],
        "holdings": [
            {
                "client": name,
                "train": 50 + 7 * place,
                "validation": 0,
                "test": 20,
                "classes": dict.fromkeys(classes, 35),
            }
            for place, name in enumerate(clients)
        ],
        "task": "classification",
        "classes": list(classes),
        "columns": ["age", "bp"],
        "calibration": [
            {"low": 0.0, "high": 0.1, "rows": 41, "predicted": 0.031, "observed": 0.024},
            {"low": 0.9, "high": 1.0, "rows": 37, "predicted": 0.962, "observed": 0.946},
        ],
        "worth": {
            "measure": "log_loss",
            "confidence": 0.95,
            "resamples": 2000,
            "words": ["Joining was worth it for east.", "The rest cannot tell."],
            "clients": worth,
        },
        "versions": {"fedloom": "0.1.0", "python": "3.11.7", "numpy": "2.4.6"},
    }


def bounds_of(value: float) -> dict[str, float]:
    return {"low": value - 0.02, "high": value + 0.01}


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write ``metrics.csv``: a line for each round over all clients, and one for each client."""
    names = sorted({name for r in records for own in (r["metrics"], *r["clients"].values()) for name in own})
    extra = ("invited", "included", "bytes_up", "bytes_down", "seconds")
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["program", "round", "retry", "client", *names, *extra])
        for record in records:
            key = [record["program"], record["round"], record["retry"]]
            sizes = [record["invited"], len(record["included"]), *(record[name] for name in extra[2:])]
            lines.writerow([*key, "", *(_cell(record["metrics"].get(name)) for name in names), *sizes])
            for client, own in record["clients"].items():
                lines.writerow([*key, client, *(_cell(own.get(name)) for name in names), *[""] * len(extra)])


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def write_folder(
    root: Path,
    clients: Sequence[str] = ("east", "north", "south", "west"),
    *,
    rounds: int = 3,
    change: Callable[[dict[str, Any], list[dict[str, Any]], dict[str, Any]], object] | None = None,
    **summary: object,
) -> Path:
    """Write a run folder. ``change`` may change summary, rounds and head before they are written."""
    folder = root / str(HEAD["run_id"])
    folder.mkdir(exist_ok=True)
    records = records_of(clients, rounds)
    told = summary_of(records) | summary
    head = json.loads(json.dumps(HEAD))
    if change is not None:
        change(told, records, head)
    write_table(folder / "metrics.csv", records)
    kept = [record | {"clients": {}} for record in records]
    trained = sum(r["program"] == "train" and r["status"] == "closed" for r in records)
    record = {
        "run_id": head["run_id"],
        "status": told.get("status", "failed"),
        "rounds": trained,
        "summary": told,
        "records": kept,
    }
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "experiment.json").write_text(json.dumps(head), encoding="utf-8")
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a run folder into the test's own."""
    return partial(write_folder, tmp_path)


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report, for tests that only read."""
    folder = write_folder(tmp_path_factory.mktemp("usual"))
    write(folder)
    return folder


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, in the test's folder: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from fedloom.cli import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["fedloom", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "100")
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return run
