"""Ranking figures over clients from histograms, for 42 models: hardly begun, underfit, steep, unbalanced."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import average_precision_score, roc_auc_score

import fedloom
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.keys import Key
from fedloom.core.metrics import Metric, merge
from fedloom.engines.comparison import minimise

DRAW = Key.from_seed(8).generator()


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return a balanced real table, a noisy one, and one with three positives in a hundred."""
    loaded = load_breast_cancer()
    real = (loaded.data - loaded.data.mean(axis=0)) / loaded.data.std(axis=0)
    noise = DRAW.standard_normal((1500, 12))
    hard = (noise @ DRAW.standard_normal(12) + 4 * DRAW.standard_normal(1500) > 0).astype(np.int64)
    rare = (noise[:, 0] + DRAW.standard_normal(1500) > 2.6).astype(np.int64)
    return {"real": (real, loaded.target), "noisy": (noise, hard), "rare": (noise, rare)}


FITS = [
    (name, l2, part, scale)
    for name, (l2, part), scale in itertools.product(
        ("real", "noisy", "rare"),
        ((1e-4, 1.0), (1e-2, 1.0), (1.0, 1.0), (100.0, 1.0), (1e-3, 1e-6), (1e-3, 0.01), (1e-3, 0.3)),
        (1.0, 1e3),
    )
]
"""Table, penalty, the part of the way from zero to the optimum that training went, and the scale of the features."""


@pytest.mark.parametrize(("name", "l2", "part", "scale"), FITS)
def test_histograms_are_near_the_exact_figures_whatever_the_fit(
    name: str, l2: float, part: float, scale: float
) -> None:
    features, label = tables()[name]
    schema = Schema(tuple(f"x{place}" for place in range(features.shape[1])), "label", ("no", "yes"))
    learner = fedloom.logistic(l2=l2).build(schema)
    data = ClientDataset({"features": features, "label": label}, {"train": slice(0, len(label))})
    params = part * minimise(learner, np.zeros(learner.layout.size), data)
    params[:-1] /= scale  # the same logits from features of another scale
    clients = np.array_split(np.arange(len(label)), 7)
    parts = [ClientDataset({"features": features[rows] * scale, "label": label[rows]}, {}) for rows in clients]
    merged: dict[str, Metric] = {}
    for each in learner.evaluate(params, parts):
        merged = merge(merged, each.metrics)
    figures = learner.figures(merged)
    logits = (features * scale) @ params[:-1] + params[-1]
    assert figures["auroc"] == pytest.approx(roc_auc_score(label, logits), abs=0.005)
    # Features a thousand times as wide use fewer of the bins: 45 positives at the top of a ranking feel it.
    within = 0.01 if scale == 1.0 else 0.02
    assert figures["average_precision"] == pytest.approx(average_precision_score(label, logits), abs=within)
