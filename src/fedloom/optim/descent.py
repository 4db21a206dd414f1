"""Steps along the direction itself: plain descent and momentum."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedloom.core.component import component
from fedloom.core.optimizer import Optimizer
from fedloom.core.params import Vector
from fedloom.optim.ranges import check_fraction


@component("fedloom.optimizers")
def sgd() -> Optimizer[None]:
    """Step = direction.

    Example:
        >>> sgd().update(np.array([2.0]), None)[0].tolist()
        [2.0]
    """
    return Optimizer(name="sgd", init=lambda _params: None, update=lambda direction, _: (direction, None), plain=True)


@component("fedloom.optimizers")
def momentum(beta: float = 0.9, *, variant: Literal["plain", "nesterov", "damped"] = "plain") -> Optimizer[Vector]:
    """Heavy-ball momentum: ``m <- beta m + direction``; step ``m``.

    "nesterov" steps ``beta m + direction`` with the new ``m``; "damped" keeps ``m <- beta m + (1 - beta) direction``.

    Source: Hsu et al. 2019, arXiv:1909.06335, section 4.1 (FedAvgM: plain).

    Example:
        >>> m = momentum(0.5)
        >>> step, state = m.update(np.array([1.0]), m.init(np.zeros(1)))
        >>> m.update(np.array([1.0]), state)[0].tolist()
        [1.5]
    """
    check_fraction("momentum", beta=beta)

    def update(direction: Vector, m: Vector) -> tuple[Vector, Vector]:
        m = beta * m + (direction if variant != "damped" else (1 - beta) * direction)
        return (beta * m + direction if variant == "nesterov" else m), m

    return Optimizer(name="momentum", init=np.zeros_like, update=update)
