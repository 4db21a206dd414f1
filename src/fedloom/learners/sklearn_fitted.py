"""Fitted scikit-learn estimators from parameters: what a federation trained, where scikit-learn is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedloom.core.data import Schema
from fedloom.core.learner import Learner
from fedloom.core.params import Vector
from fedloom.errors import ComponentError
from fedloom.learners.linear import LinearLearner
from fedloom.learners.sklearn_estimator import SklearnLearner


def fitted(learner: Learner, params: Vector, schema: Schema, *, classes: Sequence[Any] | Vector | None = None) -> Any:
    """Return a fitted scikit-learn estimator that predicts what a learner predicts.

    Logistic regression becomes ``LogisticRegression``, ridge regression ``Ridge``; a learner that trains an estimator
    of scikit-learn becomes that one. Preparations are not part of it: it takes rows as the learner takes them.

    Args:
        learner: What trained.
        params: Its parameters.
        schema: What it was built for.
        classes: The labels that ``predict`` shall return, in the order of the schema's classes; None: the names of the
            schema, as whole numbers where all of them are.

    Raises:
        ComponentError: When scikit-learn has no estimator for the learner.

    Example:
        >>> from fedloom.learners.linear import logistic
        >>> schema = Schema(("age", "bp"), "ill", ("0", "1"))
        >>> model = fitted(logistic().build(schema), np.array([1.0, -1.0, 0.5]), schema)
        >>> model.coef_.tolist(), model.classes_.tolist()
        ([[1.0, -1.0]], [0, 1])
    """
    match learner:
        case LinearLearner():
            estimator = _linear(learner, params)
        case SklearnLearner():
            estimator = learner.fitted(params)
        case _:
            raise ComponentError(
                f"{type(learner).__name__} has no counterpart in scikit-learn; expected a learner logistic, ridge or "
                "sklearn. Use result.model to predict"
            )
    if schema.classes is not None:
        _name_classes(estimator, named_classes(schema.classes) if classes is None else np.asarray(classes))
    estimator.n_features_in_ = len(schema.columns)
    if are_given(schema.columns):
        estimator.feature_names_in_ = np.array(schema.columns, dtype=object)
    return estimator


def are_given(columns: Sequence[str]) -> bool:
    """Return whether somebody named the columns: an estimator that knows names warns about arrays, which have none.

    Example:
        >>> are_given(("x0", "x1")), are_given(("age", "bp"))
        (False, True)
    """
    return tuple(columns) != tuple(f"x{place}" for place in range(len(columns)))


def named_classes(classes: Sequence[str]) -> Any:
    """Return the labels that names of classes stand for: whole numbers where all of them are.

    Example:
        >>> named_classes(("0", "1")).tolist(), named_classes(("0", "x")).tolist()
        ([0, 1], ['0', 'x'])
    """
    try:
        numbers = [int(name) for name in classes]
    except ValueError:
        return np.array(classes)
    return np.array(numbers if [str(number) for number in numbers] == list(classes) else classes)


def _linear(learner: LinearLearner, params: Vector) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    leaves = learner.layout.unflatten(np.array(params))
    intercept = learner.model.intercept
    if not learner.model.loss.classes:
        ridge = Ridge(fit_intercept=intercept)
        ridge.coef_ = leaves["coef"][0]
        ridge.intercept_ = float(leaves["intercept"][0]) if intercept else 0.0
        return ridge
    logistic = LogisticRegression(fit_intercept=intercept)
    logistic.coef_ = leaves["coef"]
    logistic.intercept_ = leaves.get("intercept", np.zeros(learner.model.outputs, learner.model.dtype))
    logistic.n_iter_ = np.zeros(1, np.int32)
    return logistic


def _name_classes(estimator: Any, classes: Any) -> None:
    weights = getattr(estimator, "class_weight", None)
    if weights:
        estimator.class_weight = {classes.tolist()[index]: weight for index, weight in weights.items()}
    estimator.classes_ = classes
    if hasattr(estimator, "_label_binarizer"):
        estimator._label_binarizer.classes_ = classes  # a network looks its classes up here, by place
