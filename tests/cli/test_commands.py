"""Commands that end well: what they print, for people and for machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.store import list_runs, read_model

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def test_json_is_exactly_one_object_with_the_names_of_the_table(file: File, command: Run) -> None:
    code, out, err = command("run", file(rounds=2), "--json", "--set", "compare=true")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1 and out.endswith("\n")
    result = json.loads(out)
    assert set(result) == {
        "status", "reason", "run", "folder", "digest", "model_sha256", "rounds", "metrics", "clients", "bytes_up",
        "bytes_down", "seconds", "failures", "notes", "holdings", "task", "classes", "columns", "calibration", "worth",
        "versions",
    }  # fmt: skip
    names = {"accuracy", "log_loss", "auroc", "average_precision", "brier"}
    over = ("", "/mean", "/worst", "/spread")
    table = {f"{phase}/{name}{each}" for phase in ("eval", "local", "pooled") for name in names for each in over}
    assert set(result["metrics"]) >= table | {"train/objective", "train/loss", "fit/loss"}
    assert {name.split("/")[0] for name in result["metrics"]} == {"eval", "local", "pooled", "train", "fit", "step"}
    assert result["bytes_up"] > 0 and result["bytes_down"] > 0
    assert re.fullmatch("[0-9a-f]{64}", result["model_sha256"])


def test_json_is_utf8_whatever_the_terminal_reads(tmp_path: Path, file: File, fedloom_: Run) -> None:
    path = file(rounds=1)
    rows = tmp_path / "rows.csv"
    rows.write_text(rows.read_text().replace("north", "Zürich"), encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    code, out, _ = fedloom_("run", path, "--json", "--set", "cohort.size=4", env=ascii_only)
    assert code == 0 and "Zürich" in json.loads(out)["clients"]
    code, out, _ = fedloom_("config", "show", path, "--set", 'data.label="Zürich"', "--json", env=ascii_only)
    assert code == 2 and json.loads(out)["error"]["exit_code"] == 2


def test_a_run_prints_one_line_a_round_and_a_summary(tmp_path: Path, file: File, command: Run) -> None:
    code, out, err = command("run", file())
    lines = err.splitlines()
    assert code == 0 and len(lines) == 10
    for number, line in enumerate(lines, start=1):
        assert re.match(
            rf"round +{number}/10  3/3 clients  loss \d\.\d{{4}}  eval/auroc 0\.\d{{4}}  [\d.]+ kB up  ", line
        )
        assert line.endswith(" left") == (number < 10)
    assert len(out.splitlines()) <= 25
    (run,) = list_runs(tmp_path / "runs")
    assert out.startswith("\ncompleted: 10 rounds done\n10 rounds, ")
    folder = f"runs/{run.run_id}"
    assert out.endswith(f"model {run.model_sha256}\nrun {folder}\nreport {folder}/report.html\n")
    assert (run.folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_saved_rounds_and_the_model_file_agree_with_the_summary(tmp_path: Path, file: File, command: Run) -> None:
    code, out, _ = command("run", file(rounds=3), "--save-rounds", "--json")
    result = json.loads(out)
    folder = tmp_path / result["folder"]
    assert code == 0
    with np.load(folder / "rounds.npz") as saved:
        assert saved["params"].shape == (4, 4)
        _, params, metadata = read_model(folder / "model.safetensors")
        np.testing.assert_array_equal(saved["params"][-1], params)
        np.testing.assert_array_equal(saved["params"][0], np.zeros(4))
    assert metadata["digest"] == result["digest"] and metadata["model_sha256"] == result["model_sha256"]
    assert len(json.loads(metadata["prepared"])) == 2
    assert json.loads(metadata["schema"])["classes"] == ["ill", "well"]


def test_flags_go_before_the_file(tmp_path: Path, file: File, command: Run) -> None:
    code, out, _ = command("run", file(), "--set", "stop.0.rounds=2", "--output", "elsewhere", "--json")
    result = json.loads(out)
    assert code == 0 and result["rounds"] == 2 and result["folder"].startswith("elsewhere/")
    assert not (tmp_path / "runs").exists()


def test_a_run_starts_from_the_folder_of_its_file(
    tmp_path: Path, file: File, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are found beside the file, runs go to the current folder; a resume finds both from anywhere."""
    path = file(rounds=2)
    first = json.loads(command("run", path, "--json", "--output", tmp_path / "out")[1])
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    code, out, _ = command("resume", first["folder"], "--json", "--set", "stop.0.rounds=3")
    assert code == 0 and json.loads(out)["rounds"] == 3


def test_four_rounds_and_a_resume_to_ten_are_ten_rounds(tmp_path: Path, file: File, command: Run) -> None:
    path = file()
    command("run", path, "--set", "stop.0.rounds=4", "--save-rounds")
    code, out, err = command("resume", "last", "--set", "stop.0.rounds=10")
    assert code == 0
    assert [int(found[1]) for line in err.splitlines() if (found := re.match(r"round +(\d+)/10", line))] == [
        5, 6, 7, 8, 9, 10,
    ]  # fmt: skip
    whole = json.loads(command("run", path, "--save-rounds", "--json", "--output", "whole")[1])
    assert f"model {whole['model_sha256']}\n" in out
    (resumed,) = list_runs(tmp_path / "runs")
    for name in ("model.safetensors",):
        assert (resumed.folder / name).read_bytes() == (tmp_path / whole["folder"] / name).read_bytes()
    with np.load(resumed.folder / "rounds.npz") as one, np.load(tmp_path / whole["folder"] / "rounds.npz") as other:
        np.testing.assert_array_equal(one["params"], other["params"])


def test_the_only_stop_needs_no_number(file: File, command: Run) -> None:
    path = file(rounds=2)
    assert json.loads(command("run", path, "--set", "stop.rounds=1", "--json")[1])["rounds"] == 1
    assert json.loads(command("resume", "last", "--set", "stop.rounds=3", "--json")[1])["rounds"] == 3


def test_a_completed_run_says_so_and_stays(tmp_path: Path, file: File, command: Run) -> None:
    first = json.loads(command("run", file(rounds=2), "--json")[1])
    folder = tmp_path / first["folder"]
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.[jns]*")}
    code, out, err = command("resume", "last")
    assert (code, err) == (0, "")
    assert out.startswith(f"{first['folder']} had completed before; nothing was changed\n")
    assert first["model_sha256"] in out
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.[jns]*")}
    assert {name for name in before if before[name][0] != after[name][0]} == set()
    assert after["record.json"] == before["record.json"]
    assert json.loads(command("resume", "last", "--json")[1]) == first


def test_runs_are_listed_in_the_order_of_their_creation(file: File, command: Run) -> None:
    assert command("runs", "list") == (0, "no runs in runs\n", "")
    assert command("runs", "list", "--json") == (0, "[]\n", "")
    path = file(rounds=1)
    ids = [json.loads(command("run", path, "--set", f"seed={seed}", "--json")[1])["run"] for seed in (1, 2, 3)]
    code, out, _ = command("runs", "list")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ids
    assert {row[1] for row in rows} == {"completed"} and {row[2] for row in rows} == {"1"}
    listed = json.loads(command("runs", "list", "--json")[1])
    assert [run["run_id"] for run in listed] == ids
    assert all(re.fullmatch("[0-9a-f]{64}", run["model_sha256"]) for run in listed)


def test_a_run_is_shown_with_its_metrics_and_its_experiment(file: File, command: Run) -> None:
    first = json.loads(command("run", file(rounds=1), "--json")[1])
    code, out, _ = command("runs", "show", "last")
    assert code == 0 and first["run"] in out and "completed, 1 rounds" in out
    assert "eval/auroc " in out and '"name": "scaffold"' in out
    shown = json.loads(command("runs", "show", first["run"][:20], "--json")[1])
    assert set(shown) == {"run", "experiment", "record"}
    assert shown["run"]["status"] == shown["record"]["status"] == "completed"
    assert shown["record"]["summary"] == first
    assert shown["experiment"]["digest"] == first["digest"]
    assert [record["program"] for record in shown["record"]["records"]].count("train") == 1


def test_a_file_is_shown_with_the_origin_of_every_value(file: File, command: Run) -> None:
    path = file()
    lines = path.read_text().splitlines()
    code, out, err = command("config", "show", path, "--resolved", "--set", "learner.l2=0.5")
    assert (code, err) == (0, "")
    at = 1 + lines.index("seed = 7")
    assert f"seed = 7  # {path}:{at}\n" in out
    assert "learner.l2 = 0.5  # --set learner.l2=0.5\n" in out
    assert "evaluate_every = none  # default\n" in out
    assert "engine.checkpoint_s = 0.0  # " in out or "engine.checkpoint_s = 0  # " in out
    assert "# default" not in command("config", "show", path)[1]
    assert re.search(r"# digest [0-9a-f]{64}\n$", out)
    shown = json.loads(command("config", "show", path, "--resolved", "--json")[1])
    assert {"path": "seed", "value": 7, "origin": f"{path}:{at}"} in shown["settings"]


def test_what_is_set_by_flag_is_the_same_experiment_as_in_the_file(file: File, command: Run) -> None:
    path = file()
    other = path.with_name("other.toml")
    other.write_text(path.read_text().replace("l2 = 0.01", "l2 = 0.5"))
    digests = [
        json.loads(command("config", "show", *arguments, "--json")[1])["digest"]
        for arguments in ((path, "--set", "learner.l2=0.5"), (other,))
    ]
    assert digests[0] == digests[1]


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path, file: File, command: Run, start: Any) -> None:
    command("run", file(rounds=1), "--json")
    showing = start("runs", "show", "last")
    assert showing.process.stdout is not None
    showing.process.stdout.close()
    code = showing.process.wait(timeout=20)
    assert showing.process.stderr is not None and showing.process.stderr.read() == ""
    assert code == 1


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fedloom.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "Usage: fedloom " in done.stdout and done.stderr == ""
    for name in ("new", "run", "plan", "resume", "predict", "evaluate", "report", "demo", "doctor", "runs", "config"):
        assert re.search(rf"^\W*{name} ", done.stdout, flags=re.MULTILINE)
