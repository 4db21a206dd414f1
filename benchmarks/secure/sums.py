"""One secure sum with all its messages, timed and weighed: every client and step, real keys, masks and signatures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fedloom.core.aggregator import AggregatorClient, Continue, Finish, InteractiveAggregator, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret
from fedloom.errors import Error

T = TypeVar("T")
KEY = Key.from_seed(2017)
STEPS = ("advertise", "share", "mask", "agree", "unmask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One sum: how many take part, how long the vector is, and how many are lost before they send it."""

    clients: int
    dim: int
    dropped: int = 0
    neighbours: int | None = None
    """Degree of the graph of masks; None: each with each."""

    @property
    def others(self) -> int:
        """Clients that one client shares masks with."""
        return self.clients - 1 if self.neighbours is None else self.neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a sum took. Seconds are those of one thread's processor: what else runs does not count."""

    shape: Shape
    client_s: tuple[float, ...]
    """By step, of the client in the middle."""
    client: float
    """All steps together, of the client in the middle."""
    slowest: float
    """All steps together, of the slowest client."""
    server: float
    closing: float
    """Of ``server``: from the last message to the sum."""
    up: int
    """Bytes that the client with the most sends."""
    down: int
    """Bytes that it is sent beside the model."""


class Meter:
    """Adds up what each client and the server do."""

    def __init__(self, aggregator: InteractiveAggregator) -> None:
        self.aggregator = aggregator
        self.seconds: dict[ClientId, list[float]] = {}
        self.server = self.closing = 0.0
        self.up: dict[ClientId, int] = {}
        self.down: dict[ClientId, int] = {}

    def clocked(self, work: Callable[[], T]) -> tuple[T, float]:
        """Return what some work returns, and the seconds that it took."""
        start = time.thread_time()
        result = work()
        return result, time.thread_time() - start

    def client(self, name: ClientId, work: Callable[[], Any]) -> Any:
        """Do a step of a client; weigh its message."""
        message, taken = self.clocked(work)
        self.seconds.setdefault(name, []).append(taken)
        self.up[name] = self.up.get(name, 0) + len(self.aggregator.pack(message))
        return message

    def begun(self, name: ClientId, made: Callable[[], AggregatorClient]) -> tuple[AggregatorClient, Any]:
        """Make a client side and do its first step; both count as that."""
        side, before = self.clocked(made)
        message = self.client(name, side.open)
        self.seconds[name][0] += before
        return side, message

    def serve(self, work: Callable[[], T]) -> T:
        """Do something of the server."""
        result, taken = self.clocked(work)
        self.server += taken
        self.closing = taken
        return result

    def to(self, name: ClientId, message: Any) -> None:
        """Weigh a message of the server."""
        self.down[name] = self.down.get(name, 0) + len(self.aggregator.pack(message))


def measured(aggregator: InteractiveAggregator, shape: Shape) -> Cost:
    """Run one sum and return its cost.

    Raises:
        Error: When the sum is not exactly that of those that were not lost.
    """
    cohort = tuple(ClientId(f"client-{number:04}") for number in range(shape.clients))
    about = _about(shape)
    lost = set(cohort[:: max(1, shape.clients // shape.dropped)][: shape.dropped]) if shape.dropped else set()
    meter = Meter(aggregator)
    server = meter.serve(partial(aggregator.server, cohort, about, _keys("server")))
    _warm(about.wire)
    sides = {}
    step = 0
    for name in cohort:
        if step == aggregator.vector_step and name in lost:
            server.lose(name)
            continue
        made = partial(aggregator.client, name, values_of(name, shape.dim), about, _keys(name))
        sides[name], message = meter.begun(name, made)
        meter.serve(partial(server.receive, name, message))
    while isinstance(outcome := meter.serve(server.advance), Continue):
        step += 1
        for name, asked in outcome.messages:
            meter.to(name, asked)
            if step == aggregator.vector_step and name in lost:
                server.lose(name)
                continue
            message = meter.client(name, partial(sides[name].reply, asked))
            meter.serve(partial(server.receive, name, message))
    _check(outcome, cohort, lost, shape.dim)
    return _cost(shape, meter, [name for name in cohort if name not in lost])


def values_of(name: str, dim: int) -> Vector:
    """Return residues of one client: what they are costs nothing, so few are drawn and repeated."""
    drawn = KEY.child("values", name).generator().integers(0, 2**32, min(dim, 4096), dtype=np.uint32)
    return np.resize(drawn, dim)


def _cost(shape: Shape, meter: Meter, stayed: Sequence[ClientId]) -> Cost:
    whole = [sum(meter.seconds[name]) for name in stayed]
    by_step = zip(*(meter.seconds[name] for name in stayed), strict=True)
    return Cost(
        shape=shape,
        client_s=tuple(statistics.median(each) for each in by_step),
        client=statistics.median(whole),
        slowest=max(whole),
        server=meter.server,
        closing=meter.closing,
        up=max(meter.up.values()),
        down=max(meter.down.values(), default=0),
    )


def _check(outcome: object, cohort: Sequence[ClientId], lost: set[ClientId], dim: int) -> None:
    if not isinstance(outcome, Finish):
        raise Error(f"the sum of {len(cohort)} clients ended by {outcome}")
    expected = np.zeros(dim, np.uint32)
    for name in cohort:
        if name not in lost:
            expected += values_of(name, dim)
    if not np.array_equal(outcome.total, expected) or len(outcome.included) != len(cohort) - len(lost):
        raise Error("the sum is not that of the clients that stayed")


def _about(shape: Shape) -> SumRound:
    wire = WireType(
        dim=shape.dim,
        dtype="uint32",
        modulus=2**32,
        most_clients=shape.clients,
        fewest_clients=shape.clients,
    )
    return SumRound(
        invited=shape.clients,
        wire=wire,
        digest="0" * 64,
        phase=0,
        program="train",
        round=RoundNumber(1),
        retry=0,
        key=KEY,
        order=bytes(32),
    )


def _warm(wire: WireType) -> None:
    """Load what the first sum of a process would load in its first step."""
    from fedloom.secure.secure_sum import secure_sum

    small = replace(wire, dim=4, most_clients=3, fewest_clients=3)
    about = replace(_about(Shape(clients=3, dim=4)), wire=small)
    asked = secure_sum(protocol=True)
    asked.client(ClientId("warm"), np.zeros(4, np.uint32), about, _keys("warm")).open()


def _keys(name: str) -> Keys:
    return Keys(KEY.child("client", name), derived_secret(KEY.child("secret", name)))
