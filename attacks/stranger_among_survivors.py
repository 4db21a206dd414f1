"""A stranger among the survivors.

The server puts on the list a client that does not exist, or one that has shared nothing: a list that is long enough, of
which fewer clients are real. It also leaves out the very client that it asks. A client signs a list only of those that
it holds shares of, with itself among them.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import openable
from scene import NAMES, Federation, retried
from verdict import Attempt, refused, report

from fedloom.secure.messages import Survivors


def attack() -> Iterator[Attempt]:
    federation = Federation()
    ash = NAMES[0]
    session = federation.session(lost={NAMES[6]: 1})
    session.until(3)
    for tried, places in [
        ("a client that has advertised keys, and shared nothing", (1, 2, 3, 4, 5, 6, 7)),
        ("a place that nobody has", (1, 2, 3, 4, 5, 8)),
        ("place 0, where a shared secret itself lies", (0, 1, 2, 3, 4, 5)),
        ("a list without the client that is asked", (2, 3, 4, 5, 6)),
    ]:
        answer = retried(session, federation, ash, Survivors(places))
        yield refused(tried, answer, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
