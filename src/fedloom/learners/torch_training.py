"""Local training and the gradient of one client of a torch model: pure functions of vectors, rows and keys.

Gradients are taken as torch makes them. Where nothing comes between gradient and step, one fused call a tensor moves
the parameters; else the gradients are gathered in one flat buffer and every term of the work is one expression on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.learner import Job
from fedloom.core.metrics import Mean
from fedloom.core.params import Vector
from fedloom.core.schedule import Order, Schedule
from fedloom.core.work import GradientResult, LocalResult, LocalWork
from fedloom.errors import ComponentError
from fedloom.learners.torch_flat import FlatModule
from fedloom.learners.torch_inputs import Inputs
from fedloom.learners.torch_objective import Objective, Tensors

TorchOptimizer: TypeAlias = Callable[..., Any]
"""A class of ``torch.optim``, or a function of parameters and ``lr``."""

_GATHERED_BYTES = 8 << 20
"""Rows that are put in the order of the steps at once."""
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained: how rows are read, what is minimised, and with which steps."""

    inputs: Inputs
    objective: Objective
    penalised: Vector
    """True at the coordinates of the vector under the penalty."""
    optimizer: TorchOptimizer | None


def train(task: Task, space: FlatModule, job: Job) -> LocalResult:
    """Do the local work of one client in a module of this thread's own."""
    work, schedule, count = job.work, job.work.schedule, len(job.data)
    rate = schedule.learning_rate
    assert isinstance(rate, float | int), "schedule.at() has put a number in place of a ramp"
    order = schedule.order(count, job.keys.public)
    space.load(work.start)
    space.module.train()
    step = _Steps(task, space, work, float(rate))
    weights = class_weights(task.objective, space)
    losses = [step.take(batch, weights) for batch in _batches(task.inputs, job.data, order)]
    seen = order.valid.tolist()
    total = float(np.dot(torch.stack(losses).double().cpu().numpy(), seen))
    return LocalResult(
        params=space.vector(),
        lr_sum=order.steps * float(rate),
        steps=order.steps,
        examples=count,
        metrics={"loss": Mean(total, float(sum(seen)))},
    )


def full_gradient(task: Task, space: FlatModule, at: Vector, data: ClientDataset) -> GradientResult:
    """Return gradient and value of the objective over all rows, as the first step over a full batch would take it."""
    space.load(at)
    space.module.train()
    batch = task.inputs.batch(data.arrays[FEATURES], data.arrays[LABEL], slice(0, len(data)))
    with _norms_of_one_row(space.module, len(data)):
        loss = task.objective.mean_loss(space.module, batch, task.inputs, class_weights(task.objective, space))
        loss.backward()
    arranged = torch.zeros_like(space.flat)
    arranged[: space.trained] = space.gathered()
    gradient = space.restored(arranged)
    if task.objective.l2:
        gradient += np.where(task.penalised, task.objective.l2 * np.asarray(at, gradient.dtype), 0)
    value = float(loss.detach()) + task.objective.penalty(at, task.penalised)
    return GradientResult(gradient=gradient, loss=value, examples=len(data))


def class_weights(objective: Objective, space: FlatModule) -> torch.Tensor | None:
    """Return the weight of each class as a tensor beside the parameters."""
    if objective.class_weights is None:
        return None
    return torch.from_numpy(objective.class_weights).to(space.device, space.dtype)


class _Steps:
    """The steps of one client's work, from one batch to the next."""

    def __init__(self, task: Task, space: FlatModule, work: LocalWork, rate: float) -> None:
        self.task, self.space, self.rate = task, space, rate
        self.schedule, self.prox = work.schedule, work.prox
        trained = space.trained
        self.l2: torch.Tensor | None = None
        if task.objective.l2:
            self.l2 = space.arranged(task.penalised * task.objective.l2)[:trained]
        self.linear = None if work.linear is None else space.arranged(work.linear)[:trained]
        self.anchor: torch.Tensor | None = None
        if work.prox:
            self.anchor = space.arranged(work.start if work.anchor is None else work.anchor)[:trained]
        terms = self.l2 is not None or self.linear is not None or self.anchor is not None
        self.fused = work.schedule.plain and not terms and task.optimizer is None
        self.optimizer = _torch_optimizer(task.optimizer, space, work.schedule, rate)
        own = work.schedule.optimizer
        self.moments = None if own is None or own.plain else own.init(space.body.cpu().numpy())

    def take(self, batch: Tensors, weights: torch.Tensor | None) -> torch.Tensor:
        """Take one step; return the mean loss before it."""
        space = self.space
        if self.optimizer is not None:
            return self.optimizer.step(lambda: self._loss_with_terms(batch, weights)).detach()
        if not self.fused:
            loss = self._loss_with_terms(batch, weights)
            if self.moments is None:
                space.body.add_(space.gathered(), alpha=-self.rate)
            else:
                self._own_step(space.gathered())
            return loss
        loss = self._loss(batch, weights)
        held = [(w, p.grad) for w, p in zip(space.weights, space.parameters, strict=True) if p.grad is not None]
        torch._foreach_add_([w for w, _ in held], [gradient for _, gradient in held], alpha=-self.rate)
        return loss

    def _loss(self, batch: Tensors, weights: torch.Tensor | None) -> torch.Tensor:
        """Return the mean loss of a batch; its gradients are then where torch puts them."""
        for parameter in self.space.parameters:
            parameter.grad = None
        objective, module, inputs = self.task.objective, self.space.module, self.task.inputs
        if len(batch[LABEL]) > 1:
            loss = objective.mean_loss(module, batch, inputs, weights)
        else:
            with _norms_of_one_row(module, 1):
                loss = objective.mean_loss(module, batch, inputs, weights)
        loss.backward()
        return loss.detach()

    def _loss_with_terms(self, batch: Tensors, weights: torch.Tensor | None) -> torch.Tensor:
        """Return the mean loss of a batch; its gradients are then in the flat buffer, the terms of the work added."""
        space = self.space
        loss = self._loss(batch, weights)
        self._add_terms(space.gathered())
        for parameter, view in zip(space.parameters, space.gradient_views, strict=True):
            parameter.grad = view
        return loss

    def _add_terms(self, gradient: torch.Tensor) -> None:
        body, schedule = self.space.body, self.schedule
        if self.l2 is not None:
            gradient.addcmul_(self.l2, body)
        if self.linear is not None:
            gradient.add_(self.linear)
        if self.anchor is not None:
            gradient.add_(body - self.anchor, alpha=self.prox)
        if schedule.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
            gradient.mul_((schedule.clip_norm / norm).clamp_max(1.0))
        if schedule.weight_decay:
            gradient.add_(body, alpha=schedule.weight_decay)

    def _own_step(self, gradient: torch.Tensor) -> None:
        """Take a step of the schedule's optimizer: numpy on the same memory where the parameters lie on the CPU."""
        own = self.schedule.optimizer
        assert own is not None
        step, self.moments = own.update(gradient.cpu().numpy(), self.moments)
        self.space.body.add_(torch.from_numpy(step).to(self.space.device), alpha=-self.rate)


def _torch_optimizer(make: TorchOptimizer | None, space: FlatModule, schedule: Schedule, rate: float) -> Any:
    if make is None:
        return None
    if schedule.optimizer is not None:
        raise ComponentError(
            f"the schedule names the optimizer {schedule.optimizer.name!r}, and the learner one of torch; give one"
        )
    return make(space.parameters, lr=rate)


def _batches(inputs: Inputs, data: ClientDataset, order: Order) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the rows of each step, without padding; several steps are gathered at once."""
    features, labels = data.arrays[FEATURES], data.arrays[LABEL]
    if order.rows is None:
        for _ in range(order.steps):
            yield inputs.batch(features, labels, slice(0, len(data)))
        return
    size = order.rows.shape[1]
    many = max(1, _GATHERED_BYTES // max(1, size * features.shape[1] * inputs.dtype.itemsize))
    for first in range(0, order.steps, many):
        rows = order.rows[first : first + many]
        gathered = inputs.batch(features, labels, rows.reshape(-1))
        steps = zip(*(each.split(size) for each in gathered.values()), strict=True)
        for valid, tensors in zip(order.valid[first : first + many].tolist(), steps, strict=True):
            shown = tensors if valid == size else tuple(each[:valid] for each in tensors)
            yield dict(zip(gathered, shown, strict=True))


@contextmanager
def _norms_of_one_row(module: nn.Module, rows: int) -> Iterator[None]:
    """Let batch normalisation use its moving statistics for a batch of one row, which has no spread of its own."""
    norms = [m for m in module.modules() if isinstance(m, _BATCH_NORMS) and m.training] if rows == 1 else []
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
