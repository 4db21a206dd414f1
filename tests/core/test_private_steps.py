"""Private steps: numbers that are refused, the grid of the noise, and the event of a round."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.component import to_json
from fedloom.core.events import DiscreteGaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from fedloom.core.ids import ClientId
from fedloom.core.private_steps import (
    MOST_INFLATION,
    MOST_SIGMA,
    PrivateSteps,
    noise_grid,
    record_bound,
    record_event,
    room_for,
)
from fedloom.core.schedule import Ramp, Schedule
from fedloom.errors import ComponentError
from fedloom.optim import adam, momentum, sgd

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
OWN = PrivateSteps(clip=1.0, noise_multiplier=1.1, rate=0.05, rows=200)
SHARED = PrivateSteps(clip=2.0, noise_multiplier="shared", rate=0.1, rows=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0.0},
        {"clip": math.inf},
        {"clip": math.nan},
        {"clip": -1.0},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": "none"},
        {"rate": 0.0},
        {"rate": 1.01},
        {"rate": math.nan},
        {"rows": 0},
        {"rows": {"a": 10, "b": 0}},
    ],
)
def test_a_number_out_of_range_is_refused_where_it_is_written(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"clip": 1.0, "noise_multiplier": 1.0, "rate": 0.1, "rows": 10} | wrong
    with pytest.raises(ComponentError, match=f"private: {next(iter(wrong))} = "):
        PrivateSteps(**given)


def test_rows_by_client_are_the_public_denominator_of_that_client() -> None:
    private = PrivateSteps(clip=1.0, noise_multiplier=1.0, rate=0.1, rows={"a": 200, "b": 50})
    schedule = Schedule(steps=3, private=private).at(4, ClientId("b"))
    assert schedule.private is not None
    assert schedule.private.expected == 5.0
    with pytest.raises(ComponentError, match="rows has no entry for client 'c'"):
        Schedule(steps=3, private=private).at(1, ClientId("c"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give steps"),
        ({"epochs": 2}, "give steps"),
        ({"steps": 2, "batch_size": 16}, "batch_size"),
        ({"steps": 2, "batch_size": "full"}, "batch_size"),
    ],
)
def test_private_steps_have_no_epochs_and_no_batch_size(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        Schedule(private=OWN, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 2},
        {"steps": {"a": 1, "b": 1}},
        {"steps": 1, "optimizer": momentum(0.9)},
        {"steps": 1, "optimizer": adam()},
        {"steps": 1, "clip_norm": 1.0},
        {"steps": 1, "learning_rate": Ramp(lambda _: 0.1)},
    ],
)
def test_shared_noise_covers_one_plain_step_of_a_constant_rate(fields: dict[str, Any]) -> None:
    with pytest.raises(ComponentError, match="shared"):
        Schedule(private=SHARED, **fields)
    assert Schedule(steps=1, private=SHARED, optimizer=sgd()).private is SHARED
    if "learning_rate" not in fields:
        assert Schedule(private=OWN, **fields).private is OWN  # of its own noise a client may do with as it likes


def test_shared_noise_has_one_denominator_for_all_clients() -> None:
    table = PrivateSteps(clip=1.0, noise_multiplier="shared", rate=0.1, rows={"a": 10})
    with pytest.raises(ComponentError, match=r"private\.rows"):
        Schedule(steps=1, private=table)


def test_private_steps_are_part_of_what_an_experiment_is() -> None:
    written = to_json(Schedule(steps=3, private=OWN))["private"]
    assert written == {"clip": 1.0, "noise_multiplier": 1.1, "rate": 0.05, "rows": 200}


@quick
@given(noise=st.floats(0.01, 20.0), dim=st.integers(1, 50_000))
def test_a_grid_has_at_least_the_noise_that_was_asked_for(noise: float, dim: int) -> None:
    try:
        grid = noise_grid(noise, dim)
    except ComponentError:
        assert noise * 42 * math.sqrt(dim) > MOST_SIGMA * 8  # more than 64 draws
        return
    assert grid.l2 >= 2**grid.bits + math.sqrt(dim)
    assert grid.sigma * math.sqrt(grid.draws) >= noise * grid.l2
    assert grid.sigma <= MOST_SIGMA
    assert grid.inflation <= MOST_INFLATION + 1e-12
    if grid.draws == 1 and grid.bits < 20:
        assert noise * (2 ** (grid.bits + 1) + math.sqrt(dim)) > MOST_SIGMA, "a finer grid would do"


def test_a_grid_of_a_large_model_adds_several_draws() -> None:
    grid = noise_grid(1.0, 400_000)
    assert (grid.bits, grid.draws) == (14, 18)
    assert grid.event == DiscreteGaussianDpEvent(float(grid.sigma), grid.l2, 400_000, 18)
    with pytest.raises(ComponentError, match="at most 64"):
        noise_grid(1.0, 10**6)


def test_the_event_of_a_round_is_its_steps_each_on_rows_drawn_by_chance() -> None:
    grid = noise_grid(1.1, 101)
    step = PoissonSampledDpEvent(0.05, DiscreteGaussianDpEvent(float(grid.sigma), grid.l2, 101))
    assert record_event(OWN, steps=20, dim=101) == SelfComposedDpEvent(step, 20)
    assert record_event(OWN, steps=1, dim=101) == step
    always = PrivateSteps(clip=1.0, noise_multiplier=1.1, rate=1.0, rows=200)
    assert record_event(always, steps=1, dim=101) == step.event
    with pytest.raises(ComponentError, match="priced by the stage"):
        record_event(SHARED, steps=1, dim=101)


def test_the_bound_of_a_row_under_shared_noise_is_its_share_of_a_step() -> None:
    bound = record_bound(SHARED, learning_rate=0.5)
    assert 0.1 < bound < 0.1 * 1.001
    assert room_for(bound, 100) > 1e6
