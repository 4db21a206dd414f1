"""Scikit-learn's own checks of an estimator: one table without groups is one silo."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedloom.estimators import (
    FederatedGaussianNB,
    FederatedKMeans,
    FederatedLinearRegression,
    FederatedLogisticRegression,
    FederatedMLPClassifier,
    FederatedStandardScaler,
)

ESTIMATORS = [
    FederatedGaussianNB(),
    FederatedKMeans(),
    FederatedLinearRegression(),
    FederatedLogisticRegression(rounds=500),
    FederatedMLPClassifier((8,), rounds=30),
    FederatedStandardScaler(),
]


# One check weighs a class 10 million times more than another: no descent is at rest after the rounds of a default.
@pytest.mark.filterwarnings("ignore:.*moved by more than tol:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(ESTIMATORS)  # type: ignore[untyped-decorator]
def test_what_scikit_learn_asks_of_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)
