"""Gaussian naive Bayes over silos, with the interface of scikit-learn's ``GaussianNB``."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.validation import check_is_fitted, validate_data

from fedloom.analytics import ClassMoments, class_moments
from fedloom.core.params import Vector
from fedloom.estimators.silos import class_codes, class_names, dataset, read_labelled
from fedloom.estimators.training import FederatedEstimator


class FederatedGaussianNB(ClassifierMixin, FederatedEstimator):  # type: ignore[misc]
    """Gaussian naive Bayes over silos: the one of all rows together, from sums by class.

    Args:
        var_smoothing: Share of the largest variance of a column that is added to every variance.
        engine: What runs it; None: ``fedloom.local()``.
        seed: Of the run's streams; the answer does not depend on it.

    Attributes: ``theta_``, ``var_``, ``class_prior_``, ``class_count_``, ``epsilon_``, ``classes_`` and
        ``n_features_in_``.

    Example:
        >>> tables = {"a": (np.array([[0.0], [1.0]]), [0, 0]), "b": (np.array([[5.0], [6.0]]), [1, 1])}
        >>> FederatedGaussianNB().fit(tables).theta_.tolist()
        [[0.5], [5.5]]
    """

    def __init__(self, *, var_smoothing: float = 1e-9, engine: Any = None, seed: int = 0) -> None:
        self.var_smoothing = var_smoothing
        self.engine = engine
        self.seed = seed

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> FederatedGaussianNB:
        """Fit over silos: a mapping of name to (X, y), or one table with the silo of each row in ``groups``.

        Raises:
            SiloError: When a silo has no rows or other columns.
        """
        silos = read_labelled(self, X, y, groups, numeric=False)
        self.classes_, codes = class_codes(silos)
        data = dataset(self, silos, codes=codes, classes=class_names(self.classes_))
        answer = self._engine().query(class_moments(), data=data, seed=self.seed)
        self.estimator_ = naive_bayes_of(answer, self.classes_, var_smoothing=self.var_smoothing)
        for name in ("theta_", "var_", "class_prior_", "class_count_", "epsilon_"):
            setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict(self, X: Any) -> Vector:
        """Return the likeliest class of each row."""
        rows = self._rows(X)
        predicted: Vector = self.estimator_.predict(rows)
        return predicted

    def predict_proba(self, X: Any) -> Vector:
        """Return the probability of each class, shape ``(rows, classes)``."""
        rows = self._rows(X)
        shares: Vector = self.estimator_.predict_proba(rows)
        return shares

    def predict_log_proba(self, X: Any) -> Vector:
        """Return the logarithm of ``predict_proba``."""
        rows = self._rows(X)
        logs: Vector = self.estimator_.predict_log_proba(rows)
        return logs

    def _rows(self, X: Any) -> Vector:
        check_is_fitted(self)
        rows: Vector = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return rows


def naive_bayes_of(answer: ClassMoments, classes: Vector, *, var_smoothing: float = 1e-9) -> Any:
    """Return the fitted ``GaussianNB`` of an answer to ``class_moments``.

    The variance of a column over all rows, which smoothing needs, is that within classes plus that of their means.
    """
    count, mean, variance = np.array(answer.count), np.array(answer.mean), np.array(answer.variance)
    prior = count / count.sum()
    between = mean - prior @ mean
    made = GaussianNB(var_smoothing=var_smoothing)
    made.epsilon_ = var_smoothing * float((prior @ (variance + between**2)).max())
    made.theta_, made.var_ = mean, variance + made.epsilon_
    made.class_count_, made.class_prior_ = count, prior
    made.classes_, made.n_features_in_ = classes, mean.shape[1]
    return made
