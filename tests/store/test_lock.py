from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedloom.errors import StoreError
from fedloom.store import RunFolder, list_runs
from fedloom.store.lock import RunLock, is_held

OWN = """
import sys
from pathlib import Path
from fedloom.store import RunFolder
with RunFolder.open(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_second_owner_in_another_process_is_told_who_the_first_is(
    run: RunFolder, process: Callable[..., subprocess.Popen[str]]
) -> None:
    child = process(OWN, run.path)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert f"run {run.run_id} is owned by pid {os.getpid()} on host {platform.node()} since 20" in err


def test_a_lock_is_free_after_a_kill_of_its_owner(
    run: RunFolder, process: Callable[..., subprocess.Popen[str]]
) -> None:
    run.close()
    child = process(OWN, run.path)
    assert child.stdout is not None
    assert child.stdout.readline() == "owned\n"
    assert is_held(run.path)
    assert list_runs(run.path.parent)[0].status == "running"
    with pytest.raises(StoreError, match=f"is owned by pid {child.pid} on host"):
        RunFolder.open(run.path)
    child.kill()
    child.wait()
    assert (run.path / "owner.json").exists()
    assert not is_held(run.path)
    assert list_runs(run.path.parent)[0].status == "interrupted"
    with RunFolder.open(run.path):
        assert is_held(run.path)


def test_a_second_owner_in_the_same_process_is_refused(run: RunFolder) -> None:
    with pytest.raises(StoreError, match=f"is owned by pid {os.getpid()}"):
        RunFolder.open(run.path)
    assert is_held(run.path)


def test_a_release_leaves_no_owner_behind(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, since="now")
    assert (tmp_path / "owner.json").exists()
    lock.release()
    lock.release()
    assert [file.name for file in tmp_path.iterdir()] == ["lock.sqlite"]
    assert not is_held(tmp_path)


def test_a_folder_without_a_lock_is_nobodys(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_cannot_be_read_is_still_an_owner(run: RunFolder) -> None:
    (run.path / "owner.json").write_text("{")
    with pytest.raises(StoreError, match="another process, which has not said who it is"):
        RunFolder.open(run.path)
