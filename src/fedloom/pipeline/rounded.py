"""rounded: numbers that have a limit each, as integers in Z_m; for statistics and metrics, which have no norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from fedloom.core.component import component
from fedloom.core.keys import Keys
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.pipeline.modular import centred, residues

_FINEST = 1000
"""``2.0**1000`` is a float still."""


@component("fedloom.stages")
def rounded(most: float = 2.0**36, *, modulus_bits: Literal[32, 64] = 64) -> Stage[None]:
    """Encode every coordinate, rounded to the nearest step, as an integer modulo ``2**modulus_bits``.

    The step is the smallest power of two at which the sum of all clients that a round may invite fits, each coordinate
    of each client being at most ``most``; a client with a larger one fails, and says so. With the defaults and 100
    clients the step is ``2**-20``: counts are exact, and a total is right to a ten thousandth. It bounds coordinates
    and no norm, so that it carries no noise; for updates there is ``fixed_point``.

    Args:
        most: Largest absolute value of a coordinate of one client.
        modulus_bits: 32 halves the traffic, and leaves 2**32 steps for everything.

    Raises:
        ComponentError: When ``most`` is not positive and finite.
        PipelineError: At construction: values that are integers already, a weight beside them, noise before it, or more
            clients than fit.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> wire = WireType(dim=3, dtype="float64", weight=False, metrics=3, most_clients=100)
        >>> rounded().plan(wire).step == 2.0**-20
        True
    """
    if not 0 < most < math.inf:
        raise ComponentError(f"rounded(most={most}): expected a positive number")
    dtype = f"uint{modulus_bits}"

    def bits(wire: WireType) -> int:
        assert wire.most_clients is not None, "plan() has refused a cohort of unknown size"
        room = ((1 << (modulus_bits - 1)) - 1) // wire.most_clients - 1
        finest = min(math.frexp(room)[1] - math.frexp(most)[1], _FINEST)
        while math.ldexp(most, finest) > room:  # compared exactly: an integer and a float
            finest -= 1
        return finest

    def plan(wire: WireType) -> WireType:
        advice = None
        if wire.modulus is not None:
            advice = "The values are integers already: use one encoding only."
        elif wire.weight:
            advice = "A weight travels beside the values: rounded() is for sums without one; use fixed_point()."
        elif wire.noise_multiplier is not None:
            advice = "Noise is measured by a bound on the norm, which rounded() does not keep: use fixed_point()."
        elif wire.dim is not None and wire.most_clients is None:
            advice = "How many clients a round invites at most is not known, and their sum must fit: set most_clients."
        elif wire.most_clients is not None and wire.most_clients >= 1 << (modulus_bits - 2):
            advice = f"The sum of {wire.most_clients} clients does not fit {modulus_bits} bits."
        if advice is not None:
            raise PipelineError("rounded", received=wire, advice=advice)
        step = None if wire.dim is None else math.ldexp(1.0, -bits(wire))
        return replace(wire, dtype=dtype, modulus=1 << modulus_bits, clipped=None, l2=None, l1=None, step=step)

    def encode(
        wire: WireType, values: Vector, _setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        wide = values.astype(np.float64)  # before it is compared: in float32 the limit itself would be rounded
        if not (np.abs(wide) <= most).all():
            largest = float(wide.flat[int(np.argmax(~(np.abs(wide) <= most)))])
            raise Error(
                f"a coordinate is {largest}; rounded(most={most:g}) leaves no room for it: scale the column, or raise "
                "most"
            )
        return residues(np.rint(np.ldexp(wide, bits(wire))), dtype), memory

    def decode(wire: WireType, total: Vector, state: None, _info: SumInfo) -> tuple[Vector, None]:
        return np.ldexp(centred(total).astype(np.float64), -bits(wire)), state

    return Stage(name="rounded", plan=plan, encode=encode, decode=decode, init=stateless)
