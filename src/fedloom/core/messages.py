"""What coordinator and clients say to each other: a closed union of frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct

from fedloom.core.aggregator import Payload
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.params import Vector

B = TypeVar("B")

Program = Literal["train", "evaluate", "query"]
FailureKind = Literal["lost", "late", "refused", "crashed", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOrder(Generic[B]):
    """What a client is asked to do in one round."""

    round: RoundNumber
    retry: int
    digest: str
    """Of the experiment: a client serves the plan that it has checked, no other."""
    program: Program
    broadcast: B
    settings: tuple[Vector, ...] = ()
    """Public numbers of the round, one per stage."""
    committed: RoundNumber | None = None
    """Last round that this client was included in: commit its pending state if it is of that round, else drop it."""
    invited: int | None = None
    """Size of the cohort, where the sum is interactive: clients hold it against their own limits."""


class AggregatorMessage(Struct, frozen=True, kw_only=True):
    """One message of the sum. ``scores`` are the sender's own figures, where the aggregator shows messages anyway."""

    round: RoundNumber
    retry: int
    payload: Payload
    scores: Mapping[str, float | None] = {}


class AggregatorRequest(Struct, frozen=True, kw_only=True):
    """A message of an interactive sum from the server to one client."""

    program: Program
    round: RoundNumber
    retry: int
    step: int
    """The client's message that it asks for: the one that follows the order is 0."""
    payload: Payload


class Refused(Struct, frozen=True, kw_only=True):
    """A client declines: it has no data, its rows changed, its policy says no."""

    round: RoundNumber
    retry: int
    reason: str


class Failed(Struct, frozen=True, kw_only=True):
    """A client could not: its code raised, or its numbers are not finite."""

    round: RoundNumber
    retry: int
    kind: FailureKind
    detail: str
    where: str | None = None
    """``file:line`` of the code that raised."""


ClientMessage: TypeAlias = AggregatorMessage | Refused | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What happened to one client in one round; the run goes on, or says why not."""

    client: ClientId
    phase: Program
    kind: FailureKind
    detail: str
    where: str | None = None
