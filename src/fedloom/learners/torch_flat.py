"""A module whose parameters and statistics are views of one flat buffer.

The vector of a model has, each in the order of the module: its trained parameters, then its floating buffers that are
part of its ``state_dict`` (batch normalisation's running mean and variance), as leaves of kind "statistic". What is
frozen (``requires_grad=False``) is in no vector. Other buffers (counters, non-persistent ones) are local: they start
every time as the module was built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fedloom.core.params import Leaf, ParamSpec, Vector


def layout_of(module: nn.Module) -> ParamSpec:
    """Return the layout of a module's vector."""
    trained = [Leaf(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
    statistics = [Leaf(name, tuple(buffer.shape), "statistic") for name, _, _, buffer in _statistics(module)]
    return ParamSpec((*trained, *statistics))


def vector_of(module: nn.Module) -> Vector:
    """Return the numbers of a module as its vector, a copy."""
    trained = [p.detach() for p in module.parameters() if p.requires_grad]
    numbers = [each.cpu().reshape(-1) for each in (*trained, *(entry[3] for entry in _statistics(module)))]
    vector: Vector = torch.cat(numbers).numpy()
    return vector


class FlatModule:
    """A module of its own, with its numbers in one buffer; used by one thread at a time.

    A convolution whose weight lies channels-last in memory keeps that: ``arranged`` and ``vector`` then permute its
    numbers, where everything else is one copy.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        statistics = list(_statistics(module))
        self.leaves = [*(p.detach() for p in self.parameters), *(entry[3] for entry in statistics)]
        self.trained = sum(p.numel() for p in self.parameters)
        self.size = sum(leaf.numel() for leaf in self.leaves)
        self.in_order = all(leaf.is_contiguous() for leaf in self.leaves)
        self.flat = torch.empty(self.size, dtype=self.dtype, device=self.device)
        """Memory of the module's parameters, then of its statistics."""
        self.views = self._views(self.flat, self.leaves)
        for view, leaf in zip(self.views, self.leaves, strict=True):
            view.copy_(leaf)
        for parameter, view in zip(self.parameters, self.views, strict=False):
            parameter.data = view
        self.weights = self.views[: len(self.parameters)]
        """The parameters as plain tensors: what an update in place writes to."""
        self._statistics = [
            (owner, name, view)
            for (_, owner, name, _), view in zip(statistics, self.views[len(self.parameters) :], strict=True)
        ]
        for owner, name, view in self._statistics:
            owner._buffers[name] = view
        self.gradient_views: list[torch.Tensor] = []
        self._gradients: torch.Tensor | None = None
        self._local = [(owner, name, buffer, buffer.clone()) for owner, name, buffer in _local(module)]

    @property
    def body(self) -> torch.Tensor:
        """The parameters as one tensor."""
        return self.flat[: self.trained]

    def load(self, vector: Vector) -> None:
        """Put the numbers of a vector in the module, and its local buffers back to where they began."""
        source = torch.from_numpy(lent(vector))
        if self.in_order:
            self.flat.copy_(source)
        else:
            for view, leaf in zip(self.views, self._rows(source), strict=True):
                view.copy_(leaf)
        for parameter in self.parameters:
            parameter.grad = None
        for owner, name, view in self._statistics:
            owner._buffers[name] = view
        for owner, name, buffer, start in self._local:
            owner._buffers[name] = buffer
            buffer.copy_(start)

    def arranged(self, vector: Vector) -> torch.Tensor:
        """Return a vector as a tensor in the order of the buffer; read-only."""
        source = torch.from_numpy(lent(vector)).to(self.device, self.dtype)
        if self.in_order:
            return source
        arranged = torch.empty_like(self.flat)
        for view, leaf in zip(self._views(arranged, self.leaves), self._rows(source), strict=True):
            view.copy_(leaf)
        return arranged

    def vector(self) -> Vector:
        """Return the module's numbers as a vector, a copy."""
        for owner, name, view in self._statistics:
            buffer = owner._buffers[name]
            if buffer is not view:  # a module that writes `self.mean = ...` has put another tensor there
                view.copy_(buffer)
                owner._buffers[name] = view
        return self.restored(self.flat)

    def restored(self, arranged: torch.Tensor) -> Vector:
        """Return a tensor in the order of the buffer as a vector, a copy."""
        if self.in_order:
            copy: Vector = arranged.cpu().numpy()
            return copy.copy() if self.device.type == "cpu" else copy
        vector = torch.empty_like(self.flat)
        for leaf, view in zip(self._rows(vector), self._views(arranged, self.leaves), strict=True):
            leaf.copy_(view)
        restored: Vector = vector.cpu().numpy()
        return restored

    def gathered(self) -> torch.Tensor:
        """Return the gradients of the parameters in the order of the buffer: kept memory, written anew each time."""
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.body)
            self.gradient_views = self._views(self._gradients, self.leaves[: len(self.parameters)])
        for view, parameter in zip(self.gradient_views, self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad is not view:
                view.copy_(parameter.grad)
        return self._gradients

    def _views(self, flat: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return leaves in a tensor in the order of the buffer, each with the strides of the module's own."""
        views, start = [], 0
        for leaf in leaves:
            part = flat[start : start + leaf.numel()]
            start += leaf.numel()
            if _channels_last(leaf):
                rows, channels, height, width = leaf.shape
                views.append(part.view(rows, height, width, channels).permute(0, 3, 1, 2))
            else:
                views.append(part.view(leaf.shape))
        return views

    def _rows(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Return the leaves in a tensor in the order of vectors, each row-major."""
        parts = vector.split([leaf.numel() for leaf in self.leaves])
        return [part.view(leaf.shape) for part, leaf in zip(parts, self.leaves, strict=True)]


def _channels_last(leaf: torch.Tensor) -> bool:
    """Return whether a weight lies channels-last by its strides: they decide, also where there is one channel."""
    if leaf.dim() != 4:
        return False
    _, channels, height, width = leaf.shape
    last: bool = leaf.stride() == (height * width * channels, 1, width * channels, channels)
    return last


def _statistics(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, torch.Tensor]]:
    """Yield full name, owner, name and tensor of each floating buffer that is part of the state."""
    for full, owner, name, buffer in _buffers(module):
        if buffer.is_floating_point() and name not in owner._non_persistent_buffers_set:
            yield full, owner, name, buffer


def _local(module: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    for _, owner, name, buffer in _buffers(module):
        if not buffer.is_floating_point() or name in owner._non_persistent_buffers_set:
            yield owner, name, buffer


def _buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, torch.Tensor]]:
    for prefix, owner in module.named_modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                yield f"{prefix}.{name}" if prefix else name, owner, name, buffer


def lent(vector: Vector) -> Vector:
    """Return an array that torch takes without a warning: the same memory, of which torch may only read."""
    if vector.flags.writeable and vector.flags.c_contiguous:
        return vector
    return np.asarray(_Lent(np.ascontiguousarray(vector)))


class _Lent:
    """The memory of an array under the claim that it may be written."""

    def __init__(self, array: Vector) -> None:
        self.array = array
        self.__array_interface__: dict[str, Any] = {
            **array.__array_interface__,
            "data": (array.__array_interface__["data"][0], False),
        }
