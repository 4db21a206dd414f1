"""Evaluation of a linear model on the rows of a block of clients at once, each with the bytes it has alone.

Logits come from one product a client, because the shape of a product decides its bytes; all that follows works on the
rows of the block under each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.core.calibration import SIZE as CALIBRATION
from fedloom.core.calibration import calibration_bins, calibration_counts, calibration_error
from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.metrics import Histogram, Mean, Metric, MetricSet, MetricSpec
from fedloom.core.params import Vector
from fedloom.core.ranking import BINS, auroc_of_counts, average_precision_of_counts, rankings, score_bins
from fedloom.core.work import EvaluationResult
from fedloom.learners.linear_block import LinearModel
from fedloom.learners.linear_loss import LOGISTIC

Figures = dict[str, float | None]
CALIBRATED = "calibration"
"""Metric of the counts behind a reliability curve."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """Rows of a block, one client after the other."""

    logits: Vector
    """Shape ``(rows, outputs)``, float64."""
    labels: Vector
    counts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def sums(self, *terms: Vector) -> list[list[float]]:
        """Return the sum of each term over each client's rows."""
        totals: list[list[float]] = np.add.reduceat(np.stack(terms), self.starts, axis=1).tolist()
        return totals


def metric_kinds(model: LinearModel) -> MetricSpec:
    """Return the sums that figures are computed from."""
    if not model.loss.classes:
        return MetricSpec(dict.fromkeys(("loss", "objective", "squared_error", "label", "label_squared"), Mean))
    kinds: dict[str, Any] = dict.fromkeys(("loss", "objective", "accuracy", "brier"), Mean)
    kinds |= {"by_class": 2 * max(2, model.outputs), CALIBRATED: CALIBRATION}
    return MetricSpec(kinds | {"scores": 2 * BINS} if model.loss is LOGISTIC else kinds)


def losses(model: LinearModel, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return loss and objective of each client."""
    return [
        EvaluationResult(metrics, figures_of(metrics)) for metrics in _losses(model, params, _rows(model, params, data))
    ]


def evaluate(model: LinearModel, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return the metrics of each client, and its exact figures."""
    rows = _rows(model, params, data)
    metrics = _losses(model, params, rows)
    if not model.loss.classes:
        _add_errors(metrics, rows)
        return [EvaluationResult(each, figures_of(each)) for each in metrics]
    exact: list[Figures] = [{} for _ in data]
    shares = probabilities(rows.logits)
    _add_shares(metrics, rows, shares)
    if model.loss is LOGISTIC:
        _add_scores(metrics, rows, model, params)
        ranked = rankings(rows.logits[:, 0], rows.labels == 1, rows.starts)
        pairs = zip(ranked.auroc.tolist(), ranked.average_precision.tolist(), strict=True)
        exact = [{"auroc": _known(area), "average_precision": _known(precision)} for area, precision in pairs]
    return [EvaluationResult(each, {**figures_of(each), **own}) for each, own in zip(metrics, exact, strict=True)]


def figures_of(metrics: MetricSet) -> Figures:
    """Return what people read from merged metrics and from one client's alike: all but measures of rank and fit."""
    values = {name: metric.value for name, metric in metrics.items() if isinstance(metric, Mean)}
    if not all(math.isfinite(value) for value in values.values()):
        return dict.fromkeys(values)
    if "squared_error" in values:
        variance = values["label_squared"] - values["label"] ** 2
        r2 = 1 - values["squared_error"] / variance if variance > 0 else None
        rmse = math.sqrt(values["squared_error"])
        return {"loss": values["loss"], "objective": values["objective"], "rmse": rmse, "r2": r2}
    figures: Figures = {**values}
    by_class = metrics.get("by_class")
    if isinstance(by_class, Histogram):
        figures["log_loss"] = values["loss"]
        figures["balanced_accuracy"] = balanced_accuracy(by_class.counts)
    return figures


def merged_figures(metrics: MetricSet) -> Mapping[str, float | None]:
    """Return all figures of merged metrics: those of rank come from histograms."""
    figures = figures_of(metrics)
    scores, calibrated = metrics.get("scores"), metrics.get(CALIBRATED)
    if isinstance(scores, Histogram):
        figures["auroc"] = auroc_of_counts(scores.counts)
        figures["average_precision"] = average_precision_of_counts(scores.counts)
    if isinstance(calibrated, Histogram):
        figures["calibration_error"] = calibration_error(calibration_bins(calibrated.counts))
    return figures


def balanced_accuracy(by_class: Vector) -> float | None:
    """Return the mean over classes of the share that is told rightly; classes without rows do not count.

    Example:
        >>> balanced_accuracy(np.array([3.0, 1.0, 0.0, 4.0, 4.0, 0.0]))
        0.5
    """
    right, rows = by_class.reshape(2, -1).tolist()  # few numbers: an array of them costs more than all else here
    shares = [told / of for told, of in zip(right, rows, strict=True) if of > 0]
    return math.fsum(shares) / len(shares) if shares else None


def probabilities(z: Vector) -> Vector:
    """Return class probabilities of logits ``(rows, outputs)``; one logit means two classes."""
    if z.shape[1] == 1:
        # Both by the logarithm: a probability of 1e-40 is not 0, and its log-loss is finite.
        both: Vector = np.exp(-np.logaddexp(0.0, np.concatenate([z, -z], axis=1)))
        return both
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    shares: Vector = shifted / shifted.sum(axis=1, keepdims=True)
    return shares


def _rows(model: LinearModel, params: Vector, data: Sequence[ClientDataset]) -> _Rows:
    coef, intercept = model.split(np.asarray(params, model.dtype)[None])
    weights = np.ascontiguousarray(coef[0].T)
    logits = [np.ascontiguousarray(each.arrays[FEATURES], model.dtype) @ weights for each in data]
    joined = logits[0] if len(logits) == 1 else np.concatenate(logits)
    if intercept is not None:
        joined += intercept[0]
    counts = np.array([len(each) for each in logits], dtype=np.int64)
    return _Rows(
        logits=joined.astype(np.float64),
        labels=np.concatenate([np.asarray(each.arrays[LABEL], model.label_dtype) for each in data]),
        counts=counts,
        starts=np.cumsum(counts) - counts,
    )


def _losses(model: LinearModel, params: Vector, rows: _Rows) -> list[dict[str, Metric]]:
    count = len(rows.labels)
    trace = np.empty((2, 1, count))
    model.loss.residual(rows.logits[None].copy(), rows.labels[None], np.ones((1, count)), trace)
    each = model.loss.losses(trace)[0]
    penalty = model.penalty(params)
    totals = zip(*rows.sums(each, each * model.row_weights(rows.labels)), rows.counts.tolist(), strict=True)
    return [
        {"loss": Mean(loss, size), "objective": Mean(weighted + size * penalty, size)}
        for loss, weighted, size in totals
    ]


def _add_errors(metrics: Sequence[dict[str, Metric]], rows: _Rows) -> None:
    error, y = rows.logits[:, 0] - rows.labels, rows.labels.astype(np.float64)
    _add_means(metrics, rows, squared_error=error * error, label=y, label_squared=y * y)


def _add_shares(metrics: Sequence[dict[str, Metric]], rows: _Rows, shares: Vector) -> None:
    classes, clients, owner = shares.shape[1], len(metrics), rows.owner
    guess = shares.argmax(axis=1)
    right = guess == rows.labels
    # One probability of two says all; of more classes, the one of the guess is held against what came true.
    two = classes == 2
    stated = shares[:, 1] if two else shares[np.arange(len(guess)), guess]
    came = rows.labels == 1 if two else right
    squares = (shares[:, 1] - came) ** 2 if two else ((shares - np.eye(classes)[rows.labels]) ** 2).sum(axis=1)
    _add_means(metrics, rows, accuracy=right.astype(np.float64), brier=squares)
    place = rows.labels + classes * owner
    held = np.bincount(place, minlength=classes * clients).reshape(clients, classes)
    told = np.bincount(place, weights=right, minlength=classes * clients).reshape(clients, classes)
    by_class = np.concatenate([told, held], axis=1)
    calibrated = calibration_counts(stated, came, owner, clients)
    for each, counts, reliability in zip(metrics, by_class, calibrated, strict=True):
        each["by_class"] = Histogram(counts)
        each[CALIBRATED] = Histogram(reliability)


def _add_scores(metrics: Sequence[dict[str, Metric]], rows: _Rows, model: LinearModel, params: Vector) -> None:
    coef, intercept = model.split(np.asarray(params, np.float64)[None])
    # The same increasing function at every client, known to whoever knows the model.
    spread = float(np.linalg.norm(coef)) or 1.0
    scores = (rows.logits[:, 0] - (0.0 if intercept is None else intercept[0, 0])) / spread
    place = score_bins(scores) + BINS * (rows.labels == 1) + 2 * BINS * rows.owner
    counts = np.bincount(place, minlength=2 * BINS * len(metrics)).astype(np.float64).reshape(len(metrics), 2 * BINS)
    for each, row in zip(metrics, counts, strict=True):
        each["scores"] = Histogram(row)


def _add_means(metrics: Sequence[dict[str, Metric]], rows: _Rows, **terms: Vector) -> None:
    sums = rows.sums(*terms.values())
    sizes = rows.counts.tolist()
    for name, totals in zip(terms, sums, strict=True):
        for each, total, size in zip(metrics, totals, sizes, strict=True):
            each[name] = Mean(total, size)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
