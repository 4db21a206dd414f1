"""Local-only and pooled models beside the federated one: what the federation was worth, in simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.data import ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.learner import Learner
from fedloom.core.metrics import MetricSet, merge
from fedloom.core.params import Vector
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


def compare(learner: Learner, start: Vector, clients: Sequence[tuple[ClientId, ClientDataset]]) -> Comparison:
    """Train each client's own model and the pooled one, with the learner's objective, to convergence.

    Args:
        learner: Must have the capability ``gradient``.
        start: Parameters to start from.
        clients: All clients with their prepared rows; those without training rows are left out.
    """
    trained = [(client, data) for client, data in clients if data.count("train")]
    local = {client: minimise(learner, start, data.split("train")) for client, data in trained}
    pooled = minimise(learner, start, _pool([data.split("train") for _, data in trained]))
    figures: Figures = {}
    by_client: dict[ClientId, Figures] = {client: {} for client, _ in trained}
    models: dict[str, Callable[[ClientId], Vector]] = {"local": lambda c: local[c], "pooled": lambda _c: pooled}
    for name, params in models.items():
        merged: MetricSet = {}
        own: list[Figures] = []
        for client, data in trained:
            if not data.count("test"):
                continue
            result = learner.evaluate(params(client), data.split("test"))
            merged = merge(merged, result.metrics)
            scores = client_figures({f"test/{key}": value for key, value in result.scores.items()})
            own.append({key.replace("eval/", f"{name}/"): value for key, value in scores.items()})
            by_client[client] |= own[-1]
        if own:
            for key, value in client_figures({f"test/{k}": v for k, v in learner.figures(merged).items()}).items():
                figures[key.replace("eval/", f"{name}/")] = value
            for key in own[0]:
                figures |= over_clients(key, [each.get(key) for each in own])
    return Comparison(figures=figures, clients=by_client, local=local, pooled=pooled)


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


def _pool(parts: Sequence[ClientDataset]) -> ClientDataset:
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return ClientDataset(arrays, {"train": slice(0, sum(part.count("train") for part in parts))})
