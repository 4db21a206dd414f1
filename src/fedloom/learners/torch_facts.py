"""From a module to what the choice of its route depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from fedloom.learners.models import Activation
from fedloom.learners.torch_flat import FlatModule
from fedloom.learners.torch_perceptron import Perceptron
from fedloom.learners.torch_planner import BlockChoice, Choice, Facts, choose
from fedloom.learners.torch_training import Task
from fedloom.learners.torch_vmap import why_not_stacked

_NAMES: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.GELU: "gelu"}


def route_of(task: Task, space: FlatModule, wanted: BlockChoice, *, columns: int) -> tuple[Choice, Perceptron | None]:
    """Return how a module is trained, and the module as a perceptron where that is how.

    Raises:
        ComponentError: When the route that is wanted cannot work.
    """
    found = perceptron_of(space.module, task)
    facts = Facts(
        parameters=space.trained,
        device="cpu" if space.device.type == "cpu" else "cuda",
        slow_stacked=_slow_stacked(space.module),
        not_mlp=found if isinstance(found, str) else "",
        not_stacked=lambda: why_not_stacked(task, space, columns=columns),
    )
    choice = choose(facts, wanted)
    if choice.route != "mlp":
        return choice, None
    assert isinstance(found, Perceptron), "the planner takes mlp for perceptrons alone"
    return choice, found


def perceptron_of(module: nn.Module, task: Task) -> Perceptron | str:
    """Return what a module is as a perceptron, or why it is none."""
    objective, inputs = task.objective, task.inputs
    if not isinstance(objective.loss, str):
        return "its loss is a function, and gradients by hand are for cross_entropy, bce and mse"
    if task.optimizer is not None:
        return "an optimizer of torch.optim steps one client at a time"
    if inputs.named or inputs.parts[0].columns is not None:
        return "it has several inputs, and gradients by hand are for one"
    parts = list(module) if type(module) is nn.Sequential else [module]
    if parts and type(parts[0]) is nn.Flatten and (parts[0].start_dim, parts[0].end_dim) == (1, -1):
        parts = parts[1:]
    elif len(inputs.parts[0].shape) != 1:
        return "it takes rows of another shape than flat, and does not flatten them first"
    linear, between = parts[0::2], parts[1::2]
    if len(parts) % 2 == 0 or not all(type(part) is nn.Linear for part in linear):
        return "it is no nn.Sequential of linear layers with one activation between each two"
    odd = [part for part in between if type(part) not in _NAMES or getattr(part, "approximate", "none") != "none"]
    if odd:
        return f"it has {type(odd[0]).__name__} between layers, and gradients by hand know ReLU, Tanh and GELU"
    if len({id(part) for part in linear}) < len(linear) or any(part._forward_hooks for part in parts):
        return "its layers are shared or hooked"
    if not all(parameter.requires_grad for parameter in module.parameters()):
        return "it has frozen layers"
    layers = cast("Sequence[nn.Linear]", linear)
    return Perceptron(
        widths=(layers[0].in_features, *(layer.out_features for layer in layers)),
        activations=tuple(_NAMES[type(part)] for part in between),
        biases=tuple(layer.bias is not None for layer in layers),
        loss=objective.loss,
    )


def _slow_stacked(module: nn.Module) -> str:
    """Return the kind of layers that a CPU computes best one client at a time, empty for none."""
    parts = list(module.modules())
    if any(isinstance(part, nn.modules.conv._ConvNd) for part in parts):
        return "convolutions"
    return "recurrent layers" if any(isinstance(part, nn.RNNBase) for part in parts) else ""
