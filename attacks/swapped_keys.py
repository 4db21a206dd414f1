"""Another's keys: the server puts its own in the roll, changes them, doubles them, or brings keys of low order.

Whoever knows the private key of a client's channel reads the shares that are sealed for it; so a server that hands out
keys of its own reads everything. (Key lists without signatures are among the mistakes of shipped implementations.)
Each entry is signed under the session by the key that the ROSTER has for its client, and every client checks every one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

from loot import openable
from msgspec.structs import replace
from scene import Federation, Session, retried, secret_bytes
from verdict import Attempt, error_of, refused, report

from fedloom.core.ids import ClientId
from fedloom.secure.agreement import private_key, signing_key
from fedloom.secure.encoding import ADVERTISE_SIGNATURE, frame
from fedloom.secure.messages import Advertise, Entry, Roll, pack
from fedloom.secure.secagg_server import SecAggServer

LOW_ORDER = {
    "0": bytes(32),
    "1": (1).to_bytes(32, "little"),
    "p - 1": (2**255 - 20).to_bytes(32, "little"),
    "p": (2**255 - 19).to_bytes(32, "little"),
    "p + 1": (2**255 - 18).to_bytes(32, "little"),
    "a point of order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "the other of order 8": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
}
"""u-coordinates of Curve25519 whose multiples by a private key are zero. RFC 7748, section 6.1, says to look for it."""


def attack() -> Iterator[Attempt]:
    federation = Federation()
    session = federation.session()
    rolls = session.until(1)
    ash, birch, cedar, *_ = federation.names
    roll = cast(Roll, rolls[ash])
    entry = roll.entries
    sid = session.terms.sid
    ours, more, stranger = (private_key(secret_bytes("server", each)).public for each in ("one", "two", "three"))
    server = signing_key(secret_bytes("server", "signing"))
    forged = server.sign(frame(ADVERTISE_SIGNATURE, sid, birch, ours, more))

    def with_entry(number: int, changed: Entry) -> Roll:
        return Roll(roll.size, (*entry[:number], changed, *entry[number + 1 :]))

    rolled = {
        "the server's keys under a client's name, signed by the server": with_entry(
            1, replace(entry[1], channel=ours, mask=more, signature=forged)
        ),
        "one key of the two, under the client's own signature": with_entry(1, replace(entry[1], channel=ours)),
        "a client's two keys in the other order": with_entry(
            1, replace(entry[1], channel=entry[1].mask, mask=entry[1].channel)
        ),
        "the asked client's own key": with_entry(0, replace(entry[0], mask=stranger)),
        "one client's keys and signature under another's name": with_entry(
            1, Entry(2, birch, entry[2].channel, entry[2].mask, entry[2].signature)
        ),
        "one client twice": with_entry(1, replace(entry[0], place=2)),
        "two clients in each other's place": Roll(
            roll.size, (entry[0], replace(entry[2], place=2), replace(entry[1], place=3), *entry[3:])
        ),
        "a roll with one entry left out": Roll(roll.size, entry[:-1]),
    }
    for tried, changed in rolled.items():
        yield refused(tried, retried(session, federation, ash, changed), opened=openable(session))
    for tried, point in LOW_ORDER.items():
        for field in ("channel", "mask"):
            told = _low_order(federation, cedar, field, point)
            answer = next((each for each in told.refusals if each.who == ash), "a masked vector")
            yield refused(f"a colluder's {field} key of low order, {tried}", answer, opened=openable(told))
    point = LOW_ORDER["a point of order 8"]
    advert = _low_order(federation, cedar, "mask", point).heard[2][2]
    honest_server = federation.session().server
    yield refused("the same, to an honest server", error_of(partial(honest_server.receive, cedar, advert)))


class Credulous(SecAggServer):
    """A server that hands on whatever keys it gets: the honest one refuses those of low order itself."""

    def _take_keys(self, sender: ClientId, message: Advertise) -> None:
        self._state.adverts[sender] = message


def _low_order(federation: Federation, colluder: ClientId, field: str, point: bytes) -> Session:
    """Return a session up to the masked vectors, in which one client advertises such a key and signs it."""
    session = federation.session(colluders=[colluder])
    session.server = Credulous(federation.names, session.terms, federation.roster, graph_seed=bytes(32))
    side = session.clients[colluder]
    honest = cast(Advertise, side.open())
    keys = (point, honest.mask) if field == "channel" else (honest.channel, point)
    signed = frame(ADVERTISE_SIGNATURE, session.terms.sid, colluder, *keys)
    advert = Advertise(*keys, federation.identities[colluder].sign(signed))
    side._state.sent[0] = pack(advert)  # a colluder's own machine is the colluder's to change
    outcome = session.carry(session.until(1), 1)
    for name, message in getattr(outcome, "messages", ()):
        session.ask(name, message)
    return session


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
