"""Leases: until when a claimed task is its site's, by the clock of this process alone.

They are not written down: a clock that starts anew with the machine says nothing about a lease from before. A process
that starts gives every claimed task its whole lease again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class Leases:
    """Tasks and until when they are claimed. Threads may share it.

    Args:
        clock: Seconds of a clock that is never set.

    Example:
        >>> time = iter([0.0, 10.0, 20.0, 25.0])
        >>> leases = Leases(clock=time.__next__)
        >>> leases.give("t1", seconds=15.0)
        >>> leases.give("t2", seconds=15.0)
        >>> leases.over(), leases.over()
        (('t1',), ('t1', 't2'))
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def give(self, task: str, *, seconds: float) -> None:
        """Let a lease last this long from now on."""
        with self._lock:
            self._until[task] = self._clock() + seconds

    def extend(self, task: str, *, seconds: float) -> bool:
        """Let a lease that was given last this long from now on; return whether there was one."""
        with self._lock:
            if task not in self._until:
                return False
            self._until[task] = self._clock() + seconds
            return True

    def drop(self, tasks: Iterable[str]) -> None:
        """Forget the leases of these tasks."""
        with self._lock:
            for task in tasks:
                self._until.pop(task, None)

    def over(self) -> tuple[str, ...]:
        """Return the tasks whose lease has ended, sorted; they stay until they are dropped."""
        with self._lock:
            now = self._clock()
            return tuple(sorted(task for task, until in self._until.items() if until <= now))
