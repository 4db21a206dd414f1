"""Sessions: what a client keeps of interactive sums, so that it sends one message a step and never a second one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from fedloom.core.aggregator import InteractiveClient
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import Program


class SessionName(NamedTuple):
    """One sum of a run: no two have the same name."""

    phase: int
    program: Program
    round: RoundNumber
    retry: int


class Sessions(Protocol):
    """Where the client sides of interactive sums are kept while they last."""

    def find(
        self, client: ClientId, name: SessionName, revive: Callable[[bytes], InteractiveClient]
    ) -> InteractiveClient | None:
        """Return the client side of a sum; ``revive`` makes it from what was stored. None: there is none here."""
        ...

    def over(self, client: ClientId, name: SessionName) -> bool:
        """Return whether a sum was begun and is not kept any more, or is older than one that was begun.

        A server that could have such a sum begun again would have two of one name, and the difference of two sums.
        """
        ...

    def keep(self, client: ClientId, name: SessionName, side: InteractiveClient) -> None:
        """Store the client side of a sum as it is now: durable when this returns, so that its message may leave."""
        ...

    def end(self, client: ClientId, *, but: SessionName | None = None) -> None:
        """Delete what is kept of a client's sums, secrets and all, save the one that is named."""
        ...


class MemorySessions:
    """Sessions in a dictionary: for simulation, where clients end with the process."""

    def __init__(self) -> None:
        self._sides: dict[ClientId, dict[SessionName, InteractiveClient]] = {}

    def find(
        self, client: ClientId, name: SessionName, revive: Callable[[bytes], InteractiveClient]
    ) -> InteractiveClient | None:
        """Return the client side of a sum."""
        del revive
        return self._sides.get(client, {}).get(name)

    def over(self, client: ClientId, name: SessionName) -> bool:
        """Return False: a simulation may repeat a round, and has no server that would gain by it."""
        del client, name
        return False

    def keep(self, client: ClientId, name: SessionName, side: InteractiveClient) -> None:
        """Keep the client side of a sum."""
        self._sides.setdefault(client, {})[name] = side

    def end(self, client: ClientId, *, but: SessionName | None = None) -> None:
        """Forget a client's sums, save one."""
        kept = {name: side for name, side in self._sides.pop(client, {}).items() if name == but}
        if kept:
            self._sides[client] = kept
