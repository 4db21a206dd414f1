"""Frozen values to bytes and back: msgspec for the structure, safetensors for the arrays.

A value is decoded *into a template*: names, types, shapes and dtypes must be those of an example that the reader made
itself. Nothing is imported by a name that arrives, nothing is unpickled, and sizes are compared before arrays are read.

Layout: 4 bytes little-endian length of the structure, the structure (msgpack of ``[type name, tree]`` in which an array
is its number), then one safetensors blob with the arrays named ``"0"``, ``"1"``, ... in the order of the tree.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from fedloom.core.params import Vector
from fedloom.errors import CodecError

T = TypeVar("T")
_LENGTH = 4
_SCALARS = (bool, int, float, str, bytes)
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


def encode(value: object) -> bytes:
    """Return a dataclass, mapping, sequence, array or scalar as bytes.

    Raises:
        CodecError: When the value holds something that is none of these.

    Example:
        >>> decode(encode({"w": np.arange(3.0)}), {"w": np.zeros(3)})["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    arrays: list[Vector] = []
    structure = _structure(value, arrays)
    named = {str(number): np.asarray(array, order="C") for number, array in enumerate(arrays)}
    return len(structure).to_bytes(_LENGTH, "little") + structure + safetensors.numpy.save(named)


def encoded_length(value: object) -> int:
    """Return ``len(encode(value))`` without copying an array."""
    arrays: list[Vector] = []
    structure = _structure(value, arrays)
    blob = _blob_length(tuple((array.dtype.str, array.shape) for array in arrays))
    return _LENGTH + len(structure) + blob


def bytes_length(count: int) -> int:
    """Return what ``count`` bytes in the place of None add to an encoded value.

    Example:
        >>> bytes_length(300) == encoded_length([b"x" * 300]) - encoded_length([None])
        True
    """
    return count + (1 if count < 1 << 8 else 2 if count < 1 << 16 else 4)


def decode(data: bytes, like: T) -> T:
    """Return the value that ``data`` encodes, built as ``like`` is.

    An empty mapping in the template stands for any mapping of text to scalars, None for any scalar or None. Arrays
    come back read-only.

    Raises:
        CodecError: When the bytes are damaged, or anything differs from the template.
    """
    name, tree, blob = _open(data)
    if name != type(like).__name__:
        raise CodecError(f"the message is a {name}; expected a {type(like).__name__}")
    expected: list[Vector] = []
    _tree(like, expected)
    return cast("T", _build(tree, like, iter(enumerate(_arrays(blob, expected))), type(like).__name__))


def decode_one_of(data: bytes, likes: Sequence[T]) -> T:
    """Return the value that ``data`` encodes, built as the template of the same type is.

    Raises:
        CodecError: As ``decode``, or when no template has that type.
    """
    name, _, _ = _open(data)
    for like in likes:
        if type(like).__name__ == name:
            return decode(data, like)
    raise CodecError(f"the message is a {name}; expected one of {', '.join(type(like).__name__ for like in likes)}")


def _structure(value: object, arrays: list[Vector]) -> bytes:
    try:
        return msgspec.msgpack.encode([type(value).__name__, _tree(value, arrays)])
    except OverflowError as error:
        raise CodecError(f"a {type(value).__name__} holds an integer that 64 bits do not hold") from error


def _tree(value: object, arrays: list[Vector]) -> Any:
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case np.ndarray():
            if value.dtype.name not in _DTYPES.values():
                raise CodecError(
                    f"an array of dtype {value.dtype} does not travel; use one of {list(_DTYPES.values())}"
                )
            arrays.append(value)
            return len(arrays) - 1
        case np.generic():
            return value.item()
        case Mapping():
            return {key: _tree(item, arrays) for key, item in value.items()}
        case list() | tuple():
            return [_tree(item, arrays) for item in value]
    names = _fields(type(value))
    if names is not None:
        return {name: _tree(getattr(value, name), arrays) for name in names}
    raise CodecError(
        f"a {type(value).__name__} does not travel; use arrays, numbers, text and frozen dataclasses of them"
    )


def _open(data: bytes) -> tuple[str, Any, bytes]:
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > len(data) - _LENGTH:
        raise CodecError(f"a message of {len(data)} bytes claims a structure of {length}: it is cut off or damaged")
    try:
        name, tree = msgspec.msgpack.decode(data[_LENGTH : _LENGTH + length], type=tuple[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"the structure of a message does not decode: {error}") from error
    return name, tree, data[_LENGTH + length :]


def _arrays(blob: bytes, expected: Sequence[Vector]) -> list[Vector]:
    """Compare the announced arrays with the expected ones, then read them."""
    size = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or size > len(blob) - 8:
        raise CodecError(f"an array section of {len(blob)} bytes claims a header of {size}: it is cut off or damaged")
    try:
        header = msgspec.json.decode(blob[8 : 8 + size], type=dict[str, dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"the header of an array section does not decode: {error}") from error
    if sorted(header) != sorted(str(number) for number in range(len(expected))):
        raise CodecError(f"the message has the arrays {sorted(header)}; expected {len(expected)}")
    for number, array in enumerate(expected):
        found = header[str(number)]
        dtype, shape = _DTYPES.get(str(found.get("dtype"))), found.get("shape")
        if dtype != array.dtype.name or shape != list(array.shape):
            raise CodecError(f"array {number} is {dtype} {shape}; expected {array.dtype.name} {list(array.shape)}")
    try:
        found_arrays = safetensors.numpy.load(blob)
    except safetensors.SafetensorError as error:
        raise CodecError(f"an array section does not decode: {error}") from error
    arrays = [found_arrays[str(number)] for number in range(len(expected))]
    for array in arrays:
        array.setflags(write=False)
    return arrays


def _build(tree: Any, like: Any, arrays: Iterator[tuple[int, Vector]], path: str) -> Any:
    match like:
        case np.ndarray():
            number, array = next(arrays)
            if type(tree) is not int or tree != number:
                raise CodecError(f"{path} is {tree!r}; expected array {number}: arrays stand in the order of the tree")
            return array
        case None:
            if tree is not None and not isinstance(tree, _SCALARS):
                raise CodecError(f"{path} is a {type(tree).__name__}; expected a scalar or nothing")
            return tree
        case bool() | int() | float() | str() | bytes() | np.generic():
            return _scalar(tree, like, path)
        case Mapping():
            return _mapping(tree, like, arrays, path)
        case list() | tuple():
            if not isinstance(tree, list) or len(tree) != len(like):
                raise CodecError(f"{path} does not have the expected length {len(like)}")
            return type(like)(
                _build(item, kind, arrays, f"{path}[{i}]")
                for i, (item, kind) in enumerate(zip(tree, like, strict=True))
            )
    names = _fields(type(like)) or []
    if not isinstance(tree, dict) or list(tree) != names:
        raise CodecError(f"{path} has other fields than {names}")
    return type(like)(**{name: _build(tree[name], getattr(like, name), arrays, f"{path}.{name}") for name in names})


def _scalar(tree: Any, like: Any, path: str) -> Any:
    kind = type(like.item()) if isinstance(like, np.generic) else type(like)
    if kind is float and type(tree) is int:
        return float(tree)
    if type(tree) is not kind:
        raise CodecError(f"{path} is {tree!r}; expected a {kind.__name__}")
    return tree


def _mapping(tree: Any, like: Mapping[str, Any], arrays: Iterator[tuple[int, Vector]], path: str) -> Any:
    if not isinstance(tree, dict):
        raise CodecError(f"{path} is a {type(tree).__name__}; expected a mapping")
    if not like:
        if not all(isinstance(key, str) and (item is None or isinstance(item, _SCALARS)) for key, item in tree.items()):
            raise CodecError(f"{path} holds more than text and scalars")
        return tree
    if list(tree) != list(like):
        raise CodecError(f"{path} has the keys {list(tree)}; expected {list(like)}")
    return {key: _build(tree[key], item, arrays, f"{path}[{key!r}]") for key, item in like.items()}


def _fields(kind: Any) -> list[str] | None:
    """Return the field names of a dataclass or Struct, None for another type."""
    if issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None


@functools.lru_cache(maxsize=256)
def _blob_length(signature: tuple[tuple[str, tuple[int, ...]], ...]) -> int:
    return len(safetensors.numpy.save({str(i): np.zeros(shape, dtype) for i, (dtype, shape) in enumerate(signature)}))
