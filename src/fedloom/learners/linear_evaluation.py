"""Evaluation of a linear model on the rows of a block of clients at once, each with the bytes it has alone.

Logits come from one product a client, because the shape of a product decides its bytes; all that follows works on the
rows of the block under each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.metrics import Metric, MetricSpec
from fedloom.core.params import Vector
from fedloom.core.work import EvaluationResult
from fedloom.learners.figures import (
    Rows,
    class_kinds,
    class_results,
    loss_metrics,
    loss_results,
    number_kinds,
    number_results,
)
from fedloom.learners.linear_block import LinearModel
from fedloom.learners.linear_loss import LOGISTIC


def metric_kinds(model: LinearModel) -> MetricSpec:
    """Return the sums that figures are computed from."""
    return class_kinds(max(2, model.outputs)) if model.loss.classes else number_kinds()


def losses(model: LinearModel, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return loss and objective of each client."""
    return loss_results(_losses(model, params, _rows(model, params, data)))


def evaluate(model: LinearModel, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return the metrics of each client, and its exact figures."""
    rows = _rows(model, params, data)
    metrics = _losses(model, params, rows)
    if not model.loss.classes:
        return number_results(metrics, rows)
    if model.loss is not LOGISTIC:
        return class_results(metrics, rows, margins=None, scores=None)
    return class_results(metrics, rows, margins=rows.logits[:, 0], scores=_scores(model, params, rows))


def _rows(model: LinearModel, params: Vector, data: Sequence[ClientDataset]) -> Rows:
    coef, intercept = model.split(np.asarray(params, model.dtype)[None])
    weights = np.ascontiguousarray(coef[0].T)
    logits = [np.ascontiguousarray(each.arrays[FEATURES], model.dtype) @ weights for each in data]
    joined = logits[0] if len(logits) == 1 else np.concatenate(logits)
    if intercept is not None:
        joined += intercept[0]
    return Rows(
        logits=joined.astype(np.float64),
        labels=np.concatenate([np.asarray(each.arrays[LABEL], model.label_dtype) for each in data]),
        counts=np.array([len(each) for each in logits], dtype=np.int64),
    )


def _losses(model: LinearModel, params: Vector, rows: Rows) -> list[dict[str, Metric]]:
    count = len(rows.labels)
    trace = np.empty((2, 1, count))
    model.loss.residual(rows.logits[None].copy(), rows.labels[None], np.ones((1, count)), trace)
    each = model.loss.losses(trace)[0]
    weighted = each * model.row_weights(rows.labels)
    return loss_metrics(rows, each=each, weighted=weighted, penalty=model.penalty(params))


def _scores(model: LinearModel, params: Vector, rows: Rows) -> Vector:
    coef, intercept = model.split(np.asarray(params, np.float64)[None])
    # The same increasing function at every client, known to whoever knows the model.
    spread = float(np.linalg.norm(coef)) or 1.0
    scores: Vector = (rows.logits[:, 0] - (0.0 if intercept is None else intercept[0, 0])) / spread
    return scores
