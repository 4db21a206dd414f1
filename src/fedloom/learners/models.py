"""Ready-made models by name and size: recipes that the torch learner builds when the schema is agreed.

A size that is left out is taken from the agreed schema: ``inputs`` (numbers of a row), ``shape`` (what the learner
gives the model for a row) and ``outputs`` (a logit a class, or 1). This module imports no torch; a recipe does when it
builds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, cast

from fedloom.core.component import component
from fedloom.errors import ComponentError

Activation = Literal["relu", "tanh", "gelu"]
Model: TypeAlias = Any
"""An ``nn.Module``; a builder marked ``@component("fedloom.models")`` gives its ``Recipe``."""
T = TypeVar("T")


@component("fedloom.models")
def mlp(
    hidden: Sequence[int] = (128, 64),
    *,
    activation: Activation = "relu",
    inputs: int | None = None,
    outputs: int | None = None,
) -> Model:
    """Multilayer perceptron: linear layers with an activation between each two.

    Args:
        hidden: Units of each hidden layer; none is a linear model.
        activation: "relu", "tanh" or "gelu".
        inputs: Numbers of a row.
        outputs: Logits of a row.

    Source: McMahan et al. 2017, arXiv:1602.05629, section 3: ``hidden=[200, 200]`` is their 2NN.

    Example:
        >>> mlp([32]).spec.arguments["hidden"], mlp([32], inputs=4).open
        ([32], ('outputs',))
    """
    _check_sizes("mlp", {"hidden": list(hidden)})
    from fedloom.learners import torch_networks

    return torch_networks.perceptron(_known("mlp", inputs=inputs), hidden, _known("mlp", outputs=outputs), activation)


@component("fedloom.models")
def cnn(*, shape: Sequence[int] | None = None, outputs: int | None = None) -> Model:
    """Two convolutions of 5 x 5 with 32 and 64 channels, each pooled by 2, and a layer of 512: the network of FedAvg.

    Convolutions keep the size of the image (padding 2), as in LEAF.

    Args:
        shape: Channels, height and width of an image; the learner's ``shape``.
        outputs: Logits of a row.

    Source: McMahan et al. 2017, arXiv:1602.05629, section 3; Caldas et al. 2018, arXiv:1812.01097 (padding, and 62
        classes for FEMNIST).

    Example:
        >>> cnn(shape=[1, 28, 28]).open
        ('outputs',)
    """
    from fedloom.learners import torch_networks

    return torch_networks.fedavg_cnn(_image("cnn", shape), _known("cnn", outputs=outputs))


@component("fedloom.models")
def resnet(*, depth: int = 8, width: int = 16, shape: Sequence[int] | None = None, outputs: int | None = None) -> Model:
    """Small residual network for images, with GroupNorm in place of BatchNorm.

    Three stages of ``(depth - 2) / 6`` blocks of two 3 x 3 convolutions, with ``width``, ``2 width`` and ``4 width``
    channels; a group has 8 channels. GroupNorm normalises each row by itself, so nothing of a client's batch statistics
    is averaged.

    Args:
        depth: Weighted layers: 6n + 2.
        width: Channels of the first stage, a multiple of 8.
        shape: Channels, height and width of an image; the learner's ``shape``.
        outputs: Logits of a row.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2 (CIFAR; shortcut: option A there, a 1 x 1 convolution here);
        Hsieh et al. 2020, arXiv:1910.00189, section 5 (GroupNorm for unequal clients).

    Example:
        >>> resnet(depth=14).spec.arguments["width"]
        16
    """
    if depth < 8 or (depth - 2) % 6:
        raise ComponentError(f"resnet(depth={depth}): expected 8, 14, 20, ...: 6n + 2")
    if width < 8 or width % 8:
        raise ComponentError(f"resnet(width={width}): expected a multiple of 8, the channels of a group")
    from fedloom.learners import torch_networks

    return torch_networks.ResidualNetwork(
        _image("resnet", shape), blocks=(depth - 2) // 6, width=width, outputs=_known("resnet", outputs=outputs)
    )


@component("fedloom.models")
def char_lstm(
    vocabulary: int, *, embedding: int = 8, hidden: int = 256, layers: int = 2, outputs: int | None = None
) -> Model:
    """Character model: from a row of character codes to the logits of the next character.

    Args:
        vocabulary: Number of codes; a row holds whole numbers from 0 to ``vocabulary - 1``.
        embedding: Length of the vector of a character.
        hidden: Units of an LSTM layer.
        layers: LSTM layers.
        outputs: Logits of a row.

    Source: McMahan et al. 2017, arXiv:1602.05629, section 3 (Shakespeare: 8, 256, 2).

    Example:
        >>> char_lstm(80).spec.arguments["hidden"]
        256
    """
    _check_sizes("char_lstm", {"vocabulary": vocabulary, "embedding": embedding, "hidden": hidden, "layers": layers})
    from fedloom.learners import torch_networks

    return torch_networks.CharacterLstm(
        vocabulary, embedding=embedding, hidden=hidden, layers=layers, outputs=_known("char_lstm", outputs=outputs)
    )


def _known(model: str, **size: T | None) -> T:
    ((name, value),) = size.items()
    if value is None:
        raise ComponentError(f"{model}({name}=None): the size is not known here; give it")
    return value


def _image(model: str, shape: Sequence[int] | None) -> tuple[int, int, int]:
    if shape is None or len(shape) != 3:
        raise ComponentError(
            f"{model}(shape={shape}): it takes images; give the learner their shape, as shape = [1, 28, 28]: channels, "
            "height, width"
        )
    _check_sizes(model, {"shape": list(shape)})
    return cast("tuple[int, int, int]", tuple(shape))


def _check_sizes(model: str, sizes: Mapping[str, int | list[int]]) -> None:
    for name, size in sizes.items():
        if min(size if isinstance(size, list) else [size], default=1) < 1:
            raise ComponentError(f"{model}({name}={size}): expected 1 or more")
