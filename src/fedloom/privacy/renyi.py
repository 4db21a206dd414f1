"""From Renyi divergences to epsilon and delta, and back. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

Conversion: TypeAlias = Literal["improved", "classic"]

ORDERS: tuple[int, ...] = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024)
"""The fixed orders of ledgers: whole, because samples of integer noise are bounded at those only."""

FINE_ORDERS: tuple[float, ...] = (
    *(1 + step / 20 for step in range(1, 20)),
    *(2 + step / 4 for step in range(32)),
    *(order for order in ORDERS if order >= 10),
)
"""Orders for Gaussian noise, which is bounded at every order."""


def epsilon_at(divergence: float, order: float, *, delta: float, conversion: Conversion = "improved") -> float:
    """Return the epsilon that a Renyi divergence of one order gives; never below 0.

    "improved": ``r + log(1 - 1/a) - log(a delta) / (a - 1)``; "classic": ``r - log(delta) / (a - 1)``.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Proposition 12; Mironov 2017, arXiv:1702.07476,
        Proposition 3.

    Example:
        >>> round(epsilon_at(0.5, 5, delta=1e-5), 4), round(epsilon_at(0.5, 5, delta=1e-5, conversion="classic"), 4)
        (2.7527, 3.3782)
    """
    if delta == 0:
        return 0.0 if divergence == 0 else math.inf
    if divergence == 0:
        return 0.0
    if conversion == "classic":
        return max(0.0, divergence - math.log(delta) / (order - 1))
    return max(0.0, divergence + math.log1p(-1 / order) - math.log(order * delta) / (order - 1))


def delta_at(divergence: float, order: float, *, epsilon: float, conversion: Conversion = "improved") -> float:
    """Return the delta that a Renyi divergence of one order gives at an epsilon; at most 1."""
    if divergence == 0:
        return 0.0
    log_delta = (order - 1) * (divergence - epsilon)
    if conversion == "improved":
        log_delta += (order - 1) * math.log1p(-1 / order) - math.log(order)
    return math.exp(min(0.0, log_delta))


def epsilon_of_curve(
    curve: Sequence[float], orders: Sequence[float], *, delta: float, conversion: Conversion = "improved"
) -> float:
    """Return the least epsilon over the orders of a curve of divergences."""
    return min(
        epsilon_at(divergence, order, delta=delta, conversion=conversion)
        for divergence, order in zip(curve, orders, strict=True)
    )


def delta_of_curve(
    curve: Sequence[float], orders: Sequence[float], *, epsilon: float, conversion: Conversion = "improved"
) -> float:
    """Return the least delta over the orders of a curve of divergences."""
    return min(
        delta_at(divergence, order, epsilon=epsilon, conversion=conversion)
        for divergence, order in zip(curve, orders, strict=True)
    )


def added(*curves: Sequence[float]) -> tuple[float, ...]:
    """Return the sum of curves at the same orders: composition.

    Example:
        >>> added((0.1, 0.2), (0.3, 0.4))
        (0.4, 0.6000000000000001)
    """
    return tuple(math.fsum(values) for values in zip(*curves, strict=True))
