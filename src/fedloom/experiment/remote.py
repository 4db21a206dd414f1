"""The same plan at a coordinator that holds no rows and at a site that holds its own."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from fedloom.core.component import ComponentSpec, Json, array_digest, canonical_json, digest_of, spec_of
from fedloom.core.data import SPLITS, ClientDataset, FederatedDataset, Population, Schema, Split, Transform
from fedloom.core.ids import ClientId
from fedloom.core.query import AnyPreparation
from fedloom.errors import CodecError, DataError, PlanError
from fedloom.experiment.plan import AnyPlan, build_learner, check_data, prepare_plan, resolve_experiment, train_plan
from fedloom.experiment.spec import Experiment

MOST_SITES = 1_000
"""What the threaded server of a federation serves."""


@dataclass(frozen=True, slots=True)
class RemotePopulation:
    """All clients of a federation, by name alone; how many rows each has nobody has to say.

    Example:
        >>> clients = RemotePopulation((ClientId("north"), ClientId("south")))
        >>> clients.id(1), clients.index(ClientId("south")), clients.examples is None
        ('south', 1, True)
    """

    names: tuple[ClientId, ...]
    examples: int | None = None
    """Training rows of all clients together, where that is public."""
    numbers: tuple[int, ...] | None = None
    """Training rows of each client, where that is public."""

    def __post_init__(self) -> None:
        """Refuse names that are not in order: two parties would then count clients differently.

        Raises:
            DataError: When a name stands twice or out of order.
        """
        if list(self.names) != sorted(set(self.names)):
            raise DataError(f"names of clients: expected different ones in order, received {', '.join(self.names[:5])}")
        if self.numbers is not None and len(self.numbers) != len(self.names):
            raise DataError(f"{len(self.numbers)} numbers of rows for {len(self.names)} clients")

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.names)

    def id(self, index: int) -> ClientId:
        """Return the client at ``index``."""
        return self.names[index]

    def index(self, client: ClientId) -> int:
        """Return the index of a client.

        Raises:
            DataError: When there is no such client.
        """
        place = bisect_left(self.names, client)
        if place == len(self) or self.names[place] != client:
            raise DataError(f"there is no site {client!r} among the {len(self)} of this run")
        return place

    def size(self, index: int) -> int:
        """Return the number of training rows of one client.

        Raises:
            PlanError: When that is not public.
        """
        return int(self.sizes()[index])

    def sizes(self) -> npt.NDArray[np.integer[Any]]:
        """Return the training rows of all clients.

        Raises:
            PlanError: When they are not public.
        """
        if self.numbers is None:
            raise PlanError(
                "how many rows each site has is its own affair, and something here asks for it: draw cohorts by "
                '"all", "uniform" or "poisson", and not by size'
            )
        return np.array(self.numbers, dtype=np.int64)


class RunFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a coordinator tells all sites of a run beside the experiment: with it each makes the same plans.

    Example:
        >>> facts = RunFacts(names=(ClientId("a"), ClientId("b")), schema=Schema(("age",), "ill"), splits=("train",))
        >>> read_facts(facts.canonical) == facts
        True
    """

    names: tuple[ClientId, ...]
    schema: Schema
    """Agreed by the sites, before any preparation."""
    splits: tuple[Split, ...]
    """Those that have rows at some site."""
    prepared: tuple[Json, ...] = ()
    """Results of the preparations so far, those whose answers are public among them."""
    examples: int | None = None

    @property
    def canonical(self) -> bytes:
        """The one encoding: what is signed and compared."""
        return canonical_json(msgspec.to_builtins(self))

    @property
    def digest(self) -> str:
        """SHA-256 of the encoding, in hexadecimal."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def population(self) -> RemotePopulation:
        """All clients."""
        return RemotePopulation(self.names, self.examples)

    def answered(self, result: Json) -> RunFacts:
        """Return the facts with the result of one more preparation."""
        return structs.replace(self, prepared=(*self.prepared, result))


def read_facts(data: bytes) -> RunFacts:
    """Return the facts that a coordinator has sent.

    Raises:
        CodecError: When they are not in their one encoding, or say what cannot be.
    """
    try:
        facts = msgspec.json.decode(data, type=RunFacts)
        same = facts.canonical == data
        facts.population  # noqa: B018 (refuses names out of order)
    except (msgspec.MsgspecError, DataError, RecursionError) as error:
        raise CodecError(f"facts of a run: {error}") from error
    columns = (*facts.schema.columns, *facts.schema.texts)
    splits = tuple(split for split in SPLITS if split in facts.splits)
    if not same or splits != facts.splits or len(set(columns)) != len(columns):
        raise CodecError("facts of a run: not in canonical form: expected sorted keys, splits in order, each name once")
    if not 0 < len(facts.names) <= MOST_SITES:
        raise CodecError(f"facts of a run: {len(facts.names)} sites; expected 1 to {MOST_SITES}")
    return facts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RemoteData:
    """A federated data set none of whose rows are here."""

    facts: RunFacts
    spec: ComponentSpec | None
    """Of the experiment's data: nothing that it names is opened here."""

    @property
    def fingerprint(self) -> None:
        """None: the rows are elsewhere."""
        return

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows at some site."""
        return self.facts.splits

    def population(self) -> Population:
        """Return all clients."""
        return self.facts.population

    def schema(self) -> Schema:
        """Return what the columns mean."""
        return self.facts.schema

    def client(self, client: ClientId) -> ClientDataset:
        """Raise: rows stay at their sites.

        Raises:
            DataError: Always.
        """
        raise DataError(f"the rows of {client!r} are at its site, and at no coordinator")


def without_rows(experiment: Experiment, facts: RunFacts, *, base: Path) -> Experiment:
    """Return an experiment as its coordinator plans it: every part a value, the data those of the facts.

    Raises:
        ComponentError: When a name is unknown or an argument is wrong.
    """
    data = RemoteData(facts=facts, spec=spec_of(experiment.data))
    return resolve_experiment(replace(experiment, data=data), base=base)


def over_rows(experiment: Experiment, data: FederatedDataset, *, base: Path) -> Experiment:
    """Return an experiment as a site plans it: every part a value, the data its own (see ``site_dataset``).

    Raises:
        ComponentError: When a name is unknown or an argument is wrong.
    """
    return resolve_experiment(replace(experiment, data=data), base=base)


def coordinator_plan(experiment: Experiment, facts: RunFacts, phase: int) -> AnyPlan:
    """Return the plan of a phase: a preparation by its number, then training.

    Args:
        experiment: Of ``without_rows``.
        facts: With the results of all preparations before the phase.
        phase: From 0.

    Raises:
        PlanError: When parts of the experiment do not fit together, or facts are missing.
        DataError: When the learner does not fit the schema.
    """
    return _phase_plan(experiment, facts, phase)[0]


def site_plan(experiment: Experiment, facts: RunFacts, phase: int) -> tuple[AnyPlan, tuple[Transform, ...]]:
    """Return the plan of a phase as the coordinator has it, and what changes the site's rows before it.

    Args:
        experiment: Of ``over_rows``.
        facts: With the results of all preparations before the phase.
        phase: From 0.

    Raises:
        PlanError: When parts of the experiment do not fit together, or facts are missing.
        DataError: When the learner does not fit the schema.
    """
    return _phase_plan(experiment, facts, phase)


def public_answer(experiment: Experiment, facts: RunFacts, phase: int) -> tuple[Json] | None:
    """Return the result of a preparation that asks nobody, as a tuple of one; None: it asks the sites.

    Args:
        experiment: All components resolved.
        facts: With the results of all preparations before it.
        phase: Of the preparation.
    """
    preparation = _preparations(experiment)[phase]
    state = preparation.query.init(_schema_before(experiment, facts, phase)[0])
    return (msgspec.to_builtins(preparation.query.result(state)),) if preparation.query.done(state) else None


def with_public_answers(experiment: Experiment, facts: RunFacts) -> RunFacts:
    """Return the facts with the results of the next preparations, as far as they ask nobody.

    Args:
        experiment: All components resolved.
        facts: Of the run.
    """
    while len(facts.prepared) < len(experiment.prepare):
        answer = public_answer(experiment, facts, len(facts.prepared))
        if answer is None:
            break
        facts = facts.answered(answer[0])
    return facts


def plan_digest(plan: AnyPlan, facts: RunFacts) -> str:
    """Return SHA-256 of all that two parties must have alike before they exchange orders of a phase.

    Whoever was told other facts, or has built another start, another vector or another privacy event from the same
    facts, has another digest.
    """
    carried = [plan.exchange] if plan.evaluation is None else [plan.exchange, plan.evaluation.exchange]
    tree = {
        "experiment": plan.digest,
        "facts": facts.digest,
        "phase": plan.phase,
        "program": plan.program,
        "algorithm": plan.algorithm.name,
        "start": array_digest(plan.start),
        "stateful": plan.stateful,
        "rounds": plan.stop.rounds,
        "event": repr(plan.event),
        "sums": [
            {
                "parts": {
                    name: [[leaf.name, list(leaf.shape)] for leaf in part.leaves] for name, part in one.parts.items()
                },
                "metrics": list(one.metrics.kinds),
                "wires": [_plain(wire) for wire in one.pipeline.wires],
                "stages": [stage.name for stage in one.pipeline.stages],
                "aggregator": one.pipeline.aggregator.name,
                "silent": one.silent,
            }
            for one in carried
        ],
    }
    return digest_of(tree)


def _phase_plan(experiment: Experiment, facts: RunFacts, phase: int) -> tuple[AnyPlan, tuple[Transform, ...]]:
    dataset: Any = experiment.data
    population = check_data(dataset)
    if [population.id(index) for index in range(len(population))] != list(facts.names):
        raise PlanError("the data of the experiment are not those of these facts: their clients differ")
    schema, transforms = _schema_before(experiment, facts, phase)
    if phase < len(experiment.prepare):
        return prepare_plan(experiment, phase, schema, population), transforms
    return train_plan(experiment, build_learner(experiment, schema), population, facts.splits), transforms


def _schema_before(experiment: Experiment, facts: RunFacts, phase: int) -> tuple[Schema, tuple[Transform, ...]]:
    """Return the schema that a phase begins with, and the transforms that led to it.

    Raises:
        PlanError: When the results of preparations before it are not all there, or are none.
    """
    if not 0 <= phase <= len(experiment.prepare) or len(facts.prepared) < phase:
        raise PlanError(
            f"phase {phase} of {len(experiment.prepare) + 1}: {len(facts.prepared)} results of preparations are "
            f"there, expected {phase}"
        )
    schema, transforms = facts.schema, list[Transform]()
    for number in range(phase):
        preparation = _preparations(experiment)[number]
        try:
            answer = msgspec.convert(facts.prepared[number], type=preparation.query.answer)
        except msgspec.ValidationError as error:
            raise PlanError(f"the result of prepare.{number} is none of {preparation.query.name}: {error}") from error
        transforms.append(preparation.transform(answer))
        schema = transforms[-1].schema(schema)
    return schema, tuple(transforms)


def _preparations(experiment: Experiment) -> Sequence[AnyPreparation]:
    return experiment.prepare  # type: ignore[return-value]


def _plain(wire: Any) -> Json:
    return [repr(value) for value in msgspec.to_builtins(wire).values()]
