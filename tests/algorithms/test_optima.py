"""Where algorithms end: on two clients whose optima, pooled and uniform, are far apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedloom.algorithms import fedavg, fedprox, fedsgd, scaffold
from fedloom.core.ids import ClientId
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.errors import ComponentError
from fedloom.learners import ridge
from fedloom.optim import momentum
from fedloom.runtime.cohort import uniform
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import minimise, plan_for, simulate, two_quadratics

DATA = two_quadratics()
LEARNER = ridge(l2=0.1).build(DATA.schema())
POOLED = minimise(LEARNER, DATA, {"large": 0.75, "small": 0.25})
UNIFORM = minimise(LEARNER, DATA, {"large": 0.5, "small": 0.5})
FIVE = Schedule(steps={"large": 5, "small": 3}, batch_size="full", learning_rate=0.1)


def reached(algorithm: object, rounds: int, *, cohort: int = 2) -> Vector:
    plan = plan_for(DATA, algorithm, LEARNER, cohort=uniform(cohort), stop=max_rounds(rounds))  # type: ignore[arg-type]
    return simulate(plan, DATA).params


def test_the_two_optima_are_far_apart() -> None:
    assert np.linalg.norm(POOLED - UNIFORM) > 1e-2
    for name in ("large", "small"):
        rows = DATA.client(ClientId(name)).split("train")
        assert np.linalg.norm(LEARNER.gradient(POOLED, rows).gradient) > 1e-2, "no client is at rest in the optimum"


def test_the_closed_form_is_where_the_mean_gradient_vanishes() -> None:
    for optimum, shares in ((POOLED, (0.75, 0.25)), (UNIFORM, (0.5, 0.5))):
        slopes = [
            LEARNER.gradient(optimum, DATA.client(ClientId(n)).split("train")).gradient for n in ("large", "small")
        ]
        np.testing.assert_allclose(shares[0] * slopes[0] + shares[1] * slopes[1], 0, atol=1e-12)


def test_fedsgd_reaches_the_optimum_of_its_weights() -> None:
    np.testing.assert_allclose(reached(fedsgd(0.5), 200), POOLED, rtol=0, atol=1e-8)
    np.testing.assert_allclose(reached(fedsgd(0.5, weighting="uniform"), 200), UNIFORM, rtol=0, atol=1e-8)


@pytest.mark.parametrize("option", ["I", "II"])
def test_uniform_scaffold_reaches_the_optimum_of_the_mean_of_the_clients(option: str) -> None:
    found = reached(scaffold(FIVE, option=option), 250)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, UNIFORM, rtol=0, atol=1e-8)


@pytest.mark.parametrize("option", ["I", "II"])
def test_weighted_scaffold_reaches_the_optimum_of_the_pooled_rows(option: str) -> None:
    found = reached(scaffold(FIVE, option=option, weighting="examples"), 250)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, POOLED, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("weighting", "optimum"), [("uniform", UNIFORM), ("examples", POOLED)])
def test_scaffold_reaches_its_optimum_with_half_of_the_clients_a_round(weighting: str, optimum: Vector) -> None:
    found = reached(scaffold(FIVE, weighting=weighting), 800, cohort=1)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, optimum, rtol=0, atol=1e-8)


def test_fedavg_with_several_steps_ends_at_the_fixed_point_of_its_map_and_not_at_the_optimum() -> None:
    size = LEARNER.layout.size
    maps = []
    for name, share in (("large", 0.75), ("small", 0.25)):
        rows = DATA.client(ClientId(name)).split("train")
        b = -LEARNER.gradient(np.zeros(size), rows).gradient
        a = np.stack([LEARNER.gradient(unit, rows).gradient + b for unit in np.eye(size)])
        m = np.linalg.matrix_power(np.eye(size) - 0.1 * a, FIVE.steps[name])  # type: ignore[index]
        maps.append((share * m, share * (np.eye(size) - m) @ np.linalg.solve(a, b)))
    fixed = np.linalg.solve(np.eye(size) - sum(m for m, _ in maps), sum(shift for _, shift in maps))
    np.testing.assert_allclose(reached(fedavg(FIVE), 300), fixed, rtol=0, atol=1e-9)
    assert np.linalg.norm(fixed - POOLED) > 1e-2


def test_fedprox_alone_removes_neither_drift_nor_bias() -> None:
    assert np.linalg.norm(reached(fedprox(FIVE, mu=0.1), 300) - POOLED) > 1e-2


@pytest.mark.parametrize("changes", [{"optimizer": momentum(0.9)}, {"clip_norm": 1.0}, {"weight_decay": 0.1}])
def test_scaffold_option_two_refuses_local_steps_that_are_not_plain(changes: dict[str, object]) -> None:
    local = Schedule(steps=2, batch_size="full", **changes)  # type: ignore[arg-type]
    with pytest.raises(ComponentError, match="option='I'"):
        scaffold(local)
    scaffold(local, option="I")


def test_a_step_table_without_a_client_fails_that_client_and_names_it() -> None:
    plan = plan_for(DATA, fedavg(Schedule(steps={"large": 1}, batch_size="full")), LEARNER, stop=max_rounds(1))
    run = simulate(plan, DATA)
    assert run.included == ((ClientId("large"),),)
    (failure,) = run.records[0].failures
    assert (failure.client, failure.kind) == ("small", "crashed")
    assert "steps has no entry for client 'small'" in failure.detail


@pytest.mark.parametrize(
    "make",
    [
        lambda: fedavg(FIVE, weighting="example"),  # type: ignore[arg-type]
        lambda: scaffold(FIVE, weighting="weighted"),  # type: ignore[arg-type]
        lambda: scaffold(FIVE, option="i"),  # type: ignore[arg-type]
        lambda: momentum(0.5, variant="heavy"),  # type: ignore[arg-type]
        lambda: Schedule(batch_size="all"),  # type: ignore[arg-type]
    ],
    ids=["fedavg weighting", "scaffold weighting", "scaffold option", "momentum variant", "batch size"],
)
def test_a_word_that_is_none_of_the_options_is_refused_and_not_taken_for_another(make: Callable[[], object]) -> None:
    with pytest.raises(ComponentError):
        make()


@pytest.mark.parametrize("made", [fedprox, fedavg])
def test_a_proximal_weight_below_zero_or_nan_is_refused(made: Callable[..., object]) -> None:
    name = "mu" if made is fedprox else "prox"
    for number in (-0.1, float("nan")):
        with pytest.raises(ComponentError):
            made(FIVE, **{name: number})
