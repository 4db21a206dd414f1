"""What a run promises about privacy: whether its parts can keep it, and what it costs before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.component import Json
from fedloom.core.data import Population
from fedloom.core.events import (
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.core.private_steps import record_event
from fedloom.errors import PlanError
from fedloom.experiment.spec import Experiment
from fedloom.pipeline import BoundPipeline, Pipeline
from fedloom.privacy.guarantee import Adjacency, Guarantee
from fedloom.privacy.leaves import leaves, noises
from fedloom.privacy.readers import MODELS, TwoFigures, against_models, against_participation, guarantee
from fedloom.privacy.rewrites import GRID_SIGMA_OF_LIMIT, unamplified
from fedloom.privacy.target import PrivacyTarget
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.plan import RunPlan

SHARED = "shared_gaussian"
"""The stage whose noise hides single rows of all clients."""
FEW_CLIENTS = 50
"""Below so many, noise that hides a whole client hides the model as well."""
_OTHER_READER = '; or, where no reader knows who took part, promise it to reader = "models"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What one round releases, and how it is protected."""

    target: PrivacyTarget
    event: DpEvent
    """One round, for one who sees models and no cohort: with the sampling of clients."""
    known: DpEvent
    """One round, for one who knows who took part."""
    at_client: bool
    """Whether clients add the noise, so that it is released when it leaves them."""
    mechanism: str
    """In words."""
    sampling: str
    """In words."""

    @property
    def counted(self) -> DpEvent:
        """One round, against the reader to whom the promise is made: what is written down of it."""
        return self.event if self.target.reader == "models" else self.known

    def against_models(self, rounds: int) -> Guarantee:
        """Return what the first rounds cost against one who sees models, and nothing else of the run."""
        target = self.target
        # Without its sampling an event costs no less than with it, whatever the bounds say that are known of either.
        either = (
            against_models(event, rounds, delta=target.delta, unit=target.unit, adjacency=target.neighbours)
            for event in (self.event, self.known)
        )
        return min(either, key=lambda figure: figure.epsilon)

    def against_participation(self, rounds: int) -> Guarantee:
        """Return what the first rounds cost against one who may know who took part in which of them."""
        target = self.target
        return against_participation(
            self.known, rounds, delta=target.delta, unit=target.unit, adjacency=target.neighbours
        )

    def figures(self, rounds: int) -> TwoFigures:
        """Return what the first rounds cost against either."""
        return TwoFigures(models=self.against_models(rounds), participation=self.against_participation(rounds))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPrice:
    """What a whole run costs at most, against either reader."""

    protection: Protection
    rounds: int
    figures: TwoFigures
    notes: tuple[str, ...]

    @property
    def limit(self) -> Guarantee | None:
        """What a reader of the models would cost under continuous noise; None where no grid is that fine."""
        target, held = self.protection.target, self.protection
        grids = [leaf.sigma for leaf in noises(unamplified(held.known)) if isinstance(leaf, DiscreteGaussianDpEvent)]
        if not grids or min(grids) < GRID_SIGMA_OF_LIMIT:
            return None
        try:
            return guarantee(
                SelfComposedDpEvent(held.event, self.rounds),
                delta=target.delta,
                unit=target.unit,
                adjacency=target.neighbours,
                method="gaussian_limit",
                reader=MODELS,
            )
        except PlanError:  # not every way of sampling has such a figure
            return None

    def as_json(self) -> dict[str, Json]:
        """Return it as a plan prints it, with both figures. Of a run there are two documents: ``privacy_record``."""
        held = self.protection
        return {
            "unit": held.target.unit,
            "adjacency": held.target.neighbours,
            "delta": held.target.delta,
            "mechanism": held.mechanism,
            "sampling": held.sampling,
            "rounds": self.rounds,
            "data_set": held.target.data_set,
            "readers": {
                each.reader: {"epsilon": each.epsilon, "method": each.method, "words": each.words}
                for each in (self.figures.models, self.figures.participation)
            },
            "notes": list(self.notes),
        }


def check_privacy(experiment: Experiment, population: Population) -> None:
    """Check what can be known of an experiment's privacy before the schema is agreed.

    Raises:
        PlanError: When its parts cannot keep the promise, or protect without a promise.
    """
    target = experiment.privacy
    algorithm: AnyAlgorithm = experiment.algorithm  # type: ignore[assignment]
    pipeline: Pipeline = experiment.pipeline  # type: ignore[assignment]
    cohort: Cohort = experiment.cohort  # type: ignore[assignment]
    noised = [stage.name for stage in pipeline.stages if stage.release is not None or stage.shield is not None]
    local = any(stage.shield is not None for stage in pipeline.stages)
    private = algorithm.local is not None and algorithm.local.private is not None
    if target is None:
        if noised or private:
            what = f"pipeline.{noised[0]}" if noised else "algorithm.local.private"
            raise PlanError(
                f"{what} adds noise, but nothing says what the run promises: set privacy, "
                'e.g. privacy = { unit = "client", delta = 1e-5 }'
            )
        return
    if not noised and not private:
        raise PlanError(
            "privacy is promised, but nothing protects: put gaussian(clip=..., noise_multiplier=...) behind "
            "mean(expected=...) in the pipeline, or take private steps"
        )
    if target.unit == "record" and not private:
        raise PlanError(
            f'privacy.unit = "record": pipeline.{noised[0]} hides whole clients, and nothing bounds what one row can '
            'do. Take private steps, or promise unit = "client"'
        )
    if target.unit == "client" and not noised:
        raise PlanError(
            'privacy.unit = "client": private steps hide single rows, not a whole client. Promise unit = "record", or '
            "put gaussian(...) into the pipeline"
        )
    if target.unit == "client" and SHARED in noised:
        raise PlanError(f'privacy.unit = "client": pipeline.{SHARED} hides single rows. Promise unit = "record"')
    if local and target.neighbours != "replace_one":
        raise PlanError(
            f"pipeline.{noised[0]} protects each update from everybody, so what counts is that it may be any other: "
            'promise adjacency = "replace_one"'
        )
    if algorithm.weighting != "uniform":
        raise PlanError(f'{algorithm.name} weighs clients by their rows, which are private: use weighting = "uniform"')
    _check_extras(experiment)
    _check_delta(target, population)
    sampled = cohort.event(NonPrivateDpEvent(), len(population))
    takes_places = isinstance(sampled, SampledWithoutReplacementDpEvent) and target.unit == "client"
    if takes_places and target.neighbours == "add_remove":
        raise PlanError(
            f'privacy.adjacency = "add_remove" with cohort.{cohort.name}: where a client is removed another takes its '
            'place, so two contributions differ and not one. Promise "zero_out" or "replace_one", or draw by poisson'
        )


def _check_extras(experiment: Experiment) -> None:
    """Refuse releases beside the model that no noise covers."""
    for field, given in (
        ("compare = true", experiment.compare),
        ("evaluate_every", experiment.evaluate_every is not None),
        ("metrics_pipeline", experiment.metrics_pipeline is not None),
    ):
        if given:
            raise PlanError(
                f"{field}: figures of private rows are releases of their own, and nothing pays for them. Leave it out, "
                "and look at the model on rows that are public or were left out of the run"
            )
    metrics: tuple[str, ...] = getattr(experiment.stop, "metrics", ())
    asked = [name for name in metrics if not name.startswith("step/")]
    if asked:
        raise PlanError(f"stop reads {asked[0]!r}, a figure of private rows that no noise covers: use max_rounds")
    rounds: int | None = getattr(experiment.stop, "rounds", None)
    if rounds is None:
        raise PlanError("privacy is priced before round 1, and nothing bounds the rounds: add max_rounds to stop")


def _check_delta(target: PrivacyTarget, population: Population) -> None:
    units = len(population) if target.unit == "client" else population.examples
    if units is not None and target.delta * units > 1:
        raise PlanError(
            f"privacy.delta = {target.delta:g} is above 1 / {units:,}, one over the number of {target.unit}s: it would "
            "allow to publish one of them whole. Take a delta far below that"
        )


def protection_of(
    experiment: Experiment, algorithm: AnyAlgorithm, pipeline: BoundPipeline, population: Population, *, parameters: int
) -> Protection | None:
    """Return how the rounds of an experiment are protected; None where nothing is promised.

    Args:
        experiment: All components resolved, and checked by ``check_privacy``.
        algorithm: As it is run.
        pipeline: As it is bound to the vector of an update.
        population: All clients.
        parameters: Numbers of the model.

    Raises:
        PlanError: When the noise that is promised is nowhere.
        PipelineError: When a stage has lost the bound that noise is measured by.
    """
    target = experiment.privacy
    cohort: Cohort = experiment.cohort  # type: ignore[assignment]
    if target is None:
        return None
    known = pipeline.event() if target.unit == "client" else _of_records(algorithm, pipeline, parameters)
    drawn = cohort.event(known, len(population))
    event = drawn if unamplified(known) == known and _counts(drawn, target.neighbours) else known
    if drawn == known:
        sampling = "every client in every round"
    else:
        sampling = f"clients by {cohort.name}, drawn from secret entropy"
        if event == known:
            sampling += f"; not counted, because {_uncounted(known, target.neighbours)}"
    return Protection(
        target=target,
        event=event,
        known=known,
        at_client=any(stage.shield is not None for stage in pipeline.stages)
        or (target.unit == "record" and not _shares_noise(algorithm)),
        mechanism=_mechanism(known),
        sampling=sampling,
    )


def _uncounted(known: DpEvent, adjacency: Adjacency) -> str:
    if unamplified(known) != known:
        return "each of them draws rows, and no bound of a sample within a sample is known"
    return f"under {adjacency} no bound of it is known"


def _counts(sampled: DpEvent, adjacency: Adjacency) -> bool:
    """Return whether an accountant can count the sampling of clients in."""
    match sampled:
        case SampledWithoutReplacementDpEvent():
            return adjacency == "replace_one"
        case PoissonSampledDpEvent(_, inner) | TruncatedPoissonSampledDpEvent(_, _, _, inner):
            return adjacency != "replace_one" or isinstance(inner, GaussianDpEvent)
    return True


def _shares_noise(algorithm: AnyAlgorithm) -> bool:
    return algorithm.local is not None and algorithm.local.private is not None and algorithm.local.private.shared


def _of_records(algorithm: AnyAlgorithm, pipeline: BoundPipeline, parameters: int) -> DpEvent:
    local = algorithm.local
    assert local is not None and local.private is not None, "check_privacy has seen private steps"
    if local.private.shared:
        if not any(stage.name == SHARED for stage in pipeline.stages):
            raise PlanError(
                f'private.noise_multiplier = "shared": no stage adds the noise. Put {SHARED}(noise_multiplier=...) '
                "behind mean(expected=...), or give every client noise of its own: a number"
            )
        rate, event = local.private.rate, pipeline.event()
        return PoissonSampledDpEvent(rate, event) if rate < 1 else event
    steps = max(local.steps.values()) if isinstance(local.steps, Mapping) else local.steps
    assert steps is not None, "private steps are counted"
    return record_event(local.private, steps=steps, dim=parameters)


def price_experiment(experiment: Experiment, plan: RunPlan[Any, Any, Any]) -> PrivacyPrice | None:
    """Return what an experiment costs at most; None where nothing is promised.

    Args:
        experiment: All components resolved.
        plan: Its plan of training.

    Raises:
        PlanError: When it is more than the target allows, or cannot be priced.
    """
    learner, rounds = plan.learner, plan.stop.rounds
    assert learner is not None, "training has a learner"
    protection = protection_of(
        experiment, plan.algorithm, plan.exchange.pipeline, plan.population, parameters=learner.layout.size
    )
    if protection is None:
        return None
    assert rounds is not None, "check_privacy has seen a bound"
    return price_of(protection, rounds=rounds, population=plan.population)


def price_of(protection: Protection, *, rounds: int, population: Population) -> PrivacyPrice:
    """Return what a run costs at most.

    Raises:
        PlanError: When it is more than the target allows, or cannot be priced.
    """
    target = protection.target
    figures = protection.figures(rounds)
    price = PrivacyPrice(
        protection=protection,
        rounds=rounds,
        figures=figures,
        notes=tuple(_advice(protection, population)),
    )
    judged = figures.models if target.reader == "models" else figures.participation
    if target.epsilon is not None and judged.epsilon > target.epsilon * (1 + 1e-9):
        raise PlanError(
            f"{rounds} rounds cost {judged.words}; privacy.epsilon = {target.epsilon:g} is the most allowed. Add "
            f"noise, or run fewer rounds{'' if target.reader == 'models' else _OTHER_READER}"
        )
    return price


def _advice(protection: Protection, population: Population) -> Iterator[str]:
    clients = len(population)
    if protection.target.unit == "client" and clients < FEW_CLIENTS:
        yield (
            f'{clients} clients are few for privacy.unit = "client": noise that hides one of fewer than about '
            f"{FEW_CLIENTS} hides most of the model too. Private steps protect records, for which a few clients suffice"
        )
    if protection.target.unit == "record" and clients > 1:
        yield (
            "the figures are those of one client's records, the worst of them: they hold for a person only if nobody "
            "has records at two clients; where someone may, the epsilons of these add up"
        )


def _mechanism(event: DpEvent) -> str:
    """Return the noise of an event in words."""
    return " and ".join(_words(leaf, count) for leaf, count in leaves(event).items())


def _words(event: DpEvent, count: int) -> str:
    times = "" if count == 1 else f"{count} times "
    match event:
        case GaussianDpEvent(noise_multiplier):
            return f"{times}float Gaussian noise, {noise_multiplier:g} times the bound"
        case LaplaceDpEvent(noise_multiplier):
            return f"{times}float Laplace noise, {noise_multiplier:g} times the bound"
        case DiscreteGaussianDpEvent(sigma, _, _, draws):
            drawn = "" if draws == 1 else f", {draws} draws"
            multiplier = event.noise_multiplier
            return f"{times}integer Gaussian noise, {multiplier:.4g} times the bound (sigma {sigma:g} steps{drawn})"
        case DiscreteLaplaceDpEvent(scale, l1):
            return f"{times}integer Laplace noise, {scale / l1:.4g} times the bound (scale {scale:g} steps)"
    inner: DpEvent | None = getattr(event, "event", None)
    if inner is None:
        return f"{times}no noise"
    rate = getattr(event, "rate", None)
    chance = "" if rate is None else f", each unit with chance {rate:g}"
    return f"{times}{_mechanism(inner)}{chance}"
