"""A run whose sums are integers: almost the float result, and the same bytes whoever adds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.schedule import Schedule
from fedloom.errors import PipelineError
from fedloom.pipeline import chain, clip, fixed_point, mean, rotate
from fedloom.runtime.cohort import poisson, uniform

Make = Callable[..., fedloom.Experiment]
Same = Callable[..., None]
SPREAD = pytest.param((rotate(),), id="rotated")
PLAIN = pytest.param((), id="plain")


def asked(experiment: Make, *inner: Any, dtype: str = "float64", weighting: Any = "uniform", **fields: Any) -> Any:
    """Return an experiment under a clip that cuts some updates, with what comes between mean and wire."""
    made = experiment(dtype=dtype, **fields)
    taken = mean(expected=10.0) if weighting == "uniform" else mean(max_weight=100.0)
    schedule = Schedule(epochs=1, batch_size=16, learning_rate=0.2)
    return replace(
        made, algorithm=fedloom.fedavg(schedule, weighting=weighting), pipeline=chain(clip(0.4), taken, *inner)
    )


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("between", [PLAIN, SPREAD])
def test_integers_give_almost_the_float_result(
    between: tuple[Any, ...], dtype: str, weighting: str, experiment: Make
) -> None:
    coded = (*between, fixed_point(most_metric=1e4))
    whole = local().run(asked(experiment, *coded, dtype=dtype, weighting=weighting))
    plain = local().run(asked(experiment, dtype=dtype, weighting=weighting))
    assert not any(record.failures for record in whole.records)
    np.testing.assert_allclose(whole.params, plain.params, rtol=0, atol=1e-5)
    assert not np.array_equal(whole.params, plain.params), "the integers were not used"
    for one, other in zip(whole.rounds, plain.rounds, strict=True):
        assert one.metrics["fit/loss"] == pytest.approx(other.metrics["fit/loss"], abs=1e-4)


@pytest.mark.parametrize("between", [PLAIN, SPREAD])
def test_whoever_adds_gives_the_same_bytes(between: tuple[Any, ...], experiment: Make, same: Same) -> None:
    made = asked(experiment, *between, fixed_point(most_metric=1e4), cohort=uniform(7), rounds=4)
    plain = local().run(made)
    for block in (1, 3, 25):
        same(plain, local().run(replace(made, block=block)))
        same(plain, local(workers=2, pool="threads").run(replace(made, block=block)))
    same(plain, local(strict=True, workers=2, pool="threads").run(made))


@pytest.mark.skipif(os.name != "posix", reason="worker processes need pipes to pass on")
def test_worker_processes_give_the_same_bytes(experiment: Make, same: Same) -> None:
    made = asked(experiment, rotate(), fixed_point(most_metric=1e4), rounds=3, block=3)
    same(local().run(made), local(workers=2, pool="processes").run(made))


def test_a_message_is_four_bytes_a_number(experiment: Make) -> None:
    floats = local().run(asked(experiment, rounds=1)).rounds[0].bytes_up
    whole = local().run(asked(experiment, fixed_point(most_metric=1e4), rounds=1)).rounds[0].bytes_up
    numbers = 5 + 2  # four columns and the intercept, the sums of a mean loss
    assert floats - whole == pytest.approx(4 * numbers * 10, abs=10 * 16)


def test_what_cannot_be_encoded_is_a_failure_of_its_client_and_the_others_count(experiment: Make) -> None:
    """The loss of a mean travels as a sum over rows: it is beyond 30 at the larger clients only."""
    record = local().run(asked(experiment, fixed_point(most_metric=30.0), rounds=1)).rounds[0]
    assert record.status == "closed"
    assert 0 < len(record.failures) < 10
    assert len(record.included) == 10 - len(record.failures)
    assert {failure.kind for failure in record.failures} == {"invalid"}
    assert all("most_metric" in failure.detail for failure in record.failures)


@pytest.mark.parametrize(
    ("cohort", "step"), [(None, 2.0**-27), (uniform(3), 2.0**-29), (poisson(0.2), 2.0**-27), (uniform(8), 2.0**-27)]
)
def test_the_sum_has_room_for_the_clients_that_a_round_may_invite(cohort: Any, step: float, experiment: Make) -> None:
    from fedloom.experiment.plan import build_learner, train_plan

    made = asked(experiment, fixed_point(most_metric=1e4), **({} if cohort is None else {"cohort": cohort}))
    population = made.data.population()
    plan = train_plan(made, build_learner(made, made.data.schema()), population, ("train",))
    assert plan.exchange.pipeline.sent.step == step
    assert plan.exchange.pipeline.sent.most_clients == plan.cohort.most(10)


def test_what_the_modulus_cannot_hold_is_refused_before_round_1(experiment: Make) -> None:
    with pytest.raises(PipelineError, match="at most bits=27"):
        local().run(asked(experiment, fixed_point(29, most_metric=1e4)))
    with pytest.raises(PipelineError, match="most_metric"):
        local().run(asked(experiment, fixed_point()))
