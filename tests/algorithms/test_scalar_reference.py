"""The algorithms against an independent reference: plain Python floats, written from the equations alone.

The reference knows neither vectors nor blocks nor fedloom's types; who took part is read from the run's records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fedloom.algorithms import fedadagrad, fedadam, fedavg, fedavgm, fedprox, fedsgd, fedyogi, scaffold
from fedloom.core.schedule import Schedule
from fedloom.learners import logistic, ridge
from fedloom.optim import adagrad, adam, cosine, exponential, inverse, momentum, steps, warmup, yogi
from fedloom.runtime.cohort import everyone, uniform
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import ListDataset, Simulation, federation, plan_for, simulate

# ---- The reference --------------------------------------------------------------------------------------------------

Point = list[float]
Rows = list[tuple[list[float], float]]
L2 = 0.03
START = [0.0] * 4


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def plus(a: Sequence[float], b: Sequence[float], factor: float = 1.0) -> Point:
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def slope(task: str, w: Point, rows: Rows) -> Point:
    """Gradient of mean loss + L2/2 |coef|^2; the intercept, last, is free of the penalty."""
    total = [0.0] * len(w)
    for x, y in rows:
        z = dot(w[:-1], x) + w[-1]
        residual = z - y if task == "regression" else 1.0 / (1.0 + math.exp(-z)) - y
        total = plus(total, [*x, 1.0], residual / len(rows))
    return plus(total, [*w[:-1], 0.0], L2)


@dataclass
class Local:
    """Local work: each step reads the rows of one batch."""

    rate: Callable[[int], float]
    optimizer: Callable[[], Callable[[Point], Point]] = lambda: lambda g: g
    clip: float | None = None
    decay: float = 0.0


def descend(
    task: str, w: Point, batches: list[Rows], local: Local, t: int, *,
    prox: float = 0.0, anchor: Point | None = None, linear: Point | None = None,
) -> Point:  # fmt: skip
    start, y, stepper = (w if anchor is None else anchor), list(w), local.optimizer()
    for batch in batches:
        g = slope(task, y, batch)
        if linear is not None:
            g = plus(g, linear)
        g = plus(g, plus(y, start, -1.0), prox)
        if local.clip is not None and math.sqrt(dot(g, g)) > local.clip:
            g = [x * local.clip / math.sqrt(dot(g, g)) for x in g]
        g = plus(g, y, local.decay)
        y = plus(y, stepper(g), -local.rate(t))
    return y


def heavy_ball(beta: float, variant: str = "plain") -> Callable[[], Callable[[Point], Point]]:
    def fresh() -> Callable[[Point], Point]:
        m: Point = []

        def step(g: Point) -> Point:
            nonlocal m
            m = m or [0.0] * len(g)
            m = [beta * a + (1 - beta if variant == "damped" else 1.0) * b for a, b in zip(m, g, strict=True)]
            return [beta * a + b for a, b in zip(m, g, strict=True)] if variant == "nesterov" else list(m)

        return step

    return fresh


def adaptive(
    rule: str, *, b1: float, b2: float = 0.0, tau: float, v0: float, corrected: bool = False
) -> Callable[[], Callable[[Point], Point]]:
    def fresh() -> Callable[[Point], Point]:
        m: Point = []
        v: Point = []
        t = 0

        def step(d: Point) -> Point:
            nonlocal m, v, t
            t += 1
            m, v = m or [0.0] * len(d), v or [v0] * len(d)
            m = [b1 * a + (1 - b1) * b for a, b in zip(m, d, strict=True)]
            if rule == "adagrad":
                v = [a + b * b for a, b in zip(v, d, strict=True)]
            elif rule == "adam":
                v = [b2 * a + (1 - b2) * b * b for a, b in zip(v, d, strict=True)]
            else:
                v = [a - (1 - b2) * b * b * ((a > b * b) - (a < b * b)) for a, b in zip(v, d, strict=True)]
            c1, c2 = (1 - b1**t, 1 - b2**t) if corrected else (1.0, 1.0)
            return [(a / c1) / (math.sqrt(b / c2) + tau) for a, b in zip(m, v, strict=True)]

        return step

    return fresh


def average(
    task: str, clients: Mapping[str, Rows], cohorts: Sequence[Sequence[str]],
    batches: Callable[[str, int], list[Rows]], local: Local, *, server: Callable[[Point], Point] = lambda d: d,
    server_rate: Callable[[int], float] = lambda t: 1.0, mu: Callable[[int], float] = lambda t: 0.0,
    weighting: str = "examples",
) -> list[Point]:  # fmt: skip
    """FedAvg and its kin; the model after each round."""
    w, path = START, []
    for t, present in enumerate(cohorts, start=1):
        weight = {k: len(clients[k]) if weighting == "examples" else 1 for k in present}
        delta = [0.0] * len(w)
        for k in present:
            mine = plus(descend(task, w, batches(k, t), local, t, prox=mu(t)), w, -1.0)
            delta = plus(delta, mine, weight[k] / sum(weight.values()))
        w = plus(w, server(delta), server_rate(t))
        path.append(w)
    return path


def controlled(
    task: str, clients: Mapping[str, Rows], cohorts: Sequence[Sequence[str]],
    batches: Callable[[str, int], list[Rows]], local: Local, *, option: str, server_rate: float = 1.0,
    weighting: str = "uniform",
) -> list[Point]:  # fmt: skip
    """SCAFFOLD; weighted: n_k/n over all clients in the control sum, over the participants in the model mean."""
    w, path = START, []
    c = [0.0] * len(w)
    mine = {k: [0.0] * len(w) for k in clients}
    everything = sum(map(len, clients.values()))
    for t, present in enumerate(cohorts, start=1):
        ends = {k: descend(task, w, batches(k, t), local, t, linear=plus(c, mine[k], -1.0)) for k in present}
        model, control = [0.0] * len(w), [0.0] * len(w)
        taking = sum(len(clients[k]) for k in present)
        for k in present:
            moved = plus(ends[k], w, -1.0)
            if option == "I":
                renewed = slope(task, w, clients[k])
            else:
                renewed = plus(plus(mine[k], c, -1.0), moved, -1.0 / (len(batches(k, t)) * local.rate(t)))
            change = plus(renewed, mine[k], -1.0)
            examples = weighting == "examples"
            model = plus(model, moved, len(clients[k]) / taking if examples else 1 / len(present))
            control = plus(control, change, len(clients[k]) / everything if examples else 1 / len(clients))
            mine[k] = renewed
        w, c = plus(w, model, server_rate), plus(c, control)
        path.append(w)
    return path


# ---- The problems ---------------------------------------------------------------------------------------------------

SIZES = (5, 19, 3, 11, 8)
STEPS = {"a": 1, "b": 3, "c": 2, "d": 5, "e": 4}
ROUNDS = 5
FULL = Schedule(steps=STEPS, batch_size="full", learning_rate=0.1)
EPOCHS = Schedule(epochs=2, batch_size=4, learning_rate=0.05)
TASKS = {"regression": ridge(l2=L2), "binary": logistic(l2=L2)}
Batches = Callable[[str, int], list[Rows]]


def rows_of(data: ListDataset) -> dict[str, Rows]:
    tables = {}
    for name, client in data.clients.items():
        features, label = client.arrays["features"].tolist(), client.arrays["label"].tolist()
        tables[name] = list(zip(features, label, strict=True))
    return tables


def full(clients: Mapping[str, Rows], table: Mapping[str, int] = STEPS) -> Batches:
    return lambda k, t: [clients[k]] * table[k]


def minibatches(run: Simulation, clients: Mapping[str, Rows], schedule: Schedule) -> Batches:
    """Rows of each step by the order that the schedule draws from the key of (round, client, wave)."""

    def batches(k: str, t: int) -> list[Rows]:
        key = run.plan.round_key(t, 0).child("client", k).child("wave", 0)
        order = schedule.at(t, k).order(len(clients[k]), key)  # type: ignore[arg-type]
        if order.rows is None:
            return [clients[k]] * order.steps
        taken = zip(order.rows.tolist(), order.valid.tolist(), strict=True)
        return [[clients[k][row] for row in rows[:valid]] for rows, valid in taken]

    return batches


def federate(
    task: str, algorithm: Any, *, cohort: int | None = 3, seed: int = 7
) -> tuple[Simulation, dict[str, Rows], list[Point]]:
    """Return a run, its rows, and the model after each of its rounds."""
    data = federation(SIZES, task=task, seed=5)  # type: ignore[arg-type]
    learner = TASKS[task].build(data.schema())
    drawn = everyone() if cohort is None else uniform(cohort)
    plan = plan_for(data, algorithm, learner, cohort=drawn, stop=max_rounds(ROUNDS), seed=seed)
    run = simulate(plan, data, rounds=1)
    path = [run.params.tolist()]
    for _ in range(ROUNDS - 1):
        run = simulate(plan, data, rounds=1, start=run)
        path.append(run.params.tolist())
    return run, rows_of(data), path


def agree(found: Sequence[Point], expected: Sequence[Point], within: float = 1e-10) -> None:
    moved = max(abs(x) for x in expected[-1])
    assert moved > 1e-3, "the reference did not move: nothing was compared"
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=within)


CONSTANT = Local(rate=lambda t: 0.1)


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- FedAvg and its kin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("cohort", [3, None])
def test_fedavg_with_unequal_steps(task: str, weighting: str, cohort: int | None) -> None:
    run, clients, path = federate(task, fedavg(FULL, weighting=weighting), cohort=cohort)  # type: ignore[arg-type]
    assert cohort is None or len(set(run.included)) > 1, "the cohorts differ, else partial participation is not seen"
    agree(path, average(task, clients, run.included, full(clients), CONSTANT, weighting=weighting))


def test_fedsgd_with_everybody_is_gradient_descent_on_the_pooled_rows(task: str) -> None:
    _, clients, path = federate(task, fedsgd(0.1), cohort=None)
    pooled = [row for name in sorted(clients) for row in clients[name]]
    w, expected = START, []
    for _ in range(ROUNDS):
        w = plus(w, slope(task, w, pooled), -0.1)
        expected.append(w)
    agree(path, expected, within=1e-14)


def test_fedavg_with_one_full_batch_step_is_fedsgd_bit_for_bit(task: str) -> None:
    one = fedavg(Schedule(steps=1, batch_size="full", learning_rate=0.1))
    assert federate(task, one)[2] == federate(task, fedsgd(0.1))[2]


@pytest.mark.parametrize("local", [FULL, EPOCHS])
def test_fedprox_without_mu_is_fedavg_bit_for_bit(task: str, local: Schedule) -> None:
    assert federate(task, fedprox(local, mu=0.0))[2] == federate(task, fedavg(local))[2]


def test_fedprox_with_one_step_is_fedsgd_whatever_mu_is(task: str) -> None:
    one = Schedule(steps=1, batch_size="full", learning_rate=0.1)
    np.testing.assert_array_equal(federate(task, fedprox(one, mu=3.0))[2], federate(task, fedsgd(0.1))[2])


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_fedprox(task: str, weighting: str) -> None:
    run, clients, path = federate(task, fedprox(FULL, mu=0.7, weighting=weighting))  # type: ignore[arg-type]
    expected = average(task, clients, run.included, full(clients), CONSTANT, mu=lambda t: 0.7, weighting=weighting)
    agree(path, expected)


SERVERS: dict[str, tuple[Any, Callable[[], Callable[[Point], Point]], float]] = {
    "fedavgm plain": (fedavgm(FULL, beta=0.8, server_lr=0.7), heavy_ball(0.8), 0.7),
    "fedavgm nesterov": (fedavgm(FULL, beta=0.8, variant="nesterov"), heavy_ball(0.8, "nesterov"), 1.0),
    "fedavgm damped": (fedavgm(FULL, beta=0.8, variant="damped"), heavy_ball(0.8, "damped"), 1.0),
    "fedadagrad": (fedadagrad(FULL), adaptive("adagrad", b1=0.0, tau=1e-3, v0=1e-6), 0.1),
    "fedadagrad b1": (fedadagrad(FULL, beta1=0.9, tau=0.1), adaptive("adagrad", b1=0.9, tau=0.1, v0=1e-2), 0.1),
    "fedadagrad v0": (fedadagrad(FULL, v0=0.0), adaptive("adagrad", b1=0.0, tau=1e-3, v0=0.0), 0.1),
    "fedadam": (fedadam(FULL), adaptive("adam", b1=0.9, b2=0.99, tau=1e-3, v0=1e-6), 0.01),
    "fedadam tau": (fedadam(FULL, tau=0.2, server_lr=0.3), adaptive("adam", b1=0.9, b2=0.99, tau=0.2, v0=0.04), 0.3),
    "fedadam v0": (fedadam(FULL, v0=0.0, beta2=0.999), adaptive("adam", b1=0.9, b2=0.999, tau=1e-3, v0=0.0), 0.01),
    "fedadam corrected": (
        fedadam(FULL, bias_correction=True, v0=0.0),
        adaptive("adam", b1=0.9, b2=0.99, tau=1e-3, v0=0.0, corrected=True),
        0.01,
    ),
    "fedadam corrected tau^2": (
        fedadam(FULL, bias_correction=True, beta1=0.5),
        adaptive("adam", b1=0.5, b2=0.99, tau=1e-3, v0=1e-6, corrected=True),
        0.01,
    ),
    "fedyogi": (fedyogi(FULL), adaptive("yogi", b1=0.9, b2=0.99, tau=1e-3, v0=1e-6), 0.01),
    "fedyogi falling v": (
        fedyogi(FULL, tau=0.5, v0=4.0, server_lr=1.0),
        adaptive("yogi", b1=0.9, b2=0.99, tau=0.5, v0=4.0),
        1.0,
    ),
    "fedavg momentum": (fedavg(FULL, server=momentum(0.5)), heavy_ball(0.5), 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_server_optimizers(task: str, name: str) -> None:
    algorithm, server, rate = SERVERS[name]
    run, clients, path = federate(task, algorithm)
    expected = average(
        task, clients, run.included, full(clients), CONSTANT, server=server(), server_rate=lambda t: rate
    )
    agree(path, expected)


@pytest.mark.parametrize("make", [fedavgm, fedadagrad, fedadam, fedyogi])
def test_server_optimizers_can_weigh_uniformly(make: Any) -> None:
    servers = {
        fedavgm: (heavy_ball(0.9), 1.0),
        fedadagrad: (adaptive("adagrad", b1=0.0, tau=1e-3, v0=1e-6), 0.1),
        fedadam: (adaptive("adam", b1=0.9, b2=0.99, tau=1e-3, v0=1e-6), 0.01),
        fedyogi: (adaptive("yogi", b1=0.9, b2=0.99, tau=1e-3, v0=1e-6), 0.01),
    }
    server, rate = servers[make]
    run, clients, path = federate("regression", make(FULL, weighting="uniform"))
    expected = average(
        "regression", clients, run.included, full(clients), CONSTANT,
        server=server(), server_rate=lambda t: rate, weighting="uniform",
    )  # fmt: skip
    agree(path, expected)


def test_damped_momentum_is_plain_scaled_on_a_constant_delta() -> None:
    plain, damped = momentum(0.75), momentum(0.75, variant="damped")
    delta, m, d = np.array([2.0, -1.0]), np.zeros(2), np.zeros(2)
    for _ in range(5):
        step, m = plain.update(delta, m)
        small, d = damped.update(delta, d)
        np.testing.assert_allclose(small, 0.25 * step, rtol=1e-15)


def test_yogi_leaves_v_where_it_equals_the_squared_delta() -> None:
    tau = 0.25
    server = yogi(tau=tau)
    _, moments = server.update(np.array([tau, -tau, 2 * tau, 0.0]), server.init(np.zeros(4)))
    expected = [tau**2, tau**2, tau**2 + 0.01 * (2 * tau) ** 2, tau**2]
    np.testing.assert_allclose(moments.v, expected, rtol=1e-15)
    assert moments.v[0] == moments.v[1] == tau**2


def test_tau_stands_outside_the_root() -> None:
    for server in (adam(beta1=0.0, beta2=0.0, tau=1.0, v0=0.0, bias_correction=False), adagrad(tau=1.0, v0=0.0)):
        step, _ = server.update(np.array([3.0]), server.init(np.zeros(1)))
        assert step.tolist() == [3.0 / (3.0 + 1.0)]


RAMPS = {
    "exponential": (exponential(0.2, decay=0.5, floor=0.03), lambda t: max(0.2 * 0.5 ** (t - 1), 0.03)),
    "inverse": (inverse(0.2, rate=0.5, power=0.5), lambda t: 0.2 / (1 + 0.5 * (t - 1)) ** 0.5),
    "steps": (steps(0.2, every=2, factor=0.5), lambda t: 0.2 * 0.5 ** ((t - 1) // 2)),
    "cosine": (
        cosine(0.2, rounds=3, floor=0.02),
        lambda t: 0.02 + 0.18 * (1 + math.cos(math.pi * min(t - 1, 3) / 3)) / 2,
    ),
    "warmup": (warmup(0.2, rounds=2), lambda t: 0.2 * min(t / 3, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", RAMPS)
def test_ramps_of_the_server_rate_of_the_client_rate_and_of_mu(name: str) -> None:
    ramp, value = RAMPS[name]
    task = "regression"
    run, clients, path = federate(task, fedavg(FULL, server_lr=ramp))
    agree(path, average(task, clients, run.included, full(clients), CONSTANT, server_rate=value))
    run, clients, path = federate(task, fedavg(replace(FULL, learning_rate=ramp)))
    agree(path, average(task, clients, run.included, full(clients), Local(rate=value)))
    run, clients, path = federate(task, fedprox(FULL, mu=ramp))
    agree(path, average(task, clients, run.included, full(clients), CONSTANT, mu=value))


def test_a_server_rate_other_than_one_scales_the_mean_delta(task: str) -> None:
    run, clients, path = federate(task, fedavg(FULL, server_lr=1.7))
    agree(path, average(task, clients, run.included, full(clients), CONSTANT, server_rate=lambda t: 1.7))


# ---- Local work -----------------------------------------------------------------------------------------------------

LOCALS: dict[str, tuple[dict[str, Any], Local]] = {
    "momentum": ({"optimizer": momentum(0.8)}, Local(lambda t: 0.05, heavy_ball(0.8))),
    "nesterov": ({"optimizer": momentum(0.8, variant="nesterov")}, Local(lambda t: 0.05, heavy_ball(0.8, "nesterov"))),
    "adam": (
        {"optimizer": adam()},
        Local(lambda t: 0.05, adaptive("adam", b1=0.9, b2=0.999, tau=1e-8, v0=0.0, corrected=True)),
    ),
    "adagrad": ({"optimizer": adagrad()}, Local(lambda t: 0.05, adaptive("adagrad", b1=0.0, tau=1e-3, v0=1e-6))),
    "weight decay": ({"weight_decay": 0.4}, Local(lambda t: 0.05, decay=0.4)),
    "clipping": ({"clip_norm": 0.3}, Local(lambda t: 0.05, clip=0.3)),
    "all": (
        {"optimizer": momentum(0.5), "weight_decay": 0.4, "clip_norm": 0.3},
        Local(lambda t: 0.05, heavy_ball(0.5), clip=0.3, decay=0.4),
    ),
    "ramp": ({"learning_rate": exponential(0.1, decay=0.5)}, Local(lambda t: 0.1 * 0.5 ** (t - 1))),
    "plain": ({}, Local(lambda t: 0.05)),
}


@pytest.mark.parametrize("name", LOCALS)
@pytest.mark.parametrize(
    "work",
    [
        Schedule(epochs=2, batch_size=4, learning_rate=0.05),
        Schedule(steps=STEPS, batch_size=4, learning_rate=0.05),
        Schedule(steps=7, batch_size=8, learning_rate=0.05),
        Schedule(epochs=3, batch_size="full", learning_rate=0.05),
    ],
    ids=["epochs", "table", "steps", "full"],
)
def test_local_work_over_minibatches(task: str, name: str, work: Schedule) -> None:
    changes, local = LOCALS[name]
    schedule = replace(work, **changes)
    run, clients, path = federate(task, fedprox(schedule, mu=0.3))
    batches = minibatches(run, clients, schedule)
    agree(path, average(task, clients, run.included, batches, local, mu=lambda t: 0.3))


# ---- SCAFFOLD -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("cohort", [3, None])
@pytest.mark.parametrize("rate", [1.0, 0.6])
def test_scaffold(task: str, option: str, weighting: str, cohort: int | None, rate: float) -> None:
    made = scaffold(FULL, option=option, weighting=weighting, server_lr=rate)  # type: ignore[arg-type]
    run, clients, path = federate(task, made, cohort=cohort)
    expected = controlled(
        task,
        clients,
        run.included,
        full(clients),
        CONSTANT,
        option=option,
        weighting=weighting,
        server_rate=rate,
    )
    agree(path, expected)


def test_scaffold_option_two_reads_the_rate_of_its_round() -> None:
    local = replace(FULL, learning_rate=exponential(0.1, decay=0.7))
    run, clients, path = federate("binary", scaffold(local))
    rates = Local(rate=lambda t: 0.1 * 0.7 ** (t - 1))
    agree(path, controlled("binary", clients, run.included, full(clients), rates, option="II"))


def test_scaffold_over_minibatches(task: str) -> None:
    run, clients, path = federate(task, scaffold(EPOCHS))
    batches = minibatches(run, clients, EPOCHS)
    agree(path, controlled(task, clients, run.included, batches, Local(rate=lambda t: 0.05), option="II"))


def test_the_first_round_of_scaffold_is_that_of_uniform_fedavg(task: str) -> None:
    first = federate(task, scaffold(FULL))[2][0]
    np.testing.assert_allclose(first, federate(task, fedavg(FULL, weighting="uniform"))[2][0], rtol=0, atol=1e-15)
