"""Sums of clipped gradients of linear models, exact, without a gradient a row.

The gradient of a row is an outer product: residual times row, the intercept's 1 included. Its norm is the product of
two norms, so clipping needs one number a row. Both factors are made integers before they meet: the row's direction in
units of 2**-18, and residual times length, clipped, in units of 2**-18 of the clip. Their product over rows is one
matrix product of float64, exact because every partial sum is a whole number below 2**53: it has the same bytes in any
order, on any machine, and adding a row changes it by that row's product alone.

Both factors are cut towards zero, so a norm never grows; numbers before the cut are at most 2**18 (1 - 2**-20) long,
and the few roundings that made them weigh less than that. The norms are checked again on the integers, where the check
is exact: a row that failed it, or that is not finite, adds zero.

Why not round the float sum instead: neighbouring sums would also differ by the rounding of every other row, a bound
that grows with a number of rows that is not public. Here rounding to the noise's grid is all there is to account for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.learner import Job
from fedloom.core.params import Dtype, Vector
from fedloom.core.work import LocalResult
from fedloom.learners.linear_block import LinearModel
from fedloom.learners.private_training import Integers, train_private

_FACTOR_BITS = 18
_UNIT = 2.0**_FACTOR_BITS
_MARGIN = 1 - 2.0**-20
_EXACT_ROWS = 1 << 16
"""Products of 2**36 are exact in float64 over up to 2**17 rows."""
_CHUNK_BYTES = 1 << 20
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRows:
    """The rows of one client, and the bound on the gradient of each."""

    model: LinearModel
    features: Vector
    labels: Vector
    weights: Vector | None
    """Of the loss of each row, by its class; None: 1."""
    clip: float

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.features)

    @property
    def bits(self) -> int:
        """The clip is ``2**bits``."""
        return 2 * _FACTOR_BITS

    def clipped(self, params: Vector, rows: Integers | None) -> Integers:
        """Return the sum over rows of their clipped gradients, in integers, laid out as the parameters are."""
        total = np.zeros(self.model.size, np.int64)
        coef = np.asarray(params, np.float64)
        many = min(_EXACT_ROWS, max(64, _CHUNK_BYTES // (8 * self.model.features)))
        for first in range(0, self.count if rows is None else len(rows), many):
            part = slice(first, first + many) if rows is None else rows[first : first + many]
            weights = None if self.weights is None else _taken(self.weights, part)
            found = self._product(coef, _taken(self.features, part), _taken(self.labels, part), weights)
            total += found.astype(np.int64)
        return total

    def _product(self, params: Vector, x: Vector, labels: Vector, weights: Vector | None) -> Vector:
        model = self.model
        coef, intercept = model.split(params[None])
        squares = np.vecdot(x, x)
        if intercept is not None:
            squares += 1.0
        length = np.sqrt(squares)
        # A dot product for each row by itself: in a product of matrices its bits could depend on the other rows.
        logits = np.vecdot(x[:, None, :], coef)[None]
        if intercept is not None:
            logits += intercept
        each = np.ones(len(x)) if weights is None else weights
        model.loss.residual(logits, labels[None], each[None], np.empty((2, 1, len(x))))
        logits *= length[:, None]
        pull = _cut(logits[0], self.clip)
        direction = _UNIT * _MARGIN / np.maximum(length, _TINY)
        unit = x * direction[:, None]
        np.trunc(unit, out=unit)
        squares = np.vecdot(unit, unit)
        if intercept is not None:
            ones = np.trunc(direction)
            squares += ones * ones
        short = (np.vecdot(pull, pull) <= _UNIT**2) & (squares <= _UNIT**2)
        if not short.all():
            pull[~short], unit[~short] = 0, 0
        total = np.empty(model.size)
        np.matmul(pull.T, unit, out=total[: model.coefficients].reshape(model.outputs, model.features))
        if intercept is not None:
            np.matmul(pull.T, np.where(short, ones, 0.0), out=total[model.coefficients :])
        return total


def fit_private(model: LinearModel, job: Job, *, dtype: Dtype) -> LocalResult:
    """Do the local work of one client by private steps."""
    private = job.work.schedule.private
    assert private is not None, "private steps were asked for"
    penalty = np.zeros(model.size)
    penalty[: model.penalised] = model.l2
    return train_private(job, rows_of(model, job.data, clip=private.clip), penalty=penalty, dtype=dtype)


def rows_of(model: LinearModel, data: ClientDataset, *, clip: float) -> LinearRows:
    """Return the rows of a client as sums of clipped gradients."""
    labels = np.asarray(data.arrays[LABEL], np.int64 if model.loss.classes else np.float64)
    return LinearRows(
        model=model,
        features=np.ascontiguousarray(data.arrays[FEATURES], np.float64),
        labels=labels,
        weights=None if model.class_weights is None else model.class_weights[labels].astype(np.float64),
        clip=clip,
    )


def _taken(array: Vector, part: slice | Integers) -> Vector:
    taken: Vector = array[part] if isinstance(part, slice) else array.take(part, axis=0)
    return taken


def _cut(pull: Vector, clip: float) -> Vector:
    """Return vectors ``(rows, outputs)`` clipped, and cut to whole units of ``clip / 2**18``; NaN stays NaN."""
    length = np.abs(pull[:, 0]) if pull.shape[1] == 1 else np.sqrt(np.vecdot(pull, pull))
    whole: Vector = np.trunc(pull * (_UNIT * _MARGIN / np.maximum(length, clip))[:, None])
    return whole
