"""The two readers of a run: one who sees released models, and one who also knows who took part when."""

from __future__ import annotations

from dataclasses import dataclass

from fedloom.core.events import (
    DpEvent,
    SelfComposedDpEvent,
)
from fedloom.errors import ComponentError
from fedloom.privacy.accountants import price_epsilon
from fedloom.privacy.guarantee import Adjacency, Guarantee, Method, Unit
from fedloom.privacy.rewrites import unamplified

MODELS = "reader of the models"
PARTICIPATION = "holder of participation data"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoFigures:
    """What a run costs, by what its reader knows."""

    models: Guarantee
    """Against one who sees what is released, and neither lists nor sizes of cohorts: sampling amplifies."""
    participation: Guarantee
    """Against anyone who holds participation data (coordinator, its log, participants of a secure sum): it does not."""


def guarantee(
    event: DpEvent,
    *,
    delta: float,
    unit: Unit,
    adjacency: Adjacency,
    method: Method = "best",
    reader: str = "reader of all releases",
) -> Guarantee:
    """Return what an event costs, with all that it takes to read the figure.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When the method cannot price the event; says which can.
    """
    price = price_epsilon(event, delta=delta, adjacency=adjacency, method=method)
    return Guarantee(epsilon=price.value, delta=delta, unit=unit, adjacency=adjacency, method=price.way, reader=reader)


def two_figures(
    round_event: DpEvent,
    rounds: int,
    *,
    delta: float,
    unit: Unit,
    adjacency: Adjacency,
    most_rounds: int | None = None,
    method: Method = "best",
) -> TwoFigures:
    """Return what equal rounds cost, against either reader.

    Args:
        round_event: One round, with its sampling.
        rounds: How many there are.
        delta: The same for both figures.
        unit: Whose data one guarantee hides.
        adjacency: What differs between two neighbours. A list of participants tells by itself who is a member, so
            the figure against its holder is one of zero-out where add/remove is stated.
        most_rounds: How many rounds one unit takes part in at most, where something enforces it; all of them without.
        method: See ``Method``.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When the method cannot price the event; says which can.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent, PoissonSampledDpEvent
        >>> figures = two_figures(
        ...     PoissonSampledDpEvent(0.01, GaussianDpEvent(4.0)), 100, delta=1e-5, unit="client", adjacency="zero_out"
        ... )
        >>> f"{figures.models.epsilon:.3f} {figures.participation.epsilon:.3f}"
        '0.080 13.207'
    """
    bound = rounds if most_rounds is None else most_rounds
    if not 0 <= bound <= rounds:
        raise ComponentError(
            f"two_figures(rounds={rounds}, most_rounds={most_rounds}): expected 0 <= most_rounds <= rounds"
        )
    return TwoFigures(
        models=guarantee(
            SelfComposedDpEvent(round_event, rounds),
            delta=delta,
            unit=unit,
            adjacency=adjacency,
            method=method,
            reader=MODELS,
        ),
        participation=guarantee(
            SelfComposedDpEvent(unamplified(round_event), bound),
            delta=delta,
            unit=unit,
            adjacency="zero_out" if adjacency == "add_remove" else adjacency,
            method=method,
            reader=PARTICIPATION,
        ),
    )
