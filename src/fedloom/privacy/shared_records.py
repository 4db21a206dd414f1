"""shared_gaussian: one noise for the rows of all clients, on the sum of what their private steps left bare.

The record-level counterpart of ``gaussian``: what it hides is one row of one client, wherever that lies, not a client.
It needs far less noise than every client's own would add up to, and trusts whoever adds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.component import component
from fedloom.core.events import DpEvent
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.private_steps import NoiseGrid, noise_grid
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.entropy.discrete_noise import discrete_gaussian
from fedloom.errors import Error, PipelineError
from fedloom.pipeline.modular import centred, residues
from fedloom.privacy.mechanisms import check_clip, check_covered

_REACH_BITS = 22
"""A coordinate of one client is cut at ``2**22`` bounds of a row: 64 bits hold the sum of 2**20 such clients."""
_MOST_CLIENTS = 1 << 20


@component("fedloom.stages")
def shared_gaussian(noise_multiplier: float) -> Stage[None]:
    """Encode each client's delta as integers of Z_m, m = 2**64, and add integer Gaussian noise that hides one row.

    Behind ``mean(expected=...)`` of an algorithm whose private steps have ``noise_multiplier = "shared"``: the bound on
    what a row changes comes with the vector, from the clip, the learning rate and the declared rows of those steps. The
    grid has a power of two of steps to that bound; a coordinate is rounded to the nearest step, which can add less than
    one step a coordinate to the difference of two neighbours, and noise covers that too.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum over what one row can change of it.

    Raises:
        ComponentError: When the number is not positive and finite.
        PipelineError: At construction: where metrics or a weight would travel beside the noised sum, where the vector
            is encoded already, or where nothing bounds what a row can change.

    Guarantee:
        Neighbouring data differ in one row of one client, there or not; the server, which adds the noise, is trusted.
        The event is of one sum without the sampling of rows: whoever prices it adds ``rate``.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Theorem 4 for the noise of one draw.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = shared_gaussian(noise_multiplier=1.1)
        >>> out = stage.plan(WireType(dim=101, dtype="float64", weight=False, record=0.01))
        >>> out.dtype, stage.event(out).sigma
        ('uint64', 2264.0)
    """
    return noise_on_rows("shared_gaussian", noise_multiplier)


def noise_on_rows(name: str, noise_multiplier: float) -> Stage[None]:
    """Return the stage of a grid for rows with its noise on the sum; see ``shared_gaussian``.

    Raises:
        ComponentError: When the number is not positive and finite.
    """
    check_clip(name, 1.0, noise_multiplier)

    def plan(wire: WireType) -> WireType:
        check_covered(name, wire)
        if wire.dim is None:  # order is checked before size and bound are known
            return replace(wire, dtype="uint64", modulus=2**64, noise_multiplier=noise_multiplier)
        if wire.record is None:
            raise PipelineError(
                name,
                received=wire,
                advice="Nothing bounds what one row can change: give the schedule private steps with "
                'noise_multiplier = "shared", and put only mean(expected=...) before this stage.',
            )
        if wire.most_clients is not None and wire.most_clients > _MOST_CLIENTS:
            raise PipelineError(name, received=wire, advice=f"It sums up to {_MOST_CLIENTS} clients.")
        grid = _grid(wire, noise_multiplier)
        return replace(
            wire,
            dtype="uint64",
            modulus=2**64,
            step=wire.record / 2.0**grid.bits,
            noise_multiplier=noise_multiplier,
            l2=None,
            l1=None,
            clipped=None,
        )

    def encode(
        wire: WireType, values: Vector, _setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        if not np.isfinite(values).all():
            raise Error("the update holds a NaN or an infinity: local training diverged; lower the learning rate")
        assert wire.record is not None, "plan() has refused vectors without a bound"
        bits = _grid(wire, noise_multiplier).bits
        most = 2.0 ** (bits + _REACH_BITS)
        steps = np.clip(values.astype(np.float64) / (wire.record / 2.0**bits), -most, most)
        return residues(np.floor(steps + 0.5), "uint64"), memory

    def decode(wire: WireType, total: Vector, state: None, _info: SumInfo) -> tuple[Vector, None]:
        assert wire.record is not None, "plan() has refused vectors without a bound"
        step = wire.record / 2.0 ** _grid(wire, noise_multiplier).bits
        return centred(total) * step, state

    def release(total: Vector, last: WireType, secret: SecretKey) -> Vector:
        return row_noise(total, last, secret=secret, noise_multiplier=noise_multiplier)

    def event(last: WireType) -> DpEvent:
        return row_event(last, noise_multiplier)

    return Stage(
        name=name,
        plan=plan,
        encode=encode,
        decode=decode,
        init=stateless,
        release=release,
        event=event,
    )


def row_noise(total: Vector, last: WireType, *, secret: SecretKey, noise_multiplier: float) -> Vector:
    """Return a vector of the last wire type with its noise; where noise is added in shares, with one of them."""
    grid = _grid(last, noise_multiplier)
    noise = np.zeros(total.size, np.int64)
    for draw in range(grid.draws):
        noise += discrete_gaussian(secret.child("draw", draw), grid.sigma**2, total.size)
    noised: Vector = total + residues(noise, "uint64")
    return noised


def row_event(last: WireType, noise_multiplier: float) -> DpEvent:
    """Return the event of the noise that ``row_noise`` adds once."""
    return _grid(last, noise_multiplier).event


def _grid(wire: WireType, noise_multiplier: float) -> NoiseGrid:
    """Return the grid whose noise is that of the sum, or of one share of it."""
    assert wire.dim is not None, "an exchange is made when the schema is agreed"
    return noise_grid(noise_multiplier / math.sqrt(wire.noise_shares or 1), wire.dim)
