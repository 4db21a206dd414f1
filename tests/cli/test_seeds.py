"""``fedloom run --seeds``: several runs, and the spread of their figures."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.cli.seeds import spread_over
from fedloom.store import list_runs

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def test_the_table_is_the_spread_of_the_runs(tmp_path: Path, file: File, command: Run) -> None:
    path = file(rounds=2)
    code, out, err = command("run", path, "--seeds", "3", "--json")
    assert (code, err) == (0, "") and out.count("\n") == 1
    found = json.loads(out)
    assert [run["seed"] for run in found["runs"]] == [7, 8, 9] and found["moved"] == ["seed", "data.seed"]
    values = [run["result"]["metrics"]["eval/auroc"] for run in found["runs"]]
    spread = found["summary"]["eval/auroc"]
    assert spread["mean"] == pytest.approx(statistics.mean(values)) and spread["runs"] == 3
    assert spread["deviation"] == pytest.approx(statistics.stdev(values))
    assert len(set(values)) == 3
    alone = json.loads(command("run", path, "--set", "seed=8", "--set", "data.seed=1", "--json")[1])
    assert alone["model_sha256"] == found["runs"][1]["result"]["model_sha256"]
    assert len(list_runs(tmp_path / "runs")) == 4


def test_people_see_one_line_a_seed_and_a_table(file: File, command: Run) -> None:
    code, out, err = command("run", file(rounds=2), "--seeds", "2", "--set", "seed=3")
    assert code == 0
    lines = err.splitlines()
    assert lines[0] == "2 runs: seed = 3 to 4 and data.seed = 0 to 1"
    assert [line.split("  ")[:2] for line in lines[1:]] == [["seed 3", "2 rounds"], ["seed 4", "2 rounds"]]
    assert re.search(r"^auroc +0\.\d{4} \+/- 0\.\d{4} ", out, re.MULTILINE)
    assert out.count("runs/2") == 2


def test_a_seed_that_fails_is_told_and_the_others_go_on(file: File, command: Run) -> None:
    """With two clients in five drawn, some seed draws a single one, which this policy does not go on with."""
    path = file(rounds=2, policy="[policy]\nquorum = 2\non_short = 'stop'")
    path.write_text(path.read_text().replace('name = "uniform"\nsize = 3', 'name = "poisson"\nrate = 0.4'))
    code, out, err = command("run", path, "--seeds", "8", "--json")
    found = json.loads(out)
    failed = [run for run in found["runs"] if run["error"] is not None]
    assert code == 1 and 0 < len(failed) < 8 and len(found["runs"]) == 8
    assert {run["error"]["kind"] for run in failed} == {"RunStopped"}
    assert found["summary"]["train/objective"]["runs"] == 8 - len(failed)
    code, _, err = command("run", path, "--seeds", "8")
    assert code == 1 and err.count("error: seed ") == len(failed) and "Traceback" not in err


def test_what_is_wrong_with_the_file_is_told_once_before_any_run(tmp_path: Path, file: File, command: Run) -> None:
    code, out, err = command("run", file(), "--seeds", "0")
    assert (code, out) == (2, "") and "--seeds 0: expected 1 or more" in err
    code, out, err = command("run", file(), "--seeds", "3", "--set", "stop.rounds=0")
    assert (code, out) == (2, "") and err.count("error:") == 1
    assert not (tmp_path / "runs").exists()


def rounds_on_disk(root: Path) -> int:
    """Return how many rounds the run that is going on has made durable."""
    for state in root.glob("*/state.sqlite"):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(state)) as database:
            return int(database.execute("SELECT count(*) FROM record").fetchone()[0])
    return 0


def test_ctrl_c_ends_all_seeds(tmp_path: Path, file: File, start: Any) -> None:
    running = start("run", file(rounds=400, steps=2000), "--seeds", "3")
    running.wait_for("3 runs: ")
    running.wait_until(lambda: rounds_on_disk(tmp_path / "runs") > 0)
    running.send(signal.SIGINT)
    code, out, err = running.finish()
    assert (code, out) == (130, "") and "Traceback" not in err
    assert len(list_runs(tmp_path / "runs")) == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_the_spread_is_that_of_a_sample(values: list[float]) -> None:
    spread = spread_over([{"a": value} for value in values] + [{"a": None}, {}])["a"]
    assert spread.runs == len(values)
    assert spread.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert spread.deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_one_run_has_no_deviation() -> None:
    assert spread_over([{"a": 2.0}])["a"].deviation is None and spread_over([]) == {}
