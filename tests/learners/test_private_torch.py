"""Private steps of torch modules: gradients of rows, what is refused, and the bound on the integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.keys import Key, Keys
from fedloom.core.learner import Job
from fedloom.core.private_steps import PrivateSteps
from fedloom.core.schedule import Schedule
from fedloom.core.work import LocalWork
from fedloom.entropy.secret import derived_secret
from fedloom.errors import ComponentError
from fedloom.learners import logistic, models
from fedloom.learners.torch_learner import TorchLearner
from fedloom.learners.torch_module import torch_module
from fedloom.learners.torch_private import rows_of
from fedloom.testing import rows, schema_of
from fedloom.testing.fakes import Task

PRIVATE = PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=0.5, rows=20)


def with_norms() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3))


def made(task: Task, model: Any, **arguments: Any) -> TorchLearner:
    loss = "mse" if task == "regression" else "cross_entropy"
    learner = torch_module(model, **{"loss": loss, "dtype": "float64"} | arguments).build(schema_of(task))
    assert isinstance(learner, TorchLearner)
    return learner


def sums(learner: TorchLearner, data: ClientDataset, params: Any, places: Any, *, clip: float) -> Any:
    with learner.spaces.taken() as space:
        whole = rows_of(learner.task, space, data, clip=clip)
        return whole.clipped(params, None if places is None else np.array(places, np.int64)), whole.bits


@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
def test_a_row_adds_its_gradient_clipped_as_autograd_finds_it(task: Task) -> None:
    learner = made(task, models.mlp([6]))
    data = rows(Key.from_seed(1), 9, task=task)
    params = 0.8 * Key.from_seed(2).generator().standard_normal(learner.layout.size)
    singles = [
        ClientDataset({name: array[[place]] for name, array in data.arrays.items()}, {"train": slice(0, 1)})
        for place in range(9)
    ]
    gradients = [learner.gradient(params, row).gradient for row in singles]
    clip = float(np.median([np.linalg.norm(gradient) for gradient in gradients]))  # half of the rows are clipped
    total, bits = sums(learner, data, params, None, clip=clip)
    found = [sums(learner, data, params, [place], clip=clip)[0] for place in range(9)]
    for each, gradient in zip(found, gradients, strict=True):
        expected = gradient * min(1.0, clip / float(np.linalg.norm(gradient)))
        assert np.allclose(each * clip / 2**bits, expected, atol=3e-6 * clip)
        assert sum(int(number) ** 2 for number in each) <= 2 ** (2 * bits)
    assert np.abs(total - sum(found)).max() <= 9


def test_a_linear_module_takes_the_private_steps_of_the_linear_learner() -> None:
    data = rows(Key.from_seed(3), 40)
    module = made("binary", nn.Linear(3, 1), loss="bce")
    numpy = logistic(l2=0.0).build(schema_of("binary"))
    private = PrivateSteps(clip=0.4, noise_multiplier=0.5, rate=0.3, rows=40)
    start = np.array([0.3, -0.2, 0.1, 0.4])
    work = LocalWork(start=start, schedule=Schedule(steps=5, learning_rate=0.5, private=private))
    job = Job(work, data, Keys(Key.from_seed(4), derived_secret(Key.from_seed(5))))
    ours, theirs = module.fit([job])[0].params, numpy.fit([job])[0].params
    unit = 0.5 * 0.4 / 2**11 / 12
    assert np.abs(ours - theirs).max() <= 5 * 2 * unit  # each step rounds to the grid once
    assert np.abs(ours - start).max() > 100 * unit


def test_huge_rows_and_wild_parameters_add_at_most_the_clip_or_nothing() -> None:
    learner = made("regression", models.mlp([6]))
    data = rows(Key.from_seed(6), 4, task="regression")
    data.arrays[FEATURES][0] *= 1e150
    data.arrays[FEATURES][1] *= 0.0
    data.arrays[LABEL][2] = 1e300
    params = Key.from_seed(7).generator().standard_normal(learner.layout.size)
    for wild in (params, 1e300 * params, np.full_like(params, np.nan)):
        for place in range(4):
            each, bits = sums(learner, data, wild, [place], clip=1.0)
            assert sum(int(number) ** 2 for number in each) <= 2 ** (2 * bits)
    assert not sums(learner, data, np.full_like(params, np.nan), None, clip=1.0)[0].any()
    assert not sums(learner, data, params, [], clip=1.0)[0].any()


def test_modules_that_mix_rows_or_draw_are_known_before_round_1() -> None:
    assert "statistics" in made("classes", with_norms()).capabilities.not_private()
    assert "random numbers" in made("classes", with_dropout()).capabilities.not_private()
    assert "function" in made("classes", models.mlp([4]), loss=nn.functional.cross_entropy).capabilities.not_private()
    assert "torch.optim" in made("classes", models.mlp([4]), optimizer="Adam").capabilities.not_private()
    assert made("classes", models.mlp([4])).capabilities.not_private() == ""


@pytest.mark.parametrize("arguments", [{"model": with_norms()}, {"model": models.mlp([4]), "optimizer": "LBFGS"}])
def test_a_module_that_cannot_says_so_when_it_is_asked_all_the_same(arguments: dict[str, Any]) -> None:
    learner = made("classes", **arguments)
    schedule = Schedule(steps=1, private=PRIVATE)
    job = Job(
        LocalWork(start=learner.init(Key.from_seed(0)), schedule=schedule),
        rows(Key.from_seed(1), 8, task="classes"),
        Keys(Key.from_seed(0), derived_secret(Key.from_seed(0))),
    )
    with pytest.raises(ComponentError, match="cannot take private steps"):
        learner.fit([job])


def test_gradients_of_many_rows_do_not_depend_on_who_else_was_drawn() -> None:
    """In float32 too: rows meet the same kernels in groups of one size."""
    learner = made("classes", models.mlp([16]), dtype="float32")
    data = rows(Key.from_seed(8), 150, task="classes", dtype="float32")
    params = learner.init(Key.from_seed(9))
    whole, bits = sums(learner, data, params, None, clip=0.5)
    without, _ = sums(learner, data, params, list(range(149)), clip=0.5)
    last, _ = sums(learner, data, params, [149], clip=0.5)
    assert float(np.linalg.norm(whole - without - last)) <= 1e-6 * 2**bits


def test_torch_draws_nothing_for_private_steps() -> None:
    learner, data = made("classes", models.mlp([4])), rows(Key.from_seed(1), 10, task="classes")
    work = LocalWork(start=learner.init(Key.from_seed(0)), schedule=Schedule(steps=2, private=PRIVATE))
    before = torch.random.get_rng_state()
    learner.fit([Job(work, data, Keys(Key.from_seed(0), derived_secret(Key.from_seed(0))))])
    assert torch.equal(before, torch.random.get_rng_state())
