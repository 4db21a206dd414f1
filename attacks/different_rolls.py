"""Different clients are told of different rolls.

The list of keys is what all later steps rest on, and nobody signs it as a whole: the server tells each client of other
clients that take part, so that shares, masks and places differ from one to the next. Whoever is not on a client's roll
is no survivor to it, lists of survivors are signed by name and not by place, and a list counts with as many witnesses
as the threshold: what can be opened is one sum of as many as the terms say, or nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from loot import openable
from scene import Federation, witnesses
from verdict import Attempt, report

from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.secure.messages import (
    HASH,
    SEALED,
    Advertise,
    Consistent,
    Delivery,
    Entry,
    Parcel,
    Roll,
    Shares,
    Survivors,
)

Told = Mapping[ClientId, Sequence[ClientId]]
"""Of each client: who is on the roll that it gets."""


def attack() -> Iterator[Attempt]:
    federation = Federation(5)
    least = federation.rules().survivors
    names = federation.names
    rolls = [names, *(tuple(each) for each in itertools.combinations(names, least))]
    one_group: list[Told] = [{name: roll if name in roll else names for name in names} for roll in rolls]
    all_but_one: list[Told] = [{name: roll if name == roll[0] else names for name in names} for roll in rolls[1:]]
    draw = Key.from_seed(10).child("rolls").generator()
    mixed: list[Told] = []
    for _ in range(5):
        mixed.append({name: own[int(draw.integers(len(own)))] for name in names for own in [_with(rolls, name)]})
    for what, stories in (
        ("one group is told of itself alone", one_group),
        ("one client is told of fewer", all_but_one),
        ("each is told of another", mixed),
    ):
        opened = [_opened(federation, told, list_of) for told in stories for list_of in rolls]
        small = tuple({chosen for sums in opened for chosen in sums if len(chosen) < least or len(sums) > 1})
        yield Attempt(
            tried=f"{what}: {len(opened)} sessions, with every list of survivors",
            seen=f"refused: {sum(not sums for sums in opened)} sessions open nothing, "
            f"{sum(len(sums) == 1 for sums in opened)} one sum of {least} vectors or more",
            holds=not small,
            opened=small,
        )


def _with(rolls: Sequence[Sequence[ClientId]], name: ClientId) -> list[Sequence[ClientId]]:
    return [roll for roll in rolls if name in roll]


def _opened(federation: Federation, told: Told, survivors: Sequence[ClientId]) -> tuple[frozenset[str], ...]:
    """Run a session with these rolls, and return what can be opened at its end."""
    session = federation.session()
    session.begin()
    adverts = {name: said for name, _, said in session.heard if isinstance(said, Advertise)}
    dealt: dict[ClientId, Shares] = {}
    for name, roll in told.items():
        entries = [
            Entry(place, each, adverts[each].channel, adverts[each].mask, adverts[each].signature)
            for place, each in enumerate(roll, start=1)
        ]
        answer = session.ask(name, Roll(len(entries), tuple(entries)))
        if isinstance(answer, Shares):
            dealt[name] = answer
    for name in dealt:
        session.ask(name, Delivery(tuple(_parcels(name, told, dealt))))
    signed: dict[ClientId, bytes] = {}
    lists = {name: [each for each in roll if each in survivors] for name, roll in told.items()}
    for name, roll in told.items():
        answer = session.ask(name, Survivors(tuple(roll.index(each) + 1 for each in lists[name])))
        if isinstance(answer, Consistent):
            signed[name] = answer.signature
    for name, roll in told.items():
        same = [each for each in lists[name] if each in signed and lists[each] == lists[name]]
        agreeing = {roll.index(each) + 1: signed[each] for each in same}
        session.ask(name, witnesses(agreeing))
    return openable(session)


def _parcels(holder: ClientId, told: Told, dealt: Mapping[ClientId, Shares]) -> Iterator[Parcel]:
    """Return what others have sealed for a holder, by the places of the holder's roll."""
    for place, dealer in enumerate(told[holder], start=1):
        if dealer == holder or dealer not in dealt or holder not in told[dealer]:
            continue
        number = told[dealer].index(holder)
        sealed = [each for each in told[dealer] if each != dealer].index(holder)
        shares = dealt[dealer]
        yield Parcel(
            place,
            shares.sealed[SEALED * sealed :][:SEALED],
            shares.commitments[2 * HASH * number :][: 2 * HASH],
        )


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
