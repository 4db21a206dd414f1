"""One row through a model before round 1: what does not fit is told with the shapes that met."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fedloom.errors import DataError
from fedloom.learners.torch_flat import FlatModule
from fedloom.learners.torch_inputs import Inputs
from fedloom.learners.torch_training import Task, class_weights

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def check_model(task: Task, space: FlatModule, *, columns: int) -> None:
    """Check that a model takes a row, that its outputs fit the loss, and that the loss can be differentiated.

    Raises:
        DataError: When it does not.
    """
    inputs = task.inputs
    batch = inputs.batch(np.zeros((2, columns)), np.zeros(2), slice(0, 2))
    one = {name: tensor[:1] for name, tensor in batch.items()}
    space.module.eval()
    try:
        with torch.no_grad():
            outputs = inputs.call(space.module, one)
    except Exception as error:
        raise _refusal("the model cannot take a row", inputs, one, error) from error
    _check_outputs(task, outputs, inputs.described(one))
    space.module.train()
    try:
        loss = task.objective.mean_loss(space.module, batch, inputs, class_weights(task.objective, space))
    except Exception as error:
        raise _refusal("the loss of two rows cannot be computed", inputs, batch, error) from error
    if not isinstance(loss, torch.Tensor) or loss.dim() != 0 or not loss.requires_grad:
        raise DataError(
            f"the loss of two rows is {_described(loss)}; expected one number, or one a row, that depends on the "
            "model's trained parameters"
        )


def _check_outputs(task: Task, outputs: object, given: str) -> None:
    objective, wanted = task.objective, (1, task.objective.outputs)
    flat = wanted == (1, 1) and isinstance(outputs, torch.Tensor) and tuple(outputs.shape) == (1,)
    if not isinstance(outputs, torch.Tensor) or not (flat or tuple(outputs.shape) == wanted):
        why = {
            "cross_entropy": f"a logit for each of the {objective.classes} classes",
            "bce": "one logit, of the second of two classes",
            "mse": "one predicted number",
        }
        meaning = (
            why[objective.loss] if isinstance(objective.loss, str) else "what accuracy or errors are computed from"
        )
        name = f'loss = "{objective.loss}"' if isinstance(objective.loss, str) else "this loss"
        raise DataError(
            f"the model makes {_described(outputs)} of one row ({given}); {name} expects {wanted}: {meaning}. Change "
            "the last layer or the loss"
        )
    if outputs.dtype != torch.from_numpy(np.empty(0, task.inputs.dtype)).dtype:
        raise DataError(
            f"the model makes outputs of {outputs.dtype}; the learner computes in {task.inputs.dtype}. Return logits "
            "of the type of the inputs, or set the learner's dtype"
        )


def _refusal(what: str, inputs: Inputs, batch: Mapping[str, torch.Tensor], error: Exception) -> DataError:
    return DataError(f"{what} ({inputs.described(batch)}): {type(error).__name__}: {error}{_place(error)}")


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} of shape {tuple(value.shape)}" if value.dim() else f"the number {value.item():.6g}"
    return f"a {type(value).__name__}"


def _place(error: Exception) -> str:
    """Return ``file:line`` of the last frame that is neither torch's nor this package's; empty where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    return f" ({users[-1].filename}:{users[-1].lineno})" if users else ""
