"""P0: the plain PyTorch loop over clients that federated learning is usually prototyped with.

One thread and tensors beforehand; for each client a deep copy of the model, ``optim.SGD``, shuffled index batches,
``zero_grad``, ``backward``, ``step``, and a running mean of the state dict. There is no DataLoader: it would triple the
time of these rounds, and nobody would be the wiser. Importing this module imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from workloads import IMAGE, LEARNING_RATE, Params, Task, Workload

_LINEAR_NAMES = {"weight": "coef", "bias": "intercept"}


class TorchLoop:
    """A module, its clients and its rounds."""

    name = "P0"

    def __init__(self, task: Task, *, seed: int = 3) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        rows, workload = task.rows, task.rows.workload
        self.batch = workload.batch
        self.model = module_of(workload)
        load(self.model, task.start)
        self._loss = loss_of(workload)
        # Views of the same memory: no client's rows exist twice.
        features, labels = tensors_of(workload, rows.features, rows.labels)
        sizes = rows.sizes.tolist()
        self._clients = list(zip(features.split(sizes), labels.split(sizes), strict=True))

    def round(self, cohort: Sequence[int]) -> None:
        """Train every client of the cohort from the common model, and take the weighted mean of their state dicts."""
        mean: dict[str, Any] = {name: torch.zeros_like(value) for name, value in self.model.state_dict().items()}
        seen = 0
        for index in cohort:
            x, y = self._clients[index]
            local = self._trained(x, y)
            seen += len(y)
            for name, value in local.state_dict().items():
                mean[name].lerp_(value, len(y) / seen)
        self.model.load_state_dict(mean)

    def params(self) -> Params:
        """Return the model's parameters by the names of the task's start."""
        return params_of(self.model)

    def _trained(self, x: Any, y: Any) -> Any:
        local = copy.deepcopy(self.model)
        optimizer = torch.optim.SGD(local.parameters(), lr=LEARNING_RATE)
        order = torch.randperm(len(y))
        for batch in order.split(self.batch):
            optimizer.zero_grad()
            loss = self._loss(local(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        return local


def module_of(workload: Workload) -> Any:
    """Return the workload's model as a module."""
    outputs = workload.outputs
    match workload.model:
        case "linear":
            return nn.Linear(workload.features, outputs)
        case "mlp":
            return nn.Sequential(nn.Linear(workload.features, 200), nn.ReLU(), nn.Linear(200, outputs))
        case "cnn":
            return nn.Sequential(
                nn.Conv2d(IMAGE[0], 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, outputs),
            )  # fmt: skip


def load(model: Any, params: Params) -> None:
    """Put parameters into a module."""
    short = {own: name for name, own in _LINEAR_NAMES.items()}
    model.load_state_dict({short.get(name, name): torch.from_numpy(leaf.copy()) for name, leaf in params.items()})


def params_of(model: Any) -> Params:
    """Return a module's parameters as arrays, by the names of the task's start."""
    return {_LINEAR_NAMES.get(name, name): leaf.detach().numpy().copy() for name, leaf in model.state_dict().items()}


def tensors_of(workload: Workload, features: Any, labels: Any) -> tuple[Any, Any]:
    """Return arrays as the tensors that model and loss take: features as a view."""
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    if workload.model == "cnn":
        x = x.view(-1, *IMAGE)
    return x, y.float() if workload.outputs == 1 else y


def loss_of(workload: Workload) -> Any:
    """Return the mean loss of a batch as a function of outputs and labels."""
    return _logistic if workload.outputs == 1 else functional.cross_entropy


def _logistic(logits: Any, labels: Any) -> Any:
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
