"""What is promised is priced before round 1, and a plan that cannot keep it is refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import PrivacyTarget, Schedule, chain, gaussian, mean
from fedloom.core.events import DiscreteGaussianDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from fedloom.errors import ComponentError, Error, PlanError
from fedloom.experiment.listing import list_plan
from fedloom.experiment.plan import resolve_experiment, train_plan
from fedloom.experiment.privacy import FEW_CLIENTS, price_experiment
from fedloom.privacy.accountants import epsilon
from fedloom.runtime.policy import RoundPolicy

HERE = Path()
CLIENTS, ROUNDS, RATE = 200, 6, 0.1
LOCAL = Schedule(epochs=1, batch_size=10, learning_rate=0.1)
NOISE = gaussian(clip=0.5, noise_multiplier=1.0)
PROMISE = PrivacyTarget(unit="client", delta=1e-4)


def experiment(**fields: Any) -> fedloom.Experiment:
    values: dict[str, Any] = {
        "data": fedloom.data.generated(clients=CLIENTS, rows=20, features=3),
        "learner": fedloom.logistic(),
        "algorithm": fedloom.fedavg(LOCAL, weighting="uniform"),
        "pipeline": chain(mean(expected=RATE * CLIENTS), NOISE, fedloom.fixed_point()),
        "cohort": fedloom.poisson(RATE),
        "stop": fedloom.max_rounds(ROUNDS),
        "privacy": PROMISE,
        "seed": 3,
        **fields,
    }
    return fedloom.Experiment(**values)


def priced(asked: fedloom.Experiment) -> Any:
    asked = resolve_experiment(asked, base=HERE)
    data: Any = asked.data
    learner: Any = asked.learner
    return price_experiment(asked, train_plan(asked, learner.build(data.schema()), data.population(), ()))


def test_the_price_is_that_of_the_noise_as_it_is_drawn() -> None:
    price = priced(experiment())
    known = price.protection.known
    assert isinstance(known, DiscreteGaussianDpEvent) and known.dim == 4 and known.noise_multiplier >= 1.0
    assert price.protection.event == PoissonSampledDpEvent(RATE, known)
    for event, figure in ((price.protection.event, price.figures.models), (known, price.figures.participation)):
        assert figure.epsilon == epsilon(SelfComposedDpEvent(event, ROUNDS), delta=1e-4, adjacency="zero_out")
    assert price.figures.models.epsilon < price.figures.participation.epsilon
    assert price.limit is not None and price.limit.epsilon < price.figures.models.epsilon and not price.limit.proven


def test_fixed_size_cohorts_are_never_priced_as_poisson() -> None:
    """Their sampling counts under replace-one only, at twice the bound; elsewhere it is left out, and that is said."""
    size = int(RATE * CLIENTS)
    poisson = priced(experiment()).figures.models.epsilon
    for adjacency, counted in (("zero_out", False), ("replace_one", True)):
        promise = replace(PROMISE, adjacency=adjacency)
        fixed = priced(experiment(cohort=fedloom.uniform(size), privacy=promise))
        assert fixed.figures.models.epsilon > 1.5 * poisson, adjacency
        assert ("not counted" in fixed.protection.sampling) != counted


def test_a_capped_cohort_costs_a_little_more_and_rounds_finer() -> None:
    capped = priced(experiment(cohort=fedloom.truncated_poisson(RATE, 40)))
    plain = priced(experiment())
    assert plain.figures.models.epsilon <= capped.figures.models.epsilon < 1.2 * plain.figures.models.epsilon


def test_a_cheaper_promise_than_the_plan_costs_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(PlanError, match=r"6 rounds cost epsilon .* holder of participation data.*reader = \"models\""):
        priced(experiment(privacy=replace(PROMISE, epsilon=5.0)))
    with pytest.raises(PlanError, match=r"reader of the models.*run fewer rounds$"):
        priced(experiment(privacy=replace(PROMISE, epsilon=0.5, reader="models")))
    assert priced(experiment(privacy=replace(PROMISE, epsilon=5.0, reader="models")))


SHARED_ROWS = fedloom.fedavg(LOCAL)
REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "noise without a promise": (lambda: {"privacy": None}, "what the run promises"),
    "a promise without noise": (lambda: {"pipeline": chain(mean(expected=20.0))}, "nothing protects"),
    "weights by rows": (lambda: {"algorithm": SHARED_ROWS}, 'use weighting = "uniform"'),
    "records under a client's noise": (
        lambda: {"privacy": PrivacyTarget(unit="record", delta=1e-5)},
        "nothing bounds what one",
    ),
    "delta above one over the clients": (lambda: {"privacy": replace(PROMISE, delta=0.006)}, r"above 1 / 200"),
    "a comparison": (lambda: {"compare": True}, "compare = true: figures of private rows"),
    "evaluations without budget": (lambda: {"evaluate_every": 1}, "evaluate_every: figures of private rows"),
    "metrics without noise": (lambda: {"metrics_pipeline": chain()}, "metrics_pipeline: figures of private rows"),
    "a stop that reads rows": (
        lambda: {"stop": fedloom.any_of(fedloom.max_rounds(5), fedloom.patience("fit/loss", rounds=2))},
        "stop reads 'fit/loss'",
    ),
    "a run without end": (lambda: {"stop": fedloom.small_update(1e-9)}, "nothing bounds the rounds"),
    "a fixed size where clients come and go": (
        lambda: {"cohort": fedloom.uniform(20), "privacy": replace(PROMISE, adjacency="add_remove")},
        "another takes its place",
    ),
    "noise of each client that only hides its absence": (
        lambda: {"pipeline": chain(mean(expected=20.0), fedloom.local_gaussian(0.5, 4.0), fedloom.fixed_point())},
        "replace_one",
    ),
    "a cohort by rows": (lambda: {"cohort": fedloom.by_size(20)}, "tell of the rows"),
    "a mean over who came": (lambda: {"pipeline": chain(mean(), NOISE)}, r"mean\(expected=\.\.\.\)"),
    "a mean behind the noise": (lambda: {"pipeline": chain(NOISE, mean(expected=20.0))}, r"mean\(expected=\.\.\.\)"),
    "a preparation of private rows": (lambda: {"prepare": [fedloom.standardise()]}, r"prepare\.0 \(standardise\) asks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_promised_is_refused_before_round_1(name: str) -> None:
    fields, said = REFUSED[name]
    rounds: list[Any] = []
    with pytest.raises(Error, match=said):
        fedloom.local().run(experiment(**fields()), on_round=[rounds.append])
    assert not rounds


@pytest.mark.parametrize(
    "wrong", [{"delta": -1e-9}, {"delta": 1.0}, {"delta": float("nan")}, {"epsilon": 0.0}, {"epsilon": float("inf")}]
)
def test_numbers_that_promise_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ComponentError, match=rf"privacy\.{next(iter(wrong))}"):
        PrivacyTarget(**{"unit": "client", "delta": 1e-5, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("cohort", [fedloom.poisson(0.5), fedloom.uniform(2)], ids=lambda cohort: cohort.name)
def test_sampling_of_clients_is_not_counted_on_top_of_that_of_rows(cohort: Any) -> None:
    private = fedloom.PrivateSteps(clip=1.0, noise_multiplier=4.0, rate=0.1, rows=20)
    algorithm = fedloom.fedavg(Schedule(steps=2, private=private), weighting="uniform")
    promise = PrivacyTarget(unit="record", delta=1e-5)
    asked = experiment(algorithm=algorithm, pipeline=chain(mean(expected=4.0)), cohort=cohort, privacy=promise)
    everybody = priced(replace(asked, cohort=fedloom.everyone()))
    found = priced(asked)
    assert found.figures.models.epsilon == everybody.figures.models.epsilon
    assert "a sample within a sample" in found.protection.sampling


def test_few_clients_are_pointed_to_records() -> None:
    few = experiment(data=fedloom.data.generated(clients=10, rows=20, features=3), privacy=replace(PROMISE, delta=1e-2))
    assert any("Private steps protect records" in note for note in priced(few).notes)
    enough = fedloom.data.generated(clients=FEW_CLIENTS, rows=20, features=3)
    assert not priced(experiment(data=enough, privacy=replace(PROMISE, delta=1e-2))).notes


def test_a_private_plan_has_no_evaluation_no_metrics_and_no_second_draw() -> None:
    asked = resolve_experiment(experiment(), base=HERE)
    data: Any = asked.data
    learner: Any = asked.learner
    plan = train_plan(asked, learner.build(data.schema()), data.population(), ("train", "test"))
    assert plan.private and plan.evaluation is None and not plan.exchange.metrics.kinds and plan.exchange.silent
    assert plan.policy == replace(RoundPolicy(), on_short="skip")


def test_the_listing_says_who_is_protected_from_whom() -> None:
    listing = list_plan(experiment(), base=HERE)
    assert listing.privacy is not None and [phase.title for phase in listing.phases] == ["training"]
    said = "\n".join(listing.privacy.lines)
    for words in (
        "integer Gaussian noise",
        "unit: client; neighbours: zero_out; delta 0.0001",
        "clients by poisson",
        "reader of the models",
        "holder of participation data",
        "not protected: the server reads",
        "not released: losses",
        "the ledger counts nothing",
        "rounding raises the bound",
        "not proven",
    ):
        assert words in said, words
    spent = [(at.rounds, at.models, at.participation) for at in listing.privacy.by_round]
    assert [number for number, _, _ in spent] == [1, 2, 3, 5, ROUNDS]
    assert all(np.diff([models for _, models, _ in spent]) > 0)
    readers: Any = listing.privacy.price["readers"]
    assert spent[-1][1] >= readers["reader of the models"]["epsilon"]


def test_float_noise_is_priced_as_continuous_noise() -> None:
    price = priced(experiment(pipeline=chain(mean(expected=20.0), NOISE)))
    assert price.protection.known == GaussianDpEvent(1.0) and price.limit is None
