"""Steps scaled by coordinate: Adagrad, Adam and Yogi, which differ in one line, the second moment.

Common to the three: ``m <- beta1 m + (1 - beta1) direction``; step ``m / (sqrt(v) + tau)``, tau outside the root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedloom.core.component import component
from fedloom.core.optimizer import Optimizer
from fedloom.core.params import Vector
from fedloom.optim.ranges import check_fraction, check_positive


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moment, and the number of steps taken."""

    m: Vector
    v: Vector
    t: int


@component("fedloom.optimizers")
def adagrad(*, beta1: float = 0.0, tau: float = 1e-3, v0: float | None = None) -> Optimizer[Moments]:
    """Adagrad: ``v <- v + direction^2``.

    Args:
        beta1: Weight of the past in the first moment; the generic form of the paper keeps it, its experiments use 0.
        tau: Added to the root of ``v``.
        v0: Start of ``v``; None is ``tau^2``.

    Source: Reddi et al. 2021, arXiv:2003.00295, Algorithm 2 (FedAdagrad).

    Example:
        >>> a = adagrad(tau=1.0, v0=0.0)
        >>> a.update(np.array([3.0]), a.init(np.zeros(1)))[0].tolist()
        [0.75]
    """
    return _adaptive("adagrad", lambda v, squared: v + squared, beta1=beta1, beta2=None, tau=tau, v0=v0)


@component("fedloom.optimizers")
def adam(
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    tau: float = 1e-8,
    v0: float | None = 0.0,
    bias_correction: bool = True,
) -> Optimizer[Moments]:
    """Adam: ``v <- beta2 v + (1 - beta2) direction^2``.

    The defaults are the textbook method, as local optimizers use it. FedAdam on the server has no bias correction,
    ``beta2 = 0.99``, ``tau = 1e-3`` and ``v`` from ``tau^2``: that is what ``fedadam`` passes.

    Args:
        beta1: Weight of the past in the first moment.
        beta2: Weight of the past in the second moment.
        tau: Added to the root of ``v`` (often called epsilon).
        v0: Start of ``v``; None is ``tau^2``.
        bias_correction: Divide the moments by ``1 - beta^t``, t from 1.

    Source: Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1.

    Example:
        >>> a = adam(tau=0.0)
        >>> a.update(np.array([-3.0]), a.init(np.zeros(1)))[0].round(12).tolist()
        [-1.0]
    """

    def second(v: Vector, squared: Vector) -> Vector:
        moved: Vector = beta2 * v + (1 - beta2) * squared
        return moved

    return _adaptive("adam", second, beta1=beta1, beta2=beta2, tau=tau, v0=v0, bias_correction=bias_correction)


@component("fedloom.optimizers")
def yogi(*, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, v0: float | None = None) -> Optimizer[Moments]:
    """Yogi: ``v <- v - (1 - beta2) direction^2 sign(v - direction^2)``, with ``sign(0) = 0``.

    Args:
        beta1: Weight of the past in the first moment.
        beta2: How slowly ``v`` moves.
        tau: Added to the root of ``v``.
        v0: Start of ``v``; None is ``tau^2``.

    Source: Reddi et al. 2021, arXiv:2003.00295, Algorithm 2 (FedYogi).

    Example:
        >>> y = yogi(tau=1.0)
        >>> y.update(np.array([1.0]), y.init(np.zeros(1)))[1].v.tolist()
        [1.0]
    """

    def second(v: Vector, squared: Vector) -> Vector:
        moved: Vector = v - (1 - beta2) * squared * np.sign(v - squared)
        return moved

    return _adaptive("yogi", second, beta1=beta1, beta2=beta2, tau=tau, v0=v0)


def _adaptive(
    name: str,
    second: Callable[[Vector, Vector], Vector],
    *,
    beta1: float,
    beta2: float | None,
    tau: float,
    v0: float | None,
    bias_correction: bool = False,
) -> Optimizer[Moments]:
    check_fraction(name, beta1=beta1)
    if beta2 is not None:
        check_fraction(name, beta2=beta2)
    check_positive(name, zero=True, tau=tau, v0=tau if v0 is None else v0)
    start = tau**2 if v0 is None else v0

    def init(params: Vector) -> Moments:
        return Moments(np.zeros_like(params), np.full_like(params, start), 0)

    def update(direction: Vector, moments: Moments) -> tuple[Vector, Moments]:
        t = moments.t + 1
        m = beta1 * moments.m + (1 - beta1) * direction
        v = second(moments.v, direction * direction)
        renewed = Moments(m, v, t)
        if bias_correction:
            m = m / (1 - beta1**t)
            v = v / (1 - beta2**t) if beta2 is not None else v
        return m / (np.sqrt(v) + tau), renewed

    return Optimizer(name=name, init=init, update=update)
