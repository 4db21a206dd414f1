"""What of a run may be given to others: its documents, model and figures; never the state that a resume needs."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from pathlib import Path

from fedloom.errors import StoreError
from fedloom.store.documents import EXPERIMENT, RECORD
from fedloom.store.faults import explained
from fedloom.store.lock import is_held

EXPORTED = (
    EXPERIMENT, RECORD, "metrics.csv", "metrics.parquet", "model.safetensors", "rounds.npz", "report.html", "run.log",
)  # fmt: skip
"""Files of a run folder that go with it, those that are there."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows: the same run gives the same archive."""


def export_run(folder: Path, destination: Path) -> tuple[str, ...]:
    """Copy a run to a new folder, or into a new archive where the name ends in ``.zip``; return the names of its files.

    Raises:
        StoreError: When the run is going on, the destination is there already, or it cannot be written.
    """
    if is_held(folder):
        raise StoreError(f"run {folder.name} is running: wait for its end, or interrupt it")
    if destination.exists() or destination.is_symlink():
        raise StoreError(f"{destination} exists and is left as it is; name another destination")
    names = tuple(name for name in EXPORTED if (folder / name).is_file())
    if EXPERIMENT not in names:
        raise StoreError(f"{folder} is no run: it has no {EXPERIMENT}")
    size = sum((folder / name).stat().st_size for name in names)
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
    with explained(destination, needs=size):
        try:
            if destination.suffix.lower() == ".zip":
                _write_archive(folder, names, temporary, inside=folder.absolute().name)
            else:
                temporary.mkdir()
                for name in names:
                    shutil.copyfile(folder / name, temporary / name)
            os.rename(temporary, destination)  # noqa: PTH104  (Path.rename says the same of a folder and a file)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True) if temporary.is_file() else None
            raise
    return names


def _write_archive(folder: Path, names: tuple[str, ...], path: Path, *, inside: str) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{inside}/{name}", _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
