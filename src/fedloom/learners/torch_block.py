"""Local training of a block of torch clients: one step of all of them is a few calls on stacked tensors.

Clients of one padded batch length form a group; a group is ordered by falling number of steps, so that clients that
have finished leave its end and no step is wasted. Only the rows of a batch are padded, with weight zero, up to a
length that depends on the client alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fedloom.core.data import FEATURES, LABEL
from fedloom.core.learner import Job
from fedloom.core.metrics import Mean
from fedloom.core.params import ParamSpec, Vector
from fedloom.core.schedule import FULL_BATCH_ROWS, Order, Schedule
from fedloom.core.work import LocalResult
from fedloom.learners.torch_stack import Pieces, Window, padded, tensors
from fedloom.learners.torch_training import Task

_STEP_BYTES = 2 << 20
"""Rows of the steps that are gathered at once."""
_GRADIENT_BYTES = 4 << 20
"""Gradients of a group on a CPU: every term of the work goes over them."""
_ROW_BYTES = 32 << 20
"""Rows of one step of a group."""


class Cut(Protocol):
    """The step of the first clients of a group."""

    @property
    def alive(self) -> int:
        """Number of these clients."""
        ...

    def take(
        self, x: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, trace: torch.Tensor, *, step: int
    ) -> None:
        """Write gradients of rows ``(clients, rows, columns)``, or move the parameters by them; losses to ``trace``."""
        ...


class Steps(Protocol):
    """How a route makes gradients of a group, and what it keeps from one step to the next."""

    @property
    def window(self) -> int | None:
        """Steps that belong together, from the first on; None: each stands by itself."""
        ...

    @property
    def unread(self) -> int:
        """Leading numbers of a client's parameters that the end of the first window writes before they are read."""
        ...

    def begin(self, window: Window) -> None:
        """Begin a window of steps."""
        ...

    def end(self, window: Window) -> None:
        """End a window: the parameters are then those after its steps."""
        ...

    def trace(self, steps: int) -> torch.Tensor:
        """Return memory that tells the losses of some steps, ``(steps, clients, ...)``."""
        ...

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels ``(clients, steps, rows)`` as ``Cut.take`` wants them; the first two dimensions stay."""
        ...

    def cut(self, params: Pieces, gradient: Pieces | None, alive: int) -> Cut:
        """Return the step of the first clients; without a gradient it moves the parameters itself."""
        ...

    def losses(self, trace: torch.Tensor, labels: torch.Tensor) -> npt.NDArray[np.float64]:
        """Return the loss of each row, ``(steps, clients, rows)``."""
        ...


class MakeSteps(Protocol):
    """Makes a route's ``Steps`` for a group."""

    def __call__(self, *, clients: int, rows: int, plain: bool, like: torch.Tensor) -> Steps:
        """Return them for some clients with some rows a batch, of type and device of ``like``.

        Steps are plain where they are minibatches and nothing stands between gradient and step.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask:
    """What is trained, and by which route."""

    task: Task
    layout: ParamSpec
    steps: MakeSteps
    most: int
    """Clients of a group that advance together."""


def train_block(block: BlockTask, jobs: Sequence[Job]) -> list[LocalResult]:
    """Do the local work of clients; results in the order of the jobs."""
    results: dict[int, LocalResult] = {}
    orders = _orders(jobs)
    for positions in _groups(jobs, orders).values():
        positions.sort(key=lambda position: -orders[position].steps)
        rows = batch_length(jobs[positions[0]].work.schedule, len(jobs[positions[0]].data))
        columns = jobs[positions[0]].data.arrays[FEATURES].shape[1]
        each = rows * columns * block.task.inputs.dtype.itemsize
        many = max(1, min(_clients(block, jobs[positions[0]]), _ROW_BYTES // max(each, 1)))
        for start in range(0, len(positions), many):
            some = positions[start : start + many]
            group = _Group(block, [jobs[p] for p in some], [orders[p] for p in some], rows)
            results.update(zip(some, group.run(), strict=True))
    return [results[position] for position in range(len(jobs))]


def _clients(block: BlockTask, job: Job) -> int:
    """Return how many clients advance together: few where whole gradients pass through the terms of the work."""
    if _fused(block.task, job) or block.task.inputs.device.type != "cpu":
        return block.most
    return min(
        block.most,
        clients_at_once(block.layout, block.task.inputs.dtype.itemsize, most_bytes=_GRADIENT_BYTES, most=block.most),
    )


def _fused(task: Task, job: Job) -> bool:
    """Return whether nothing stands between gradient and step."""
    work = job.work
    return work.schedule.plain and not (task.objective.l2 or work.prox or work.linear is not None)


def batch_length(schedule: Schedule, count: int) -> int:
    """Return the padded rows of every batch of a client: two or more, and a function of that client alone.

    A product with one row is another product: it would have other bytes in a block.
    """
    full = -(-count // FULL_BATCH_ROWS) * FULL_BATCH_ROWS
    return max(2, full if schedule.batch_size == "full" else min(schedule.batch_size, full))


def _orders(jobs: Sequence[Job]) -> list[Order]:
    """Return the order of each job's rows; those of one schedule and one number of rows are drawn together."""
    alike: dict[tuple[int, int], list[int]] = {}
    for position, job in enumerate(jobs):
        alike.setdefault((id(job.work.schedule), len(job.data)), []).append(position)
    orders: dict[int, Order] = {}
    for (_, count), positions in alike.items():
        streams = [jobs[position].keys.public for position in positions]
        drawn = jobs[positions[0]].work.schedule.orders(count, streams)
        orders.update(zip(positions, drawn, strict=True))
    return [orders[position] for position in range(len(jobs))]


def _groups(jobs: Sequence[Job], orders: Sequence[Order]) -> dict[tuple[object, ...], list[int]]:
    """Return the positions of the jobs that can share one buffer: one padded length, one set of terms."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, (job, order) in enumerate(zip(jobs, orders, strict=True)):
        work, schedule = job.work, job.work.schedule
        shaped = schedule.learning_rate, schedule.clip_norm, schedule.weight_decay, id(schedule.optimizer)
        terms = work.prox, work.linear is None, work.anchor is None
        key = batch_length(schedule, len(job.data)), order.rows is None, shaped, terms
        groups.setdefault(key, []).append(position)
    return groups


class _Group:
    """Stacked parameters of a group, ordered by falling number of steps."""

    def __init__(self, block: BlockTask, jobs: Sequence[Job], orders: Sequence[Order], rows: int) -> None:
        task, first = block.task, jobs[0].work
        self.task, self.jobs, self.layout = task, jobs, block.layout
        self.counts = [order.steps for order in orders]
        self.schedule, self.prox = first.schedule, first.prox
        rate = self.schedule.learning_rate
        assert isinstance(rate, float | int), "schedule.at() has put a number in place of a ramp"
        self.rate = float(rate)
        kind = torch.from_numpy(np.empty(0, task.inputs.dtype)).dtype
        self.params = Pieces(block.layout, len(jobs), dtype=kind, device=task.inputs.device)
        flat = self.params.flat
        self.starts = tensors([job.work.start for job in jobs], flat)
        self.linear = None if first.linear is None else self._stacked([_given(job.work.linear) for job in jobs])
        self.anchor: torch.Tensor | None = None
        if self.prox:
            anchors = [job.work.start if first.anchor is None else _given(job.work.anchor) for job in jobs]
            self.anchor = self._stacked(anchors)
        self.l2 = self._stacked([task.penalised * task.objective.l2]) if task.objective.l2 else None
        self.fused = _fused(task, jobs[0])  # the learning rate then rides in the weights of the rows
        self.gradient = None if self.fused else Pieces(block.layout, len(jobs), dtype=flat.dtype, device=flat.device)
        plain = self.fused and orders[0].rows is not None
        self.steps = block.steps(clients=len(jobs), rows=rows, plain=plain, like=flat)
        self.params.fill(self.starts, skip=self.steps.unread)
        self.batches = _Batches(task, jobs, orders, rows=rows, window=self.steps.window)

    def run(self) -> list[LocalResult]:
        """Take all steps; return one result a job."""
        optimizer = self.schedule.optimizer
        own = optimizer is not None and not optimizer.plain
        moments = optimizer.init(self.params.vectors()) if own and optimizer is not None else None
        alive = len(self.jobs)
        cut = self.steps.cut(self.params, self.gradient, alive)
        means = np.zeros((self.counts[0], alive))
        scale = self.rate if self.fused else 1.0
        for start in range(0, self.counts[0], self.batches.window):
            stop = min(start + self.batches.window, self.counts[0])
            while self.counts[alive - 1] <= start:
                alive -= 1
            rows, labels, weights = self.batches.gather(start, stop, alive)
            targets, scaled = self.steps.targets(labels), (weights * scale)[..., None]
            trace = self.steps.trace(stop - start)[:, :alive]
            taken = [min(stop, count) - start for count in self.counts[:alive]]
            starts = None if start else self.starts
            window = Window(params=self.params, starts=starts, rows=rows, counts=taken)
            self.steps.begin(window)
            for step in range(start, stop):
                while self.counts[alive - 1] <= step:
                    alive -= 1
                if alive != cut.alive:
                    cut = self.steps.cut(self.params, self.gradient, alive)
                    moments = _prefix(moments, alive)
                at = step - start
                shown = at if rows.shape[1] > 1 else 0
                cut.take(rows[:alive, shown], targets[:alive, at], scaled[:alive, at], trace[at, :alive], step=at)
                if not self.fused:
                    moments = self._move(alive, moments)
            self.steps.end(window)
            each = self.steps.losses(trace, labels) * weights.transpose(0, 1).cpu().numpy()
            means[start:stop, : each.shape[1]] = np.add.reduce(np.ascontiguousarray(each), axis=2)
        return self._results(means)

    def _move(self, alive: int, moments: Any) -> Any:
        """Add the terms of the work to the gradients, and take the step."""
        assert self.gradient is not None
        gradient, params = self.gradient.flat[:alive], self.params.flat[:alive]
        schedule, optimizer, size = self.schedule, self.schedule.optimizer, self.layout.size
        if self.l2 is not None:
            gradient.addcmul_(self.l2, params)
        if self.linear is not None:
            gradient.add_(self.linear[:alive])
        if self.anchor is not None:
            gradient.add_(params - self.anchor[:alive], alpha=self.prox)
        if schedule.clip_norm is not None:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            tiny = torch.finfo(gradient.dtype).tiny
            gradient.mul_((schedule.clip_norm / norms.clamp_min(tiny)).clamp_max(1.0))
        if schedule.weight_decay:
            gradient.add_(params, alpha=schedule.weight_decay)
        if optimizer is None or optimizer.plain:
            params.add_(gradient, alpha=-self.rate)
            return moments
        step, moments = optimizer.update(gradient[:, :size].cpu().numpy(), moments)
        params[:, :size].sub_(torch.from_numpy(step * self.rate).to(params.device, params.dtype))
        return moments

    def _stacked(self, vectors: Sequence[Vector]) -> torch.Tensor:
        """Return vectors as rows; one that all clients share is one row."""
        flat = self.params.flat
        vectors = vectors[:1] if all(vector is vectors[0] for vector in vectors) else vectors
        pieces = Pieces(self.layout, len(vectors), dtype=flat.dtype, device=flat.device)
        pieces.fill(tensors(vectors, flat))
        return pieces.flat

    def _results(self, means: npt.NDArray[np.float64]) -> list[LocalResult]:
        results: list[LocalResult] = []
        for client, (params, job) in enumerate(zip(self.params.vectors(), self.jobs, strict=True)):
            steps, seen = self.counts[client], self.batches.seen[client]
            total = float(np.add.reduce(means[:steps, client] * seen))
            results.append(
                LocalResult(
                    params=params,
                    lr_sum=steps * self.rate,
                    steps=steps,
                    examples=len(job.data),
                    metrics={"loss": Mean(total, float(seen.sum()))},
                )
            )
        return results


class _Batches:
    """The rows of each step of a group, gathered for a few steps at once."""

    def __init__(
        self, task: Task, jobs: Sequence[Job], orders: Sequence[Order], *, rows: int, window: int | None
    ) -> None:
        inputs = task.inputs
        self.inputs, self.rows = inputs, rows
        self.features = [job.data.arrays[FEATURES] for job in jobs]
        self.labels = [np.asarray(job.data.arrays[LABEL], inputs.label_dtype) for job in jobs]
        self.orders = orders
        self.columns = self.features[0].shape[1]
        width = None if orders[0].rows is None else orders[0].rows.shape[1]
        self.repeated = width is None
        self.seen = [order.valid for order in orders]
        self.class_weights = task.objective.class_weights
        numbers = len(jobs) * rows * self.columns * inputs.dtype.itemsize
        many = max(1, _STEP_BYTES // max(1, numbers))
        self.window = window or min(orders[0].steps, 64 if self.repeated else many)
        self.kept: torch.Tensor | None = None
        self.steps = 1 if self.repeated else min(self.window, orders[0].steps)
        of_client = self.steps * rows * self.columns
        kind = torch.from_numpy(np.empty(0, inputs.dtype)).dtype
        filled = rows == width
        make = torch.empty if filled else torch.zeros  # rows that pad a batch have weight zero, and must be finite
        memory = make((len(jobs), padded(of_client)), dtype=kind)
        shape = len(jobs), self.steps, rows, self.columns
        self.memory = memory.as_strided(shape, (memory.stride(0), rows * self.columns, self.columns, 1))
        self.buffer: Vector = self.memory.numpy()

    def gather(self, start: int, stop: int, alive: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rows, labels and weights of some steps, ``(clients, steps, rows, ...)``; padding has weight zero.

        A full batch is one step of rows that every step repeats.
        """
        shape = alive, stop - start, self.rows
        labels = np.zeros(shape, self.inputs.label_dtype)
        valid = np.zeros(shape[:2], np.int64)
        for client in range(alive):
            order = self.orders[client]
            steps = min(stop, order.steps) - start
            valid[client, :steps] = order.valid[start : start + steps]
            self._take(client, start, steps, labels[client])
        weights = self._weights(labels, valid)
        device = self.inputs.device
        return (
            self._rows(alive, stop - start),
            torch.from_numpy(labels).to(device),
            torch.from_numpy(weights).to(device),
        )

    def _take(self, client: int, start: int, steps: int, labels: Vector) -> None:
        features, order, out = self.features[client], self.orders[client], self.buffer[client]
        if order.rows is None:
            labels[:, : len(features)] = self.labels[client]
            if self.kept is None:
                out[0, : len(features)] = features
            return
        rows = order.rows[start : start + steps]
        width = rows.shape[1]
        labels[:steps, :width] = self.labels[client].take(rows)
        if features.dtype == out.dtype and width == self.rows:
            features.take(rows.reshape(-1), axis=0, out=out[:steps].reshape(-1, self.columns), mode="clip")
        else:
            out[:steps, :width] = features.take(rows, axis=0)

    def _rows(self, alive: int, steps: int) -> torch.Tensor:
        if not self.repeated:
            return self.memory[:alive, :steps].to(self.inputs.device)
        if self.kept is None:
            self.kept = self.memory.to(self.inputs.device)
        return self.kept[:alive]

    def _weights(self, labels: Vector, valid: Vector) -> Vector:
        inside = np.arange(self.rows) < valid[..., None]
        weighted = inside if self.class_weights is None else inside * self.class_weights[labels]
        weights: Vector = (weighted / np.maximum(valid, 1)[..., None]).astype(self.inputs.dtype)
        return weights


def clients_at_once(layout: ParamSpec, itemsize: int, *, most_bytes: int, most: int) -> int:
    """Return how many clients' parameters fit some bytes: one at least, ``most`` at most."""
    return max(1, min(most, most_bytes // max(1, math.ceil(layout.size * itemsize))))


def _given(vector: Vector | None) -> Vector:
    assert vector is not None, "jobs of a group have the same terms"
    return vector


def _prefix(moments: Any, alive: int) -> Any:
    """Return the moments of the first clients: arrays cut, numbers kept."""
    if moments is None or isinstance(moments, np.ndarray):
        return None if moments is None else moments[:alive]
    arrays = {
        each.name: value[:alive]
        for each in fields(moments)
        if isinstance(value := getattr(moments, each.name), np.ndarray)
    }
    return replace(moments, **arrays)
