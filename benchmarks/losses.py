"""The loss that all contestants are compared by: ours, in float64, of parameters that each of them hands over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from workloads import IMAGE, Ints, Params, Rows

Doubles: TypeAlias = npt.NDArray[np.float64]

TOLERANCE = {"linear": 1e-3, "mlp": 1e-3, "cnn": 5e-3}
"""Largest difference between the losses of contestants who have done the same work."""
MOVED = {"linear": 0.02, "mlp": 0.05, "cnn": 0.2}
"""Largest difference, relative, between the distances their parameters have moved.

All start from the same parameters, train the same cohorts and shuffle for themselves. Two shuffles of the PyTorch loop
differ in the distance by 0.03 % (W1, W4), 0.6 % (W3, and all three with log-normal sizes: up to 1 %) and 1 to 8 % (W2);
half the learning rate, or twice the epochs, by half or more. W2 hardly learns in ten rounds: there the loss alone would
tell nothing, and two shuffles differ by 1e-3.
"""
_CNN_STRIDE = 5
"""The loss of a convolutional network is of every fifth row: of all rows it would take longer than the contest."""
_PASS = 2048
_CNN_PASS = 25
"""Rows of a pass: the unfolded images of 25 take 31 MB."""


def mean_loss(params: Params, rows: Rows) -> float:
    """Return the mean loss over all rows (of a convolutional network over every fifth), in float64."""
    model = rows.workload.model
    logits, size = _LOGITS[model], _CNN_PASS if model == "cnn" else _PASS
    step = _CNN_STRIDE if model == "cnn" else 1
    features, labels = rows.features[::step], rows.labels[::step]
    doubles = {name: leaf.astype(np.float64) for name, leaf in params.items()}
    total = 0.0
    for first in range(0, len(labels), size):
        x = features[first : first + size].astype(np.float64)
        total += _summed(logits(doubles, x), labels[first : first + size])
    return total / len(labels)


def distance(params: Params, start: Params) -> float:
    """Return how far parameters are from where they started."""
    squares = [float(np.square(params[name].astype(np.float64) - leaf).sum()) for name, leaf in start.items()]
    return float(np.sqrt(sum(squares)))


def _summed(z: Doubles, y: Ints) -> float:
    if z.shape[1] == 1:
        return float((np.logaddexp(0.0, z[:, 0]) - y * z[:, 0]).sum())
    return float((np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]).sum())


def _linear(params: dict[str, Doubles], x: Doubles) -> Doubles:
    return x @ params["coef"].T + params["intercept"]


def _mlp(params: dict[str, Doubles], x: Doubles) -> Doubles:
    hidden = np.maximum(x @ params["0.weight"].T + params["0.bias"], 0.0)
    return hidden @ params["2.weight"].T + params["2.bias"]


def _cnn(params: dict[str, Doubles], x: Doubles) -> Doubles:
    images = x.reshape(len(x), *IMAGE)
    for layer in ("0", "3"):
        images = _pooled(np.maximum(_convolved(images, params[f"{layer}.weight"], params[f"{layer}.bias"]), 0.0))
    hidden = np.maximum(images.reshape(len(x), -1) @ params["7.weight"].T + params["7.bias"], 0.0)
    return hidden @ params["9.weight"].T + params["9.bias"]


def _convolved(images: Doubles, weight: Doubles, bias: Doubles) -> Doubles:
    """Return 5 x 5 convolutions of images ``(n, channels, height, width)`` that keep their size."""
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    n, _, height, width = images.shape
    unfolded = patches.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
    found = unfolded @ weight.reshape(len(weight), -1).T + bias
    return found.reshape(n, height, width, len(weight)).transpose(0, 3, 1, 2)


def _pooled(images: Doubles) -> Doubles:
    n, channels, height, width = images.shape
    return images.reshape(n, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))


_LOGITS: dict[str, Callable[[dict[str, Doubles], Doubles], Doubles]] = {"linear": _linear, "mlp": _mlp, "cnn": _cnn}
