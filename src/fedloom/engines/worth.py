"""Worth: whether joining was worth it to each client, and how sure one can be of it.

What decides is the difference between the federated model and the client's own on the client's test rows, in what both
were trained to make small: the log-loss of a classification, the RMSE of a regression. There is a verdict only where
the interval of that difference excludes 0. The areas under the ROC curve stand beside it: they say less about few rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.engines.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    Score,
    auroc_score,
    interval,
    mean_score,
    resample,
    root_mean_score,
)

Verdict = Literal["gains", "loses", "unclear", "not compared"]
Measure = Literal["log_loss", "rmse"]
MODELS = ("eval", "local", "pooled")
"""The federated model stands under the name that its figures have in the record."""
NOTABLE = 0.01
"""A loss of AUROC that is said aloud even where it may be chance."""
_NAMED = 8
_TINY = 1e-300
_TITLES = {"log_loss": "log-loss", "rmse": "RMSE", "auroc": "AUROC"}
_EQUAL = 5e-5
"""What four decimals show as 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Federated minus own, on the same rows; of a loss, below 0 is better."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientWorth:
    """What the federation was worth to one client."""

    verdict: Verdict
    words: str
    test_rows: int
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    """Of ``eval/auroc``, ``local/log_loss`` and so on."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """Federated minus own, by figure."""
    pooled: float | None = None
    """Pooled minus own, in the measure that decides: what a federated model that is trained to its end can reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the federation was worth to all clients."""

    measure: Measure
    confidence: float
    resamples: int
    words: tuple[str, ...]
    clients: Mapping[ClientId, ClientWorth]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TestRows:
    """Labels of one client's test rows, and what each model predicts for them."""

    __test__ = False  # pytest: no class of tests

    label: Vector
    predicted: Mapping[str, Vector]
    """By model: class probabilities ``(rows, classes)``, or numbers ``(rows,)``."""
    own_classes: int | None
    """Classes among the client's training rows; None for regression."""
    train_rows: int


def worth(rows: Mapping[ClientId, TestRows], *, key: Key) -> Worth:
    """Judge every client.

    Args:
        rows: By client; one without test rows is judged "not compared".
        key: Stream of the resamples; each client's hangs below it by name.
    """
    regression = all(each.own_classes is None for each in rows.values())
    measure: Measure = "rmse" if regression else "log_loss"
    clients = {client: _client(client, each, measure, key.child(client)) for client, each in rows.items()}
    return Worth(
        measure=measure,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        words=_words(clients, measure),
        clients=clients,
    )


def _client(client: ClientId, rows: TestRows, measure: Measure, key: Key) -> ClientWorth:
    count = len(rows.label)
    if not count:
        return ClientWorth(verdict="not compared", words=f"{client} has no test rows.", test_rows=0)
    scores = {f"{model}/{name}": s for model in MODELS for name, s in _scores(rows.predicted[model], rows).items()}
    once = np.ones((1, count))
    exact = {name: float(score(once)[0]) for name, score in scores.items()}
    drawn = resample(scores, count, key)
    one_class = rows.own_classes == 1
    intervals = {name: interval(values) for name, values in drawn.items()}
    if one_class:
        intervals["local/auroc"] = None
    differences: dict[str, Difference] = {}
    for figure in sorted({name.partition("/")[2] for name in scores}):
        value = exact[f"eval/{figure}"] - exact[f"local/{figure}"]
        if np.isnan(value) or one_class:
            continue
        within = interval(drawn[f"eval/{figure}"] - drawn[f"local/{figure}"])
        low, high = (None, None) if within is None else (within.low, within.high)
        differences[figure] = Difference(value=value, low=low, high=high)
    if one_class:
        words = (
            f"{client}: all of its {rows.train_rows} training rows are of one class. A model of its own cannot tell "
            "classes apart, so it has no AUROC of its own and is not compared."
        )
        return ClientWorth(verdict="not compared", words=words, test_rows=count, intervals=intervals)
    verdict = _verdict(differences[measure])
    return ClientWorth(
        verdict=verdict,
        words=_sentence(client, verdict, differences, measure, count),
        test_rows=count,
        intervals=intervals,
        differences=differences,
        pooled=exact[f"pooled/{measure}"] - exact[f"local/{measure}"],
    )


def _scores(predicted: Vector, rows: TestRows) -> dict[str, Score]:
    if rows.own_classes is None:
        return {"rmse": root_mean_score((predicted - rows.label) ** 2)}
    label = rows.label.astype(np.int64)
    losses = -np.log(np.maximum(predicted[np.arange(len(label)), label], _TINY))
    right = predicted.argmax(axis=1) == label
    scores = {"log_loss": mean_score(losses), "accuracy": mean_score(right.astype(np.float64))}
    if predicted.shape[1] == 2:
        scores["auroc"] = auroc_score(predicted[:, 1], label == 1)
    return scores


def _verdict(difference: Difference) -> Verdict:
    if difference.low is None or difference.high is None:
        return "unclear"
    return "gains" if difference.high < 0 else "loses" if difference.low > 0 else "unclear"


def _sentence(
    client: ClientId, verdict: Verdict, differences: Mapping[str, Difference], measure: Measure, count: int
) -> str:
    start = {
        "gains": f"{client} gains. On",
        "loses": f"{client} is worse off than alone. On",
        "unclear": f"{client}: no difference is shown. On",
        "not compared": "",
    }[verdict]
    shown = [_shown(measure, differences[measure])]
    if "auroc" in differences:
        shown.append(_shown("auroc", differences["auroc"]))
    return f"{start} its {count} test rows the federated model, against its own, has {' and '.join(shown)}."


def _shown(figure: str, difference: Difference) -> str:
    if abs(difference.value) < _EQUAL:
        return f"the same {_TITLES.get(figure, figure)}"
    word = "higher" if difference.value > 0 else "lower"
    name = _TITLES.get(figure, figure)
    within = "" if difference.low is None else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"{_article(name)} {name} {abs(difference.value):.4f} {word}{within}"


def _article(name: str) -> str:
    return "a" if name == "log-loss" else "an"


def _words(clients: Mapping[ClientId, ClientWorth], measure: Measure) -> tuple[str, ...]:
    by: dict[Verdict, list[ClientId]] = {"gains": [], "loses": [], "unclear": [], "not compared": []}
    for client, each in clients.items():
        by[each.verdict].append(client)
    compared = len(clients) - len(by["not compared"])
    name = _TITLES[measure]
    words = []
    if by["gains"]:
        words.append(
            f"{_count(by['gains'], compared)} {_verb(by['gains'], 'gain')} from joining: {_names(by['gains'])}. On the "
            f"client's own test rows the federated model has a lower {name} than the client's own model, and the "
            f"{CONFIDENCE:.0%} interval of the difference excludes 0."
        )
    # A pooled model of the same kind tells whether rows that differ are to blame, or training that is not at its end.
    harmed = [client for client in by["loses"] if (clients[client].pooled or 0.0) > 0]
    short = [client for client in by["loses"] if client not in harmed]
    higher = f"its {name} is higher than that of the client's own model, and the interval excludes 0"
    if harmed:
        words.append(
            f"For {_count(harmed, compared)} one global model is not worth joining: {_names(harmed)}. On the client's "
            f"own test rows {higher}. A model of all rows together is no better there. Stay with the own model, or "
            "train a personal one."
        )
    if short:
        words.append(
            f"For {_count(short, compared)} the federated model is worse than the own one: {_names(short)}. On the "
            f"client's own test rows {higher}. A model of all rows together is no worse there, so it is training that "
            "falls short: try more rounds, another learning rate, or scaffold."
        )
    if by["unclear"]:
        words.append(
            f"For {_count(by['unclear'], compared)} no difference is shown: {_names(by['unclear'])}. The interval "
            "includes 0, so these test rows do not show that joining was worth it."
        )
    if harmed and not by["gains"]:
        words.append("No client is shown to gain: on these data one global model of this kind is not worth joining.")
    words += [clients[client].words for client in by["not compared"][:_NAMED]]
    words += _auroc_words(clients)
    if compared > 1:
        words.append(
            f"These are {compared} intervals of {CONFIDENCE:.0%}: where joining changed nothing at all, about "
            f"{compared * (1 - CONFIDENCE):.1f} of them would exclude 0 by chance."
        )
    return tuple(words)


def _auroc_words(clients: Mapping[ClientId, ClientWorth]) -> list[str]:
    lower = {
        client: difference
        for client, each in clients.items()
        if (difference := each.differences.get("auroc")) is not None and difference.value < -NOTABLE
    }
    if not lower:
        return []
    shown = [f"{client} ({_shown('auroc', difference).removeprefix('an ')})" for client, difference in lower.items()]
    return [f"The federated AUROC is more than {NOTABLE} below that of the own model at {_names(shown)}."]


def _count(some: Sequence[object], of: int) -> str:
    return f"{len(some)} of {of} clients compared"


def _verb(some: Sequence[object], verb: str) -> str:
    return f"{verb}s" if len(some) == 1 else verb


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
