"""Metrics and figures of a scikit-learn estimator on the rows of a block of clients, each with the bytes it has alone.

Where an estimator gives no probabilities, what is made of them (log-loss, Brier score, calibration) is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.metrics import Mean, Metric, MetricSet, MetricSpec
from fedloom.core.params import Vector
from fedloom.core.work import EvaluationResult
from fedloom.learners.figures import (
    CALIBRATED,
    Figures,
    Rows,
    class_kinds,
    class_results,
    loss_results,
    merged_figures,
    number_kinds,
    number_results,
    probabilities,
)
from fedloom.learners.sklearn_model import SklearnModel

V = TypeVar("V")
_OF_PROBABILITIES = ("brier", CALIBRATED, "log_loss")
_LOG_LOSS = "log_loss"


def metric_kinds(model: SklearnModel) -> MetricSpec:
    """Return the sums that figures are computed from."""
    if not model.classes:
        return number_kinds()
    kinds = dict(class_kinds(model.classes).kinds)
    if model.probable == "no":
        return MetricSpec(_without(kinds))
    return MetricSpec(kinds | {_LOG_LOSS: Mean} if model.probable == "one against rest" else kinds)


def losses(model: SklearnModel, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return loss and objective of each client."""
    rows, _ = _rows(model, params, data)
    return loss_results(_losses(model, params, rows))


def evaluate(model: SklearnModel, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return the metrics of each client, and its exact figures."""
    rows, decided = _rows(model, params, data)
    metrics = _losses(model, params, rows)
    if not model.classes:
        return number_results(metrics, rows)
    two = model.classes == 2
    shown = Rows(logits=decided, labels=rows.labels, counts=rows.counts)
    margins = rows.logits[:, 0] if two else None
    scores = model.scores(params, rows.logits) if two else None
    if model.probable == "one against rest":
        _add_log_loss(metrics, shown)
    results = class_results(metrics, shown, margins=margins, scores=scores)
    return [EvaluationResult(_kept(model, each.metrics), _told(model, each)) for each in results]


def merged(model: SklearnModel, metrics: MetricSet) -> Mapping[str, float | None]:
    """Return all figures of merged metrics."""
    return _told(model, EvaluationResult(metrics, merged_figures(metrics)))


def _rows(model: SklearnModel, params: Vector, data: Sequence[ClientDataset]) -> tuple[Rows, Vector]:
    """Return the rows of a block with their decisions, and the logits that their probabilities come from."""
    with np.errstate(all="ignore"):  # a model that has diverged has figures without a value, not warnings
        decisions = [model.decisions(params, each.arrays[FEATURES]) for each in data]
        joined = np.concatenate(decisions).astype(np.float64)
    kind = np.int64 if model.classes else np.float64
    rows = Rows(
        logits=joined,
        labels=np.concatenate([np.asarray(each.arrays[LABEL], kind) for each in data]),
        counts=np.array([len(each) for each in decisions], dtype=np.int64),
    )
    return rows, model.logits(joined)


def _losses(model: SklearnModel, params: Vector, rows: Rows) -> list[dict[str, Metric]]:
    with np.errstate(all="ignore"):
        each, weighted = model.row_losses(rows.logits, rows.labels)
    penalty = model.penalised(params)
    totals = zip(*rows.sums(each, weighted), rows.counts.tolist(), strict=True)
    # A network's penalty is divided by its rows: over all rows of a client it counts once.
    return [
        {
            "loss": Mean(loss, size),
            "objective": Mean(total + (penalty if model.penalty.by_rows else size * penalty), size),
        }
        for loss, total, size in totals
    ]


def _add_log_loss(metrics: Sequence[dict[str, Metric]], rows: Rows) -> None:
    shares = probabilities(rows.logits)[np.arange(len(rows.labels)), rows.labels]
    (totals,) = rows.sums(-np.log(np.maximum(shares, np.finfo(np.float64).tiny)))
    for each, total, size in zip(metrics, totals, rows.counts.tolist(), strict=True):
        each[_LOG_LOSS] = Mean(total, size)


def _kept(model: SklearnModel, metrics: MetricSet) -> MetricSet:
    return _without(metrics) if model.probable == "no" else metrics


def _told(model: SklearnModel, result: EvaluationResult) -> Figures:
    """Return the figures that are true of the model: a log-loss is one of probabilities, whatever the loss is."""
    figures = dict(result.scores)
    if model.classes and model.probable == "no":
        return _without(figures)
    own = result.metrics.get(_LOG_LOSS)
    if isinstance(own, Mean) and figures.get("loss") is not None:
        figures[_LOG_LOSS] = own.value
    return figures


def _without(named: Mapping[str, V]) -> dict[str, V]:
    return {name: value for name, value in named.items() if name not in _OF_PROBABILITIES}
