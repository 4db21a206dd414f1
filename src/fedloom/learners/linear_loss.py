"""Losses of linear models, over stacked logits: what one step needs of them, and what their record needs.

``residual`` turns logits ``z`` of shape ``(clients, rows, outputs)`` into ``weight * d loss / d z`` in place and leaves
in ``trace`` of shape ``(2, clients, rows)`` what ``losses`` computes each row's loss from, once for all steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedloom.core.params import Vector


@dataclass(frozen=True, slots=True)
class LinearLoss:
    """A loss of logits and labels: class indices where ``classes`` is true, else numbers.

    ``residual`` takes logits, labels ``(clients, rows)``, weights ``(clients, rows)`` and the trace; ``losses`` takes
    traces ``(..., 2, clients, rows)`` and returns ``(..., clients, rows)``.
    """

    classes: bool
    residual: Callable[[Vector, Vector, Vector, Vector], None]
    losses: Callable[[Vector], Vector]


def _logistic_residual(z: Vector, y: Vector, weights: Vector, trace: Vector) -> None:
    logits = z[..., 0]
    trace[0] = logits
    trace[1] = y
    # sigmoid(z) = (1 + tanh(z / 2)) / 2: one function, no overflow.
    logits *= 0.5
    np.tanh(logits, out=logits)
    logits += 1.0
    logits *= 0.5
    logits -= trace[1]
    logits *= weights


def _logistic_losses(trace: Vector) -> Vector:
    logits, y = trace[..., 0, :, :], trace[..., 1, :, :]
    losses: Vector = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * y
    return losses


def _softmax_residual(z: Vector, y: Vector, weights: Vector, trace: Vector) -> None:
    flat = z.reshape(-1)
    at = _row_starts(y.size, z.shape[-1]) + y.reshape(-1)
    z -= np.maximum.reduce(z, axis=-1, keepdims=True)
    trace[1] = flat.take(at).reshape(y.shape)
    np.exp(z, out=z)
    sums = np.add.reduce(z, axis=-1, out=trace[0])
    z *= (weights / sums)[..., None]
    flat[at] -= weights.reshape(-1)


@functools.lru_cache(maxsize=64)
def _row_starts(rows: int, outputs: int) -> Vector:
    return np.arange(rows) * outputs


def _softmax_losses(trace: Vector) -> Vector:
    losses: Vector = np.log(trace[..., 0, :, :]) - trace[..., 1, :, :]
    return losses


def _squared_residual(z: Vector, y: Vector, weights: Vector, trace: Vector) -> None:
    errors = z[..., 0]
    errors -= y
    trace[0] = errors
    errors *= weights


def _squared_losses(trace: Vector) -> Vector:
    errors = trace[..., 0, :, :]
    losses: Vector = errors * errors / 2
    return losses


LOGISTIC = LinearLoss(True, _logistic_residual, _logistic_losses)
"""Two classes, one logit: ``log(1 + exp(z)) - y z``."""
SOFTMAX = LinearLoss(True, _softmax_residual, _softmax_losses)
"""Any number of classes, a logit each: ``log sum exp z - z_y``."""
SQUARED = LinearLoss(False, _squared_residual, _squared_losses)
"""Regression: ``(z - y)^2 / 2``."""
