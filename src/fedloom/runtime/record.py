"""RoundRecord: the results of one round, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import Failure, Program

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """What one round did.

    ``metrics`` are named ``phase/name``. ``clients`` holds each client's own figures, where they travelled.
    ``seconds`` is the engine's clock and no part of any comparison.
    """

    round: RoundNumber
    retry: int
    program: Program
    status: Literal["closed", "skipped", "retried"]
    invited: int
    included: tuple[ClientId, ...] = ()
    failures: tuple[Failure, ...] = ()
    metrics: Figures = field(default_factory=dict)
    clients: dict[ClientId, Figures] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


def series(records: Sequence[RoundRecord], metric: str) -> list[tuple[RoundNumber, float]]:
    """Return round and value of a metric, over the closed rounds that have it."""
    return [(r.round, value) for r in records if r.status == "closed" and (value := r.metrics.get(metric)) is not None]
