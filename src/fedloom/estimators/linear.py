"""Logistic and linear regression over silos, with scikit-learn's interface and its objective on all rows together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.params import Vector
from fedloom.engines import RunResult
from fedloom.errors import ComponentError
from fedloom.estimators.silos import SiloError, class_codes, class_names, dataset, read_labelled
from fedloom.estimators.training import (
    FederatedEstimator,
    Preparation,
    Steps,
    centre_and_scale,
    named_algorithm,
    second_moments,
    train,
)
from fedloom.learners import logistic, ridge
from fedloom.learners.figures import probabilities

_RATE = 0.1
"""Of algorithms whose rate does not follow from the curvature."""


class FederatedLogisticRegression(ClassifierMixin, FederatedEstimator):  # type: ignore[misc]
    """Logistic regression over silos; the minimum is that of ``LogisticRegression`` on all rows together.

    By default every round is one step of accelerated gradient descent over the rows of all silos, with a rate that
    follows from the curvature: where it comes to rest does not depend on how the rows lie. Other algorithms train
    longer at each silo and send less.

    Args:
        C: Inverse strength of the penalty, as scikit-learn has it: ``sum of losses + |w|^2 / (2 C)``.
        fit_intercept: Fit one, which is not penalised.
        class_weight: Weight of the rows of each class; a class left out has 1.
        algorithm: "accelerated", "fedsgd", "fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold", or an
            algorithm of fedloom.
        learning_rate: Of a local step; None: 1 / L for the first two, else 0.1.
        epochs: Passes over its rows that a silo makes in a round; the first two make one full-batch step.
        batch_size: Rows of a local step, or "full".
        rounds: Most rounds.
        tol: The run ends when the parameters moved by this or less in two rounds; 0: after ``rounds``.
        preparation: "standardise" trains on columns of mean 0 and deviation 1 over all silos, and the penalty is on
            their coefficients; None: rows as they are. ``coef_`` is for raw columns in either case.
        engine: What runs it; None: ``fedloom.local()``.
        seed: Of every random stream.

    Attributes: ``coef_``, ``intercept_``, ``classes_``, ``n_features_in_``, ``feature_names_in_``, ``n_iter_``,
        ``history_`` (a row for each round) and ``result_`` (the run; not pickled).

    Example:
        >>> north = (np.array([[0.0], [1.0], [2.0]]), ["no", "no", "yes"])
        >>> south = (np.array([[3.0], [4.0]]), ["yes", "yes"])
        >>> model = FederatedLogisticRegression().fit({"north": north, "south": south})
        >>> model.predict([[-1.0], [5.0]]).tolist()
        ['no', 'yes']
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | None = None,
        algorithm: str | AnyAlgorithm = "accelerated",
        learning_rate: float | None = None,
        epochs: int = 1,
        batch_size: int | Literal["full"] = 32,
        rounds: int = 5000,
        tol: float = 1e-7,
        preparation: Preparation = "standardise",
        engine: Any = None,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.rounds = rounds
        self.tol = tol
        self.preparation = preparation
        self.engine = engine
        self.seed = seed

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> FederatedLogisticRegression:
        """Train over silos.

        Args:
            X: A mapping of silo name to (X, y); or one table.
            y: Labels of the one table.
            groups: Name of the silo of each row; None: one silo holds all of them.

        Raises:
            SiloError: When a silo has no rows or other columns, or all rows are of one class.
        """
        silos = read_labelled(self, X, y, groups, numeric=False)
        self.classes_, codes = class_codes(silos)
        _check_positive("C", self.C)
        if len(self.classes_) < 2:
            raise SiloError(
                f"{type(self).__name__} needs two classes or more; the rows of all silos are of one class: "
                f"{self.classes_[0]!r}"
            )
        names = class_names(self.classes_)
        weights = _named_weights(self.class_weight, self.classes_, names)
        data = dataset(self, silos, codes=codes, classes=names)
        l2 = 1.0 / (self.C * silos.rows)
        curvature = (0.25 if len(names) == 2 else 0.5) * max([1.0, *weights.values()])
        algorithm = _algorithm(self, data, curvature=curvature, l2=l2)
        learner = logistic(l2=l2, intercept=self.fit_intercept, class_weight=weights or None)
        result = train(self, data, learner=learner, algorithm=algorithm)
        self._keep(result)
        self.coef_, self.intercept_ = raw_coefficients(result)
        return self

    def decision_function(self, X: Any) -> Vector:
        """Return the log-odds of the second class ``(rows,)``, or one logit a class ``(rows, classes)``."""
        z = self._logits(X)
        return z[:, 0] if z.shape[1] == 1 else z

    def predict_proba(self, X: Any) -> Vector:
        """Return the probability of each class, shape ``(rows, classes)``."""
        return probabilities(self._logits(X))

    def predict_log_proba(self, X: Any) -> Vector:
        """Return the logarithm of ``predict_proba``."""
        logs: Vector = np.log(self.predict_proba(X))
        return logs

    def predict(self, X: Any) -> Vector:
        """Return the likeliest class of each row."""
        z = self._logits(X)
        guess = (z[:, 0] > 0).astype(np.int64) if z.shape[1] == 1 else z.argmax(axis=1)
        predicted: Vector = self.classes_[guess]
        return predicted

    def _logits(self, X: Any) -> Vector:
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        z: Vector = rows @ self.coef_.T + self.intercept_
        return z


class FederatedLinearRegression(RegressorMixin, FederatedEstimator):  # type: ignore[misc]
    """Linear regression over silos; the minimum is that of ``LinearRegression``, or ``Ridge``, on all rows together.

    Args:
        alpha: Strength of the penalty, as ``Ridge`` has it: ``sum of squared errors + alpha |w|^2``. 0: none.
        fit_intercept: Fit one, which is not penalised.
        algorithm: As for ``FederatedLogisticRegression``, as are all that follow.
        learning_rate: Of a local step.
        epochs: Passes over its rows that a silo makes in a round.
        batch_size: Rows of a local step, or "full".
        rounds: Most rounds.
        tol: The run ends when the parameters moved by this or less in two rounds, in units of the labels' deviation.
        preparation: "standardise" or None.
        engine: What runs it.
        seed: Of every random stream.

    Example:
        >>> tables = {"a": (np.array([[0.0], [1.0]]), [1.0, 3.0]), "b": (np.array([[2.0]]), [5.0])}
        >>> model = FederatedLinearRegression().fit(tables)
        >>> model.coef_.round(4).tolist(), round(model.intercept_, 4)
        ([2.0], 1.0)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        algorithm: str | AnyAlgorithm = "accelerated",
        learning_rate: float | None = None,
        epochs: int = 1,
        batch_size: int | Literal["full"] = 32,
        rounds: int = 5000,
        tol: float = 1e-7,
        preparation: Preparation = "standardise",
        engine: Any = None,
        seed: int = 0,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.rounds = rounds
        self.tol = tol
        self.preparation = preparation
        self.engine = engine
        self.seed = seed

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> FederatedLinearRegression:
        """Train over silos: a mapping of name to (X, y), or one table with the silo of each row in ``groups``.

        Raises:
            SiloError: When a silo has no rows or other columns.
        """
        silos = read_labelled(self, X, y, groups, numeric=True)
        if not 0 <= self.alpha < math.inf:
            raise ComponentError(f"alpha = {self.alpha}; expected 0 or more")
        data = dataset(self, silos, codes=None, classes=())
        l2 = self.alpha / silos.rows
        algorithm = _algorithm(self, data, curvature=1.0, l2=l2)
        learner = ridge(l2=l2, intercept=self.fit_intercept)
        result = train(self, data, learner=learner, algorithm=algorithm)
        self._keep(result)
        coef, intercept = raw_coefficients(result)
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        return self

    def predict(self, X: Any) -> Vector:
        """Return the predicted number of each row."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        predicted: Vector = rows @ self.coef_ + self.intercept_
        return predicted


def raw_coefficients(result: RunResult) -> tuple[Vector, Vector]:
    """Return coefficients and intercepts of a linear model for raw columns, whatever its run divided them by."""
    leaves = result.leaves()
    centre, scale = centre_and_scale(result)
    coef: Vector = leaves["coef"] / scale
    intercept: Vector = leaves.get("intercept", np.zeros(len(coef))) - coef @ centre
    return coef, intercept


def _algorithm(estimator: Any, data: Any, *, curvature: float, l2: float) -> AnyAlgorithm:
    rate = estimator.learning_rate
    if rate is None and estimator.algorithm in ("accelerated", "fedsgd"):
        rate = 1.0 / (curvature * second_moments(estimator, data) + l2)
    steps = Steps(
        epochs=estimator.epochs, batch_size=estimator.batch_size, learning_rate=_RATE if rate is None else rate
    )
    return named_algorithm(estimator.algorithm, steps)


def _named_weights(given: Mapping[Any, float] | None, classes: Vector, names: tuple[str, ...]) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ComponentError(f"class_weight = {given!r}; expected a mapping of class to weight")
    known = dict(zip(classes.tolist(), names, strict=True))
    unknown = [key for key in given if key not in known]
    if unknown:
        raise SiloError(f"class_weight names {unknown}; the classes are {list(known)}")
    return {known[key]: float(weight) for key, weight in given.items()}


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ComponentError(f"{name} = {value}; expected a number above 0")
