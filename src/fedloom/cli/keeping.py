"""``fedloom runs export`` and ``fedloom runs rm``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fedloom import store
from fedloom.cli.asking import agreed
from fedloom.cli.output import write_json
from fedloom.errors import StoreError
from fedloom.store.export import export_run
from fedloom.store.lock import is_held
from fedloom.store.removal import check_removable, remove_run


def export(name: str, destination: Path, output: Path, *, json: bool) -> None:
    """Copy a run to a folder or an archive."""
    folder = store.find(output, name)
    names = export_run(folder, destination)
    if json:
        write_json({"run": folder, "destination": destination, "files": names})
        return
    sys.stdout.write(f"{destination}: {', '.join(names)}\n")


def remove(names: Sequence[str], output: Path, *, yes: bool, json: bool) -> None:
    """Remove runs, all of them or, where one cannot be removed, none.

    Raises:
        StoreError: When one is no run or is going on, or nobody has agreed.
    """
    folders = list(dict.fromkeys(store.find(output, name) for name in names))
    for folder in folders:
        check_removable(folder)
        if is_held(folder):
            raise StoreError(f"run {folder.name} is running: interrupt it first. Nothing was removed")
    listed = ", ".join(folder.name for folder in folders)
    if not yes and not agreed(f"Remove {listed} for ever?"):
        raise StoreError(f"{listed}: nothing was removed; a removal is agreed to by --yes")
    for folder in folders:
        remove_run(folder)
    if json:
        write_json({"removed": [str(folder) for folder in folders]})
        return
    sys.stdout.write(f"removed {listed}\n")
