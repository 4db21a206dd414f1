from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedloom.core.events import DpEvent, GaussianDpEvent, NonPrivateDpEvent, PoissonSampledDpEvent
from fedloom.core.ids import ClientId
from fedloom.errors import StoreError
from fedloom.runtime.record import RoundRecord
from fedloom.store import RunFolder, Saved, list_runs

EMPTY = Saved(state=None, clients={}, records=(), params={}, fingerprint=None)


def test_a_new_run_is_named_by_time_and_says_what_was_asked(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    with make_run(tmp_path / "new" / "runs", start=1_795_335_330.0, save_rounds=True) as run:
        assert run.path.parent == tmp_path / "new" / "runs"
        assert run.run_id == run.path.name
        assert run.path.name.startswith("20261122T")
        assert len(run.path.name) == len("20261121T081530Z-3fa9")
        document = json.loads((run.path / "experiment.json").read_text())
        assert document["experiment"] == run.experiment == {"seed": 7, "learner": {"l2": 1e-3}}
        assert document["digest"] == run.digest == "d" * 64
        assert document["base"] == run.base.as_posix() == "/data"
        assert document["options"] == run.options == {"save_rounds": True}
        assert run.read() == EMPTY


def test_a_folder_that_exists_is_never_taken(
    tmp_path: Path, make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    suffixes = iter(["3fa9", "3fa9", "11aa"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(suffixes) if size == 2 else os.urandom(size).hex())
    with make_run(tmp_path, start=0.0) as first, make_run(tmp_path, start=0.0) as second:
        assert (first.path.name[-4:], second.path.name[-4:]) == ("3fa9", "11aa")


def test_a_checkpoint_comes_back_as_it_was_written(run: RunFolder, write_round: Callable[..., None]) -> None:
    write_round(run, 1)
    write_round(run, 2, clients=("b", "c"))
    path, saved, events = run.path, run.read(), run.events()
    run.close()
    with RunFolder.open(path) as resumed:
        assert resumed.read() == saved
        assert resumed.events() == events
        assert (resumed.run_id, resumed.digest, resumed.base) == (run.run_id, run.digest, run.base)
        assert (resumed.experiment, resumed.options) == (run.experiment, run.options)
    assert saved.state == b"state" + b"\2" * 300
    assert saved.clients == {"a": b"a" + b"\1" * 300, "b": b"b" + b"\2" * 300, "c": b"c" + b"\2" * 300}
    assert [record.round for record in saved.records] == [1, 2]
    assert sorted(saved.params) == [1, 2]
    assert saved.fingerprint == "rows-2"


def _write(run: RunFolder, **changes: object) -> None:
    parts: dict[str, object] = {"clients": (), "records": (), "params": (), "events": (), "fingerprint": None}
    run.write(**{"state": b"", **parts, **changes})  # type: ignore[arg-type]


def test_records_keep_figures_that_json_cannot_hold(run: RunFolder, make_record: Callable[..., RoundRecord]) -> None:
    _write(run, records=[(0, make_record(1, loss=math.inf, auroc=None, third=1 / 3))])
    assert run.read().records[0].metrics == {"loss": math.inf, "auroc": None, "third": 1 / 3}


def test_a_repeated_round_replaces_its_record_and_keeps_its_event(
    run: RunFolder, make_record: Callable[..., RoundRecord]
) -> None:
    events: list[tuple[int, int, int, DpEvent]] = [
        (1, 10, 0, NonPrivateDpEvent()),
        (1, 2, 0, PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0))),
    ]
    _write(run, records=[(0, make_record(1, loss=3.0))], events=events, fingerprint="f")
    _write(run, records=[(0, make_record(1, loss=2.0))], events=[(1, 10, 0, GaussianDpEvent(1.0))])
    assert run.read().records == (make_record(1, loss=2.0),)
    assert run.read().fingerprint is None
    assert run.events() == (events[1], events[0])


def test_any_client_name_is_a_key(run: RunFolder) -> None:
    clients = {ClientId(name): name.encode() for name in ("", "seal", "state", "0", "0/1", "Zürich 东", "a'; --")}
    _write(run, clients=clients.items())
    assert run.read().clients == clients


def test_a_write_that_fails_half_way_leaves_the_checkpoint_before(
    run: RunFolder, write_round: Callable[..., None]
) -> None:
    write_round(run, 1)
    saved, events = run.read(), run.events()

    def clients() -> Iterator[tuple[ClientId, bytes]]:
        yield ClientId("a"), b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _write(run, state=b"new", clients=clients(), events=[(1, 9, 0, NonPrivateDpEvent())])
    assert (run.read(), run.events()) == (saved, events)
    write_round(run, 2)
    assert run.read().fingerprint == "rows-2"


def test_a_full_disk_leaves_the_checkpoint_before_and_says_how_much_is_needed(
    run: RunFolder, write_round: Callable[..., None]
) -> None:
    write_round(run, 1)
    saved = run.read()
    database = run._state._database  # the limit is one of the connection
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(StoreError, match=r"no space in .*: needs about 1\.0 MB, has .*; free some and resume"):
        _write(run, state=bytes(1_000_000))
    assert run.read() == saved
    database.execute(f"PRAGMA max_page_count={pages + 10_000}")
    _write(run, state=bytes(1_000_000))
    assert run.read().state == bytes(1_000_000)


CHECKPOINT = """
import os, signal, sys
from pathlib import Path
from fedloom.store import RunFolder
run = RunFolder.create(Path(sys.argv[1]), experiment={}, digest="d", base=Path(), options={})
print(run.path, flush=True)
def clients(number):
    for client in range(200):
        yield f"client-{client}", bytes([number]) * 10_000
        if number == 2 and client == 150:
            os.kill(os.getpid(), signal.SIGKILL)
def write(number):
    run.write(state=bytes([number]), clients=clients(number), records=[], params=[], events=[], fingerprint=None)
write(1)
if sys.argv[2] == "after":
    os.kill(os.getpid(), signal.SIGKILL)
write(2)
"""


@pytest.mark.parametrize("moment", ["during", "after"])
def test_a_kill_leaves_the_last_checkpoint_whole_and_the_lock_free(
    tmp_path: Path, process: Callable[..., subprocess.Popen[str]], moment: str
) -> None:
    child = process(CHECKPOINT, tmp_path, moment)
    out, err = child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL, err
    assert [run.status for run in list_runs(tmp_path)] == ["interrupted"]
    folder, copy = Path(out.strip()), tmp_path / "copy"
    copy.mkdir()
    shutil.copy(folder / "state.sqlite", copy)
    for path in (folder, copy):
        with RunFolder.open(path) as run:
            saved = run.read()
        assert saved.state == b"\1"
        assert saved.clients == {f"client-{client}": b"\1" * 10_000 for client in range(200)}


def test_finish_writes_the_record_for_people(run: RunFolder, make_record: Callable[..., RoundRecord]) -> None:
    skipped = replace(make_record(1), status="skipped")
    _write(run, records=[(0, skipped), (1, make_record(2, loss=math.nan))])
    run.finish("completed", {"model_sha256": "ab", "metrics": {"eval/accuracy": 0.5}})
    document = json.loads((run.path / "record.json").read_text())
    assert (document["run_id"], document["status"], document["rounds"]) == (run.run_id, "completed", 1)
    assert document["summary"] == {"model_sha256": "ab", "metrics": {"eval/accuracy": 0.5}}
    assert [one["status"] for one in document["records"]] == ["skipped", "closed"]
    assert document["records"][1]["metrics"] == {"loss": None}


def test_looking_at_a_finished_run_changes_nothing_of_it(run: RunFolder, write_round: Callable[..., None]) -> None:
    write_round(run, 1)
    run.finish("completed", {})
    run.close()
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with RunFolder.open(run.path) as again:
        again.read()
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before
    assert list_runs(run.path.parent)[0].status == "completed"


def test_going_on_with_a_finished_run_makes_it_unfinished(run: RunFolder, write_round: Callable[..., None]) -> None:
    write_round(run, 1)
    run.finish("paused", {"note": "n"})
    run.close()
    with RunFolder.open(run.path) as again:
        write_round(again, 2)
    assert list_runs(run.path.parent)[0].status == "interrupted"
    (run.path.parent / "index.sqlite").unlink()
    assert list_runs(run.path.parent)[0].status == "interrupted"


def test_a_resume_removes_what_a_killed_writer_left(run: RunFolder) -> None:
    run.close()
    left = run.path / ".model.safetensors.0a0a0a0a.tmp"
    left.write_bytes(b"half")
    with RunFolder.open(run.path):
        assert not left.exists()


def test_a_resume_needs_the_state_file_alone(run: RunFolder, write_round: Callable[..., None], tmp_path: Path) -> None:
    write_round(run, 1)
    saved = run.read()
    run.close()
    other = tmp_path / "elsewhere" / "copy"
    other.mkdir(parents=True)
    shutil.copy(run.path / "state.sqlite", other)
    with RunFolder.open(other) as moved:
        assert (moved.read(), moved.experiment, moved.run_id) == (saved, run.experiment, run.run_id)
        write_round(moved, 2)
        moved.finish("completed", {})
    assert not (other.parent / "index.sqlite").exists()


def test_a_closed_run_refuses_work(run: RunFolder, write_round: Callable[..., None]) -> None:
    run.close()
    run.close()
    with pytest.raises(StoreError, match="is closed"):
        write_round(run, 1)
    with pytest.raises(StoreError, match="is closed"):
        run.read()


def test_what_is_no_run_is_refused(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        RunFolder.open(tmp_path / "absent")
    with pytest.raises(StoreError, match="holds neither"):
        RunFolder.open(tmp_path)
    run.close()
    (run.path / "state.sqlite").unlink()
    with pytest.raises(StoreError, match=r"state\.sqlite is missing: restore the folder from a backup"):
        RunFolder.open(run.path)
    (run.path / "state.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"state\.sqlite is a folder; a file is expected"):
        RunFolder.open(run.path)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    (tmp_path / "runs").write_text("")
    for root in (tmp_path / "runs", tmp_path / "runs" / "below"):
        with pytest.raises(StoreError, match="cannot be a folder: a file is in the way"):
            make_run(root)


def test_a_run_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    make_run(tmp_path).close()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="no space in"):
        make_run(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert len(list_runs(tmp_path)) == 1


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from fedloom.errors import StoreError
from fedloom.store import RunFolder, list_runs
if os.getuid() == 0:
    os.setuid(65534)
root = Path(sys.argv[1])
print([run.status for run in list_runs(root)])
for work in (
    lambda: RunFolder.create(root, experiment={}, digest="d", base=Path(), options={}),
    lambda: RunFolder.open(next(root.glob("*-*"))),
):
    try:
        work()
    except StoreError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no user ids")
def test_a_folder_that_may_not_be_written_is_refused_with_path_and_uid(
    make_run: Callable[..., RunFolder], process: Callable[..., subprocess.Popen[str]]
) -> None:
    # pytest's own folders may not be entered by another user
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "runs"
        with make_run(root) as run:
            run.finish("completed", {})
        Path(name).chmod(0o755)
        for path in (run.path, root):
            path.chmod(0o555)
        out, err = process(UNPRIVILEGED, root).communicate(timeout=30)
        for path in (root, run.path):
            path.chmod(0o755)
    private = [folder for folder in Path(sys.base_prefix).parents if not folder.stat().st_mode & 0o001]
    if not out and private:
        pytest.skip(f"another user cannot import from this interpreter: {private[0]} is closed to it")
    assert out.splitlines()[0] == "['completed']", err
    assert len(out.splitlines()) == 3, err
    for line, folder in zip(out.splitlines()[1:], (root, run.path), strict=True):
        assert line.startswith(str(folder))
        assert f"belongs to uid {os.getuid()}" in line
        assert "cannot be written" in line
