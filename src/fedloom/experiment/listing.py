"""PlanListing: everything that will leave a client, known before anything is trained.

For each phase in order (preparations, training, evaluation): what a message holds, how long it is, who can read it. The
lengths are those of the codec, so they are the bytes that a run then counts, as long as no client fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from fedloom.core import codec
from fedloom.core.component import ComponentSpec, Json
from fedloom.core.data import SPLITS, FederatedDataset, Population, Split, Transform
from fedloom.core.events import NonPrivateDpEvent
from fedloom.core.ids import ClientId
from fedloom.core.messages import AggregatorMessage, Program
from fedloom.core.metrics import Mean
from fedloom.core.query import AnyPreparation
from fedloom.experiment.plan import (
    AnyPlan,
    build_learner,
    check_data,
    check_parts,
    prepare_plan,
    resolve_experiment,
    train_plan,
)
from fedloom.experiment.privacy import price_experiment
from fedloom.experiment.privacy_listing import PrivacyListing, list_privacy
from fedloom.experiment.registry import provider
from fedloom.experiment.spec import Experiment
from fedloom.experiment.traffic import (
    ONE,
    evaluated_rounds,
    evaluation_messages,
    heard_of,
    invited_to,
    order_bytes,
    sum_bytes,
    total_bytes,
)
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.exchange import Exchange
from fedloom.runtime.plan import Evaluation
from fedloom.runtime.record import RoundRecord

MOST_CLIENTS = 1_000
"""Up to this many clients each one's message is measured; beyond, the first client's stands for all."""
_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a preparation has answered, as a record holds it, and the rounds that it took."""

    result: Json
    records: tuple[RoundRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One named piece of the vector that a client sends."""

    name: str
    kind: Literal["part", "metric", "weight"]
    shape: tuple[int, ...]
    numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What clients send in one phase. A figure is None where a preparation before it must be answered first."""

    title: str
    program: Program
    cohort: str
    clients: float | None = None
    """Clients invited to a round: expected, where the cohort draws their number."""
    rounds: int | None = None
    """At most, where the stop sets a bound."""
    items: tuple[Item, ...] = ()
    clear: tuple[str, ...] = ()
    """Each client's own figures, beside the vector."""
    dtype: str | None = None
    numbers: int | None = None
    """Of the vector as it is sent, after all stages."""
    client_up: int | None = None
    """Bytes of the longest message of a client in round 1."""
    client_down: int | None = None
    """Bytes of an order in round 1."""
    round_up: int | None = None
    """Bytes that all invited clients send in round 1."""
    round_down: int | None = None
    total_up: int | None = None
    """Bytes of all rounds; None where no bound on them is known."""
    total_down: int | None = None
    exact: bool = False
    """Whether the bytes are those of every client; otherwise one client's stand for all."""
    stages: tuple[str, ...] = ()
    aggregator: str | None = None
    protection: str = "none"
    in_clear: bool = False
    """Whether the server can read each client's message."""
    learns: tuple[str, ...] = ()
    """What the server learns, in words."""
    notes: tuple[str, ...] = ()
    """What the learner has chosen, and why."""
    unknown: str | None = None
    """What must be known before the sizes are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One part of the experiment, and the package that provides it."""

    field: str
    name: str
    distribution: str | None
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanListing:
    """What an experiment will send, phase by phase."""

    digest: str
    clients: int
    phases: tuple[Phase, ...]
    components: tuple[Component, ...]
    privacy: PrivacyListing | None = None
    """What is promised about privacy, and what it costs; None where nothing is."""

    def as_json(self) -> dict[str, Json]:
        """Return the listing as plain JSON."""
        tree: dict[str, Json] = msgspec.to_builtins(replace(self, privacy=None))
        return {**tree, "privacy": None if self.privacy is None else self.privacy.as_json()}

    @property
    def bytes_up(self) -> int | None:
        """Bytes of all phases together; None where one is not known."""
        return _sum([phase.total_up for phase in self.phases])

    @property
    def bytes_down(self) -> int | None:
        """Likewise, from the server to the clients."""
        return _sum([phase.total_down for phase in self.phases])


def list_plan(
    experiment: Experiment,
    answers: Sequence[Answer] = (),
    *,
    base: Path,
    only: ClientId | None = None,
    splits: tuple[Split, ...] | None = None,
) -> PlanListing:
    """Return what will leave each client. Nothing is trained; each client's rows are looked at where they lie.

    Args:
        experiment: Values and names in any mixture.
        answers: Of the first preparations. What lies behind a preparation without one has no known size.
        base: Folder that relative paths start from.
        only: The one client whose rows are here, at a site; None: all are.
        splits: Those that have rows at some client; None: the rows tell.

    Raises:
        ComponentError: When a name is unknown or an argument is wrong.
        DataError: When rows cannot be used.
        PlanError: When parts of the experiment do not fit together.
    """
    experiment = resolve_experiment(experiment, base=base)
    dataset: FederatedDataset = experiment.data  # type: ignore[assignment]
    population = check_data(dataset)
    splits = _splits(dataset, population) if splits is None else splits
    check_parts(experiment, population, splits)
    schema, transforms = dataset.schema(), list[Transform]()
    phases: list[Phase] = []
    for number, preparation in enumerate(_preparations(experiment)):
        name = _name(preparation)
        title = f"preparation {number + 1}: {name}"
        start = preparation.query.init(schema)
        if preparation.query.done(start):
            answer = preparation.query.result(start)
            phases.append(Phase(title=title, program="query", cohort="none", rounds=0, **_NOTHING))
        else:
            plan = prepare_plan(experiment, number, schema, population)
            phases.append(_query_phase(plan, title, answers[number] if number < len(answers) else None))
            if number >= len(answers):
                rest = f"known when preparation {number + 1} ({name}) has been answered"
                phases.extend(_unknown(experiment, number + 1, rest))
                return _listing(experiment, population, phases)
            answer = msgspec.convert(answers[number].result, type=preparation.query.answer)
        transforms.append(preparation.transform(answer))
        schema = transforms[-1].schema(schema)
    plan = train_plan(experiment, build_learner(experiment, schema), population, splits)
    if plan.private:
        phases.append(_private_phase(plan))
        price = price_experiment(experiment, plan)
        assert price is not None, "a private plan has a price"
        return replace(_listing(experiment, population, phases), privacy=list_privacy(price, plan))
    looked = [only] if only is not None else _looked_at(population)
    phases.extend(_train_phases(plan, dataset, looked, transforms=transforms))
    return _listing(experiment, population, phases)


_NOTHING: dict[str, Any] = {
    "clients": 0.0, "numbers": 0, "client_up": 0, "client_down": 0, "round_up": 0, "round_down": 0, "total_up": 0,
    "total_down": 0, "exact": True, "learns": ("nothing: its answer is public, no client is asked",),
}  # fmt: skip


def _private_phase(plan: AnyPlan) -> Phase:
    """Return the training of a private run: cohorts are secret, so bytes are those of as many clients as expected."""
    clients = plan.cohort.expected(len(plan.population))
    invited = max(1, round(clients))
    message, order = sum_bytes(plan, "train", invited=invited), order_bytes(plan, "train", ONE, invited=invited)
    rounds = plan.stop.rounds
    assert rounds is not None, "a private run has a bound on its rounds"
    pipeline = plan.exchange.pipeline
    shown = pipeline.aggregator.shows_messages and not plan.leaves_noised
    return Phase(
        title="training",
        program="train",
        cohort=plan.cohort.name,
        clients=clients,
        rounds=rounds,
        items=tuple(item for item in _items(plan.exchange) if item.kind == "part"),
        dtype=pipeline.sent.dtype,
        numbers=pipeline.sent.dim,
        client_up=message,
        client_down=order,
        round_up=round(message * clients),
        round_down=round(order * clients),
        total_up=round(message * clients * rounds),
        total_down=round(order * clients * rounds),
        stages=tuple(stage.name for stage in pipeline.stages),
        aggregator=pipeline.aggregator.name,
        protection="noise",
        in_clear=shown,
        learns=(
            f"the {_whose(plan, noised=not shown)}: what {plan.algorithm.name} makes of training rows",
            "who took part in which round",
        ),
        notes=(*pipeline.aggregator.words(pipeline.sent), *getattr(plan.learner, "notes", ())),
    )


def _whose(plan: AnyPlan, *, noised: bool) -> str:
    """Return what the server gets of updates under privacy, in words."""
    if plan.exchange.pipeline.aggregator.shows_messages:
        return f"{'noised update' if noised else 'update'} of each client that sends one"
    return f"sum of the {'noised ' if plan.leaves_noised else ''}updates of all clients that send one, and none alone"


def _train_phases(
    plan: AnyPlan, dataset: FederatedDataset, looked: Sequence[ClientId], *, transforms: Sequence[Transform]
) -> Iterator[Phase]:
    evaluation = plan.evaluation
    assert evaluation is not None, "training has an evaluation"
    replies = evaluation_messages(plan, dataset, transforms, clients=looked)
    invited = [len(invited_to(plan, "train", plan.cohort, 1)), len(invited_to(plan, "evaluate", evaluation.cohort, 1))]
    vector = sum_bytes(plan, "train", invited=invited[0])
    interactive = evaluation.exchange.pipeline.aggregator.interactive
    figures = sum_bytes(plan, "evaluate", invited=invited[1]) if interactive else None
    sent = [
        codec.encoded_length(reply) if figures is None or not isinstance(reply, AggregatorMessage) else figures
        for reply in replies
    ]
    trained = [vector if isinstance(reply, AggregatorMessage) else codec.encoded_length(reply) for reply in replies]
    scores = {name: None for reply in replies if isinstance(reply, AggregatorMessage) for name in reply.scores}
    rounds = plan.stop.rounds
    training = list(range(1, rounds + 1)) if rounds is not None else None
    evaluated, certain = (None, True) if training is None else evaluated_rounds(plan, training)
    phase = _phase(
        plan, "training", "train", plan.cohort, lengths=trained, rounds=training, learns=tuple(_learnt(plan))
    )
    pipeline = plan.exchange.pipeline
    notes = (*pipeline.aggregator.words(pipeline.sent), *getattr(plan.learner, "notes", ()))
    yield replace(phase, exact=phase.exact and certain, notes=notes)
    learns = tuple(_learnt_of_fit(plan, evaluation, scores=_words(scores)))
    phase = _phase(plan, "evaluation", "evaluate", evaluation.cohort, lengths=sent, rounds=evaluated, learns=learns)
    yield replace(phase, clear=tuple(scores), exact=phase.exact and certain)


def _looked_at(population: Population) -> list[ClientId]:
    """Return the clients whose messages are measured."""
    return [population.id(index) for index in range(len(population) if len(population) <= MOST_CLIENTS else 1)]


def _learnt_of_fit(plan: AnyPlan, evaluation: Evaluation, *, scores: str) -> Iterator[str]:
    """Yield what the server learns from evaluations."""
    model = "each client's own model" if plan.algorithm.personal else "the global model"
    kinds = evaluation.exchange.metrics.kinds
    sums, binned = _words(kinds), any(isinstance(kind, int) for kind in kinds.values())
    if not evaluation.exchange.pipeline.aggregator.shows_messages:
        yield f"how well {model} fits the rows of all clients together, by split: totals behind {sums}"
        if binned:
            yield "histograms of all clients' scores by class, hence how many rows of each class they hold together"
        return
    yield f"how well {model} fits the rows of each client, by split: sums behind {sums}"
    if binned:
        yield "histograms of each client's scores by class, hence how many rows of each class it holds"
    if scores:
        yield f"each client's own figures: {scores}"


def _learnt(plan: AnyPlan) -> Iterator[str]:
    """Yield what the server learns from the sums of training."""
    name, weighting, kinds = plan.algorithm.name, plan.algorithm.weighting, plan.exchange.metrics.kinds
    if not plan.exchange.pipeline.aggregator.shows_messages:
        yield f"the sum of the updates of all clients that send one, and none alone: what {name} makes of training rows"
        yield (
            "the sum of their weights, which are their numbers of training rows, and none alone"
            if weighting == "examples"
            else "nothing of numbers of training rows: weights are 1"
        )
        if kinds:
            yield f"totals behind {_words(kinds)} of their training rows"
        return
    yield f"the update of each client that sends one: what {name} makes of its training rows"
    yield (
        "its weight, which is its number of training rows"
        if weighting == "examples"
        else "nothing of its number of training rows: the weight is 1"
    )
    if kinds:
        yield f"sums behind {_words(kinds)} of its training rows"


def _query_phase(plan: AnyPlan, title: str, answer: Answer | None) -> Phase:
    """Return a preparation; its later orders depend on earlier answers, so only their records tell the total."""
    length = sum_bytes(plan, "query", invited=len(plan.population))
    lengths = [length] * min(len(plan.population), MOST_CLIENTS)
    shown = plan.exchange.pipeline.aggregator.shows_messages
    whose = "each client's answer" if shown else "the sum of all clients' answers"
    learns = (f"{whose} to {plan.algorithm.name}: sums over {'its' if shown else 'their'} training rows",)
    phase = _phase(plan, title, "query", plan.cohort, lengths=lengths, rounds=None, learns=learns)
    if answer is None or not answer.records:
        return phase
    return replace(
        phase,
        rounds=len(answer.records),
        total_up=sum(record.bytes_up for record in answer.records),
        total_down=sum(record.bytes_down for record in answer.records),
        exact=True,
    )


def _phase(
    plan: AnyPlan,
    title: str,
    program: Program,
    cohort: Cohort,
    *,
    lengths: Sequence[int],
    rounds: Sequence[int] | None,
    learns: tuple[str, ...],
) -> Phase:
    """Return a phase; ``lengths`` are those of the clients' messages in round 1, or of the first one for all."""
    _, exchange = plan.program_of(program)
    population = len(plan.population)
    exact = len(lengths) == population
    each = np.array(lengths if exact else [max(lengths)] * population)
    invited = invited_to(plan, program, cohort, 1)
    first = order_bytes(plan, program, ONE, invited=len(invited))
    totals = None if rounds is None else total_bytes(plan, program, cohort, rounds=rounds, each=each)
    pipeline = exchange.pipeline
    return Phase(
        title=title,
        program=program,
        cohort=cohort.name,
        clients=cohort.expected(population),
        rounds=None if rounds is None else len(rounds),
        items=tuple(_items(exchange)),
        dtype=pipeline.sent.dtype,
        numbers=pipeline.sent.dim,
        client_up=max(lengths),
        client_down=first,
        round_up=int(each[heard_of(plan, program, 1, invited)].sum()),
        round_down=first * len(invited),
        total_up=None if totals is None else totals[0],
        total_down=None if totals is None else totals[1],
        exact=exact and program != "query" and not pipeline.aggregator.interactive,
        stages=tuple(stage.name for stage in pipeline.stages),
        aggregator=pipeline.aggregator.name,
        protection=_protection(exchange),
        in_clear=pipeline.aggregator.shows_messages,
        learns=learns,
    )


def _items(exchange: Exchange) -> Iterator[Item]:
    for part, layout in exchange.parts.items():
        for leaf in layout.leaves:
            yield Item(name=f"{part}/{leaf.name}", kind="part", shape=leaf.shape, numbers=leaf.size)
    for name, kind in exchange.metrics.kinds.items():
        size = kind if isinstance(kind, int) else 2 if kind is Mean else 1
        yield Item(name=name, kind="metric", shape=(size,), numbers=size)
    if exchange.wire.weight:
        words = 2 if exchange.wire.two_words else 1
        yield Item(name="weight", kind="weight", shape=(words,), numbers=words)


def _protection(exchange: Exchange) -> str:
    pipeline = exchange.pipeline
    event = pipeline.event()
    named = [] if isinstance(event, NonPrivateDpEvent) else [type(event).__name__]
    if not pipeline.aggregator.shows_messages:
        named.append(pipeline.aggregator.name)
    return " and ".join(named) or "none"


def _unknown(experiment: Experiment, first: int, reason: str) -> Iterator[Phase]:
    for number, preparation in list(enumerate(_preparations(experiment)))[first:]:
        title = f"preparation {number + 1}: {_name(preparation)}"
        yield Phase(title=title, program="query", cohort="all", unknown=reason)
    stop: Any = experiment.stop
    cohort, evaluated = _cohorts(experiment)
    yield Phase(title="training", program="train", cohort=cohort.name, rounds=stop.rounds, unknown=reason)
    yield Phase(title="evaluation", program="evaluate", cohort=evaluated.name, unknown=reason)


def _name(preparation: AnyPreparation) -> str:
    """Return what a file calls a preparation, else the question that it asks."""
    return preparation.query.name if preparation.spec is None else preparation.spec.name


def _cohorts(experiment: Experiment) -> tuple[Cohort, Cohort]:
    return experiment.cohort, experiment.evaluate_cohort  # type: ignore[return-value]


def _preparations(experiment: Experiment) -> Sequence[AnyPreparation]:
    return experiment.prepare  # type: ignore[return-value]


def _splits(dataset: FederatedDataset, population: Population) -> tuple[Split, ...]:
    seen: set[Split] = set()
    for index in range(min(len(population), _LOOKED_AT)):
        data = dataset.client(population.id(index))
        seen.update(split for split in SPLITS if data.count(split))
        if len(seen) == len(SPLITS):
            break
    return tuple(split for split in SPLITS if split in seen)


def _listing(experiment: Experiment, population: Population, phases: Sequence[Phase]) -> PlanListing:
    return PlanListing(
        digest=experiment.digest,
        clients=len(population),
        phases=tuple(phases),
        components=tuple(_components(experiment.as_json(), "")),
    )


def _components(tree: Json, place: str) -> Iterator[Component]:
    """Yield every named part of an experiment's JSON."""
    match tree:
        case {"group": str(group), "name": str(name), "arguments": dict(arguments)}:
            spec = ComponentSpec(group, name, arguments)
            who = provider(spec.group, spec.name)
            distribution, version = (None, None) if who is None else (who.distribution, who.version)
            yield Component(field=place, name=name, distribution=distribution, version=version)
            yield from _components(arguments, place)
        case dict():
            for key, value in tree.items():
                yield from _components(value, f"{place}.{key}" if place else key)
        case list():
            for number, value in enumerate(tree):
                yield from _components(value, f"{place}.{number}")


def _words(names: Any) -> str:
    return ", ".join(names)


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
