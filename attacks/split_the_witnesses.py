"""Two groups of witnesses, where the threshold allows it: why ``2 threshold > invited + colluders``.

With a threshold no larger than half of invited and colluders, two groups that share only the colluders can each reach
it. One hears that a client has survived, the other that it was lost, and the server gets both of that client's secrets
and then its vector. (Bonawitz et al. 2017 derive their threshold from it.) fedloom refuses such terms; this script
forces them on real clients to show what would happen, and then sets the threshold one higher.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from loot import Loot
from scene import NAMES, Federation, Session, vectors_of, witnesses
from verdict import Attempt, Refusal, error_of, refused, report

from fedloom.core.ids import ClientId
from fedloom.secure.messages import Survivors
from fedloom.secure.secagg_client import survivors_signed
from fedloom.secure.terms import Rules, Terms, terms_of

COLLUDERS, VICTIM = NAMES[:2], NAMES[2]
THRESHOLD = 4  # of 6 invited with 2 colluders: 2 * 4 = 6 + 2


class Unchecked(Terms):
    """Terms that nobody has looked at. There is no such class in fedloom."""

    def __post_init__(self) -> None:
        """Check nothing."""


def attack() -> Iterator[Attempt]:
    federation = Federation(6)
    low, high = (Rules(threshold=each, survivors=4, colluders=2) for each in (THRESHOLD, THRESHOLD + 1))
    yield refused("terms with 2t = n + c", error_of(lambda: terms_of(federation.about(), low, federation.roster)))

    forced = Unchecked(
        about=federation.about(), rules=low, federation=federation.roster.federation, roster=federation.roster.digest
    )
    session = _two_groups(federation, forced)
    vector = Loot(session).sums().get(frozenset({VICTIM}))
    recovered = vector is not None and np.array_equal(vector, vectors_of(federation.names)[VICTIM])
    yield Attempt(
        tried="the same terms, forced on real clients by taking the check out",
        seen=f"the vector of {VICTIM!r} is recovered, every word of it: the terms are refused for that"
        if recovered
        else "nothing was recovered: the check would not be needed",
        holds=not recovered,
        claimed=False,
    )

    session = _two_groups(federation, federation.terms(rules=high))
    opened = tuple(chosen for chosen in Loot(session).sums())
    yield refused("two groups at a threshold of one more", session.refusals[0], opened=opened)


def _two_groups(federation: Federation, terms: Terms) -> Session:
    """Return a session in which two groups, with the colluders in both, were told different survivors."""
    session = federation.session(terms, colluders=COLLUDERS)
    session.until(3)
    place = {name: number for number, name in enumerate(federation.names, start=1)}
    everybody = federation.names
    others = tuple(name for name in everybody if name != VICTIM)
    for story, group in ((everybody, NAMES[2:4]), (others, NAMES[4:6])):
        _tell(federation, session, Survivors(tuple(place[name] for name in story)), story, group)
    return session


def _tell(
    federation: Federation, session: Session, told: Survivors, story: tuple[ClientId, ...], group: tuple[ClientId, ...]
) -> None:
    """Tell a group one story, have it signed by the colluders as well, and ask the group for its shares."""
    place = {name: number for number, name in enumerate(federation.names, start=1)}
    for name in group:
        assert not isinstance(session.ask(name, told), Refusal), "either story alone could be an honest server's"
    statement = survivors_signed(session.terms.sid, story)
    signed = {
        number: each for number, each in session.signatures().items() if number in {place[name] for name in group}
    }
    signed |= {place[name]: federation.identities[name].sign(statement) for name in COLLUDERS}
    for name in group:
        session.ask(name, witnesses(signed))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
