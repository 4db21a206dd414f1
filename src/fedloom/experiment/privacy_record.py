"""What is written down of a private run: one document for each reader, because their two figures never stand together.

The record of a run names the clients of every round. Whoever reads it may know who took part when, so that the figure
in it is theirs. The figure against a reader of the models stands in a document that holds nothing of participation.
"""

from __future__ import annotations

import itertools

from fedloom.core.component import Json
from fedloom.core.data import Population
from fedloom.experiment.privacy import PrivacyPrice
from fedloom.privacy.guarantee import Guarantee
from fedloom.runtime.cohort import Cohort

ELSEWHERE = (
    "what the models tell to one who knows nothing of cohorts is another figure, and never stands beside a list of who "
    "took part: fedloom plan prints it, and fedloom report --public"
)
_STEPS = (1, 1.5, 2, 3, 5, 7)


def for_the_record(price: PrivacyPrice, *, simulated: bool) -> dict[str, Json]:
    """Return what the record of a run holds: the figure against anyone who holds participation data."""
    held, figure = price.protection, price.figures.participation
    by_round = [_spent(number, held.against_participation(number)) for number in shown_rounds(price.rounds)]
    return {**_promise(price, figure, simulated=simulated), "data_set": held.target.data_set, "by_round": by_round}


def for_the_public(price: PrivacyPrice, cohort: Cohort, population: Population, *, simulated: bool) -> dict[str, Json]:
    """Return what may be shown to anyone who sees the models: the figure against them, and expected sizes only.

    Under "add_remove" the number of clients is protected itself, so that it is left out, and an expected size with it.
    """
    held, figure = price.protection, price.figures.models
    by_round = [_spent(number, held.against_models(number)) for number in shown_rounds(price.rounds)]
    told = held.target.unit != "client" or held.target.neighbours != "add_remove"
    return {
        **_promise(price, figure, simulated=simulated),
        "clients": len(population) if told else None,
        "expected_cohort": cohort.expected(len(population)) if told else None,
        "by_round": by_round,
    }


def _promise(price: PrivacyPrice, figure: Guarantee, *, simulated: bool) -> dict[str, Json]:
    held = price.protection
    return {
        "simulated": simulated,
        "unit": held.target.unit,
        "adjacency": figure.adjacency,
        "delta": figure.delta,
        "mechanism": held.mechanism,
        "noise_by": held.noise_by,
        "sampling": held.sampling,
        "rounds": price.rounds,
        "reader": figure.reader,
        "epsilon": figure.epsilon,
        "method": figure.method,
        "words": figure.words,
        "notes": list(price.notes),
    }


def _spent(rounds: int, figure: Guarantee) -> Json:
    return {"rounds": rounds, "epsilon": figure.epsilon}


def shown_rounds(most: int) -> list[int]:
    """Return rounds at which the figure is told: few, closer together at the start, and the last.

    Example:
        >>> shown_rounds(30), shown_rounds(12)
        ([1, 2, 3, 5, 7, 10, 15, 20, 30], [1, 2, 3, 5, 7, 10, 12])
    """
    scales = itertools.takewhile(lambda scale: scale < most, (10**power for power in itertools.count()))
    shown = (step * scale for scale in scales for step in _STEPS)
    return [*(int(number) for number in shown if number < most and number == int(number)), most]
