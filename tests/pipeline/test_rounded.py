"""rounded: totals right to half a step for each client, no sum that wraps, and a refusal of what is too large."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import RoundNumber
from fedloom.core.params import Vector
from fedloom.core.wire import AnyStage, SumInfo, WireType
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.pipeline import fixed_point
from fedloom.pipeline.rounded import rounded
from fedloom.testing import check_stage

quick = settings(max_examples=120, derandomize=True, database=None, deadline=None)
WIRE = WireType(dim=3, dtype="float64", weight=False, most_clients=100)
Bits = Literal[32, 64]


def encode(stage: AnyStage, wire: WireType, values: Any) -> Vector:
    rows = np.array(values, wire.dtype)
    encoded: Vector = stage.encode(wire, rows, np.empty(0), np.empty((len(rows), 0)), [])[0]
    return encoded


def total(stage: AnyStage, wire: WireType, values: Any) -> Vector:
    """Return the decoded sum of clients' rows."""
    encoded = encode(stage, wire, values)
    info = SumInfo(clients=len(encoded), expected_clients=float(len(encoded)), round=RoundNumber(1))
    decoded: Vector = stage.decode(wire, encoded.sum(axis=0, dtype=encoded.dtype), None, info)[0]
    return decoded


def step_of(stage: AnyStage, wire: WireType) -> float:
    step = stage.plan(wire).step
    assert step is not None
    return step


def test_it_keeps_the_laws_of_a_stage() -> None:
    check_stage(rounded(1e12))
    check_stage(rounded(1e12, modulus_bits=32))


@quick
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=1, max_size=9),
    st.floats(1e-300, 1e300),
    st.sampled_from([32, 64]),
    st.integers(0, 991),
)
def test_a_total_is_right_to_half_a_step_for_each_client(
    shares: list[list[float]], most: float, bits: Bits, others: int
) -> None:
    """Of any clients that a round may invite, and any limit; the exact sum is one of fractions."""
    stage = rounded(most, modulus_bits=bits)
    wire = replace(WIRE, dim=2, most_clients=len(shares) + others)
    rows = [[math.copysign(min(abs(x * most), most), x) for x in row] for row in shares]
    half = Fraction(step_of(stage, wire)) / 2
    for place, found in enumerate(total(stage, wire, rows).tolist()):
        exact = sum((Fraction(row[place]) for row in rows), Fraction(0))
        rounding = abs(Fraction(found) - exact)
        assert rounding <= len(rows) * half + abs(exact) * Fraction(1, 2**52), "decoded sum, then one float of it"


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clients", [1, 2, 3, 4, 7, 8, 100, 128])
@pytest.mark.parametrize("most", [2.0**36, 1.0, 3.0, 1e6, 2.0**36 - 4.0])
def test_the_sum_of_all_clients_at_the_limit_does_not_wrap(most: float, clients: int, dtype: str, bits: Bits) -> None:
    """A limit and a cohort that are powers of two fill the modulus to the brim: one step more would change the sign."""
    stage, wire = rounded(most, modulus_bits=bits), replace(WIRE, dim=2, dtype=dtype, most_clients=clients)
    reached = (
        most if float(np.array(most, dtype)) <= most else float(np.nextafter(np.array(most, dtype), np.float32(0)))
    )
    found = total(stage, wire, [[reached, -reached]] * clients)
    off = clients * step_of(stage, wire) / 2
    np.testing.assert_allclose(found, [clients * reached, -clients * reached], rtol=1e-15, atol=off)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("clients", [1, 2, 3, 100, 1000])
@pytest.mark.parametrize("most", [5e-324, 1e-300, 0.7, 1.0, 2.0**36, 1e300])
def test_the_step_is_the_smallest_power_of_two_with_room(most: float, clients: int, bits: int) -> None:
    step = step_of(rounded(most, modulus_bits=64 if bits == 64 else 32), replace(WIRE, most_clients=clients))
    assert math.frexp(step)[0] == 0.5
    room = ((1 << (bits - 1)) - 1) // clients - 1
    assert Fraction(most) <= room * Fraction(step), "a client's largest coordinate fits"
    assert Fraction(most) > room * Fraction(step) / 2 or step == 2.0**-1000, "and would not with half the step"


def test_counts_are_exact_by_default() -> None:
    assert total(rounded(), WIRE, [[1.0, 2.0**36, -3.0], [0.0, 5.0, -4.0]]).tolist() == [1.0, 2.0**36 + 5, -7.0]


def test_what_is_halfway_goes_to_the_even_step() -> None:
    stage = rounded()
    step = step_of(stage, WIRE)
    assert (encode(stage, WIRE, [[0.5 * step, 1.5 * step, -0.5 * step]]) == np.array([0, 2, 0], np.uint64)).all()


def test_the_order_of_clients_is_nothing_to_a_sum_of_residues() -> None:
    draw = np.random.default_rng(4)
    rows = draw.standard_normal((50, 3)) * 10.0 ** draw.integers(-6, 10, (50, 3))
    sums = {total(rounded(), WIRE, rows[draw.permutation(50)]).tobytes() for _ in range(20)}
    assert len(sums) == 1


@pytest.mark.parametrize("value", [1.0000001, -2.0, math.inf, -math.inf, math.nan])
def test_a_coordinate_beyond_the_limit_is_refused_with_its_value(value: float) -> None:
    with pytest.raises(Error, match=r"rounded\(most=1\) leaves no room for it: scale the column, or raise most"):
        encode(rounded(1.0), WIRE, [[0.0, value, 0.0]])


def test_in_float32_the_limit_is_not_rounded_up() -> None:
    """As a float32 this limit would be 2**36."""
    wire = replace(WIRE, dim=1, dtype="float32", most_clients=1)
    with pytest.raises(Error, match="leaves no room"):
        encode(rounded(2.0**36 * (1 - 2**-30)), wire, [[2.0**36]])


@pytest.mark.parametrize("most", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_is_a_positive_number(most: float) -> None:
    with pytest.raises(ComponentError, match=r"expected a (positive|finite) number"):
        rounded(most)


@pytest.mark.parametrize(
    ("wire", "advice"),
    [
        (replace(WIRE, dtype="uint32", modulus=2**32), "use one encoding only"),
        (fixed_point().plan(replace(WIRE, clipped=1.0, l2=1.0)), "use one encoding only"),
        (replace(WIRE, weight=True), "A weight travels beside the values"),
        (replace(WIRE, noise_multiplier=1.0), "Noise is measured by a bound on the norm"),
        (replace(WIRE, most_clients=None), "set most_clients"),
        (replace(WIRE, most_clients=2**62), "does not fit 64 bits"),
    ],
)
def test_what_it_cannot_encode_is_refused_when_it_is_planned(wire: WireType, advice: str) -> None:
    with pytest.raises(PipelineError, match=advice):
        rounded().plan(wire)


def test_it_promises_no_norm() -> None:
    planned = rounded(modulus_bits=32).plan(replace(WIRE, clipped=1.0, l2=1.0, l1=2.0))
    assert (planned.clipped, planned.l2, planned.l1) == (None, None, None)
    assert (planned.dtype, planned.modulus, planned.dim) == ("uint32", 2**32, 3)


def test_an_unknown_size_is_planned_without_a_step() -> None:
    assert rounded().plan(replace(WIRE, dim=None, most_clients=None)).step is None
