"""What ``fedloom plan`` says of a private run: who is protected from whom, at which price, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from fedloom.core.component import Json
from fedloom.core.events import (
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
)
from fedloom.core.wire import WireType
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.privacy import PrivacyPrice
from fedloom.experiment.privacy_record import shown_rounds
from fedloom.privacy.guarantee import rounded_up
from fedloom.privacy.leaves import noises
from fedloom.privacy.readers import TwoFigures
from fedloom.privacy.rewrites import unamplified


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the first rounds cost, against either reader; rounded up."""

    rounds: int
    models: float
    participation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyListing:
    """Everything that a plan says of privacy."""

    price: dict[str, Json]
    by_round: tuple[Spent, ...]
    lines: tuple[str, ...]
    """The same in sentences, for people."""
    whole: PrivacyPrice
    """What it was all read off."""

    def as_json(self) -> dict[str, Json]:
        """Return it as plain JSON."""
        by_round: list[Json] = [msgspec.to_builtins(spent) for spent in self.by_round]
        return {"price": self.price, "by_round": by_round, "lines": list(self.lines)}


def list_privacy(price: PrivacyPrice, plan: AnyPlan) -> PrivacyListing:
    """Return what is to be said of a private run before it runs."""
    by_round = tuple(_spent(number, price.protection.figures(number)) for number in shown_rounds(price.rounds))
    return PrivacyListing(price=price.as_json(), by_round=by_round, lines=tuple(_lines(price, plan)), whole=price)


def _lines(price: PrivacyPrice, plan: AnyPlan) -> Iterator[str]:
    held, target = price.protection, price.protection.target
    yield f"mechanism: {held.mechanism}"
    if (inflation := _inflation(plan, held.known)) is not None:
        yield f"rounding raises the bound that noise is measured by: {inflation}"
    yield f"unit: {target.unit}; neighbours: {target.neighbours}; delta {target.delta:g}"
    yield f"sampling: {held.sampling}"
    yield price.figures.models.words
    yield price.figures.participation.words
    if (limit := price.limit) is not None:
        yield (
            f"as if the noise were continuous, which at this grid it nearly is, epsilon {rounded_up(limit.epsilon):g} "
            "against a reader of the models: not proven"
        )
    if held.shares is None:
        yield "a reader of the models knows neither cohorts nor their sizes; whoever does is the other reader"
    if held.shares is not None:
        yield "a reader of the models sees no more than the server does: the same figures are against both"
    elif plan.leaves_noised:
        yield "what leaves a client is protected already: the server need not be trusted with it"
    elif plan.exchange.pipeline.aggregator.shows_messages:
        yield "not protected: the server reads each client's update, and adds the noise; it is trusted with both"
    else:
        yield (
            "not protected: the server adds the noise to a sum that it has seen without; it is trusted with the exact "
            "sum of each round, and with no single update"
        )
    yield "not released: losses, figures of rows, numbers of rows, evaluations; they would be releases of their own"
    if target.data_set is None:
        yield "the ledger counts nothing: name the data by privacy.data_set, and all runs over them add up"
    else:
        most = price.figures.models if target.reader == "models" else price.figures.participation
        yield (
            f"the ledger reserves epsilon {rounded_up(most.epsilon):g} at delta {target.delta:g} of "
            f"{target.data_set!r} before round 1, and writes {price.rounds} releases"
        )
    yield from price.notes


def _spent(rounds: int, figures: TwoFigures) -> Spent:
    return Spent(
        rounds=rounds,
        models=rounded_up(figures.models.epsilon),
        participation=rounded_up(figures.participation.epsilon),
    )


def _inflation(plan: AnyPlan, known: DpEvent) -> str | None:
    """Return by what share rounding has raised the bound of one client, None on a float wire."""
    pipeline = plan.exchange.pipeline
    each = plan.leaves_noised and pipeline.sent.noise_shares is None
    before = next((wire for wire in reversed(pipeline.wires) if wire.modulus is None), None)
    sent = pipeline.sent
    if each or before is None or sent.modulus is None:
        return None
    share = _share(before, sent, known)
    return None if share is None else f"{share:.2%}"


def _share(before: WireType, sent: WireType, known: DpEvent) -> float | None:
    for noise in noises(unamplified(known)):
        match noise:
            case DiscreteGaussianDpEvent(_, l2) if before.l2 and sent.step:
                return l2 * sent.step / before.l2 - 1
            case DiscreteLaplaceDpEvent(_, l1) if before.l1 and sent.step:
                return l1 * sent.step / before.l1 - 1
            case GaussianDpEvent() | LaplaceDpEvent():
                return None
    return None
