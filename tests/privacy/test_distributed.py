"""Noise in shares: what trusted survivors add is what is promised, more is free, less is found; the rest is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from fedloom.core.events import DiscreteGaussianDpEvent
from fedloom.core.integer_noise import MOST_SIGMA
from fedloom.core.keys import Key, Keys
from fedloom.core.wire import SumInfo, WireType
from fedloom.entropy import derived_secret
from fedloom.errors import ComponentError, PipelineError
from fedloom.pipeline import chain, fixed_point, mean, rotate
from fedloom.pipeline.grid import Bounded, grid
from fedloom.pipeline.modular import centred
from fedloom.pipeline.plain_sum import PlainSum
from fedloom.privacy.accountants import epsilon
from fedloom.privacy.audit_layer import MOST_SHARES, audit_layer, layer_of
from fedloom.privacy.canary_runs import CANARIES, WITHIN, Canary, Layer, played
from fedloom.privacy.distributed import distributed_gaussian, distributed_shared_gaussian
from fedloom.privacy.mechanisms import gaussian
from fedloom.privacy.shared_records import shared_gaussian

FALSE_ALARM = 1e-4
"""Chance that a statistical test here would fail for noise that is right; keys are fixed, so it never flickers."""
SECRET = derived_secret(Key.from_seed(31))
LENGTH = Canary(1.0, "coordinate")
quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)


@dataclass(frozen=True, slots=True)
class Hidden(PlainSum):
    """A sum whose server reads no single vector: ``fewest`` are in it, of whom some may collude."""

    shows_messages: bool = False
    fewest: int = 3
    colluders: int = 1

    def honest(self, wire: WireType) -> int | None:
        """Return who is left."""
        del wire
        return self.fewest - self.colluders


def bound(*stages: Any, dim: int = 50, clients: int = 20, fewest: int = 3, colluders: int = 1) -> Any:
    wire = WireType(dim=dim, dtype="float64", weight=False, weighted=True, most_clients=clients, record=0.01)
    return chain(*stages, aggregator=Hidden(fewest=fewest, colluders=colluders)).bind(wire)


def keys_of(clients: int, round_number: int = 1) -> list[Keys]:
    return [Keys(Key.from_seed(1).child(n), SECRET.child("round", round_number, "client", n)) for n in range(clients)]


def sent(pipeline: Any, values: Any, round_number: int = 1) -> Any:
    keys = keys_of(len(values), round_number)
    return pipeline.encode(values.copy(), pipeline.settings(pipeline.init()), np.empty((len(values), 0)), keys)[0]


@quick
@given(
    noise=st.floats(1e-3, 5.0),
    dim=st.integers(1, 20_000),
    fewest=st.integers(3, 600),
    colluders=st.integers(0, 2),
)
def test_the_shares_of_the_trusted_alone_are_the_noise_and_no_draw_is_larger_than_it_may_be(
    noise: float, dim: int, fewest: int, colluders: int
) -> None:
    honest = fewest - colluders
    for stages in ((distributed_gaussian(1.0, noise), fixed_point()), (distributed_shared_gaussian(noise),)):
        pipeline = bound(*stages, dim=dim, clients=fewest + 7, fewest=fewest, colluders=colluders)
        event = pipeline.event()
        assert isinstance(event, DiscreteGaussianDpEvent)
        assert event.draws % honest == 0 and event.sigma == int(event.sigma) <= MOST_SIGMA
        assert event.noise_multiplier >= noise * (1 - 1e-12)
        # Rounded up: by less than one step for each draw of each share.
        assert (event.sigma - 1) * math.sqrt(event.draws) <= noise * event.l2


def test_a_grid_for_shares_is_the_finest_whose_share_is_one_draw_and_has_room_for_the_shares_of_all() -> None:
    pipeline = bound(distributed_gaussian(1.0, 1.0), fixed_point(), clients=100, fewest=90, colluders=0)
    event = pipeline.event()
    assert event.draws == 90 and MOST_SIGMA / 2 < event.sigma <= MOST_SIGMA
    central = bound(gaussian(1.0, 1.0), fixed_point(), clients=100)
    assert central.sent.step / pipeline.sent.step == 16.0  # 2**11 of noise 1, and 2**15 of sqrt(90) times that
    given_shares = Bounded(bound=1.0, dim=50, clients=100, modulus_bits=32, noise_multiplier=1.0, noise_shares=90)
    found = grid(given_shares, round(-math.log2(pipeline.sent.step)))
    assert (found.noise, found.draws) == (event.sigma, 1)
    tail = found.full - 100 * found.most
    assert tail == math.ceil(event.sigma * math.sqrt(100) * math.sqrt(2 * math.log(2 * 50 / 1e-9)))


def test_large_noise_is_several_draws_of_each_client() -> None:
    event = bound(distributed_gaussian(1.0, 20.0), fixed_point(), dim=200_000, fewest=4).event()
    assert event.draws > 3 and event.draws % 3 == 0 and event.sigma <= MOST_SIGMA


@pytest.mark.parametrize(
    "stages",
    [
        (distributed_gaussian(1.0, 2.0), fixed_point()),
        (distributed_gaussian(1.0, 2.0), rotate(), fixed_point(modulus_bits=64)),
        (distributed_shared_gaussian(2.0),),
    ],
    ids=["clients", "rotated", "rows"],
)
def test_the_sum_of_survivors_has_one_share_of_noise_each(stages: Any) -> None:
    """Of 6 invited, 3 at least survive, 1 may collude: 2 shares are the promise, every other one is on top."""
    size = 4096
    pipeline = bound(*stages, dim=size, clients=6)
    event = pipeline.event()
    assert event.draws == 2
    rows = centred(sent(pipeline, np.zeros((6, size)))).astype(np.float64)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], rows.shape[1])
    for survivors in ([0, 4], [1, 2, 5], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]):
        noise = rows[survivors].sum(axis=0)
        assert low < float(noise @ noise) / (len(survivors) * event.sigma**2) < high, survivors
    assert np.abs(np.corrcoef(rows) - np.eye(6)).max() < 5 / math.sqrt(size)


def test_a_client_that_sends_again_sends_the_same_in_another_round_other_noise_and_the_server_adds_none() -> None:
    for stages in ((distributed_gaussian(1.0, 2.0), fixed_point()), (distributed_shared_gaussian(2.0),)):
        pipeline = bound(*stages)
        first, again, later = (sent(pipeline, np.zeros((2, 50)), number) for number in (1, 1, 2))
        assert (first == again).all() and (first != later).any(axis=1).all()
        total = first.sum(axis=0, dtype=first.dtype)
        assert pipeline.release(total, SECRET) is total


@pytest.mark.parametrize("colluders", [0, 1])
@pytest.mark.parametrize(
    "stages",
    [(distributed_gaussian(1.0, 0.01), fixed_point()), (distributed_shared_gaussian(0.01),)],
    ids=["clients", "rows"],
)
def test_the_sum_comes_back_in_the_units_of_the_parameters(stages: Any, colluders: int) -> None:
    pipeline = bound(*stages, colluders=colluders)
    values = Key.from_seed(2).generator().uniform(-0.05, 0.05, (5, 50))
    total = sent(pipeline, values).sum(axis=0, dtype=pipeline.sent.dtype)
    info = SumInfo(clients=5, expected_clients=5.0, round=1)  # type: ignore[arg-type]
    decoded, _ = pipeline.decode(total, pipeline.init(), info)
    reach = 0.01 * (1.0 if stages[0].name == "distributed_gaussian" else 0.01)  # deviation of the promised noise
    assert (
        np.abs(decoded - values.sum(axis=0)).max() < 6 * reach * math.sqrt(5 / (3 - colluders)) + 5 * pipeline.sent.step
    )


def test_central_noise_of_the_same_multiplier_promises_the_same_up_to_rounding() -> None:
    for shares, alone in (
        (bound(distributed_gaussian(1.0, 1.5), fixed_point(), fewest=90, clients=100), gaussian(1.0, 1.5)),
        (bound(distributed_shared_gaussian(1.5), fewest=90, clients=100), shared_gaussian(1.5)),
    ):
        encode = () if alone.name == "shared_gaussian" else (fixed_point(),)
        central = bound(alone, *encode, clients=100).event()
        figures = [epsilon(event, delta=1e-5, adjacency="zero_out") for event in (shares.event(), central)]
        assert figures[0] == pytest.approx(figures[1], rel=2e-3)


def test_assumed_colluders_raise_every_share_and_not_the_price() -> None:
    with_them = bound(distributed_gaussian(1.0, 1.5), fixed_point(), fewest=90, clients=100, colluders=10)
    without = bound(distributed_gaussian(1.0, 1.5), fixed_point(), fewest=90, clients=100, colluders=0)
    in_units = [p.event().sigma * p.sent.step for p in (with_them, without)]
    assert in_units[0] / in_units[1] == pytest.approx(math.sqrt(90 / 80), rel=1e-3)
    prices = [epsilon(p.event(), delta=1e-5, adjacency="zero_out") for p in (with_them, without)]
    assert prices[0] == pytest.approx(prices[1], rel=1e-3)


@quick
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1, 7, 300]), at=st.sampled_from([0.0, 1e-3, 1.0, 1e4]))
def test_what_one_row_may_change_is_within_the_bound_of_the_event_on_the_integers(
    seed: int, size: int, at: float
) -> None:
    right: Any = distributed_shared_gaussian(1.1)
    pipeline = bound(replace(right, shield=None), dim=size, fewest=9)
    draw = Key.from_seed(seed).generator()
    value, change = at * draw.standard_normal(size), draw.standard_normal(size)
    change *= 0.01 * (1 - 2.0**-12) / np.linalg.norm(change)
    more, less = centred(sent(pipeline, np.stack([value + change, value])))
    assert sum((int(a) - int(b)) ** 2 for a, b in zip(more, less, strict=True)) <= pipeline.event().l2 ** 2


def refused(advice: str, stage: Any, wire: WireType) -> None:
    with pytest.raises(PipelineError, match=advice):
        stage.plan(wire)


@pytest.mark.parametrize("stage", [distributed_gaussian(1.0, 1.0), distributed_shared_gaussian(1.0)])
def test_what_no_share_protects_is_refused(stage: Any) -> None:
    wire = WireType(dim=3, dtype="float64", weight=False, record=0.1, honest=2)
    refused("secure_sum or shares_sum, or local_gaussian", stage, replace(wire, honest=None))
    refused("Nobody is left", stage, replace(wire, honest=0))
    refused("mean\\(expected", stage, replace(wire, weight=True, dim=4))
    refused("Metrics", stage, replace(wire, metrics=1, dim=4))
    refused("before the encoding", stage, replace(wire, dtype="uint64", modulus=2**64))
    refused("one mechanism", stage, replace(wire, noise_multiplier=1.0))
    assert stage.plan(wire).noise_shares == 2
    assert stage.plan(replace(wire, dim=None, honest=None)).noise_shares is None  # nobody knows the cohort yet


def test_float_sums_have_no_shares() -> None:
    pipeline = bound(distributed_gaussian(1.0, 1.0))
    for asked in (pipeline.event, lambda: sent(pipeline, np.zeros((1, 50)))):
        with pytest.raises(PipelineError, match="put fixed_point\\(\\) behind it"):
            asked()


def test_rows_without_a_bound_and_numbers_that_protect_nothing_are_refused() -> None:
    refused(
        "one row can change", distributed_shared_gaussian(1.0), WireType(dim=3, dtype="float64", weight=False, honest=2)
    )
    refused(
        "Of one client's share",
        distributed_shared_gaussian(1e4),
        WireType(dim=10**6, dtype="float64", weight=False, record=0.1, honest=2),
    )
    with pytest.raises(ComponentError, match="expected"):
        distributed_gaussian(0.0, 1.0)
    with pytest.raises(ComponentError, match="expected"):
        distributed_shared_gaussian(math.inf)


def layer(noise: float = 0.7, *, fewest: int = 3, colluders: int = 1, seed: int = 1) -> Layer:
    wire = WireType(dim=9, dtype="float64", weight=True, max_weight=1.0, most_clients=5)
    stages = (mean(expected=5.0), distributed_gaussian(2.0, noise), fixed_point())
    pipeline = chain(*stages, aggregator=Hidden(fewest=fewest, colluders=colluders)).bind(wire)
    key = Key.from_seed(seed)
    return layer_of(pipeline, secret=derived_secret(key), public=key, expected_clients=5.0)


def test_the_layer_of_a_plan_is_played_with_the_shares_that_it_counts_on() -> None:
    assert layer().shares == 2 and layer().canaries == CANARIES
    many = layer(fewest=90, colluders=10)
    assert many.shares == MOST_SHARES == many.pipeline.sent.noise_shares
    assert many.pipeline.event().draws == MOST_SHARES  # type: ignore[union-attr]
    rows = bound(distributed_shared_gaussian(1.0))
    made = layer_of(rows, secret=SECRET, public=Key.from_seed(1), expected_clients=5.0)
    assert (made.shares, made.clip, made.canaries) == (2, 0.01, WITHIN)


def test_every_run_has_fresh_shares_and_who_is_no_canary_takes_part_with_zero() -> None:
    made = layer()
    event: Any = made.pipeline.event()
    without, refusals = played(made, None, 200)
    noise = without[:, :4] - without[:, :4].mean(axis=0)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 4 * 199)
    assert refusals == 0 and low < float((noise**2).sum()) / (2 * event.sigma**2) < high
    quiet = replace(made, pipeline=bound_silent(made))
    kept, _ = played(quiet, LENGTH, 2)
    dropped, _ = played(quiet, None, 2)
    step = made.pipeline.sent.step
    assert step is not None
    assert (kept - dropped)[:, :4].tolist() == [[0, 1 / step, 0, 0]] * 2


def bound_silent(made: Layer) -> Any:
    """Return the pipeline of a layer without its noise."""
    stages = tuple(replace(stage, shield=None) for stage in made.pipeline.stages)
    return replace(made.pipeline, stages=stages)


@pytest.mark.parametrize("survivors", [3, 4, 5])
def test_every_tolerated_dropout_is_accepted(survivors: int) -> None:
    """5 invited, sums of 3 on, 1 colludes: against the promise, and against the noise as it is."""
    made = replace(layer(), shares=survivors - 1)
    assert not audit_layer(made, delta=1e-5, releases=100).rejected
    alone = replace(made, canaries=(LENGTH,))
    assert not audit_layer(alone, delta=1e-5, releases=200, method="gaussian_limit").rejected


def test_one_share_less_than_the_promise_counts_on_is_found() -> None:
    missing = replace(layer(), canaries=(LENGTH,), shares=1)
    assert audit_layer(missing, delta=1e-5, releases=1200, method="gaussian_limit").rejected


@pytest.mark.slow
@pytest.mark.parametrize("survivors", [3, 4, 5])
def test_every_tolerated_dropout_is_accepted_by_a_full_audit(survivors: int) -> None:
    """By the nearer of the two curves, and its canary: what that does not reject the promise does not."""
    made = replace(layer(seed=2), canaries=(LENGTH,), shares=survivors - 1)
    assert not audit_layer(made, delta=1e-5, method="gaussian_limit").rejected


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_one_missing_share_is_found_by_a_full_audit(noise: float) -> None:
    missing = replace(layer(noise, seed=2), canaries=(LENGTH,), shares=1)
    assert audit_layer(missing, delta=1e-5, method="gaussian_limit").rejected


def test_a_layer_whose_clients_add_no_shares_breaks_the_promise() -> None:
    made = layer(2.0)
    assert audit_layer(replace(made, pipeline=silent_but_priced(made)), delta=1e-5, releases=100).rejected


def silent_but_priced(made: Layer) -> Any:
    """Return the pipeline of a layer whose clients send bare vectors, at the price of noised ones."""
    stages = tuple(
        stage if stage.shield is None else replace(stage, shield=lambda values, *_: values)
        for stage in made.pipeline.stages
    )
    return replace(made.pipeline, stages=stages)
