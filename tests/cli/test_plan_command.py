"""``fedloom plan``: the listing of what leaves a client, and that nothing is written or trained by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def test_the_listed_bytes_are_those_that_the_run_counts(tmp_path: Path, file: File, command: Run) -> None:
    path = file(rounds=4)
    code, out, err = command("plan", path, "--json", "--set", "cohort.size=2")
    assert (code, err) == (0, "") and out.count("\n") == 1
    plan = json.loads(out)
    assert not (tmp_path / "runs").exists()
    result = json.loads(command("run", path, "--json", "--set", "cohort.size=2")[1])
    for key in ("digest", "bytes_up", "bytes_down"):
        assert plan[key] == result[key], key
    assert [phase["title"].split(":")[0] for phase in plan["phases"]] == [
        "preparation 1", "preparation 2", "training", "evaluation",
    ]  # fmt: skip


def test_people_read_what_leaves_and_who_can_read_it(file: File, command: Run) -> None:
    code, out, _ = command("plan", file())
    assert code == 0
    for text in ("What leaves a client", "delta/coef", "control", "weight", "goes through mean", "Who provides what"):
        assert text in out, text
    assert out.count("in clear: nothing protects any of this") == 4
    assert "the bytes that the run will count if no client fails" in " ".join(out.split())


def test_nobody_is_asked_when_that_is_not_wanted(file: File, command: Run) -> None:
    code, out, _ = command("plan", file(), "--no-preparations")
    assert code == 0 and "known when preparation 1 (label_set) has been answered" in out
    assert "leave --no-preparations out" in out
    plan = json.loads(command("plan", file(), "--no-preparations", "--json")[1])
    assert plan["bytes_up"] is None and plan["phases"][-1]["client_up"] is None


@pytest.mark.parametrize("env", [{"COLUMNS": "40", "NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}])
def test_a_plan_is_readable_anywhere(env: dict[str, str], file: File, fedloom_: Run) -> None:
    code, out, err = fedloom_("plan", file(), env=env)
    assert (code, err) == (0, "") and "\x1b" not in out
    assert "ascii" not in env.values() or out.isascii()
    (training,) = [line for line in out.splitlines() if line.startswith("training ")]
    assert "none" in training


def test_what_a_run_would_refuse_is_refused(file: File, command: Run) -> None:
    code, out, err = command("plan", file(), "--set", "cohort.size=9")
    assert (code, out) == (2, "") and "9 clients; the data have 4" in err
