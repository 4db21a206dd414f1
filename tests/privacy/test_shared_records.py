"""Shared noise on rows: the bound that comes with the vector, checked on the integers; noise, event and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedloom.algorithms import fedavg, scaffold
from fedloom.core.data import FEATURES, ClientDataset
from fedloom.core.events import DiscreteGaussianDpEvent
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.learner import Job
from fedloom.core.private_steps import PrivateSteps, noise_grid, record_bound
from fedloom.core.schedule import Schedule
from fedloom.core.wire import SumInfo, WireType
from fedloom.core.work import LocalWork
from fedloom.entropy import derived_secret
from fedloom.errors import ComponentError, Error, PipelineError
from fedloom.learners import LinearLearner, logistic
from fedloom.pipeline import chain, mean
from fedloom.pipeline.modular import centred
from fedloom.privacy.shared_records import shared_gaussian
from fedloom.runtime.plan import train_exchange
from fedloom.testing import rows, schema_of

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
PRIVATE = PrivateSteps(clip=0.5, noise_multiplier="shared", rate=1.0, rows=30)
LOCAL = Schedule(steps=1, learning_rate=0.3, private=PRIVATE)
BOUND = record_bound(PRIVATE, learning_rate=0.3)
Z = 1.2


def learner() -> LinearLearner:
    made = logistic(l2=0.1).build(schema_of("binary"))
    assert isinstance(made, LinearLearner)
    return made


def bound_pipeline() -> Any:
    return train_exchange(
        fedavg(LOCAL, weighting="uniform"),
        learner().layout,
        learner().fit_metrics,
        chain(mean(expected=2.0), shared_gaussian(Z)),
        dtype="float64",
        most_clients=4,
        silent=True,
    ).pipeline


def encoded(pipeline: Any, deltas: Any) -> Any:
    values = np.column_stack([deltas, np.ones(len(deltas))])
    keys = [Keys(Key.from_seed(1), NO_SECRET)] * len(deltas)
    return pipeline.encode(values, pipeline.settings(pipeline.init()), np.empty((len(deltas), 0)), keys)[0]


def delta(data: ClientDataset, start: Any) -> Any:
    job = Job(LocalWork(start=start, schedule=LOCAL), data, Keys(Key.from_seed(0), NO_SECRET))
    return learner().fit([job])[0].params - start


@quick
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 1.0, 30.0, 1e6]), at=st.sampled_from([0.0, 1.0, 1e3]))
def test_one_row_changes_the_integers_that_are_summed_by_at_most_the_bound_of_the_event(
    seed: int, scale: float, at: float
) -> None:
    pipeline = bound_pipeline()
    event = pipeline.event()
    assert isinstance(event, DiscreteGaussianDpEvent)
    draw = Key.from_seed(seed).generator()
    data, start = rows(Key.from_seed(seed), 31), at * draw.standard_normal(4)
    data.arrays[FEATURES][-1] *= scale
    fewer = ClientDataset({name: array[:-1] for name, array in data.arrays.items()}, {"train": slice(0, 30)})
    more, less = centred(encoded(pipeline, np.stack([delta(data, start), delta(fewer, start)])))
    change = [int(a) - int(b) for a, b in zip(more, less, strict=True)]
    assert sum(each**2 for each in change) <= event.l2**2


def test_the_mean_of_deltas_comes_out_up_to_half_a_step_and_the_noise() -> None:
    pipeline = bound_pipeline()
    deltas = np.array([[0.01, -0.02, 0.0, 3.0], [0.5, 0.25, -1e-9, -1.0]])
    total = encoded(pipeline, deltas).sum(axis=0, dtype=np.uint64)
    info = SumInfo(clients=2, expected_clients=2.0, round=1)  # type: ignore[arg-type]
    decoded, _ = pipeline.decode(total, pipeline.init(), info)
    step = BOUND / 2 ** noise_grid(Z, 4).bits
    assert np.abs(decoded[:4] - deltas.mean(axis=0)).max() <= step
    noised = pipeline.release(total, derived_secret(Key.from_seed(2)))
    assert noised.dtype == np.uint64
    assert not np.array_equal(noised, total)
    again = pipeline.release(total, derived_secret(Key.from_seed(2)))
    assert np.array_equal(noised, again)


def test_the_noise_on_the_sum_has_the_deviation_of_the_event() -> None:
    stage = shared_gaussian(2.5)
    wire = stage.plan(WireType(dim=5000, dtype="float64", weight=False, record=0.01))
    event = stage.event(wire)
    assert isinstance(event, DiscreteGaussianDpEvent)
    assert event.noise_multiplier >= 2.5
    assert stage.release is not None
    noise = centred(stage.release(np.zeros(5000, np.uint64), wire, derived_secret(Key.from_seed(3)))).astype(float)
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], 5000)  # false alarms: 1e-4
    assert low < float(noise @ noise) / (event.sigma**2 * event.draws) < high


def test_where_nothing_bounds_a_row_it_is_refused() -> None:
    own = Schedule(steps=1, private=replace(PRIVATE, noise_multiplier=1.0))
    pipeline = chain(mean(expected=2.0), shared_gaussian(Z))
    for algorithm in (
        fedavg(Schedule(steps=1), weighting="uniform"),
        fedavg(own, weighting="uniform"),
        scaffold(LOCAL),
    ):
        with pytest.raises(PipelineError, match="one row can change"):
            train_exchange(algorithm, learner().layout, learner().fit_metrics, pipeline, dtype="float64", silent=True)


def test_a_weight_or_a_second_encoding_beside_it_is_refused() -> None:
    wire = WireType(dim=5, dtype="float64", record=0.1)
    with pytest.raises(PipelineError, match="weight would travel"):
        shared_gaussian(Z).plan(wire)
    out = shared_gaussian(Z).plan(replace(wire, weight=False))
    with pytest.raises(PipelineError, match="integers"):
        shared_gaussian(Z).plan(out)
    with pytest.raises(PipelineError, match="Metrics"):
        shared_gaussian(Z).plan(replace(wire, weight=False, metrics=2))
    with pytest.raises(PipelineError, match="1048576 clients"):
        shared_gaussian(Z).plan(replace(wire, weight=False, most_clients=2**21))
    with pytest.raises(ComponentError, match="noise_multiplier"):
        shared_gaussian(0.0)


def test_a_delta_that_is_not_finite_never_becomes_an_integer() -> None:
    with pytest.raises(Error, match="NaN"):
        encoded(bound_pipeline(), np.array([[np.nan, 0, 0, 0]]))
