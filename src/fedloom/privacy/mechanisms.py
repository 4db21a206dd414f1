"""Mechanisms on the update: a clip and its noise as one stage, so that nobody can state another bound than is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.component import component
from fedloom.core.events import (
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
)
from fedloom.core.integer_noise import draws_of, share_sigma
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.errors import ComponentError, PipelineError
from fedloom.pipeline.ball import into_ball, into_diamond
from fedloom.privacy.noise import gaussian_noise, laplace_noise


@component("fedloom.stages")
def gaussian(clip: float, noise_multiplier: float) -> Stage[None]:
    """Bound each client's update by ``clip`` in the L2 norm, and add Gaussian noise to the sum.

    The noise is added once, by the server, before anything is decoded: its standard deviation is ``noise_multiplier``
    times the bound of what one client really adds to the sum, rounding included. After ``fixed_point()`` it is integer
    noise, drawn exactly from the server's secret entropy; without it, float noise, in simulation only.

    Args:
        clip: The largest norm that passes unchanged, in units of the parameters.
        noise_multiplier: Standard deviation of the noise over the bound of one client.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: At construction: where anything of the vector would be outside the clip, or has been encoded.

    Guarantee:
        Neighbouring data differ in one client's whole update, there or zero. Of one round: (epsilon, delta) as
        ``fedloom plan`` prints it, towards whoever reads the model; the server itself, which sees the updates, is
        trusted. Update, noise and denominator are one object: no argument states a sensitivity.

    Source: McMahan et al. 2018, arXiv:1710.06963v3, Algorithm 1; noise of Canonne, Kamath, Steinke 2020,
        arXiv:2004.00010, on integers (differs: the noise is discrete, and calibrated after rounding).

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = gaussian(clip=1.0, noise_multiplier=1.5)
        >>> stage.event(stage.plan(WireType(dim=3, dtype="float64", weight=False)))
        GaussianDpEvent(noise_multiplier=1.5)
    """
    return mechanism("gaussian", GAUSSIAN, clip, noise_multiplier)


@component("fedloom.stages")
def laplace(clip: float, noise_multiplier: float) -> Stage[None]:
    """Bound each client's update by ``clip`` in the L1 norm, and add Laplace noise to the sum: delta is zero.

    As ``gaussian`` in all else. The L1 norm of a vector of d parameters is up to sqrt(d) times its L2 norm, so this is
    for short vectors: counts and statistics.

    Args:
        clip: The largest L1 norm that passes unchanged.
        noise_multiplier: Scale of the noise over the L1 bound of one client: the epsilon of one round is its inverse.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: At construction: where anything of the vector would be outside the clip, or has been encoded.

    Guarantee:
        (1 / noise_multiplier, 0) for one round, neighbouring data as for ``gaussian``.

    Source: Dwork, McSherry, Nissim, Smith 2006, Proposition 1; on integers the discrete Laplace of Canonne, Kamath,
        Steinke 2020, arXiv:2004.00010, Algorithm 2.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = laplace(clip=1.0, noise_multiplier=2.0)
        >>> stage.event(stage.plan(WireType(dim=3, dtype="float64", weight=False)))
        LaplaceDpEvent(noise_multiplier=2.0)
    """
    return mechanism("laplace", LAPLACE, clip, noise_multiplier)


def gaussian_event(stage: str, last: WireType, noise_multiplier: float) -> DpEvent:
    """Return the event of one vector with Gaussian noise, from the last wire type.

    Raises:
        PipelineError: When a stage behind the noise has lost the bound.
    """
    l2 = bound_of(stage, last, last.l2)
    if last.modulus is None:
        return GaussianDpEvent(noise_multiplier)
    assert last.dim is not None, "a vector in Z_m has a size"
    draws = draws_of(noise_multiplier, l2)
    return DiscreteGaussianDpEvent(float(share_sigma(noise_multiplier, l2, draws)), l2, last.dim, draws)


def laplace_event(stage: str, last: WireType, noise_multiplier: float) -> DpEvent:
    """Return the event of one vector with Laplace noise, from the last wire type.

    Raises:
        PipelineError: When a stage behind the noise has lost the bound.
    """
    l1 = bound_of(stage, last, last.l1)
    if last.modulus is None:
        return LaplaceDpEvent(noise_multiplier)
    return DiscreteLaplaceDpEvent(float(math.ceil(noise_multiplier * l1)), l1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A noise, and the norm that it is measured by."""

    clip: Callable[[Vector, float], object]
    """Scales rows into the unit ball of the norm, in place."""
    noise: Callable[..., Vector]
    event: Callable[[str, WireType, float], DpEvent]
    l1: float | None
    """Of a vector within the ball. Its L2 norm is at most 1 in either."""


GAUSSIAN = Law(clip=into_ball, noise=gaussian_noise, event=gaussian_event, l1=None)
LAPLACE = Law(clip=into_diamond, noise=laplace_noise, event=laplace_event, l1=1.0)


def mechanism(name: str, law: Law, clip: float, noise_multiplier: float, *, each: bool = False) -> Stage[None]:
    """Return the stage of a clip with its noise: on the sum, or with ``each`` on what every client sends.

    Raises:
        ComponentError: When a number is outside its range.
    """
    check_clip(name, clip, noise_multiplier)

    def plan(wire: WireType) -> WireType:
        check_covered(name, wire)
        return replace(wire, clipped=1.0, l2=1.0, l1=law.l1, noise_multiplier=noise_multiplier, noise_each=each)

    def encode(
        _wire: WireType, values: Vector, _setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        law.clip(values, clip)
        return values, memory

    def decode(_wire: WireType, total: Vector, state: None, _info: SumInfo) -> tuple[Vector, None]:
        return total * clip, state

    def release(total: Vector, last: WireType, secret: SecretKey) -> Vector:
        return law.noise(total, last, secret, noise_multiplier=noise_multiplier)

    def shield(values: Vector, last: WireType, secrets: Sequence[SecretKey]) -> Vector:
        noised: Vector = np.stack([release(row, last, secret) for row, secret in zip(values, secrets, strict=True)])
        return noised

    return Stage(
        name=name,
        plan=plan,
        encode=encode,
        decode=decode,
        init=stateless,
        release=None if each else release,
        shield=shield if each else None,
        event=lambda last: law.event(name, last, noise_multiplier),
    )


def check_clip(stage: str, clip: float, noise_multiplier: float) -> None:
    """Refuse numbers that bound nothing or protect nothing.

    Raises:
        ComponentError: When one is not positive and finite.
    """
    if not 0 < clip < math.inf:
        raise ComponentError(
            f"{stage}(clip={clip}): expected a positive number: without a bound noise protects nothing"
        )
    if not 0 < noise_multiplier < math.inf:
        raise ComponentError(
            f"{stage}(noise_multiplier={noise_multiplier}): expected a positive number; a clip without noise is clip()"
        )


def check_covered(stage: str, wire: WireType) -> None:
    """Refuse a vector of which anything would travel outside the clip.

    Raises:
        PipelineError: When it would, or when it is encoded already.
    """
    if wire.modulus is not None:
        raise PipelineError(stage, received=wire, advice=f"Put {stage}() before the encoding to integers.")
    if wire.noise_multiplier is not None:
        raise PipelineError(stage, received=wire, advice="Another stage adds noise already: use one mechanism only.")
    if wire.weight:
        raise PipelineError(
            stage,
            received=wire,
            advice="The weight would travel beside the clipped vector: put mean(expected=...) before it, with the "
            'number of clients that a round expects, and use weighting = "uniform".',
        )
    if wire.metrics:
        raise PipelineError(
            stage, received=wire, advice="Metrics would travel beside the clipped vector: leave them out of the update."
        )


def bound_of(stage: str, last: WireType, bound: float | None) -> float:
    """Return a bound on one client's vector at the sum.

    Raises:
        PipelineError: When there is none left.
    """
    if bound is None:
        raise PipelineError(
            stage,
            received=last,
            advice="A stage behind it has lost the bound on one client's vector: noise has nothing to be measured by.",
        )
    return bound
