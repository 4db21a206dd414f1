"""What a run asks of a site, read off the plan that the site has made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.data import Population
from fedloom.core.messages import Program
from fedloom.core.wire import WireType
from fedloom.experiment.listing import PlanListing
from fedloom.experiment.packages import Installed
from fedloom.experiment.plan import AnyPlan, statistics_pipeline
from fedloom.experiment.site_check import Promise, RunRequest, SumFacts
from fedloom.experiment.spec import Experiment
from fedloom.pipeline import BoundPipeline, Pipeline
from fedloom.runtime.cohort import Cohort


def run_request(
    experiment: Experiment,
    plan: AnyPlan | None,
    listing: PlanListing,
    *,
    parts: Sequence[Installed],
    population: Population,
) -> RunRequest:
    """Return what a run asks of this site.

    Args:
        experiment: All components resolved.
        plan: Of training; None where a preparation before it has no answer yet: sizes are not known then, and what
            the parts of the experiment promise is all the same.
        listing: What will leave this site.
        parts: What the experiment names, as it is installed here.
        population: All clients.
    """
    stop: Any = experiment.stop
    return RunRequest(
        parts=tuple(parts),
        rounds=stop.rounds,
        sums=tuple(_sums(experiment, plan, listing, population)),
        upload_bytes=_upload(listing),
        promise=_promise(listing),
    )


def _sums(
    experiment: Experiment, plan: AnyPlan | None, listing: PlanListing, population: Population
) -> Iterator[SumFacts]:
    statistics = statistics_pipeline(experiment)
    queries = _bound(statistics, fewest=len(population), most=len(population))
    for phase in listing.phases:
        if phase.program == "query" and phase.cohort != "none":
            yield _sum(phase.title, "query", queries, needed=len(population))
    cohort: Cohort = experiment.cohort  # type: ignore[assignment]
    fewest = cohort.fewest(len(population))
    trained = _trained(experiment, population) if plan is None else plan.exchange.pipeline
    figures = () if plan is None else tuple(plan.exchange.metrics.kinds)
    needed = experiment.policy.needed(max(1, fewest))
    yield _sum("training", "train", trained, needed=needed, figures=figures, noised=experiment.privacy is not None)
    if experiment.privacy is not None:
        return
    looked: Cohort = experiment.evaluate_cohort  # type: ignore[assignment]
    scores = next((phase.clear for phase in listing.phases if phase.program == "evaluate"), ())
    if plan is not None and plan.evaluation is not None:
        evaluated, told = plan.evaluation.exchange.pipeline, tuple(plan.evaluation.exchange.metrics.kinds)
    else:
        pipeline: Pipeline = experiment.metrics_pipeline or statistics  # type: ignore[assignment]
        clients = len(population)
        evaluated = _bound(pipeline, fewest=looked.fewest(clients), most=looked.most(clients))
        told = ("figures of the model on this site's rows",)
    yield _sum("evaluation", "evaluate", evaluated, needed=None, figures=told, scores=scores)


def _sum(
    title: str,
    program: Program,
    pipeline: BoundPipeline,
    *,
    needed: int | None,
    figures: tuple[str, ...] = (),
    scores: tuple[str, ...] = (),
    noised: bool = False,
) -> SumFacts:
    aggregator, sent = pipeline.aggregator, pipeline.sent
    # What only computes the sum, as a simulation may, hides nothing where the vectors really travel.
    hidden = aggregator.interactive and not aggregator.shows_messages
    return SumFacts(
        title=title,
        program=program,
        aggregator=aggregator.name,
        hidden=hidden,
        survivors=aggregator.survivors(sent) if hidden else needed,
        honest=aggregator.honest(sent) if hidden else None,
        clipped=any(wire.clipped is not None or wire.l2 is not None or wire.l1 is not None for wire in pipeline.wires),
        noised=noised,
        figures=figures,
        scores=scores,
    )


def _trained(experiment: Experiment, population: Population) -> BoundPipeline:
    """Return the pipeline of training for a vector whose size is not known yet."""
    algorithm: AnyAlgorithm = experiment.algorithm  # type: ignore[assignment]
    cohort: Cohort = experiment.cohort  # type: ignore[assignment]
    pipeline: Pipeline = experiment.pipeline  # type: ignore[assignment]
    clients = len(population)
    return pipeline.bind(
        WireType(
            dim=None,
            dtype="float64",
            max_weight=1.0 if algorithm.weighting == "uniform" else None,
            fewest_clients=cohort.fewest(clients),
            most_clients=cohort.most(clients),
        )
    )


def _bound(pipeline: Pipeline, *, fewest: int, most: int) -> BoundPipeline:
    """Return the pipeline of metrics and answers, which have no weight."""
    return pipeline.bind(WireType(dim=None, dtype="float64", weight=False, fewest_clients=fewest, most_clients=most))


def _upload(listing: PlanListing) -> int | None:
    """Return the bytes that leave this site at most, where it is invited to every round."""
    total = 0
    for phase in listing.phases:
        if phase.client_up is None or phase.rounds is None:
            return None
        total += phase.client_up * phase.rounds
    return total


def _promise(listing: PlanListing) -> Promise | None:
    if listing.privacy is None:
        return None
    price = listing.privacy.whole
    target, figure = price.protection.target, price.figures.participation
    return Promise(epsilon=figure.epsilon, delta=target.delta, unit=target.unit, adjacency=target.neighbours)
