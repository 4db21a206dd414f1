"""A roster signed by the coordinator.

Whoever may write the roster may fill it with clients of its own, and all other checks then pass. The coordinator signs
one by its own key, changes one that the root has signed, or works by its own and says nothing. A roster counts only
under the key of the offline root, which each site has from its operator; its digest is part of every session id.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from loot import openable
from scene import NAMES, Federation, Session, secret_bytes, vectors_of
from verdict import Attempt, error_of, refused, report

from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.secure.agreement import signing_key
from fedloom.secure.roster import open_roster, roster
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.terms import terms_of


def attack() -> Iterator[Attempt]:
    federation = Federation()
    coordinator = signing_key(secret_bytes("coordinator"))
    minted = [
        Member(client=ClientId(f"site-{number}"), organisation=f"site {number}", key=bytes([number]) * 32)
        for number in range(6)
    ]
    own = roster("trees", 2, [*federation.members[:1], *minted])
    true = federation.roster.stored()
    for tried, document in {
        "a roster signed by the coordinator's key": own.signed(coordinator).stored(),
        "a roster without a signature": own.stored(),
        "the root's roster with one key changed": true.replace(b'"ash"', b'"yew"'),
        "the root's roster with its version raised": true.replace(b'"version": 1', b'"version": 2'),
    }.items():
        assert document != true
        yield refused(tried, error_of(partial(open_roster, document, root=federation.root)))

    # The coordinator works by a roster of its own, in which only one organisation's name differs, and says nothing.
    changed = [
        *federation.members[:-1],
        Member(client=NAMES[6], organisation="coordinator", key=federation.members[6].key),
    ]
    other = roster("trees", 2, changed)
    terms = terms_of(federation.about(), federation.rules(), other)
    vectors = vectors_of(federation.names)
    clients = {name: federation.client(name, federation.terms(), vector) for name, vector in vectors.items()}
    session = Session(terms, clients, SecAggServer(federation.names, terms, other, graph_seed=bytes(32)))
    outcome = session.run()
    yield refused("to run a sum under another roster than the clients'", outcome, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
