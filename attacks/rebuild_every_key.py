"""A server that rebuilds every client's key.

In a "secure" mode that was shipped, the server collected enough shares to rebuild the mask keys of all clients in every
round, and so could unmask each of them. In fedloom the server gets, of each client, shares of one secret only: of the
self seed where its vector is in the sum, of the mask key where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from loot import Loot
from scene import NAMES, Federation, vectors_of
from verdict import Attempt, report


def attack() -> Iterator[Attempt]:
    federation = Federation()
    values = vectors_of(federation.names)
    for tried, lost in (
        ("a round without losses", {}),
        ("a round with two losses before their vectors", dict.fromkeys(NAMES[5:7], 2)),
        ("a round with two losses after their vectors", dict.fromkeys(NAMES[5:7], 3)),
    ):
        session = federation.session(lost=lost)
        session.run()
        loot = Loot(session)
        gone = {str(name) for name, step in lost.items() if step <= 2}
        alive = set(federation.names) - gone
        sums = loot.sums()
        truth = np.sum([values[name] for name in federation.names if name in alive], axis=0, dtype=np.uint32)
        exact = all(np.array_equal(total, truth) for total in sums.values())
        yield Attempt(
            tried=f"{tried}: to make the most of all messages",
            seen=f"refused all but what it needs: mask keys of the {len(loot.keys)} that are lost, self seeds of the "
            f"{len(loot.seeds)} in the sum; sums that can be opened: {len(sums)}, of {len(alive)} vectors",
            holds=exact and set(loot.keys) == gone and set(loot.seeds) == alive and set(sums) == {frozenset(alive)},
            opened=tuple(set(sums) - {frozenset(alive)}),
        )


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
