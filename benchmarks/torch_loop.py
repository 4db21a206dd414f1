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
from torch.nn import functional
from workloads import LEARNING_RATE, Rows, mean_loss


class TorchLoop:
    """A linear module, its clients and its rounds."""

    name = "P0"

    def __init__(self, rows: Rows, *, seed: int = 3) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        workload = rows.workload
        self.rows = rows
        self.batch = workload.batch
        self.model = torch.nn.Linear(workload.features, workload.outputs)
        for parameter in self.model.parameters():
            torch.nn.init.zeros_(parameter)
        self._loss = _logistic if workload.outputs == 1 else functional.cross_entropy
        # Views of the same memory: no client's rows exist twice.
        features, labels = torch.from_numpy(rows.features), torch.from_numpy(rows.labels)
        labels = labels.float() if workload.outputs == 1 else labels
        self._clients = list(zip(features.split(workload.rows), labels.split(workload.rows), strict=True))

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

    def loss(self) -> float:
        """Return the mean loss over all rows of all clients."""
        return mean_loss(self.model.weight.detach().numpy(), self.model.bias.detach().numpy(), self.rows)

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


def _logistic(logits: Any, labels: Any) -> Any:
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
