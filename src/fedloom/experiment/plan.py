"""From an experiment to the plans of its phases: one per preparation, then training.

Everything that can be known before the first order is checked here: names that do not fit together, stages in an order
that cannot work, a learner that cannot honour what the algorithm asks, metrics that nothing will compute.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.core.algorithm import AnyAlgorithm, delta_only
from fedloom.core.component import ComponentSpec
from fedloom.core.data import FederatedDataset, Population, Schema, Split
from fedloom.core.keys import Key
from fedloom.core.learner import Capabilities, Learner, LearnerBuilder
from fedloom.core.metrics import NO_METRICS
from fedloom.core.query import AnyPreparation, AnyQuery
from fedloom.core.wire import WireType
from fedloom.errors import DataError, PlanError
from fedloom.experiment.privacy import check_privacy, protection_of
from fedloom.experiment.registry import resolve
from fedloom.experiment.spec import Experiment
from fedloom.pipeline import Pipeline, rounded, total_pipeline
from fedloom.runtime.cohort import Cohort, everyone
from fedloom.runtime.exchange import exchange
from fedloom.runtime.plan import (
    Evaluation,
    RunPlan,
    as_algorithm,
    as_evaluation,
    evaluation_metrics,
    keeps_state,
    train_exchange,
)
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.simulation import World, check_simulation, with_partial_work
from fedloom.runtime.stopping import Stop, max_rounds
from fedloom.runtime.summary import PHASES

AnyPlan = RunPlan[Any, Any, Any]
_QUERY_ROUNDS = 1000
_LOOKED_AT_EACH = 40
"""Clients that evaluate for each round of the period, where the experiment does not say. Measured: a client that
evaluates costs two to three times what it costs to train for one epoch with a linear model of 20 features."""


def resolve_experiment(experiment: Experiment, *, base: Path) -> Experiment:
    """Return an experiment in which every named component is a value; the digest stays the same.

    Args:
        experiment: Values and names in any mixture.
        base: Folder that relative paths start from.

    Raises:
        ComponentError: When a name is unknown or an argument is wrong.
        DataError: When a file that a component reads is not as it must be.
    """

    def value(component: Any) -> Any:
        return resolve(component, base=base) if isinstance(component, ComponentSpec) else component

    single = ("data", "learner", "algorithm", "pipeline", "metrics_pipeline", "cohort", "evaluate_cohort", "stop")
    values = {name: value(getattr(experiment, name)) for name in single}
    return replace(experiment, prepare=tuple(value(item) for item in experiment.prepare), **values)


def evaluation_period(experiment: Experiment, population: Population) -> int:
    """Return the rounds from one evaluation to the next."""
    if experiment.evaluate_every is not None:
        return experiment.evaluate_every
    cohort: Cohort = _value(experiment.evaluate_cohort)
    return max(1, math.ceil(cohort.expected(len(population)) / _LOOKED_AT_EACH))


def query_plan(
    query: AnyQuery,
    schema: Schema,
    *,
    digest: str,
    phase: int,
    key: Key,
    population: Population,
    pipeline: Pipeline | None = None,
    policy: RoundPolicy | None = None,
) -> AnyPlan:
    """Return the plan of a query: every client is asked, and all that answer count.

    Raises:
        PipelineError: When the pipeline cannot carry the answer.
    """
    algorithm = as_algorithm(query, schema)
    carried = exchange(
        query.parts(schema),
        NO_METRICS,
        total_pipeline() if pipeline is None else pipeline,
        dtype="float64",
        weight=False,
        most_clients=len(population),
        fewest_clients=len(population),
    )
    return RunPlan(
        digest=digest,
        phase=phase,
        program="query",
        algorithm=algorithm,
        exchange=carried,
        start=np.empty(0),
        key=key,
        population=population,
        cohort=everyone(),
        policy=RoundPolicy(quorum=1.0, on_short="retry", retries=0) if policy is None else policy,
        stop=max_rounds(_QUERY_ROUNDS),
        done=query.done,
    )


def prepare_plan(experiment: Experiment, phase: int, schema: Schema, population: Population) -> AnyPlan:
    """Return the plan of one preparation of an experiment."""
    preparation: AnyPreparation = _value(experiment.prepare[phase])
    if experiment.privacy is not None:
        name = preparation.query.name if preparation.spec is None else preparation.spec.name
        raise PlanError(
            f"prepare.{phase} ({name}) asks the clients' private rows, and nothing protects the answer: give it public "
            "numbers, e.g. min_max(ranges=...) from a documented source, or prepare the rows beforehand"
        )
    key = Key.from_seed(experiment.seed).child("prepare", phase)
    return query_plan(
        preparation.query,
        schema,
        digest=experiment.digest,
        phase=phase,
        key=key,
        population=population,
        pipeline=statistics_pipeline(experiment),
    )


def statistics_pipeline(experiment: Experiment) -> Pipeline:
    """Return what carries metrics and the answers of preparations: a sum as protected as that of the updates.

    Where updates are integers these are too, whatever adds them up: so another aggregator changes no byte.
    """
    pipeline: Pipeline = _value(experiment.pipeline)
    whole = pipeline.bind(_any_size(experiment)).sent.modulus is not None
    return Pipeline(stages=(rounded(),) if whole else (), aggregator=pipeline.aggregator)


def _any_size(experiment: Experiment) -> WireType:
    """Return the wire type of an update before its size is known."""
    uniform = _value(experiment.algorithm).weighting == "uniform"
    return WireType(dim=None, dtype="float64", max_weight=1.0 if uniform else None)


def is_interactive(experiment: Experiment) -> bool:
    """Return whether a sum of an experiment takes more than one message of a client."""
    pipelines: tuple[Pipeline | None, ...] = (_value(experiment.pipeline), _value(experiment.metrics_pipeline))
    return any(pipeline is not None and pipeline.aggregator.interactive for pipeline in pipelines)


def build_learner(experiment: Experiment, schema: Schema) -> Learner:
    """Return the learner for the agreed schema.

    Raises:
        DataError: When the schema does not fit it.
    """
    learner = _value(experiment.learner)
    if schema.texts:
        names = ", ".join(f"`{name}`" for name in schema.texts)
        raise DataError(
            f"columns of text are left when the learner is built: {names}. Make numbers of them: [[prepare]] name = "
            '"one_hot" (or "ordinal"), or leave them out'
        )
    return learner.build(schema) if isinstance(learner, LearnerBuilder) else learner


def check_parts(experiment: Experiment, population: Population, splits: tuple[Split, ...]) -> None:
    """Check what can be known before the schema is agreed: the order of stages, and cohort, policy and stop.

    Raises:
        PipelineError: When the stages cannot work on the algorithm's weights, whatever the size of the model.
        PlanError: When cohort, policy or stop do not fit the data, or the learner is known not to fit the algorithm.
    """
    can: Capabilities | None = _value(experiment.learner).capabilities
    if can is not None:
        _check_capabilities(_value(experiment.algorithm), can, population, compare=experiment.compare)
    check_privacy(experiment, population)
    _value(experiment.pipeline).bind(_any_size(experiment))
    _check_cohort(_value(experiment.cohort), experiment.policy, population)
    _check_cohort(_value(experiment.evaluate_cohort), RoundPolicy(), population)
    _check_stop(_value(experiment.stop), splits)
    if experiment.simulate is not None:
        check_simulation(experiment.simulate, population)


def train_plan(experiment: Experiment, learner: Learner, population: Population, splits: tuple[Split, ...]) -> AnyPlan:
    """Return the plan of training.

    Args:
        experiment: All components resolved.
        learner: Built for the agreed schema.
        population: All clients.
        splits: The splits that have rows at some client.

    Raises:
        PlanError: When parts of the experiment do not fit together.
        PipelineError: When a stage cannot work on what it gets.
    """
    check_parts(experiment, population, splits)
    private = experiment.privacy is not None
    algorithm: AnyAlgorithm = _value(experiment.algorithm)
    pipeline: Pipeline = _value(experiment.pipeline)
    _check_capabilities(algorithm, learner.capabilities, population, compare=experiment.compare)
    key = Key.from_seed(experiment.seed).child("train")
    world = None if experiment.simulate is None else World(simulation=experiment.simulate, key=key)
    if world is not None and world.simulation.slow == "partial":
        algorithm = with_partial_work(algorithm, world)
    start = learner.init(key.child("init"))
    cohort: Cohort = _value(experiment.cohort)
    carried = train_exchange(
        algorithm,
        learner.layout,
        learner.fit_metrics,
        pipeline,
        dtype=learner.dtype,
        most_clients=cohort.most(len(population)),
        fewest_clients=cohort.fewest(len(population)),
        silent=private,  # a loss of bare rows would be a release
    )
    protection = protection_of(experiment, algorithm, carried.pipeline, population, parameters=learner.layout.size)
    return RunPlan(
        digest=experiment.digest,
        phase=len(experiment.prepare),
        program="train",
        algorithm=algorithm,
        exchange=carried,
        start=start,
        key=key,
        population=population,
        cohort=cohort,
        policy=experiment.policy if not private else _without_retry(experiment.policy),
        stop=_value(experiment.stop),
        stateful=keeps_state(algorithm, carried, start),
        learner=learner,
        evaluation=None if private else _evaluation(experiment, algorithm, learner, population, splits),
        world=world,
        event=None if protection is None else protection.counted,
        leaves_noised=protection is not None and protection.at_client,
    )


def _evaluation(
    experiment: Experiment,
    algorithm: AnyAlgorithm,
    learner: Learner,
    population: Population,
    splits: tuple[Split, ...],
) -> Evaluation:
    """Return what is reported of the model on the clients' rows, and how."""
    metrics_pipeline, cohort = _value(experiment.metrics_pipeline), _value(experiment.evaluate_cohort)
    if metrics_pipeline is None:
        metrics_pipeline = statistics_pipeline(experiment)
    reported = exchange(
        {},
        evaluation_metrics(learner, splits),
        metrics_pipeline,
        dtype="float64",
        weight=False,
        most_clients=cohort.most(len(population)),
        fewest_clients=cohort.fewest(len(population)),
    )
    return Evaluation(
        splits=splits,
        algorithm=as_evaluation(algorithm, splits),
        exchange=reported,
        cohort=cohort,
        every=evaluation_period(experiment, population),
    )


def check_data(dataset: FederatedDataset) -> Population:
    """Return the population of a data set.

    Raises:
        DataError: When it has no clients.
    """
    population = dataset.population()
    if len(population) == 0:
        raise DataError("the data set has no clients: nothing to train on")
    return population


def _value(component: Any) -> Any:
    """Return a component that is a value; plans are made after names have been resolved."""
    if isinstance(component, ComponentSpec):
        raise PlanError(f"{component.group} {component.name!r} was not resolved before planning")
    return component


def _check_capabilities(
    algorithm: AnyAlgorithm, can: Capabilities, population: Population, *, compare: bool | None
) -> None:
    lacking = [
        name for name in ("linear", "prox", "gradient") if getattr(algorithm.needs, name) and not getattr(can, name)
    ]
    if lacking:
        raise PlanError(
            f"{algorithm.name} asks for the terms {lacking} of local work, which this learner cannot honour; choose "
            "another algorithm or learner"
        )
    if algorithm.needs.shaped and can.plain_only:
        raise PlanError(
            f"{algorithm.name} shapes its local steps by an optimizer, clip_norm or weight_decay; this learner takes "
            "plain steps only: leave them out of the schedule"
        )
    if compare and not can.gradient:
        raise PlanError(
            "compare = true trains pooled and local models by their gradient, which this learner cannot give; leave "
            "compare out"
        )
    if algorithm.needs.examples and population.examples is None:
        raise PlanError(
            f"{algorithm.name} with weighting='examples' needs the number of training rows of all clients, which this "
            "data set does not tell; use weighting='uniform'"
        )
    if _is_private(algorithm):
        _check_private(algorithm, can)


def _without_retry(policy: RoundPolicy) -> RoundPolicy:
    """Return a policy that never draws a second cohort for a round: who comes would depend on who did not."""
    return replace(policy, on_short="skip") if policy.on_short == "retry" else policy


def _is_private(algorithm: AnyAlgorithm) -> bool:
    return algorithm.local is not None and algorithm.local.private is not None


def _check_private(algorithm: AnyAlgorithm, can: Capabilities) -> None:
    """Refuse private steps that the learner cannot take, and what would tell of rows beside them."""
    name, local = algorithm.name, algorithm.local
    shared = local is not None and local.private is not None and local.private.shared
    if not can.private:
        raise PlanError(
            f"{name}: this learner cannot take private steps, which need the gradient of each row; use logistic, ridge "
            "or torch"
        )
    if reason := can.not_private():
        raise PlanError(f"{name}: this model cannot take private steps: {reason}")
    if algorithm.needs.gradient:
        raise PlanError(
            f"{name} asks for the gradient over all rows, which no noise covers; choose an algorithm, or an option of "
            "it, that asks for local work alone"
        )
    if shared and algorithm.parts is not delta_only:
        raise PlanError(
            f'{name} sends more than one delta; private.noise_multiplier = "shared" covers one sum a round. Use '
            "fedavg, or noise of the client's own"
        )


def _check_cohort(cohort: Cohort, policy: RoundPolicy, population: Population) -> None:
    clients = len(population)
    if cohort.least > clients:
        raise PlanError(f"cohort.{cohort.name} asks for {cohort.least} clients; the data have {clients}")
    most = min(clients, cohort.least if cohort.name in ("uniform", "by_size") else clients)
    if isinstance(policy.quorum, int) and policy.quorum > most:
        raise PlanError(f"policy.quorum = {policy.quorum} is more than the {most} clients of a round")


def _check_stop(stop: Stop, splits: tuple[Split, ...]) -> None:
    for metric in stop.metrics:
        phase = metric.split("/")[0]
        known = {PHASES[split] for split in splits if split != "test"} | {"fit", "step"}
        if phase not in known:
            raise PlanError(
                f"stop.{stop.name} reads {metric!r}, but no client has such rows; known are {sorted(known)}. "
                "For validation metrics set data.validation above 0"
            )
