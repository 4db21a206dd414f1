"""Every component that is registered by name passes the battery of its family.

A new name needs a line in the tables below: example arguments, and what the battery cannot know by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.algorithms import fedavg, fedprox, scaffold
from fedloom.analytics import Categories, ClassMoments, Clusters, Moments, Quantiles
from fedloom.analytics.categories import Column, Layout
from fedloom.analytics.columns import Columns
from fedloom.core.component import ComponentSpec, spec_of, to_json
from fedloom.core.data import LABEL, ClientDataset
from fedloom.core.keys import Key
from fedloom.core.labels import in_order, label_text
from fedloom.core.learner import LearnerBuilder
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.core.wire import WireType
from fedloom.experiment.registry import builder, names, resolve
from fedloom.learners import logistic
from fedloom.learners.models import mlp
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import (
    check_aggregator,
    check_algorithm,
    check_learner,
    check_preparation,
    check_query,
    check_stage,
    federation,
    plan_for,
    rows,
    schema_of,
    simulate,
)
from fedloom.testing.fakes import Task

Vectors = Callable[[WireType, Vector], Vector]
STATIC = ("fedloom.algorithms", "fedloom.learners", "fedloom.stages", "fedloom.aggregators", "fedloom.queries",
          "fedloom.preparations")  # fmt: skip


def _adam(v0: float, beta2: float = 0.99) -> Callable[[Vector], Vector]:
    return lambda d: 0.01 * 0.1 * d / (np.sqrt(beta2 * v0 + (1 - beta2) * d * d) + 1e-3)


def _yogi(d: Vector) -> Vector:
    return 0.01 * 0.1 * d / (np.sqrt(1e-6 - 0.01 * d * d * np.sign(1e-6 - d * d)) + 1e-3)


# Builder of a schedule, and what the server makes of the mean delta in round 1.
ALGORITHMS: Mapping[str, list[tuple[Callable[..., Any], Callable[[Vector], Vector]]]] = {
    "fedavg": [
        (lambda make, local: make(local), lambda d: d),
        (lambda make, local: make(local, weighting="uniform", server_lr=0.5), lambda d: 0.5 * d),
    ],
    "fedsgd": [(lambda make, local: make(local.learning_rate), lambda d: d)],
    "fedprox": [(lambda make, local: make(local, mu=0.3), lambda d: d)],
    "fedavgm": [
        (lambda make, local: make(local), lambda d: d),
        (lambda make, local: make(local, beta=0.5, variant="nesterov"), lambda d: 1.5 * d),
        (lambda make, local: make(local, beta=0.5, variant="damped"), lambda d: 0.5 * d),
    ],
    "fedadagrad": [(lambda make, local: make(local), lambda d: 0.1 * d / (np.sqrt(1e-6 + d * d) + 1e-3))],
    "fedadam": [
        (lambda make, local: make(local), _adam(1e-6)),
        (lambda make, local: make(local, v0=0.0), _adam(0.0)),
        (lambda make, local: make(local, v0=0.0, bias_correction=True), lambda d: 0.01 * d / (np.abs(d) + 1e-3)),
    ],
    "fedyogi": [(lambda make, local: make(local), _yogi)],
    "scaffold": [
        (lambda make, local: make(local), lambda d: d),
        (lambda make, local: make(local, option="I"), lambda d: d),
        (lambda make, local: make(local, weighting="examples", server_lr=0.5), lambda d: 0.5 * d),
    ],
}

# Arguments, and the kind of rows.
LEARNERS: Mapping[str, list[tuple[dict[str, Any], Task]]] = {
    "logistic": [
        ({}, "binary"),
        ({"l2": 0.0}, "binary"),
        ({"l2": 0.1, "intercept": False}, "classes"),
        ({"penalise_intercept": True, "class_weight": {"no": 0.5, "yes": 3.0}}, "binary"),
    ],
    "ridge": [({}, "regression"), ({"l2": 0.1, "penalise_intercept": True}, "regression")],
    "sklearn": [
        ({"estimator": "SGDClassifier"}, "binary"),
        ({"estimator": "SGDClassifier", "arguments": {"loss": "log_loss", "class_weight": {"b": 2.0}}}, "classes"),
        ({"estimator": "SGDRegressor", "arguments": {"fit_intercept": False, "penalty": "l1"}}, "regression"),
        ({"estimator": "Perceptron"}, "binary"),
        ({"estimator": "PassiveAggressiveClassifier"}, "classes"),
        ({"estimator": "PassiveAggressiveRegressor"}, "regression"),
        ({"estimator": "MLPClassifier", "arguments": {"hidden_layer_sizes": [4, 3]}}, "binary"),
        ({"estimator": "MLPClassifier", "arguments": {"hidden_layer_sizes": [4], "activation": "tanh"}}, "classes"),
        ({"estimator": "MLPRegressor", "arguments": {"hidden_layer_sizes": [4], "solver": "adam"}}, "regression"),
    ],
    "torch": [
        ({"model": mlp([4], activation="tanh"), "l2": 0.1}, "classes"),
        ({"model": mlp([4], activation="gelu"), "loss": "bce", "class_weight": {"yes": 3.0}}, "binary"),
        ({"model": mlp([]), "loss": "mse", "penalise_biases": True, "l2": 0.1}, "regression"),
    ],
}

EXTRAS = {"torch": "torch"}
"""Learners that need a package of an extra, and which."""


def _mean(wire: WireType, values: Vector) -> Vector:
    parts, metrics, weights = _cut(wire, values)
    total = weights.sum()
    return np.concatenate([(weights[:, None] * parts).sum(axis=0) / total, metrics.sum(axis=0), words(wire, total)])


def _mean_of_expected(wire: WireType, values: Vector) -> Vector:
    parts, metrics, weights = _cut(wire, values)
    return np.concatenate([(weights[:, None] * parts).sum(axis=0) / 4.0, metrics.sum(axis=0), words(wire, 4.0)])


def _clipped_total(wire: WireType, values: Vector) -> Vector:
    return values.astype(np.float64).sum(axis=0)  # clip(1e6): nothing of the linear law's size is cut


def words(wire: WireType, weight: float) -> Vector:
    return wire.split_weight(np.array([weight]))[0]


def _cut(wire: WireType, values: Vector) -> tuple[Vector, Vector, Vector]:
    values = values.astype(np.float64)
    parts = values.shape[1] - wire.tail
    return values[:, :parts], values[:, parts : parts + wire.metrics], wire.weights(values)[:, 0]


# Arguments, and for a linear stage what the decoded sum is.
STAGES: Mapping[str, list[tuple[dict[str, Any], Vectors | None]]] = {
    "mean": [
        ({}, _mean),
        ({"max_weight": 10_000.0}, _mean),
        ({"expected": 4.0, "max_weight": 10_000.0}, _mean_of_expected),
    ],
    "clip": [({"norm": 1e6}, _clipped_total), ({"norm": 0.5}, None), ({"norm": 1e-3}, None)],
    "fixed_point": [({}, None), ({"bits": 9, "most_metric": 1.0}, None), ({"modulus_bits": 64}, None)],
    "gaussian": [
        ({"clip": 0.5, "noise_multiplier": 1.0}, None),
        ({"clip": 1e6, "noise_multiplier": 1.0}, _clipped_total),
    ],
    "laplace": [({"clip": 0.5, "noise_multiplier": 1.0}, None)],
    "distributed_gaussian": [({"clip": 0.5, "noise_multiplier": 1.0}, None)],
    "distributed_shared_gaussian": [({"noise_multiplier": 1.0}, None)],
    "local_gaussian": [({"clip": 0.5, "noise_multiplier": 1.0}, None)],
    "local_laplace": [({"clip": 0.5, "noise_multiplier": 1.0}, None)],
    "adaptive_gaussian": [({"clip": 0.5, "noise_multiplier": 1.0, "bit_noise": 2.0}, None)],
    "rotate": [({}, _clipped_total)],
    "rounded": [({"most": 1e12}, None), ({"most": 1e12, "modulus_bits": 32}, None)],
    "shared_gaussian": [({"noise_multiplier": 1.0}, None), ({"noise_multiplier": 50.0}, None)],
}

AGGREGATORS: Mapping[str, list[dict[str, Any]]] = {
    "plain_sum": [{}],
    "secure_sum": [{"threshold": 3, "colluders": 0, "quorum": 0.1, "protocol": sent} for sent in (False, True)],
    "shares_sum": [{}, {"servers": 3, "protocol": True}],
}
RESIDUES: Mapping[str, int] = {"secure_sum": 3, "shares_sum": 3}
"""Aggregators that take residues only, and from how many clients on they open a sum."""


def _moments(data: ClientDataset) -> Moments:
    features = data.arrays["features"].astype(np.float64)
    return Moments(
        count=float(len(features)),
        mean=tuple(features.mean(axis=0).tolist()),
        variance=tuple(features.var(axis=0).tolist()),
    )


def _quantiles(at: list[float]) -> Callable[[ClientDataset], Any]:
    def pooled(data: ClientDataset) -> Any:
        features = data.arrays["features"]
        rows, columns = features.shape
        return Quantiles(
            columns=Columns(names=("x0", "x1", "x2"), positions=(0, 1, 2), width=columns),
            at=tuple(at),
            rows=float(rows),
            present=(float(rows),) * columns,
            values=tuple(tuple(row) for row in np.quantile(features, at, axis=0).tolist()),
            widths=((0.0,) * columns,) * len(at),
        )

    return pooled


def _categories(data: ClientDataset) -> Any:
    values, counts = np.unique(data.arrays["features"][:, 1], return_counts=True)
    return Categories(
        layout=Layout(columns=(Column(name="x1", position=1, text=False),), texts=0, features=3),
        names=(in_order([label_text(value) for value in values.tolist()]),),
        rows=(tuple(map(float, counts.tolist())),),
        folded=(0.0,),
    )


def _class_moments(data: ClientDataset) -> Any:
    sides = [data.arrays["features"][data.arrays[LABEL] == index] for index in (0, 1)]
    return ClassMoments(
        classes=("no", "yes"),
        count=tuple(float(len(side)) for side in sides),
        mean=tuple(tuple(side.mean(axis=0).tolist()) for side in sides),
        variance=tuple(tuple(side.var(axis=0).tolist()) for side in sides),
    )


CENTRES = [[[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]


def _clusters(data: ClientDataset) -> Any:
    """Lloyd's algorithm in plain numpy."""
    x, centres = data.arrays["features"], np.array(CENTRES[0])
    rounds, place = 0, np.full(len(x), -1)
    while True:
        now = ((x[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        rounds += 1
        if (now == place).all():
            break
        place = now
        centres = np.stack([x[place == index].mean(axis=0) for index in (0, 1)])
    squares = ((x - centres[place]) ** 2).sum(axis=1)
    return Clusters(
        centres=tuple(map(tuple, centres.tolist())),
        rows=tuple(float((place == index).sum()) for index in (0, 1)),
        spread=tuple(float(squares[place == index].sum()) for index in (0, 1)),
        rounds=rounds,
        converged=True,
        start=0,
    )


# Arguments, and the pooled answer in plain numpy.
QUERIES: Mapping[str, list[tuple[dict[str, Any], Callable[[ClientDataset], Any]]]] = {
    "moments": [({}, _moments)],
    "quantiles": [({}, _quantiles([0.25, 0.5, 0.75])), ({"at": [0.1]}, _quantiles([0.1]))],
    "categories": [({"columns": ["x1"]}, _categories)],
    "class_moments": [({}, _class_moments)],
    "kmeans": [({"start": CENTRES}, _clusters)],
}


def _as_numbers() -> tuple[ClientDataset, Any]:
    return rows(Key.from_seed(1), 40), schema_of("binary")


def _as_whole_numbers() -> tuple[ClientDataset, Any]:
    data, schema = _as_numbers()
    return ClientDataset({**data.arrays, "features": np.rint(data.arrays["features"])}, data.rows), schema


def _as_text() -> tuple[ClientDataset, Any]:
    data = rows(Key.from_seed(1), 40, task="classes")
    labels = np.array(["benign", "malign", "bénin"])[data.arrays[LABEL]]
    schema = schema_of("regression")  # a label without agreed classes
    return ClientDataset({**data.arrays, LABEL: labels}, data.rows), schema


def _with_texts() -> tuple[ClientDataset, Any]:
    """Return rows with two columns of text, and missing values of both kinds."""
    data = rows(Key.from_seed(1), 40)
    draw = np.random.default_rng(1)
    features = data.arrays["features"].copy()
    features[:, 2] = draw.integers(0, 4, 40)
    features[draw.random((40, 3)) < 0.2] = np.nan
    texts = np.column_stack([draw.choice(["f", "m", ""], 40), draw.choice(["clerk", "cook", "Köchin", " 1.0"], 40)])
    schema = replace(schema_of("binary"), texts=("sex", "job"))
    return ClientDataset({**data.arrays, "features": features, "texts": texts}, data.rows), schema


# Arguments, and the rows.
PREPARATIONS: Mapping[str, list[tuple[dict[str, Any], Callable[[], tuple[ClientDataset, Any]]]]] = {
    "standardise": [({}, _as_numbers), ({"columns": ["x1"]}, _as_numbers)],
    "min_max": [
        ({"ranges": {"x0": [-1.0, 1.0], "x2": [0.0, 2.0]}}, _as_numbers),
        ({"ranges": {"x0": [0, 1]}}, _with_texts),
    ],
    "impute": [
        ({"strategy": "mean"}, _with_texts),
        ({"strategy": "median", "columns": ["x0"]}, _with_texts),
        ({"strategy": "median", "zooms": 4}, _with_texts),
        ({"strategy": "constant", "value": 1.5, "text": "missing"}, _with_texts),
    ],
    "one_hot": [
        ({}, _with_texts),
        ({"columns": ["x2", "sex"], "min_count": 9}, _with_texts),
        ({"min_count": 12, "rare": "zero", "drop_first": True}, _with_texts),
        ({"categories": {"sex": ["m", "f"], "x2": ["0", "1"]}}, _with_texts),
    ],
    "ordinal": [({}, _with_texts), ({"columns": ["job", "x2"], "min_count": 9}, _with_texts)],
    "fold_rare": [({}, _with_texts), ({"columns": ["job"], "min_count": 3, "into": "rest"}, _with_texts)],
    "label_set": [({}, _as_text), ({"max_classes": 3}, _as_text)],
}


def cases(group: str, table: Mapping[str, list[Any]]) -> list[Any]:
    """Return (name, case) for every registered name; a name without a case is a case None, which fails."""
    found = [
        pytest.param(name, case, id=f"{name}-{n}")
        for name in names(group)
        for n, case in enumerate(table.get(name, [None]))
    ]
    return found or [pytest.param("nothing", None, id="nothing registered")]


def known(group: str, name: str, case: Any) -> Any:
    """Return the case, or fail and say what to add."""
    if case is None:
        pytest.fail(
            f"{group}: {name!r} is registered and no battery knows it: add example arguments to the table of its group "
            "in tests/conformance/test_registered.py (nothing registered at all: install the package)"
        )
    return case


@pytest.mark.parametrize("group", STATIC)
def test_every_group_has_registered_names(group: str) -> None:
    assert names(group), f"{group} has no entry points: install the package (`make`)"


@pytest.mark.parametrize(("name", "case"), cases("fedloom.algorithms", ALGORITHMS))
def test_an_algorithm_passes_its_battery(name: str, case: Any) -> None:
    make, move = known("fedloom.algorithms", name, case)
    built = builder("fedloom.algorithms", name)
    learner = logistic(l2=0.01).build(schema_of("binary"))
    check_algorithm(lambda local: make(built, local), learner, move=move)


@pytest.mark.parametrize(("name", "case"), cases("fedloom.learners", LEARNERS))
def test_a_learner_passes_its_battery(name: str, case: Any) -> None:
    arguments, task = known("fedloom.learners", name, case)
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name], reason=f"the learner {name!r} needs an extra")
    make = builder("fedloom.learners", name)

    def build(dtype: str) -> Any:
        made = make(dtype=dtype, **arguments)
        return made.build(schema_of(task)) if isinstance(made, LearnerBuilder) else made

    check_learner(build, lambda key, count: rows(key, count, task=task))


@pytest.mark.parametrize(("name", "case"), cases("fedloom.stages", STAGES))
def test_a_stage_passes_its_battery(name: str, case: Any) -> None:
    arguments, expected = known("fedloom.stages", name, case)
    check_stage(builder("fedloom.stages", name)(**arguments), expected=expected)


@pytest.mark.parametrize(("name", "case"), cases("fedloom.aggregators", AGGREGATORS))
def test_an_aggregator_passes_its_battery(name: str, case: Any) -> None:
    arguments = known("fedloom.aggregators", name, case)
    limits = {"least": RESIDUES[name], "modulus": 2**32} if name in RESIDUES else {}
    check_aggregator(lambda: builder("fedloom.aggregators", name)(**arguments), **limits)


@pytest.mark.parametrize(("name", "case"), cases("fedloom.queries", QUERIES))
def test_a_query_passes_its_battery(name: str, case: Any) -> None:
    arguments, pooled = known("fedloom.queries", name, case)
    data, schema = _as_whole_numbers() if name == "categories" else _as_numbers()
    check_query(builder("fedloom.queries", name)(**arguments), data, schema, expected=pooled(data))


@pytest.mark.parametrize(("name", "case"), cases("fedloom.preparations", PREPARATIONS))
def test_a_preparation_passes_its_battery(name: str, case: Any) -> None:
    arguments, make = known("fedloom.preparations", name, case)
    data, schema = make()
    check_preparation(builder("fedloom.preparations", name)(**arguments), data, schema)


@pytest.mark.parametrize(
    ("group", "name", "arguments"),
    [
        pytest.param(group, name, case[0] if isinstance(case, tuple) else case, id=f"{name}-{n}")
        for group, table in (
            ("fedloom.learners", LEARNERS),
            ("fedloom.stages", STAGES),
            ("fedloom.aggregators", AGGREGATORS),
            ("fedloom.queries", QUERIES),
            ("fedloom.preparations", PREPARATIONS),
        )
        for name, known_cases in table.items()
        for n, case in enumerate(known_cases)
    ],
)
def test_a_value_carries_the_spec_that_rebuilds_it(group: str, name: str, arguments: dict[str, Any]) -> None:
    value = builder(group, name)(**arguments)
    spec = spec_of(value)
    assert spec is not None
    assert (spec.group, spec.name) == (group, name)
    assert set(spec.arguments) == set(inspect.signature(builder(group, name)).parameters), "defaults are in the spec"
    assert spec_of(resolve(ComponentSpec(group, name, to_json(arguments)))) == spec


def test_fedprox_without_mu_is_fedavg_bit_for_bit() -> None:
    data = federation((9, 4, 17))
    learner = logistic().build(schema_of("binary"))
    local = Schedule(epochs=2, batch_size=4)
    runs = [
        simulate(plan_for(data, made, learner, stop=max_rounds(3)), data)
        for made in (fedprox(local, mu=0.0), fedavg(local))
    ]
    assert runs[0].sha256 == runs[1].sha256


def test_scaffold_is_fedavg_where_all_clients_are_equal() -> None:
    one = federation((12,)).clients["a"]
    data = type(federation((1,)))({"a": one, "b": one, "c": one}, schema_of("binary"))
    learner = logistic().build(schema_of("binary"))
    local = Schedule(steps=4, batch_size="full")
    runs = [
        simulate(plan_for(data, made, learner, stop=max_rounds(5)), data) for made in (scaffold(local), fedavg(local))
    ]
    np.testing.assert_allclose(runs[0].params, runs[1].params, rtol=0, atol=1e-12)


@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 2**32))
def test_moments_of_any_split_are_those_of_the_pooled_rows(sizes: list[int], seed: int) -> None:
    data = federation(sizes, seed=seed)
    pooled = np.concatenate([client.arrays["features"] for client in data.clients.values()])
    from fedloom.testing.query import answer

    found = answer(builder("fedloom.queries", "moments")(), data)
    np.testing.assert_allclose(found.mean, pooled.mean(axis=0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.variance, pooled.var(axis=0), rtol=1e-12, atol=1e-13)
