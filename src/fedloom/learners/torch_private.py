"""Sums of clipped gradients of torch modules: a gradient a row by ``torch.func``, a few rows at a time.

Rows go through the module in groups of one size, the last one filled up with rows of zeros that are left out: a row
meets the same kernels whoever else was drawn. (That its place in a group changes no bit of its gradient is how these
kernels behave, and tested; torch does not promise it.) Each gradient is cut towards zero to integers of which the clip
is 2**24, so its norm never grows, and is checked once more on the integers, where the check is exact: what fails it, or
is not finite, adds zero. Sums of them in float64 are exact, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import grad, vmap

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.learner import Job
from fedloom.core.params import Dtype, Vector
from fedloom.core.work import LocalResult
from fedloom.errors import ComponentError
from fedloom.learners.private_training import Integers, train_private
from fedloom.learners.torch_flat import FlatModule, lent
from fedloom.learners.torch_training import Task, class_weights
from fedloom.learners.torch_vmap import StackedSteps, why_not_stacked

_BITS = 24
_MARGIN = 1 - 2.0**-20
_GROUP_BYTES = 16 << 20
"""Gradients that are held at once, in float64."""
_GROUP = 64


def why_not_private(task: Task, space: FlatModule, *, columns: int) -> str:
    """Return why a module's rows cannot be protected one by one, empty where they can; it is tried on a few rows."""
    return _known_reason(task, space) or why_not_stacked(task, space, columns=columns)


def _known_reason(task: Task, space: FlatModule) -> str:
    if space.size > space.trained:
        return "it has statistics, such as those of batch normalisation, that mix the rows of a batch"
    if not isinstance(task.objective.loss, str):
        return "its loss is a function of a batch, and private steps need the loss of each row"
    return (
        "" if task.optimizer is None else "an optimizer of torch.optim takes its gradients from torch, not noised sums"
    )


def fit_private(task: Task, space: FlatModule, job: Job, *, dtype: Dtype) -> LocalResult:
    """Do the local work of one client by private steps, in a module of this thread's own."""
    private = job.work.schedule.private
    assert private is not None, "private steps were asked for"
    if reason := _known_reason(task, space):
        raise ComponentError(f"this model cannot take private steps: {reason}")
    space.load(job.work.start)
    space.module.train()
    penalty = np.where(task.penalised, task.objective.l2, 0.0)
    return train_private(job, rows_of(task, space, job.data, clip=private.clip), penalty=penalty, dtype=dtype)


def rows_of(task: Task, space: FlatModule, data: ClientDataset, *, clip: float) -> TorchRows:
    """Return the rows of a client as sums of clipped gradients."""
    steps = StackedSteps(space.module, task, clients=1, rows=1, plain=True, like=space.flat)
    gradients = vmap(grad(steps.row_losses, has_aux=True), in_dims=(None, 0, 0, 0))
    group = max(1, min(_GROUP, _GROUP_BYTES // (8 * space.trained)))
    return TorchRows(task=task, space=space, data=data, clip=clip, names=steps.names, group=group, gradients=gradients)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchRows:
    """The rows of one client, and the bound on the gradient of each."""

    task: Task
    space: FlatModule
    data: ClientDataset
    clip: float
    names: Sequence[str]
    group: int
    """Rows that go through the module at once."""
    gradients: Any

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.data)

    @property
    def bits(self) -> int:
        """The clip is ``2**bits``."""
        return _BITS

    def clipped(self, params: Vector, rows: Integers | None) -> Integers:
        """Return the sum over rows of their clipped gradients, in integers, laid out as the parameters are."""
        places = np.arange(self.count) if rows is None else rows
        leaves = self._leaves(params)
        total = torch.zeros(self.space.trained, dtype=torch.float64, device=self.space.device)
        for first in range(0, len(places), self.group):
            total += self._whole(leaves, places[first : first + self.group]).sum(0)
        summed: Integers = total.cpu().numpy().astype(np.int64)
        return summed

    def _whole(self, leaves: dict[str, torch.Tensor], places: Integers) -> torch.Tensor:
        """Return the clipped gradient of each row in whole units, ``(rows, d)``."""
        inputs, weights = self.task.inputs, class_weights(self.task.objective, self.space)
        x = np.zeros((self.group, self.data.arrays[FEATURES].shape[1]), inputs.dtype)
        y = np.zeros(self.group, inputs.label_dtype)
        x[: len(places)] = self.data.arrays[FEATURES].take(places, axis=0)
        y[: len(places)] = self.data.arrays[LABEL].take(places)
        labels = torch.from_numpy(y).to(self.space.device)
        each = torch.ones(self.group, dtype=self.space.dtype, device=self.space.device)
        if weights is not None:
            each = weights[labels]
        features = torch.from_numpy(x).to(self.space.device)
        found, _ = self.gradients(leaves, features[:, None], labels[:, None], each[:, None])
        parts = [found[name][: len(places)].reshape(len(places), -1) for name in self.names]
        return _cut(torch.cat(parts, dim=1).double(), self.clip)

    def _leaves(self, params: Vector) -> dict[str, torch.Tensor]:
        """Return the parameters by name, in the shapes of the module."""
        flat = torch.from_numpy(lent(params)).to(self.space.device, self.space.dtype)
        shapes = [parameter.shape for parameter in self.space.parameters]
        parts = flat.split([shape.numel() for shape in shapes])
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, shapes, strict=True)}


def _cut(gradients: torch.Tensor, clip: float) -> torch.Tensor:
    """Turn gradients, in place, into clipped ones cut to whole units of ``clip / 2**24``.

    One that is not finite, or too long for its square, becomes zero.
    """
    length = torch.linalg.vecdot(gradients, gradients).sqrt_()
    whole = gradients.mul_((2.0**_BITS * _MARGIN / length.clamp_min_(clip))[:, None]).trunc_()
    short = torch.linalg.vecdot(whole, whole) <= 2.0 ** (2 * _BITS)
    if not bool(short.all()):
        whole[~short] = 0.0
    return whole
