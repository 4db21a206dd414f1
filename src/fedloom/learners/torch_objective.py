"""What a torch model minimises at a client: mean loss of a batch, and a penalty on its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedloom.core.data import LABEL
from fedloom.core.params import ParamSpec, Vector
from fedloom.learners.figures import Rows
from fedloom.learners.linear_loss import LOGISTIC, SOFTMAX, SQUARED
from fedloom.learners.torch_inputs import Inputs

LossName = Literal["cross_entropy", "bce", "mse"]
LossFunction: TypeAlias = Callable[[Any, Any], Any]
Tensors: TypeAlias = Mapping[str, torch.Tensor]
"""A batch: what the model is given of its rows by name, and ``label``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Mean loss of rows, by name or by a function, plus ``l2/2 |w|^2`` over weights of two dimensions or more."""

    loss: LossName | LossFunction
    whole: bool
    """The function takes module and batch, in place of outputs and targets."""
    outputs: int
    """Logits of a row."""
    classes: int | None
    """None for regression."""
    class_weights: Vector | None
    l2: float
    penalise_biases: bool

    def penalised(self, layout: ParamSpec) -> Vector:
        """Return True at the coordinates under the penalty."""
        return layout.mask(lambda leaf: leaf.kind == "parameter" and (len(leaf.shape) > 1 or self.penalise_biases))

    def penalty(self, params: Vector, mask: Vector) -> float:
        """Return ``l2/2 |w|^2`` over the penalised coordinates."""
        if not self.l2:
            return 0.0
        penalised = params[mask].astype(np.float64)
        return self.l2 / 2 * float(penalised @ penalised)

    def mean_loss(self, module: nn.Module, batch: Tensors, inputs: Inputs, weights: torch.Tensor | None) -> Any:
        """Return the mean loss of a batch, each row weighted by its class: a scalar that can be differentiated."""
        if self.whole:
            assert not isinstance(self.loss, str)
            return self.loss(module, batch).mean()
        return self.of_outputs(inputs.call(module, batch), batch[LABEL], weights)

    def of_outputs(self, outputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> Any:
        """Return the mean loss of outputs: the sum over rows, each weighted by its class, over their number."""
        match self.loss:
            case "cross_entropy":
                if weights is None:
                    return functional.cross_entropy(outputs, labels)
                return functional.cross_entropy(outputs, labels, weight=weights, reduction="sum") / len(labels)
            case "bce":
                of_rows = None if weights is None else weights[labels]
                return functional.binary_cross_entropy_with_logits(
                    outputs.reshape(-1), labels.to(outputs.dtype), weight=of_rows
                )
            case "mse":
                return functional.mse_loss(outputs.reshape(-1), labels)
            case function:
                assert not isinstance(function, str)
                return function(outputs, labels).mean()

    def losses(self, rows: Rows, means: Sequence[tuple[int, float]]) -> tuple[Vector, Vector]:
        """Return the loss of each row, and the same weighted by class.

        Args:
            rows: Logits and labels, in float64.
            means: For a loss that is a function: rows and mean loss of each batch that was evaluated. Only the mean is
                known, so the rows of a batch share it.
        """
        if not isinstance(self.loss, str):
            each = np.concatenate([np.full(count, mean) for count, mean in means])
            return each, each
        trace = np.empty((2, 1, len(rows.labels)))
        kind = {"cross_entropy": SOFTMAX, "bce": LOGISTIC, "mse": SQUARED}[self.loss]
        kind.residual(rows.logits[None].copy(), rows.labels[None], np.ones((1, len(rows.labels))), trace)
        each = kind.losses(trace)[0]
        if self.loss == "mse":
            return 2 * each, 2 * each
        return each, each if self.class_weights is None else each * self.class_weights[rows.labels]
