"""N0: federated averaging as anyone writes it in numpy, one client after the other, with gradients by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from workloads import LEARNING_RATE, Floats, Ints, Params, Task


class NumpyLoop:
    """A linear model, its clients and its rounds. Layouts and in-place updates are the fastest plain ones we found."""

    name = "N0"

    def __init__(self, task: Task, *, seed: int = 2) -> None:
        workload = task.rows.workload
        self.batch = workload.batch
        self.weight, self.bias = task.start["coef"].copy(), task.start["intercept"].copy()
        self._clients = [task.rows.client(index) for index in range(workload.clients)]
        self._train = _train_logistic if workload.outputs == 1 else _train_softmax
        self._rng = np.random.default_rng(seed)

    def round(self, cohort: Sequence[int]) -> None:
        """Train every client of the cohort from the common model, and move the model by their weighted mean delta."""
        mean_weight, mean_bias = np.zeros_like(self.weight), np.zeros_like(self.bias)
        seen = 0
        for index in cohort:
            x, y = self._clients[index]
            weight, bias = self.weight.copy(), self.bias.copy()
            order = self._rng.permutation(len(y))
            self._train(weight, bias, x, y, [order[i : i + self.batch] for i in range(0, len(y), self.batch)])
            weight -= self.weight
            bias -= self.bias
            seen += len(y)
            share = np.float32(len(y) / seen)
            weight -= mean_weight
            weight *= share
            mean_weight += weight
            mean_bias += share * (bias - mean_bias)
        self.weight += mean_weight
        self.bias += mean_bias

    def params(self) -> Params:
        """Return the parameters by the names of the task's start."""
        return {"coef": self.weight, "intercept": self.bias}


def _train_softmax(weight: Floats, bias: Floats, x: Floats, y: Ints, batches: Sequence[Ints]) -> None:
    for batch in batches:
        rows = x[batch]
        z = rows @ weight.T
        z += bias
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        z[np.arange(len(batch)), y[batch]] -= 1
        z *= np.float32(LEARNING_RATE / len(batch))
        weight -= z.T @ rows
        bias -= z.sum(axis=0)


def _train_logistic(weight: Floats, bias: Floats, x: Floats, y: Ints, batches: Sequence[Ints]) -> None:
    coef = weight[0]
    for batch in batches:
        rows = x[batch]
        z = rows @ coef
        z += bias
        # The sigmoid as (1 + tanh(z / 2)) / 2: no overflow, and one pass.
        z *= np.float32(0.5)
        np.tanh(z, out=z)
        z += np.float32(1)
        z *= np.float32(0.5)
        z -= y[batch]
        z *= np.float32(LEARNING_RATE / len(batch))
        coef -= z @ rows
        bias -= z.sum()
