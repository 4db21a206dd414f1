"""Mechanisms at the client: noise on each update before it leaves, so that nobody is trusted with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.component import component
from fedloom.core.keys import SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, WireType
from fedloom.privacy.mechanisms import check_clip, check_covered, gaussian, laplace
from fedloom.privacy.noise import gaussian_noise, laplace_noise


@component("fedloom.stages")
def local_gaussian(clip: float, noise_multiplier: float) -> Stage[None]:
    """``gaussian``, with the noise at every client: the sum of n clients has sqrt(n) times the noise.

    It needs far more clients, or far less of an answer, than noise on the sum: for statistics and large populations.

    Args:
        clip: The largest L2 norm that passes unchanged, in units of the parameters.
        noise_multiplier: Standard deviation of each client's noise over the bound of its vector.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: As ``gaussian``.

    Guarantee:
        Neighbouring data differ in one client's update, whatever takes its place, so by twice the clip. Of one round:
        (epsilon, delta) as ``fedloom plan`` prints it, towards everybody but the client: the server is not trusted.

    Source: Kasiviswanathan, Lee, Nissim, Raskhodnikova, Smith 2011, "What can we learn privately?", section 2, for the
        local model; the noise is that of ``gaussian``.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = local_gaussian(clip=1.0, noise_multiplier=4.0)
        >>> stage.event(stage.plan(WireType(dim=3, dtype="float64", weight=False)))
        GaussianDpEvent(noise_multiplier=4.0)
    """
    check_clip("local_gaussian", clip, noise_multiplier)

    def plan(wire: WireType) -> WireType:
        check_covered("local_gaussian", wire)
        return replace(wire, clipped=1.0, l2=1.0, noise_multiplier=noise_multiplier, noise_each=True)

    def shield(values: Vector, last: WireType, secrets: Sequence[SecretKey]) -> Vector:
        rows = zip(values, secrets, strict=True)
        return np.stack([gaussian_noise(row, last, key, noise_multiplier=noise_multiplier) for row, key in rows])

    central = gaussian(clip, noise_multiplier)
    return replace(central, name="local_gaussian", plan=plan, release=None, shield=shield, spec=None)


@component("fedloom.stages")
def local_laplace(clip: float, noise_multiplier: float) -> Stage[None]:
    """``laplace``, with the noise at every client; as ``local_gaussian`` in all else.

    Args:
        clip: The largest L1 norm that passes unchanged.
        noise_multiplier: Scale of each client's noise over the L1 bound of its vector: the epsilon of one round is
            twice its inverse, because a replaced vector differs by twice the clip.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: As ``laplace``.

    Guarantee:
        (2 / noise_multiplier, 0) for one round, towards everybody but the client.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = local_laplace(clip=1.0, noise_multiplier=4.0)
        >>> stage.event(stage.plan(WireType(dim=3, dtype="float64", weight=False)))
        LaplaceDpEvent(noise_multiplier=4.0)
    """
    check_clip("local_laplace", clip, noise_multiplier)

    def plan(wire: WireType) -> WireType:
        check_covered("local_laplace", wire)
        return replace(wire, clipped=1.0, l2=1.0, l1=1.0, noise_multiplier=noise_multiplier, noise_each=True)

    def shield(values: Vector, last: WireType, secrets: Sequence[SecretKey]) -> Vector:
        rows = zip(values, secrets, strict=True)
        return np.stack([laplace_noise(row, last, key, noise_multiplier=noise_multiplier) for row, key in rows])

    central = laplace(clip, noise_multiplier)
    return replace(central, name="local_laplace", plan=plan, release=None, shield=shield, spec=None)
