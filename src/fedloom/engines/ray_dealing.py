"""Dealing: the stretches of one round, dealt to whoever is free, and dealt again where a worker was lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.core.ids import ClientId
from fedloom.errors import WorkerError

TRIES = 4
"""Workers that a stretch is given to before the run ends: work that ends its worker would end all of them."""


class Lost(Exception):
    """A worker has gone: its process, its node or the way to it.

    ``memory`` tells that it was ended because its node ran out of memory.
    """

    def __init__(self, why: str, *, memory: bool = False) -> None:
        self.why = why
        self.memory = memory
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of whole blocks of a cohort."""

    start: int
    stop: int


class Dealing:
    """What of a round is to do, and what has been tried.

    Example:
        >>> dealing = Dealing([(0, 4), (4, 6)])
        >>> first, second = dealing.take(), dealing.take()
        >>> dealing.again(first, Lost("its node was switched off"), ["a", "b", "c", "d", "e", "f"])
        >>> dealing.take() == first, dealing.waiting
        (True, False)
    """

    def __init__(self, stretches: list[tuple[int, int]]) -> None:
        self._todo = deque(Place(start, stop) for start, stop in stretches)
        self._tries = Counter[Place]()
        self.left = len(stretches)
        """Stretches whose part has not come yet."""

    @property
    def waiting(self) -> bool:
        """Whether a stretch waits for a worker."""
        return bool(self._todo)

    def take(self) -> Place:
        """Return the next stretch to do."""
        place = self._todo.popleft()
        self._tries[place] += 1
        return place

    def done(self) -> None:
        """Note that the part of a stretch has come."""
        self.left -= 1

    def again(self, place: Place, lost: Lost, clients: Sequence[ClientId]) -> None:
        """Put a stretch whose worker was lost first in the line.

        Raises:
            WorkerError: When it has been given to too many workers.
        """
        if self._tries[place] >= TRIES:
            first, last = clients[place.start], clients[place.stop - 1]
            advice = "; use a smaller block, or nodes with more memory" if lost.memory else ""
            raise WorkerError(
                f"clients {first} to {last} were given to {TRIES} workers, and each of these was lost (the last: "
                f"{lost.why}){advice}; what was committed is kept: resume the run"
            )
        self._todo.appendleft(place)
