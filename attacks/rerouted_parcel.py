"""A sealed parcel brought to another holder, or in another dealer's name.

The server carries the shares that clients seal for each other, and could give one holder several shares of a secret, or
have a client hold one dealer's shares for another's. Each parcel is sealed under a key for one direction between two
clients, with session, step, dealer and holder authenticated, and its content is committed to under the same names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from loot import openable
from msgspec.structs import replace
from scene import NAMES, Federation, retried
from verdict import Attempt, refused, report

from fedloom.secure.messages import Delivery, Parcel


def attack() -> Iterator[Attempt]:
    federation = Federation()
    ash, birch = NAMES[:2]
    session = federation.session()
    deliveries = session.until(2)
    mine, theirs = (cast(Delivery, deliveries[name]).parcels for name in (ash, birch))
    at = {parcel.place: parcel for parcel in theirs}
    for tried, parcels in {
        "a parcel for another holder, of the same dealer": (mine[0], at[3], *mine[2:]),
        "a parcel of another dealer, under its commitments": (replace(mine[1], place=2), *mine[1:]),
        "two dealers' parcels exchanged": (replace(mine[1], place=2), replace(mine[0], place=3), *mine[2:]),
        "one dealer's parcel with another's commitments": (
            replace(mine[0], commitments=mine[1].commitments), *mine[1:],
        ),
        "a client's own parcel, sent back as its own": (replace(at[1], place=1), *mine),
        "a parcel from nobody on the roll": (*mine, Parcel(8, mine[0].sealed, mine[0].commitments)),
        "one parcel twice": (mine[0], mine[0], *mine[1:]),
        "parcels of fewer dealers than must share": mine[:3],
    }.items():  # fmt: skip
        answer = retried(session, federation, ash, Delivery(parcels))
        yield refused(tried, answer, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
