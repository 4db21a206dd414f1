"""fixed_point: a bounded vector as integers in Z_m, whose sum is exact, can be masked, and can carry exact noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedloom.core.component import component
from fedloom.core.integer_noise import MOST_DRAWS, MOST_INFLATION
from fedloom.core.keys import Keys
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.pipeline import grid as grids
from fedloom.pipeline.grid import Bounded, Grid
from fedloom.pipeline.modular import centred, residues

_TRIES = 128
"""A rounding passes with probability 0.39 at least: 128 fail together once in 10**27."""
_OVER = 1e-9
"""A float norm may exceed its bound by rounding; beyond this share the vector was not clipped."""


@component("fedloom.stages")
def fixed_point(
    bits: int | None = None, *, modulus_bits: Literal[32, 64] = 32, most_metric: float | None = None
) -> Stage[None]:
    """Encode parts as integers in steps of ``2**-bits``, in two's complement modulo ``2**modulus_bits``.

    Each coordinate is rounded up or down at random so that it is right in expectation. The whole rounding is drawn
    again while the integers' squared norm is above a fixed limit, so the bound that this stage declares holds for every
    outcome, checked on the integers. Draws come from the public key of round and client: no claim rests on their
    secrecy, and every engine gives the same bytes. Sums in Z_m are exact in any order.

    The sum of all clients that a round may invite fits the modulus, whatever they send: what does not fit is refused
    when the pipeline is put together. Weights, which are at most 1 here, and metrics are rounded to the nearest step.

    Args:
        bits: Number of binary places. None: without noise as many as the modulus holds; with noise as many as keep one
            draw's standard deviation at 4,096 steps, or more, by several draws, where so few would lengthen vectors
            by more than 5 %.
        modulus_bits: 64 doubles the traffic; for very many clients or a very wide vector.
        most_metric: Largest value of a metric coordinate, either sign; a client with a larger one fails. Needed where
            metrics travel beside the parts.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: At construction: parts without a bound, weights that are not multiplied in, metrics without a
            bound, noise beside a weight or metrics, a sum that could overflow, rounding that would raise the bound by
            more than 5 %.

    Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Algorithm 1, the rounding and modular steps, with a scale that
        is a power of two; the uniform number that decides a coordinate has 32 bits (differs: off by at most 2**-32
        steps in expectation). Its bound on the norm: ``fedloom.pipeline.grid.most_square``.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> wire = WireType(dim=3, dtype="float64", weight=False, clipped=1.0, most_clients=100)
        >>> planned = fixed_point().plan(wire)
        >>> planned.dtype, planned.modulus == 2**32, planned.step == 2.0**-24
        ('uint32', True, True)
    """
    if bits is not None and not 0 <= bits <= 30:
        raise ComponentError(f"fixed_point(bits={bits}): expected a whole number from 0 to 30")
    if most_metric is not None and not 0 < most_metric < math.inf:
        raise ComponentError(f"fixed_point(most_metric={most_metric}): expected a positive number")
    dtype = f"uint{modulus_bits}"

    @functools.lru_cache(maxsize=16)
    def grid_of(wire: WireType) -> Grid:
        return _grid(wire, bits, modulus_bits)

    @functools.lru_cache(maxsize=16)
    def tail_scales(wire: WireType) -> Vector:
        """Return steps to the unit for each coordinate behind the parts: metrics, then the weight."""
        fine = 0
        if wire.metrics and most_metric is not None:
            assert wire.most_clients is not None, "a vector of known size was planned"
            fine = _metric_bits(most_metric, wire.most_clients, modulus_bits)
        return np.array([2.0**fine] * wire.metrics + [2.0 ** grid_of(wire).bits] * wire.weight)

    def plan(wire: WireType) -> WireType:
        _check_order(wire, most_metric)
        out = replace(wire, dtype=dtype, modulus=1 << modulus_bits, clipped=math.inf, l2=math.inf, l1=None)
        if wire.dim is None:  # that there is a bound is known before its size
            return replace(out, l2=None if wire.metrics else math.inf, l1=None if wire.l1 is None else math.inf)
        found = grid_of(wire)
        whole = math.nextafter(math.hypot(found.l2, 2.0**found.bits), math.inf) if wire.weight else found.l2
        return replace(
            out,
            clipped=found.l2,
            l2=None if wire.metrics else whole,
            l1=None if found.l1 is None else float(found.l1),
            step=2.0**-found.bits,
        )

    def encode(
        wire: WireType, values: Vector, _setting: Vector, memory: Vector, keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        parts = values.shape[1] - wire.tail
        encoded = np.empty(values.shape, dtype)
        encoded[:, :parts] = residues(_rounded(values[:, :parts], grid_of(wire), keys), dtype)
        if wire.tail:
            encoded[:, parts:] = residues(_tail(wire, values[:, parts:], tail_scales(wire), most_metric), dtype)
        return encoded, memory

    def decode(wire: WireType, total: Vector, state: None, _info: SumInfo) -> tuple[Vector, None]:
        decoded = centred(total).astype(np.float64)
        parts = decoded.size - wire.tail
        decoded[:parts] *= 2.0 ** -grid_of(wire).bits
        decoded[parts:] /= tail_scales(wire)
        return decoded, state

    return Stage(name="fixed_point", plan=plan, encode=encode, decode=decode, init=stateless)


def _check_order(wire: WireType, most_metric: float | None) -> None:
    """Refuse what no size of the model would make right."""
    advice = None
    if wire.modulus is not None:
        advice = "The values are integers already: use one fixed_point() only."
    elif wire.clipped is None:
        advice = (
            "It needs a bound on one client's parts: put clip(...) before it, and where mean() multiplies by weights, "
            'give it max_weight, or use weighting = "uniform".'
        )
    elif wire.weight and (wire.max_weight is None or wire.max_weight > 1.0):
        advice = "A weight above 1 may travel: put mean(max_weight=...) before fixed_point(), which makes shares of it."
    elif wire.metrics and most_metric is None:
        advice = (
            f"{wire.metrics} metric coordinates travel beside the parts: give fixed_point(most_metric=...) their "
            "largest value, or let clients send none."
        )
    elif wire.noise_multiplier is not None and wire.dim is not None and wire.tail:
        beside = "metrics" if wire.metrics else "a weight"
        advice = (
            f"Noise is calibrated to the parts, and {beside} would travel beside them: let clients send no metrics, "
            "and give mean() a fixed denominator by expected=..."
        )
    if advice is not None:
        raise PipelineError("fixed_point", received=wire, advice=advice)


def _grid(wire: WireType, bits: int | None, modulus_bits: int) -> Grid:
    """Return the grid for a wire type of known size.

    Raises:
        PipelineError: When there is none that holds the sum and leaves the bound nearly as it was.
    """
    assert wire.dim is not None and wire.clipped is not None, "sizes come after the order"
    if wire.most_clients is None:
        raise PipelineError(
            "fixed_point",
            received=wire,
            advice="How many clients a round invites at most is not known, and their sum must fit: set most_clients.",
        )
    given = Bounded(
        bound=wire.clipped,
        dim=wire.dim - wire.tail,
        clients=wire.most_clients,
        modulus_bits=modulus_bits,
        weight=wire.weight,
        noise_multiplier=wire.noise_multiplier,
        noise_each=wire.noise_each,
        noise_shares=wire.noise_shares,
        l1=None if wire.tail else wire.l1,
    )
    top = grids.finest(given)
    if top is None:
        raise PipelineError("fixed_point", received=wire, advice=_too_many(given))
    if bits is not None:
        found: Grid | None = grids.grid(given, bits)
    else:
        found = top if given.noise_multiplier is None else grids.for_noise(given, top.bits)
    needed = grids.least_bits(given)
    if found is None or found.inflation > MOST_INFLATION:
        share = "much more than" if found is None else f"{found.inflation:.0%}, above"
        room = f"the modulus holds {top.bits} for {given.clients} clients"
        remedy = f"give bits={needed}" if needed <= top.bits else f"{room}: {_room(modulus_bits)}"
        advice = (
            f"Rounding to {top.bits if found is None else found.bits} bits would raise the bound of a vector of "
            f"{given.dim} numbers by {share} {MOST_INFLATION:.0%}; {needed} bits are needed: {remedy}."
        )
        raise PipelineError("fixed_point", received=wire, advice=advice)
    if not grids.fits(found, given):
        raise PipelineError(
            "fixed_point",
            received=wire,
            advice=f"With bits={found.bits} the sum of {given.clients} clients can reach {found.full}, the modulus "
            f"holds less than 2**{modulus_bits - 1}: use at most bits={top.bits}, or {_room(modulus_bits)}.",
        )
    if found.draws > MOST_DRAWS:
        raise PipelineError(
            "fixed_point",
            received=wire,
            advice=f"A noise multiplier of {given.noise_multiplier} needs {found.draws} draws of noise a round on "
            f"{found.bits} bits, each about a second for a million numbers; at most {MOST_DRAWS} are made: lower "
            "bits or the noise, or train fewer parameters.",
        )
    return found


def _too_many(given: Bounded) -> str:
    return (
        f"The sum of {given.clients} clients bounded by {given.bound} fits Z_m at no scale: {_room(given.modulus_bits)}"
    )


def _room(modulus_bits: int) -> str:
    wider = "" if modulus_bits == 64 else "use modulus_bits=64, or "
    return f"{wider}invite fewer clients to a round"


def _metric_bits(most: float, clients: int, modulus_bits: int) -> int:
    """Return the finest scale at which the metrics of all clients add up in half of Z_m."""
    room = ((1 << (modulus_bits - 1)) - 1) // clients - 1
    return min(math.frexp(room / most)[1] - 1, 1000)  # 2.0**1000 is a float still


def _rounded(values: Vector, grid: Grid, keys: Sequence[Keys]) -> Vector:
    """Return values ``(clients, parts)`` as whole float64 numbers of steps, rounded at random within the bound.

    Raises:
        Error: When a row is not finite, or longer than the bound before it was rounded.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is beyond the bound, and refused below
        scaled = np.multiply(values, 2.0**grid.bits, dtype=np.float64)
        low = np.floor(scaled)
        scaled -= low
    fractions, rounded = scaled, np.empty_like(low)
    pending = np.arange(len(values))
    for attempt in range(_TRIES):
        drawn = _uniforms([keys[row] for row in pending.tolist()], attempt, values.shape[1])
        tried = low[pending] if attempt else low
        tried = tried + (drawn < (fractions[pending] if attempt else fractions))
        passed = _within(tried, grid)
        if not attempt and passed.all():
            return tried
        rounded[pending[passed]] = tried[passed]
        pending = pending[~passed]
        if not len(pending):
            return rounded
        if not attempt:
            _check_norms(values[pending], grid)
    raise Error(f"{_TRIES} roundings of an update were all longer than the bound: its norm is too close to it")


def _uniforms(keys: Sequence[Keys], attempt: int, count: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) of 32 bits for each coordinate of each client."""
    drawn = np.empty((len(keys), count), np.uint32)
    for row, key in zip(drawn, keys, strict=True):
        words = key.public.child("fixed_point", attempt).random_raw((count + 1) // 2)
        row[:] = words.astype("<u8", copy=False).view("<u4")[:count]
    return np.multiply(drawn, 2.0**-32, dtype=np.float64)


def _within(rounded: Vector, grid: Grid) -> npt.NDArray[np.bool_]:
    """Return which rows of whole numbers are within the grid's bounds, exactly.

    Float64 sums of whole numbers are exact in any order below 2**53, and one that is above stays above what is far
    below it.
    """
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", rounded, rounded)
    if grid.most_square <= 1 << 52:
        passed: npt.NDArray[np.bool_] = squares <= grid.most_square
    else:
        passed = squares <= 1.001 * grid.most_square
        whole = rounded[passed].astype(np.int64)
        passed[passed] = np.einsum("ij,ij->i", whole, whole) <= grid.most_square
    if grid.l1 is not None:
        passed &= np.abs(rounded).sum(axis=1) <= grid.l1
    return passed


def _check_norms(values: Vector, grid: Grid) -> None:
    """Refuse rows that no rounding brings within the bound."""
    if not np.isfinite(values).all():
        raise Error("the update holds a NaN or an infinity: local training diverged; lower the learning rate")
    bound = math.ldexp(grid.length, -grid.bits)
    with np.errstate(over="ignore"):
        norm = max(math.sqrt(float(np.square(row, dtype=np.float64).sum())) for row in values)
    if norm > bound * (1 + _OVER):
        raise Error(f"the update has norm {norm}; the stages before fixed_point() promised at most {bound}")
    if grid.l1 is not None:
        most = math.ldexp(grid.l1, -grid.bits)
        sums = np.abs(values).sum(axis=1, dtype=np.float64)
        if (sums > most).any():
            raise Error(f"the update has L1 norm {sums.max()}; rounded it may have {most} at most")


def _tail(wire: WireType, values: Vector, scales: Vector, most_metric: float | None) -> Vector:
    """Return metrics and weight as whole numbers of steps, to the nearest."""
    limits = np.array([most_metric or 0.0] * wire.metrics + [1.0] * wire.weight)
    if not (np.abs(values) <= limits).all():
        row, column = np.argwhere(~(np.abs(values) <= limits))[0]
        kind = "metric coordinate" if column < wire.metrics else "weight"
        raise Error(
            f"a {kind} is {float(values[row, column])}; fixed_point() leaves room for {limits[column]} "
            + ("(most_metric: raise it)" if column < wire.metrics else "(a share of max_weight)")
        )
    whole: Vector = np.rint(values * scales)
    return whole
