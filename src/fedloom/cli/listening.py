"""Where a coordinator of this host listens: it chooses ports itself where its settings say 0, and writes them down."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedloom.engines.coordinator_folder import CoordinatorFolder
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.owned_files import write_owned
from fedloom.store.lock import is_held

_FILE = "listening.json"


def announce(folder: CoordinatorFolder, ports: Ports) -> None:
    """Write down where the coordinator of a folder listens, after it has begun to."""
    write_owned(_path(folder), msgspec.json.encode(ports))


def listening(folder: CoordinatorFolder) -> Ports | None:
    """Return where the coordinator of a folder listens; None: no process serves it."""
    path = _path(folder)
    if not folder.store.exists() or not is_held(folder.store) or not path.exists():
        return None
    return msgspec.json.decode(path.read_bytes(), type=Ports)


def forget(folder: CoordinatorFolder) -> None:
    """Take back what ``announce`` wrote: the process ends."""
    _path(folder).unlink(missing_ok=True)


def _path(folder: CoordinatorFolder) -> Path:
    return folder.path / _FILE
