"""rotate: a random orthonormal rotation that spreads each update evenly over its coordinates."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fedloom.core.component import component
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType
from fedloom.errors import PipelineError

_LEAST_BLOCK = 1024
"""Blocks as small as this spread well already; smaller ones would save less than 4 KiB of padding."""


@component("fedloom.stages")
def rotate() -> Stage[int]:
    """Flip signs at random and apply a Walsh-Hadamard transform, both undone after the sum.

    No coordinate of a rotated vector of norm 1 is much above ``sqrt(2 log(d) / d)``, however peaked the update was: a
    narrow modulus then holds it. Norms stay as they were, so bounds do. Metrics and weight pass as they are.

    The vector is cut into blocks of a power of two, padded by an eighth at most beyond 8,192 numbers; each block is
    rotated on its own. The signs are public, change with every round, and are the same for all clients: the server
    undoes them on the sum. They are the same in every run as well: what this stage promises holds whatever they are.

    Raises:
        PipelineError: At construction: after the encoding to integers.

    Source: Suresh, Yu, Kumar, McMahan 2017, arXiv:1611.00429, section 3: ``R = H D / sqrt(d)``; in blocks, and shrunk
        by a few units of rounding, which decoding undoes, so that the norm of what is sent never exceeds that of what
        came in (differs).

    Example:
        >>> from fedloom.core.wire import WireType
        >>> rotate().plan(WireType(dim=5, dtype="float64", weight=False)).dim
        8
    """

    def plan(wire: WireType) -> WireType:
        if wire.modulus is not None:
            raise PipelineError("rotate", received=wire, advice="Put rotate() before the encoding to integers.")
        out = replace(wire, l1=None)  # a rotation keeps no norm but the L2 norm
        return out if wire.dim is None else replace(out, dim=padded(wire.dim - wire.tail)[0] + wire.tail)

    def encode(
        wire: WireType, values: Vector, setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        clients, parts = len(values), values.shape[1] - wire.tail
        size, block = padded(parts)
        encoded = np.empty((clients, size + wire.tail), values.dtype)
        signs = _signs(int(setting[0]), size)
        flipped = np.zeros((clients, size))
        np.multiply(values[:, :parts], signs[:parts], out=flipped[:, :parts])
        spread = hadamard(flipped.reshape(-1, block)).reshape(clients, size)
        np.multiply(spread, _shrunk(block, values.dtype), out=encoded[:, :size], casting="same_kind")
        encoded[:, size:] = values[:, parts:]
        return encoded, memory

    def decode(wire: WireType, total: Vector, state: int, _info: SumInfo) -> tuple[Vector, int]:
        size = total.size - wire.tail
        assert wire.dim is not None, "what is summed has a size"
        parts = wire.dim - wire.tail
        block = padded(parts)[1]
        spread = total[:size].astype(np.float64).reshape(-1, block)
        # H is its own inverse but for the factor `block`.
        back = hadamard(spread).ravel()[:parts] / (block * _shrunk(block, np.dtype(wire.dtype)))
        return np.concatenate([back * _signs(state, size)[:parts], total[size:]]), state + 1

    return Stage(name="rotate", plan=plan, encode=encode, decode=decode, init=_first, setting=_round_of)


def padded(parts: int) -> tuple[int, int]:
    """Return the size of a vector once it is padded, and the size of the blocks that it is rotated in.

    The largest power of two that pads by no more than an eighth, or 1,024; one block where the vector fits in that.

    Example:
        >>> padded(5), padded(10**6), padded(1_100_000)
        ((8, 8), (1048576, 1048576), (1179648, 131072))
    """
    block = 1 << max(parts - 1, 0).bit_length()
    while block > _LEAST_BLOCK and -parts % block > parts / 8:
        block //= 2
    return parts + -parts % block, block


def hadamard(rows: Vector) -> Vector:
    """Return the Walsh-Hadamard transform of each row, unscaled, in natural order; may overwrite the rows.

    Each pass puts the sums of neighbours in the left half and their differences in the right one; after as many passes
    as the length has bits every coordinate has its place again.

    Example:
        >>> hadamard(np.array([[1.0, 2.0, 3.0, 4.0]])).tolist()
        [[10.0, -2.0, -4.0, 0.0]]
    """
    length = rows.shape[1]
    spare, half = np.empty_like(rows), length // 2
    for _ in range(length.bit_length() - 1):
        even, odd = rows[:, 0::2], rows[:, 1::2]
        np.add(even, odd, out=spare[:, :half])
        np.subtract(even, odd, out=spare[:, half:])
        rows, spare = spare, rows
    return rows


def _shrunk(block: int, dtype: np.dtype[np.floating]) -> float:
    """Return the factor of one transform: orthonormal, less what its sums and the cast may round up."""
    margin = (block.bit_length() + 3) * float(np.finfo(np.float64).eps) + 2 * float(np.finfo(dtype).eps)
    return (1.0 - margin) / math.sqrt(block)


@functools.lru_cache(maxsize=4)
def _signs(number: int, count: int) -> npt.NDArray[np.float64]:
    """Return ``count`` public signs for the round with this number."""
    words = Key.from_seed(0).child("rotate", number).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")[:count]
    signs: npt.NDArray[np.float64] = 1.0 - 2.0 * bits.astype(np.float64)
    signs.setflags(write=False)
    return signs


def _first(_wire: WireType) -> int:
    """Return the number of the first round."""
    return 0


def _round_of(state: int) -> Vector:
    return np.array([state], np.int64)
