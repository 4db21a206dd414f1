"""What a run promises about privacy: whether its parts can keep it, and what it costs before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from fedloom.privacy.guarantee import Adjacency, Guarantee, rounded_up
from fedloom.privacy.leaves import leaves, noises
from fedloom.privacy.readers import MODELS, TwoFigures, against_models, against_participation, guarantee
from fedloom.privacy.rewrites import GRID_SIGMA_OF_LIMIT, unamplified
from fedloom.privacy.target import PrivacyTarget
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.plan import RunPlan

SHARED = ("shared_gaussian", "distributed_shared_gaussian")
"""The stages whose noise hides single rows of all clients: added by the server, or by the clients in shares."""
SHARES = ("distributed_gaussian", "distributed_shared_gaussian")
"""The stages whose noise clients add in shares."""
FEW_CLIENTS = 50
"""Below so many, noise that hides a whole client hides the model as well."""
_SEEN = "the server and participants, against whom shares protect, see who takes part"
_OTHER_READER = '; or, where no reader knows who took part, promise it to reader = "models"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Noise that is added in shares, by whoever is in a sum."""

    honest: int
    """Shares that the promise counts on: of the fewest survivors, less those assumed to collude."""
    survivors: int
    """Shares in every sum that is opened, at least."""
    reached: DpEvent
    """One round, where nobody colludes."""
    less: DpEvent | None
    """One round as a single participant sees it who subtracts its own share, where none is assumed to collude; None
    where the promise covers it, or nothing would be left."""

    @property
    def colluders(self) -> int:
        """Clients that the promise allows to tell the server all they know."""
        return self.survivors - self.honest


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
    shares: Shares | None = None
    """Where clients add the noise in shares."""

    @property
    def noise_by(self) -> str:
        """Who adds the noise, in one word: "server", "clients", or "shares", a part by each client."""
        return "shares" if self.shares is not None else "clients" if self.at_client else "server"

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
        return self.of_event(self.known, rounds)

    def of_event(self, event: DpEvent, rounds: int) -> Guarantee:
        """Return what the first rounds would cost if each were this event, whoever took part."""
        target = self.target
        return against_participation(event, rounds, delta=target.delta, unit=target.unit, adjacency=target.neighbours)

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
    def reached(self) -> Guarantee | None:
        """What the run costs at most where clients add the noise in shares and nobody colludes; else None."""
        shares = self.protection.shares
        return None if shares is None else self.protection.of_event(shares.reached, self.rounds)

    @property
    def against_one_participant(self) -> Guarantee | None:
        """What it costs against one who subtracts its own share, where the promise counts on everybody's; else None."""
        shares = self.protection.shares
        return None if shares is None or shares.less is None else self.protection.of_event(shares.less, self.rounds)

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
            "shares": self._shares_json(),
        }

    def _shares_json(self) -> dict[str, Json] | None:
        """Return whose shares the noise is made of; None where it is not added in shares."""
        shares, reached, one = self.protection.shares, self.reached, self.against_one_participant
        if shares is None or reached is None:
            return None
        return {
            "survivors": shares.survivors,
            "colluders": shares.colluders,
            "honest": shares.honest,
            "epsilon_without_colluders": reached.epsilon,
            "epsilon_against_one_participant": None if one is None else one.epsilon,
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
    in_shares = [name for name in noised if name in SHARES]
    local = any(stage.shield is not None and stage.name not in SHARES for stage in pipeline.stages)
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
    if target.unit == "client" and (rows := [name for name in noised if name in SHARED]):
        raise PlanError(f'privacy.unit = "client": pipeline.{rows[0]} hides single rows. Promise unit = "record"')
    if target.unit == "client" and in_shares and target.neighbours == "add_remove":
        raise PlanError(
            f'privacy.adjacency = "add_remove" with pipeline.{in_shares[0]}: a client that is not there adds no share '
            'of the noise, so two neighbours would differ in their noise too. Promise "zero_out" or "replace_one"'
        )
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
    shares = _shares(pipeline, known) if target.unit == "client" or _shares_noise(algorithm) else None
    drawn = cohort.event(known, len(population))
    alone = shares is None and unamplified(known) == known
    event = drawn if alone and _counts(drawn, target.neighbours) else known
    if drawn == known:
        sampling = "every client in every round"
    else:
        sampling = f"clients by {cohort.name}, drawn from secret entropy"
        if event == known:
            why = _uncounted(known, target.neighbours) if shares is None else _SEEN
            sampling += f"; not counted, because {why}"
    return Protection(
        target=target,
        event=event,
        known=known,
        at_client=any(stage.shield is not None for stage in pipeline.stages)
        or (target.unit == "record" and not _shares_noise(algorithm)),
        mechanism=_mechanism(known) if shares is None else f"{_mechanism(known)}, in shares by the clients",
        sampling=sampling,
        shares=shares,
    )


def _shares(pipeline: BoundPipeline, known: DpEvent) -> Shares | None:
    """Return in which shares the noise is added, None where one party adds all of it.

    Args:
        pipeline: As it is bound to the vector of an update.
        known: One round, for one who knows who took part.
    """
    sent = pipeline.sent
    if sent.noise_shares is None:
        return None
    survivors = pipeline.aggregator.survivors(pipeline.wires[0])
    assert sent.honest is not None and survivors is not None, "shares were made for sums that hide single messages"
    return Shares(
        honest=sent.honest,
        survivors=survivors,
        reached=_of_shares(known, sent.honest, survivors),
        less=_of_shares(known, sent.honest, sent.honest - 1) if survivors == sent.honest > 1 else None,
    )


def _of_shares(event: DpEvent, honest: int, shares: int) -> DpEvent:
    """Return the event of one round with other shares than those of the trusted."""
    match event:
        case PoissonSampledDpEvent(rate, inner):
            return PoissonSampledDpEvent(rate, _of_shares(inner, honest, shares))
        case DiscreteGaussianDpEvent():
            return replace(event, draws=event.draws // honest * shares)
    raise PlanError(f"{event} is no noise that clients add in shares")


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
        if not any(stage.name in SHARED for stage in pipeline.stages):
            raise PlanError(
                f'private.noise_multiplier = "shared": no stage adds the noise. Put {SHARED[0]}(noise_multiplier=...) '
                f"behind mean(expected=...), or under an aggregator that hides single vectors {SHARED[1]}(...); or "
                "give every client noise of its own: a number"
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
        notes=(*_on_shares(protection, rounds), *_advice(protection, population)),
    )
    judged = figures.models if target.reader == "models" else figures.participation
    if target.epsilon is not None and judged.epsilon > target.epsilon * (1 + 1e-9):
        raise PlanError(
            f"{rounds} rounds cost {judged.words}; privacy.epsilon = {target.epsilon:g} is the most allowed. Add "
            f"noise, or run fewer rounds{'' if target.reader == 'models' else _OTHER_READER}"
        )
    return price


def _on_shares(protection: Protection, rounds: int) -> Iterator[str]:
    """Yield what each adversary sees of a sum whose noise is added in shares, and what it costs against it."""
    shares = protection.shares
    if shares is None:
        return
    many, counted = shares.colluders, f"{shares.honest} of them make up what is promised"
    why = f"because {many} may collude" if many else "and nobody is assumed to collude"
    yield (
        f"every sum that is opened has at least {shares.survivors} clients with a share of the noise; {counted}, {why}"
    )
    together = f" together with {many} client{'s' if many > 1 else ''}" if many else ""
    yield (
        f"the server{together} sees who takes part and each sum with its noise, no single update: epsilon is against "
        "it, and counts no sampling of clients"
    )
    if many:
        reached = protection.of_event(shares.reached, rounds)
        yield f"where nobody colludes, epsilon is {rounded_up(reached.epsilon):g} at most"
    elif shares.less is not None:
        one = protection.of_event(shares.less, rounds)
        yield (
            "a participant can subtract its own share of the noise: against it epsilon is "
            f"{rounded_up(one.epsilon):g}; assume one colluder, and the promise covers it"
        )
    else:
        yield "a participant can subtract its own share of the noise, and none is left: assume one colluder"


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
