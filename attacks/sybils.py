"""Sybils: clients that the server has made up, or that one organisation has many of.

All but one client of a sum are the server's own, and it subtracts what they sent. (Douceur 2002, "The Sybil Attack".)
Whoever is not on the roster takes no part, whatever it signs; and however many identities an organisation has on the
roster, one of them counts towards invited, threshold and survivors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from loot import openable
from msgspec.structs import replace
from scene import NAMES, Federation, retried, secret_bytes
from verdict import Attempt, error_of, refused, report

from fedloom.core.ids import ClientId
from fedloom.secure.agreement import private_key, signing_key
from fedloom.secure.encoding import ADVERTISE_SIGNATURE, frame
from fedloom.secure.messages import Advertise, Entry, Roll
from fedloom.secure.secagg_server import SecAggServer


def attack() -> Iterator[Attempt]:
    federation = Federation()
    session = federation.session()
    roll = cast(Roll, session.until(1)[NAMES[0]])
    sybil = ClientId("zelkova")
    channel, mask = (private_key(secret_bytes(sybil, each)).public for each in ("channel", "mask"))
    signed = frame(ADVERTISE_SIGNATURE, session.terms.sid, sybil, channel, mask)
    signature = signing_key(secret_bytes(sybil, "signing")).sign(signed)

    server = SecAggServer((*federation.names, sybil), session.terms, federation.roster, graph_seed=bytes(32))
    answer = error_of(lambda: server.receive(sybil, Advertise(channel, mask, signature)))
    yield refused("an honest server is made to invite a client from outside of the roster", answer)
    last = Entry(roll.size, sybil, channel, mask, signature)
    with_sybil = Roll(roll.size, (*roll.entries[:-1], last))
    answer = retried(session, federation, NAMES[0], with_sybil)
    yield refused("the server puts it on the roll", answer, opened=openable(session))
    longer = Roll(roll.size + 1, (*roll.entries, replace(last, place=roll.size + 1)))
    answer = retried(session, federation, NAMES[0], longer)
    yield refused("the server puts it on the roll beside all that were invited", answer, opened=openable(session))

    trust = Federation(organisations=dict.fromkeys(NAMES[1:7], "birch & sons"))
    yield refused("six of seven clients are one organisation's, at an honest server", trust.session().run())
    session = trust.session()
    session.begin()
    entries = []
    for place, name in enumerate(trust.names, start=1):
        advert = next(said for who, _, said in session.heard if who == name)
        assert isinstance(advert, Advertise)
        entries.append(Entry(place, name, advert.channel, advert.mask, advert.signature))
    answer = session.ask(NAMES[0], Roll(len(entries), tuple(entries)))
    yield refused("the same, and the server counts each of them", answer, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
