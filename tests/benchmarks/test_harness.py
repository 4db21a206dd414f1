"""The harness that compares speeds: its loops do what they say, and whoever has not done the work is found out."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import contest  # noqa: E402
import federation  # noqa: E402
import growth  # noqa: E402
import lead  # noqa: E402
import losses  # noqa: E402
import numpy_loop  # noqa: E402
import own_cost  # noqa: E402
import processes  # noqa: E402
import where  # noqa: E402
import workloads  # noqa: E402
from peers import results  # noqa: E402

SMALL = dataclasses.replace(workloads.W1, clients=5, cohort=3, rows=8, features=6, classes=3, batch=4)


def drawn(workload: workloads.Workload, *, cohorts: Any = ((0, 2),)) -> workloads.Task:
    start = {
        "coef": np.zeros((workload.outputs, workload.features), np.float32),
        "intercept": np.zeros(workload.outputs, np.float32),
    }
    return workloads.Task(rows=workloads.draw_rows(workload), start=start, cohorts=cohorts)


def test_lognormal_sizes_have_the_sum_of_equal_ones_and_leave_nobody_without_a_row() -> None:
    unequal = workloads.unequal(workloads.W1)
    sizes = workloads.draw_sizes(unequal, np.random.default_rng(0))
    assert sizes.min() >= 1
    assert sizes.max() > 8 * np.median(sizes)
    assert abs(int(sizes.sum()) - 60_000) <= int((sizes == 1).sum())


def test_a_client_has_views_of_its_own_rows() -> None:
    rows = workloads.draw_rows(dataclasses.replace(SMALL, lognormal=True))
    parts = [rows.client(index)[0] for index in range(SMALL.clients)]
    assert all(part.base is rows.features for part in parts)
    assert np.array_equal(np.concatenate(parts), rows.features)
    assert [len(part) for part in parts] == rows.sizes.tolist()


def test_a_task_comes_back_from_its_folder(tmp_path: Path) -> None:
    task = drawn(dataclasses.replace(SMALL, lognormal=True))
    task.write(tmp_path)
    read = workloads.Task.read(tmp_path, mapped=True)
    assert read.rows.workload == task.rows.workload
    assert np.array_equal(read.rows.features, task.rows.features)
    assert np.array_equal(read.rows.sizes, task.rows.sizes)
    assert [list(cohort) for cohort in read.cohorts] == [[0, 2]]
    assert {name: leaf.tolist() for name, leaf in read.start.items()} == {
        name: leaf.tolist() for name, leaf in task.start.items()
    }


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loop", ["numpy", "torch"])
def test_a_round_of_full_batches_is_a_step_of_gradient_descent_on_the_rows_of_the_cohort(
    loop: str, classes: int
) -> None:
    workload = dataclasses.replace(SMALL, classes=classes, batch=1000, lognormal=True)
    task = drawn(workload)
    if loop == "torch":
        pytest.importorskip("torch")
        from torch_loop import TorchLoop

        rival: Any = TorchLoop(task)
    else:
        rival = numpy_loop.NumpyLoop(task)
    rival.round([0, 2])
    x, y = (np.concatenate([task.rows.client(index)[part] for index in (0, 2)]) for part in (0, 1))
    # At zero every class is as likely as any other.
    residual = 0.5 - y[:, None] if classes == 2 else 1 / 3 - np.eye(3)[y]
    found = rival.params()
    np.testing.assert_allclose(found["coef"], -0.1 * (residual.T @ x) / len(y), atol=1e-6)
    np.testing.assert_allclose(found["intercept"], -0.1 * residual.mean(axis=0), atol=1e-6)


def test_the_loss_of_zeros_is_the_logarithm_of_the_number_of_classes() -> None:
    task = drawn(SMALL)
    assert losses.mean_loss(task.start, task.rows) == pytest.approx(np.log(3), abs=1e-12)
    two = drawn(dataclasses.replace(SMALL, classes=2))
    assert losses.mean_loss(two.start, two.rows) == pytest.approx(np.log(2), abs=1e-12)


@pytest.mark.parametrize("name", ["W2", "W4"])
def test_the_loss_of_a_network_is_that_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from torch_loop import load, loss_of, module_of, params_of, tensors_of

    workload = dataclasses.replace(workloads.workload_named(name), clients=2, cohort=2, rows=5)
    rows = workloads.draw_rows(workload)
    torch.manual_seed(1)
    module = module_of(workload)
    params = params_of(module)
    load(module, params)
    step = 5 if name == "W2" else 1
    x, y = tensors_of(workload, rows.features[::step], rows.labels[::step])
    with torch.no_grad():
        wanted = float(loss_of(workload)(module.double()(x.double()), y))
    assert losses.mean_loss(params, rows) == pytest.approx(wanted, abs=1e-9)


def test_contestants_who_did_the_same_work_agree_and_one_with_half_the_rate_does_not() -> None:
    task = federation.task_of(SMALL, rounds=3)
    held = contest.Contest(task, [numpy_loop.NumpyLoop(task)])
    params = lead.fedloom_rounds(held)
    outcome = held.outcome(params)
    assert outcome.agrees
    assert {name: len(taken) for name, taken in outcome.seconds.items()} == {"fedloom": 1, "N0": 1}
    lazy = {name: task.start[name] + (leaf - task.start[name]) / 2 for name, leaf in params.items()}
    assert not contest.judged(task, {}, {"fedloom": params, "lazy": lazy}).agrees


def test_a_task_has_the_start_and_the_cohorts_of_the_run_that_is_measured() -> None:
    task = federation.task_of(SMALL, rounds=2)
    assert all(len(set(cohort)) == SMALL.cohort for cohort in task.cohorts)
    assert list(task.cohorts[0]) != list(task.cohorts[1])
    assert not task.start["coef"].any()


def test_the_own_cost_is_less_than_the_round() -> None:
    cost = own_cost.cost_of(SMALL, rounds=1)
    assert 0 < cost.own_s < cost.round_s


def test_what_was_not_run_stands_in_the_table_with_its_reason() -> None:
    result = results.Result(workload="W1", leader="fluke", reason="pip\nno such version")
    *_, line = results.table([result])
    assert line == "| W1 | fluke |  |  |  |  |  | not run: no such version |"


@pytest.mark.parametrize("axis", sorted(growth.AXES))
def test_only_the_axis_varies_along_an_axis(axis: str) -> None:
    points = growth.shapes(axis)
    assert [getattr(point, axis) for point in points] == list(growth.AXES[axis])
    assert len({dataclasses.replace(point, **{axis: 10}) for point in points}) == 1


@pytest.mark.parametrize(
    "name", sorted({name for parts in (where.PARTS, growth.PARTS) for each in parts.values() for name in each})
)
def test_what_is_clocked_exists_and_is_put_back(name: str) -> None:
    seen: list[Any] = []

    def look(function: Any) -> Any:
        seen.append(function)
        return len  # anything else

    where.replaced(name, look)()
    where.replaced(name, look)()
    assert callable(seen[0])
    assert seen[0] is seen[1] is not len


@pytest.mark.slow
def test_a_session_is_a_process_of_its_own_whose_memory_is_known(tmp_path: Path) -> None:
    task = federation.task_of(SMALL, rounds=3)
    task.write(tmp_path / "task")
    held = processes.hold("fedloom", tmp_path / "task", output=tmp_path / "out", rounds=3, beside=False)
    assert held.outcome(task).agrees
    assert len(held.seconds["fedloom"]) == 3
    assert held.peak_mb > 20
    assert held.start_s > sum(held.seconds["fedloom"][:1])


@pytest.mark.slow
def test_a_session_that_fails_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(processes.SessionFailed, match="No such file"):
        processes.hold("fedloom", tmp_path / "absent", output=tmp_path / "out", rounds=1, beside=False)
