"""Accelerated gradient descent as a server optimizer: momentum that grows, and starts again where it harms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedloom.core.optimizer import Optimizer
from fedloom.core.params import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """The last move of the underlying descent, and how far the momentum has grown."""

    move: Vector
    weight: float


def accelerated() -> Optimizer[Pace]:
    """Return Nesterov's acceleration for directions that are ``-rate * gradient`` with ``rate`` at most ``1 / L``.

    ``v <- d + beta v``, step ``d + beta' v``, where ``beta' = (t - 1) / t'`` and ``t' = (1 + sqrt(1 + 4 t^2)) / 2``.
    Where the direction points against the last move, the momentum starts again. No constant of the problem but ``L`` is
    asked for.

    Source: Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm", equations 4.1 to 4.3, written
        for the extrapolated points; O'Donoghue and Candes 2015, arXiv:1204.3982, section 3.2 (gradient scheme).

    Example:
        >>> optimizer = accelerated()
        >>> point, pace = np.array([1.0]), optimizer.init(np.zeros(1))
        >>> for _ in range(60):
        ...     step, pace = optimizer.update(-0.1 * point, pace)
        ...     point = point + step
        >>> bool(abs(point[0]) < 1e-6)
        True
    """

    def update(direction: Vector, pace: Pace) -> tuple[Vector, Pace]:
        before = pace if float(direction @ pace.move) >= 0 else Pace(np.zeros_like(direction), 1.0)
        grown = (1 + math.sqrt(1 + 4 * before.weight**2)) / 2
        move: Vector = direction + before.move
        carried: Vector = ((before.weight - 1) / grown) * move
        return direction + carried, Pace(carried, grown)

    return Optimizer(name="accelerated", init=lambda params: Pace(np.zeros_like(params), 1.0), update=update)
