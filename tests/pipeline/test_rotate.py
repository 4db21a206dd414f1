"""rotate: orthonormal, undone on the sum, spreading; one set of signs for all clients of a round, then another."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import RoundNumber
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.core.wire import SumInfo, WireType
from fedloom.errors import PipelineError
from fedloom.pipeline import rotate
from fedloom.pipeline.rotate import hadamard, padded

quick = settings(max_examples=80, derandomize=True, database=None, deadline=None)
INFO = SumInfo(clients=2, expected_clients=2.0, round=RoundNumber(1))
BARE = WireType(dim=4, dtype="float64", weight=False)


def encode(wire: WireType, values: Any, number: int = 0) -> Vector:
    stage = rotate()
    rows = np.array(values, wire.dtype)
    return stage.encode(wire, rows, stage.setting(number), np.empty((len(rows), 0)), [])[0]


def exact_square(row: Vector) -> Fraction:
    return sum((Fraction(float(value)) ** 2 for value in row), Fraction(0))


@pytest.mark.parametrize("bits", range(7))
def test_the_transform_is_multiplication_by_the_hadamard_matrix(bits: int) -> None:
    matrix = np.ones((1, 1))
    for _ in range(bits):
        matrix = np.kron(matrix, np.array([[1.0, 1.0], [1.0, -1.0]]))
    rows = Key.from_seed(bits).generator().integers(-9, 9, (3, 1 << bits)).astype(np.float64)
    np.testing.assert_array_equal(hadamard(rows.copy()), rows @ matrix)


@quick
@given(st.integers(0, 3_000_000))
def test_padding_is_small_and_blocks_are_powers_of_two(parts: int) -> None:
    size, block = padded(parts)
    assert block & (block - 1) == 0
    assert size % block == 0
    assert 0 <= size - parts < block
    assert size - parts <= parts / 8 or block <= 1024
    assert parts == 0 or size == block or block >= 1024, "a short vector is one block"


@quick
@given(
    st.integers(1, 2000),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["normal", "peak", "flat"]),
    st.integers(-12, 12),
    st.integers(0, 2**32),
)
def test_no_norm_grows_and_none_shrinks_by_more_than_rounding(
    dim: int, dtype: str, shape: str, exponent: int, seed: int
) -> None:
    draw = Key.from_seed(seed).generator()
    row = {"normal": draw.standard_normal(dim), "peak": np.eye(1, dim, dim // 2)[0], "flat": np.ones(dim)}[shape]
    rows = (row[None] * 10.0**exponent).astype(dtype)
    before, after = exact_square(rows[0]), exact_square(encode(replace(BARE, dim=dim, dtype=dtype), rows)[0])
    slack = 1e-6 if dtype == "float32" else 1e-13
    assert before * Fraction(1 - slack) <= after <= before


@quick
@given(st.integers(1, 3000), st.integers(1, 4), st.sampled_from(["float32", "float64"]), st.integers(0, 9))
def test_the_sum_is_turned_back(dim: int, clients: int, dtype: str, number: int) -> None:
    wire = replace(BARE, dim=dim, dtype=dtype)
    rows = Key.from_seed(dim).generator().standard_normal((clients, dim)).astype(dtype)
    total = encode(wire, rows, number).sum(axis=0, dtype=dtype)
    decoded, after = rotate().decode(wire, total, number, INFO)
    assert after == number + 1
    np.testing.assert_allclose(decoded, rows.sum(axis=0), rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("dim", [64, 1000, 9000])
def test_a_peak_is_spread_over_its_block(dim: int) -> None:
    block = padded(dim)[1]
    rows = np.zeros((3, dim))
    rows[[0, 1, 2], [0, dim // 2, dim - 1]] = 1.0
    encoded = encode(replace(BARE, dim=dim), rows)
    for row in encoded:
        there = np.abs(row[np.abs(row) > 0])
        assert len(there) == block
        np.testing.assert_allclose(there, 1 / math.sqrt(block), rtol=1e-12)


def test_no_coordinate_of_any_rotated_vector_stands_out() -> None:
    """200 vectors of few large and many small coordinates; false alarm 1e-6 by Hoeffding over all coordinates."""
    dim = 1024
    draw = Key.from_seed(8).generator()
    worst = math.sqrt(2 * math.log(2 * dim * 200 / 1e-6) / dim)
    for number in range(200):
        row = draw.standard_normal(dim) * 10.0 ** draw.integers(-3, 3, dim)
        row /= np.linalg.norm(row)
        assert np.abs(encode(replace(BARE, dim=dim), row[None], number)).max() <= worst


def test_signs_are_those_of_the_round_for_every_client_and_change_with_it() -> None:
    rows = np.repeat(Key.from_seed(1).generator().standard_normal((1, 64)), 3, axis=0)
    wire = replace(BARE, dim=64)
    first, second = encode(wire, rows, 0), encode(wire, rows, 1)
    assert (first == first[0]).all()
    assert not np.allclose(np.abs(first), np.abs(second))
    stage = rotate()
    state = stage.init(wire)
    _, state = stage.decode(wire, first.sum(axis=0), state, INFO)
    assert stage.setting(state).tolist() == [1]


def test_metrics_and_weight_pass_as_they_are() -> None:
    wire = WireType(dim=3 + 2 + 2, dtype="float32", metrics=2, two_words=True)
    rows = np.arange(14, dtype=np.float32).reshape(2, 7)
    planned = rotate().plan(wire)
    encoded = encode(wire, rows.copy())
    assert encoded.shape == (2, planned.dim) == (2, 8)
    np.testing.assert_array_equal(encoded[:, -4:], rows[:, -4:])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_smallest_vectors(dim: int) -> None:
    wire = WireType(dim=dim + 1, dtype="float64", metrics=1, weight=False)
    rows = np.ones((1, dim + 1))
    total = encode(wire, rows)[0]
    np.testing.assert_allclose(rotate().decode(wire, total, 0, INFO)[0], rows[0], rtol=1e-14)


def test_bounds_stay_and_integers_are_refused() -> None:
    wire = replace(BARE, l2=1.0, clipped=1.0)
    planned = rotate().plan(replace(wire, dim=5))
    assert (planned.l2, planned.clipped, planned.dim) == (1.0, 1.0, 8)
    with pytest.raises(PipelineError, match="before the encoding"):
        rotate().plan(replace(wire, modulus=2**32, dtype="uint32"))
