"""Two unmask requests for one session.

The server has the sum of everybody opened, and then asks again about another list of survivors: the shares of the two
answers together would unmask whoever is on one list only. To answer twice is among the mistakes of shipped
implementations. Here a client answers each step once: the same question gets the stored bytes, another one ends it all.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import openable
from scene import NAMES, Federation, witnesses
from verdict import Attempt, Refusal, refused, report

from fedloom.secure.messages import Survivors, pack


def attack() -> Iterator[Attempt]:
    federation = Federation()
    session = federation.session()
    requests = session.until(4)
    everybody = frozenset(federation.names)

    def said() -> list[bytes]:
        answers = [session.ask(name, request) for name, request in requests.items()]
        return [b"" if isinstance(answer, Refusal) else pack(answer) for answer in answers]

    first, second = said(), said()
    extra = tuple(set(openable(session)) - {everybody})
    yield Attempt(
        tried="the same request again, to all",
        seen="held: the same bytes came as before" if first == second else "OTHER BYTES came than before",
        holds=first == second and not extra and everybody in openable(session),
        opened=extra,
    )

    ash, birch, cedar, *_ = NAMES
    other = Survivors((1, 2, 3, 4, 5, 6))
    answer = session.ask(ash, other)
    yield refused("another list, when the sum is open", answer, opened=set(openable(session)) - {everybody})

    signed = session.signatures()  # seven have signed, five were shown
    answer = session.ask(birch, witnesses({place: signed[place] for place in range(3, 8)}))
    yield refused("the same list, other signatures", answer, opened=set(openable(session)) - {everybody})

    fresh = federation.session()
    lists = fresh.until(3)
    fresh.ask(cedar, lists[cedar])
    yield refused("another list, before the first was used", fresh.ask(cedar, other), opened=openable(fresh))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
