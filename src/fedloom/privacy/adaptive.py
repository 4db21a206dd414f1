"""Adaptive clipping: the clip follows a quantile of the clients' norms, and is told no more than noise allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedloom.core.component import component
from fedloom.core.events import DpEvent
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType
from fedloom.errors import ComponentError
from fedloom.pipeline.ball import into_ball
from fedloom.privacy.mechanisms import check_clip, check_covered, gaussian_event
from fedloom.privacy.noise import gaussian_noise

_LEAST, _MOST = 1e-30, 1e30
"""Where a clip that nothing holds back stops."""


@component("fedloom.stages")
def adaptive_gaussian(
    clip: float, noise_multiplier: float, *, bit_noise: float, quantile: float = 0.5, rate: float = 0.2
) -> Stage[Vector]:
    """``gaussian``, with a clip that moves towards a quantile of the norms of the clients' updates.

    Beside its clipped update each client adds one number: whether its norm was within the clip, as +1/2 or -1/2. Their
    noised sum gives the share that was, and the clip of the next round is ``clip * exp(-rate * (share - quantile))``:
    it grows while too few updates pass unclipped. Update and number are one vector with one noise, and cost what
    ``gaussian(noise_multiplier)`` costs. A round is clipped and noised by the clip that it began with.

    Args:
        clip: The clip of round 1, in units of the parameters.
        noise_multiplier: Noise over the bound of one client's whole vector: it sets the price.
        bit_noise: Standard deviation of the noise on the sum of the +-1/2; a twentieth of the cohort is usual. Less of
            it leaves more noise on the update.
        quantile: Share of the clients that shall pass unclipped.
        rate: Step of the clip, in its logarithm.

    Raises:
        ComponentError: When a number is outside its range, or so little ``bit_noise`` costs more than the whole may.
        PipelineError: As ``gaussian``.

    Guarantee: That of ``gaussian(noise_multiplier)``: the clips of later rounds are made of noised numbers.

    Source: Andrew, Thakkar, McMahan, Ramaswamy 2021, arXiv:1905.03871v5, Algorithm 1 and Theorem 1, geometric update.
        Number and update travel in one vector, the number scaled so that one noise is both of theirs (same law); the
        share is kept within 0 and 1 (differs).

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = adaptive_gaussian(clip=0.1, noise_multiplier=1.0, bit_noise=5.0)
        >>> sent = stage.plan(WireType(dim=3, dtype="float64", weight=False))
        >>> sent.dim, stage.event(sent)
        (4, GaussianDpEvent(noise_multiplier=1.0))
    """
    check_clip("adaptive_gaussian", clip, noise_multiplier)
    if not 0 < quantile < 1:
        raise ComponentError(f"adaptive_gaussian(quantile={quantile}): expected a number above 0, below 1")
    if not 0 < rate < math.inf:
        raise ComponentError(f"adaptive_gaussian(rate={rate}): expected a positive number")
    if not noise_multiplier / 2 < bit_noise < math.inf:
        raise ComponentError(
            f"adaptive_gaussian(bit_noise={bit_noise}): expected more than noise_multiplier / 2 = "
            f"{noise_multiplier / 2}: less noise on the numbers would cost more than noise_multiplier allows for all"
        )
    # z**2 (1/s**2 + 1/4) = bit_noise**2: noise of z times the whole bound, seen in units of the number.
    scale = 1.0 / math.sqrt((bit_noise / noise_multiplier) ** 2 - 0.25)
    bound = math.hypot(1.0, scale / 2)

    def plan(wire: WireType) -> WireType:
        check_covered("adaptive_gaussian", wire)
        dim = None if wire.dim is None else wire.dim + 1
        return replace(wire, dim=dim, clipped=bound, l2=bound, noise_multiplier=noise_multiplier)

    def encode(
        _wire: WireType, values: Vector, setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        now = float(setting[0])
        within = into_ball(values, now) <= now
        numbers = np.where(within, 0.5, -0.5) * _below(scale, values.dtype)
        return np.concatenate([values, numbers.astype(values.dtype)], axis=1), memory

    def decode(_wire: WireType, total: Vector, state: Vector, info: SumInfo) -> tuple[Vector, Vector]:
        share = float(np.clip(total[-1] / scale / info.expected_clients + 0.5, 0.0, 1.0))
        moved = state * math.exp(-rate * (share - quantile))
        return total[:-1] * state[0], np.clip(moved, _LEAST, _MOST)

    def release(total: Vector, last: WireType, secret: SecretKey) -> Vector:
        return gaussian_noise(total, last, secret, noise_multiplier=noise_multiplier)

    def event(last: WireType) -> DpEvent:
        return gaussian_event("adaptive_gaussian", last, noise_multiplier)

    return Stage(
        name="adaptive_gaussian",
        plan=plan,
        encode=encode,
        decode=decode,
        init=lambda _wire: np.array([clip], np.float64),
        setting=lambda state: state,
        release=release,
        event=event,
    )


def _below(scale: float, dtype: np.dtype[Any]) -> float:
    """Return a number that stays within the bound when it has been rounded to ``dtype``."""
    return scale * (1.0 - 4 * float(np.finfo(dtype).eps))
