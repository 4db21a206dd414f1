"""Effects: what a coordinator asks its engine to do, in order, each done before it is asked for the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from fedloom.core.aggregator import InteractiveServer
from fedloom.core.events import DpEvent
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import AggregatorRequest
from fedloom.core.params import Vector
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import RunState

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Write a privacy event to the ledger: the sum it covers is opened after this."""

    event: DpEvent
    round: RoundNumber
    retry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Store the released sum, noise included, before anything reads it. Only where the pipeline adds noise."""

    released: Vector
    included: tuple[ClientId, ...]
    round: RoundNumber
    retry: int


@dataclass(frozen=True, slots=True)
class Save(Generic[S]):
    """Make a state the one that a resume starts from."""

    state: RunState[S]


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """Store what the server side of an interactive sum must keep, ``server.stored()``: messages leave after it."""

    server: InteractiveServer


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message of an interactive sum to a client."""

    to: ClientId
    request: AggregatorRequest


@dataclass(frozen=True, slots=True)
class Closed:
    """A round is over; its record is final."""

    record: RoundRecord


Effect: TypeAlias = Append | Keep | Save[Any] | Hold | Send | Closed
