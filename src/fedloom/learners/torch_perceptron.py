"""Perceptrons of a block of clients: forward, residual and gradients by hand, in stacked products.

What makes a block equal its clients one by one, bit for bit, on a CPU: stacked products give each slice the bytes of
the slice alone as long as no dimension is one, so products with a dimension of one are multiplied out; a function that
vectors and single numbers compute differently (``tanh``, ``gelu``, ``sigmoid``) sees buffers whose rows are whole
vectors; and everything else rounds once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fedloom.learners.models import Activation
from fedloom.learners.torch_delayed import Delayed, window_steps
from fedloom.learners.torch_objective import LossName
from fedloom.learners.torch_stack import Pieces, Window, padded

_aten: Any = torch.ops.aten
Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptron:
    """Widths, activations and loss: what the products need to know."""

    widths: tuple[int, ...]
    """Of a row, of each hidden layer, and of the logits."""
    activations: tuple[Activation, ...]
    biases: tuple[bool, ...]
    loss: LossName

    @property
    def layers(self) -> int:
        """Number of linear layers."""
        return len(self.widths) - 1


class PerceptronSteps:
    """Activations and gradients of stacked clients in kept memory; ``cut`` makes the views for the first clients."""

    def __init__(self, model: Perceptron, *, clients: int, rows: int, plain: bool, like: torch.Tensor) -> None:
        self.model, self.rows = model, rows
        steps = window_steps(model.widths[0], model.widths[1], rows=rows) if plain and model.layers > 1 else 1
        self.delayed: Delayed | None = None
        if steps > 1 and like.device.type == "cpu":
            self.delayed = Delayed(clients=clients, steps=steps, rows=rows, units=model.widths[1], like=like)
        # A last row of logits or of a hidden layer ends with a whole vector, so none has a tail of its own.
        self.values = [_buffer(like, clients, rows * width) for width in model.widths[1:]]
        self.slopes = [_buffer(like, clients, rows * width) for width in model.widths[1:]]
        kept = [activation == "gelu" for activation in (*model.activations, "none")]
        self.before = [_buffer(like, clients, rows * w) if k else v for w, k, v in zip(
            model.widths[1:], kept, self.values, strict=True)]  # fmt: skip

    @property
    def window(self) -> int | None:
        """Steps that belong together."""
        return None if self.delayed is None else self.delayed.steps

    @property
    def unread(self) -> int:
        """Leading numbers of a client's parameters that the end of the first window writes before they are read."""
        return 0 if self.delayed is None else self.model.widths[0] * self.model.widths[1]

    def begin(self, window: Window) -> None:
        """Begin a window of steps."""
        if self.delayed is not None:
            self.delayed.begin(*self._first(window), window)

    def end(self, window: Window) -> None:
        """End a window: the parameters are then those after its steps."""
        if self.delayed is not None:
            self.delayed.end(*self._first(window), window)

    def _first(self, window: Window) -> tuple[Sequence[torch.Tensor], torch.Tensor | None]:
        """Return weights and bias of the first layer before a window."""
        weights, biases = _layers(self.model, window.params, len(window.counts))
        if window.starts is None:
            return list(weights[0]), biases[0]
        return [start[: self.unread].view(weights[0].shape[1:]) for start in window.starts], biases[0]

    def trace(self, steps: int) -> torch.Tensor:
        """Return memory for the logits of some steps, ``(steps, clients, padded logits)``."""
        logits = self.values[-1]
        return torch.zeros((steps, *logits.shape), dtype=logits.dtype, device=logits.device)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels ``(clients, steps, rows)`` as what residuals are taken to, with one number a logit."""
        like, outputs = self.values[-1], self.model.widths[-1]
        if self.model.loss != "cross_entropy":
            return labels.to(like.dtype)[..., None]
        hot = torch.zeros((*labels.shape, outputs), dtype=like.dtype, device=like.device)
        return hot.scatter_(-1, labels[..., None], 1.0)

    def cut(self, params: Pieces, gradient: Pieces | None, alive: int) -> _Cut:
        """Return the step of the first ``alive`` clients; without a gradient it moves the parameters itself."""
        return _Cut(self, params, gradient, alive)

    def losses(self, trace: torch.Tensor, labels: torch.Tensor) -> Floats:
        """Return the loss of each row, ``(steps, clients, rows)``, of logits as ``trace`` keeps them."""
        outputs = self.model.widths[-1]
        z = trace[..., : self.rows * outputs].double().cpu().numpy().reshape(*trace.shape[:2], self.rows, outputs)
        y = labels.transpose(0, 1).cpu().numpy()
        match self.model.loss:
            case "cross_entropy":
                top = z.max(axis=-1)
                sums = np.add.reduce(np.exp(z - top[..., None]), axis=-1)
                picked = z.reshape(-1, outputs)[np.arange(y.size), y.reshape(-1)].reshape(y.shape)
                entropies: Floats = top + np.log(sums) - picked
                return entropies
            case "bce":
                found: Floats = np.logaddexp(0.0, z[..., 0]) - y * z[..., 0]
                return found
            case "mse":
                squares: Floats = np.square(z[..., 0] - y)
                return squares


class _Cut:
    """One step of the first clients of a block, its views made once."""

    def __init__(self, steps: PerceptronSteps, params: Pieces, gradient: Pieces | None, alive: int) -> None:
        model, rows = steps.model, steps.rows
        self.model, self.alive, self.delayed = model, alive, steps.delayed
        self.flat_values = [each[:alive] for each in steps.values]
        self.flat_before = [each[:alive] for each in steps.before]
        self.flat_slopes = [each[:alive] for each in steps.slopes]
        self.values, self.before, self.slopes = (
            [_rows(each, rows, width) for each, width in zip(flat, model.widths[1:], strict=True)]
            for flat in (self.flat_values, self.flat_before, self.flat_slopes)
        )
        self.slopes_t = [each.transpose(1, 2) for each in self.slopes]
        self.weights, self.biases = _layers(model, params, alive)
        self.weights_t = [each.transpose(1, 2) for each in self.weights]
        self.pulled = None if gradient is None else _layers(model, gradient, alive)
        self.thin = [1 in (before, after) for before, after in zip(model.widths, model.widths[1:], strict=False)]

    def take(
        self, x: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, trace: torch.Tensor, *, step: int
    ) -> None:
        """Take the step of rows ``x``; its logits go to ``trace``.

        Args:
            x: Shape ``(clients, rows, columns)``.
            targets: Of each logit.
            weights: Of each row, ``(clients, rows, 1)``; the learning rate is in them where the parameters move.
            trace: Memory for the logits, ``(clients, padded logits)``.
            step: Its place in the window.
        """
        inputs = [x, *self.values]
        for layer in range(self.model.layers):
            if layer or self.delayed is None:
                self._products(layer, inputs[layer])
            else:
                self.delayed.write_logits(step, self.alive, self.before[0])
            self._activate(layer)
        trace.copy_(self.flat_values[-1])
        self._residual(targets, weights)
        for layer in reversed(range(self.model.layers)):
            if layer:
                self._back(layer)
            if layer or self.delayed is None:
                self._pull(layer, inputs[layer])
            else:
                self.delayed.keep_slopes(step, self.slopes[0])

    def _products(self, layer: int, inputs: torch.Tensor) -> None:
        weight, bias, out = self.weights_t[layer], self.biases[layer], self.before[layer]
        if self.thin[layer]:
            if self.model.widths[layer + 1] == 1:
                out.copy_((inputs * weight.transpose(1, 2)).sum(2, keepdim=True))
            else:
                torch.mul(inputs, weight, out=out)
            if bias is not None:
                out.add_(bias)
        elif bias is None:
            torch.bmm(inputs, weight, out=out)
        else:
            torch.baddbmm(bias, inputs, weight, out=out)

    def _activate(self, layer: int) -> None:
        if layer == self.model.layers - 1:
            return
        match self.model.activations[layer]:
            case "relu":
                self.flat_values[layer].relu_()
            case "tanh":
                self.flat_values[layer].tanh_()
            case "gelu":
                _aten.gelu.out(self.flat_before[layer], out=self.flat_values[layer])

    def _residual(self, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """Write the slope of the loss in the logits."""
        slopes = self.slopes[-1]
        match self.model.loss:
            case "cross_entropy":
                torch.sub(torch.softmax(self.values[-1], 2), targets, out=slopes)
            case "bce":
                torch.sigmoid(self.flat_values[-1], out=self.flat_slopes[-1])
                slopes.sub_(targets)
            case "mse":
                torch.sub(self.values[-1], targets, out=slopes)
                slopes.mul_(2.0)
        slopes.mul_(weights)

    def _back(self, layer: int) -> None:
        """Write the slope in what went into a layer, before its activation."""
        slopes, weight, out = self.slopes[layer], self.weights[layer], self.slopes[layer - 1]
        if not self.thin[layer]:
            torch.bmm(slopes, weight, out=out)
        elif self.model.widths[layer + 1] == 1:
            torch.mul(slopes, weight, out=out)
        else:
            out.copy_((slopes * weight.transpose(1, 2)).sum(2, keepdim=True))
        flat, value = self.flat_slopes[layer - 1], self.flat_values[layer - 1]
        match self.model.activations[layer - 1]:
            case "relu":
                _aten.threshold_backward.grad_input(flat, value, 0.0, grad_input=flat)
            case "tanh":
                _aten.tanh_backward.grad_input(flat, value, grad_input=flat)
            case "gelu":
                _aten.gelu_backward.grad_input(flat, self.flat_before[layer - 1], grad_input=flat)

    def _pull(self, layer: int, inputs: torch.Tensor) -> None:
        """Move the parameters of a layer, or write their gradient."""
        slopes, thin = self.slopes[layer], self.thin[layer]
        if self.pulled is None:
            weight, bias = self.weights[layer], self.biases[layer]
            if thin:
                weight.sub_((slopes * inputs).sum(1).view(weight.shape))
            else:
                weight.baddbmm_(self.slopes_t[layer], inputs, alpha=-1.0)
            if bias is not None:
                bias.sub_(slopes.sum(1, keepdim=True))
            return
        weight, bias = self.pulled[0][layer], self.pulled[1][layer]
        if thin:
            weight.copy_((slopes * inputs).sum(1).view(weight.shape))
        else:
            torch.bmm(self.slopes_t[layer], inputs, out=weight)
        if bias is not None:
            bias.copy_(slopes.sum(1, keepdim=True))


def _layers(model: Perceptron, pieces: Pieces, alive: int) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """Return weights ``(clients, outputs, inputs)`` and biases ``(clients, 1, outputs)`` of the first clients."""
    views = iter(pieces.cut(alive))
    weights: list[torch.Tensor] = []
    biases: list[torch.Tensor | None] = []
    for has_bias in model.biases:
        weights.append(next(views))
        biases.append(next(views)[:, None, :] if has_bias else None)
    return weights, biases


def _buffer(like: torch.Tensor, clients: int, numbers: int) -> torch.Tensor:
    return torch.zeros((clients, padded(numbers)), dtype=like.dtype, device=like.device)


def _rows(flat: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    return flat.as_strided((len(flat), rows, width), (flat.stride(0), width, 1))
