"""One client on both lists: among the survivors and among the lost.

A server that may send two lists, of survivors and of the lost, puts one client on both, and gets the shares of both of
its secrets: this was found in a shipped implementation, which did not check that the lists are disjoint. fedloom's
question has one list. Whoever is not on it is lost, so that no client can be both, and an answer has one share each.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import KINDS, Loot, openable
from scene import NAMES, Federation, retried
from verdict import Attempt, refused, report

from fedloom.secure.messages import Survivors, Unmask


def attack() -> Iterator[Attempt]:
    federation = Federation()
    session = federation.session(lost=dict.fromkeys(NAMES[5:7], 2))
    lists = session.until(3)
    ash = NAMES[0]
    for tried, places in [
        ("one place twice on the list", (1, 2, 3, 4, 5, 5)),
        ("the list and, behind it, whoever is missing and a survivor", (1, 2, 3, 4, 5, 6, 7, 1)),
    ]:
        answer = retried(session, federation, ash, Survivors(places))
        yield refused(tried, answer, opened=openable(session))

    session.finish(lists, 3)
    loot = Loot(session)
    both = {name for name, _ in loot.known} & set(loot.seeds) & set(loot.keys)
    counted = {
        (name, dealer): sum(loot.has(dealer, kind, holder=name) for kind in KINDS)
        for name, _, answer in session.heard
        if isinstance(answer, Unmask)
        for dealer in federation.names
    }
    holds = not both and set(counted.values()) == {1}
    yield Attempt(
        tried="to find both secrets of one client in an honest run with a loss",
        seen=f"refused: of each of {len(counted)} pairs of holder and dealer one kind of share was opened, never both",
        holds=holds,
        opened=tuple(set(loot.sums()) - {frozenset(NAMES[:5])}),
    )


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
