"""Estimators over silos: the figures of scikit-learn on all rows together, and what is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fedloom as fl
from fedloom.errors import ComponentError, PlanError
from fedloom.estimators import (
    FederatedGaussianNB,
    FederatedKMeans,
    FederatedLinearRegression,
    FederatedLogisticRegression,
    FederatedMLPClassifier,
    FederatedStandardScaler,
    SiloError,
    to_sklearn,
)

IRIS = load_iris(return_X_y=True)
CANCER = load_breast_cancer(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def silos_of(table: Any, count: int = 3) -> dict[str, Any]:
    """Return silos that differ: rows sorted by their first column, in parts of unequal size."""
    X, y = table
    order = np.argsort(X[:, 0], kind="stable")
    cuts = [round(len(y) * (place / count) ** 1.5) for place in range(count + 1)]
    parts = [order[start:stop] for start, stop in itertools.pairwise(cuts)]
    return {f"silo-{number}": (X[rows], y[rows]) for number, rows in enumerate(parts)}


def rows_of(silos: dict[str, Any]) -> tuple[Any, Any]:
    return np.concatenate([x for x, _ in silos.values()]), np.concatenate([y for _, y in silos.values()])


# ---- The same as scikit-learn on all rows together -------------------------------------------------------------------


@pytest.mark.parametrize("table", [CANCER, IRIS], ids=["breast cancer", "iris"])
def test_logistic_regression_has_the_coefficients_of_all_rows(table: Any) -> None:
    silos = silos_of(table)
    X, y = rows_of(silos)
    model = FederatedLogisticRegression().fit(silos)
    scaler = StandardScaler().fit(X)
    pooled = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaler.transform(X), y)
    np.testing.assert_allclose(model.coef_ * scaler.scale_, pooled.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.predict_proba(X), pooled.predict_proba(scaler.transform(X)), rtol=0, atol=1e-4)
    assert model.score(X, y) == pooled.score(scaler.transform(X), y)


def test_logistic_regression_of_rows_as_they_are() -> None:
    silos = silos_of((StandardScaler().fit_transform(IRIS[0]) + 0.5, IRIS[1]))
    X, y = rows_of(silos)
    model = FederatedLogisticRegression(C=0.3, preparation=None).fit(silos)
    pooled = LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(model.coef_, pooled.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.intercept_ - model.intercept_.mean(), pooled.intercept_, rtol=0, atol=1e-4)


def test_class_weights_are_those_of_scikit_learn() -> None:
    X, y = CANCER
    scaled = StandardScaler().fit_transform(X)
    labels = np.array(["malignant", "benign"])[y]
    weights = {"malignant": 3.0}
    model = FederatedLogisticRegression(C=0.1, class_weight=weights, preparation=None).fit(scaled, labels)
    pooled = LogisticRegression(C=0.1, class_weight=weights, tol=1e-10, max_iter=10_000).fit(scaled, labels)
    np.testing.assert_allclose(model.coef_, pooled.coef_, rtol=0, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["fedsgd", "scaffold"])
def test_other_algorithms_come_to_rest_at_the_same_place(algorithm: str) -> None:
    silos = silos_of(IRIS)
    binary = {name: (x, y > 0) for name, (x, y) in silos.items()}
    arguments: dict[str, Any] = {"C": 0.05, "rounds": 3000, "tol": 1e-7}
    expected = FederatedLogisticRegression(**arguments).fit(binary)
    more: dict[str, Any] = {} if algorithm == "fedsgd" else {"batch_size": "full", "epochs": 3, "learning_rate": 0.3}
    model = FederatedLogisticRegression(algorithm=algorithm, **arguments, **more).fit(binary)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 20.0])
def test_linear_regression_has_the_coefficients_of_all_rows(alpha: float) -> None:
    silos = silos_of(DIABETES)
    X, y = rows_of(silos)
    model = FederatedLinearRegression(alpha=alpha).fit(silos)
    scaler = StandardScaler().fit(X)
    pooled = (Ridge(alpha=alpha) if alpha else LinearRegression()).fit(scaler.transform(X), y)
    np.testing.assert_allclose(model.coef_ * scaler.scale_, pooled.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.predict(X), pooled.predict(scaler.transform(X)), rtol=0, atol=1e-4)


def test_gaussian_naive_bayes_is_that_of_all_rows() -> None:
    silos = silos_of(CANCER)
    X, y = rows_of(silos)
    model, pooled = FederatedGaussianNB(var_smoothing=1e-6).fit(silos), GaussianNB(var_smoothing=1e-6).fit(X, y)
    for attribute in ("theta_", "var_", "class_prior_", "class_count_", "epsilon_"):
        np.testing.assert_allclose(getattr(model, attribute), getattr(pooled, attribute), rtol=1e-9)
    np.testing.assert_allclose(model.predict_log_proba(X), pooled.predict_log_proba(X), rtol=1e-6)


def test_k_means_is_lloyds_algorithm_on_all_rows() -> None:
    silos = silos_of(IRIS)
    X, _ = rows_of(silos)
    start = X[[3, 60, 140, 20]]
    model = FederatedKMeans(4, init=start, tol=0.0).fit(silos)
    pooled = KMeans(4, init=start, n_init=1, tol=0.0, algorithm="lloyd").fit(X)
    np.testing.assert_allclose(model.cluster_centers_, pooled.cluster_centers_, rtol=1e-9)
    assert model.inertia_ == pytest.approx(pooled.inertia_, rel=1e-9)
    assert np.concatenate(list(model.labels_.values())).tolist() == pooled.labels_.tolist()
    assert model.predict(X).tolist() == pooled.predict(X).tolist()
    np.testing.assert_allclose(model.transform(X), pooled.transform(X), rtol=1e-9)


def test_k_means_from_drawn_starts_is_as_tight_as_that_of_scikit_learn() -> None:
    found = FederatedKMeans(3).fit(silos_of(IRIS))
    best = KMeans(3, n_init=20, random_state=0).fit(IRIS[0])
    assert found.inertia_ <= 1.001 * best.inertia_


def test_a_centre_without_rows_is_put_to_use() -> None:
    X = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    far = FederatedKMeans(3, init=np.array([[1.0], [6.0], [1e6]])).fit(X)
    assert sorted(far.cluster_centers_.ravel().round(6).tolist()) == [0.05, 5.05, 9.05]


def test_a_scaler_is_that_of_all_rows() -> None:
    silos = silos_of(CANCER)
    X, _ = rows_of(silos)
    model, pooled = FederatedStandardScaler().fit(silos), StandardScaler().fit(X)
    for attribute in ("mean_", "var_", "scale_"):
        np.testing.assert_allclose(getattr(model, attribute), getattr(pooled, attribute), rtol=1e-9)
    assert model.n_samples_seen_ == pooled.n_samples_seen_
    np.testing.assert_allclose(model.transform(X), pooled.transform(X), atol=1e-9)
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, rtol=1e-12, atol=1e-12)


def test_a_network_learns_and_its_predictions_are_its_estimators() -> None:
    silos = silos_of(IRIS)
    X, y = rows_of(silos)
    model = FederatedMLPClassifier((16,), rounds=40, epochs=2, batch_size=8, learning_rate=0.2).fit(silos)
    assert model.score(X, y) > 0.93
    assert [coef.shape for coef in model.coefs_] == [(4, 16), (16, 3)]
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    exported = to_sklearn(model.result_, classes=model.classes_)
    np.testing.assert_allclose(exported.predict_proba(X), model.predict_proba(X), rtol=1e-9)


# ---- One table and groups, names, history ----------------------------------------------------------------------------


def test_a_mapping_and_groups_give_the_same_model() -> None:
    silos = silos_of(IRIS)
    X, y = rows_of(silos)
    groups = np.repeat(list(silos), [len(label) for _, label in silos.values()])
    one, two = FederatedLogisticRegression().fit(silos), FederatedLogisticRegression().fit(X, y, groups=groups)
    assert one.result_.model_sha256 == two.result_.model_sha256
    shuffled = np.random.default_rng(0).permutation(len(y))
    labels = FederatedKMeans(3).fit(X[shuffled], groups=groups[shuffled]).labels_
    assert labels[np.argsort(shuffled)].tolist() == FederatedKMeans(3).fit(X, groups=groups).labels_.tolist()


def test_the_engine_the_seed_and_an_algorithm_are_parameters() -> None:
    silos = silos_of(IRIS)
    local = fl.fedprox(fl.Schedule(epochs=2, batch_size=8, learning_rate=0.05), mu=0.1)
    made: dict[str, Any] = {"algorithm": local, "rounds": 4, "tol": 0.0}
    one = FederatedLogisticRegression(**made, seed=1).fit(silos)
    two = FederatedLogisticRegression(**made, seed=1, engine=fl.local(workers=2)).fit(silos)
    other = FederatedLogisticRegression(**made, seed=2).fit(silos)
    assert one.result_.model_sha256 == two.result_.model_sha256 != other.result_.model_sha256


def test_the_history_has_a_row_for_each_round() -> None:
    model = FederatedLogisticRegression(algorithm="fedavg", rounds=5, tol=0.0).fit(silos_of(IRIS))
    assert [row["round"] for row in model.history_] == [1, 2, 3, 4, 5]
    assert model.n_iter_ == 5
    assert {"silos", "bytes_up", "fit/loss", "step/norm", "train/objective"} <= model.history_[-1].keys()
    assert model.history_[-1]["fit/loss"] < model.history_[0]["fit/loss"]


def test_names_of_columns_are_kept_and_checked() -> None:
    pandas = pytest.importorskip("pandas", reason="a data frame is needed")
    names = ["a", "b", "c", "d"]
    silos = {name: (pandas.DataFrame(x, columns=names), y) for name, (x, y) in silos_of(IRIS).items()}
    model = FederatedLogisticRegression().fit(silos)
    assert model.feature_names_in_.tolist() == names
    assert model.result_.raw.columns == tuple(names)
    silos["silo-1"] = (silos["silo-1"][0][["b", "a", "c", "d"]], silos["silo-1"][1])
    with pytest.raises(SiloError, match=r"'silo-1'.*names"):
        FederatedLogisticRegression().fit(silos)


# ---- Scikit-learn's tools --------------------------------------------------------------------------------------------


def test_clone_pickle_and_pipelines() -> None:
    X, y = IRIS
    model = FederatedLogisticRegression(C=0.5, algorithm=fl.fedsgd(0.3), rounds=20, tol=0.0)
    again = clone(model)
    assert again.get_params()["C"] == 0.5
    assert again.set_params(C=2.0).C == 2.0
    model.fit(X, y)
    kept = pickle.loads(pickle.dumps(FederatedLogisticRegression(C=0.5).fit(X, y)))
    assert kept.predict(X).shape == (150,) and kept.history_ and not hasattr(kept, "result_")
    assert not hasattr(clone(model), "coef_")
    assert copy.deepcopy(kept).C == 0.5
    pipeline = make_pipeline(FederatedStandardScaler(), FederatedLogisticRegression(preparation=None))
    assert pipeline.fit(X, y).score(X, y) > 0.95
    groups = np.arange(150) % 3
    routed = make_pipeline(StandardScaler(), FederatedLogisticRegression())
    routed.fit(X, y, federatedlogisticregression__groups=groups)
    assert routed[-1].history_[-1]["silos"] == 3


def test_grid_search_and_cross_validation_with_groups() -> None:
    X, y = IRIS
    # Fit parameters of one entry a row are cut with the rows: each fold has the silos of its own rows.
    groups = np.arange(150) % 4
    with config_context(enable_metadata_routing=True):
        estimator = FederatedLogisticRegression().set_fit_request(groups=True)
        search = GridSearchCV(estimator, {"C": [0.01, 1.0]}, cv=3).fit(X, y, groups=groups)
    assert search.best_estimator_.history_[-1]["silos"] == 4
    assert search.best_params_ == {"C": 1.0}
    assert cross_val_score(FederatedGaussianNB(), X, y, cv=3).mean() > 0.9


# ---- Refused ---------------------------------------------------------------------------------------------------------


def table(count: int, columns: int = 2) -> tuple[Any, Any]:
    draw = np.random.default_rng(count).standard_normal((count, columns))
    return draw, (draw[:, 0] > 0).astype(int)


@pytest.mark.parametrize(
    ("silos", "said"),
    [
        ({}, "no silos"),
        ({"a": table(9), "b": (np.empty((0, 2)), np.empty(0))}, "silo 'b': has no rows"),
        ({"a": table(9), "b": table(9, 3)}, "silo 'b': X has 3 features"),
        ({"a": table(9), "b": table(9)[0]}, "silo 'b' is a ndarray; expected a pair"),
        ({"a": table(9), "b": (table(9)[0], table(8)[1])}, "silo 'b': .*inconsistent numbers"),
        ({"a": table(9), "b": (np.full((2, 2), np.nan), [0, 1])}, "silo 'b': .*NaN"),
        ({"a": table(9), "b": (table(3)[0], ["x", "y", "x"])}, "labels that are text"),
        ({"a": (table(9)[0], np.zeros(9)), "b": (table(3)[0], np.zeros(3))}, "one class"),
        ({"a": table(9), "b": (table(3)[0], [0.5, 1.5, 2.5])}, "silo 'b': .*continuous"),
        ({1: table(9), "1": table(9)}, "two silos have one name"),
    ],
    ids=["none", "no rows", "columns", "no pair", "lengths", "missing", "kinds", "one class", "numbers", "names"],
)
def test_silos_that_cannot_be_used_are_refused_by_name(silos: Any, said: str) -> None:
    with pytest.raises(SiloError, match=said) as caught:
        FederatedLogisticRegression().fit(silos)
    assert isinstance(caught.value, ValueError | fl.DataError)
    assert "\n" not in str(caught.value).split(".")[0]


def test_groups_that_do_not_fit_are_refused() -> None:
    X, y = table(9)
    with pytest.raises(SiloError, match="missing values"):
        FederatedLogisticRegression().fit(X, y, groups=["a"] * 8 + [None])
    with pytest.raises(ValueError, match="inconsistent"):
        FederatedLogisticRegression().fit(X, y, groups=["a"] * 8)
    with pytest.raises(SiloError, match="the mapping says both"):
        FederatedLogisticRegression().fit({"a": (X, y)}, y)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [("scaffold", "linear"), (fl.fedprox(fl.Schedule(), mu=0.1), "prox"),
     (fl.fedavg(fl.Schedule(optimizer=fl.momentum())), "plain steps")],
    ids=["scaffold", "fedprox", "momentum"],
)  # fmt: skip
def test_a_network_refuses_terms_before_round_1(algorithm: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        FederatedMLPClassifier(algorithm=algorithm).fit(silos_of(IRIS))


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (FederatedLogisticRegression(C=0.0), "C = 0.0"),
        (FederatedLogisticRegression(algorithm="fedprox"), "expected one of accelerated"),
        (FederatedLogisticRegression(preparation="scale"), "preparation"),  # type: ignore[arg-type]
        (FederatedLogisticRegression(class_weight="balanced"), "mapping"),  # type: ignore[arg-type]
        (FederatedLinearRegression(alpha=-1.0), "alpha"),
        (FederatedKMeans(init="k-means++"), "publishes"),
        (FederatedKMeans(0), "n_clusters"),
        (FederatedMLPClassifier((0,)), "hidden_layer_sizes"),
    ],
)
def test_parameters_outside_their_range_are_refused_when_it_is_fitted(estimator: Any, said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        estimator.fit(*table(9))


def test_what_is_not_fitted_and_what_did_not_come_to_rest_says_so() -> None:
    with pytest.raises(NotFittedError):
        FederatedLogisticRegression().predict(IRIS[0])
    with pytest.warns(ConvergenceWarning, match="raise rounds"):
        FederatedLogisticRegression(rounds=5).fit(*IRIS)


# ---- Out of a run ----------------------------------------------------------------------------------------------------


def test_the_model_of_a_run_is_a_pipeline_that_predicts_raw_rows() -> None:
    data = fl.data.sklearn_set("wine", partition=fl.data.iid(3))
    for preparation, first in ((fl.standardise(), "StandardScaler"), (fl.standardise(["alcohol"]), "Prepared")):
        for learner in (fl.logistic(), fl.sklearn_estimator("Perceptron")):
            run = fl.local().run(
                fl.Experiment(
                    data=data,
                    prepare=[preparation],
                    learner=learner,
                    algorithm=fl.fedavg(fl.Schedule(epochs=1, batch_size=16, learning_rate=0.05)),
                    stop=fl.max_rounds(2),
                    seed=1,
                    compare=False,
                )
            )
            pipeline = to_sklearn(run)
            assert type(pipeline[0]).__name__ == first
            if first == "StandardScaler":
                assert pipeline[0].feature_names_in_.tolist() == list(data.schema().columns)
                del pipeline[0].feature_names_in_
            rows = data.features
            guess = np.array(data.schema().classes)[run.model.predict(fl.ClientDataset({"features": rows})).argmax(1)]
            assert pipeline.predict(rows).tolist() == guess.tolist()
