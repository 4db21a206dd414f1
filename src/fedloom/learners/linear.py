"""Linear models in numpy: logistic regression with two classes or more, and ridge regression.

Objective of a client: ``mean loss + l2/2 |w|^2``, so ``l2 = 1 / (C n)`` of scikit-learn; the intercept is free of the
penalty unless asked otherwise. Parameters: ``coef`` (classes, or 1 for two classes and for regression) row-major, then
``intercept``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedloom.core.component import ComponentSpec, component
from fedloom.core.data import LABEL, ClientDataset, Schema
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.learner import Capabilities, Job, LearnerBuilder
from fedloom.core.metrics import Mean, MetricSet, MetricSpec
from fedloom.core.params import Dtype, Leaf, ParamSpec, Vector
from fedloom.core.schedule import Schedule
from fedloom.core.work import EvaluationResult, GradientResult, LocalResult, LocalWork
from fedloom.errors import ComponentError, DataError
from fedloom.learners import linear_evaluation
from fedloom.learners.figures import merged_figures, probabilities
from fedloom.learners.linear_block import LinearModel, advance, full_batch, group_jobs
from fedloom.learners.linear_loss import LOGISTIC, SOFTMAX, SQUARED, LinearLoss
from fedloom.learners.private_linear import fit_private

_CACHE_BYTES = 1_400_000
"""Parameters and gradients of a block: measured best between 1.0 and 1.6 MB with 2 MB of cache a core."""
_BLOCK_BYTES = 32 << 20
"""Rows of a block, where full batches are padded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLearner:
    """Trains linear models; a block of clients advances in stacked products with the bytes of one by one."""

    model: LinearModel
    layout: ParamSpec
    dtype: Dtype
    start: Vector | None
    capabilities: Capabilities = field(
        default=Capabilities(linear=True, prox=True, gradient=True, private=True, block="same bytes")
    )
    spec: ComponentSpec | None = None

    @property
    def fit_metrics(self) -> MetricSpec:
        """The mean loss over the rows that local steps read, each at the parameters of its step."""
        return MetricSpec({"loss": Mean})

    @property
    def evaluation_metrics(self) -> MetricSpec:
        """Sums that the figures are computed from."""
        return linear_evaluation.metric_kinds(self.model)

    @property
    def block(self) -> int:
        """Enough clients to share the cost of a step, few enough that their parameters stay near: 10 to 25."""
        return int(np.clip(_CACHE_BYTES // (2 * self.model.size * self.model.dtype.itemsize), 10, 25))

    def init(self, key: Key) -> Vector:
        """Return the given start, or zeros: the objective is convex, so nothing is gained by drawing."""
        del key
        params = np.zeros(self.model.size, self.model.dtype) if self.start is None else self.start.copy()
        params.setflags(write=False)
        return params

    def fit(self, jobs: Sequence[Job]) -> Sequence[LocalResult]:
        """Do the local work of a block, a group of equal padded length at a time; private steps one by one."""
        results: dict[int, LocalResult] = {}
        bare = [position for position, job in enumerate(jobs) if job.work.schedule.private is None]
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # a diverging client ends as an invalid update, not a warning
            for positions in group_jobs([jobs[position] for position in bare]).values():
                for some in self._within_memory(jobs, [bare[position] for position in positions]):
                    results.update(zip(some, advance(self.model, [jobs[position] for position in some]), strict=True))
            for position in set(range(len(jobs))).difference(bare):
                results[position] = fit_private(self.model, jobs[position], dtype=self.dtype)
        return [results[position] for position in range(len(jobs))]

    def gradient(self, at: Vector, data: ClientDataset) -> GradientResult:
        """Return gradient and value of the client's objective, penalty included."""
        model, count = self.model, len(data.arrays[LABEL])
        schedule = Schedule(steps=1, batch_size="full", learning_rate=0.0)
        job = Job(LocalWork(start=at, schedule=schedule), data, Keys(Key.from_seed(0), NO_SECRET))
        length = schedule.batch_rows(count)
        rows, labels, weights, row_weights = full_batch(model, [job], length)
        params = np.asarray(at, model.dtype)[None]
        products = model.products(params, np.empty_like(params), np.empty((1, length, model.outputs), model.dtype))
        trace = np.empty((2, 1, length), model.dtype)
        model.loss.residual(products.logits(rows), labels, weights, trace)
        gradient = products.pull(rows)[0]
        gradient[: model.penalised] += model.l2 * params[0, : model.penalised]
        loss = float((model.loss.losses(trace) * row_weights).sum()) / count + model.penalty(at)
        return GradientResult(gradient=gradient, loss=loss, examples=count)

    def evaluate(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return the metrics of ``params`` over the rows of each client, and its exact figures."""
        return linear_evaluation.evaluate(self.model, params, data)

    def losses(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return loss and objective over the rows of each client, and nothing else."""
        return linear_evaluation.losses(self.model, params, data)

    def figures(self, metrics: MetricSet) -> Mapping[str, float | None]:
        """Return what people read from merged metrics; ranking measures come from the histograms."""
        return merged_figures(metrics)

    def predict(self, params: Vector, features: Vector) -> Vector:
        """Return class probabilities ``(rows, classes)``, or predicted numbers ``(rows,)`` for regression.

        A row's prediction has the same bytes in any company: its logits are dot products of their own.
        """
        coef, intercept = self.model.split(np.asarray(params, self.model.dtype)[None])
        rows = np.ascontiguousarray(features, self.model.dtype)
        z = np.vecdot(rows[:, None, :], coef)
        if intercept is not None:
            z += intercept[0]
        return probabilities(z.astype(np.float64)) if self.model.loss.classes else z[:, 0]

    def _within_memory(self, jobs: Sequence[Job], positions: Sequence[int]) -> list[Sequence[int]]:
        """Cut a group so that its padded rows stay small; a cut changes no bytes."""
        first = jobs[positions[0]]
        rows = first.work.schedule.batch_rows(len(first.data.arrays[LABEL]))
        each = rows * self.model.features * self.model.dtype.itemsize
        most = max(1, _BLOCK_BYTES // max(each, 1))
        return [positions[i : i + most] for i in range(0, len(positions), most)]


@component("fedloom.learners")
def logistic(
    *,
    l2: float = 1e-3,
    intercept: bool = True,
    penalise_intercept: bool = False,
    dtype: Dtype = "float64",
    class_weight: Mapping[str, float] | None = None,
    start: Path | Sequence[float] | None = None,
) -> LearnerBuilder:
    """Logistic regression: one logit for two classes, softmax for more.

    Args:
        l2: Penalty ``l2/2 |w|^2`` beside the mean loss; ``1 / (C n)`` of scikit-learn.
        intercept: Fit one.
        penalise_intercept: Put the penalty on the intercept as well.
        dtype: Type of parameters and local arithmetic.
        class_weight: Weight of each row's loss by class name; a class left out has 1. The mean still divides by rows.
        start: Parameters before round 1: a ``.npy`` file, or numbers. Zeros by default.

    Raises:
        ComponentError: When a number is outside its range.
        DataError: When the schema is agreed: fewer than two classes, an unknown class in ``class_weight``, or a start
            of another length.
    """
    _check_l2("logistic", l2)

    def build(schema: Schema) -> LinearLearner:
        classes = schema.classes
        if classes is None or len(classes) < 2:
            found = "no agreed classes" if classes is None else f"the classes {list(classes)}"
            raise DataError(
                f'logistic needs two classes or more; the data have {found}. Add [[prepare]] name = "label_set", or '
                "declare the classes with the data"
            )
        two = len(classes) == 2
        return _learner(
            schema,
            loss=LOGISTIC if two else SOFTMAX,
            outputs=1 if two else len(classes),
            l2=l2,
            intercept=intercept,
            penalise_intercept=penalise_intercept,
            dtype=dtype,
            class_weights=_class_weights(class_weight, classes, dtype),
            start=start,
        )

    return LearnerBuilder(build, "classification")


@component("fedloom.learners")
def ridge(
    *,
    l2: float = 1e-3,
    intercept: bool = True,
    penalise_intercept: bool = False,
    dtype: Dtype = "float64",
    start: Path | Sequence[float] | None = None,
) -> LearnerBuilder:
    """Ridge regression: mean of ``(w x + b - y)^2 / 2``, plus ``l2/2 |w|^2``; scikit-learn's alpha is ``l2 n``.

    Args:
        l2: Penalty beside the mean loss.
        intercept: Fit one.
        penalise_intercept: Put the penalty on the intercept as well.
        dtype: Type of parameters and local arithmetic.
        start: Parameters before round 1: a ``.npy`` file, or numbers. Zeros by default.

    Raises:
        ComponentError: When a number is outside its range.
        DataError: When the schema is agreed: labels are classes, or a start of another length.
    """
    _check_l2("ridge", l2)

    def build(schema: Schema) -> LinearLearner:
        if schema.classes is not None:
            raise DataError(
                f"ridge predicts numbers; the labels are the classes {list(schema.classes)}. Use logistic, or data of "
                'task = "regression"'
            )
        return _learner(
            schema,
            loss=SQUARED,
            outputs=1,
            l2=l2,
            intercept=intercept,
            penalise_intercept=penalise_intercept,
            dtype=dtype,
            class_weights=None,
            start=start,
        )

    return LearnerBuilder(build, "regression")


def _learner(
    schema: Schema,
    *,
    loss: LinearLoss,
    outputs: int,
    l2: float,
    intercept: bool,
    penalise_intercept: bool,
    dtype: Dtype,
    class_weights: Vector | None,
    start: Path | Sequence[float] | None,
) -> LinearLearner:
    model = LinearModel(
        loss=loss,
        outputs=outputs,
        features=len(schema.columns),
        intercept=intercept,
        l2=l2,
        penalise_intercept=penalise_intercept,
        dtype=np.dtype(dtype),
        class_weights=class_weights,
    )
    leaves = (Leaf("coef", (outputs, model.features)), Leaf("intercept", (outputs,)))
    layout = ParamSpec(leaves if intercept else leaves[:1])
    return LinearLearner(model=model, layout=layout, dtype=dtype, start=_read_start(start, layout, model))


def _check_l2(name: str, l2: float) -> None:
    if not 0 <= l2 < math.inf:
        raise ComponentError(f"{name}(l2={l2}): expected a number from 0")


def _class_weights(given: Mapping[str, float] | None, classes: Sequence[str], dtype: Dtype) -> Vector | None:
    if given is None:
        return None
    unknown = sorted(set(given) - set(classes))
    if unknown:
        raise DataError(f"class_weight names {unknown}; the classes are {list(classes)}")
    bad = {name: weight for name, weight in given.items() if not 0 < weight < math.inf}
    if bad:
        raise ComponentError(f"class_weight has {bad}; expected positive numbers")
    return np.array([given.get(name, 1.0) for name in classes], dtype)


def _read_start(start: Path | Sequence[float] | None, layout: ParamSpec, model: LinearModel) -> Vector | None:
    if start is None:
        return None
    try:
        vector = np.load(start, allow_pickle=False) if isinstance(start, Path) else np.asarray(start)
    except (OSError, ValueError) as error:
        raise DataError(f"start = {str(start)!r} cannot be read as a .npy array: {error}") from error
    if vector.shape != (layout.size,) or vector.dtype.kind not in "fiu" or not np.isfinite(vector).all():
        names = ", ".join(f"{leaf.name} {leaf.shape}" for leaf in layout.leaves)
        raise DataError(
            f"start has shape {vector.shape} and dtype {vector.dtype}; expected {layout.size} finite numbers: {names}"
        )
    return vector.astype(model.dtype)
