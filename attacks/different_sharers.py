"""Different clients are told of different sharers.

Before the vectors are sent the server says who has shared; it tells some clients of fewer others, so that their vectors
hold fewer masks, and hopes for a set of clients whose masks cancel among themselves. A client goes on only with as many
as the threshold and the fewest survivors of the terms, and signs no survivor whose shares it does not hold: what can be
opened is one such sum, or nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping
from typing import cast

from loot import openable
from scene import NAMES, Federation, Session, retried, witnesses
from verdict import Attempt, Refusal, refused, report

from fedloom.core.ids import ClientId
from fedloom.secure.messages import Delivery, Message, Survivors


def attack() -> Iterator[Attempt]:
    federation = Federation(5)
    least = federation.rules().survivors
    session = federation.session()
    deliveries = session.until(2)
    for count in range(least - 1):
        answer = retried(session, federation, NAMES[0], _only(deliveries[NAMES[0]], range(2, 2 + count)))
        yield refused(f"{count} others have shared", answer, opened=openable(session))

    tried = 0
    worst: frozenset[str] = frozenset()
    for group in itertools.combinations(range(1, 6), least):
        for story in (group, tuple(range(1, 6))):
            session = federation.session()
            _two_stories(federation, session, session.until(2), group, story)
            found = [each for each in openable(session) if len(each) < least]
            worst = found[0] if found else worst
            tried += 1
    yield Attempt(
        tried=f"each set of {least} is told of itself alone and the others of all, with the one list of survivors and "
        f"the other: {tried} sessions",
        seen=f"refused: no sum of fewer than {least} vectors can be opened in any of them",
        holds=not worst,
        opened=(worst,) if worst else (),
    )


def _two_stories(
    federation: Federation,
    session: Session,
    deliveries: Mapping[ClientId, Message],
    group: tuple[int, ...],
    story: tuple[int, ...],
) -> None:
    """Tell a group that only it has shared; then ask everybody about one list of survivors, and open what opens."""
    for place, name in enumerate(federation.names, start=1):
        told = set(group) - {place} if place in group else set(range(1, 6)) - {place}
        session.ask(name, _only(deliveries[name], told))
    signers = [name for name in federation.names if not isinstance(session.ask(name, Survivors(story)), Refusal)]
    signed = session.signatures()
    for name in signers:
        session.ask(name, witnesses(signed))


def _only(delivery: Message, places: Container[int]) -> Delivery:
    """Return a delivery with the parcels from some places."""
    return Delivery(tuple(each for each in cast(Delivery, delivery).parcels if each.place in places))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
