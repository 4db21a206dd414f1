"""What a client does of what its program asks: under private steps no more than the plan has priced."""

from __future__ import annotations

from fedloom.core.algorithm import AnyAlgorithm, ClientContext
from fedloom.core.schedule import Schedule
from fedloom.core.work import ClientRequest, LocalWork
from fedloom.errors import PlanError


def check_priced(algorithm: AnyAlgorithm, request: ClientRequest, context: ClientContext, *, first: bool) -> None:
    """Refuse a request that would release more of a client's rows than ``algorithm.local`` tells of.

    Where neither the algorithm nor the request speaks of private steps, everything is allowed: nothing is promised.

    Args:
        algorithm: Whose program asks; a plan has priced its ``local``.
        request: What it asks.
        context: Of which client, and in which round.
        first: Whether it is the program's first question: one private work a round is priced.

    Raises:
        PlanError: When it asks for other work, a second time, or for an answer that no noise covers.
    """
    promised = algorithm.local is not None and algorithm.local.private is not None
    private = isinstance(request, LocalWork) and request.schedule.private is not None
    if not (promised or private):
        return
    if not isinstance(request, LocalWork):
        raise PlanError(
            f"{algorithm.name} asks for a {type(request).__name__}, which reads rows without noise, beside private "
            "steps; let its program ask for one LocalWork, and for nothing else"
        )
    asked = request.schedule.at(context.round, context.client)
    priced = None if algorithm.local is None else algorithm.local.at(context.round, context.client)
    if not first or priced is None or asked.private != priced.private or not _within(asked, priced):
        told = "nothing" if priced is None else f"one work of {priced.steps} steps, {priced.private}"
        raise PlanError(
            f"{algorithm.name} asks for {asked.steps} steps, {asked.private}{'' if first else ', after other work'}; "
            f"its `local` tells the plan of {told}. What is not told is not priced"
        )


def _within(asked: Schedule, priced: Schedule) -> bool:
    """Return whether the steps are at most those priced: a slow client may do a part of them."""
    return isinstance(asked.steps, int) and isinstance(priced.steps, int) and asked.steps <= priced.steps
