"""Rows of a data set in files that processes map: each reads them where they lie, and none has a copy of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
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
from fedloom.experiment.registry import provider, resolve

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
    head, arrays = taken_apart(data)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / _HEAD).write_bytes(head)


def read_rows(folder: Path, base: Path) -> FederatedDataset:
    """Return the data set of a folder; arrays are mapped, not read."""
    arrays = {path.stem: _mapped(path) for path in sorted(folder.glob("*.npy"))}
    return put_together((folder / _HEAD).read_bytes(), arrays, base=base)


def taken_apart(data: FederatedDataset) -> tuple[bytes, dict[str, Vector]]:
    """Return a data set as JSON and arrays; without arrays where its JSON alone builds it.

    Raises:
        DataError: When the data set is neither in memory nor built by a name.
    """
    if isinstance(data, Pooled):
        spec = None if data.spec is None else data.spec.as_json()
        return msgspec.json.encode({"schema": data.columns, "clients": data.roll.names, "spec": spec}), _arrays(data)
    if is_named(data.spec):
        return msgspec.json.encode({"spec": data.spec.as_json()}), {}  # type: ignore[union-attr]
    raise DataError("the data set is an object made in Python: no other process can read it")


def put_together(encoded: bytes, arrays: Mapping[str, Vector], *, base: Path) -> FederatedDataset:
    """Return the data set that ``taken_apart`` took apart, over the arrays as they lie."""
    head = msgspec.json.decode(encoded)
    tree = head["spec"]
    spec = None if tree is None else ComponentSpec(tree["group"], tree["name"], tree["arguments"])
    if "schema" not in head:
        assert spec is not None, "a data set without arrays has a name"
        found: FederatedDataset = resolve(spec, base=base)
        return found
    names = tuple(map(ClientId, head["clients"]))
    return Pooled(
        features=arrays["features"],
        label=arrays["label"],
        roll=Roll(names, arrays["spans"]),
        columns=msgspec.convert(head["schema"], type=Schema),
        texts=arrays.get("texts"),
        order=arrays.get("order"),
        spec=spec,
    )


def is_named(spec: ComponentSpec | None) -> bool:
    """Return whether another process can build a component from its spec: installed packages provide all it names.

    Example:
        >>> is_named(ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 3})), is_named(None)
        (True, False)
        >>> is_named(ComponentSpec("fedloom.stops", "of_my_script", {}))
        False
    """
    return spec is not None and not _made_here(spec.as_json())


def _made_here(tree: Any) -> bool:
    match tree:
        case str():
            return tree == UNNAMED or tree.startswith("local:")
        case {"group": str(group), "name": str(name), "arguments": arguments}:
            return provider(group, name) is None or _made_here(arguments)
        case dict():
            return any(_made_here(item) for item in tree.values())
        case list():
            return any(_made_here(item) for item in tree)
    return False


def _arrays(data: Pooled) -> dict[str, Vector]:
    arrays = {"features": data.features, "label": data.label, "spans": data.roll.spans}
    arrays |= {} if data.texts is None else {"texts": data.texts}
    return arrays | ({} if data.order is None else {"order": data.order})


def _mapped(path: Path) -> Vector:
    # A plain view: every slice of a memmap object costs microseconds more.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray) if os.name == "posix" else np.asarray(mapped)
