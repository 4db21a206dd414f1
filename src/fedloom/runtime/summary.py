"""From merged metrics and the clients' own figures to the named numbers of a record."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from fedloom.core.calibration import CalibrationBin, calibration_bins
from fedloom.core.data import Split
from fedloom.core.ids import ClientId
from fedloom.core.learner import Learner
from fedloom.core.metrics import Histogram, Mean, MetricSet
from fedloom.runtime.record import Figures
from fedloom.runtime.stopping import falls

PHASES: Mapping[Split, str] = {"train": "train", "validation": "validation", "test": "eval"}
"""Under which name the figures of a split stand in the record."""
TRAIN_FIGURES = ("objective", "loss")
"""The figures of training rows; those of other splits are the rest."""


def fit_figures(metrics: MetricSet) -> Figures:
    """Return the means of training as ``fit/name``."""
    return {f"fit/{name}": metric.value for name, metric in metrics.items() if isinstance(metric, Mean)}


def evaluation_figures(
    learner: Learner, splits: Sequence[Split], metrics: MetricSet, clients: Mapping[ClientId, Figures]
) -> Figures:
    """Return the figures over all rows of each split, and over clients their mean, worst and spread.

    Args:
        learner: Knows how figures follow from its metrics.
        splits: What was evaluated.
        metrics: Merged over clients, named ``split/name``.
        clients: Each client's own figures, named as in the record; empty where they did not travel.
    """
    figures: Figures = {}
    for split in splits:
        own = {name.removeprefix(split + "/"): m for name, m in metrics.items() if name.startswith(split + "/")}
        if not any(isinstance(metric, Mean) and metric.weight for metric in own.values()):
            continue
        for name, value in (_losses(own) if split == "train" else learner.figures(own)).items():
            if _reported(split, name):
                figures[f"{PHASES[split]}/{name}"] = value
    names = sorted({name for own in clients.values() for name in own if not name.startswith("train/")})
    for name in names:
        figures |= over_clients(name, [own.get(name) for own in clients.values()])
    return figures


def calibration_of(metrics: MetricSet) -> tuple[CalibrationBin, ...]:
    """Return the reliability curve of the test rows of all clients, where the learner counts one."""
    counts = metrics.get("test/calibration")
    return calibration_bins(counts.counts) if isinstance(counts, Histogram) else ()


def client_figures(scores: Mapping[str, float | None]) -> Figures:
    """Return a client's scores, named ``split/name``, under the names of the record."""
    named = ((_in_record(name), value) for name, value in scores.items())
    return {name: value for name, value in named if name is not None}


@functools.lru_cache(maxsize=256)
def _in_record(score: str) -> str | None:
    """Return the name in the record of a score ``split/name``; None where it is not reported."""
    split, figure = score.split("/", 1)
    return next(
        (f"{phase}/{figure}" for known, phase in PHASES.items() if split == known and _reported(known, figure)), None
    )


def over_clients(name: str, values: Sequence[float | None]) -> Figures:
    """Return mean, worst and spread (standard deviation) of a figure over the clients that have a value.

    Example:
        >>> over_clients("eval/accuracy", [0.5, None, 1.0])
        {'eval/accuracy/mean': 0.75, 'eval/accuracy/worst': 0.5, 'eval/accuracy/spread': 0.25}
    """
    known = [value for value in values if value is not None]
    if not known:
        return {}
    mean = math.fsum(known) / len(known)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / len(known))
    worst = max(known) if falls(name) else min(known)
    return {f"{name}/mean": mean, f"{name}/worst": worst, f"{name}/spread": spread}


def _losses(metrics: MetricSet) -> Figures:
    means = {name: metric.value for name, metric in metrics.items() if isinstance(metric, Mean)}
    return {name: value if math.isfinite(value) else None for name, value in means.items()}


def _reported(split: Split, figure: str) -> bool:
    return figure in TRAIN_FIGURES if split == "train" else figure not in TRAIN_FIGURES
