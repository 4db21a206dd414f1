from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedloom.errors import StoreError
from fedloom.store import RunFolder, find, list_runs

CREATE_TEN = """
import sys
from pathlib import Path
from fedloom.store import RunFolder
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    RunFolder.create(Path(sys.argv[1]), experiment={}, digest="d", base=Path(), options={}).close()
"""


@pytest.fixture
def three(tmp_path: Path, make_run: Callable[..., RunFolder], write_round: Callable[..., None]) -> list[Path]:
    """Three finished runs, created while the clock went backwards."""
    folders = []
    for start in (3e9, 2e9, 1e9):
        with make_run(tmp_path, start=start, note=f"at {start:.0e}") as run:
            write_round(run, 1)
            run.finish("completed", {"model_sha256": f"{start}", "metrics": {"eval/accuracy": 0.5, "eval/auroc": None}})
            folders.append(run.path)
    return folders


def test_two_processes_may_create_runs_at_once(tmp_path: Path, process: Callable[..., subprocess.Popen[str]]) -> None:
    root = tmp_path / "runs"
    children = [process(CREATE_TEN, root) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        _, err = child.communicate(timeout=50)
        assert child.returncode == 0, err
    runs = list_runs(root)
    assert len({run.run_id for run in runs}) == 20
    assert [run.sequence for run in runs] == list(range(1, 21))
    assert {run.status for run in runs} == {"interrupted"}


def test_order_is_that_of_creation_whatever_the_clock_says(tmp_path: Path, three: list[Path]) -> None:
    runs = list_runs(tmp_path)
    assert [run.folder for run in runs] == three
    assert [run.created[:4] for run in runs] == ["2065", "2033", "2001"]
    assert find(tmp_path, "last") == three[-1]


def test_a_summary_shows_what_the_run_said_last(tmp_path: Path, three: list[Path]) -> None:
    run = list_runs(tmp_path)[0]
    assert (run.status, run.rounds, run.model_sha256) == ("completed", 1, "3000000000.0")
    assert run.metrics == {"eval/accuracy": 0.5, "eval/auroc": None}
    assert (run.note, run.digest) == ("at 3e+09", "d" * 64)


@pytest.mark.parametrize("loss", ["lost", "truncated", "flipped", "no database", "no table", "old columns"])
def test_an_index_is_rebuilt_from_the_folders_without_touching_them(
    tmp_path: Path, three: list[Path], loss: str
) -> None:
    before = list_runs(tmp_path)
    files = {file: file.read_bytes() for folder in three for file in folder.iterdir()}
    index = tmp_path / "index.sqlite"
    data = index.read_bytes()
    index.unlink()
    if loss == "truncated":
        index.write_bytes(data[:5000])
    elif loss == "flipped":
        index.write_bytes(data[:4096] + bytes(byte ^ 255 for byte in data[4096:]))
    elif loss == "no database":
        index.write_text("nothing of the kind\n" * 500)
    elif loss == "no table":
        index.write_bytes(b"")
    elif loss == "old columns":
        index.write_bytes(data.replace(b"rounds", b"rouNdz").replace(b"sequence", b"sequenze"))
    assert list_runs(tmp_path) == before
    assert index.read_bytes() != b""
    assert list_runs(tmp_path) == before
    assert {file: file.read_bytes() for folder in three for file in folder.iterdir()} == files


def test_numbering_goes_on_after_a_lost_index(
    tmp_path: Path, three: list[Path], make_run: Callable[..., RunFolder]
) -> None:
    (tmp_path / "index.sqlite").unlink()
    with make_run(tmp_path, start=0.0) as run:
        assert [one.folder for one in list_runs(tmp_path)] == [*three, run.path]


def test_the_folders_are_the_truth(tmp_path: Path, three: list[Path]) -> None:
    renamed = three[0].rename(tmp_path / "my best run")
    for file in three[1].iterdir():
        file.unlink()
    three[1].rmdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "experiment.json").write_text("{")
    assert [run.folder for run in list_runs(tmp_path)] == [renamed, three[2]]
    assert find(tmp_path, three[0].name) == renamed


def test_a_run_that_finished_without_telling_the_index_is_finished(
    tmp_path: Path, make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_run(tmp_path) as run:
        assert list_runs(tmp_path)[0].status == "running"
        monkeypatch.setattr("fedloom.store.index.refresh", lambda folder: None)
        run.finish("completed with warnings", {})
        assert list_runs(tmp_path)[0].status == "running"
    assert list_runs(tmp_path)[0].status == "completed with warnings"


def test_a_run_nobody_holds_is_interrupted(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    make_run(tmp_path).close()
    assert list_runs(tmp_path)[0].status == "interrupted"


def test_a_run_is_found_by_path_name_or_beginning(tmp_path: Path, three: list[Path]) -> None:
    for name in (str(three[0]), three[0].name, three[0].name[:6]):
        assert find(tmp_path, name) == three[0]
    assert find(tmp_path / "elsewhere", str(three[1])) == three[1]
    with pytest.raises(StoreError, match=r"'20' may be any of .*: give more of the name"):
        find(tmp_path, "20")
    for name in ("19", "", str(tmp_path)):
        with pytest.raises(StoreError, match=r"no run .*; the last ones are"):
            find(tmp_path, name)
    with pytest.raises(StoreError, match="it holds no runs"):
        find(tmp_path / "elsewhere", "last")


def test_listing_makes_no_folder_and_no_index(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "absent") == ()
    assert list_runs(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be a folder"):
        list_runs(tmp_path / "file")
