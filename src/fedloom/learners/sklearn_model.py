"""What a scikit-learn estimator computes from its parameters, in NumPy: decisions, losses, probabilities.

Decisions are those of the estimator's ``decision_function`` (the activation before the last one, of a network). They
are computed here and not there because a row's prediction must have the same bytes in any company.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.learners.figures import probabilities
from fedloom.learners.sklearn_losses import Loss, Penalty
from fedloom.learners.sklearn_table import Kind

Product = Callable[[Vector, Vector], Vector]
"""Rows ``(n, in)`` and matrix ``(in, out)`` to ``(n, out)``."""


def _logistic(z: Vector) -> Vector:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _relu(z: Vector) -> Vector:
    return np.maximum(z, 0.0)


ACTIVATIONS: Mapping[str, Callable[[Vector], Vector]] = {
    "identity": lambda z: z,
    "logistic": _logistic,
    "tanh": np.tanh,
    "relu": _relu,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SklearnModel:
    """Shape and objective of an estimator, known from the schema alone."""

    kind: Kind
    classes: int
    """0 for a regression."""
    features: int
    hidden: tuple[int, ...]
    activation: str
    intercept: bool
    loss: Loss
    loss_name: str
    epsilon: float
    penalty: Penalty
    class_weights: Vector | None
    """One per class index, None for 1."""
    dtype: np.dtype[Any]

    @property
    def outputs(self) -> int:
        """Decisions a row: one for two classes and for a number, else one a class."""
        return self.classes if self.classes > 2 else 1

    @property
    def probable(self) -> Literal["direct", "one against rest", "no"]:
        """Whether decisions stand for probabilities: by a softmax or sigmoid, by sigmoids made to add up, or not."""
        if not self.classes or self.loss_name != "log_loss":
            return "no"
        return "direct" if self.kind == "network" or self.classes == 2 else "one against rest"

    @property
    def layout(self) -> ParamSpec:
        """Leaves of the parameters: ``coef`` and ``intercept``, of a network one pair a layer."""
        if self.kind == "linear":
            leaves = (Leaf("coef", (self.outputs, self.features)), Leaf("intercept", (self.outputs,)))
            return ParamSpec(leaves if self.intercept else leaves[:1])
        sizes = (self.features, *self.hidden, self.outputs)
        pairs = [
            (Leaf(f"coef_{layer}", (fan_in, fan_out)), Leaf(f"intercept_{layer}", (fan_out,)))
            for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
        ]
        return ParamSpec(tuple(leaf for pair in pairs for leaf in pair))

    def layers(self, params: Vector) -> list[tuple[Vector, Vector | float]]:
        """Return each layer's matrix ``(in, out)`` and intercepts, as views."""
        leaves = self.layout.unflatten(np.asarray(params, self.dtype))
        if self.kind == "linear":
            return [(leaves["coef"].T, leaves.get("intercept", 0.0))]
        return [(leaves[f"coef_{n}"], leaves[f"intercept_{n}"]) for n in range(len(self.hidden) + 1)]

    def decisions(self, params: Vector, features: Vector, *, product: Product = np.matmul) -> Vector:
        """Return the decisions of rows, shape ``(rows, outputs)``, in the type of the parameters."""
        out = np.ascontiguousarray(features, self.dtype)
        layers = self.layers(params)
        for number, (matrix, intercept) in enumerate(layers):
            out = product(out, matrix) + intercept
            if number < len(layers) - 1:
                out = ACTIVATIONS[self.activation](out)
        return out

    def row_losses(self, decisions: Vector, labels: Vector) -> tuple[Vector, Vector]:
        """Return the loss of each row, and the loss times the weight of its class, both float64."""
        z = decisions.astype(np.float64)
        if not self.classes:
            each = self.loss(z[:, 0], labels.astype(np.float64), self.epsilon)
            return each, each
        if self.classes == 2:
            each = self.loss(z[:, 0], np.where(labels == 1, 1.0, -1.0), self.epsilon)
            return each, each if self.class_weights is None else each * self.class_weights[labels]
        rows = np.arange(len(labels))
        if self.kind == "network":
            each = np.logaddexp.reduce(z, axis=1) - z[rows, labels]
            return each, each
        against = self.loss(z, np.where(np.arange(self.classes) == labels[:, None], 1.0, -1.0), self.epsilon)
        each = against.sum(axis=1)
        if self.class_weights is None:
            return each, each
        # Of the problems "this class against the rest", a row's weight counts in the one where it is positive.
        return each, each + (self.class_weights[labels] - 1.0) * against[rows, labels]

    def logits(self, decisions: Vector) -> Vector:
        """Return logits whose probabilities are those of the estimator, float64; decisions where it has none."""
        z = decisions.astype(np.float64)
        return -np.logaddexp(0.0, -z) if self.probable == "one against rest" else z

    def shares(self, decisions: Vector) -> Vector:
        """Return class probabilities; without any, 1 for the class that is decided for and 0 for the others."""
        if self.probable != "no":
            return probabilities(self.logits(decisions))
        guess = decisions.argmax(axis=1) if self.classes > 2 else (decisions[:, 0] > 0).astype(np.int64)
        sure: Vector = np.eye(self.classes)[guess]
        return sure

    def penalised(self, params: Vector) -> float:
        """Return the penalty of all coefficients, intercepts apart."""
        matrices = [matrix for matrix, _ in self.layers(params)]
        return sum(self.penalty.of(np.ascontiguousarray(matrix).reshape(-1)) for matrix in matrices)

    def scores(self, params: Vector, decisions: Vector) -> Vector:
        """Return decisions of two classes on a scale that all clients share and that suits bins.

        Those of a linear model are divided by the length of its coefficients, those of a network are left as they are.
        """
        z = decisions[:, 0].astype(np.float64)
        if self.kind == "network":
            return z
        ((matrix, intercept),) = self.layers(params)
        spread = float(np.linalg.norm(matrix.astype(np.float64))) or 1.0
        shift = float(intercept[0]) if isinstance(intercept, np.ndarray) else 0.0
        scaled: Vector = (z - shift) / spread
        return scaled

    def start(self, draw: Sequence[np.random.Generator]) -> Vector:
        """Return the parameters before round 1: zeros, of a network uniform draws, one generator a layer.

        Source: Glorot and Bengio 2010, equation 16; the bound for logistic activations is ``sqrt(2 / (in + out))``, and
            intercepts are drawn too (both as in scikit-learn).
        """
        if self.kind == "linear":
            return np.zeros(self.layout.size, self.dtype)
        factor = 2.0 if self.activation == "logistic" else 6.0
        tree: dict[str, Vector] = {}
        sizes = (self.features, *self.hidden, self.outputs)
        for layer, generator in enumerate(draw):
            bound = np.sqrt(factor / (sizes[layer] + sizes[layer + 1]))
            tree[f"coef_{layer}"] = generator.uniform(-bound, bound, (sizes[layer], sizes[layer + 1]))
            tree[f"intercept_{layer}"] = generator.uniform(-bound, bound, sizes[layer + 1])
        return self.layout.flatten(tree).astype(self.dtype)


def by_row(rows: Vector, matrix: Vector) -> Vector:
    """Return the product of rows and a matrix, each number a dot product of its own: the same bytes in any company."""
    found: Vector = np.vecdot(rows[:, None, :], np.ascontiguousarray(matrix.T))
    return found
