"""The same coefficients as scikit-learn, where the two minimise the same function."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge

from fedloom.algorithms import fedavg, fedsgd
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema
from fedloom.core.learner import Learner
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.learners import logistic, ridge
from fedloom.optim import momentum
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import ListDataset, plan_for, simulate

HEART = Path(__file__).parents[3] / "shared" / "data" / "heart_disease"
SITES = ("cleveland", "hungarian", "switzerland", "va")


def standardised(features: Vector) -> Vector:
    std = features.std(axis=0)
    scaled: Vector = (features - features.mean(axis=0)) / np.where(std == 0, 1.0, std)
    return scaled


def dataset(tables: Mapping[str, tuple[Vector, Vector]], classes: tuple[str, ...] | None) -> ListDataset:
    clients = {
        name: ClientDataset({FEATURES: x, LABEL: y}, {"train": slice(0, len(y))}) for name, (x, y) in tables.items()
    }
    width = next(iter(tables.values()))[0].shape[1]
    return ListDataset(clients, Schema(tuple(f"x{j}" for j in range(width)), "y", classes))


def smoothness(features: Vector, *, curvature: float, l2: float) -> float:
    """Return L: the largest eigenvalue of the second moment, with an intercept, times the loss's curvature."""
    rows = np.column_stack([features, np.ones(len(features))])
    return float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]) * curvature + l2


def fitted(
    data: ListDataset, learner: Learner, rate: float, *, steps: int, rounds: int, beta: float = 0.0
) -> dict[str, Vector]:
    """Return the leaves after federated training: one client's full-batch local steps are as many rounds of FedSGD."""
    local = Schedule(steps=steps, batch_size="full", learning_rate=rate, optimizer=momentum(beta) if beta else None)
    run = simulate(plan_for(data, fedavg(local), learner, stop=max_rounds(rounds)), data)
    return learner.layout.unflatten(run.params)


def sklearn_logistic(features: Vector, label: Vector, **arguments: Any) -> LogisticRegression:
    return LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000, **arguments).fit(features, label)


def test_breast_cancer_has_the_coefficients_of_sklearn() -> None:
    features, label = load_breast_cancer(return_X_y=True)
    features = standardised(features)
    l2 = 1.0 / len(label)
    data = dataset({"all": (features, label)}, ("malignant", "benign"))
    rate = 1.0 / smoothness(features, curvature=0.25, l2=l2)
    found = fitted(data, logistic(l2=l2).build(data.schema()), rate, steps=300, rounds=5, beta=0.95)
    expected = sklearn_logistic(features, label)
    np.testing.assert_allclose(found["coef"], expected.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["intercept"], expected.intercept_, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_breast_cancer_by_plain_steps_of_one_over_l() -> None:
    features, label = load_breast_cancer(return_X_y=True)
    features = standardised(features)
    l2 = 1.0 / len(label)
    data = dataset({"all": (features, label)}, ("malignant", "benign"))
    rate = 1.0 / smoothness(features, curvature=0.25, l2=l2)
    found = fitted(data, logistic(l2=l2).build(data.schema()), rate, steps=1000, rounds=25)
    np.testing.assert_allclose(found["coef"], sklearn_logistic(features, label).coef_, rtol=0, atol=1e-4)


def test_iris_has_the_coefficients_of_multinomial_sklearn() -> None:
    features, label = load_iris(return_X_y=True)
    features = standardised(features)
    l2 = 1.0 / len(label)
    data = dataset({"all": (features, label)}, ("setosa", "versicolor", "virginica"))
    rate = 1.0 / smoothness(features, curvature=0.5, l2=l2)
    found = fitted(data, logistic(l2=l2).build(data.schema()), rate, steps=300, rounds=4, beta=0.95)
    expected = sklearn_logistic(features, label)
    np.testing.assert_allclose(found["coef"], expected.coef_, rtol=0, atol=1e-4)
    # Only differences of intercepts are determined: scikit-learn centres them, and so does a start at zero.
    np.testing.assert_allclose(found["intercept"], expected.intercept_, rtol=0, atol=1e-4)


def test_class_weights_are_those_of_sklearn() -> None:
    features, label = load_breast_cancer(return_X_y=True)
    features, label = standardised(features)[:200, :8], label[:200]
    l2 = 1.0 / len(label)
    data = dataset({"all": (features, label)}, ("malignant", "benign"))
    learner = logistic(l2=l2, class_weight={"malignant": 0.4, "benign": 2.5}).build(data.schema())
    rate = 1.0 / (2.5 * smoothness(features, curvature=0.25, l2=l2))
    found = fitted(data, learner, rate, steps=300, rounds=5, beta=0.95)
    expected = sklearn_logistic(features, label, class_weight={0: 0.4, 1: 2.5})
    np.testing.assert_allclose(found["coef"], expected.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["intercept"], expected.intercept_, rtol=0, atol=1e-4)


def test_iris_with_class_weights_is_that_of_sklearn() -> None:
    features, label = load_iris(return_X_y=True)
    features = standardised(features)
    l2 = 1.0 / len(label)
    data = dataset({"all": (features, label)}, ("a", "b", "c"))
    learner = logistic(l2=l2, class_weight={"a": 0.5, "c": 2.0}).build(data.schema())
    rate = 1.0 / smoothness(features, curvature=1.0, l2=l2)
    found = fitted(data, learner, rate, steps=400, rounds=4, beta=0.95)
    expected = sklearn_logistic(features, label, class_weight={0: 0.5, 1: 1.0, 2: 2.0})
    np.testing.assert_allclose(found["coef"], expected.coef_, rtol=0, atol=1e-4)


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_that_of_sklearn_with_alpha_l2_times_n(intercept: bool) -> None:
    features, label = load_diabetes(return_X_y=True)
    features, label = standardised(features), (label - 100.0) / 50.0
    l2 = 0.05
    data = dataset({"all": (features, label)}, None)
    learner = ridge(l2=l2, intercept=intercept).build(data.schema())
    rate = 1.0 / smoothness(features, curvature=1.0, l2=l2)
    found = fitted(data, learner, rate, steps=300, rounds=3, beta=0.9)
    expected = Ridge(alpha=l2 * len(label), fit_intercept=intercept).fit(features, label)
    np.testing.assert_allclose(found["coef"][0], expected.coef_, rtol=0, atol=1e-8)
    if intercept:
        np.testing.assert_allclose(found["intercept"][0], expected.intercept_, rtol=0, atol=1e-8)


# ---- Heart disease: four hospitals ----------------------------------------------------------------------------------


def lines_of(name: str) -> list[str]:
    return (HEART / name).read_text().splitlines()


def hospitals() -> dict[str, tuple[Vector, Vector]]:
    """Return raw features and label of the training rows of each hospital, prepared as the folder's README says."""
    folds = {(row["hospital"], int(row["row"])): row["fold"] for row in csv.DictReader(lines_of("splits.csv"))}
    lines = {site: list(csv.reader(lines_of(f"processed.{site}.data"))) for site in SITES}
    kept = {
        site: [(n, [v for j, v in enumerate(row) if j not in (10, 11, 12)]) for n, row in enumerate(rows)]
        for site, rows in lines.items()
    }
    complete = {site: [(n, list(map(float, row))) for n, row in rows if "?" not in row] for site, rows in kept.items()}
    levels = {column: sorted({row[column] for rows in complete.values() for _, row in rows}) for column in (2, 6)}
    tables = {}
    for site, rows in complete.items():
        train = [row for n, row in rows if folds[site, n] == "train"]
        numbers = [[row[j] for j in (0, 1, 3, 4, 5, 7, 8, 9)] for row in train]
        hot = [[float(row[c] == level) for c in (2, 6) for level in levels[c][1:]] for row in train]
        label = np.array([int(row[10] > 0) for row in train])
        tables[site] = np.column_stack([numbers, hot]), label
    return tables


@pytest.fixture(scope="module")
def heart() -> ListDataset:
    if not HEART.is_dir():
        pytest.skip(f"the heart disease data are not at {HEART}")
    tables = hospitals()
    assert {site: len(label) for site, (_, label) in tables.items()} == dict(
        zip(SITES, (199, 172, 30, 85), strict=True)
    )
    pooled = np.concatenate([x for x, _ in tables.values()])
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    scaled = {site: ((x - mean) / np.where(std == 0, 1.0, std), y) for site, (x, y) in tables.items()}
    return dataset(scaled, ("healthy", "diseased"))


def test_four_hospitals_by_fedsgd_have_the_coefficients_of_pooled_sklearn(heart: ListDataset) -> None:
    features = np.concatenate([heart.clients[site].arrays[FEATURES] for site in SITES])
    label = np.concatenate([heart.clients[site].arrays[LABEL] for site in SITES])
    assert features.shape == (486, 13)
    l2 = 1.0 / len(label)
    learner = logistic(l2=l2).build(heart.schema())
    rate = 1.0 / smoothness(features, curvature=0.25, l2=l2)
    run = simulate(plan_for(heart, fedsgd(rate), learner, stop=max_rounds(1000)), heart)
    found = learner.layout.unflatten(run.params)
    expected = sklearn_logistic(features, label)
    np.testing.assert_allclose(found["coef"], expected.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["intercept"], expected.intercept_, rtol=0, atol=1e-4)


def test_four_hospitals_take_the_same_path_as_one(heart: ListDataset) -> None:
    learner = logistic(l2=1 / 486).build(heart.schema())
    together = {site: (heart.clients[site].arrays[FEATURES], heart.clients[site].arrays[LABEL]) for site in SITES}
    pooled = dataset({"all": tuple(np.concatenate(a) for a in zip(*together.values(), strict=True))}, ("h", "d"))  # type: ignore[dict-item]
    paths = [
        simulate(plan_for(data, fedsgd(1.0), learner, stop=max_rounds(50)), data).params for data in (heart, pooled)
    ]
    np.testing.assert_allclose(paths[0], paths[1], rtol=0, atol=1e-12)
