"""A sum of one, or of fewer than the threshold.

The "sum" over one survivor is that client's vector; the sum over two is each one's vector to the other. The server
claims that all others were lost, or shows fewer signatures than the threshold, or one signature several times. A client
signs no list shorter than the threshold and the fewest survivors of the terms, and counts distinct witnesses.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import openable
from scene import NAMES, Federation, retried, witnesses
from verdict import Attempt, refused, report

from fedloom.secure.messages import Survivors, Witnesses


def attack() -> Iterator[Attempt]:
    federation = Federation()
    ash = NAMES[0]
    threshold = federation.rules().threshold
    session = federation.session()
    lists = session.until(3)
    for size in (0, 1, 2, threshold - 1):
        answer = retried(session, federation, ash, Survivors(tuple(range(1, size + 1))))
        yield refused(f"a list of {size} survivors", answer, opened=openable(session))

    session.carry(lists, 3)
    signed = session.signatures()
    few = {place: signed[place] for place in range(1, threshold)}
    answer = retried(session, federation, ash, witnesses(few))
    yield refused(f"{threshold - 1} witnesses of the full list", answer, opened=openable(session))
    places = (*range(1, threshold), threshold - 1)
    doubled = Witnesses(places, b"".join(signed[place] for place in places))
    answer = retried(session, federation, ash, doubled)
    yield refused("the same, with one of them twice", answer, opened=openable(session))
    renamed = {**few, threshold: signed[threshold - 1]}
    answer = retried(session, federation, ash, witnesses(renamed))
    yield refused("the same, with one of them under another name", answer, opened=openable(session))
    answer = retried(session, federation, ash, Witnesses((), b""))
    yield refused("no witness at all", answer, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
