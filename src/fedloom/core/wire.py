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
_WORD = 4096.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WireType:
    """What one client's vector is, between two stages.

    Its coordinates are: parts, then ``metrics`` metric coordinates, then, where ``weight`` is true, the weight: in one
    coordinate, or where ``two_words`` is true in two, ``coarse * 4096 + fine``: so float32 adds whole weights exactly,
    up to 2**36 in total and up to 4,096 clients, where one coordinate would stop counting rows at 2**24.
    """

    dim: int | None
    """None until the schema is agreed: order is checked before size."""
    dtype: str
    modulus: int | None = None
    """Values live in Z_m."""
    l2: float | None = None
    """Bound on the norm of ONE client's whole vector; None: unbounded."""
    l1: float | None = None
    """The same for its L1 norm."""
    metrics: int = 0
    weight: bool = True
    two_words: bool = False
    max_weight: float | None = None
    """The largest weight a client may have; None: unbounded."""
    clipped: float | None = None
    """Bound on the norm of the parts alone; None: unbounded."""
    weighted: bool = False
    """The parts have been multiplied by the weight."""
    most_clients: int | None = None
    """Clients that a round invites at most: a sum in Z_m must hold them all; None: not known."""
    fewest_clients: int | None = None
    """Clients that a round invites at least, when none is away; None: not known."""
    honest: int | None = None
    """Contributions of clients that are trusted in every sum that the aggregator opens, at least: what shares of noise
    are measured by. None: single contributions are read."""
    noise_multiplier: float | None = None
    """Noise that a stage before this one will put on the sum, over the bound of one client; None: no noise."""
    noise_each: bool = False
    """That noise is put on each client's own vector, not on the sum."""
    noise_shares: int | None = None
    """Clients whose shares make up that noise: each adds one to its own vector; None: it is not added in shares."""
    record: float | None = None
    """Bound on what one row of a client changes in the norm of its parts; None: not known. A stage that passes it on
    brings no two vectors further apart."""
    step: float | None = None
    """Of a vector in Z_m: what one integer step of the parts is worth, in the units before the encoding."""

    def split_weight(self, weights: Vector) -> Vector:
        """Return weights ``(clients,)`` as the coordinates that they travel in, ``(clients, 1 or 2)``.

        Example:
            >>> WireType(dim=2, dtype="float32", two_words=True).split_weight(np.array([4097.5])).tolist()
            [[1.0, 1.5]]
        """
        if not self.two_words:
            return weights[:, None]
        coarse = np.floor(weights / _WORD)
        return np.stack([coarse, weights - _WORD * coarse], axis=1)

    def weights(self, values: Vector) -> Vector:
        """Return the weights of a block ``(clients, d)``, or of a sum ``(1, d)``, as one column."""
        return values[:, -2:-1] * values.dtype.type(_WORD) + values[:, -1:] if self.two_words else values[:, -1:]

    @property
    def tail(self) -> int:
        """Number of coordinates behind the parts."""
        return self.metrics + self.weight + self.two_words


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
    shield: Callable[[Vector, WireType, Sequence[SecretKey]], Vector] | None = None
    """Client: noise on its own encoded vector, after all stages; values ``(clients, d)`` of the last wire type."""
    event: Callable[[WireType], DpEvent | None] = no_event
    """From the LAST wire type: no bound left => PipelineError."""
    spec: ComponentSpec | None = None


AnyStage: TypeAlias = Stage[Any]
