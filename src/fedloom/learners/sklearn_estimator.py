"""Scikit-learn estimators that train by ``partial_fit``, as learners.

Coefficients are set on a copy of a prepared estimator, ``partial_fit`` works through the rows in the order of the
schedule, and the coefficients are read back. Shapes and classes are those of the agreed schema, so a client that holds
one class, or few rows, trains like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedloom.core.component import ComponentSpec, Json, component
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema
from fedloom.core.keys import Key
from fedloom.core.learner import Capabilities, Job, LearnerBuilder
from fedloom.core.metrics import Mean, MetricSet, MetricSpec
from fedloom.core.params import Dtype, ParamSpec, Vector
from fedloom.core.schedule import Order
from fedloom.core.work import EvaluationResult, GradientResult, LocalResult, LocalWork
from fedloom.errors import ComponentError, DataError
from fedloom.learners import sklearn_evaluation
from fedloom.learners.sklearn_losses import Penalty, loss_of
from fedloom.learners.sklearn_model import ACTIVATIONS, SklearnModel, by_row
from fedloom.learners.sklearn_table import Entry, entry_of, estimator_of

_CALL_BYTES = 32 << 20
"""Rows of one call of a linear estimator: it moves at every row, so calls are cut for memory alone."""
CAPABILITIES = Capabilities(block="same bytes", plain_only=True)
_BROKEN = ("overflow", "non-finite")
"""Words of scikit-learn when parameters have left the finite numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SklearnLearner:
    """Trains one scikit-learn estimator on one client at a time."""

    entry: Entry
    model: SklearnModel
    prototype: Any
    """An estimator that knows its classes and shapes; it is copied, never changed."""
    layout: ParamSpec
    dtype: Dtype
    capabilities: Capabilities = CAPABILITIES
    spec: ComponentSpec | None = None

    @property
    def fit_metrics(self) -> MetricSpec:
        """The mean loss over the rows that were read, each at the parameters before the call that read it."""
        return MetricSpec({"loss": Mean})

    @property
    def evaluation_metrics(self) -> MetricSpec:
        """Sums that the figures are computed from."""
        return sklearn_evaluation.metric_kinds(self.model)

    @property
    def block(self) -> int:
        """A few: nothing is shared between the clients of a block."""
        return 4

    def init(self, key: Key) -> Vector:
        """Return zeros, of a network draws of a layer's own stream."""
        layers = len(self.model.hidden) + 1
        params = self.model.start([key.child("layer", layer).generator() for layer in range(layers)])
        params.setflags(write=False)
        return params

    def fit(self, jobs: Sequence[Job]) -> Sequence[LocalResult]:
        """Do the local work of a block, one client after the other."""
        from sklearn import config_context

        with config_context(assume_finite=True, skip_parameter_validation=True), np.errstate(all="ignore"):
            return [self._train(job) for job in jobs]

    def gradient(self, at: Vector, data: ClientDataset) -> GradientResult:  # noqa: ARG002
        """Refuse: scikit-learn's estimators do not tell their gradient.

        Raises:
            ComponentError: Always; ``capabilities.gradient`` says so before round 1.
        """
        raise ComponentError(f"{self.entry.name} does not tell its gradient; take another algorithm or learner")

    def evaluate(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return the metrics of ``params`` over the rows of each client, and its exact figures."""
        return sklearn_evaluation.evaluate(self.model, params, data)

    def losses(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return loss and objective over the rows of each client, and nothing else."""
        return sklearn_evaluation.losses(self.model, params, data)

    def figures(self, metrics: MetricSet) -> Mapping[str, float | None]:
        """Return what people read from merged metrics; ranking measures come from the histograms."""
        return sklearn_evaluation.merged(self.model, metrics)

    def predict(self, params: Vector, features: Vector) -> Vector:
        """Return class probabilities ``(rows, classes)``, or predicted numbers ``(rows,)`` for a regression.

        An estimator without probabilities gives 1 to the class that it decides for, and 0 to the others.
        """
        with np.errstate(all="ignore"):
            decisions = self.model.decisions(params, features, product=by_row)
        return self.model.shares(decisions) if self.model.classes else decisions[:, 0]

    def fitted(self, params: Vector) -> Any:
        """Return a fitted estimator with these parameters; its classes are the indices of the schema's."""
        estimator = _copied(self.prototype)
        self._write(estimator, np.asarray(params, self.model.dtype))
        return estimator

    def _train(self, job: Job) -> LocalResult:
        work, schedule = job.work, job.work.schedule
        self._refuse_terms(work)
        features = np.asarray(job.data.arrays[FEATURES], self.model.dtype)
        labels = self._labels(job.data)
        rate = schedule.learning_rate
        assert isinstance(rate, float | int), "schedule.at() has put a number in place of a ramp"
        order = schedule.order(len(labels), job.keys.public)
        params = np.array(work.start, self.model.dtype)
        total, seen = 0.0, 0
        estimator = self._begun(params, float(rate))
        for rows in self._calls(order, features.shape[1]):
            x, y = features[rows], labels[rows]
            each, _ = self.model.row_losses(self.model.decisions(params, x), y)
            total, seen = total + float(each.sum()), seen + len(y)
            if self.entry.kind == "network":
                estimator.batch_size = min(int(order.valid[0]), len(y))
            if rate:
                params = self._moved(estimator, x, y)
        return LocalResult(
            params=params,
            lr_sum=float(rate) * order.steps,
            steps=order.steps,
            examples=len(labels),
            metrics={"loss": Mean(total, seen)},
        )

    def _begun(self, params: Vector, rate: float) -> Any:
        estimator = _copied(self.prototype)
        self._write(estimator, params)
        for name in self.entry.rate:
            setattr(estimator, name, rate)
        return estimator

    def _moved(self, estimator: Any, x: Vector, y: Vector) -> Vector:
        """Let the estimator work through some rows; return its parameters, NaN where they left the finite numbers."""
        try:
            estimator.partial_fit(x, y)
        except ValueError as error:
            if not any(word in str(error) for word in _BROKEN):
                raise
            return np.full(self.layout.size, np.nan, self.model.dtype)
        return self._read(estimator)

    def _calls(self, order: Order, width: int) -> Iterator[Any]:
        """Yield the rows of each call, which takes as many steps as it can: a call costs more than a step.

        A linear estimator moves at every row, so its calls are cut for memory alone. A network cuts the rows of a call
        into batches of one size, so a call ends after a shorter one.
        """
        size = int(order.valid[0])
        most = max(1, _CALL_BYTES // (max(width, 1) * self.model.dtype.itemsize))
        some: list[Any] = []
        for step, valid in enumerate(order.valid.tolist()):
            some.append(np.arange(valid) if order.rows is None else order.rows[step, :valid])
            if len(some) * size >= most or (self.entry.kind == "network" and valid < size):
                yield np.concatenate(some)
                some = []
        if some:
            yield np.concatenate(some)

    def _labels(self, data: ClientDataset) -> Vector:
        labels = data.arrays[LABEL]
        if not self.model.classes:
            return np.asarray(labels, self.model.dtype)
        index = np.asarray(labels, np.int64)
        unknown = int(((index < 0) | (index >= self.model.classes)).sum())
        if unknown:
            raise DataError(
                f"{unknown} of {len(index)} labels are no index of the {self.model.classes} agreed classes; add "
                '[[prepare]] name = "label_set", or declare the classes with the data'
            )
        return index

    def _refuse_terms(self, work: LocalWork) -> None:
        """Refuse what scikit-learn's steps cannot do; the plan does it first, where an algorithm says its needs."""
        schedule = work.schedule
        asked = {
            "a linear term": work.linear is not None,
            "a proximal term": work.prox != 0,
            "an optimizer, a clip or weight decay": not schedule.plain,
        }
        if any(asked.values()):
            what = " and ".join(name for name, there in asked.items() if there)
            raise ComponentError(f"{self.entry.name} cannot train with {what}; take another algorithm or schedule")

    def _write(self, estimator: Any, params: Vector) -> None:
        leaves = self.layout.unflatten(params)
        if self.entry.kind == "network":
            vars(estimator).pop("_optimizer", None)  # its moments begin afresh every round
            for layer, (coef, intercept) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
                coef[...] = leaves[f"coef_{layer}"]
                intercept[...] = leaves[f"intercept_{layer}"]
            return
        estimator.coef_ = leaves["coef"].reshape(estimator.coef_.shape).copy()
        zeros = np.zeros(self.model.outputs, self.model.dtype)
        estimator.intercept_ = leaves["intercept"].copy() if self.model.intercept else zeros
        estimator.t_ = 1.0

    def _read(self, estimator: Any) -> Vector:
        if self.entry.kind == "network":
            pairs = enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True))
            tree = {f"{name}_{n}": leaf for n, pair in pairs for name, leaf in zip(("coef", "intercept"), pair)}  # noqa: B905
        else:
            tree = {"coef": estimator.coef_.reshape(self.model.outputs, -1)}
            if self.model.intercept:
                tree["intercept"] = np.atleast_1d(estimator.intercept_)
        return self.layout.flatten(tree).astype(self.model.dtype, copy=False)


@component("fedloom.learners", "sklearn")
def sklearn_estimator(
    estimator: str, *, arguments: Mapping[str, Any] | None = None, dtype: Dtype = "float64"
) -> LearnerBuilder:
    """Train a scikit-learn estimator by ``partial_fit``.

    Supported are ``SGDClassifier``, ``SGDRegressor``, ``Perceptron``, ``PassiveAggressiveClassifier``,
    ``PassiveAggressiveRegressor``, ``MLPClassifier`` and ``MLPRegressor``. The schedule gives order, batches and
    learning rate; scikit-learn's own shuffling and rates are off. The first five move at every row, so a batch only
    decides which rows are read; the learning rate of the passive-aggressive ones is their ``C``. A network moves once a
    batch, by plain gradient descent unless ``solver`` or ``momentum`` say otherwise. The penalty of a network is
    ``alpha/2 |w|^2`` divided by the rows of the batch, as scikit-learn has it.

    None of them takes a linear or a proximal term (SCAFFOLD, FedProx), an optimizer, a clip or weight decay.

    Args:
        estimator: Name of the class.
        arguments: Arguments of its constructor, those that the schedule sets apart. ``class_weight`` is a table of
            class name to weight.
        dtype: Type of parameters and local arithmetic.

    Raises:
        ComponentError: When the estimator or an argument is not supported; the nearest spelling is offered.
        DataError: When the schema is agreed: labels that do not fit the estimator's task, or an unknown class in
            ``class_weight``.

    Example:
        >>> learner = sklearn_estimator("SGDClassifier", arguments={"loss": "log_loss"}).build(
        ...     Schema(("age", "bp"), "ill", ("no", "yes"))
        ... )
        >>> learner.init(Key.from_seed(1)).tolist()
        [0.0, 0.0, 0.0]
    """
    entry = entry_of(estimator)
    given = {} if arguments is None else dict(arguments)
    made = estimator_of(entry, given)
    _check_values(entry, made)

    def build(schema: Schema) -> SklearnLearner:
        classes = _classes(entry, schema)
        weights = _class_weights(given.get("class_weight"), schema.classes)
        model = _model(entry, made, schema, classes=classes, weights=weights, dtype=np.dtype(dtype))
        prototype = _prime(entry, estimator_of(entry, given), model)
        return SklearnLearner(entry=entry, model=model, prototype=prototype, layout=model.layout, dtype=dtype)

    return LearnerBuilder(build, entry.task, capabilities=CAPABILITIES)


def _copied(estimator: Any) -> Any:
    """Return a copy that shares nothing; its class is not called, because one that will be dropped warns then."""
    made = object.__new__(type(estimator))
    vars(made).update(copy.deepcopy(vars(estimator)))
    return made


def _check_values(entry: Entry, made: Any) -> None:
    """Refuse values of arguments that scikit-learn refuses, before any schema is known."""
    trial = _copied(made)
    if "class_weight" in entry.takes:
        if made.class_weight is not None and not isinstance(made.class_weight, Mapping):
            raise ComponentError(
                f"sklearn: class_weight = {made.class_weight!r}; expected a table of class name to weight: no client "
                "knows the share of each class"
            )
        trial.class_weight = None
    _call(entry, trial, features=1, classes=2 if entry.task == "classification" else 0, dtype=np.dtype("float64"))


def _prime(entry: Entry, estimator: Any, model: SklearnModel) -> Any:
    """Return the estimator after one call on a row of zeros: it knows its classes and shapes, by its public interface.

    What the call did to its parameters is of no matter: they are written before every use.
    """
    if model.class_weights is not None:
        estimator.class_weight = dict(enumerate(model.class_weights.tolist()))
    _call(entry, estimator, features=model.features, classes=model.classes, dtype=model.dtype)
    vars(estimator).pop("_optimizer", None)
    return estimator


def _call(entry: Entry, estimator: Any, *, features: int, classes: int, dtype: np.dtype[Any]) -> None:
    for name in entry.rate:
        setattr(estimator, name, 0.01)
    if entry.kind == "network":
        estimator.batch_size = 1
    rows = np.zeros((1, features), dtype)
    try:
        if classes:
            estimator.partial_fit(rows, np.zeros(1, np.int64), classes=np.arange(classes))
        else:
            estimator.partial_fit(rows, np.zeros(1, dtype))
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ComponentError(f"sklearn: {entry.name} refuses its arguments: {reason}") from error


def _model(
    entry: Entry, made: Any, schema: Schema, *, classes: int, weights: Vector | None, dtype: np.dtype[Any]
) -> SklearnModel:
    network = entry.kind == "network"
    loss = entry.loss if entry.loss is not None else made.loss
    hidden = getattr(made, "hidden_layer_sizes", ())
    return SklearnModel(
        kind=entry.kind,
        classes=classes,
        features=len(schema.columns),
        hidden=tuple(int(size) for size in (hidden if isinstance(hidden, Sequence) else [hidden])),
        activation=getattr(made, "activation", next(iter(ACTIVATIONS))),
        intercept=network or bool(made.fit_intercept),
        loss=loss_of(loss),
        loss_name=loss,
        epsilon=float(getattr(made, "epsilon", 0.0)),
        penalty=_penalty(entry, made),
        class_weights=weights,
        dtype=dtype,
    )


def _penalty(entry: Entry, made: Any) -> Penalty:
    if entry.kind == "network":
        return Penalty(alpha=float(made.alpha), by_rows=True)
    if entry.name.startswith("PassiveAggressive") or made.penalty is None:
        return Penalty()
    shares: Mapping[str, float] = {"l2": 0.0, "l1": 1.0, "elasticnet": float(made.l1_ratio or 0.0)}
    return Penalty(alpha=float(made.alpha), l1=shares[made.penalty])


def _classes(entry: Entry, schema: Schema) -> int:
    found = schema.classes
    if entry.task == "regression":
        if found is not None:
            raise DataError(
                f"{entry.name} predicts numbers; the labels are the classes {list(found)}. Take a classifier, or data "
                'of task = "regression"'
            )
        return 0
    if found is None or len(found) < 2:
        what = "no agreed classes" if found is None else f"the classes {list(found)}"
        raise DataError(
            f'{entry.name} needs two classes or more; the data have {what}. Add [[prepare]] name = "label_set", or '
            "declare the classes with the data"
        )
    return len(found)


def _class_weights(given: Json, classes: Sequence[str] | None) -> Vector | None:
    if given is None or classes is None:
        return None
    unknown = sorted(set(map(str, given)) - set(classes))
    if unknown:
        raise DataError(f"class_weight names {unknown}; the classes are {list(classes)}")
    return np.array([float(given.get(name, 1.0)) for name in classes])
