"""Scaling into a ball: what every clip does, so that no rounding and no overflow leads outside."""

from __future__ import annotations

import numpy as np

from fedloom.core.params import Vector

_SAFE = 1e-140, 1e140
"""Norms between which no square in float64 overflows, and none that counts is lost."""


def norms_of(parts: Vector) -> Vector:
    """Return the L2 norms of rows ``(clients, d)`` as a float64 column: no square overflows, none is lost.

    Example:
        >>> norms_of(np.array([[2e200, 2e200, 2e200, 2e200], [0.0, 0.0, 0.0, 0.0]])).ravel().tolist()
        [4e+200, 0.0]
    """
    wide = parts.astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        norms: Vector = np.sqrt(np.vecdot(wide, wide))[:, None]
        unsafe = ~((norms > _SAFE[0]) & (norms < _SAFE[1]))[:, 0]
    if unsafe.any():
        peaks = _peaks(wide[unsafe])
        scaled = wide[unsafe] / peaks
        norms[unsafe] = peaks * np.sqrt(np.vecdot(scaled, scaled))[:, None]
    return norms


def into_ball(parts: Vector, norm: float | Vector) -> Vector:
    """Divide rows ``(clients, d)`` in place: a row of at most ``norm`` by it, a longer one onto the unit ball.

    Returns:
        The norms before, ``(clients, 1)``, in float64.
    """
    with np.errstate(over="ignore"):  # a norm beyond all numbers leaves zero, which lies in the ball
        norms = norms_of(parts)
        _divide(parts, norm, norms)
    return norms


def into_diamond(parts: Vector, norm: float) -> None:
    """Divide rows in place as ``into_ball`` does, by their L1 norms."""
    with np.errstate(over="ignore"):
        peaks = _peaks(parts)
        norms = peaks * np.abs(parts / peaks).sum(axis=1, keepdims=True, dtype=np.float64)
        _divide(parts, norm, norms)


def _peaks(parts: Vector) -> Vector:
    """Return the largest absolute number of each row, as float64; never zero."""
    peaks = np.abs(parts).max(axis=1, keepdims=True, initial=np.finfo(parts.dtype).tiny)
    found: Vector = peaks.astype(np.float64)
    return found


def _divide(parts: Vector, norm: float | Vector, norms: Vector) -> None:
    """Divide by the norms where they are above ``norm``, and by slightly more: rounding must not lead outside.

    A quotient is off by at most one rounding of its type, the divisor by one, and a norm, whose sum is taken in
    float64, by half a rounding of that for each number.
    """
    kind = np.finfo(parts.dtype)
    margin = 1.0 + 4 * float(kind.eps) + parts.shape[1] * 2.0**-53
    parts /= np.maximum(np.maximum(norm, norms * margin).astype(parts.dtype), kind.tiny)
