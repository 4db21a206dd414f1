"""Local training of a block of linear models in stacked numpy products.

The rule that makes a block equal its clients one by one, bit for bit: every product and every sum of a client has a
shape that depends on that client alone. Batches are padded with rows of weight zero to ``Schedule.batch_rows``; clients
of one padded length form a group; clients with fewer steps leave the group's end early, so no step is wasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.core.data import FEATURES, LABEL
from fedloom.core.learner import Job
from fedloom.core.metrics import Mean
from fedloom.core.params import Vector
from fedloom.core.schedule import Order
from fedloom.core.work import LocalResult
from fedloom.learners.linear_loss import LinearLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModel:
    """Shape and objective of a linear model: what the products need to know."""

    loss: LinearLoss
    outputs: int
    features: int
    intercept: bool
    l2: float
    penalise_intercept: bool
    dtype: np.dtype[Any]
    class_weights: Vector | None
    """One per class index, None for 1."""

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Type of labels: class indices, or numbers like the parameters."""
        return np.dtype(np.int64) if self.loss.classes else self.dtype

    @property
    def coefficients(self) -> int:
        """Number of coefficients; intercepts follow them in the vector."""
        return self.outputs * self.features

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.coefficients + self.outputs * self.intercept

    @property
    def penalised(self) -> int:
        """Number of leading parameters under the penalty."""
        return self.size if self.penalise_intercept else self.coefficients

    def split(self, block: Vector) -> tuple[Vector, Vector | None]:
        """Return coefficients ``(clients, outputs, features)`` and intercepts ``(clients, outputs)`` as views."""
        coef = block[:, : self.coefficients].reshape(len(block), self.outputs, self.features)
        return coef, block[:, self.coefficients :] if self.intercept else None

    def products(self, params: Vector, gradient: Vector, residual: Vector) -> Products:
        """Return the two products of a step, bound to the arrays ``(clients, ...)`` that they read and write."""
        coef, intercept = self.split(params)
        pulled, pulled_intercept = self.split(gradient)
        return Products(
            params=params,
            gradient=gradient,
            residual=residual,
            coef_t=coef.transpose(0, 2, 1),
            intercept=None if intercept is None else intercept[:, None, :],
            pulled=pulled,
            pulled_intercept=pulled_intercept,
            residual_t=residual.transpose(0, 2, 1),
        )

    def row_weights(self, labels: Vector) -> Vector | float:
        """Return the class weight of each label, 1.0 without class weights."""
        return 1.0 if self.class_weights is None else self.class_weights[labels]

    def penalty(self, params: Vector) -> float:
        """Return ``l2/2 |w|^2`` over the penalised parameters."""
        penalised = params[: self.penalised].astype(np.float64)
        return self.l2 / 2 * float(penalised @ penalised)


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Logits and gradient of stacked linear models, as views made once for many steps."""

    params: Vector
    gradient: Vector
    residual: Vector
    coef_t: Vector
    intercept: Vector | None
    pulled: Vector
    pulled_intercept: Vector | None
    residual_t: Vector

    def logits(self, rows: Vector) -> Vector:
        """Write ``x . coef + intercept`` of stacked rows ``(clients, rows, features)`` to ``residual``; return it."""
        np.matmul(rows, self.coef_t, out=self.residual)
        if self.intercept is not None:
            np.add(self.residual, self.intercept, out=self.residual)
        return self.residual

    def pull(self, rows: Vector) -> Vector:
        """Write the gradient of ``sum(residual * logits)`` to ``gradient``; return it."""
        np.matmul(self.residual_t, rows, out=self.pulled)
        if self.pulled_intercept is not None:
            np.add.reduce(self.residual, axis=1, out=self.pulled_intercept)
        return self.gradient


def group_jobs(jobs: Sequence[Job]) -> dict[tuple[object, ...], list[int]]:
    """Return the positions of the jobs that can share one array: one padded length, one set of terms."""
    groups: dict[tuple[object, ...], list[int]] = {}
    numbers: dict[int, tuple[object, ...]] = {}
    for position, job in enumerate(jobs):
        work, schedule, count = job.work, job.work.schedule, len(job.data)
        same = numbers.get(id(schedule))
        if same is None:
            rate, clip, decay = schedule.learning_rate, schedule.clip_norm, schedule.weight_decay
            same = numbers[id(schedule)] = (rate, clip, decay, id(schedule.optimizer))
        full = schedule.batch_size == "full" or schedule.batch_size >= count
        key = schedule.batch_rows(count), full, same, work.prox, work.linear is None, work.anchor is None
        groups.setdefault(key, []).append(position)
    return groups


def advance(model: LinearModel, jobs: Sequence[Job]) -> list[LocalResult]:
    """Do the local work of one group; results in the order of the jobs."""
    orders = _orders(jobs)
    ranked = sorted(range(len(jobs)), key=lambda j: -orders[j].steps)
    results = _Block(model, [jobs[j] for j in ranked], [orders[j] for j in ranked]).run()
    places = {j: place for place, j in enumerate(ranked)}
    return [results[places[j]] for j in range(len(jobs))]


def _orders(jobs: Sequence[Job]) -> list[Order]:
    """Return the order of each job's rows; jobs of one schedule and one number of rows draw theirs together."""
    alike: dict[tuple[int, int], list[int]] = {}
    for j, job in enumerate(jobs):
        alike.setdefault((id(job.work.schedule), len(job.data)), []).append(j)
    orders: dict[int, Order] = {}
    for (_, count), places in alike.items():
        streams = [jobs[j].keys.public for j in places]
        orders.update(zip(places, jobs[places[0]].work.schedule.orders(count, streams), strict=True))
    return [orders[j] for j in range(len(jobs))]


class _Block:
    """Stacked arrays of a group, ordered by falling number of steps."""

    def __init__(self, model: LinearModel, jobs: Sequence[Job], orders: Sequence[Order]) -> None:
        first = jobs[0].work
        dtype, count = model.dtype, len(jobs)
        self.model = model
        self.jobs = jobs
        self.schedule = first.schedule
        self.prox = first.prox
        self.steps = np.array([order.steps for order in orders])
        length = self.schedule.batch_rows(len(jobs[0].data))
        self.params = np.empty((count, model.size), dtype)
        same = all(job.work.start is first.start for job in jobs)
        self.params[:] = first.start if same else _stack([job.work.start for job in jobs], dtype)
        self.linear = None if first.linear is None else _stack([job.work.linear for job in jobs], dtype)
        self.anchor: Vector | None = None
        if self.prox:
            own = first.anchor is None
            self.anchor = self.params.copy() if own else _stack([job.work.anchor for job in jobs], dtype)
        self.batches = (
            _FullBatches(model, jobs, length) if orders[0].rows is None else _Minibatches(model, jobs, orders)
        )
        self.gradient = np.empty((count, model.size), dtype)
        self.residual = np.empty((count, length, model.outputs), dtype)
        self.trace = np.empty((int(self.steps[0]), 2, count, length), dtype)
        # With nothing between gradient and step, the learning rate rides in the residuals: one pass less a step.
        terms = model.l2 or self.prox or self.linear is not None
        self.fused = self.schedule.plain and not terms
        rate = self.schedule.learning_rate
        assert isinstance(rate, float | int), "schedule.at() has put a number in place of a ramp"
        self.rate = float(rate)
        self.weights = self.batches.weights * dtype.type(self.rate) if self.fused else self.batches.weights

    def run(self) -> list[LocalResult]:
        """Take all steps; return one result a job."""
        rate = self.rate
        optimizer = self.schedule.optimizer
        moments = None if self.schedule.plain or optimizer is None else optimizer.init(self.params)
        alive = len(self.jobs)
        steps = self.steps.tolist()
        products = self._products(alive)
        for step in range(steps[0]):
            if steps[alive - 1] <= step:
                while steps[alive - 1] <= step:
                    alive -= 1
                moments = _prefix(moments, alive)
                products = self._products(alive)
            gradient = self._gradient(step, alive, products)
            if not self.fused:
                self._add_terms(gradient, alive)
                if moments is not None and optimizer is not None:
                    gradient, moments = optimizer.update(gradient, moments)
                    gradient = gradient * rate
                else:
                    gradient *= rate
            np.subtract(products.params, gradient, out=products.params)
        return self._results(rate)

    def _products(self, alive: int) -> Products:
        return self.model.products(self.params[:alive], self.gradient[:alive], self.residual[:alive])

    def _gradient(self, step: int, alive: int, products: Products) -> Vector:
        rows, labels = self.batches.at(step, alive)
        weights = self.weights[step % len(self.weights), :alive]
        self.model.loss.residual(products.logits(rows), labels, weights, self.trace[step, :, :alive])
        return products.pull(rows)

    def _add_terms(self, gradient: Vector, alive: int) -> None:
        model, params = self.model, self.params[:alive]
        if model.l2:
            gradient[:, : model.penalised] += model.l2 * params[:, : model.penalised]
        if self.linear is not None:
            gradient += self.linear[:alive]
        if self.anchor is not None:
            gradient += self.prox * (params - self.anchor[:alive])
        if self.schedule.clip_norm is not None:
            norms = np.sqrt(np.matmul(gradient[:, None, :], gradient[:, :, None])[:, :, 0])
            gradient *= np.minimum(1.0, self.schedule.clip_norm / np.maximum(norms, np.finfo(model.dtype).tiny))
        if self.schedule.weight_decay:
            gradient += self.schedule.weight_decay * params

    def _results(self, rate: float) -> list[LocalResult]:
        totals: list[float] = []
        rows_seen: list[float] = []
        start = 0
        while start < len(self.jobs):
            steps = int(self.steps[start])
            stop = int(np.searchsorted(-self.steps, -steps, side="right"))
            weights, rows = self.batches.loss_weights(start, stop, steps)
            mine = self.model.loss.losses(self.trace[:steps, :, start:stop]) * weights
            by_client = np.ascontiguousarray(mine.transpose(1, 0, 2)).reshape(stop - start, -1)
            totals += np.add.reduce(by_client, axis=1).tolist()
            rows_seen += rows.tolist()
            start = stop
        return [
            LocalResult(
                params=params,
                lr_sum=steps * rate,
                steps=steps,
                examples=len(job.data),
                metrics={"loss": Mean(total, seen)},
            )
            for params, steps, job, total, seen in zip(
                self.params, self.steps.tolist(), self.jobs, totals, rows_seen, strict=True
            )
        ]


class _FullBatches:
    """Every step reads all rows of each client, in their order."""

    def __init__(self, model: LinearModel, jobs: Sequence[Job], length: int) -> None:
        self.rows, self.labels, weights, self.row_weights = full_batch(model, jobs, length)
        self.weights = weights[None]  # the one step that all steps repeat
        self.counts = np.array([len(job.data) for job in jobs], dtype=np.float64)

    def at(self, step: int, alive: int) -> tuple[Vector, Vector]:
        """Return rows and labels."""
        del step
        return self.rows[:alive], self.labels[:alive]

    def loss_weights(self, start: int, stop: int, steps: int) -> tuple[Vector, Vector]:
        """Return the weight of each row in the training loss, and the number of rows seen."""
        return self.row_weights[start:stop], steps * self.counts[start:stop]


class _Minibatches:
    """Each step gathers its rows into one kept buffer: all steps at once would leave the cache."""

    def __init__(self, model: LinearModel, jobs: Sequence[Job], orders: Sequence[Order]) -> None:
        dtype = model.dtype
        shape = orders[0].steps, len(jobs), _rows(orders[0]).shape[1]
        self.features = [np.asarray(job.data.arrays[FEATURES], dtype) for job in jobs]
        self.order = [_rows(order) for order in orders]
        self.labels = np.zeros(shape, model.label_dtype)
        valid = np.zeros(shape[:2], np.int64)
        for j, (job, order) in enumerate(zip(jobs, orders, strict=True)):
            labels = np.asarray(job.data.arrays[LABEL], model.label_dtype)
            self.labels[: order.steps, j] = labels.take(self.order[j])
            valid[: order.steps, j] = order.valid
        self.seen = valid.sum(axis=0)
        inside = np.arange(shape[2]) < valid[..., None]
        self.row_weights = (inside * model.row_weights(self.labels)).astype(dtype, copy=False)
        self.weights = self.row_weights / np.maximum(valid, 1)[..., None].astype(dtype)
        self.buffer = np.empty((shape[1], shape[2], model.features), dtype)

    def at(self, step: int, alive: int) -> tuple[Vector, Vector]:
        """Return rows and labels."""
        for features, rows, out in zip(self.features[:alive], self.order, self.buffer, strict=False):
            features.take(rows[step], axis=0, out=out, mode="clip")
        return self.buffer[:alive], self.labels[step, :alive]

    def loss_weights(self, start: int, stop: int, steps: int) -> tuple[Vector, Vector]:
        """Return the weight of each row in the training loss, and the number of rows seen."""
        return self.row_weights[:steps, start:stop], self.seen[start:stop]


def full_batch(model: LinearModel, jobs: Sequence[Job], length: int) -> tuple[Vector, Vector, Vector, Vector]:
    """Return all rows of each client, padded to ``length``: rows, labels, weights over the row count, and weights."""
    dtype, count = model.dtype, len(jobs)
    labels = np.zeros((count, length), model.label_dtype)
    row_weights = np.zeros((count, length), dtype)
    weights = np.zeros((count, length), dtype)
    copied = count > 1 or len(jobs[0].data) != length
    rows = np.empty((count, length, model.features), dtype) if copied else None
    for j, job in enumerate(jobs):
        n = len(job.data)
        labels[j, :n] = job.data.arrays[LABEL]
        row_weights[j, :n] = model.row_weights(labels[j, :n])
        weights[j, :n] = row_weights[j, :n] / dtype.type(n)
        if rows is not None:
            rows[j, :n] = job.data.arrays[FEATURES]
            rows[j, n:] = 0
    if rows is None:
        rows = np.ascontiguousarray(jobs[0].data.arrays[FEATURES], dtype)[None]
    return rows, labels, weights, row_weights


def _rows(order: Order) -> npt.NDArray[np.int64]:
    assert order.rows is not None, "a group holds full batches or minibatches, never both"
    return order.rows


def _stack(vectors: Sequence[Vector | None], dtype: np.dtype[Any]) -> Vector:
    return np.stack([np.asarray(vector, dtype) for vector in vectors])


def _prefix(moments: Any, alive: int) -> Any:
    """Return the moments of the first clients: arrays cut, numbers kept."""
    if moments is None:
        return None
    if isinstance(moments, np.ndarray):
        return moments[:alive]
    arrays = {
        f.name: value[:alive] for f in fields(moments) if isinstance(value := getattr(moments, f.name), np.ndarray)
    }
    return replace(moments, **arrays)
