"""clip: scale a client's parts into a ball, so that no client can move the model further than agreed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fedloom.core.component import component
from fedloom.core.keys import Keys
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.errors import ComponentError, PipelineError
from fedloom.pipeline.ball import into_ball


@component("fedloom.stages")
def clip(norm: float) -> Stage[None]:
    """Bound the L2 norm of each client's parts, taken together, by ``norm``; no noise, hence no privacy by itself.

    Bounds are normalised: encode maps to the unit ball, decode multiplies by ``norm``. Metrics and weight pass as they
    are, so the whole vector counts as bounded only where neither travels.

    Args:
        norm: The largest norm that passes unchanged, in units of the parameters.

    Raises:
        ComponentError: When ``norm`` is not positive.
        PipelineError: At construction: after weights that are not bounded.

    Source: McMahan et al. 2018, arXiv:1710.06963, Algorithm 1 ("FlatClip"); we divide by the norm before the sum and
        multiply after it (same result).

    Example:
        >>> from fedloom.core.wire import WireType
        >>> clip(1.0).plan(WireType(dim=3, dtype="float64", weight=False)).l2
        1.0
    """
    if not 0 < norm < math.inf:
        raise ComponentError(f"clip(norm={norm}): expected a positive number")

    def plan(wire: WireType) -> WireType:
        if wire.modulus is not None:
            raise PipelineError("clip", received=wire, advice="Put clip() before the encoding to integers.")
        if wire.weighted and wire.max_weight is None:
            raise PipelineError(
                "clip",
                received=wire,
                advice="Weights without a bound came before it: put clip() before mean(), or bound them by max_weight.",
            )
        return replace(wire, clipped=1.0, l2=None if wire.tail else 1.0, l1=None)

    def encode(
        wire: WireType, values: Vector, _setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        parts = values[:, : values.shape[1] - wire.tail]
        into_ball(parts, norm)
        return values, memory

    def decode(wire: WireType, total: Vector, state: None, _info: SumInfo) -> tuple[Vector, None]:
        decoded = total.copy()
        decoded[: total.size - wire.tail] *= norm
        return decoded, state

    return Stage(name="clip", plan=plan, encode=encode, decode=decode, init=stateless)
