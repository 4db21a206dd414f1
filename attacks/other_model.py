"""One client is given another model.

The server sends all clients but one a model for which their gradients are zero, or known: the exact sum then is that
one's update. (Pasquini, Francati, Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model
Inconsistency".) Each client puts the digest of the model that it was given into the session id; whoever was given
another one speaks of another session, and nobody's signatures, keys or parcels are worth anything to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loot import openable
from scene import Federation, Session, vectors_of
from verdict import Attempt, refused, report

from fedloom.core.ids import ClientId
from fedloom.secure.messages import Advertise, Entry, Roll
from fedloom.secure.secagg_server import SecAggServer


def attack() -> Iterator[Attempt]:
    federation = Federation()
    ash, birch, *rest = federation.names
    for tried, misled in (("one client has another model", [ash]), ("all but one have another model", [birch, *rest])):
        session = _session(federation, misled)
        session.run()
        left_out = next((each for each in session.refusals if each.who == "the server"), "every key")
        alone = [chosen for chosen in openable(session) if len(chosen) < federation.rules().survivors]
        yield refused(f"{tried}: an honest server", left_out, opened=alone)
        for asked in (ash, birch):
            session = _session(federation, misled)
            session.begin()
            answer = session.ask(asked, _roll(session))
            yield refused(f"{tried}: a server that hands on all keys, to {asked}", answer, opened=openable(session))


def _session(federation: Federation, misled: Sequence[ClientId]) -> Session:
    """Return a session in which some clients were given another model than the others."""
    terms = federation.terms()
    others = federation.terms(federation.about(model=b"a model made for them"))
    clients = {
        name: federation.client(name, others if name in misled else terms, vector)
        for name, vector in vectors_of(federation.names).items()
    }
    return Session(terms, clients, SecAggServer(federation.names, terms, federation.roster, graph_seed=bytes(32)))


def _roll(session: Session) -> Roll:
    """Return the roll of all that have advertised, whatever they signed."""
    adverts = [(name, said) for name, _, said in session.heard if isinstance(said, Advertise)]
    entries = [
        Entry(place, name, said.channel, said.mask, said.signature) for place, (name, said) in enumerate(adverts, 1)
    ]
    return Roll(len(entries), tuple(entries))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
