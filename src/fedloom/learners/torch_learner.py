"""The learner of torch modules: a client or a block of clients at a time, each thread with a module of its own."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from fedloom.core.component import ComponentSpec
from fedloom.core.data import ClientDataset
from fedloom.core.keys import Key
from fedloom.core.learner import Capabilities, Job
from fedloom.core.metrics import Mean, MetricSet, MetricSpec
from fedloom.core.params import Dtype, ParamSpec, Vector
from fedloom.core.work import EvaluationResult, GradientResult, LocalResult
from fedloom.learners import torch_evaluation
from fedloom.learners.figures import class_kinds, merged_figures, number_kinds
from fedloom.learners.torch_block import BlockTask, MakeSteps, clients_at_once, train_block
from fedloom.learners.torch_flat import FlatModule, vector_of
from fedloom.learners.torch_perceptron import Perceptron, PerceptronSteps
from fedloom.learners.torch_planner import Choice
from fedloom.learners.torch_private import fit_private
from fedloom.learners.torch_process import one_thread, seeded
from fedloom.learners.torch_training import Task, full_gradient, train
from fedloom.learners.torch_vmap import StackedSteps

BUILD_KEY = Key.from_seed(0).child("torch", "module")
"""Seeds a module where no run's key is known: its frozen parameters and local buffers are the same at every party."""
_LOOP = 10, 8 << 20
"""Clients that are trained one after the other before their updates are sent, and bytes of their parameters."""
_STACKED = {"cpu": (32, 16 << 20), "cuda": (128, 256 << 20)}
"""Clients that share a step at most, and bytes of their parameters.

On a CPU, for clients of very unequal sizes, 26 networks of 160,000 parameters took nine tenths of the time that 13 at
once did; for equal clients 10 to 26 were alike, and 34 worse.
"""
_DRAW_NOTHING = ("torch.nn", "fedloom.learners.torch_networks")
_DRAW = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.FractionalMaxPool2d,
)


class Spaces:
    """Modules in flat buffers, one for each thread that is at work; a copy is made when all are taken."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._free: list[FlatModule] = []
        self._lock = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[FlatModule]:
        """Lend one."""
        with self._lock:
            space = self._free.pop() if self._free else None
        if space is None:
            space = FlatModule(copy.deepcopy(self._module))
        try:
            yield space
        finally:
            with self._lock:
                self._free.append(space)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchLearner:
    """Trains a module at one client after the other, or a block of clients in stacked tensors."""

    task: Task
    spaces: Spaces
    start: Callable[[], nn.Module]
    """Builds the module that ``init`` reads, of the device and type of the others."""
    layout: ParamSpec
    dtype: Dtype
    device: torch.device
    draws: bool
    """Whether the module may draw random numbers: then it has torch's generator alone while it trains."""
    choice: Choice
    perceptron: Perceptron | None
    """The module by its widths, where the choice is ``mlp``."""
    capabilities: Capabilities
    spec: ComponentSpec | None = None

    @property
    def fit_metrics(self) -> MetricSpec:
        """The mean loss over the rows that local steps read, each at the parameters of its step."""
        return MetricSpec({"loss": Mean})

    @property
    def evaluation_metrics(self) -> MetricSpec:
        """Sums that the figures are computed from."""
        classes = self.task.objective.classes
        return number_kinds() if classes is None else class_kinds(classes)

    @property
    def block(self) -> int:
        """Clients whose parameters are held at once: a function of the model and the kind of device."""
        most, most_bytes = _LOOP if self.choice.route == "loop" else _STACKED[self.device.type]
        return clients_at_once(self.layout, self.task.inputs.dtype.itemsize, most_bytes=most_bytes, most=most)

    @property
    def notes(self) -> tuple[str, ...]:
        """How clients are trained, and why so."""
        return (self.choice.sentence,)

    def init(self, key: Key) -> Vector:
        """Return the parameters and statistics of the module as its builder makes it under a key."""
        with seeded(key, self.device):
            params = vector_of(self.start())
        params.setflags(write=False)
        return params

    def fit(self, jobs: Sequence[Job]) -> Sequence[LocalResult]:
        """Do the local work of clients, by the route that was chosen."""
        # A diverging client ends as an invalid update, not as a warning.
        with self._at_work() as space, np.errstate(over="ignore", invalid="ignore"):
            if any(job.work.schedule.private is not None for job in jobs):
                return [self._trained(space, job) for job in jobs]
            if self.choice.route == "loop" or len(jobs) < self.choice.fewest:
                return [self._trained(space, job) for job in jobs]
            block = BlockTask(task=self.task, layout=self.layout, steps=self._steps(space), most=self.block)
            return train_block(block, jobs)

    def gradient(self, at: Vector, data: ClientDataset) -> GradientResult:
        """Return gradient and value of the client's objective in training mode, penalty included.

        Batch normalisation uses the rows at hand, and moves no statistic; what a module draws, it draws from one key.
        """
        with self._at_work() as space, self._random(BUILD_KEY):
            return full_gradient(self.task, space, at, data)

    def evaluate(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return the metrics of ``params`` over the rows of each client, and its exact figures."""
        with self._at_work() as space:
            return torch_evaluation.evaluate(self.task, space, params, data)

    def losses(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return loss and objective over the rows of each client, and nothing else."""
        with self._at_work() as space:
            return torch_evaluation.losses(self.task, space, params, data)

    def predict(self, params: Vector, features: Vector) -> Vector:
        """Return class probabilities ``(rows, classes)``, or predicted numbers ``(rows,)`` for regression."""
        with self._at_work() as space:
            return torch_evaluation.predict(self.task, space, params, features)

    def figures(self, metrics: MetricSet) -> Mapping[str, float | None]:
        """Return what people read from merged metrics; ranking measures come from the histograms."""
        return merged_figures(metrics)

    def _steps(self, space: FlatModule) -> MakeSteps:
        if self.perceptron is not None:
            return partial(PerceptronSteps, self.perceptron)
        space.module.train()
        return partial(StackedSteps, space.module, self.task)

    def _trained(self, space: FlatModule, job: Job) -> LocalResult:
        if job.work.schedule.private is not None:
            return fit_private(self.task, space, job, dtype=self.dtype)
        with self._random(job.keys.public.child("torch")):
            return train(self.task, space, job)

    @contextmanager
    def _at_work(self) -> Iterator[FlatModule]:
        with one_thread(), self.spaces.taken() as space:
            yield space

    def _random(self, key: Key) -> Any:
        return seeded(key, self.device) if self.draws else nullcontext()


def may_draw(module: nn.Module, *, known_loss: bool) -> bool:
    """Return whether a module may draw random numbers in training: all but those whose every part is known not to."""
    parts = list(module.modules())
    known = all(type(part).__module__.startswith(_DRAW_NOTHING) for part in parts)
    drops = any(isinstance(part, _DRAW) or getattr(part, "dropout", 0.0) for part in parts)
    return not (known and known_loss) or drops
