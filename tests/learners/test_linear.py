"""Linear learners: objective, evaluation and bytes in blocks. The battery is run in tests/conformance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    r2_score,
    roc_auc_score,
)

from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema
from fedloom.core.keys import NO_SECRET, Key, Keys
from fedloom.core.learner import Job
from fedloom.core.metrics import merge
from fedloom.core.params import Dtype
from fedloom.core.schedule import Schedule
from fedloom.core.work import LocalWork
from fedloom.errors import ComponentError, DataError
from fedloom.learners import LinearLearner, logistic, ridge
from fedloom.optim import adam, momentum
from fedloom.testing import rows, schema_of
from fedloom.testing.fakes import Task

quick = settings(max_examples=40, derandomize=True, database=None, deadline=None)
MADE: dict[Task, Any] = {"binary": logistic, "classes": logistic, "regression": ridge}


def made(task: Task, **arguments: Any) -> LinearLearner:
    learner = MADE[task](**arguments).build(schema_of(task))
    assert isinstance(learner, LinearLearner)
    return learner


def params_of(learner: LinearLearner, seed: int = 0) -> Any:
    return (0.5 * Key.from_seed(seed).generator().standard_normal(learner.layout.size)).astype(learner.dtype)


def probabilities(learner: LinearLearner, params: Any, features: Any) -> Any:
    leaves = learner.layout.unflatten(params)
    z = features @ leaves["coef"].T + leaves.get("intercept", 0.0)
    if z.shape[1] == 1:
        z = np.column_stack([np.zeros(len(z)), z[:, 0]])
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("penalise", [False, True])
@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
def test_the_objective_is_mean_loss_plus_half_l2_of_the_penalised(task: Task, penalise: bool) -> None:
    learner = made(task, l2=0.3, penalise_intercept=penalise)
    data, params = rows(Key.from_seed(1), 25, task=task), params_of(learner)
    x, y = data.arrays[FEATURES], data.arrays[LABEL]
    leaves = learner.layout.unflatten(params)
    if task == "regression":
        loss = float(np.mean((x @ leaves["coef"][0] + leaves["intercept"][0] - y) ** 2) / 2)
    else:
        loss = float(-np.log(probabilities(learner, params, x)[np.arange(25), y]).mean())
    penalty = 0.15 * float((leaves["coef"] ** 2).sum() + penalise * (leaves["intercept"] ** 2).sum())
    assert learner.gradient(params, data).loss == pytest.approx(loss + penalty, rel=1e-12)
    metrics = learner.evaluate(params, [data])[0].metrics
    assert metrics["loss"].value == pytest.approx(loss, rel=1e-12)  # type: ignore[union-attr]
    assert metrics["objective"].value == pytest.approx(loss + penalty, rel=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize("task", ["binary", "classes"])
def test_figures_of_classification_are_those_of_sklearn(task: Task) -> None:
    learner = made(task)
    data, params = rows(Key.from_seed(2), 60, task=task), params_of(learner)
    shares, y = probabilities(learner, params, data.arrays[FEATURES]), data.arrays[LABEL]
    scores = learner.evaluate(params, [data])[0].scores
    assert scores["accuracy"] == pytest.approx(accuracy_score(y, shares.argmax(axis=1)))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, shares.argmax(axis=1)))
    assert scores["log_loss"] == pytest.approx(log_loss(y, shares), rel=1e-12)
    np.testing.assert_allclose(learner.predict(params, data.arrays[FEATURES]), shares, rtol=1e-12)
    if task == "binary":
        assert scores["brier"] == pytest.approx(brier_score_loss(y, shares[:, 1]), rel=1e-12)
        assert scores["auroc"] == pytest.approx(roc_auc_score(y, shares[:, 1]), abs=1e-12)
        assert scores["average_precision"] == pytest.approx(average_precision_score(y, shares[:, 1]), abs=1e-12)
    else:
        assert scores["brier"] == pytest.approx(float(((shares - np.eye(3)[y]) ** 2).sum(axis=1).mean()), rel=1e-12)


def test_figures_of_regression_are_those_of_sklearn() -> None:
    learner = made("regression")
    data, params = rows(Key.from_seed(2), 60, task="regression"), params_of(learner)
    predicted, y = learner.predict(params, data.arrays[FEATURES]), data.arrays[LABEL]
    scores = learner.evaluate(params, [data])[0].scores
    assert scores["rmse"] == pytest.approx(float(np.sqrt(np.mean((predicted - y) ** 2))), rel=1e-12)
    assert scores["r2"] == pytest.approx(r2_score(y, predicted), rel=1e-9)


@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
def test_merged_metrics_of_two_clients_give_the_figures_of_their_rows_together(task: Task) -> None:
    learner = made(task)
    params, whole = params_of(learner), rows(Key.from_seed(3), 50, task=task)
    parts = [
        ClientDataset({k: v[side] for k, v in whole.arrays.items()}, {}) for side in (slice(0, 13), slice(13, None))
    ]
    merged = merge(*(learner.evaluate(params, [part])[0].metrics for part in parts))
    exact = learner.evaluate(params, [whole])[0]
    together = {**learner.figures(exact.metrics), **exact.scores}
    for name, figure in learner.figures(merged).items():
        within = 0.005 if name in ("auroc", "average_precision") else 1e-10
        assert figure == pytest.approx(together[name], abs=within), name


def test_a_client_with_one_class_has_no_auroc() -> None:
    data = rows(Key.from_seed(2), 10)
    one = ClientDataset({**data.arrays, LABEL: np.zeros(10, np.int64)}, data.rows)
    assert made("binary").evaluate(np.zeros(4), [one])[0].scores["auroc"] is None


@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
def test_huge_logits_have_finite_losses_and_gradients(task: Task) -> None:
    learner = made(task, l2=0.0)
    data = rows(Key.from_seed(2), 10, task=task)
    wild = ClientDataset({**data.arrays, FEATURES: data.arrays[FEATURES] * 1e6}, data.rows)
    answer = learner.gradient(np.full(learner.layout.size, 1e3), wild)
    assert np.isfinite(answer.loss) and np.isfinite(answer.gradient).all()


SCHEDULES = st.builds(
    Schedule,
    steps=st.integers(1, 6),
    batch_size=st.sampled_from([1, 5, 16, "full"]),
    learning_rate=st.floats(0.01, 0.2),
    optimizer=st.sampled_from([None, momentum(0.9), adam()]),
    clip_norm=st.sampled_from([None, 0.1]),
    weight_decay=st.sampled_from([0.0, 0.1]),
)


@quick
@given(
    st.lists(
        st.tuples(st.integers(1, 140), SCHEDULES, st.booleans(), st.sampled_from([0.0, 0.3])), min_size=1, max_size=7
    ),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["binary", "classes", "regression"]),
    st.integers(0, 2**32),
)
def test_any_mixture_in_one_block_has_the_bytes_of_one_by_one(each: Any, dtype: Dtype, task: Task, seed: int) -> None:
    learner = made(task, dtype=dtype)
    key = Key.from_seed(seed)
    jobs = []
    for number, (count, schedule, linear, prox) in enumerate(each):
        start = params_of(learner, number)
        work = LocalWork(start=start, schedule=schedule, linear=0.1 * start if linear else None, prox=prox)
        data = rows(key.child(number), count, task=task).split("train")
        jobs.append(Job(work, data, Keys(key.child("keys", number), NO_SECRET)))
    for job, together in zip(jobs, learner.fit(jobs), strict=True):
        alone = learner.fit([job])[0]
        assert together.params.tobytes() == alone.params.tobytes()
        assert (together.metrics, together.steps, together.lr_sum) == (alone.metrics, alone.steps, alone.lr_sum)


def test_results_of_a_block_do_not_change_when_the_next_block_is_trained() -> None:
    learner = made("binary")
    key = Key.from_seed(1)

    def job(number: int) -> Job:
        work = LocalWork(start=params_of(learner, number), schedule=Schedule(epochs=1, batch_size=4))
        return Job(work, rows(key.child(number), 20).split("train"), Keys(key.child(number), NO_SECRET))

    first = learner.fit([job(0), job(1)])
    before = [result.params.tobytes() for result in first]
    learner.fit([job(2), job(3)])
    assert [result.params.tobytes() for result in first] == before


def test_no_jobs_give_no_results() -> None:
    assert list(made("binary").fit([])) == []


def test_rows_of_another_float_type_are_taken() -> None:
    wide, narrow = made("binary"), made("binary", dtype="float32")
    data = rows(Key.from_seed(4), 20, dtype="float32").split("train")
    keys = Keys(Key.from_seed(0), NO_SECRET)
    for learner in (wide, narrow):
        work = LocalWork(start=np.zeros(4, learner.dtype), schedule=Schedule(batch_size="full"))
        assert learner.fit([Job(work, data, keys)])[0].params.dtype == learner.dtype


# ---- What is built, and what is refused ------------------------------------------------------------------------------


def test_layouts() -> None:
    leaves = {task: [(leaf.name, leaf.shape) for leaf in made(task).layout.leaves] for task in MADE}
    assert leaves["binary"] == leaves["regression"] == [("coef", (1, 3)), ("intercept", (1,))]
    assert leaves["classes"] == [("coef", (3, 3)), ("intercept", (3,))]
    assert [leaf.name for leaf in made("binary", intercept=False).layout.leaves] == ["coef"]


def test_a_start_is_read_from_numbers_or_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "w0.npy", np.arange(4))
    for start in ([0.0, 1.0, 2.0, 3.0], tmp_path / "w0.npy"):
        begun = made("binary", start=start, dtype="float32").init(Key.from_seed(0))
        assert begun.tolist() == [0, 1, 2, 3] and begun.dtype == np.float32
    assert made("binary").init(Key.from_seed(0)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "start", [[0.0] * 3, [[0.0] * 4], [0.0, 0.0, 0.0, float("nan")], Path("nowhere.npy"), ["a"] * 4]
)
def test_a_start_that_does_not_fit_is_refused(start: Any) -> None:
    with pytest.raises((DataError, ComponentError)):
        made("binary", start=start)


@pytest.mark.parametrize("classes", [None, (), ("only",)])
def test_logistic_needs_two_agreed_classes(classes: Any) -> None:
    with pytest.raises(DataError, match="two classes"):
        logistic().build(Schema(("x",), "y", classes))


def test_class_weights_name_known_classes_and_are_positive() -> None:
    with pytest.raises(DataError, match="maybe"):
        made("binary", class_weight={"maybe": 1.0})
    for weight in (0.0, -1.0, float("inf")):
        with pytest.raises(ComponentError):
            made("binary", class_weight={"yes": weight})


@pytest.mark.parametrize("make", [logistic, ridge])
@pytest.mark.parametrize("l2", [-1.0, float("nan"), float("inf")])
def test_a_penalty_outside_its_range_is_refused(make: Any, l2: float) -> None:
    with pytest.raises(ComponentError):
        make(l2=l2)
