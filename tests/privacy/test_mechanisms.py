"""Mechanisms: nothing leaves the ball, noise is what the event says, and what it does not cover is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chi2, kstest

from fedloom import chain, mean
from fedloom.core.events import DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent, GaussianDpEvent, LaplaceDpEvent
from fedloom.core.keys import Key, Keys
from fedloom.core.wire import SumInfo, WireType
from fedloom.entropy import derived_secret, fresh_secret
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.pipeline import clip, fixed_point
from fedloom.pipeline.ball import into_ball, into_diamond, norms_of
from fedloom.pipeline.modular import centred
from fedloom.privacy.adaptive import adaptive_gaussian
from fedloom.privacy.local import local_gaussian, local_laplace
from fedloom.privacy.mechanisms import gaussian, laplace

FALSE_ALARM = 1e-4
"""Chance that a statistical test here would fail for noise that is right; keys are fixed, so it never flickers."""
SECRET = derived_secret(Key.from_seed(11))
KEYS = Keys(Key.from_seed(1), SECRET)
quick = settings(max_examples=150, derandomize=True, database=None, deadline=None)
rows = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        st.tuples(st.integers(1, 3), st.integers(1, 40)),
        elements=st.floats(
            width=32 if dtype is np.float32 else 64, allow_nan=False, allow_infinity=False, allow_subnormal=True
        ),
    )
)
norms = st.floats(1e-3, 1e3)


def bound(*stages: Any, dim: int = 50, dtype: str = "float64", clients: int = 20) -> Any:
    wire = WireType(dim=dim, dtype=dtype, weight=False, weighted=True, most_clients=clients)
    return chain(*stages).bind(wire)


@quick
@given(values=rows, norm=norms)
def test_nothing_leaves_the_ball(values: Any, norm: float) -> None:
    into_ball(values, norm)
    assert (np.sqrt((values.astype(np.longdouble) ** 2).sum(axis=1)) <= 1).all()


@quick
@given(values=rows, norm=norms)
def test_nothing_leaves_the_diamond(values: Any, norm: float) -> None:
    into_diamond(values, norm)
    assert (np.abs(values.astype(np.longdouble)).sum(axis=1) <= 1).all()


@quick
@given(values=rows.filter(lambda drawn: float(np.abs(drawn).max()) < 1e37))
def test_a_row_within_the_norm_is_only_scaled(values: Any) -> None:
    norm = float(norms_of(values / 8).max()) * 9 + 1e-30
    scaled = values.copy()
    into_ball(scaled, norm)
    assert np.allclose(scaled * norm, values, rtol=1e-5, atol=norm * 1e-6)


def test_a_zero_update_is_legal_and_a_nan_is_invalid_and_not_summed() -> None:
    pipeline = bound(gaussian(1.0, 1.0), fixed_point())
    encoded, _ = pipeline.encode(np.zeros((1, 50)), pipeline.settings(pipeline.init()), np.empty((1, 0)), [KEYS])
    assert np.abs(centred(encoded).astype(np.int64)).max() == 0
    with pytest.raises(Error, match="NaN"):
        pipeline.encode(np.full((1, 50), np.nan), pipeline.settings(pipeline.init()), np.empty((1, 0)), [KEYS])


@pytest.mark.parametrize("stage", [gaussian, laplace, lambda c, z: adaptive_gaussian(c, z, bit_noise=5.0)])
@pytest.mark.parametrize(("given_clip", "noise"), [(0.0, 1.0), (math.inf, 1.0), (math.nan, 1.0), (-1.0, 1.0),
                                                   (1.0, 0.0), (1.0, math.inf), (1.0, math.nan)])  # fmt: skip
def test_what_bounds_nothing_or_adds_nothing_is_refused(stage: Any, given_clip: float, noise: float) -> None:
    with pytest.raises(ComponentError, match="expected"):
        stage(given_clip, noise)


@pytest.mark.parametrize("make", [gaussian, laplace], ids=["gaussian", "laplace"])
def test_what_travels_outside_the_clip_is_refused(make: Any) -> None:
    stage = make(1.0, 1.0)
    with pytest.raises(PipelineError, match="mean\\(expected"):
        stage.plan(WireType(dim=3, dtype="float64", weight=True))
    with pytest.raises(PipelineError, match="Metrics"):
        stage.plan(WireType(dim=3, dtype="float64", weight=False, metrics=1))
    with pytest.raises(PipelineError, match="before the encoding"):
        stage.plan(WireType(dim=3, dtype="uint32", weight=False, modulus=2**32))
    with pytest.raises(PipelineError, match="one mechanism"):
        chain(mean(expected=5.0), stage, stage)


def test_a_stage_behind_the_noise_that_loses_the_bound_is_refused() -> None:
    """A clip of the same units keeps a bound; a stage that says nothing of the norm loses it."""
    stage = gaussian(1.0, 1.0)
    wire = stage.plan(WireType(dim=3, dtype="float64", weight=False))
    with pytest.raises(PipelineError, match="has lost the bound"):
        stage.event(WireType(dim=3, dtype="float64", weight=False, l2=None))
    assert stage.event(clip(0.5).plan(wire)) == GaussianDpEvent(1.0)


def test_events_follow_the_last_wire_type() -> None:
    assert bound(gaussian(2.0, 1.5)).event() == GaussianDpEvent(1.5)
    assert bound(laplace(2.0, 1.5)).event() == LaplaceDpEvent(1.5)
    event = bound(gaussian(2.0, 1.5), fixed_point()).event()
    assert isinstance(event, DiscreteGaussianDpEvent) and event.dim == 50 and event.sigma == int(event.sigma)
    assert 1.5 <= event.noise_multiplier < 1.5 * 1.001
    event = bound(laplace(2.0, 1.5), fixed_point()).event()
    assert isinstance(event, DiscreteLaplaceDpEvent) and 1.5 <= event.scale / event.l1 < 1.5 * 1.01


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_noise_has_the_law_of_the_event(dtype: str) -> None:
    pipeline = bound(gaussian(1.0, 2.5), dim=20_000, dtype=dtype)
    released = pipeline.release(np.zeros(20_000, dtype), SECRET.child("law"))
    assert released.dtype == dtype
    assert kstest(released / 2.5, "norm").pvalue > FALSE_ALARM
    released = bound(laplace(1.0, 2.5), dim=20_000, dtype=dtype).release(np.zeros(20_000, dtype), SECRET.child("law"))
    assert kstest(released / 2.5, "laplace").pvalue > FALSE_ALARM


def test_integer_noise_has_the_variance_of_the_event() -> None:
    size = 20_000
    pipeline = bound(gaussian(1.0, 1.5), fixed_point(), dim=size)
    event: Any = pipeline.event()
    drawn = centred(pipeline.release(np.zeros(size, pipeline.sent.dtype), SECRET.child("law"))).astype(np.float64)
    statistic = float((drawn**2).sum()) / (event.sigma**2 * event.draws)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    assert low < statistic < high


def test_noise_is_a_function_of_the_secret_and_of_nothing_else() -> None:
    pipeline = bound(gaussian(1.0, 1.5), fixed_point())
    total = np.arange(50).astype(pipeline.sent.dtype)
    one, same = (pipeline.release(total, SECRET.child("a")) for _ in range(2))
    other = pipeline.release(total, SECRET.child("b"))
    assert (one == same).all() and (one != other).any()
    assert (one - total == pipeline.release(total * 0, SECRET.child("a"))).all(), "noise does not look at the sum"


def test_float_noise_of_a_real_secret_is_refused() -> None:
    with pytest.raises(Error, match="fixed_point"):
        bound(gaussian(1.0, 1.0)).release(np.zeros(50), fresh_secret())
    assert bound(gaussian(1.0, 1.0), fixed_point()).release(np.zeros(50, np.uint32), fresh_secret()).any()


def test_a_sum_comes_back_in_the_units_of_the_parameters() -> None:
    pipeline = bound(gaussian(3.0, 1e-6))
    values = np.full((1, 50), 0.1)
    encoded, _ = pipeline.encode(values.copy(), pipeline.settings(pipeline.init()), np.empty((1, 0)), [KEYS])
    info = SumInfo(clients=1, expected_clients=1.0, round=1)  # type: ignore[arg-type]
    decoded, _ = pipeline.decode(encoded[0], pipeline.init(), info)
    assert np.allclose(decoded, values[0])


@pytest.mark.parametrize("encode", [(), (fixed_point(),)], ids=["floats", "integers"])
def test_noise_of_each_client_is_on_what_it_sends_and_no_other_noise_is_added(encode: Any) -> None:
    """Each message alone has noise of 4 times the bound, another one for each client; the server adds none."""
    size, clients = 4000, 3
    pipeline = bound(local_gaussian(1.0, 4.0), *encode, dim=size)
    keys = [Keys(Key.from_seed(1).child(n), SECRET.child("client", n)) for n in range(clients)]
    values = np.zeros((clients, size))
    sent, _ = pipeline.encode(values, pipeline.settings(pipeline.init()), np.empty((clients, 0)), keys)
    total = sent.sum(axis=0, dtype=sent.dtype)
    assert pipeline.release(total, SECRET) is total
    event: Any = pipeline.event()
    sigma = event.sigma * math.sqrt(event.draws) if encode else 4.0
    noise = (centred(sent) if encode else sent).astype(np.float64) / sigma
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    for row in noise:
        assert low < float(row @ row) < high
    assert abs(np.corrcoef(noise)[0, 1]) < 5 / math.sqrt(size)


def test_a_client_that_sends_again_sends_the_same_and_in_another_round_other_noise() -> None:
    pipeline = bound(local_laplace(1.0, 4.0), fixed_point())
    settings = pipeline.settings(pipeline.init())
    first, again, later = (
        pipeline.encode(np.zeros((1, 50)), settings, np.empty((1, 0)), [Keys(Key.from_seed(1), SECRET.child(number))])[
            0
        ]
        for number in (1, 1, 2)
    )
    assert (first == again).all() and (first != later).any()
