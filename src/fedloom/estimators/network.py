"""A network over silos, with the interface of scikit-learn's ``MLPClassifier``, which trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.params import Vector
from fedloom.estimators.silos import SiloError, class_codes, class_names, dataset, read_labelled
from fedloom.estimators.training import (
    FederatedEstimator,
    Preparation,
    Steps,
    centre_and_scale,
    named_algorithm,
    train,
)
from fedloom.learners.sklearn_estimator import sklearn_estimator
from fedloom.learners.sklearn_fitted import fitted


class FederatedMLPClassifier(ClassifierMixin, FederatedEstimator):  # type: ignore[misc]
    """A multi-layer perceptron over silos: each silo trains the network of the round, the server takes their mean.

    Its objective has many minima, and which of them a run finds depends on how the rows lie: this is no
    ``MLPClassifier`` on all rows together, as the linear models are. SCAFFOLD and FedProx are refused: scikit-learn's
    steps take no such terms.

    Args:
        hidden_layer_sizes: Units of each hidden layer.
        activation: "relu", "tanh", "logistic" or "identity".
        alpha: Penalty, ``alpha/2 |w|^2`` divided by the rows of a batch.
        algorithm: "fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fedsgd", "accelerated", or an algorithm of
            fedloom.
        learning_rate: Of a local step.
        epochs: Passes over its rows that a silo makes in a round.
        batch_size: Rows of a local step, or "full".
        rounds: Most rounds.
        tol: The run ends when the parameters moved by this or less in two rounds; 0: after ``rounds``.
        preparation: "standardise" or None.
        engine: What runs it; None: ``fedloom.local()``.
        seed: Of every random stream.

    Attributes: ``coefs_`` and ``intercepts_`` for columns as the preparation leaves them, ``classes_``,
        ``n_features_in_``, ``feature_names_in_``, ``n_iter_``, ``history_`` and ``result_``.
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        *,
        activation: str = "relu",
        alpha: float = 1e-4,
        algorithm: str | AnyAlgorithm = "fedavg",
        learning_rate: float = 0.1,
        epochs: int = 1,
        batch_size: int | Literal["full"] = 32,
        rounds: int = 100,
        tol: float = 0.0,
        preparation: Preparation = "standardise",
        engine: Any = None,
        seed: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.rounds = rounds
        self.tol = tol
        self.preparation = preparation
        self.engine = engine
        self.seed = seed

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> FederatedMLPClassifier:
        """Train over silos: a mapping of name to (X, y), or one table with the silo of each row in ``groups``.

        Raises:
            SiloError: When a silo has no rows or other columns, or all rows are of one class.
            PlanError: When the algorithm asks for what scikit-learn's steps cannot do.
        """
        silos = read_labelled(self, X, y, groups, numeric=False)
        self.classes_, codes = class_codes(silos)
        if len(self.classes_) < 2:
            raise SiloError(
                f"{type(self).__name__} needs two classes or more; the rows of all silos are of one class: "
                f"{self.classes_[0]!r}"
            )
        data = dataset(self, silos, codes=codes, classes=class_names(self.classes_))
        arguments = {
            "hidden_layer_sizes": list(np.atleast_1d(self.hidden_layer_sizes).tolist()),
            "activation": self.activation,
            "alpha": self.alpha,
        }
        steps = Steps(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        learner = sklearn_estimator("MLPClassifier", arguments=arguments)
        result = train(self, data, learner=learner, algorithm=named_algorithm(self.algorithm, steps))
        self._keep(result)
        self.mean_, self.scale_ = centre_and_scale(result)
        self.estimator_ = fitted(result.learner, result.params, data.schema(), classes=self.classes_)
        if hasattr(self.estimator_, "feature_names_in_"):
            del self.estimator_.feature_names_in_  # names are checked here, and prepared rows are arrays
        self.coefs_, self.intercepts_ = self.estimator_.coefs_, self.estimator_.intercepts_
        return self

    def predict(self, X: Any) -> Vector:
        """Return the likeliest class of each row."""
        place = self.predict_proba(X).argmax(axis=1)
        predicted: Vector = self.classes_[place]
        return predicted

    def predict_proba(self, X: Any) -> Vector:
        """Return the probability of each class, shape ``(rows, classes)``."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        shares: Vector = self.estimator_.predict_proba((rows - self.mean_) / self.scale_)
        return shares
