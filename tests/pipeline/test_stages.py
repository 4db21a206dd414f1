"""mean, clip, chain: closed forms, and orders that cannot work with advice on what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.events import NonPrivateDpEvent
from fedloom.core.ids import RoundNumber
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.metrics import NO_METRICS
from fedloom.core.params import Leaf, ParamSpec
from fedloom.core.update import Update
from fedloom.core.wire import SumInfo, WireType
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.pipeline import chain, clip, mean, mean_pipeline, total_pipeline, tree_total
from fedloom.runtime.exchange import exchange
from fedloom.testing.stage import norm_of

quick = settings(max_examples=80, derandomize=True, database=None, deadline=None)
INFO = SumInfo(clients=2, expected_clients=2.0, round=RoundNumber(1))


def through(pipeline: Any, wire: WireType, values: Any) -> Any:
    """Encode rows, sum them, decode the sum."""
    bound = pipeline.bind(wire)
    keys = [Keys(Key.from_seed(0).child("client", number), NO_SECRET) for number in range(len(values))]
    memory = np.empty((len(values), 0))
    encoded, _ = bound.encode(np.array(values, wire.dtype), bound.settings(bound.init()), memory, keys)
    decoded, _ = bound.decode(tree_total(encoded), bound.init(), INFO)
    return decoded


def test_a_weighted_mean_of_two_clients() -> None:
    wire = WireType(dim=4, dtype="float64", metrics=1)
    decoded = through(mean_pipeline(), wire, [[2.0, 0.0, 5.0, 1.0], [6.0, 4.0, 7.0, 3.0]])
    assert decoded.tolist() == [5.0, 3.0, 12.0, 4.0], "parts are means, metrics and weight are sums"


def test_a_mean_over_an_expected_number_divides_by_it_whoever_came() -> None:
    wire = WireType(dim=2, dtype="float64", max_weight=1.0)
    assert through(chain(mean(expected=4.0)), wire, [[2.0, 1.0], [6.0, 1.0]]).tolist() == [2.0, 4.0]


def test_bounded_weights_travel_as_shares_and_the_weight_comes_back() -> None:
    wire = WireType(dim=2, dtype="float32")
    bound = chain(mean(max_weight=100.0)).bind(wire)
    encoded, _ = bound.encode(np.array([[2.0, 50.0]], np.float32), [np.empty(0)], np.empty((1, 0)), [])
    assert encoded.tolist() == [[1.0, 0.5]]
    assert bound.sent.dtype == "float32"
    assert through(chain(mean(max_weight=100.0)), wire, [[2.0, 50.0], [8.0, 100.0]]).tolist() == [6.0, 150.0]


def weighed(weights: list[float], dtype: str) -> Any:
    """Return what a round makes of updates of 3.0 with these weights."""
    carried = exchange({"delta": ParamSpec((Leaf("w", (1,)),))}, NO_METRICS, mean_pipeline(), dtype=dtype, weight=True)
    rows = carried.rows([Update({"delta": np.array([3.0], dtype)}, weight) for weight in weights])
    bound = carried.pipeline
    encoded, _ = bound.encode(rows, bound.settings(bound.init()), np.empty((len(rows), 0)), [])
    decoded, _ = bound.decode(tree_total(encoded), bound.init(), INFO)
    return carried.aggregate(decoded, clients=1.0, population=1.0, examples=None, round_number=RoundNumber(1))


@quick
@given(st.lists(st.integers(0, 2**30), min_size=1, max_size=40).filter(sum), st.sampled_from(["float32", "float64"]))
def test_whole_weights_without_a_bound_are_summed_exactly(weights: list[int], dtype: str) -> None:
    """One float32 coordinate would stop counting rows at 2**24."""
    aggregate = weighed([float(weight) for weight in weights], dtype)
    assert aggregate.weight == sum(weights)
    assert aggregate["delta"].dtype == dtype
    assert aggregate["delta"][0] == pytest.approx(3.0, rel=1e-5 if dtype == "float32" else 1e-14)


def test_weights_of_many_clients_are_summed_exactly_up_to_the_promised_total() -> None:
    weights = [2.0**24 - 1] * 4095 + [2.0**12]
    assert weighed(weights, "float32").weight == sum(weights)


def test_a_weight_above_the_bound_is_refused() -> None:
    with pytest.raises(Error, match="max_weight"):
        through(chain(mean(max_weight=2.0)), WireType(dim=2, dtype="float64"), [[1.0, 3.0]])


def test_clip_scales_long_rows_to_the_norm_and_leaves_short_ones() -> None:
    wire = WireType(dim=4, dtype="float64", metrics=1)
    decoded = through(chain(clip(5.0), mean()), wire, [[6.0, 8.0, 100.0, 1.0], [0.3, 0.4, 100.0, 1.0]])
    np.testing.assert_allclose(decoded, [(3.0 + 0.3) / 2, (4.0 + 0.4) / 2, 200.0, 2.0], rtol=1e-14)


@quick
@given(
    st.integers(1, 40),
    st.floats(-12, 12),
    st.floats(1e-3, 1e3),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 2**32),
)
def test_clip_never_leaves_the_ball_and_keeps_the_direction(
    dim: int, exponent: float, norm: float, dtype: str, seed: int
) -> None:
    wire = WireType(dim=dim, dtype=dtype, weight=False)
    row = (Key.from_seed(seed).generator().standard_normal((1, dim)) * 10.0**exponent).astype(dtype)
    encoded, _ = clip(norm).encode(wire, row.copy(), np.empty(0), np.empty((1, 0)), [])
    assert norm_of(encoded[0]) <= 1.0
    length = norm_of(row[0])
    wanted = row[0].astype(np.float64) / max(length, norm)
    np.testing.assert_allclose(encoded[0], wanted, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_clip_of_a_row_whose_square_overflows_keeps_its_direction() -> None:
    wire = WireType(dim=2, dtype="float64", weight=False)
    encoded, _ = clip(1.0).encode(wire, np.array([[3e200, 4e200]]), np.empty(0), np.empty((1, 0)), [])
    np.testing.assert_allclose(encoded[0], [0.6, 0.8], rtol=1e-12)


def test_bounds_are_declared_where_they_hold() -> None:
    bare = WireType(dim=3, dtype="float64", weight=False)
    assert clip(2.0).plan(bare).l2 == 1.0
    assert clip(2.0).plan(WireType(dim=3, dtype="float64")).l2 is None, "an unbounded weight travels beside the parts"
    unit = WireType(dim=3, dtype="float64", max_weight=1.0)
    assert chain(clip(2.0), mean()).bind(unit).sent.l2 == 2.0**0.5, "parts and weight have norm one each"
    assert chain(clip(2.0), mean(expected=3.0)).bind(unit).sent.l2 == 1.0
    assert chain(clip(2.0), mean()).bind(WireType(dim=4, dtype="float64", max_weight=1.0, metrics=1)).sent.l2 is None


@pytest.mark.parametrize(
    ("stages", "advice"),
    [
        ((mean(), mean()), "one mean"),
        ((mean(max_weight=2.0), mean()), "one mean"),
    ],
)
def test_an_order_that_cannot_work_is_refused_when_it_is_chained(stages: Any, advice: str) -> None:
    with pytest.raises(PipelineError, match=advice):
        chain(*stages)


@pytest.mark.parametrize(
    ("stages", "wire", "advice"),
    [
        ((mean(expected=3.0),), WireType(dim=3, dtype="float64"), "max_weight"),
        ((mean(), clip(1.0)), WireType(dim=3, dtype="float64"), "clip\\(\\) before mean\\(\\)"),
        ((mean(),), WireType(dim=3, dtype="float64", weight=False), "needs no mean"),
        ((clip(1.0),), WireType(dim=3, dtype="int64", modulus=2**32), "before the encoding"),
    ],
)
def test_a_wire_that_a_stage_cannot_work_on_is_refused_with_advice(stages: Any, wire: WireType, advice: str) -> None:
    with pytest.raises(PipelineError, match=advice) as caught:
        chain(*stages).bind(wire)
    assert caught.value.stage in ("mean", "clip")
    assert isinstance(caught.value.received, WireType)


@pytest.mark.parametrize(
    "make",
    [
        lambda: clip(0.0),
        lambda: clip(-1.0),
        lambda: clip(float("nan")),
        lambda: clip(float("inf")),
        lambda: mean(expected=0.0),
        lambda: mean(max_weight=-1.0),
        lambda: mean(max_weight=float("nan")),
    ],
)
def test_arguments_outside_their_range_are_refused(make: Any) -> None:
    with pytest.raises(ComponentError):
        make()


def test_a_total_passes_through_and_protects_nothing() -> None:
    bound = total_pipeline().bind(WireType(dim=2, dtype="float64", weight=False))
    assert bound.event() == NonPrivateDpEvent()
    total = np.ones(2)
    assert bound.release(total, NO_SECRET) is total
    assert through(
        total_pipeline(), WireType(dim=2, dtype="float64", weight=False), [[1.0, 2.0], [3.0, 5.0]]
    ).tolist() == [4.0, 7.0]
