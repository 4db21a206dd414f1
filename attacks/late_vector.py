"""A masked vector that comes late.

A client is declared lost, its mask key is rebuilt to mend the sum, and then its masked vector arrives: the masks that
it shares with others can all be taken off. (It is why Bonawitz et al. 2017 mask each vector twice.) The vector is not
taken any more, and the client's own mask, of whose seed nobody opens a share, still covers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from loot import Loot
from scene import NAMES, Federation, vectors_of
from verdict import Attempt, Refusal, refused, report

from fedloom.core.aggregator import Finish


def attack() -> Iterator[Attempt]:
    federation = Federation()
    late = NAMES[2]
    session = federation.session()
    deliveries = session.until(2)
    vector = session.ask(late, deliveries.pop(late))
    assert not isinstance(vector, Refusal), "the client has done all that it was asked"
    session.server.lose(late)
    lists = dict(getattr(session.carry(deliveries, 2), "messages", ()))
    yield refused("the vector comes when the survivors are fixed", session.tell(late, vector))
    outcome = cast(Finish, session.finish(lists, 3))
    yield refused("the vector comes when the sum is open", session.tell(late, vector))

    loot = Loot(session)
    survivors = frozenset(federation.names) - {late}
    values = vectors_of(federation.names)
    exact = np.array_equal(outcome.total, np.sum([values[name] for name in survivors], axis=0, dtype=np.uint32))
    holds = exact and late in loot.keys and late not in loot.seeds
    yield Attempt(
        tried="to unmask the late vector with all shares that were opened",
        seen=f"out of reach: the server has rebuilt the mask key of {late!r}, as it must, and has no share of its self "
        "seed; the sum of the others is exact",
        holds=holds,
        opened=tuple(set(loot.sums()) - {survivors}),
    )


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
