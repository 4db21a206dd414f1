"""plain_sum: the sum of the clients' vectors, each readable by the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.aggregator import Abort, Continue, Finish, Payload, SumPart, SumRound
from fedloom.core.component import ComponentSpec, component
from fedloom.core.ids import ClientId
from fedloom.core.keys import Keys
from fedloom.core.params import Vector
from fedloom.core.roster import Identity
from fedloom.core.wire import WireType
from fedloom.errors import Error
from fedloom.pipeline.tree_sum import TreeSum


class PlainSumServer:
    """Folds one vector a client into a tree over cohort positions."""

    def __init__(self, cohort: Sequence[ClientId]) -> None:
        self._cohort = tuple(cohort)
        self._slots = {client: slot for slot, client in enumerate(cohort)}
        self._tree = TreeSum(len(cohort))
        self._sent = [False] * len(cohort)
        self._waiting = set(cohort)

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Fold one client's vector in.

        Raises:
            Error: When the sender is not of the cohort, was lost, or has sent before.
        """
        slot = self._settle(sender)
        self._tree.add(slot, message)
        self._sent[slot] = True

    def lose(self, client: ClientId) -> None:
        """Leave a client out."""
        self._tree.lose(self._settle(client))

    def advance(self) -> Continue | Finish | Abort:
        """Return the sum when every client has sent or is lost."""
        if self._waiting:
            return Continue()
        total = self._tree.total()
        if total is None:
            return Abort("no client sent a value")
        return Finish(total, tuple(c for c, sent in zip(self._cohort, self._sent, strict=True) if sent))

    def partial(self) -> PlainSumServer:
        """Return an empty server of the same cohort."""
        return PlainSumServer(self._cohort)

    def merge(self, other: PlainSumServer) -> None:
        """Fold in another server's sum of other clients of the same cohort."""
        self._tree.merge(other._tree)
        self._sent = [mine or theirs for mine, theirs in zip(self._sent, other._sent, strict=True)]
        self._waiting &= other._waiting

    def export(self) -> SumPart:
        """Return what this partial server has received; it is of no use afterwards."""
        nodes, values = self._tree.export()
        heard = [slot for slot, client in enumerate(self._cohort) if client not in self._waiting]
        return SumPart(
            nodes=nodes,
            values=values,
            sent=np.array([slot for slot in heard if self._sent[slot]], np.int64),
            lost=np.array([slot for slot in heard if not self._sent[slot]], np.int64),
        )

    def absorb(self, part: SumPart) -> None:
        """Fold in what a partial server of another process has received.

        Raises:
            Error: When a client was heard of before.
        """
        for slot in (*part.sent.tolist(), *part.lost.tolist()):
            self._settle(self._cohort[slot])
        for slot in part.sent.tolist():
            self._sent[slot] = True
        self._tree.absorb(part.nodes, part.values)

    def _settle(self, client: ClientId) -> int:
        """Return the slot of a client that has not been heard of, and note that it has."""
        if client not in self._waiting:
            known = client in self._slots
            raise Error(f"{client!r} {'has sent or was lost already' if known else 'is not of this cohort'}")
        self._waiting.discard(client)
        return self._slots[client]


@dataclass(frozen=True, slots=True)
class PlainSumClient:
    """Sends its vector, once."""

    value: Vector

    def open(self) -> Payload:
        """Return the vector."""
        return self.value

    def reply(self, message: Payload) -> Payload:
        """Refuse: a plain sum asks for nothing more.

        Raises:
            Error: Always.
        """
        raise Error(f"a plain sum has one message; the server sent {type(message).__name__}")


@dataclass(frozen=True, slots=True)
class PlainSum:
    """The aggregator of ``plain_sum()``."""

    name: str = "plain_sum"
    mergeable: bool = True
    shows_messages: bool = True
    interactive: bool = False
    payloads: tuple[type, ...] = (np.ndarray,)
    spec: ComponentSpec | None = None

    def deployed(self) -> PlainSum:
        """Return itself."""
        return self

    def words(self, wire: WireType) -> tuple[str, ...]:
        """Return nothing: what a plan says of single messages says it."""
        del wire
        return ()

    def honest(self, wire: WireType) -> int | None:
        """Return None: the server reads every contribution."""
        del wire
        return None

    def survivors(self, wire: WireType) -> int | None:
        """Return None: any number may be in it."""
        del wire
        return None

    def plan(self, wire: WireType) -> WireType:
        """Accept any wire type."""
        return wire

    def server(self, cohort: Sequence[ClientId], about: SumRound, keys: Keys) -> PlainSumServer:
        """Return the server side of one round."""
        del about, keys
        return PlainSumServer(cohort)

    def client(
        self, me: ClientId, value: Vector, about: SumRound, keys: Keys, identity: Identity | None = None
    ) -> PlainSumClient:
        """Return the client side of one round."""
        del me, about, keys, identity
        return PlainSumClient(value)


@component("fedloom.aggregators")
def plain_sum() -> PlainSum:
    """Sum without protection: the server reads every client's vector.

    Example:
        >>> plain_sum().mergeable
        True
    """
    return PlainSum()
