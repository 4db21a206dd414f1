"""Verdicts: only where an interval excludes 0, and in words that agree with the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.engines.worth import TestRows, worth

KEY = Key.from_seed(3)


def shares(positive: Any) -> Any:
    positive = np.asarray(positive, dtype=np.float64)
    return np.stack([1 - positive, positive], axis=1)


def rows(federated: Any, own: Any, label: Any, *, pooled: Any = None, own_classes: int | None = 2) -> TestRows:
    made = np.asarray if own_classes is None else shares
    models = (("eval", federated), ("local", own), ("pooled", federated if pooled is None else pooled))
    predicted = {name: made(each) for name, each in models}
    return TestRows(label=np.asarray(label), predicted=predicted, own_classes=own_classes, train_rows=30)


LABEL = np.arange(40) % 2
SURE = np.where(LABEL == 1, 0.9, 0.1)
UNSURE = np.where(LABEL == 1, 0.55, 0.45)
NOISY = np.where(np.arange(40) % 4 < 2, SURE, UNSURE)


def test_a_client_whose_rows_are_all_told_better_gains_and_the_other_loses() -> None:
    found = worth({ClientId("a"): rows(SURE, UNSURE, LABEL), ClientId("b"): rows(UNSURE, SURE, LABEL)}, key=KEY)
    assert (found.measure, [each.verdict for each in found.clients.values()]) == ("log_loss", ["gains", "loses"])
    difference = found.clients[ClientId("a")].differences["log_loss"]
    expected = np.log(0.55) - np.log(0.9)
    assert abs(difference.value - expected) < 1e-12 and difference.high is not None and difference.high < 0
    assert "1 of 2 clients compared gains from joining: a. On the" in found.words[0]
    assert "not worth joining: b." in found.words[1]
    words = found.clients[ClientId("a")].words
    assert "a gains. On its 40 test rows the federated model, against its own, has a log-loss 0.4925 lower [" in words


def test_equal_models_are_unclear() -> None:
    found = worth({ClientId("a"): rows(NOISY, NOISY, LABEL)}, key=KEY)
    only = found.clients[ClientId("a")]
    assert only.verdict == "unclear" and only.differences["log_loss"].value == 0
    assert "do not show that joining was worth it" in found.words[0]


def test_a_client_of_one_class_has_no_auroc_of_its_own_and_is_not_compared() -> None:
    found = worth({ClientId("a"): rows(SURE, UNSURE, LABEL, own_classes=1)}, key=KEY)
    only = found.clients[ClientId("a")]
    assert only.verdict == "not compared" and not only.differences
    assert only.intervals["local/auroc"] is None and only.intervals["eval/auroc"] is not None
    assert "all of its 30 training rows are of one class" in only.words and "no AUROC of its own" in only.words
    assert only.words in found.words


def test_a_client_without_test_rows_is_not_compared() -> None:
    found = worth({ClientId("a"): rows([], [], np.empty(0, np.int64))}, key=KEY)
    assert found.clients[ClientId("a")].words == "a has no test rows."


def test_a_regression_is_judged_by_its_rmse() -> None:
    label = np.linspace(0, 1, 50)
    found = worth({ClientId("a"): rows(label + 0.1, label + 0.5, label, own_classes=None)}, key=KEY)
    only = found.clients[ClientId("a")]
    assert (found.measure, only.verdict) == ("rmse", "gains")
    assert abs(only.differences["rmse"].value + 0.4) < 1e-12


def test_a_lower_auroc_is_said_even_where_it_may_be_chance() -> None:
    own = SURE.copy()
    federated = SURE.copy()
    federated[:2] = 0.95, 0.05  # two rows on the wrong side of all others
    found = worth({ClientId("a"): rows(federated, own, LABEL)}, key=KEY)
    assert any("0.01 below that of the own model at a (AUROC" in words for words in found.words)


def test_who_else_takes_part_changes_no_interval() -> None:
    alone = worth({ClientId("a"): rows(NOISY, SURE, LABEL)}, key=KEY)
    beside = worth({ClientId("b"): rows(SURE, SURE, LABEL), ClientId("a"): rows(NOISY, SURE, LABEL)}, key=KEY)
    assert alone.clients[ClientId("a")] == beside.clients[ClientId("a")]


def test_very_unlikely_labels_have_a_finite_loss() -> None:
    found = worth({ClientId("a"): rows(np.zeros(40), SURE, LABEL)}, key=KEY)
    assert np.isfinite(found.clients[ClientId("a")].differences["log_loss"].value)


def test_a_client_whose_pooled_model_is_no_worse_is_told_to_train_on() -> None:
    found = worth({ClientId("a"): rows(UNSURE, NOISY, LABEL, pooled=SURE)}, key=KEY)
    assert found.clients[ClientId("a")].verdict == "loses"
    assert "it is training that falls short" in found.words[0] and "not worth joining" not in " ".join(found.words)
    harmed = worth({ClientId("a"): rows(UNSURE, NOISY, LABEL, pooled=UNSURE)}, key=KEY)
    assert (
        "one global model is not worth joining: a." in harmed.words[0]
        and "No client is shown to gain" in harmed.words[1]
    )
