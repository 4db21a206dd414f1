"""Learners that train scikit-learn's estimators. The battery is run in tests/conformance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.metrics import accuracy_score, hinge_loss, log_loss, r2_score, roc_auc_score
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fedloom.algorithms import fedavg, fedprox, scaffold
from fedloom.analytics import standardise
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.learner import Job
from fedloom.core.metrics import merge
from fedloom.core.schedule import Schedule
from fedloom.core.work import LocalWork
from fedloom.data import arrays, iid
from fedloom.engines import RunResult, TrainedModel, local
from fedloom.errors import ComponentError, ConfigError, DataError, PlanError
from fedloom.experiment import Experiment
from fedloom.experiment.config import read_text
from fedloom.learners import logistic, ridge
from fedloom.learners.sklearn_estimator import SklearnLearner, sklearn_estimator
from fedloom.learners.sklearn_fitted import fitted
from fedloom.learners.sklearn_losses import LOSSES
from fedloom.optim import momentum
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import rows, schema_of
from fedloom.testing.fakes import Task

NETWORK = {"hidden_layer_sizes": [5], "activation": "tanh"}
CASES: list[tuple[str, Task, dict[str, Any]]] = [
    ("SGDClassifier", "binary", {}),
    ("SGDClassifier", "classes", {"loss": "log_loss"}),
    ("SGDClassifier", "classes", {"class_weight": {"b": 3.0}, "fit_intercept": False}),
    ("SGDRegressor", "regression", {"loss": "huber", "penalty": "elasticnet"}),
    ("Perceptron", "binary", {}),
    ("PassiveAggressiveClassifier", "classes", {}),
    ("PassiveAggressiveRegressor", "regression", {"loss": "squared_epsilon_insensitive"}),
    ("MLPClassifier", "binary", NETWORK),
    ("MLPClassifier", "classes", NETWORK),
    ("MLPRegressor", "regression", NETWORK),
]
PROBABLE = [("SGDClassifier", {"loss": "log_loss"}), ("MLPClassifier", NETWORK)]
ids = [f"{name}-{task}" for name, task, _ in CASES]


def made(name: str, task: Task, **arguments: Any) -> SklearnLearner:
    learner = sklearn_estimator(name, arguments=arguments).build(schema_of(task))
    assert isinstance(learner, SklearnLearner)
    return learner


def params_of(learner: Any, seed: int = 0) -> Any:
    return learner.init(Key.from_seed(seed)) + 0.3 * Key.from_seed(seed).generator().standard_normal(
        learner.layout.size
    )


def trained(learner: Any, data: ClientDataset, start: Any, schedule: Schedule) -> Any:
    job = Job(LocalWork(start=start, schedule=schedule), data.split("train"), Keys(Key.from_seed(4), NO_SECRET))
    return learner.fit([job])[0]


# ---- Training is scikit-learn's --------------------------------------------------------------------------------------


def begun(estimator: Any, learner: Any, start: Any, classes: int) -> Any:
    """Return scikit-learn's own estimator at a start, reached by its public interface."""
    zeros = np.zeros((1, 3))
    estimator = estimator.partial_fit(zeros, [0], classes=np.arange(classes)) if classes else estimator.partial_fit(
        zeros, [0.0]
    )  # fmt: skip
    leaves = learner.layout.unflatten(start)
    if hasattr(estimator, "coefs_"):
        del estimator._optimizer
        for layer, (coef, intercept) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
            coef[...], intercept[...] = leaves[f"coef_{layer}"], leaves[f"intercept_{layer}"]
    else:
        estimator.coef_ = leaves["coef"].reshape(estimator.coef_.shape).copy()
        estimator.intercept_ = leaves["intercept"].copy()
    return estimator


PLAIN = {"learning_rate": "constant", "shuffle": False}
SGD_NETWORK: dict[str, Any] = {
    **PLAIN, "solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "hidden_layer_sizes": (5,),
    "activation": "tanh", "learning_rate_init": 0.05,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "task", "own"),
    [
        ("SGDClassifier", "binary", SGDClassifier(eta0=0.05, **PLAIN)),
        ("SGDClassifier", "classes", SGDClassifier(eta0=0.05, **PLAIN)),
        ("SGDRegressor", "regression", SGDRegressor(eta0=0.05, **PLAIN)),
        ("Perceptron", "binary", Perceptron(eta0=0.05, shuffle=False)),
        ("MLPClassifier", "classes", MLPClassifier(**SGD_NETWORK)),
        ("MLPRegressor", "regression", MLPRegressor(**SGD_NETWORK)),
    ],
)
def test_local_steps_are_those_of_partial_fit_on_the_scheduled_batches(name: str, task: Task, own: Any) -> None:
    learner = made(name, task, **(NETWORK if "MLP" in name else {}))
    data, start = rows(Key.from_seed(1), 23, task=task), params_of(learner)
    schedule = Schedule(epochs=2, batch_size=6, learning_rate=0.05)
    found = trained(learner, data, start, schedule)
    estimator = begun(own, learner, start, {"binary": 2, "classes": 3, "regression": 0}[task])
    for batch in data.batches(schedule, Key.from_seed(4)):
        valid = batch.weights > 0
        if hasattr(estimator, "coefs_"):
            estimator.batch_size = int(valid.sum())
        estimator.partial_fit(batch.arrays[FEATURES][valid], batch.arrays[LABEL][valid])
    expected = fitted(learner, found.params, schema_of(task))
    for attribute in ("coefs_", "intercepts_") if hasattr(own, "activation") else ("coef_", "intercept_"):
        for mine, theirs in zip(getattr(expected, attribute), getattr(estimator, attribute), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    assert (found.steps, found.examples, found.lr_sum) == (8, 23, pytest.approx(0.4))


@pytest.mark.parametrize(("name", "task", "arguments"), CASES, ids=ids)
def test_a_client_of_one_class_or_one_row_trains(name: str, task: Task, arguments: dict[str, Any]) -> None:
    learner = made(name, task, **arguments)
    data = rows(Key.from_seed(3), 12, task=task)
    one = ClientDataset({**data.arrays, LABEL: np.ones_like(data.arrays[LABEL])}, data.rows)
    for client in (one, rows(Key.from_seed(3), 1, task=task)):
        result = trained(learner, client, params_of(learner), Schedule(epochs=1, batch_size=5))
        assert np.isfinite(result.params).all()
        assert result.params.shape == (learner.layout.size,)


def test_a_client_that_diverges_gives_no_finite_parameters_and_no_exception() -> None:
    for name, arguments in (("SGDRegressor", {}), ("MLPRegressor", {**NETWORK, "activation": "identity"})):
        learner = made(name, "regression", **arguments)
        data = rows(Key.from_seed(1), 30, task="regression")
        wild = ClientDataset({**data.arrays, FEATURES: data.arrays[FEATURES] * 1e150}, data.rows)
        result = trained(learner, wild, params_of(learner), Schedule(epochs=3, batch_size=4, learning_rate=1e200))
        assert not np.isfinite(result.params).all()


def test_labels_outside_the_agreed_classes_are_refused() -> None:
    data = rows(Key.from_seed(1), 10)
    odd = ClientDataset({**data.arrays, LABEL: np.full(10, 7)}, data.rows)
    learner = made("SGDClassifier", "binary")
    with pytest.raises(DataError, match="10 of 10 labels"):
        trained(learner, odd, params_of(learner), Schedule())


def global_state() -> bytes:
    state: Any = np.random.get_state()  # noqa: NPY002
    return bytes(state[1].tobytes()) + bytes([state[2] % 251])


def test_training_leaves_numpys_global_generator_alone() -> None:
    before = global_state()
    for name, arguments in (("SGDClassifier", {}), ("MLPClassifier", NETWORK)):
        learner = made(name, "binary", **arguments)
        trained(learner, rows(Key.from_seed(1), 10), params_of(learner), Schedule())
    assert global_state() == before


# ---- Figures and predictions are scikit-learn's ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "task", "arguments"), CASES, ids=ids)
def test_the_fitted_estimator_predicts_what_the_learner_predicts(
    name: str, task: Task, arguments: dict[str, Any]
) -> None:
    learner, data = made(name, task, **arguments), rows(Key.from_seed(2), 40, task=task)
    params = params_of(learner, 5)
    estimator = fitted(learner, params, schema_of(task))
    found = learner.predict(params, data.arrays[FEATURES])
    if task == "regression":
        np.testing.assert_allclose(found, estimator.predict(data.arrays[FEATURES]), rtol=1e-10, atol=1e-12)
        return
    classes = schema_of(task).classes
    assert classes is not None
    assert [classes[index] for index in found.argmax(axis=1)] == estimator.predict(data.arrays[FEATURES]).tolist()
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(found, estimator.predict_proba(data.arrays[FEATURES]), rtol=1e-10, atol=1e-12)
    else:
        assert set(np.unique(found)) <= {0.0, 1.0}


def test_figures_of_a_margin_are_those_of_sklearn_and_no_others() -> None:
    learner, data = made("SGDClassifier", "binary", alpha=0.5), rows(Key.from_seed(2), 60)
    params = params_of(learner)
    estimator = fitted(learner, params, schema_of("binary"))
    y, x = data.arrays[LABEL], data.arrays[FEATURES]
    scores = learner.evaluate(params, [data])[0].scores
    margin = estimator.decision_function(x)
    assert scores["accuracy"] == pytest.approx(accuracy_score(y, margin > 0))
    assert scores["auroc"] == pytest.approx(roc_auc_score(y, margin), abs=1e-12)
    assert scores["loss"] == pytest.approx(hinge_loss(y, margin), rel=1e-12)
    penalty = 0.25 * float((estimator.coef_**2).sum())
    assert scores["objective"] == pytest.approx(hinge_loss(y, margin) + penalty, rel=1e-12)
    assert not {"log_loss", "brier", "calibration_error"} & {*scores, *learner.evaluation_metrics.kinds}
    merged = learner.figures(learner.evaluate(params, [data])[0].metrics)
    assert not {"log_loss", "brier", "calibration_error"} & merged.keys()


@pytest.mark.parametrize(("name", "arguments"), PROBABLE)
@pytest.mark.parametrize("task", ["binary", "classes"])
def test_the_log_loss_is_that_of_the_estimators_probabilities(name: str, arguments: Any, task: Task) -> None:
    learner, data = made(name, task, **arguments), rows(Key.from_seed(2), 60, task=task)
    params = params_of(learner)
    shares = fitted(learner, params, schema_of(task)).predict_proba(data.arrays[FEATURES])
    expected = log_loss(data.arrays[LABEL], shares)
    result = learner.evaluate(params, [data])[0]
    assert result.scores["log_loss"] == pytest.approx(expected, rel=1e-10)
    assert learner.figures(result.metrics)["log_loss"] == pytest.approx(expected, rel=1e-10)


def test_figures_of_numbers_are_those_of_sklearn() -> None:
    learner, data = made("MLPRegressor", "regression", **NETWORK), rows(Key.from_seed(2), 60, task="regression")
    params = params_of(learner)
    predicted = fitted(learner, params, schema_of("regression")).predict(data.arrays[FEATURES])
    scores = learner.evaluate(params, [data])[0].scores
    assert scores["r2"] == pytest.approx(r2_score(data.arrays[LABEL], predicted), rel=1e-9)
    assert scores["loss"] == pytest.approx(float(np.mean((predicted - data.arrays[LABEL]) ** 2) / 2), rel=1e-12)


def test_merged_metrics_give_the_figures_of_all_rows() -> None:
    learner, whole = made("SGDClassifier", "classes", loss="log_loss"), rows(Key.from_seed(3), 50, task="classes")
    params = params_of(learner)
    sides = (slice(0, 13), slice(13, None))
    parts = [ClientDataset({k: v[side] for k, v in whole.arrays.items()}, {}) for side in sides]
    merged = learner.figures(merge(*(learner.evaluate(params, [part])[0].metrics for part in parts)))
    exact = learner.evaluate(params, [whole])[0].scores
    for name, value in exact.items():
        assert merged[name] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_slope_of_a_loss_is_the_step_that_scikit_learn_takes(loss: str) -> None:
    """One row and no penalty: the step along the intercept is ``-rate * slope``, so the loss is scikit-learn's."""
    learner = made("SGDClassifier", "binary", loss=loss, alpha=0.0, penalty=None)
    for label in (0, 1):
        for place, z in enumerate((-1.7, -0.4, 0.3, 1.9)):
            start = np.array([0.0, 0.0, 0.0, z])
            one = ClientDataset({FEATURES: np.zeros((1, 3)), LABEL: np.array([label])}, {"train": slice(0, 1)})
            moved = trained(learner, one, start, Schedule(steps=1, batch_size="full", learning_rate=1e-3)).params[3] - z
            y, h = np.array([2.0 * label - 1]), 1e-6
            slope = (LOSSES[loss](np.array([z + h]), y, 0.1) - LOSSES[loss](np.array([z - h]), y, 0.1)) / (2 * h)
            assert moved == pytest.approx(-1e-3 * slope[0], abs=1e-8), (label, place)


@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
def test_a_linear_learner_becomes_the_estimator_of_its_objective(task: Task) -> None:
    learner: Any = (ridge if task == "regression" else logistic)().build(schema_of(task))
    params, x = params_of(learner), rows(Key.from_seed(2), 20, task=task).arrays[FEATURES]
    estimator = fitted(learner, params, Schema(("age", "bp", "chol"), "y", schema_of(task).classes))
    assert estimator.feature_names_in_.tolist() == ["age", "bp", "chol"]
    del estimator.feature_names_in_
    found = estimator.predict(x) if task == "regression" else estimator.predict_proba(x)
    np.testing.assert_allclose(found, learner.predict(params, x), rtol=1e-12)


def test_classes_of_the_fitted_estimator_may_be_given_in_any_order() -> None:
    learner = made("MLPClassifier", "classes", **NETWORK)
    params, x = params_of(learner), rows(Key.from_seed(2), 20).arrays[FEATURES]
    estimator = fitted(learner, params, schema_of("classes"), classes=[30, 10, 20])
    guess = learner.predict(params, x).argmax(axis=1)
    assert estimator.predict(x).tolist() == np.array([30, 10, 20])[guess].tolist()


# ---- Runs ------------------------------------------------------------------------------------------------------------


def experiment(learner: Any, *, rounds: int = 3, algorithm: Any = None, task: str = "classification") -> Experiment:
    data = rows(Key.from_seed(5), 240, task="regression" if task == "regression" else "binary").arrays
    label = data[LABEL] if task == "regression" else np.array(["no", "yes"])[data[LABEL]]
    return Experiment(
        data=arrays(data[FEATURES], label, partition=iid(6), task=task),  # type: ignore[arg-type]
        learner=learner,
        algorithm=fedavg(Schedule(epochs=1, batch_size=8, learning_rate=0.02)) if algorithm is None else algorithm,
        stop=max_rounds(rounds),
        seed=3,
    )


@pytest.mark.parametrize(("name", "arguments"), PROBABLE)
def test_one_and_two_workers_and_a_resume_give_the_same_bytes(name: str, arguments: Any, tmp_path: Path) -> None:
    learner = sklearn_estimator(name, arguments=arguments)
    one = local().run(experiment(learner))
    two = local(workers=2, pool="threads").run(experiment(learner))
    assert one.model_sha256 == two.model_sha256
    first = local(checkpoint_s=0).run(experiment(learner, rounds=1), output=tmp_path)
    assert first.folder is not None
    again = local().run(experiment(learner), resume=first.folder)
    assert again.model_sha256 == one.model_sha256
    read = TrainedModel.read(first.folder)
    assert read.learner.layout == one.learner.layout


def test_a_run_from_a_file_is_the_run_from_python(tmp_path: Path) -> None:
    text = """\
seed = 3
data = { name = "sklearn", dataset = "iris", partition = { name = "iid", clients = 3 } }
learner = { name = "sklearn", estimator = "SGDClassifier", arguments = { alpha = 1e-3, loss = "log_loss" } }
algorithm = { name = "fedavg", local = { epochs = 1, batch_size = 10, learning_rate = 0.01 } }
stop = { name = "max_rounds", rounds = 2 }
"""
    from fedloom.data import sklearn_set

    written = read_text(text, name="run.toml", base=tmp_path).experiment
    value = Experiment(
        data=sklearn_set("iris", partition=iid(3)),
        learner=sklearn_estimator("SGDClassifier", arguments={"alpha": 1e-3, "loss": "log_loss"}),
        algorithm=fedavg(Schedule(epochs=1, batch_size=10, learning_rate=0.01)),
        stop=max_rounds(2),
        seed=3,
    )
    assert written.digest == value.digest
    results: list[RunResult] = [local().run(each) for each in (written, value)]
    assert results[0].model_sha256 == results[1].model_sha256


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (scaffold(Schedule()), "linear"),
        (fedprox(Schedule(), mu=0.1), "prox"),
        (fedavg(Schedule(optimizer=momentum())), "plain steps only"),
        (fedavg(Schedule(clip_norm=1.0)), "plain steps only"),
    ],
    ids=["scaffold", "fedprox", "momentum", "clip"],
)
def test_what_an_estimator_cannot_honour_is_refused_before_round_1(algorithm: Any, said: str, tmp_path: Path) -> None:
    refused = experiment(sklearn_estimator("MLPClassifier"), algorithm=algorithm)
    for each in (refused, replace(refused, prepare=[standardise()])):
        with pytest.raises(PlanError, match=said):
            local().run(each, output=tmp_path)
    assert not list(tmp_path.glob("*-*")), "nothing was begun, and nothing was asked"


def test_a_term_that_nobody_announced_is_refused_where_it_arrives() -> None:
    learner = made("SGDClassifier", "binary")
    work = LocalWork(start=params_of(learner), schedule=Schedule(weight_decay=0.1), prox=1.0)
    with pytest.raises(ComponentError, match="a proximal term and an optimizer"):
        learner.fit([Job(work, rows(Key.from_seed(1), 5).split("train"), Keys(Key.from_seed(1), NO_SECRET))])


def test_an_error_in_a_file_names_the_line_and_the_nearest_spelling(tmp_path: Path) -> None:
    text = """\
seed = 3
data = { name = "hospitals" }
[learner]
name = "sklearn"
estimator = "SGDClassifier"
arguments = { los = "hinge" }
[algorithm]
name = "fedsgd"
learning_rate = 0.1
[stop]
name = "max_rounds"
rounds = 2
"""
    with pytest.raises(ConfigError, match=r"run.toml:6: learner.arguments: .*did you mean `loss`"):
        read_text(text, name="run.toml", base=tmp_path)


# ---- What is refused when it is written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("SGDClasifier", {}, "did you mean `SGDClassifier`"),
        ("LogisticRegression", {}, 'learner "logistic"'),
        ("RandomForestClassifier", {}, "does not train inside a round"),
        ("SGDClassifier", {"alfa": 1.0}, "did you mean `alpha`"),
        ("SGDClassifier", {"eta0": 0.1}, "not for a file to set"),
        ("MLPClassifier", {"batch_size": 3}, "those of the schedule"),
        ("SGDClassifier", {"loss": "hing"}, "refuses its arguments"),
        ("SGDClassifier", {"alpha": -1.0}, "refuses its arguments"),
        ("SGDClassifier", {"class_weight": "balanced"}, "expected a table"),
        ("MLPClassifier", {"solver": "lbfgs"}, "refuses its arguments"),
        ("MLPClassifier", {"hidden_layer_sizes": [0]}, "refuses its arguments"),
    ],
)
def test_names_and_arguments_that_do_not_fit_are_refused(name: str, arguments: Any, said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        sklearn_estimator(name, arguments=arguments)


@pytest.mark.parametrize(
    ("name", "schema", "arguments", "said"),
    [
        ("SGDClassifier", Schema(("x",), "y", None), {}, "needs two classes"),
        ("SGDClassifier", Schema(("x",), "y", ("only",)), {}, "needs two classes"),
        ("SGDRegressor", Schema(("x",), "y", ("no", "yes")), {}, "predicts numbers"),
        ("Perceptron", Schema(("x",), "y", ("no", "yes")), {"class_weight": {"maybe": 1.0}}, "maybe"),
    ],
)
def test_labels_that_do_not_fit_are_refused_when_the_schema_is_agreed(
    name: str, schema: Schema, arguments: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        sklearn_estimator(name, arguments=arguments).build(schema)
