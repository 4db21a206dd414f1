"""Modules of a block of clients stacked by ``torch.func``: one forward and one backward pass for all of them.

The sum of the clients' losses has each client's own gradient at its own parameters. How a stack rounds depends on its
size, so a client in a block is close to the same client alone, and no more.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional

from fedloom.learners.torch_flat import FlatModule
from fedloom.learners.torch_inputs import Inputs
from fedloom.learners.torch_objective import Objective
from fedloom.learners.torch_stack import Pieces, Window
from fedloom.learners.torch_training import Task

Floats: TypeAlias = npt.NDArray[np.float64]
_TRIAL_ROWS = 4
_CLOSE = 1e-3
"""Of the largest slope: what float32 leaves of a gradient that is the same."""


class StackedSteps:
    """Row losses of stacked modules; ``cut`` takes the gradients of the first clients."""

    window, unread = None, 0

    def __init__(
        self, module: nn.Module, task: Task, *, clients: int, rows: int, plain: bool, like: torch.Tensor
    ) -> None:
        del plain
        self.module, self.task = module, task
        self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._shape, self._like = (clients, rows), like

    def begin(self, window: Window) -> None:
        """Do nothing: each step stands by itself."""

    def end(self, window: Window) -> None:
        """Do nothing."""

    def trace(self, steps: int) -> torch.Tensor:
        """Return memory for the losses of each row, ``(steps, clients, rows)``."""
        return torch.zeros((steps, *self._shape), dtype=self._like.dtype, device=self._like.device)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels as they are."""
        return labels

    def cut(self, params: Pieces, gradient: Pieces | None, alive: int) -> _Cut:
        """Return the step of the first ``alive`` clients; without a gradient it moves the parameters itself."""
        return _Cut(self, params.cut(alive), None if gradient is None else gradient.cut(alive), alive)

    def losses(self, trace: torch.Tensor, labels: torch.Tensor) -> Floats:
        """Return the loss of each row, ``(steps, clients, rows)``."""
        del labels
        found: Floats = trace.double().cpu().numpy()
        return found

    def row_losses(
        self, params: Mapping[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sum of the losses of one client's rows, and the losses."""
        losses = _losses(self.module, params, x, labels, self.task)
        return (losses * weights).sum(), losses


class _Cut:
    """One step of the first clients of a block."""

    def __init__(
        self, steps: StackedSteps, leaves: list[torch.Tensor], pulled: list[torch.Tensor] | None, alive: int
    ) -> None:
        self.leaves, self.pulled, self.alive, self.names = leaves, pulled, alive, steps.names
        self._stacked: Any = vmap(steps.row_losses)

    def take(
        self, x: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, trace: torch.Tensor, *, step: int
    ) -> None:
        """Take the step of rows ``x``; the losses of the rows go to ``trace``."""
        del step
        leaves = [leaf.detach().requires_grad_() for leaf in self.leaves]
        params = dict(zip(self.names, leaves, strict=True))
        sums, losses = self._stacked(params, x, targets, weights[..., 0])
        trace.copy_(losses.detach())
        gradients = torch.autograd.grad(sums.sum(), leaves, materialize_grads=True)
        if self.pulled is None:
            torch._foreach_sub_(self.leaves, gradients)
        else:
            torch._foreach_copy_(self.pulled, gradients)


def why_not_stacked(task: Task, space: FlatModule, *, columns: int) -> str:
    """Return why modules cannot be stacked, empty where they can; after what is known, it is tried on four rows."""
    if not isinstance(task.objective.loss, str):
        return "its loss is a function, which cannot leave out the rows that pad a batch"
    if task.optimizer is not None:
        return "an optimizer of torch.optim steps one client at a time"
    if space.size > space.trained:
        return "it has statistics, which change from batch to batch"
    try:
        return _trial(task, space, columns)
    except RuntimeError as error:
        if "randomness" in str(error):
            return "it draws random numbers, which each client draws by itself"
        return _failed(error)
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"torch.func cannot stack it ({type(error).__name__}: {first})"


def _trial(task: Task, space: FlatModule, columns: int) -> str:
    """Compare the losses and gradients of two stacked modules, with drawn parameters, with those of each alone."""
    module = copy.deepcopy(space.module).train()
    kept = [buffer.clone() for buffer in module.buffers()]
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * torch.randn_like(parameter) + 0.1
    rows = np.zeros((2, _TRIAL_ROWS, columns), task.inputs.dtype)
    rows[0, 1::2], rows[1, 2:] = 1, 1
    x = torch.from_numpy(rows).to(task.inputs.device)
    labels = torch.zeros((2, _TRIAL_ROWS), dtype=torch.from_numpy(np.empty(0, task.inputs.label_dtype)).dtype)
    labels[:, 1] = 1
    labels = labels.to(task.inputs.device)
    steps = StackedSteps(module, task, clients=2, rows=_TRIAL_ROWS, plain=True, like=x)
    own = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    stacked = {name: torch.stack([each, 0.5 * each]).requires_grad_() for name, each in own.items()}
    sums, losses = vmap(steps.row_losses)(stacked, x, labels, torch.ones_like(labels, dtype=x.dtype))
    found = torch.autograd.grad(sums.sum(), list(stacked.values()), materialize_grads=True)
    for client, scale in enumerate((1.0, 0.5)):
        single = {name: (scale * each).requires_grad_() for name, each in own.items()}
        alone = _losses(module, single, x[client], labels[client], task)
        first = _losses(module, single, x[client, :1], labels[client, :1], task)
        if not _close(first, alone[:1]):
            return "what it makes of a row depends on the other rows of the batch, and a padded batch has others"
        expected = torch.autograd.grad(alone.sum(), list(single.values()), materialize_grads=True)
        if not (_close(losses[client], alone) and all(map(_close, [each[client] for each in found], expected))):
            return "stacked by torch.func it has other gradients than alone"
    if any(not torch.equal(before, after) for before, after in zip(kept, module.buffers(), strict=True)):
        return "it writes to its buffers"
    return ""


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    largest = float(right.detach().abs().max()) if right.numel() else 0.0
    close: bool = torch.allclose(left, right, rtol=_CLOSE, atol=_CLOSE * largest)
    return close


def _losses(
    module: nn.Module, params: Mapping[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor, task: Task
) -> torch.Tensor:
    """Return the loss of each row of one client."""
    outputs = _outputs(module, params, x, task.inputs)
    return _row_losses(task.objective, outputs, labels)


def _outputs(module: nn.Module, params: Mapping[str, torch.Tensor], x: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    tensors = {
        part.name: (x if part.columns is None else x[:, torch.from_numpy(part.columns).to(x.device)]).reshape(
            -1, *part.shape
        )
        for part in inputs.parts
    }
    if inputs.named:
        called: torch.Tensor = functional_call(module, dict(params), (), tensors)
        return called
    made: torch.Tensor = functional_call(module, dict(params), (tensors[inputs.parts[0].name],))
    return made


def _row_losses(objective: Objective, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    match objective.loss:
        case "cross_entropy":
            return functional.cross_entropy(outputs, labels, reduction="none")
        case "bce":
            return functional.binary_cross_entropy_with_logits(
                outputs.reshape(-1), labels.to(outputs.dtype), reduction="none"
            )
        case "mse":
            return functional.mse_loss(outputs.reshape(-1), labels, reduction="none")
    raise AssertionError("only named losses are stacked")
