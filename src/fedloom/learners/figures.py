"""Metrics and figures of the rows of a block of clients, from logits on: the same for every learner.

What a client alone has is what it has in a block: all that is summed is summed over its own rows.
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
from fedloom.core.metrics import Histogram, Mean, Metric, MetricSet, MetricSpec
from fedloom.core.params import Vector
from fedloom.core.ranking import BINS, auroc_of_counts, average_precision_of_counts, rankings, score_bins
from fedloom.core.work import EvaluationResult

Figures = dict[str, float | None]
CALIBRATED = "calibration"
"""Metric of the counts behind a reliability curve."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows of a block, one client after the other."""

    logits: Vector
    """Shape ``(rows, outputs)``, float64: one output for two classes or a number, else one a class."""
    labels: Vector
    counts: npt.NDArray[np.int64]
    """Rows of each client, one or more."""

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Place of each client's first row."""
        starts: npt.NDArray[np.int64] = np.cumsum(self.counts) - self.counts
        return starts

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """The client of each row, by position in the block."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def sums(self, *terms: Vector) -> list[list[float]]:
        """Return the sum of each term over each client's rows."""
        totals: list[list[float]] = np.add.reduceat(np.stack(terms), self.starts, axis=1).tolist()
        return totals


def number_kinds() -> MetricSpec:
    """Return the sums that figures of a regression are computed from."""
    return MetricSpec(dict.fromkeys(("loss", "objective", "squared_error", "label", "label_squared"), Mean))


def class_kinds(classes: int) -> MetricSpec:
    """Return the sums that figures of a classification are computed from; two classes have scores to rank."""
    kinds: dict[str, Any] = dict.fromkeys(("loss", "objective", "accuracy", "brier"), Mean)
    kinds |= {"by_class": 2 * classes, CALIBRATED: CALIBRATION}
    return MetricSpec(kinds | {"scores": 2 * BINS} if classes == 2 else kinds)


def loss_metrics(rows: Rows, *, each: Vector, weighted: Vector, penalty: float) -> list[dict[str, Metric]]:
    """Return loss and objective of each client.

    Args:
        rows: The rows of the block.
        each: Loss of each row.
        weighted: Loss of each row times the weight of its class: what the objective is the mean of.
        penalty: Added to the objective.
    """
    totals = zip(*rows.sums(each, weighted), rows.counts.tolist(), strict=True)
    return [{"loss": Mean(loss, size), "objective": Mean(total + size * penalty, size)} for loss, total, size in totals]


def number_results(metrics: Sequence[dict[str, Metric]], rows: Rows) -> list[EvaluationResult]:
    """Return losses with the errors of predicted numbers beside them."""
    error, y = rows.logits[:, 0] - rows.labels, rows.labels.astype(np.float64)
    _add_means(metrics, rows, squared_error=error * error, label=y, label_squared=y * y)
    return loss_results(metrics)


def class_results(
    metrics: Sequence[dict[str, Metric]], rows: Rows, *, margins: Vector | None, scores: Vector | None
) -> list[EvaluationResult]:
    """Return losses with all that is known of predicted classes beside them.

    Args:
        metrics: Losses, one mapping a client.
        rows: The rows of the block.
        margins: Log-odds of the second of two classes by row: exact ranks come from these. None for more classes.
        scores: The same up to an increasing function common to all clients, of a spread of about one: they are binned.
    """
    _add_shares(metrics, rows, probabilities(rows.logits))
    if margins is None or scores is None:
        return loss_results(metrics)
    _add_scores(metrics, rows, scores)
    ranked = rankings(margins, rows.labels == 1, rows.starts)
    pairs = zip(ranked.auroc.tolist(), ranked.average_precision.tolist(), strict=True)
    exact: list[Figures] = [
        {"auroc": _known(area), "average_precision": _known(precision)} for area, precision in pairs
    ]
    return [EvaluationResult(each, {**figures_of(each), **own}) for each, own in zip(metrics, exact, strict=True)]


def loss_results(metrics: Sequence[dict[str, Metric]]) -> list[EvaluationResult]:
    """Return metrics with the figures that they give."""
    return [EvaluationResult(each, figures_of(each)) for each in metrics]


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


def _add_shares(metrics: Sequence[dict[str, Metric]], rows: Rows, shares: Vector) -> None:
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


def _add_scores(metrics: Sequence[dict[str, Metric]], rows: Rows, scores: Vector) -> None:
    place = score_bins(scores) + BINS * (rows.labels == 1) + 2 * BINS * rows.owner
    counts = np.bincount(place, minlength=2 * BINS * len(metrics)).astype(np.float64).reshape(len(metrics), 2 * BINS)
    for each, row in zip(metrics, counts, strict=True):
        each["scores"] = Histogram(row)


def _add_means(metrics: Sequence[dict[str, Metric]], rows: Rows, **terms: Vector) -> None:
    sums = rows.sums(*terms.values())
    sizes = rows.counts.tolist()
    for name, totals in zip(terms, sums, strict=True):
        for each, total, size in zip(metrics, totals, sizes, strict=True):
            each[name] = Mean(total, size)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
