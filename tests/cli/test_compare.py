"""``fedloom runs compare`` and its curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedloom.cli.sparkline import HEIGHTS, PLAIN, levels_for, sparkline
from fedloom.reports.differing import different_settings, different_versions
from fedloom.store import list_runs

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def two(tmp_path: Path, file: File, command: Run) -> tuple[str, str]:
    """Two runs that differ in the learner's penalty."""
    path = file(rounds=4)
    for penalty in (0.01, 0.5):
        assert command("run", path, "--set", f"learner.l2={penalty}", "--json")[0] == 0
    first, second = (run.run_id for run in list_runs(tmp_path / "runs"))
    return first, second


def test_figures_stand_side_by_side_with_their_difference(two: tuple[str, str], command: Run) -> None:
    code, out, err = command("runs", "compare", *two)
    assert (code, err) == (0, "")
    found = json.loads(command("runs", "compare", *two, "--json")[1])
    values = [found["runs"][letter]["metrics"]["eval/auroc"] for letter in "AB"]
    row = next(line.split() for line in out.splitlines() if line.startswith("eval/auroc "))
    assert row[1:] == [f"{values[0]:.4f}", f"{values[1]:.4f}", f"{values[1] - values[0]:+.4f}"]
    assert found["settings"] == {"learner.l2": {"A": 0.01, "B": 0.5}} and found["versions"] == {}
    assert "settings that differ\n  learner.l2\n    A  0.01\n    B  0.5\n" in out
    assert "versions: the same" in out and "2 digests" in out and "the models differ" in out
    curves = [line for line in out.splitlines() if line.startswith(("  A ", "  B "))]
    assert len(curves) >= 4 and any(mark in curves[0] for mark in HEIGHTS)


def test_a_run_and_its_repetition_are_the_same(tmp_path: Path, file: File, command: Run) -> None:
    path = file(rounds=2)
    for _ in range(2):
        command("run", path, "--json")
    names = [run.run_id for run in list_runs(tmp_path / "runs")]
    out = command("runs", "compare", *names)[1]
    assert "settings: the same" in out and "one digest: the same experiment" in out
    assert "the models are the same, byte by byte" in out


def test_an_earlier_stop_is_said(tmp_path: Path, file: File, command: Run) -> None:
    path = file(rounds=2)
    for rounds in (2, 3):
        command("run", path, "--json", "--set", f"stop.rounds={rounds}")
    names = [run.run_id for run in list_runs(tmp_path / "runs")]
    out = command("runs", "compare", *names)[1]
    assert "they were stopped after 2, 3 rounds" in out


def test_a_page_is_written_into_a_new_file(two: tuple[str, str], tmp_path: Path, command: Run) -> None:
    assert command("runs", "compare", *two, "--html", "both.html") == (0, "both.html\n", "")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    found = json.loads(command("runs", "compare", *two, "--html", "again.html", "--json")[1])
    assert found["html"] == "again.html" and (tmp_path / "again.html").read_text(encoding="utf-8") == page
    for letter in "AB":
        value = found["runs"][letter]["metrics"]["eval/auroc"]
        assert f'data-metric="eval/auroc" data-value="{value!r}" data-run="{letter}"' in page
    assert "learner.l2 = 0.01" in page and f'href="./runs/{two[0]}/report.html"' in page
    for options in ((), ("--json",)):
        code, out, err = command("runs", "compare", *two, "--html", "both.html", *options)
        assert code == 2 and "both.html exists and is left as it is" in out + err
    assert (tmp_path / "both.html").read_text(encoding="utf-8") == page


def test_what_cannot_be_compared_is_refused(two: tuple[str, str], tmp_path: Path, command: Run) -> None:
    code, out, err = command("runs", "compare", two[0])
    assert (code, out) == (2, "") and "expected 2 to 26" in err
    code, _, err = command("runs", "compare", two[0], "nothing")
    assert code == 2 and "no run 'nothing'" in err
    (tmp_path / "runs" / two[1] / "record.json").unlink()
    code, _, err = command("runs", "compare", *two)
    assert code == 2 and "has not finished" in err
    code, _, err = command("runs", "compare", *two, "--html", tmp_path / "page.html")
    assert code == 2 and "has not finished" in err and not (tmp_path / "page.html").exists()
    code, _, err = command("runs", "compare", *[two[0]] * 27)
    assert code == 2 and "received 27 runs; expected 2 to 26" in err


@pytest.mark.parametrize("env", [{"COLUMNS": "40"}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_comparison_is_readable_anywhere(env: dict[str, str], two: tuple[str, str], fedloom_: Run) -> None:
    code, out, err = fedloom_("runs", "compare", *two, env=env)
    assert (code, err) == (0, "") and "\x1b" not in out
    if "PYTHONIOENCODING" in env:
        assert out.isascii() and "?" not in out
    else:
        curves = [line for line in out.splitlines() if line.startswith(("  A ", "  B "))]
        assert curves and max(map(len, curves)) <= 40


def test_settings_are_compared_leaf_by_leaf() -> None:
    trees = {
        "A": {"seed": 1, "stop": {"group": "fedloom.stops", "name": "max_rounds", "arguments": {"rounds": 3}}},
        "B": {"seed": 1, "stop": {"group": "fedloom.stops", "name": "max_rounds", "arguments": {"rounds": 4}}},
        "C": {"seed": 1, "versions": {"fedloom": "9"}},
    }
    assert different_settings(trees) == {
        "stop.name": {"A": "max_rounds", "B": "max_rounds"},
        "stop.rounds": {"A": 3, "B": 4},
    }


def test_versions_that_differ_are_named_and_silence_is_no_difference() -> None:
    one, other = {"numpy": "2.0", "blas": "openblas"}, {"numpy": "2.1", "blas": "openblas"}
    assert different_versions({"A": one, "B": other, "C": {}}) == {"numpy": {"A": "2.0", "B": "2.1"}}
    assert different_versions({"A": one, "B": {}}) == {}


def test_curves_of_one_span_lie_below_each_other() -> None:
    span, low, high = (1.0, 4.0), 0.0, 1.0
    whole = [(1.0, 0.0), (2.0, 0.4), (3.0, 0.7), (4.0, 1.0)]
    assert sparkline(whole, span=span, low=low, high=high, width=4, levels="1234") == "1234"
    assert sparkline(whole[:2], span=span, low=low, high=high, width=4, levels="1234") == "12  "
    assert sparkline(whole[2:], span=span, low=low, high=high, width=4, levels="1234") == "  34"
    assert sparkline([(1.0, 5.0)], span=(1.0, 1.0), low=5.0, high=5.0, width=3, levels="12") == "1  "
    assert sparkline([], span=span, low=low, high=high, width=3) == "   "
    many = sparkline([(n, n / 999) for n in range(1000)], span=(0, 999), low=0, high=1, width=20)
    assert list(many) == sorted(many) and set(many) == set(HEIGHTS) and len(many) == 20
    assert levels_for("utf-8") == HEIGHTS and levels_for("latin-1") == levels_for("no such encoding") == PLAIN
