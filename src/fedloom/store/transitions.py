"""What may follow what: the states of a round, of a run and of a task, as pure tables. No way leads out of an end.

Save one, which no table has: a run whose server step raised is ``failed``, and its round stays open with all that it
was sent. When the algorithm is mended, ``Runs.reopen`` alone brings it back to ``running``, to close that round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeVar

from fedloom.errors import StoreError

RoundStage: TypeAlias = Literal["planned", "offered", "running", "closing", "aggregating", "committed", "aborted"]
RunStage: TypeAlias = Literal[
    "draft", "awaiting_approval", "ready", "running", "paused", "waiting_for_sites",
    "completed", "completed_with_warnings", "failed", "aborted",
]  # fmt: skip
TaskStage: TypeAlias = Literal["offered", "claimed", "settled"]
S = TypeVar("S", bound=str)

ROUND: Mapping[RoundStage, frozenset[RoundStage]] = {
    "planned": frozenset({"offered", "aborted"}),
    "offered": frozenset({"running", "closing", "aborted"}),
    "running": frozenset({"closing", "aborted"}),
    "closing": frozenset({"aggregating", "aborted"}),
    "aggregating": frozenset({"committed"}),
    "committed": frozenset(),
    "aborted": frozenset(),
}
"""A round that aggregates cannot be aborted: with noise, its release may have been charged and seen. One whose server
step raises stays there, inputs and all."""
RUN: Mapping[RunStage, frozenset[RunStage]] = {
    "draft": frozenset({"awaiting_approval", "failed", "aborted"}),
    "awaiting_approval": frozenset({"ready", "failed", "aborted"}),
    "ready": frozenset({"running", "paused", "failed", "aborted"}),
    "running": frozenset({"paused", "waiting_for_sites", "completed", "completed_with_warnings", "failed", "aborted"}),
    "paused": frozenset({"running", "failed", "aborted"}),
    "waiting_for_sites": frozenset({"running", "paused", "failed", "aborted"}),
    "completed": frozenset(),
    "completed_with_warnings": frozenset(),
    "failed": frozenset(),
    "aborted": frozenset(),
}
TASK: Mapping[TaskStage, frozenset[TaskStage]] = {
    "offered": frozenset({"claimed", "settled"}),
    "claimed": frozenset({"offered", "settled"}),
    "settled": frozenset(),
}
"""A claimed task whose lease has ended is offered again."""
ACCEPTING: frozenset[RoundStage] = frozenset({"offered", "running"})
"""Stages of a round in which what a site sends is counted."""


def ends(table: Mapping[S, frozenset[S]]) -> frozenset[S]:
    """Return the states that nothing follows.

    Example:
        >>> sorted(ends(ROUND))
        ['aborted', 'committed']
    """
    return frozenset(state for state, following in table.items() if not following)


def moved(table: Mapping[S, frozenset[S]], old: S, new: S, *, what: str) -> bool:
    """Return whether a move changes anything: False where ``new`` is the state already, so that a repeat is harmless.

    Raises:
        StoreError: When ``new`` cannot follow ``old``.

    Example:
        >>> moved(ROUND, "running", "closing", what="round 3"), moved(ROUND, "closing", "closing", what="round 3")
        (True, False)
        >>> moved(ROUND, "committed", "running", what="round 3")
        Traceback (most recent call last):
        fedloom.errors.StoreError: round 3 is committed and cannot become running: a finished one is never changed
    """
    if new == old:
        return False
    following = table[old]
    if new not in following:
        known = f"expected {' or '.join(sorted(following))}" if following else "a finished one is never changed"
        raise StoreError(f"{what} is {old} and cannot become {new}: {known}")
    return True
