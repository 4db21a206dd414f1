"""Files for people and other programs, each written whole or not at all.

A file is written under another name in the same folder, flushed to the disk, and then renamed: a kill at any moment
leaves the old file or the new one. What a killed writer leaves is named ``.*.tmp`` and ignored.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from fedloom.core.params import Leaf, ParamSpec, Vector, model_sha256
from fedloom.errors import StoreError
from fedloom.store.faults import damaged, explained

LEAVES = "leaves"
"""Metadata key of the layout: names, shapes and kinds in the order of the vector, which safetensors does not keep."""
SHA256 = "model_sha256"
"""Metadata key of the model's identity, compared when the file is read."""

_Kind = Literal["parameter", "statistic"]


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all.

    Raises:
        StoreError: When the file cannot be written; what was there is unchanged.
    """
    data = text.encode()
    write_whole(path, lambda file: file.write(data), size=len(data))


def write_model(path: Path, layout: ParamSpec, params: Vector, metadata: Mapping[str, str]) -> None:
    """Write a model as ``safetensors``: one array per leaf, and what is needed to use it in the metadata.

    Args:
        path: Usually ``model.safetensors`` in a run folder.
        layout: Names and shapes of the vector.
        params: Shape ``(d,)``.
        metadata: Text by name: digest, schema, prepared. ``leaves`` and ``model_sha256`` are added.

    Raises:
        StoreError: When the file cannot be written, or the metadata uses one of the two names for something else.
    """
    own = {LEAVES: leaves_json(layout), SHA256: model_sha256(layout, params)}
    for name, value in own.items():
        if metadata.get(name, value) != value:
            raise StoreError(
                f"write_model received metadata {name!r} of its own; that name is taken by the file format"
            )
    leaves = layout.unflatten(np.ascontiguousarray(params))
    data = safetensors.numpy.save(leaves)
    header, arrays = _with_metadata(data, {**metadata, **own})
    write_whole(path, lambda file: (file.write(header), file.write(arrays)), size=len(data))


_PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""First bytes of pickles, and of the archives of pickles that torch.save writes."""


def read_model(path: Path) -> tuple[ParamSpec, Vector, dict[str, str]]:
    """Return layout, params and metadata of a model file, ``model_sha256`` among the latter.

    Raises:
        StoreError: When the file is absent, damaged, or was not written by ``write_model``.
    """
    with explained(path):
        data = path.read_bytes()
    try:
        metadata = _metadata(data)
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, msgspec.DecodeError, ValueError, KeyError) as error:
        if data.startswith(_PICKLED):
            raise StoreError(
                f"{path} is a pickle or an archive, and no model that fedloom wrote: those can run code, and are never "
                "loaded. Expected the model.safetensors of a run"
            ) from None
        raise damaged(path, error) from error
    if LEAVES not in metadata or SHA256 not in metadata:
        raise StoreError(f"{path} names no layout: it is not a model that fedloom wrote")
    try:
        entries = msgspec.json.decode(metadata.pop(LEAVES), type=list[tuple[str, tuple[int, ...], _Kind]])
        layout = ParamSpec(tuple(Leaf(*entry) for entry in entries))
        params = np.concatenate([arrays[leaf.name].reshape(leaf.size) for leaf in layout.leaves] or [np.empty(0)])
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise damaged(path, error) from error
    if model_sha256(layout, params) != metadata[SHA256]:
        raise damaged(path, "its digest differs")
    params.setflags(write=False)
    return layout, params, metadata


def read_model_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a model file; its arrays stay unread, so that a large one costs nothing.

    Raises:
        StoreError: When the file is absent, or no header is where one was written.
    """
    with explained(path), path.open("rb") as file:
        data = file.read(8)
        data += file.read(min(int.from_bytes(data, "little"), path.stat().st_size))
    try:
        return _metadata(data)
    except (msgspec.DecodeError, KeyError) as error:
        raise damaged(path, error) from error


def write_rounds(path: Path, params: Vector, layout: ParamSpec) -> None:
    """Write the params of every round as ``npz``: ``params`` and ``leaves`` (JSON of ``[name, shape, kind]``).

    Args:
        path: Usually ``rounds.npz`` in a run folder.
        params: Shape ``(rounds + 1, d)``; row 0 is the start.
        layout: Names and shapes of a row.

    Raises:
        StoreError: When shape and layout differ, or the file cannot be written.
    """
    if params.ndim != 2 or params.shape[1] != layout.size:
        raise StoreError(f"write_rounds received params of shape {params.shape}; expected (rounds + 1, {layout.size})")
    leaves = np.array(leaves_json(layout))
    write_whole(path, lambda file: np.savez(file, params=params, leaves=leaves), size=params.nbytes)


def leaves_json(layout: ParamSpec) -> str:
    """Return a layout as the JSON list that files carry.

    Example:
        >>> leaves_json(ParamSpec((Leaf("coef", (1, 2)), Leaf("intercept", (1,)))))
        '[["coef",[1,2],"parameter"],["intercept",[1],"parameter"]]'
    """
    return msgspec.json.encode([[leaf.name, leaf.shape, leaf.kind] for leaf in layout.leaves]).decode()


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, size: int) -> None:
    """Write a file through ``write``, whole or not at all; ``size`` is about how many bytes it will have.

    Raises:
        StoreError: When the file cannot be written; what was there is unchanged.
    """
    with explained(path, needs=size):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; on Windows a rename needs nothing more."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# The bytes of a `safetensors` file: length of the header (8, little-endian), header as JSON, arrays. The library writes
# metadata in an order that differs from process to process; ours is sorted, so that one model is always the same bytes.


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    size = int.from_bytes(data[:8], "little")
    tensors = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])
    header = msgspec.json.encode({"__metadata__": dict(sorted(metadata.items())), **tensors})
    header += b" " * (-len(header) % 8)  # arrays start at a multiple of 8
    return len(header).to_bytes(8, "little") + header, memoryview(data)[8 + size :]


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])
    return msgspec.json.decode(header["__metadata__"], type=dict[str, str]) if "__metadata__" in header else {}
