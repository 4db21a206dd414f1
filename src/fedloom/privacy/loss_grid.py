"""How wide the cells of a privacy loss distribution may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.core.events import GaussianDpEvent, PoissonSampledDpEvent, TruncatedPoissonSampledDpEvent
from fedloom.privacy.analytic import gaussian_mu, pure_leaf
from fedloom.privacy.leaves import Leaf, noises


def loss_interval(found: Sequence[tuple[Leaf, int]], reach: float) -> float:
    """Return the width of the grid of losses, a power of two: a thirtieth of the spread of one round, at most 5e-4.

    The estimate is from above at any width; a wide grid costs epsilon (1.4 per cent at rate 0.001, noise 4, 1e-4), a
    narrow one memory, which is kept to some hundred thousand cells.
    """
    spreads, total, farthest = [1.0], 0.0, 0.0
    for leaf, count in found:
        spread, far = _spread(leaf, reach)
        if not isinstance(leaf, GaussianDpEvent):
            spreads.append(spread)
        total += count * spread**2
        farthest = max(farthest, far)
    width = min(5e-4, min(spreads) / 30)
    cells = (farthest + total / 2 + 8 * math.sqrt(total)) / 2e5
    return float(2.0 ** max(math.floor(math.log2(width)), math.ceil(math.log2(max(cells, 1e-9)))))


def _spread(leaf: Leaf, reach: float) -> tuple[float, float]:
    """Return about the standard deviation, and about the most, of the loss of one release."""
    rate = leaf.rate if isinstance(leaf, PoissonSampledDpEvent | TruncatedPoissonSampledDpEvent) else 1.0
    inner: Mapping[Any, int] = noises(leaf.event) if isinstance(leaf, PoissonSampledDpEvent) else {leaf: 1}
    if isinstance(leaf, TruncatedPoissonSampledDpEvent):
        inner, reach = noises(leaf.event), 2.0
    mu = gaussian_mu(inner, reach=reach)
    if mu is None:
        pure = pure_leaf(leaf, reach=reach)
        return pure, pure
    far = mu**2 / 2 + 10 * mu
    if rate < 1:
        far = math.log1p(rate * math.expm1(min(far, 700.0)))
    return min(mu, rate * math.sqrt(math.expm1(min(mu**2, 700.0)))), far
