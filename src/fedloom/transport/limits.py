"""How much at once: gates that let in so many, and an eye on calls that do not move."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedloom.transport.errors import Code, Refused


class Gate:
    """Lets in ``limit`` calls at once; ``waiting`` more may wait for ``patience_s``; the rest are told to come back.

    Example:
        >>> gate = Gate("uploads", limit=1, waiting=0)
        >>> with gate.entered():
        ...     with gate.entered():
        ...         pass
        Traceback (most recent call last):
        ...
        fedloom.transport.errors.Refused: BUSY: all 1 places for uploads are taken.
    """

    def __init__(
        self, name: str, *, limit: int, waiting: int = 0, patience_s: float = 20.0, again_s: float = 2.0
    ) -> None:
        self._name = name
        self._limit = limit
        self._waiting = waiting
        self._patience_s = patience_s
        self._again_s = again_s
        self._free = threading.Condition()
        self._inside = 0
        self._queued = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold one place.

        Raises:
            Refused: ``BUSY``, with the time after which to ask again.
        """
        with self._free:
            if not self._enter():
                raise Refused(
                    Code.BUSY,
                    f"all {self._limit} places for {self._name} are taken.",
                    retryable=True,
                    retry_after_s=self._again_s,
                )
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                self._free.notify()

    def _enter(self) -> bool:
        if self._inside >= self._limit:
            if self._queued >= self._waiting:
                return False
            self._queued += 1
            try:
                if not self._free.wait_for(lambda: self._inside < self._limit, timeout=self._patience_s):
                    return False
            finally:
                self._queued -= 1
        self._inside += 1
        return True


class PerCaller:
    """Lets each caller have so many of its own calls open, so that none takes the places of others."""

    def __init__(self, name: str, *, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    @contextmanager
    def entered(self, caller: str) -> Iterator[None]:
        """Hold one place of this caller's.

        Raises:
            Refused: ``BUSY``.
        """
        with self._lock:
            if self._open[caller] >= self._limit:
                raise Refused(
                    Code.BUSY,
                    f"{caller} has {self._limit} calls of the kind {self._name} open already.",
                    remedy="Check that one agent only runs with this certificate.",
                    retryable=True,
                    retry_after_s=5.0,
                )
            self._open[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[caller] -= 1
                if not self._open[caller]:
                    del self._open[caller]


class Penalties:
    """Counts messages that are none: a peer that sends many is not listened to for a while."""

    def __init__(self, *, allowed: int, window_s: float, clock: Callable[[], float]) -> None:
        self._allowed = allowed
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[str, tuple[float, int]] = {}

    def count(self, caller: str) -> None:
        """Note one more of them."""
        now = self._clock()
        with self._lock:
            since, times = self._counted.get(caller, (now, 0))
            self._counted[caller] = (now, 1) if now - since > self._window_s else (since, times + 1)

    def check(self, caller: str) -> None:
        """Return if this caller is listened to.

        Raises:
            Refused: ``BUSY``, until the window is over.
        """
        with self._lock:
            since, times = self._counted.get(caller, (0.0, 0))
            left = since + self._window_s - self._clock()
            if times < self._allowed:
                return
            if left <= 0:
                del self._counted[caller]
                return
        raise Refused(
            Code.BUSY,
            f"{caller} sent {times} messages that cannot be read.",
            remedy="Check the versions of fedloom at both ends.",
            retryable=True,
            retry_after_s=left,
        )


@dataclass(eq=False, slots=True)
class Watched:
    """A call that must move."""

    cancel: Callable[[], object]
    allowed: Callable[[], bool]
    moved_at: float


class Watchdog:
    """Ends streams that stand still, or whose caller has been shut out meanwhile."""

    def __init__(self, *, idle_s: float, clock: Callable[[], float]) -> None:
        self._idle_s = idle_s
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: set[Watched] = set()

    @contextmanager
    def watching(self, cancel: Callable[[], object], *, allowed: Callable[[], bool]) -> Iterator[Callable[[], None]]:
        """Watch a call; the function that it gives says that the call has moved."""
        call = Watched(cancel, allowed, self._clock())

        def moved() -> None:
            call.moved_at = self._clock()

        with self._lock:
            self._calls.add(call)
        try:
            yield moved
        finally:
            with self._lock:
                self._calls.discard(call)

    def sweep(self) -> int:
        """Cancel the calls that stand still or may not go on; return how many."""
        now = self._clock()
        with self._lock:
            calls = tuple(self._calls)
        ended = [call for call in calls if now - call.moved_at > self._idle_s or not call.allowed()]
        for call in ended:
            call.cancel()
        return len(ended)
