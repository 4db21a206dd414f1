"""When to try again, and what to say meanwhile: full jitter, and one word per change of state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

FIRST_S = 1.0
LONGEST_S = 60.0

Jitter: TypeAlias = Callable[[], float]
"""Gives numbers in [0, 1), different ones at every site: they must not come back all at once."""


def wait_s(failures: int, jitter: Jitter, *, at_least_s: float = 0.0) -> float:
    """Return how long to wait after so many failures in a row: anything up to 1, 2, 4, ... 60 s.

    Args:
        failures: In a row, this one included.
        jitter: Draws the share of the longest wait.
        at_least_s: What the peer asked for; the wait is added to it.

    Example:
        >>> [wait_s(failures, lambda: 0.5) for failures in (1, 2, 3, 7, 100)]
        [0.5, 1.0, 2.0, 30.0, 30.0]
    """
    return at_least_s + jitter() * min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """Whether the coordinator answers. ``reason`` is what gRPC says: it knows no more (see ``probe``)."""

    address: str
    connected: bool
    since_s: float
    """Monotonic time from which on it has been so."""
    reason: str = ""

    def told(self, now: float) -> str:
        """Return the state as people read it.

        Example:
            >>> LinkState(address="fed.example:7443", connected=False, since_s=0.0).told(130.0)
            'waiting for coordinator at fed.example:7443 (2 m 10 s)'
        """
        if self.connected:
            return f"connected to coordinator at {self.address}"
        return f"waiting for coordinator at {self.address} ({_span(max(0.0, now - self.since_s))})"


class Link:
    """State of the connection as several threads see it; ``tell`` is called at a change, and only then."""

    def __init__(self, address: str, *, clock: Callable[[], float], tell: Callable[[LinkState], None]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._tell = tell
        self._address = address
        self._state: LinkState | None = None

    @property
    def state(self) -> LinkState | None:
        """The state; None before the first call has ended."""
        return self._state

    def up(self) -> None:
        """A call was answered."""
        self._change(connected=True, reason="")

    def down(self, reason: str) -> None:
        """A call was not answered."""
        self._change(connected=False, reason=reason)

    def _change(self, *, connected: bool, reason: str) -> None:
        with self._lock:
            if self._state is not None and self._state.connected == connected:
                return
            state = LinkState(address=self._address, connected=connected, since_s=self._clock(), reason=reason)
            self._state = state
            self._tell(state)


def _span(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    parts = (f"{hours} h" if hours else "", f"{minutes} m" if hours or minutes else "", "" if hours else f"{rest} s")
    return " ".join(part for part in parts if part)
