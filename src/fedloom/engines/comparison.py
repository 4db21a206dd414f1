"""Local-only and pooled models beside the federated one: what the federation was worth, in simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.learner import Learner
from fedloom.core.metrics import MetricSet, merge
from fedloom.core.params import Vector
from fedloom.core.ranking import auroc, average_precision
from fedloom.engines.worth import TestRows, Worth, worth
from fedloom.runtime.record import Figures
from fedloom.runtime.summary import client_figures, over_clients

MOST_CLIENTS = 50
"""Up to this many clients the comparison is made unless switched off."""
_TOLERANCE = 1e-9
_STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Figures ``local/...`` (each client's own model) and ``pooled/...`` (one model of all rows) on test rows."""

    figures: Figures
    clients: dict[ClientId, Figures]
    """By client: ``local/name`` of its own model and ``pooled/name``, both on its own test rows."""
    local: dict[ClientId, Vector]
    pooled: Vector
    worth: Worth


def compare(
    learner: Learner,
    start: Vector,
    clients: Mapping[ClientId, ClientDataset],
    *,
    federated: Callable[[ClientId], Vector],
    key: Key,
) -> Comparison:
    """Train each client's own model and the pooled one, with the learner's objective, to convergence.

    Args:
        learner: Must have the capability ``gradient``.
        start: Parameters to start from.
        clients: All clients with their prepared rows; those without training rows are left out.
        federated: The model that the run gave to a client: the global one, or its personal one.
        key: Stream of the resamples.
    """
    trained = {client: data for client, data in clients.items() if data.count("train")}
    local = {client: minimise(learner, start, data.split("train")) for client, data in trained.items()}
    pooled = minimise(learner, start, _pool([data.split("train") for data in trained.values()]))
    models: dict[str, Callable[[ClientId], Vector]] = {
        "eval": federated,
        "local": lambda client: local[client],
        "pooled": lambda _client: pooled,
    }
    rows = {client: _test_rows(learner, models, client, data) for client, data in trained.items()}
    by_client: dict[ClientId, Figures] = {client: {} for client in trained}
    figures: Figures = {}
    for name in ("local", "pooled"):
        tested = {client: data.split("test") for client, data in trained.items() if data.count("test")}
        merged: MetricSet = {}
        for client, data in tested.items():
            result = learner.evaluate(models[name](client), [data])[0]
            merged = merge(merged, result.metrics)
            own = _named(name, result.scores)
            if name == "local" and rows[client].own_classes == 1:
                own |= {key: None for key in own if key in ("local/auroc", "local/average_precision")}
            by_client[client] |= own
        if not tested:
            continue
        figures |= _named(name, learner.figures(merged)) | _exact_ranking(name, [rows[client] for client in tested])
        keys = sorted({key for client in tested for key in by_client[client] if key.startswith(f"{name}/")})
        for each in keys:
            figures |= over_clients(each, [by_client[client].get(each) for client in tested])
    return Comparison(
        figures=figures, clients=by_client, local=local, pooled=pooled, worth=worth(rows, key=key.child("worth"))
    )


def minimise(learner: Learner, start: Vector, data: ClientDataset) -> Vector:
    """Return the parameters that minimise the learner's objective on some rows, by L-BFGS."""
    from scipy.optimize import minimize

    def objective(params: Vector) -> tuple[float, Vector]:
        result = learner.gradient(params.astype(start.dtype), data)
        return result.loss, result.gradient.astype(np.float64)

    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "ftol": _TOLERANCE, "gtol": 1e-8}
    found = minimize(objective, start.astype(np.float64), jac=True, method="L-BFGS-B", options=options)
    params: Vector = found.x.astype(start.dtype)
    return params


def _named(name: str, scores: Mapping[str, float | None]) -> Figures:
    figures = client_figures({f"test/{key}": value for key, value in scores.items()})
    return {key.replace("eval/", f"{name}/"): value for key, value in figures.items()}


def _test_rows(
    learner: Learner, models: Mapping[str, Callable[[ClientId], Vector]], client: ClientId, data: ClientDataset
) -> TestRows:
    test, train = data.split("test").arrays, data.split("train").arrays
    predicted = {name: learner.predict(params(client), test[FEATURES]) for name, params in models.items()}
    classes = any(each.ndim == 2 for each in predicted.values())
    return TestRows(
        label=test[LABEL],
        predicted=predicted,
        own_classes=len(np.unique(train[LABEL])) if classes else None,
        train_rows=len(train[LABEL]),
    )


def _exact_ranking(name: str, rows: Sequence[TestRows]) -> Figures:
    """Return ranking figures over all test rows, of two classes: a simulation has the scores, not only histograms."""
    predicted = np.concatenate([each.predicted[name] for each in rows])
    if predicted.ndim != 2 or predicted.shape[1] != 2:
        return {}
    positive = np.concatenate([each.label for each in rows]) == 1
    return {
        f"{name}/auroc": auroc(predicted[:, 1], positive),
        f"{name}/average_precision": average_precision(predicted[:, 1], positive),
    }


def _pool(parts: Sequence[ClientDataset]) -> ClientDataset:
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return ClientDataset(arrays, {"train": slice(0, sum(part.count("train") for part in parts))})
