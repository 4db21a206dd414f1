"""The modules behind the ready-made models. Importing this module imports torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
_GROUP = 8
"""Channels of a group."""


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, activation: str) -> nn.Sequential:
    """Return linear layers with an activation between each two."""
    widths = [inputs, *hidden]
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def fedavg_cnn(shape: tuple[int, int, int], outputs: int) -> nn.Module:
    """Return two pooled convolutions and two linear layers."""
    channels, height, width = shape
    network = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Linear(512, outputs),
    )
    return _channels_last(network)


class ResidualNetwork(nn.Module):
    """A convolution, three stages of residual blocks, the mean over the image, and a linear layer."""

    def __init__(self, shape: tuple[int, int, int], *, blocks: int, width: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(width // _GROUP, width)
        stages: list[ResidualBlock] = []
        before = width
        for stage in range(3):
            after = width << stage
            stages.append(ResidualBlock(before, after, stride=1 if stage == 0 else 2))
            stages += [ResidualBlock(after, after, stride=1) for _ in range(blocks - 1)]
            before = after
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(before, outputs)
        _channels_last(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``(rows, outputs)`` of images ``(rows, channels, height, width)``."""
        features = self.blocks(functional.relu(self.norm(self.stem(images))))
        return self.head(features.mean(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(after // _GROUP, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(after // _GROUP, after)
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``relu(f(images) + shortcut(images))``."""
        inner = functional.relu(self.norm1(self.conv1(images)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(images))


class CharacterLstm(nn.Module):
    """Embedded characters, LSTM layers, and a linear layer on the last state."""

    def __init__(self, vocabulary: int, *, embedding: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return logits ``(rows, outputs)`` of codes ``(rows, length)``, whole numbers in a floating type."""
        states, _ = self.lstm(self.embed(codes.long()))
        return self.head(states[:, -1])


def _channels_last(network: nn.Module) -> nn.Module:
    """Put the channels of convolutions last in memory: on a CPU pooling is then three times as fast."""
    return network.to(memory_format=torch.channels_last)
