"""Losses of scikit-learn's estimators by row, as scikit-learn defines them, and the penalties beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedloom.core.params import Vector
from fedloom.errors import ComponentError

Loss = Callable[[Vector, Vector, float], Vector]
"""From decisions, targets (-1 and 1 for classes, else numbers) and epsilon to losses, all of one shape."""


def _hinge(z: Vector, y: Vector, _: float) -> Vector:
    loss: Vector = np.maximum(0.0, 1.0 - z * y)
    return loss


def _perceptron(z: Vector, y: Vector, _: float) -> Vector:
    loss: Vector = np.maximum(0.0, -z * y)
    return loss


def _squared_hinge(z: Vector, y: Vector, _: float) -> Vector:
    loss: Vector = np.maximum(0.0, 1.0 - z * y) ** 2
    return loss


def _log_loss(z: Vector, y: Vector, _: float) -> Vector:
    loss: Vector = np.logaddexp(0.0, -z * y)
    return loss


def _modified_huber(z: Vector, y: Vector, _: float) -> Vector:
    margin = z * y
    loss: Vector = np.where(margin >= -1.0, np.maximum(0.0, 1.0 - margin) ** 2, -4.0 * margin)
    return loss


def _squared_error(z: Vector, y: Vector, _: float) -> Vector:
    loss: Vector = (z - y) ** 2 / 2
    return loss


def _huber(z: Vector, y: Vector, epsilon: float) -> Vector:
    error = np.abs(z - y)
    loss: Vector = np.where(error <= epsilon, error**2 / 2, epsilon * error - epsilon**2 / 2)
    return loss


def _epsilon_insensitive(z: Vector, y: Vector, epsilon: float) -> Vector:
    loss: Vector = np.maximum(0.0, np.abs(z - y) - epsilon)
    return loss


def _squared_epsilon_insensitive(z: Vector, y: Vector, epsilon: float) -> Vector:
    loss: Vector = np.maximum(0.0, np.abs(z - y) - epsilon) ** 2
    return loss


LOSSES: Mapping[str, Loss] = {
    "hinge": _hinge,
    "perceptron": _perceptron,
    "squared_hinge": _squared_hinge,
    "log_loss": _log_loss,
    "modified_huber": _modified_huber,
    "squared_error": _squared_error,
    "huber": _huber,
    "epsilon_insensitive": _epsilon_insensitive,
    "squared_epsilon_insensitive": _squared_epsilon_insensitive,
}
"""By the name that scikit-learn gives them."""


def loss_of(name: str) -> Loss:
    """Return a loss by its name.

    Raises:
        ComponentError: When there is none of that name.

    Example:
        >>> loss_of("hinge")(np.array([0.25, 3.0]), np.array([1.0, 1.0]), 0.1).tolist()
        [0.75, 0.0]
    """
    if name not in LOSSES:
        raise ComponentError(f'sklearn: loss = "{name}"; expected one of {", ".join(LOSSES)}')
    return LOSSES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """``alpha ((1 - l1) |w|^2 / 2 + l1 |w|_1)``; of a network, divided by the rows of the batch.

    Example:
        >>> Penalty(alpha=0.5, l1=0.0).of(np.array([3.0, 4.0]))
        6.25
    """

    alpha: float = 0.0
    l1: float = 0.0
    by_rows: bool = False

    def of(self, coefficients: Vector) -> float:
        """Return the penalty of coefficients, before any division."""
        w = coefficients.astype(np.float64)
        return self.alpha * ((1 - self.l1) / 2 * float(w @ w) + self.l1 * float(np.abs(w).sum()))
