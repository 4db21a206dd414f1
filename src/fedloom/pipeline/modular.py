"""Z_m as numpy has it: unsigned words that wrap, and the signed integers that they stand for.

The modulus is always the whole range of the dtype, so that a sum of arrays *is* a sum in Z_m: no stage, tree or server
has to know that what it adds are residues.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedloom.core.params import Vector


def residues(values: Vector, dtype: str) -> Vector:
    """Return whole numbers as residues in two's complement.

    Args:
        values: Integers of any type, or float64 that are whole and within the range of int64.
        dtype: ``"uint32"`` or ``"uint64"``; the modulus is 2**32 or 2**64.

    Example:
        >>> residues(np.array([-1, 2, 2**32 + 5]), "uint32").tolist()
        [4294967295, 2, 5]
    """
    whole = values if values.dtype.kind in "iu" else values.astype(np.int64)
    wrapped: Vector = whole.astype(dtype)
    return wrapped


def centred(values: Vector) -> Vector:
    """Return residues as the integers nearest to zero that they stand for, from -m/2 to m/2 - 1.

    Example:
        >>> centred(np.array([4294967295, 2], np.uint32)).tolist()
        [-1, 2]
    """
    signed: np.dtype[Any] = np.dtype(f"i{values.dtype.itemsize}")
    return np.ascontiguousarray(values).view(signed)
