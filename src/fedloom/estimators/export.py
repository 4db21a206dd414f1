"""The model of a run as scikit-learn has it: preparations and a fitted estimator in one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array

from fedloom.analytics.standardise import Standardise, is_constant
from fedloom.core.data import FEATURES, ClientDataset, Schema, Transform
from fedloom.core.params import Vector
from fedloom.engines import RunResult, TrainedModel
from fedloom.errors import DataError
from fedloom.learners.sklearn_fitted import are_given, fitted


def to_sklearn(result: RunResult | TrainedModel, *, classes: Sequence[Any] | Vector | None = None) -> Any:
    """Return the model of a run as a fitted scikit-learn estimator, which takes raw rows.

    Where the run prepared its rows, it is a ``Pipeline`` of these preparations and the estimator: ``standardise``
    becomes a ``StandardScaler``. Columns are those of the data, in their order.

    Args:
        result: A run's result, or a model that was read from a run's folder.
        classes: The labels that ``predict`` shall return, in the order of the data's classes; None: their names, as
            whole numbers where all of them are.

    Raises:
        ComponentError: When scikit-learn has no estimator for the learner.
        DataError: When the data have columns of text: these have no place in an array of numbers.

    Example:
        >>> import fedloom as fl
        >>> result = fl.local().run(
        ...     fl.Experiment(
        ...         data=fl.data.hospitals(),
        ...         prepare=[fl.standardise()],
        ...         learner=fl.logistic(),
        ...         algorithm=fl.fedsgd(0.5),
        ...         stop=fl.max_rounds(2),
        ...         seed=0,
        ...         compare=False,
        ...     )
        ... )
        >>> [type(step).__name__ for _, step in to_sklearn(result).steps]
        ['StandardScaler', 'LogisticRegression']
    """
    model = result.model if isinstance(result, RunResult) else result
    if model.raw.texts:
        raise DataError(
            f"the model takes columns of text ({', '.join(model.raw.texts)}), which an estimator of numbers does not; "
            "use model.predict"
        )
    estimator = fitted(model.learner, model.params, model.schema, classes=classes)
    if not model.transforms:
        return estimator
    if hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_  # what comes to it are arrays, from the step before
    steps = [(f"prepare_{place}", _step(each)) for place, each in enumerate(model.transforms)]
    return Pipeline([*_named(steps, model.raw), ("model", estimator)])


class Prepared(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A preparation of fedloom as a step of a pipeline: what it found is fixed, ``fit`` changes nothing.

    Args:
        change: The change of rows.
    """

    def __init__(self, change: Transform) -> None:
        self.change = change

    def fit(self, X: Any, y: Any = None) -> Prepared:  # noqa: ARG002
        """Return the step as it is."""
        return self

    def transform(self, X: Any) -> Vector:
        """Return rows as the next step takes them."""
        rows = check_array(X, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        changed: Vector = self.change.apply(ClientDataset({FEATURES: rows})).arrays[FEATURES]
        return changed

    def __sklearn_is_fitted__(self) -> bool:
        """Return True: there is nothing to fit."""
        return True


def _step(transform: Transform) -> Any:
    if not isinstance(transform, Standardise):
        return Prepared(transform)
    answer = transform.answer
    scaler = StandardScaler()
    scaler.mean_, scaler.var_ = np.array(answer.mean), np.array(answer.variance)
    scaler.scale_ = np.where(is_constant(answer), 1.0, np.sqrt(scaler.var_))
    scaler.n_samples_seen_, scaler.n_features_in_ = round(answer.count), len(answer.mean)
    return scaler


def _named(steps: list[tuple[str, Any]], raw: Schema) -> list[tuple[str, Any]]:
    """Return the steps; the first knows the names of the raw columns, so that a pipeline checks them."""
    first = steps[0][1]
    if isinstance(first, StandardScaler) and are_given(raw.columns):
        first.feature_names_in_ = np.array(raw.columns, dtype=object)
    return steps
