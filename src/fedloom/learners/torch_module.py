"""The learner of PyTorch modules by name: what an experiment says of it. Nothing here imports torch until it builds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fedloom.core.component import Recipe, component
from fedloom.core.data import Schema
from fedloom.core.learner import Capabilities, LearnerBuilder
from fedloom.core.params import Dtype
from fedloom.errors import ComponentError, DataError, MissingExtra
from fedloom.learners.torch_planner import BlockChoice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedloom.learners.torch_learner import TorchLearner
    from fedloom.learners.torch_objective import Objective

LossName = Literal["cross_entropy", "bce", "mse"]
if TYPE_CHECKING:
    Model: TypeAlias = Recipe[Any] | nn.Module
    Loss: TypeAlias = "LossName | Callable[[Any, Any], Any] | ModuleLoss"
    TorchOptimizer: TypeAlias = str | Callable[..., Any]
else:  # what a file can say; the rest exists in Python only
    Model = Recipe[Any]
    Loss = LossName | None
    TorchOptimizer = str
_LOSSES = ("cross_entropy", "bce", "mse")
_BLOCKS = ("auto", "loop", "mlp", "vmap")


@dataclass(frozen=True, slots=True)
class ModuleLoss:
    """A loss of module and batch, for what needs more than outputs and targets.

    The function is called with the module and a mapping of names to tensors: the model's inputs (``features``, or the
    names of ``inputs``) and ``label``. It returns the mean loss of the batch, or a loss a row.
    """

    function: Callable[[Any, Mapping[str, Any]], Any]


@component("fedloom.learners", "torch")
def torch_module(
    model: Model,
    *,
    loss: Loss = "cross_entropy",
    l2: float = 0.0,
    penalise_biases: bool = False,
    class_weight: Mapping[str, float] | None = None,
    optimizer: TorchOptimizer | None = None,
    optimizer_arguments: Mapping[str, float | int | bool] | None = None,
    shape: Sequence[int] | None = None,
    inputs: Mapping[str, Sequence[str]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    task: Literal["classification", "regression"] | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    block: BlockChoice = "auto",
) -> LearnerBuilder:
    """Any ``nn.Module``, trained at one client after the other or at a block of clients at once.

    The vector of the model holds its trained parameters, then its floating buffers (batch normalisation's statistics).
    Parameters that are frozen are in no vector, and have the values that the model's builder gives them; integer
    buffers are local, and begin afresh every round. While it trains, a module has torch's generator seeded by client
    and round, so dropout repeats.

    Args:
        model: A ready-made model (``fl.models.mlp([64])``), or what a function marked
            ``@component("fedloom.models")`` returns: a site can build those by name. Its arguments ``inputs``,
            ``shape``, ``outputs`` and ``classes`` are filled from the agreed schema where they are None. In Python
            also a module itself, for simulation: it is copied, and its numbers are the start.
        loss: "cross_entropy" (a logit a class), "bce" (one logit, two classes) or "mse" (regression); in Python also
            a function of outputs and targets, or a ``ModuleLoss``, which give a mean or a loss a row.
        l2: Penalty ``l2/2 |w|^2`` beside the mean loss, on parameters of two dimensions or more.
        penalise_biases: Put the penalty on parameters of one dimension as well: biases, and scales of normalisation.
        class_weight: Weight of each row's loss by class name; a class left out has 1. The mean still divides by rows.
        optimizer: Name of a class of ``torch.optim`` for local steps, where no optimizer of the schedule will do; in
            Python also the class, or a function of parameters and ``lr``. Its state begins afresh every round.
        optimizer_arguments: Passed to it, beside the learning rate of the schedule.
        shape: Shape in which the model takes a row: ``[1, 28, 28]`` for an image of 784 columns.
        inputs: Of a model with several inputs: names of its keyword arguments, each with its columns; ``*`` in the
            name of a column stands for any text.
        shapes: Shape of each of these inputs; a flat row where none is given.
        task: What a loss of your own is about, and so which figures are computed: "classification" unless said.
        dtype: Type of parameters and local arithmetic.
        device: "cpu", "cuda", "cuda:1", or "auto": CUDA where there is one.
        block: How clients are trained. "loop": one after the other. "mlp": linear layers with activations between them,
            some clients at once, by gradients written out. "vmap": some clients at once, by ``torch.func``; for modules
            that draw nothing, keep no statistics and treat each row by itself. "auto" chooses by the model and the kind
            of device; a run's notes say what and why.

    Raises:
        ComponentError: When arguments exclude each other or are outside their range, or CUDA is not there; when the
            schema is agreed: a ``block`` that cannot work for this model, with the reason.
        MissingExtra: When torch is not installed; when the schema is agreed.
        DataError: When the schema is agreed: labels that the loss cannot take, or a model that does not fit a row or
            the loss; shapes are named.

    Example:
        >>> from fedloom.learners import models
        >>> torch_module(models.mlp([32])).task
        'classification'
    """
    _check(loss, l2=l2, class_weight=class_weight, task=task, device=device)
    if block not in _BLOCKS:
        raise ComponentError(f"torch(block={block!r}): expected one of {', '.join(map(repr, _BLOCKS))}")
    if inputs is not None and shape is not None:
        raise ComponentError("torch(shape=..., inputs=...): with several inputs their shapes stand in `shapes`")
    if unknown := sorted(set(shapes or ()) - set(inputs or ())):
        raise ComponentError(f"torch(shapes=...): no input is called {', '.join(unknown)}; `inputs` names them")
    if optimizer_arguments and optimizer is None:
        raise ComponentError("torch(optimizer_arguments=...): there is no `optimizer` to pass them to")
    about = _task(loss, task)

    def build(schema: Schema) -> TorchLearner:
        _import_torch()
        from fedloom.learners.torch_check import check_model
        from fedloom.learners.torch_facts import route_of
        from fedloom.learners.torch_flat import layout_of
        from fedloom.learners.torch_inputs import inputs_of
        from fedloom.learners.torch_learner import BUILD_KEY, Spaces, TorchLearner, may_draw
        from fedloom.learners.torch_private import why_not_private
        from fedloom.learners.torch_process import one_thread, seeded
        from fedloom.learners.torch_training import Task

        where = _device(device)
        objective = _objective(
            schema, loss, l2=l2, penalise_biases=penalise_biases, class_weight=class_weight, about=about, dtype=dtype
        )
        taken = inputs_of(schema, shape=shape, inputs=inputs, shapes=shapes or {}, dtype=dtype, device=where)
        sizes: dict[str, object] = {"outputs": objective.outputs}
        if objective.classes is not None:
            sizes["classes"] = objective.classes
        if inputs is None:
            sizes |= {"inputs": len(schema.columns), "shape": None if shape is None else tuple(shape)}

        def start() -> nn.Module:
            return _module(model, sizes).to(where, _torch_dtype(dtype))

        with seeded(BUILD_KEY, where):
            module = start()
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise DataError("the model has no parameters to train: all are frozen, or there are none")
        layout = layout_of(module)
        made = Task(
            inputs=taken,
            objective=objective,
            penalised=objective.penalised(layout),
            optimizer=_optimizer(optimizer, optimizer_arguments or {}),
        )
        spaces = Spaces(module)
        with one_thread(), seeded(BUILD_KEY, where), spaces.taken() as space:
            check_model(made, space, columns=len(schema.columns))
            choice, perceptron = route_of(made, space, block, columns=len(schema.columns))

        def not_private() -> str:
            with one_thread(), seeded(BUILD_KEY, where), spaces.taken() as space:
                return why_not_private(made, space, columns=len(schema.columns))

        exact = where.type == "cpu" and choice.route != "vmap"
        return TorchLearner(
            task=made,
            spaces=spaces,
            start=start,
            layout=layout,
            dtype=dtype,
            device=where,
            draws=may_draw(module, known_loss=isinstance(loss, str)),
            choice=choice,
            perceptron=perceptron,
            capabilities=Capabilities(
                linear=True,
                prox=True,
                gradient=True,
                private=True,
                not_private=not_private,
                block="same bytes" if exact else "close",
                deterministic=where.type == "cpu",
            ),
        )

    return LearnerBuilder(build, about)


def _check(loss: object, *, l2: float, class_weight: Mapping[str, float] | None, task: str | None, device: str) -> None:
    if isinstance(loss, str) and loss not in _LOSSES:
        raise ComponentError(f"torch(loss={loss!r}): expected one of {', '.join(map(repr, _LOSSES))}")
    if not isinstance(loss, str | ModuleLoss) and not callable(loss):
        raise ComponentError(f"torch(loss={loss!r}): expected a name or a function of outputs and targets")
    if isinstance(loss, str) and task not in (None, _task(loss, None)):
        raise ComponentError(f"torch(task={task!r}): loss = {loss!r} is about {_task(loss, None)}")
    if not 0 <= l2 < math.inf:
        raise ComponentError(f"torch(l2={l2}): expected a number from 0")
    if class_weight is not None and loss not in ("cross_entropy", "bce"):
        raise ComponentError("torch(class_weight=...): only the losses cross_entropy and bce weight rows by class")
    if device not in ("cpu", "cuda", "auto") and not device.removeprefix("cuda:").isdigit():
        raise ComponentError(f'torch(device={device!r}): expected "cpu", "cuda", "cuda:0" or another number, or "auto"')


def _task(
    loss: object, task: Literal["classification", "regression"] | None
) -> Literal["classification", "regression"]:
    return task or ("regression" if loss == "mse" else "classification")


def _import_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the torch learner", extra="torch") from error


def _objective(
    schema: Schema,
    loss: Loss,
    *,
    l2: float,
    penalise_biases: bool,
    class_weight: Mapping[str, float] | None,
    about: Literal["classification", "regression"],
    dtype: Dtype,
) -> Objective:
    from fedloom.learners.linear import _class_weights
    from fedloom.learners.torch_objective import Objective

    classes = schema.classes
    named = f"loss = {loss!r}" if isinstance(loss, str) else f'task = "{about}"'
    if about == "regression" and classes is not None:
        raise DataError(f"{named} predicts numbers; the labels are the classes {list(classes)}. Choose another loss")
    if about == "classification" and (classes is None or len(classes) < 2):
        found = "no agreed classes" if classes is None else f"the classes {list(classes)}"
        raise DataError(
            f'{named} needs two classes or more; the data have {found}. Add [[prepare]] name = "label_set", declare '
            'the classes with the data, or choose loss = "mse" for numbers'
        )
    if loss == "bce" and classes is not None and len(classes) != 2:
        raise DataError(f'loss = "bce" is for two classes; the data have {list(classes)}. Use loss = "cross_entropy"')
    return Objective(
        loss=loss.function if isinstance(loss, ModuleLoss) else loss,
        whole=isinstance(loss, ModuleLoss),
        outputs=1 if classes is None or loss == "bce" else len(classes),
        classes=None if classes is None else len(classes),
        class_weights=None if classes is None else _class_weights(class_weight, classes, dtype),
        l2=l2,
        penalise_biases=penalise_biases,
    )


def _module(model: Model, sizes: Mapping[str, object]) -> nn.Module:
    """Return a fresh module: built, or a copy of the one that was given."""
    import torch

    if isinstance(model, Recipe):
        filled = {name: sizes[name] for name in model.open if name in sizes}
        built = model.build(**filled)
    else:
        built = copy.deepcopy(model)
    if not isinstance(built, torch.nn.Module):
        what = f"the model {model.spec.name!r} built" if isinstance(model, Recipe) else "torch(model=...) received"
        raise ComponentError(
            f"{what} a {type(built).__name__}; expected an nn.Module. Mark the function that makes one with "
            '@component("fedloom.models"), and pass what it returns'
        )
    return built


def _device(name: str) -> torch.device:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= there:
        found = f"{there} CUDA devices" if there else "no CUDA device"
        raise ComponentError(
            f'torch(device="{name}"): torch {torch.__version__} finds {found} here. Use "cpu" or "auto"'
        )
    return device


def _torch_dtype(dtype: Dtype) -> torch.dtype:
    import torch

    return torch.from_numpy(np.empty(0, dtype)).dtype


def _optimizer(optimizer: TorchOptimizer | None, arguments: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return a function of parameters and learning rate, tried once."""
    if optimizer is None:
        return None
    import torch

    make: Any = getattr(torch.optim, optimizer, None) if isinstance(optimizer, str) else optimizer
    if isinstance(optimizer, str) and not (isinstance(make, type) and issubclass(make, torch.optim.Optimizer)):
        raise ComponentError(f"torch(optimizer={optimizer!r}): torch.optim has no such class")

    def made(parameters: Any, *, lr: float) -> Any:
        return make(parameters, lr=lr, **arguments)

    try:
        made([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    except (TypeError, ValueError) as error:
        raise ComponentError(
            f"torch(optimizer={optimizer!r}, optimizer_arguments={dict(arguments)}): {error}"
        ) from error
    return made
