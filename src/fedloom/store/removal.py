"""Removing a run: never one that is going on, never a folder that is something else as well."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from fedloom.errors import StoreError
from fedloom.store.documents import EXPERIMENT
from fedloom.store.export import EXPORTED
from fedloom.store.faults import explained
from fedloom.store.lock import RunLock

OURS = (*EXPORTED, "state.sqlite*", "lock.sqlite*", "owner.json", ".*.tmp")
"""What a run folder may hold."""


def check_removable(folder: Path) -> None:
    """Check that a folder is a run and nothing else.

    Raises:
        StoreError: When it is no run, a link, or holds what no run has written.
    """
    if folder.is_symlink() or not (folder / EXPERIMENT).is_file():
        raise StoreError(f"{folder} is no run: only a folder with {EXPERIMENT} in it is removed")
    with explained(folder):
        others = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    if others:
        raise StoreError(
            f"{folder} holds what no run has written ({', '.join(others[:3])}): move it away, then remove the run"
        )


def remove_run(folder: Path) -> None:
    """Remove a run folder and all that it holds; a removal that is cut off leaves what can be removed again.

    Raises:
        StoreError: When it is no run, is going on, or may not be removed.
    """
    check_removable(folder)
    lock = RunLock(folder, since=datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        with explained(folder):
            last = [folder / EXPERIMENT]
            kept = {
                path for path in folder.iterdir() if fnmatch(path.name, "lock.sqlite*") or path.name == "owner.json"
            }
            for path in [path for path in folder.iterdir() if path not in {*last, *kept}] + last:
                path.unlink()
    finally:
        lock.release()
    with explained(folder):
        for path in list(folder.iterdir()):
            path.unlink()
        folder.rmdir()


def _is_ours(path: Path) -> bool:
    return not path.is_dir() and any(fnmatch(path.name, pattern) for pattern in OURS)
