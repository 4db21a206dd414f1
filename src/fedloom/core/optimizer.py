"""Optimizer: a pair of pure functions that turn a direction into a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fedloom.core.component import ComponentSpec
from fedloom.core.params import Vector

M = TypeVar("M")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer(Generic[M]):
    """Turns directions into steps; the learning rate is the caller's.

    A server adds ``server_lr * step`` with the averaged delta as direction; a client subtracts ``learning_rate * step``
    with a gradient as direction. Every optimizer is odd in its direction, so both are the same method. Vectors may be
    blocks ``(clients, d)``: all arithmetic is by coordinate.
    """

    name: str
    init: Callable[[Vector], M]
    """From a vector of the shape of the parameters to the moments before the first step."""
    update: Callable[[Vector, M], tuple[Vector, M]]
    """From direction and moments to step and new moments; may return the direction itself."""
    plain: bool = False
    """True where the step is the direction: what SCAFFOLD's option II and fused updates rely on."""
    spec: ComponentSpec | None = None


AnyOptimizer = Optimizer[Any]
