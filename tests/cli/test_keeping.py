"""``fedloom runs export`` and ``fedloom runs rm``."""

from __future__ import annotations

import io
import json
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.cli import keeping
from fedloom.errors import StoreError
from fedloom.store import list_runs, read_model
from fedloom.store.lock import RunLock

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def done(tmp_path: Path, file: File, command: Run) -> Path:
    """A completed run."""
    assert command("run", file(rounds=2), "--json", "--save-rounds")[0] == 0
    return list_runs(tmp_path / "runs")[-1].folder


def test_an_export_has_the_model_and_the_documents_and_no_state(tmp_path: Path, done: Path, command: Run) -> None:
    code, out, err = command("runs", "export", "last", "copy")
    assert (code, err) == (0, "") and out.startswith("copy: experiment.json, record.json, ")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"experiment.json", "record.json", "metrics.csv", "model.safetensors", "rounds.npz"} <= names
    assert not any("sqlite" in name or name.endswith(".tmp") for name in names)
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (done / name).read_bytes()
    assert read_model(tmp_path / "copy/model.safetensors")[1].shape == (4,)
    assert command("runs", "show", tmp_path / "copy")[0] == 0


def test_an_archive_is_the_same_bytes_each_time(tmp_path: Path, done: Path, command: Run) -> None:
    assert command("runs", "export", "last", "one.zip", "--json")[0] == 0
    assert command("runs", "export", "last", "two.zip")[0] == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read(f"{done.name}/record.json") == (done / "record.json").read_bytes()
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_export_overwrites_nothing(tmp_path: Path, done: Path, command: Run) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.zip").write_text("mine")
    for name in ("mine", "mine.zip"):
        code, out, err = command("runs", "export", "last", name)
        assert (code, out) == (2, "") and f"{name} exists and is left as it is" in err
    assert (tmp_path / "mine.zip").read_text() == "mine" and not list((tmp_path / "mine").iterdir())
    code, _, err = command("runs", "export", "last", "no/such/folder")
    assert code == 2 and err.startswith("error: ")
    with_lock = RunLock(done, since="now")
    code, _, err = command("runs", "export", "last", "other")
    with_lock.release()
    assert code == 2 and "is running" in err and not (tmp_path / "other").exists()


def test_a_run_is_removed_with_its_name(tmp_path: Path, done: Path, file: File, command: Run) -> None:
    command("run", file(rounds=1), "--json")
    code, out, err = command("runs", "rm", done.name, "--yes")
    assert (code, err) == (0, "") and out == f"removed {done.name}\n"
    assert not done.exists()
    (left,) = list_runs(tmp_path / "runs")
    assert left.folder != done
    command("run", file(rounds=1), "--json")
    assert [run.sequence for run in list_runs(tmp_path / "runs")] == [2, 3]
    assert json.loads(command("runs", "rm", "last", left.run_id, "--yes", "--json")[1])["removed"]
    assert list_runs(tmp_path / "runs") == ()


def test_nobody_agrees_without_a_terminal(done: Path, command: Run) -> None:
    code, out, err = command("runs", "rm", "last")
    assert (code, out) == (2, "") and "a removal is agreed to by --yes" in err and done.exists()


@pytest.mark.parametrize(
    ("answer", "gone"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_terminal_is_asked(
    answer: str, gone: bool, done: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, _, err = command("runs", "rm", "last")
    assert (code == 0) is gone is not done.exists()
    assert err.startswith(f"Remove {done.name} for ever? [y/N] ")


def test_what_is_no_run_or_more_than_a_run_stays(tmp_path: Path, done: Path, file: File, command: Run) -> None:
    command("run", file(rounds=1), "--json")
    (done / "notes.txt").write_text("mine")
    code, _, err = command("runs", "rm", "last", done.name, "--yes")
    assert code == 2 and "holds what no run has written (notes.txt)" in err
    assert len(list_runs(tmp_path / "runs")) == 2, "all or none"
    (done / "notes.txt").unlink()
    (tmp_path / "link").symlink_to(done, target_is_directory=True)
    code, _, err = command("runs", "rm", "link", "--yes")
    assert code == 2 and "is no run" in err and done.exists()
    code, _, err = command("runs", "rm", tmp_path, "--yes")
    assert code == 2 and "no run" in err


def test_a_run_that_is_going_on_is_not_removed(tmp_path: Path, file: File, start: Any, command: Run) -> None:
    running = start("run", file(steps=20_000, rounds=200))
    running.wait_for("round   1/200")
    code, _, err = command("runs", "rm", "last", "--yes")
    assert code == 2 and "is running: interrupt it first" in err
    running.send(signal.SIGINT)
    assert running.finish()[0] == 130
    assert command("runs", "rm", "last", "--yes")[0] == 0 and not list_runs(tmp_path / "runs")


def test_a_run_that_begins_between_the_look_and_the_removal_stays(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = RunLock(done, since="now")
    monkeypatch.setattr(keeping, "is_held", lambda _: False)
    with pytest.raises(StoreError, match="is owned by"):
        keeping.remove([str(done)], done.parent, yes=True, json=False)
    lock.release()
    assert (done / "record.json").exists() and (done / "state.sqlite").exists()
