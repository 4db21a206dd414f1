"""What a ledger that was put back from a backup must take in of a run that another party remembers.

Pure: from the books as they are, it says what is missing and where it is charged. Nothing is left out because it does
not fit: what the budget does not cover is written down as overspent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedloom.core.component import Json
from fedloom.core.events import NonPrivateDpEvent
from fedloom.errors import BudgetError
from fedloom.store.ledger_books import Books, Claim
from fedloom.store.ledger_entries import Committed, Entry, ReleaseKey, Reservation, Reserved, event_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Releases that a run has made of a data set, as somebody else remembers them.

    Args:
        run: Id of the run.
        data_set: A registered id.
        worst: What the run was to release at most, as it was priced when it was approved.
        keys: Of all releases that are remembered.
        event: What each of them is, as plain JSON.
        rdp: Divergences of one, where ``worst`` has some.
    """

    run: str
    data_set: str
    worst: Reservation
    keys: tuple[ReleaseKey, ...]
    event: Json
    rdp: tuple[float, ...] = ()


def without_bound(run: str, data_set: str, keys: Sequence[ReleaseKey], *, orders: Sequence[float]) -> Adoption:
    """Return what is charged for releases that nobody can price any more: more than any budget.

    Example:
        >>> without_bound("r1", "ward-a", [(0, 1, 0)], orders=(2.0,)).worst.epsilon
        inf
    """
    event = NonPrivateDpEvent()
    rdp = tuple(math.inf for _ in orders)
    worst = Reservation(epsilon=math.inf, delta=1.0, releases=max(1, len(keys)), rdp=rdp, events=(event,))
    return Adoption(run=run, data_set=data_set, worst=worst, keys=tuple(keys), event=event_tree(event), rdp=rdp)


def missing(books: Books, asked: Adoption) -> tuple[ReleaseKey, ...]:
    """Return the releases that are not charged yet, in their order."""
    charged: set[ReleaseKey] = set()
    for name in _names(asked.run):
        held = books.held.get((name, asked.data_set))
        if held is None and name != asked.run:
            break
        charged |= set() if held is None else held.events.keys()
    return tuple(sorted(set(asked.keys) - charged))


def adopted(books: Books, asked: Adoption) -> tuple[Entry, ...]:
    """Return the next rows to write: to be asked again, with these taken in, until there are none.

    They go under the run's own reservation as far as that covers them. What does not, because the run had finished,
    or was priced otherwise, or has used it up, is charged as another run of the same worst case: "r1" overflows into
    "r1+1". Both ways of adding runs up are sound for that.

    Raises:
        BudgetError: When the worst case has no releases at all, or the data set has no budget.
    """
    left = missing(books, asked)
    if not left:
        return ()
    if asked.worst.releases < 1:
        raise BudgetError(f"run {asked.run!r} was to release nothing, and {len(left)} releases of it are remembered")
    for name in _names(asked.run):
        held = books.held.get((name, asked.data_set))
        if held is None and name in books.finished:
            continue
        reserved: tuple[Entry, ...] = ()
        if held is None:
            room, reserved = asked.worst.releases, (_reserved(books, name, asked),)
        elif held.finished or held.worst != asked.worst:
            continue
        else:
            room = held.worst.releases - len(held.events)
        if room > 0:
            return (*reserved, *(_committed(name, asked, key) for key in left[:room]))
    raise AssertionError("there is always another name")


def _names(run: str) -> Iterator[str]:
    yield run
    yield from (f"{run}+{number}" for number in itertools.count(1))


def _reserved(books: Books, name: str, asked: Adoption) -> Reserved:
    worst = asked.worst
    try:
        books.check_reservations(name, [Claim(data_set=asked.data_set, worst=worst)])
        overspent = False
    except BudgetError:
        books.balance(asked.data_set)  # one without a budget has nothing to overspend: that is an error
        overspent = True
    return Reserved(
        run=name,
        data_set=asked.data_set,
        epsilon=worst.epsilon,
        delta=worst.delta,
        releases=worst.releases,
        rdp=worst.rdp,
        events=tuple(map(event_tree, worst.events)),
        fingerprint=None,
        overspent=overspent,
    )


def _committed(name: str, asked: Adoption, key: ReleaseKey) -> Committed:
    return Committed(run=name, data_set=asked.data_set, key=key, event=asked.event, rdp=asked.rdp, fingerprint=None)
