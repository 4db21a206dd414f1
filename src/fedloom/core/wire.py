"""WireType and Stage: what travels, and one layer of the onion around the sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from fedloom.core.component import ComponentSpec
from fedloom.core.events import DpEvent
from fedloom.core.ids import RoundNumber
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireType:
    """What one client's vector is, between two stages.

    Its coordinates are: parts, then ``metrics`` metric coordinates, then, where ``weight`` is true, the weight.
    """

    dim: int | None
    """None until the schema is agreed: order is checked before size."""
    dtype: str
    modulus: int | None = None
    """Values live in Z_m."""
    l2: float | None = None
    """Bound on the norm of ONE client's whole vector; None: unbounded."""
    metrics: int = 0
    weight: bool = True
    max_weight: float | None = None
    """The largest weight a client may have; None: unbounded."""
    clipped: float | None = None
    """Bound on the norm of the parts alone; None: unbounded."""
    weighted: bool = False
    """The parts have been multiplied by the weight."""

    @property
    def tail(self) -> int:
        """Number of coordinates behind the parts."""
        return self.metrics + self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class SumInfo:
    """What a server knows of a sum when it decodes it."""

    clients: int
    expected_clients: float
    round: RoundNumber


def stateless(_wire: WireType) -> None:
    """Return no state."""
    return


def no_memory(_wire: WireType) -> Vector:
    """Return no memory."""
    return np.empty(0)


def no_setting(_state: object) -> Vector:
    """Return no public numbers."""
    return np.empty(0)


def no_event(_wire: WireType) -> DpEvent | None:
    """Return no privacy event: the stage protects nothing."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[S]):
    """An encoding at the client and its undoing at the server; what goes in first comes out last."""

    name: str
    plan: Callable[[WireType], WireType]
    """Static: what comes out of ``encode``; raises PipelineError(stage, received, advice)."""
    encode: Callable[[WireType, Vector, Vector, Vector, Sequence[Keys]], tuple[Vector, Vector]]
    """Client: wire type before, values ``(clients, d)``, setting, memory ``(clients, r)``, one Keys a row -> encoded
    values, new memory. A single client is a block of one, ``(1, d)``, never ``(d,)``. May work in place on values."""
    decode: Callable[[WireType, Vector, S, SumInfo], tuple[Vector, S]]
    """Server: wire type before ``encode``, the reduced value, stage state -> decoded value, new state."""
    init: Callable[[WireType], S]
    client_init: Callable[[WireType], Vector] = no_memory
    """Memory (error feedback) is client state and commits with the round."""
    setting: Callable[[S], Vector] = no_setting
    """Public numbers the clients need this round."""
    release: Callable[[Vector, WireType, SecretKey], Vector] | None = None
    """Server: noise on the sum, before any decode; the wire type is the LAST one, so sigma = z * its l2, in Z_m."""
    event: Callable[[WireType], DpEvent | None] = no_event
    """From the LAST wire type: no bound left => PipelineError."""
    spec: ComponentSpec | None = None


AnyStage: TypeAlias = Stage[Any]
