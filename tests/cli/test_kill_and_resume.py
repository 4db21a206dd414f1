"""Real processes, killed and interrupted at many moments; what is continued is the run that nobody disturbed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom.core.keys import Key
from fedloom.store import list_runs

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
STEPS = 1000
"""Local steps that make a round last some hundredths of a second: long enough to be hit, short enough to wait for."""
DRAWN = Key.from_seed(2).generator().choice([1, 2, 3, 5, 6, 7, 8], size=4, replace=False).tolist()


def folder_of(root: Path) -> Path:
    (run,) = list_runs(root)
    return run.folder


def model_of(out: str) -> str:
    result = json.loads(out)
    assert isinstance(result["model_sha256"], str)
    return result["model_sha256"]


@pytest.mark.parametrize("at", [4, DRAWN[0], *(pytest.param(at, marks=pytest.mark.slow) for at in DRAWN[1:])])
def test_a_killed_run_is_continued_to_the_same_bytes(
    at: int, *, tmp_path: Path, file: File, start: Any, command: Run, undisturbed: Any
) -> None:
    path = file(steps=STEPS)
    killed = start("run", path, "--save-rounds")
    killed.wait_for(f"round {at:>2}/10")
    killed.send(signal.SIGKILL)
    assert killed.finish()[0] == -signal.SIGKILL
    (left,) = list_runs(tmp_path / "runs")
    assert left.status == "interrupted"
    assert not (left.folder / "record.json").exists()

    code, out, err = command("resume", "last", "--json")
    assert (code, err) == (0, "")
    whole: fedloom.RunResult = undisturbed(path)
    assert model_of(out) == whole.model_sha256
    with np.load(left.folder / "rounds.npz") as saved:
        np.testing.assert_array_equal(saved["params"], whole.history)
        assert json.loads(str(saved["leaves"]))[0] == ["coef", [1, 3], "parameter"]
    assert json.loads(out)["rounds"] == 10
    assert list_runs(tmp_path / "runs")[0].status == "completed"


@pytest.mark.slow
def test_a_run_may_be_killed_twice(tmp_path: Path, file: File, start: Any, command: Run, undisturbed: Any) -> None:
    path = file(steps=STEPS)
    for arguments, at in ((("run", path), 2), (("resume", "last"), 6)):
        killed = start(*arguments)
        first = killed.wait_for("/10")
        killed.wait_for(f"round {at:>2}/10") if f"round {at:>2}/10" not in first else None
        killed.send(signal.SIGKILL)
        assert killed.finish()[0] == -signal.SIGKILL
        rounds = [int(found[1]) for line in killed.lines if (found := re.match(r"round +(\d+)/10", line))]
        assert rounds == list(range(rounds[0], at + 1))  # goes on where it was, no round twice
        assert rounds[0] == (1 if at == 2 else pytest.approx(3, abs=1))
    code, out, _ = command("resume", folder_of(tmp_path / "runs").name[:18], "--json")
    assert (code, model_of(out)) == (0, undisturbed(path).model_sha256)


def rounds_on_disk(root: Path) -> int:
    """Return how many rounds a run that is going on has made durable."""
    for state in root.glob("*/state.sqlite"):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(state)) as database:
            return int(database.execute("SELECT count(*) FROM record").fetchone()[0])
    return 0


def interrupt(command: Any) -> tuple[int, str, str]:
    """Send SIGINT, and see to it that the process leaves within two seconds, without a traceback."""
    sent = command.send(signal.SIGINT)
    code, out, err = command.finish()
    assert time.monotonic() - sent < 2
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.parametrize(
    ("at", "workers"),
    [(1, 1), (5, 2), (9, 1), *(pytest.param(at, 2, marks=pytest.mark.slow) for at in (1, 4, 9))],
)
def test_ctrl_c_leaves_a_run_that_resumes(
    at: int, workers: int, *, tmp_path: Path, file: File, start: Any, command: Run, undisturbed: Any
) -> None:
    """After round 9 of 10 it is the last round that is interrupted."""
    path = file(steps=STEPS, engine=f"workers = {workers}")
    running = start("run", path)
    running.wait_for(f"round {at:>2}/10")
    code, out, err = interrupt(running)
    folder = folder_of(tmp_path / "runs")
    assert code == 130 and out == ""
    assert err.endswith(f"error: interrupted; continue with: fedloom resume runs/{folder.name}\n")
    code, out, _ = command("runs", "list")
    assert code == 0 and "interrupted" in out and folder.name in out
    code, out, _ = command("resume", f"runs/{folder.name}", "--json")
    assert (code, model_of(out)) == (0, undisturbed(path).model_sha256)


def test_ctrl_c_before_round_1_leaves_a_run_that_resumes(
    tmp_path: Path, file: File, start: Any, command: Run, undisturbed: Any
) -> None:
    path = file(steps=5 * STEPS, rounds=2)
    running = start("run", path)
    running.wait_until(lambda: rounds_on_disk(tmp_path / "runs") >= 4)  # of the preparations
    code, out, err = interrupt(running)
    assert code == 130 and out == "" and "round" not in err
    assert list_runs(tmp_path / "runs")[0].status == "interrupted"
    code, out, _ = command("resume", "last", "--json")
    assert (code, model_of(out)) == (0, undisturbed(path).model_sha256)


@pytest.mark.parametrize("module", ["typer", "fedloom.cli.failures", "numpy", "msgspec", "pydantic", "threadpoolctl"])
def test_ctrl_c_while_modules_load_leaves_nothing(module: str, tmp_path: Path, file: File, start: Any) -> None:
    """``-X importtime`` tells on standard error when a module has been loaded. Inside typer's own it stays silent."""
    running = start("run", file(), options=("-X", "importtime"))
    running.wait_for(f" {module}\n")
    code, out, err = interrupt(running)
    assert (code, out) == (130, "")
    said = [line for line in err.splitlines() if not line.startswith("import time")]
    assert said in ([], ["error: interrupted"])
    assert not (tmp_path / "runs").exists()


def test_two_runs_at_once_in_one_folder_are_both_correct(
    tmp_path: Path, file: File, start: Any, undisturbed: Any
) -> None:
    path = file(steps=50)
    other = tmp_path / "other.toml"
    other.write_text(path.read_text().replace("seed = 7", "seed = 8"))
    commands = [start("run", each, "--json") for each in (path, other)]
    results = []
    for each in commands:
        code, out, err = each.finish()
        assert (code, err) == (0, "")
        results.append(json.loads(out))
    assert results[0]["run"] != results[1]["run"]
    assert [result["model_sha256"] for result in results] == [
        undisturbed(path).model_sha256, undisturbed(other).model_sha256,
    ]  # fmt: skip
    runs = list_runs(tmp_path / "runs")
    assert {run.run_id for run in runs} == {result["run"] for result in results}
    assert {run.status for run in runs} == {"completed"} and {run.sequence for run in runs} == {1, 2}


def test_a_second_owner_is_refused_while_the_first_runs(tmp_path: Path, file: File, start: Any, command: Run) -> None:
    path = file(steps=20 * STEPS, rounds=200)
    running = start("run", path)
    running.wait_for("round   1/200")
    code, out, err = command("resume", "last")
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: run \S+ is owned by pid {running.process.pid} on host .* since .*\n", err)
    code, out, _ = command("runs", "list")
    assert " running " in out
    assert interrupt(running)[0] == 130


def test_the_same_run_twice_is_bit_equal_across_processes(tmp_path: Path, file: File, start: Any) -> None:
    path = file()
    commands = [start("run", path, "--json", "--output", tmp_path / name) for name in ("one", "two")]
    results = [json.loads(each.finish()[1]) for each in commands]
    assert results[0]["model_sha256"] == results[1]["model_sha256"]
    for name in ("model.safetensors",):
        one, two = (folder_of(tmp_path / root) / name for root in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system limits no file sizes")
def test_a_disk_that_fills_up_pauses_the_run_which_resumes(
    tmp_path: Path, file: File, fedloom_: Run, command: Run, undisturbed: Any
) -> None:
    """A limit on file sizes stands for the disk: saved rounds make the state file grow into it."""
    path = file(rounds=60, steps=1)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000)); "
    code, out, err = fedloom_("run", path, "--save-rounds", script=limited + "from fedloom.cli import main; main()")
    assert code == 1 and out == "" and "Traceback" not in err
    block = err[err.index("error: ") :].splitlines()
    assert block[0].startswith("error: ") and all(line.startswith("       ") for line in block[1:])
    assert "the run is paused" in block[-1] and "fedloom resume runs/" in block[-1]
    (run,) = list_runs(tmp_path / "runs")
    assert run.status in {"paused", "interrupted"}  # the latter where the record found no space either
    code, out, _ = command("resume", "last", "--json")
    assert (code, model_of(out)) == (0, undisturbed(path).model_sha256)
