"""Output perturbation: logistic regression trained to the end without noise, and noise on what comes out.

The baseline beside private steps: one release for any number of steps, but for convex models with a penalty only, and
the noise grows as the penalty falls. A hospital alone can do it; several average what they release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedloom.core.events import DpEvent
from fedloom.core.keys import SecretKey
from fedloom.core.params import Vector
from fedloom.core.private_steps import NoiseGrid, noise_grid
from fedloom.entropy.discrete_noise import discrete_gaussian
from fedloom.errors import ComponentError, DataError, Error

_TOLERANCE = 2.0**-8
"""Gradient that training may leave, as a part of the most that one row can have."""
_ROUNDING = 2.0**-20
"""Part of the sensitivity that covers float64: of the test on the gradient, and of the division by a grid step."""
_MOST_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPerturbation:
    """Logistic regression of two classes on rows of bounded norm, and the noise that covers one row of it.

    Minimises ``1/rows * sum_i log(1 + exp(-s_i w.z_i)) + l2/2 |w|^2`` with ``s_i`` = 1 or -1 and ``z_i`` the features
    of a row and a 1, scaled down to ``norm`` where they are longer. The penalty is on every coordinate, the intercept
    too: the bound needs it.

    One row there or not adds one term, whose gradient is at most ``norm / rows`` long, to an objective that curves by
    ``l2`` at least; so the minimum moves by at most ``norm / (rows l2)``. Training stops at a gradient of at most a
    256th of ``norm / rows``, so each of two neighbours' models is at most ``1/256`` of that bound from its minimum.

    Args:
        norm: Bound on the norm of a row with its 1: a number of the features' scale, fixed beforehand.
        l2: Penalty beside the mean loss.
        rows: The declared, public number of rows; the sum of losses is divided by it, whatever number comes.
        noise_multiplier: Standard deviation of the noise over the bound.

    Guarantee: Neighbouring data differ in one row, there or not; the unit is the row; what is released is one sum with
        integer noise, ``event(dim)``. For random words of the secret.

    Raises:
        ComponentError: When a number is outside its range.

    Source: Chaudhuri, Monteleoni, Sarwate 2011, JMLR 12, Algorithm 1 (output perturbation) with the proof of its
        Corollary 8. There one of n rows is replaced, which moves the minimum by ``2 / (n l2)`` for rows in the unit
        ball; here a row is there or not under a fixed denominator, which moves it by half of that (differs). Noise is
        an integer's discrete Gaussian, not of density ``exp(-b |x|)`` (differs), and the tolerance of training is
        covered, where the paper's bound is of the exact minimum (differs).

    Example:
        >>> OutputPerturbation(norm=2.0, l2=0.01, rows=1000, noise_multiplier=1.0).minimum_moves
        0.2
    """

    norm: float
    l2: float
    rows: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        for name in ("norm", "l2", "noise_multiplier"):
            number = getattr(self, name)
            if not 0 < number < math.inf:
                raise ComponentError(f"output_perturbation: {name} = {number}; expected a number above 0")
        if self.rows < 1:
            raise ComponentError(f"output_perturbation: rows = {self.rows}; expected 1 or more, declared beforehand")

    @property
    def minimum_moves(self) -> float:
        """The most that the minimum moves for one row, in the norm."""
        return self.norm / (self.rows * self.l2)

    @property
    def bound(self) -> float:
        """The most that the trained model moves for one row: what the minimum moves, two tolerances, and rounding."""
        return self.minimum_moves * (1 + 2 * _TOLERANCE + _ROUNDING)

    def grid(self, dim: int) -> NoiseGrid:
        """Return the grid of the release; its clip is ``bound``."""
        return noise_grid(self.noise_multiplier, dim)

    def event(self, dim: int) -> DpEvent:
        """Return what is released about a row, for ``dim`` parameters, the intercept counted."""
        return self.grid(dim).event

    def release(self, features: Vector, labels: Vector, *, secret: SecretKey) -> Vector:
        """Train on the rows and return coefficients and intercept with noise, shape ``(features + 1,)``.

        Args:
            features: Shape ``(n, d)``. Rows that are not finite are left out.
            labels: 0 or 1 for each row.
            secret: Names this one release; a path drawn twice protects nothing.

        Raises:
            DataError: When labels are not 0 and 1.
            Error: When training does not reach its tolerance: nothing is released.
        """
        if not np.isin(labels, (0, 1)).all():
            raise DataError("output_perturbation: labels must be 0 or 1, the indices of two classes")
        signed = _in_ball(features, self.norm) * np.where(labels > 0, 1.0, -1.0)[:, None]
        exact = _minimum(signed, l2=self.l2, rows=self.rows, gradient=_TOLERANCE * self.norm / self.rows)
        grid = self.grid(len(exact))
        step = self.bound / 2.0**grid.bits
        total = np.rint(exact / step).astype(np.int64)
        for draw in range(grid.draws):
            total += discrete_gaussian(secret.child("draw", draw), grid.sigma**2, len(total))
        noised: Vector = total * step
        return noised


def _in_ball(features: Vector, norm: float) -> Vector:
    """Return rows with their 1, scaled down to ``norm`` where they are longer; zero where they are not finite."""
    rows = np.column_stack([np.asarray(features, np.float64), np.ones(len(features))])
    rows[~np.isfinite(rows).all(axis=1)] = 0.0
    largest = np.abs(rows).max(axis=1, initial=1e-300)
    length = np.sqrt(np.square(rows / largest[:, None]).sum(axis=1)) * largest
    shrunk: Vector = rows * np.minimum(1.0, norm * (1 - 2.0**-40) / np.maximum(length, 1e-300))[:, None]
    return shrunk


def _minimum(signed: Vector, *, l2: float, rows: int, gradient: float) -> Vector:
    """Return where the gradient of the objective is at most ``gradient`` long: Newton's steps, halved while they rise.

    Raises:
        Error: When that is not reached.
    """
    w = np.zeros(signed.shape[1])
    for _ in range(_MOST_STEPS):
        margins = signed @ w
        pull = 0.5 * (1.0 - np.tanh(margins / 2))  # 1 / (1 + exp(margin)), without overflow
        slope = l2 * w - signed.T @ pull / rows
        if math.sqrt(float(slope @ slope)) <= gradient:
            return w
        curve = (signed * (pull * (1 - pull))[:, None]).T @ signed / rows + l2 * np.eye(len(w))
        step = np.linalg.solve(curve, slope)
        here, drop, size = _value(signed, w, l2=l2, rows=rows), float(slope @ step), 1.0
        while size > 1e-6 and _value(signed, w - size * step, l2=l2, rows=rows) > here - 1e-4 * size * drop:
            size /= 2
        w = w - size * step
    raise Error(f"output_perturbation: training did not reach a gradient of {gradient:.3g}; nothing is released")


def _value(signed: Vector, w: Vector, *, l2: float, rows: int) -> float:
    return float(np.logaddexp(0.0, -(signed @ w)).sum()) / rows + l2 / 2 * float(w @ w)
