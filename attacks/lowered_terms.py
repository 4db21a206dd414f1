"""The server lowers the threshold, raises the clip, changes the modulus, or says that fewer were invited.

Shipped implementations took threshold, clip and modulus from the server without a look. Here each client writes the
terms down from the experiment that it has checked, all of them are in the session id, and a site's own floors stand
above any experiment: terms below them are refused before a key is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from loot import openable
from scene import NAMES, Federation, Session, vectors_of
from verdict import Attempt, error_of, refused, report

from fedloom.core.keys import Key, Keys
from fedloom.entropy import derived_secret
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.secure_sum import secure_sum
from fedloom.secure.terms import Floors, Terms


def attack() -> Iterator[Attempt]:
    federation = Federation()
    about, rules = federation.about(), federation.rules()
    terms = federation.terms()
    yield refused("a threshold of half", error_of(lambda: federation.terms(rules=replace(rules, threshold=4))))
    yield refused("a sum of one honest vector", error_of(lambda: federation.terms(rules=replace(rules, survivors=2))))

    def wire(**changed: object) -> Terms:
        return federation.terms(replace(about, wire=replace(about.wire, **changed)))  # type: ignore[arg-type]

    for tried, lowered in {
        "a higher threshold": federation.terms(rules=replace(rules, threshold=6)),
        "fewer survivors": federation.terms(rules=replace(rules, survivors=rules.survivors - 1)),
        "no colluders": federation.terms(rules=replace(rules, colluders=0)),
        "fewer invited": federation.terms(replace(about, invited=6)),
        "a clip ten times as large": wire(l2=40960.0),
        "another modulus": wire(dtype="uint64", modulus=2**64),
        "another scale": wire(step=0.5),
        "heavier weights": wire(max_weight=1e6),
        "no weight in the vector": wire(weight=False),
        "another number of metrics": wire(metrics=2),
        "less noise": wire(noise_multiplier=0.01),
        "a shorter vector": wire(dim=about.wire.dim - 1 if about.wire.dim else 0),
        "another experiment": federation.terms(replace(about, digest="6" * 64)),
        "another run": federation.terms(replace(about, run="another run")),
        "another phase": federation.terms(replace(about, phase=1)),
        "an evaluation": federation.terms(replace(about, program="evaluate")),
    }.items():
        clients = {
            name: federation.client(name, terms, vector) for name, vector in vectors_of(federation.names).items()
        }
        server = SecAggServer(federation.names, lowered, federation.roster, graph_seed=bytes(32))
        session = Session(lowered, clients, server)
        session.begin()
        yield refused(
            f"{tried}, at the server only", next(iter(session.refusals), "every key"), opened=openable(session)
        )

    ash = NAMES[0]
    keys = Keys(Key.from_seed(0), derived_secret(Key.from_seed(0)))
    vector = vectors_of([ash])[ash]
    for tried, floors in {
        "fewer invited than the site's floor": Floors(invited=8),
        "fewer survivors than the site's floor": Floors(survivors=6),
        "heavier weights than the site allows": Floors(max_weight=50.0),
        "longer vectors than the site allows": Floors(l2=1000.0),
    }.items():
        site = replace(secure_sum(quorum=0.7, protocol=True), floors=floors)
        begin = partial(site.client, ash, vector, about, keys, federation.identities[ash])
        yield refused(f"{tried}, in everybody's experiment", error_of(begin))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
