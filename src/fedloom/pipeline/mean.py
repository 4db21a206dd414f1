"""mean: the one stage that knows weights; multiplies by them before the sum, divides after it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.component import component
from fedloom.core.keys import Keys
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.errors import ComponentError, Error, PipelineError


@component("fedloom.stages")
def mean(*, expected: float | None = None, max_weight: float | None = None) -> Stage[None]:
    """Weighted mean of the parts over the included clients; metric coordinates are plain sums.

    A client sends ``(weight / scale * parts, metrics, weight / scale)``; the server divides the summed parts by the
    summed weight, or by ``expected / scale``. The scale is ``max_weight``, 1 without it.

    Args:
        expected: A public denominator in place of the summed weights; the weight then does not travel.
        max_weight: The largest weight a client may have. A larger one is refused at the client.

    Raises:
        ComponentError: When a number is not positive.
        PipelineError: At construction of a pipeline: two means, or ``expected`` with unbounded weights.
    """
    for name, number in (("expected", expected), ("max_weight", max_weight)):
        if number is not None and not 0 < number < math.inf:
            raise ComponentError(f"mean({name}={number}): expected a positive number")

    def scale(wire: WireType) -> float:
        bound = wire.max_weight if max_weight is None else max_weight
        return 1.0 if bound is None else bound

    @functools.lru_cache(maxsize=16)
    def plan(wire: WireType) -> WireType:
        if wire.modulus is not None:
            raise PipelineError("mean", received=wire, advice="Put mean() before the encoding to integers.")
        if wire.weighted:
            raise PipelineError("mean", received=wire, advice="The parts are weighted already: use one mean() only.")
        if not wire.weight:
            raise PipelineError("mean", received=wire, advice="Nothing here has a weight: a total needs no mean().")
        bounded = max_weight is not None or wire.max_weight is not None
        if expected is not None and not bounded:
            raise PipelineError(
                "mean",
                received=wire,
                advice=f"mean(expected={expected}) divides unbounded weights by a fixed number: give max_weight as "
                'well, or use weighting = "uniform".',
            )
        weight = expected is None
        two_words = wire.two_words and weight and not bounded
        parts = wire.clipped if bounded else None
        whole = None
        if parts is not None and not wire.metrics:
            whole = math.hypot(parts, 1.0) if weight else parts
        return replace(
            wire,
            dim=wire.dim if wire.dim is None else wire.dim - wire.tail + wire.metrics + weight + two_words,
            l2=whole,
            l1=None,
            clipped=parts,
            weight=weight,
            two_words=two_words,
            max_weight=1.0 if bounded else None,
            weighted=True,
        )

    def encode(
        wire: WireType, values: Vector, _setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        weights = wire.weights(values)
        bound = max_weight if max_weight is not None else wire.max_weight
        if bound is not None and (weights > bound).any():
            raise Error(f"a weight of {float(weights.max())} is above max_weight = {bound}")
        shares = weights / values.dtype.type(scale(wire))
        parts = values.shape[1] - wire.tail
        values[:, :parts] *= shares
        out = plan(wire)
        if out.two_words:
            return values, memory
        values[:, parts + wire.metrics : parts + wire.metrics + 1] = shares
        return values[:, : parts + wire.metrics + out.weight], memory

    def decode(wire: WireType, total: Vector, state: None, _info: SumInfo) -> tuple[Vector, None]:
        out = plan(wire)
        total = total.astype(np.float64)
        divisor = float(out.weights(total[None])[0, 0]) if expected is None else expected / scale(wire)
        parts = total.size - out.tail
        weight = divisor * scale(wire)
        words = wire.split_weight(np.array([weight]))[0]
        with np.errstate(divide="ignore", invalid="ignore"):  # weights that are all zero: the coordinator says so
            means = total[:parts] / divisor
        return np.concatenate([means, total[parts : parts + wire.metrics], words]), state

    return Stage(name="mean", plan=plan, encode=encode, decode=decode, init=stateless)
