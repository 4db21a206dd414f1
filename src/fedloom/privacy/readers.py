"""The two readers of a run: one who sees released models, and one who also knows who took part when."""

from __future__ import annotations

from dataclasses import dataclass

from fedloom.core.events import DpEvent, SelfComposedDpEvent
from fedloom.privacy.accountants import price_epsilon
from fedloom.privacy.guarantee import Adjacency, Guarantee, Method, Unit

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


def against_models(
    round_event: DpEvent, rounds: int, *, delta: float, unit: Unit, adjacency: Adjacency, method: Method = "best"
) -> Guarantee:
    """Return what equal rounds cost against one who sees models, and nothing else of the run.

    Args:
        round_event: One round, with the sampling that this reader does not know.
        rounds: How many there are.
        delta: Of the figure.
        unit: Whose data it hides.
        adjacency: What differs between two neighbours.
        method: See ``Method``.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When the method cannot price the event; says which can.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent, PoissonSampledDpEvent
        >>> event = PoissonSampledDpEvent(0.01, GaussianDpEvent(4.0))
        >>> f"{against_models(event, 100, delta=1e-5, unit='client', adjacency='zero_out').epsilon:.3f}"
        '0.080'
    """
    whole = SelfComposedDpEvent(round_event, rounds)
    return guarantee(whole, delta=delta, unit=unit, adjacency=adjacency, method=method, reader=MODELS)


def against_participation(
    known: DpEvent, rounds: int, *, delta: float, unit: Unit, adjacency: Adjacency, method: Method = "best"
) -> Guarantee:
    """Return what equal rounds cost against one who may know who took part in which of them.

    Args:
        known: One round as this reader sees it: without the sampling that he knows, for a unit that took part.
        rounds: In how many a unit takes part at most.
        delta: Of the figure.
        unit: Whose data it hides.
        adjacency: What differs between two neighbours. A list of clients tells by itself who is one of them, so for
            clients the figure is one of zero-out where add/remove is stated.
        method: See ``Method``.

    Raises:
        ComponentError: When a number is out of its range.
        PlanError: When the method cannot price the event; says which can.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent
        >>> event = GaussianDpEvent(4.0)
        >>> f"{against_participation(event, 100, delta=1e-5, unit='client', adjacency='zero_out').epsilon:.3f}"
        '13.207'
    """
    listed = unit == "client" and adjacency == "add_remove"
    whole = SelfComposedDpEvent(known, rounds)
    return guarantee(
        whole,
        delta=delta,
        unit=unit,
        adjacency="zero_out" if listed else adjacency,
        method=method,
        reader=PARTICIPATION,
    )
