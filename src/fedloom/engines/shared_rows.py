"""Rows of a data set in files that processes map: each reads them where they lie, and none has a copy of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedloom.core.component import UNNAMED, ComponentSpec
from fedloom.core.data import FederatedDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.core.params import Vector
from fedloom.data import Pooled
from fedloom.data.pooled import Roll
from fedloom.errors import DataError
from fedloom.experiment.registry import resolve

_MEMORY = Path("/dev/shm")
"""Files here are memory, where the system has it."""
_SPARE = 2
"""Room that must be there, as a multiple of what is written."""
_HEAD = "data.json"


@contextmanager
def shared_folder(size: int) -> Iterator[Path]:
    """Yield a private folder for ``size`` bytes of files that live as long as the block."""
    inside = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _SPARE * size else None
    path = Path(tempfile.mkdtemp(prefix="fedloom-", dir=inside))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def shared_bytes(data: FederatedDataset) -> int:
    """Return about how many bytes ``write_rows`` would write."""
    return sum(array.nbytes for array in _arrays(data).values()) if isinstance(data, Pooled) else 0


def write_rows(data: FederatedDataset, folder: Path) -> None:
    """Write what ``read_rows`` needs: arrays for rows in memory, else what builds the data set.

    Raises:
        DataError: When the data set is neither in memory nor built by a name.
    """
    if isinstance(data, Pooled):
        for name, array in _arrays(data).items():
            np.save(folder / f"{name}.npy", array)
        spec = None if data.spec is None else data.spec.as_json()
        head = {"schema": data.columns, "clients": data.roll.names, "spec": spec}
    elif is_named(data.spec):
        head = {"spec": data.spec.as_json()}  # type: ignore[union-attr]
    else:
        raise DataError("the data set is an object made in Python: no other process can read it")
    (folder / _HEAD).write_bytes(msgspec.json.encode(head))


def read_rows(folder: Path, base: Path) -> FederatedDataset:
    """Return the data set of a folder; arrays are mapped, not read."""
    head = msgspec.json.decode((folder / _HEAD).read_bytes())
    tree = head["spec"]
    spec = None if tree is None else ComponentSpec(tree["group"], tree["name"], tree["arguments"])
    if "schema" not in head:
        assert spec is not None, "a data set without arrays has a name"
        found: FederatedDataset = resolve(spec, base=base)
        return found
    names = tuple(map(ClientId, head["clients"]))
    return Pooled(
        features=_mapped(folder, "features"),
        label=_mapped(folder, "label"),
        roll=Roll(names, _mapped(folder, "spans")),
        columns=msgspec.convert(head["schema"], type=Schema),
        texts=_mapped(folder, "texts") if (folder / "texts.npy").exists() else None,
        order=_mapped(folder, "order") if (folder / "order.npy").exists() else None,
        spec=spec,
    )


def is_named(spec: ComponentSpec | None) -> bool:
    """Return whether another process can build a component from its spec.

    Example:
        >>> is_named(ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 3})), is_named(None)
        (True, False)
    """
    return spec is not None and not _made_here(spec.as_json())


def _made_here(tree: Any) -> bool:
    match tree:
        case str():
            return tree == UNNAMED or tree.startswith("local:")
        case dict():
            return any(_made_here(item) for item in tree.values())
        case list():
            return any(_made_here(item) for item in tree)
    return False


def _arrays(data: Pooled) -> dict[str, Vector]:
    arrays = {"features": data.features, "label": data.label, "spans": data.roll.spans}
    arrays |= {} if data.texts is None else {"texts": data.texts}
    return arrays | ({} if data.order is None else {"order": data.order})


def _mapped(folder: Path, name: str) -> Vector:
    # A plain view: every slice of a memmap object costs microseconds more.
    mapped = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray) if os.name == "posix" else np.asarray(mapped)
