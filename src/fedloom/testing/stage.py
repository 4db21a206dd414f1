"""check_stage: the laws that every stage keeps, over types, sizes, weights and bounds of what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core import codec
from fedloom.core.ids import RoundNumber
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import AnyStage, SumInfo, WireType
from fedloom.errors import PipelineError
from fedloom.pipeline.modular import centred

Expected: TypeAlias = Callable[[WireType, Vector], Vector]
"""From the wire type before a linear stage and the clients' values ``(clients, d)`` to the decoded sum."""

_EXAMPLES = 60
_WIRES = tuple(
    WireType(dim=None, dtype=dtype, metrics=metrics, weight=weight, max_weight=bound, clipped=clipped, l2=l2)
    for dtype in ("float32", "float64")
    for metrics in (0, 2)
    for weight in (False, True)
    for bound in (None, 1.0, 500.0)
    for clipped, l2 in ((None, None), (1.0, None), (1.0, 1.0))
    if (l2 is None or not (metrics or weight)) and (weight or bound is None)
)
_WIRES = (*_WIRES, *(replace(w, two_words=True) for w in _WIRES if w.weight and w.max_weight is None))


def check_stage(stage: AnyStage, *, expected: Expected | None = None, most: float = 1e12) -> None:
    """Check a stage against every law below, on all wire types that it accepts.

    Args:
        stage: The stage.
        expected: Of a linear stage: what the decoded sum is, written another way. None: the stage is not linear.
        most: The largest coordinate tried; where ``expected`` is given the law is tried up to 100.

    Raises:
        AssertionError: With the law that is broken.
    """
    wires = [wire for wire in _WIRES if _accepts(stage, wire)]
    assert wires, f"{stage.name} accepts no wire type: {len(_WIRES)} were tried"

    @settings(
        max_examples=_EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(wires), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32), st.floats(-18, 1))
    def laws(wire: WireType, parts: int, clients: int, seed: int, exponent: float) -> None:
        sized = _sized(wire, parts, clients)
        values = draw_values(sized, clients, Key.from_seed(seed), scale=most * 10.0 ** (min(exponent, 0.0)))
        check_encoding(stage, sized, values)
        if expected is not None:
            small = draw_values(sized, clients, Key.from_seed(seed), scale=min(most, 100.0))
            check_linear(stage, sized, small, expected)

    laws()


def check_encoding(stage: AnyStage, wire: WireType, values: Vector) -> None:
    """Encoded rows have the planned type and size, keep its bounds, and do not depend on their neighbours."""
    planned = stage.plan(wire)
    encoded = _encode(stage, wire, values)
    assert encoded.shape == (len(values), planned.dim), f"{stage.name}: encoded {encoded.shape}, planned {planned.dim}"
    assert encoded.dtype == planned.dtype, f"{stage.name}: encoded {encoded.dtype}, planned {planned.dtype}"
    for row, one in zip(encoded, values, strict=True):
        alone = _encode(stage, wire, one[None])[0]
        assert alone.tobytes() == row.tobytes(), f"{stage.name}: a row of a block has other bytes than alone"
        if planned.modulus is not None:
            assert (row >= 0).all() and (row < planned.modulus).all(), f"{stage.name}: values outside Z_m"
            row = centred(row)  # noqa: PLW2901 - a bound is one on the integers that residues stand for
        if planned.l2 is not None:
            assert norm_of(row) <= planned.l2, f"{stage.name}: norm {norm_of(row)!r} above the declared {planned.l2}"
        if planned.l1 is not None:
            assert math.fsum(abs(float(x)) for x in row) <= planned.l1, f"{stage.name}: L1 norm above {planned.l1}"
        if planned.clipped is not None:
            parts = row[: row.size - planned.tail]
            assert norm_of(parts) <= planned.clipped, f"{stage.name}: parts of norm {norm_of(parts)!r} are not clipped"


def check_linear(stage: AnyStage, wire: WireType, values: Vector, expected: Expected) -> None:
    """Decoding the sum of encoded rows gives what ``expected`` says, and saves a state that the codec carries."""
    state = stage.init(wire)
    encoded = _encode(stage, wire, values)
    total = encoded.sum(axis=0, dtype=encoded.dtype)
    info = SumInfo(clients=len(values), expected_clients=float(len(values)), round=RoundNumber(1))
    decoded, after = stage.decode(wire, total, state, info)
    wanted = expected(wire, values)
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)), float(np.abs(values).max(initial=0.0)))
    close = (1e-4 if wire.dtype == "float32" else 1e-11) * scale
    assert decoded.shape == wanted.shape, f"{stage.name}: decoded {decoded.shape}, expected {wanted.shape}"
    assert np.allclose(decoded, wanted, rtol=0, atol=close), f"{stage.name}: {decoded} decoded, {wanted} expected"
    assert codec.encode(codec.decode(codec.encode(after), state)) == codec.encode(after), "the state does not travel"


def draw_values(wire: WireType, clients: int, key: Key, *, scale: float) -> Vector:
    """Return rows that a wire type allows: parts up to ``scale`` and within its bound, zeros among them."""
    assert wire.dim is not None
    draw = key.generator()
    values = draw.uniform(-1.0, 1.0, (clients, wire.dim))
    parts = values[:, : wire.dim - wire.tail]
    parts *= scale * draw.choice([0.0, 1e-9, 1.0], (clients, 1))
    parts *= draw.choice([0.0, 1.0], parts.shape, p=[0.2, 0.8])
    if wire.clipped is not None:
        norms = np.linalg.norm(parts, axis=1, keepdims=True)
        parts *= wire.clipped * (1 - 1e-6) / np.maximum(norms, wire.clipped)
    if wire.weight:
        most = 10_000.0 if wire.max_weight is None else wire.max_weight
        weights = np.ceil(np.abs(values[:, -1]) * most) if most > 1 else np.full(clients, most)
        values[:, wire.dim - wire.tail + wire.metrics :] = wire.split_weight(weights)
    return values.astype(wire.dtype)


def norm_of(row: Vector) -> float:
    """Return the L2 norm of a row, its squares summed exactly."""
    largest = float(np.abs(row).max(initial=0))
    return largest * math.sqrt(math.fsum((float(x) / largest) ** 2 for x in row)) if largest else 0.0


def _accepts(stage: AnyStage, wire: WireType) -> bool:
    try:
        planned = stage.plan(wire)
    except PipelineError as refusal:
        assert refusal.advice, f"{stage.name} refuses {wire} without advice"
        return False
    assert planned.dim is None, f"{stage.name} makes up a size before the schema is agreed"
    try:
        stage.plan(_sized(wire, 1, 1))
    except PipelineError as refusal:
        assert refusal.advice, f"{stage.name} refuses {wire} of a size without advice"
        return False
    return True


def _sized(wire: WireType, parts: int, clients: int) -> WireType:
    return replace(wire, dim=parts + wire.tail, most_clients=clients, honest=clients, record=1.0)


def _encode(stage: AnyStage, wire: WireType, values: Vector) -> Vector:
    memory = np.stack([stage.client_init(wire)] * len(values))
    keys: Sequence[Keys] = [Keys(Key.from_seed(4).child("client", 0), NO_SECRET)] * len(values)
    setting: Any = stage.setting(stage.init(wire))
    encoded, renewed = stage.encode(wire, values.copy(), setting, memory.copy(), keys)
    assert renewed.shape == memory.shape, f"{stage.name}: memory {memory.shape} became {renewed.shape}"
    return encoded
