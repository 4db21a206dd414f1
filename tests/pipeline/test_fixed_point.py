"""fixed_point, its grid, and Z_m: bounds checked on the integers, sums that cannot overflow, rounding that is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.aggregator import Finish
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.integer_noise import MOST_INFLATION, MOST_SIGMA, draws_of, share_sigma
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import SumInfo, WireType
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.pipeline import BoundPipeline, chain, clip, fixed_point, mean, plain_sum, rotate, tree_total
from fedloom.pipeline.grid import Bounded, finest, fits, for_noise, grid, least_bits, most_square
from fedloom.pipeline.modular import centred, residues
from fedloom.testing import check_aggregator, sum_round

quick = settings(max_examples=80, derandomize=True, database=None, deadline=None)
INFO = SumInfo(clients=2, expected_clients=2.0, round=RoundNumber(1))
UNIT = WireType(dim=4, dtype="float64", weight=False, clipped=1.0, l2=1.0, most_clients=100)


def keys_of(count: int, seed: int = 0) -> list[Keys]:
    return [Keys(Key.from_seed(seed).child("client", number), NO_SECRET) for number in range(count)]


def encode(stage: Any, wire: WireType, values: Any, keys: Sequence[Keys] | None = None) -> Vector:
    rows = np.array(values, wire.dtype)
    encoded: Vector = stage.encode(wire, rows, np.empty(0), np.empty((len(rows), 0)), keys or keys_of(len(rows)))[0]
    return encoded


def decode(stage: Any, wire: WireType, total: Vector) -> Vector:
    decoded: Vector = stage.decode(wire, total, None, INFO)[0]
    return decoded


def square(row: Vector) -> int:
    """Return the squared norm of the integers that residues stand for, in Python's integers."""
    return sum(value * value for value in centred(row).tolist())


class Stuck:
    """A public stream whose first ``times`` roundings all go up; the attempts that were asked for are noted."""

    def __init__(self, key: Key, times: int) -> None:
        self.key, self.times, self.attempts = key, times, 0

    def child(self, _name: str, attempt: int) -> Any:
        self.attempts += 1
        return self if attempt < self.times else self.key.child("fixed_point", attempt)

    def random_raw(self, count: int) -> Vector:
        return np.zeros(count, np.uint64)


# ---- Residues ----------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9), st.sampled_from(["uint32", "uint64"]))
def test_residues_stand_for_the_integers_they_were_made_of(values: list[int], dtype: str) -> None:
    assert centred(residues(np.array(values), dtype)).tolist() == values
    assert centred(residues(np.array(values, np.float64), dtype)).tolist() == values


@quick
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_the_tree_adds_residues_in_the_ring(values: list[int]) -> None:
    rows = np.array(values, np.uint32)[:, None]
    assert tree_total(rows).tolist() == [sum(values) % 2**32]
    assert tree_total(rows).dtype == np.uint32


def test_a_plain_sum_is_one_in_the_ring() -> None:
    check_aggregator(plain_sum, clients=4, modulus=2**32)


# ---- Grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clients", "bits"), [(1, 30), (2, 29), (100, 24), (127, 24), (128, 23), (10_000, 17)])
def test_without_noise_the_modulus_says_how_fine(clients: int, bits: int) -> None:
    found = finest(Bounded(bound=1.0, dim=1000, clients=clients, modulus_bits=32))
    assert found is not None
    assert found.bits == bits


@pytest.mark.parametrize("bound", [1e-30, 1e-3, 0.999, 1.0, 1.001, 1e30])
def test_the_scale_follows_the_bound(bound: float) -> None:
    found = finest(Bounded(bound=bound, dim=1000, clients=100, modulus_bits=32))
    assert found is not None
    assert 2**31 / 201 < found.length < 2**31 / 100
    assert found.length == math.ldexp(bound, found.bits)


@pytest.mark.parametrize(("dim", "bits"), [(10**4, 8), (10**5, 9), (10**6, 11), (10**7, 13)])
def test_the_places_from_which_on_rounding_is_harmless(dim: int, bits: int) -> None:
    given_ = Bounded(bound=1.0, dim=dim, clients=10, modulus_bits=32)
    assert least_bits(given_) == bits
    assert grid(given_, bits).inflation <= MOST_INFLATION < grid(given_, bits - 1).inflation


@quick
@given(st.integers(0, 10**7), st.integers(1, 2**20))
def test_the_limit_is_the_smaller_of_both_bounds_a_few_units_up(dim: int, steps: int) -> None:
    always = (steps + math.sqrt(dim)) ** 2
    likely = steps**2 + dim / 4 + steps + math.sqrt(dim) / 2
    exact = min(always, likely)
    assert exact * (1 - 1e-12) <= most_square(steps, dim) <= exact + 2 * (steps + math.sqrt(dim)) + 3


@quick
@given(st.floats(0.05, 30), st.integers(1, 10**6), st.integers(1, 1000), st.floats(0.01, 100))
def test_noise_says_how_fine(noise: float, dim: int, clients: int, bound: float) -> None:
    """The finest scale at which one draw does, or the coarsest at which rounding is harmless."""
    given_ = Bounded(bound=bound, dim=dim, clients=clients, modulus_bits=64, noise_multiplier=noise)
    top = finest(given_)
    assert top is not None
    found = for_noise(given_, top.bits)
    assert found is not None
    assert found.draws == draws_of(noise, found.l2)
    assert share_sigma(noise, found.l2, found.draws) <= MOST_SIGMA
    assert share_sigma(noise, found.l2, found.draws) * math.sqrt(found.draws) >= noise * found.l2 * (1 - 1e-12)
    assert found.inflation <= MOST_INFLATION
    finer, coarser = grid(given_, found.bits + 1), grid(given_, found.bits - 1)
    if found.draws == 1:
        assert found.bits == top.bits or share_sigma(noise, finer.l2, 1) > MOST_SIGMA
    else:
        assert coarser.inflation > MOST_INFLATION


@quick
@given(st.floats(0.01, 100), st.floats(1, 1e6))
def test_no_fewer_draws_would_do(noise: float, l2: float) -> None:
    draws = draws_of(noise, l2)
    assert share_sigma(noise, l2, draws) <= MOST_SIGMA
    assert draws == 1 or share_sigma(noise, l2, draws - 1) >= MOST_SIGMA


def test_noise_has_room_beside_the_sum() -> None:
    """Half of Z_m holds all clients and sqrt(2 ln(2 d / 1e-9)) standard deviations of the noise."""
    given_ = Bounded(bound=1.0, dim=1000, clients=100, modulus_bits=32, noise_multiplier=1.0)
    found = grid(given_, 11)
    sigma = share_sigma(1.0, found.l2, 1)
    wanted = 100 * found.most + math.ceil(math.sqrt(2 * math.log(2 * 1000 / 1e-9)) * sigma)
    assert found.full == wanted
    full = (2**31 - 1 - (found.full - 100 * found.most)) // found.most
    assert fits(grid(replace(given_, clients=full), 11), given_)
    assert not fits(grid(replace(given_, clients=full + 1), 11), given_)


@quick
@given(st.floats(0.05, 30), st.integers(1, 10**5), st.floats(0.01, 100))
def test_laplace_noise_is_measured_by_the_l1_bound(noise: float, dim: int, bound: float) -> None:
    given_ = Bounded(bound=bound, l1=bound, dim=dim, clients=10, modulus_bits=64, noise_multiplier=noise)
    top = finest(given_)
    assert top is not None
    found = for_noise(given_, top.bits)
    assert found is not None and found.l1 is not None
    assert found.draws == 1
    assert found.noise == math.ceil(noise * found.l1)
    assert found.l1 >= math.ldexp(bound, found.bits) + math.sqrt(dim)
    assert found.l1 / math.ldexp(bound, found.bits) - 1 <= MOST_INFLATION
    finer, coarser = grid(given_, found.bits + 1), grid(given_, found.bits - 1)
    if found.noise <= MOST_SIGMA:
        assert found.bits == top.bits or finer.noise > MOST_SIGMA
    else:
        assert coarser.inflation > MOST_INFLATION


# ---- Bounds ------------------------------------------------------------------------------------------------------


def on_the_bound(draw: Any, dim: int, shape: str) -> Vector:
    """Return a vector of norm 1, or none: flat ones are those that rounding lengthens most."""
    row: Vector
    match shape:
        case "flat":
            row = np.ones(dim)
        case "peak":
            row = np.eye(1, dim, draw.integers(dim))[0]
        case "zero":
            return np.zeros(dim)
        case _:
            row = draw.standard_normal(dim)
    signed: Vector = row * draw.choice([-1.0, 1.0], dim) / math.sqrt(math.fsum(row * row))
    return signed


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(
    st.integers(1, 300),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["flat", "peak", "zero", "normal"]),
    st.sampled_from([1, 3, 1000, 10**6]),
    st.tuples(st.sampled_from([None, 0.3, 1.0, 20.0]), st.sampled_from([32, 64]), st.integers(0, 2**32)),
)
def test_no_integer_vector_is_longer_than_declared(
    dim: int, dtype: str, shape: str, clients: int, drawn: tuple[float | None, Any, int]
) -> None:
    noise, modulus_bits, seed = drawn
    wire = WireType(dim=dim, dtype=dtype, weight=False, most_clients=clients)
    bound = chain(clip(0.37), fixed_point(modulus_bits=modulus_bits)).bind(wire)
    inner = replace(bound.wires[1], noise_multiplier=noise)
    stage = fixed_point(modulus_bits=modulus_bits)
    planned = stage.plan(inner)
    rows = np.stack([1e3 * on_the_bound(Key.from_seed(seed).generator(), dim, shape)] * 3).astype(dtype)
    clipped, _ = clip(0.37).encode(wire, rows, np.empty(0), np.empty((3, 0)), [])
    encoded = encode(stage, inner, clipped, keys_of(3, seed))
    assert encoded.dtype == planned.dtype
    assert planned.l2 is not None and planned.step is not None
    for row, before in zip(encoded, clipped, strict=True):
        assert square(row) <= planned.l2**2
        assert np.abs(centred(row) * planned.step - before).max() < planned.step


@quick
@given(
    st.integers(1, 300),
    st.sampled_from(["flat", "peak", "zero", "normal"]),
    st.sampled_from([None, 0.3, 1.0, 20.0]),
    st.integers(0, 2**32),
)
def test_nor_is_any_longer_than_declared_in_the_l1_norm(dim: int, shape: str, noise: float | None, seed: int) -> None:
    wire = replace(UNIT, dim=dim, l1=1.0, noise_multiplier=noise)
    row = on_the_bound(Key.from_seed(seed).generator(), dim, shape)
    row /= max(1.0, math.fsum(np.abs(row)) * (1 + 1e-15))
    planned = fixed_point().plan(wire)
    encoded = encode(fixed_point(), wire, [row] * 3, keys_of(3, seed))
    assert planned.l1 is not None and planned.l2 is not None
    for coded in encoded:
        assert sum(abs(value) for value in centred(coded).tolist()) <= planned.l1
        assert square(coded) <= planned.l2**2


def test_a_vector_beyond_the_l1_bound_is_refused_and_a_bound_that_a_stage_breaks_is_dropped() -> None:
    wire = replace(UNIT, l1=1.0)
    with pytest.raises(Error, match=r"L1 norm 1\.2"):
        encode(fixed_point(), wire, [[0.1] * 4, [0.3] * 4])
    assert fixed_point().plan(wire).l1 is not None
    for stage in (clip(1.0), rotate()):
        assert stage.plan(wire).l1 is None
        assert fixed_point().plan(stage.plan(wire)).l1 is None


@pytest.mark.parametrize("length", [1.0, 1.0 - 1e-16, 1.0 + 1e-12])
def test_a_norm_on_the_bound_passes_and_keeps_it(length: float) -> None:
    planned = fixed_point().plan(UNIT)
    encoded = encode(fixed_point(), UNIT, [[length, 0.0, 0.0, 0.0], [length / 2] * 4])
    assert planned.l2 is not None
    assert all(square(row) <= planned.l2**2 for row in encoded)


@pytest.mark.parametrize(
    "row",
    [
        [1.0001, 0.0, 0.0, 0.0],
        [0.6, 0.6, 0.6, 0.6],
        [1e308, 0.0, 0.0, 0.0],
        [1e308, 1e308, -1e308, 1e308],
        [0.0, 0.0, -3.0, 0.0],
    ],
)
@pytest.mark.parametrize("clients", [1, 100])
def test_a_vector_that_was_not_clipped_is_refused(row: list[float], clients: int) -> None:
    wire = replace(UNIT, most_clients=clients)
    with pytest.raises(Error, match=r"promised at most 1\.0"):
        encode(fixed_point(), wire, [[0.1] * 4, row])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clients", [1, 100])
def test_what_is_not_finite_is_refused(value: float, dtype: str, clients: int) -> None:
    wire = replace(UNIT, dtype=dtype, most_clients=clients)
    with pytest.raises(Error, match="NaN or an infinity"):
        encode(fixed_point(), wire, [[0.1] * 4, [0.0, value, 0.0, 0.0]])


@quick
@given(st.integers(1, 50), st.sampled_from([127, 128, 1000, 9999]), st.booleans())
def test_the_sum_of_all_clients_at_their_furthest_does_not_overflow(dim: int, clients: int, negative: bool) -> None:
    wire = replace(UNIT, dim=dim, most_clients=clients)
    far = np.zeros((1, dim))
    far[0, -1] = -1.0 if negative else 1.0
    planned = fixed_point().plan(wire)
    row = encode(fixed_point(), wire, far)[0]
    total = (row.astype(np.uint64) * np.uint64(clients)).astype(np.uint32)  # what a sum of that many is, wrapping
    assert decode(fixed_point(), wire, total)[-1] == far[0, -1] * clients
    assert planned.l2 is not None
    assert math.isqrt(int(planned.l2**2)) * clients < 2**31, "nor would it after the longest rounding"


def test_one_client_more_is_refused_before_round_1_and_would_have_wrapped() -> None:
    assert fixed_point(24).plan(replace(UNIT, most_clients=127)).step == 2.0**-24
    with pytest.raises(PipelineError, match="at most bits=23"):
        fixed_point(24).plan(replace(UNIT, most_clients=128))
    wire = replace(UNIT, most_clients=127)
    one = encode(fixed_point(24), wire, [[1.0, 0.0, 0.0, 0.0]])
    assert decode(fixed_point(24), wire, tree_total(np.repeat(one, 127, axis=0)))[0] == 127.0
    assert decode(fixed_point(24), wire, tree_total(np.repeat(one, 128, axis=0)))[0] == -128.0


# ---- Rounding ----------------------------------------------------------------------------------------------------


def test_rounding_is_right_in_expectation() -> None:
    """20,000 roundings of a short vector; false alarm 1e-6 (Gaussian limit, six coordinates)."""
    places, count = 6, 20_000
    row = np.array([0.3, 0.5, 0.01, -0.3, -0.99, 0.0]) * 2.0**-places
    wire = replace(UNIT, dim=6)
    steps = centred(encode(fixed_point(places), wire, np.repeat(row[None], count, axis=0))).astype(np.float64)
    assert set(np.unique(steps).tolist()) == {-1.0, 0.0, 1.0}
    wanted = row * 2.0**places
    spread = np.sqrt(np.abs(wanted) * (1 - np.abs(wanted)) / count)
    assert (np.abs(steps.mean(axis=0) - wanted) <= 5.3 * spread).all()


@quick
@given(st.lists(st.integers(-50, 50), min_size=4, max_size=4), st.integers(0, 2**32))
def test_whole_steps_are_not_rounded(steps: list[int], seed: int) -> None:
    row = np.array([steps]) * 2.0**-24
    assert centred(encode(fixed_point(), UNIT, row, keys_of(1, seed))).tolist() == [steps]


def test_clients_and_rounds_draw_their_own_roundings() -> None:
    rows = np.full((2, 64), 0.3 * 2.0**-10)
    wire = replace(UNIT, dim=64)
    one = encode(fixed_point(10), wire, rows, keys_of(2, 0))
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one, encode(fixed_point(10), wire, rows, keys_of(2, 1)))
    assert np.array_equal(one, encode(fixed_point(10), wire, rows, keys_of(2, 0)))


def test_a_rounding_that_is_too_long_is_drawn_again() -> None:
    dim = 100
    wire = replace(UNIT, dim=dim)
    planned = fixed_point(5).plan(wire)
    stream = Stuck(Key.from_seed(1), times=3)
    rows = np.full((3, dim), 0.1 - 1e-9)  # 3.2 steps each: all of them rounded up is far too long
    public: Any = stream
    keys = [keys_of(1)[0], Keys(public, NO_SECRET), keys_of(2)[1]]
    encoded = encode(fixed_point(5), wire, rows, keys)
    assert stream.attempts == 4
    assert planned.l2 is not None
    assert all(square(row) <= planned.l2**2 for row in encoded)
    alone = encode(fixed_point(5), wire, rows[:1], keys[:1])
    assert np.array_equal(encoded[0], alone[0]), "what a neighbour drew again changes nothing"


def test_a_stream_that_never_rounds_within_the_bound_is_an_error() -> None:
    public: Any = Stuck(Key.from_seed(1), times=10**6)
    with pytest.raises(Error, match="128 roundings"):
        encode(fixed_point(5), replace(UNIT, dim=100), np.full((1, 100), 0.1 - 1e-9), [Keys(public, NO_SECRET)])


@pytest.mark.parametrize("shape", ["flat", "peak", "normal"])
@pytest.mark.parametrize(("dim", "bits"), [(3, 4), (100, 5), (2000, 8)])
def test_a_rounding_passes_at_least_as_often_as_promised(shape: str, dim: int, bits: int) -> None:
    """1 - exp(-1/2) = 0.39 by the paper; it is far more often, so the test is sharp at 0.39 for 300 roundings."""
    draw = Key.from_seed(dim).generator()
    attempts = 0
    for number in range(300):
        stream = Stuck(Key.from_seed(number), times=0)
        public: Any = stream
        row = on_the_bound(draw, dim, shape) * (1 - 1e-12)
        encode(fixed_point(bits), replace(UNIT, dim=dim), row[None], [Keys(public, NO_SECRET)])
        attempts += stream.attempts
    assert 300 / attempts >= 0.39


# ---- Blocks and sums ---------------------------------------------------------------------------------------------


def updates(count: int, dim: int) -> Vector:
    return Key.from_seed(3).generator().standard_normal((count, dim))


def bound_for(count: int, dim: int, **fields: Any) -> BoundPipeline:
    wire = WireType(dim=dim, dtype="float64", weight=False, most_clients=count, **fields)
    return chain(clip(1.0), rotate(), fixed_point()).bind(wire)


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("block", [1, 7, 25, 30])
def test_blocks_orders_and_partial_sums_give_the_same_bytes(block: int, order: str) -> None:
    count, dim = 30, 12
    bound, rows, keys = bound_for(count, dim), updates(30, 12), keys_of(30)
    state = bound.init()
    alone = [
        bound.encode(rows[i : i + 1].copy(), bound.settings(state), np.empty((1, 0)), keys[i : i + 1])[0][0]
        for i in range(count)
    ]
    whole = np.sum([centred(row).astype(np.int64) for row in alone], axis=0)
    cohort = tuple(ClientId(f"c{i:02}") for i in range(count))
    about = sum_round(count, bound.sent)
    server = plain_sum().server(cohort, about, keys[0])
    starts = range(0, count, block)
    for start in starts if order == "forward" else reversed(starts):
        stop = min(start + block, count)
        encoded, _ = bound.encode(
            rows[start:stop].copy(), bound.settings(state), np.empty((stop - start, 0)), keys[start:stop]
        )
        part = server.partial()
        for place in range(start, stop):
            assert encoded[place - start].tobytes() == alone[place].tobytes()
            side = plain_sum().client(cohort[place], encoded[place - start], about, keys[place])
            part.receive(cohort[place], side.open())
        server.absorb(part.export())
    done = server.advance()
    assert isinstance(done, Finish)
    assert done.total.dtype == np.uint32
    assert centred(done.total).tolist() == whole.tolist(), "a sum of integers is exact"
    decoded, _ = bound.decode(done.total, state, INFO)
    clipped = rows / np.maximum(1.0, np.linalg.norm(rows, axis=1, keepdims=True))
    np.testing.assert_allclose(decoded, clipped.sum(axis=0), rtol=0, atol=count * 2.0**-25)


def test_unit_weights_travel_exactly_and_shares_to_the_step() -> None:
    wire = WireType(dim=3, dtype="float32", max_weight=1.0, most_clients=100)
    bound = chain(clip(10.0), mean(), fixed_point()).bind(wire)
    rows = np.array([[3.0, 4.0, 1.0], [1.0, -2.0, 1.0]], np.float32)
    encoded, _ = bound.encode(rows, bound.settings(bound.init()), np.empty((2, 0)), keys_of(2))
    assert centred(encoded[:, -1]).tolist() == [2**24, 2**24]
    decoded, _ = bound.decode(tree_total(encoded), bound.init(), INFO)
    np.testing.assert_allclose(decoded, [2.0, 1.0, 2.0], rtol=0, atol=1e-5)
    assert decoded[-1] == 2.0

    shared = chain(clip(10.0), mean(max_weight=30.0), fixed_point()).bind(
        WireType(dim=3, dtype="float64", most_clients=100)
    )
    rows = np.array([[3.0, 4.0, 30.0], [1.0, -2.0, 7.0]])
    encoded, _ = shared.encode(rows, shared.settings(shared.init()), np.empty((2, 0)), keys_of(2))
    assert shared.sent.l2 is not None
    assert all(square(row) <= shared.sent.l2**2 for row in encoded), "the weight is within the bound of the whole"
    decoded, _ = shared.decode(tree_total(encoded), shared.init(), INFO)
    np.testing.assert_allclose(decoded, [97 / 37, 106 / 37, 37.0], rtol=0, atol=1e-5)


def test_metrics_have_a_scale_of_their_own() -> None:
    wire = WireType(dim=5, dtype="float64", metrics=2, max_weight=1.0, most_clients=100)
    bound = chain(clip(1.0), mean(expected=4.0), fixed_point(most_metric=1e6)).bind(wire)
    assert bound.sent.l2 is None, "metrics are no part of the bound"
    assert bound.sent.clipped is not None
    rows = np.array([[0.5, 0.5, 1e6, -17.25, 1.0], [0.1, 0.1, 1e6, 4.0, 1.0]])
    encoded, _ = bound.encode(rows, bound.settings(bound.init()), np.empty((2, 0)), keys_of(2))
    decoded, _ = bound.decode(tree_total(encoded), bound.init(), INFO)
    np.testing.assert_allclose(decoded, [0.15, 0.15, 2e6, -13.25, 4.0], rtol=0, atol=1 / 8)
    with pytest.raises(Error, match=r"metric coordinate is 1000001\.0"):
        bound.encode(np.array([[0.0, 0.0, 1_000_001.0, 0.0, 1.0]]), [np.empty(0)] * 3, np.empty((1, 0)), keys_of(1))
    with pytest.raises(Error, match="metric coordinate is nan"):
        bound.encode(np.array([[0.0, 0.0, 0.0, math.nan, 1.0]]), [np.empty(0)] * 3, np.empty((1, 0)), keys_of(1))


@quick
@given(st.floats(1e-250, 1e250), st.integers(1, 10**6))
def test_metrics_of_all_clients_add_up_in_the_ring(most: float, clients: int) -> None:
    wire = WireType(dim=2, dtype="float64", metrics=1, weight=False, clipped=1.0, most_clients=clients)
    row = encode(fixed_point(most_metric=most), wire, [[0.0, most]])[0]
    assert 0 < int(centred(row)[1]) * clients < 2**31
    assert int(centred(row)[1]) * clients >= 2**28, "and as finely as there is room"


# ---- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "wire", "advice"),
    [
        (fixed_point(), replace(UNIT, clipped=None, l2=None), "put clip"),
        (fixed_point(), replace(UNIT, dtype="uint32", modulus=2**32), "integers already"),
        (fixed_point(), replace(UNIT, weight=True), "mean\\(max_weight"),
        (fixed_point(), replace(UNIT, weight=True, max_weight=7.0), "mean\\(max_weight"),
        (fixed_point(), replace(UNIT, metrics=1), "most_metric"),
        (fixed_point(), replace(UNIT, most_clients=None), "set most_clients"),
        (fixed_point(most_metric=1.0), replace(UNIT, metrics=1, noise_multiplier=1.0), "calibrated to the parts"),
        (fixed_point(), replace(UNIT, weight=True, max_weight=1.0, noise_multiplier=1.0), "fixed denominator"),
        (fixed_point(4), replace(UNIT, dim=10**6), "11 bits are needed: give bits=11"),
        (fixed_point(), replace(UNIT, dim=10**6, most_clients=2**21), "modulus_bits=64"),
        (fixed_point(), replace(UNIT, dim=10**6, most_clients=2**21, noise_multiplier=5.0), "modulus_bits=64"),
        (fixed_point(modulus_bits=64), replace(UNIT, clipped=1e30, most_clients=2**62), "fits Z_m at no scale"),
        (fixed_point(29), UNIT, "at most bits=24"),
        (fixed_point(24), replace(UNIT, noise_multiplier=1.0), "draws of noise a round"),
        (fixed_point(), replace(UNIT, noise_multiplier=5000.0), "lower bits or the noise"),
    ],
)
def test_what_cannot_work_is_refused_with_advice(stage: Any, wire: WireType, advice: str) -> None:
    with pytest.raises(PipelineError, match=advice) as caught:
        stage.plan(wire)
    assert caught.value.stage == "fixed_point"


@pytest.mark.parametrize(
    "make",
    [
        lambda: fixed_point(-1),
        lambda: fixed_point(31),
        lambda: fixed_point(modulus_bits=16),  # type: ignore[arg-type]
        lambda: fixed_point(most_metric=0.0),
        lambda: fixed_point(most_metric=math.nan),
        lambda: fixed_point(most_metric=math.inf),
    ],
)
def test_arguments_outside_their_range_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ComponentError):
        make()


@pytest.mark.parametrize(
    ("stages", "advice"),
    [
        ((fixed_point(),), "put clip"),
        ((fixed_point(), clip(1.0)), "put clip"),
        ((clip(1.0), fixed_point(), mean()), "mean\\(\\) before the encoding"),
        ((clip(1.0), fixed_point(), clip(1.0)), "clip\\(\\) before the encoding"),
        ((clip(1.0), fixed_point(), rotate()), "rotate\\(\\) before the encoding"),
        ((clip(1.0), fixed_point(), fixed_point()), "one fixed_point"),
    ],
)
def test_an_order_that_cannot_work_is_refused_when_it_is_chained(stages: Any, advice: str) -> None:
    with pytest.raises(PipelineError, match=advice):
        chain(*stages)
