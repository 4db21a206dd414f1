"""Different survivors told to two halves.

To one half the server says that a client has survived, and gets shares of its self seed; to the other half that it was
lost, and gets shares of its mask key. A colluding client signs both stories. (It is why the protocol of Bonawitz et al.
2017 has a consistency step.) Clients open nothing until as many as the threshold have signed the list that they were
told, and with ``2 threshold > invited + colluders`` only one list can have that many.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import openable
from scene import Federation, witnesses
from verdict import Attempt, Refusal, refused, report

from fedloom.secure.messages import Survivors
from fedloom.secure.secagg_client import survivors_signed


def attack() -> Iterator[Attempt]:
    federation = Federation()
    ash, *honest = federation.names
    alive, dead = honest[::2], honest[1::2]
    victim = alive[0]
    session = federation.session(colluders=[ash])
    session.until(3)
    truth = tuple(federation.names)
    lie = tuple(name for name in federation.names if name != victim)
    place = {name: number for number, name in enumerate(federation.names, start=1)}
    for half, story in ((alive, truth), (dead, lie)):
        for name in half:
            answer = session.ask(name, Survivors(tuple(place[each] for each in story)))
            assert not isinstance(answer, Refusal), "either story alone is one that an honest server could tell"

    signed = session.signatures()
    sides = []
    for half, story in ((alive, truth), (dead, lie)):
        statement = survivors_signed(session.terms.sid, story)
        signatures = {place[name]: signed[place[name]] for name in half}
        signatures[place[ash]] = federation.identities[ash].sign(statement)
        sides.append(signatures)
    for half, signatures, what in zip((alive, dead), sides, ("alive", "dead"), strict=True):
        answer = session.ask(half[0], witnesses(signatures))
        yield refused(f"the half that heard {victim!r} is {what}, and a colluder", answer, opened=openable(session))
    for half, ours, theirs in zip((alive, dead), sides, sides[::-1], strict=True):
        mixed = {
            number: each for number, each in {**theirs, **ours}.items() if half is alive or number != place[victim]
        }
        answer = session.ask(half[1], witnesses(mixed))
        yield refused("one half, with the signatures of the other", answer, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
