"""Intersection over rounds: the sum with a client, and the sum without it.

Two rounds with nearly the same clients and nearly the same updates differ by one client's vector. (Bonawitz et al. 2017
leave out what the sum itself tells; so does every masked sum.) ``secure_sum`` ALONE DOES NOT STOP THIS: each of the two
sums is one that it is there to open. What stops it is noise that clients add in shares, or a cohort that is whole or
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from loot import Loot
from scene import Federation
from verdict import Attempt, refused, report

from fedloom.core.aggregator import Finish
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import SumInfo, WireType
from fedloom.entropy import derived_secret
from fedloom.pipeline import BoundPipeline, chain, clip, fixed_point
from fedloom.privacy.distributed import distributed_gaussian
from fedloom.secure.secure_sum import secure_sum

CLIP = 1.0


def attack() -> Iterator[Attempt]:
    federation = Federation()
    names, victim = federation.names, federation.names[-1]
    wire = WireType(dim=64, dtype="float64", weight=False, most_clients=len(names), fewest_clients=len(names))
    sum_of = secure_sum(quorum=0.7, protocol=True)
    updates = {name: _update(name) for name in names}

    plain = chain(clip(CLIP), fixed_point(), aggregator=sum_of).bind(wire)
    found = _difference(federation, plain, updates, victim)
    error = float(np.linalg.norm(found - updates[victim]))
    yield Attempt(
        tried="secure_sum without noise: the sum of a round, less the sum of the next one, which one client misses",
        seen=f"{victim!r} is recovered up to {error:.1e}, of a vector of norm {CLIP}: the masks hide all but the sum, "
        "and two sums say it",
        holds=error > 0.01,
        claimed=False,
    )

    noised = chain(distributed_gaussian(clip=CLIP, noise_multiplier=1.0), fixed_point(), aggregator=sum_of).bind(wire)
    found = _difference(federation, noised, updates, victim)
    error = float(np.linalg.norm(found - updates[victim]))
    yield Attempt(
        tried="the same with distributed_gaussian(noise_multiplier=1): each client adds a share of the noise",
        seen=f"refused by the noise: what is left is wrong by {error:.1f}, of a vector of norm {CLIP}; how much two "
        "such rounds tell is what the ledger counts",
        holds=error > np.sqrt(64) * CLIP,  # the noise of either sum has norm 8 and more, on 64 coordinates
    )

    whole = replace(federation.rules(), survivors=len(names))
    about = federation.about(round=2)
    second = federation.session(federation.terms(about, whole), lost={victim: 2})
    outcome = second.run()
    yield refused("secure_sum(quorum=1): a round that one client misses", outcome, opened=Loot(second).sums())


def _update(name: ClientId) -> Vector:
    update = Key.from_seed(2).child(name).generator().standard_normal(64)
    scaled: Vector = update * (0.999 * CLIP / np.linalg.norm(update))
    return scaled


def _difference(
    federation: Federation, pipeline: BoundPipeline, updates: Mapping[ClientId, Vector], victim: ClientId
) -> Vector:
    """Return the difference of the sums of two rounds, decoded; clients send the same update in both."""
    sums = []
    for number, lost in ((1, {}), (2, {victim: 2})):
        vectors = {}
        for name, update in updates.items():
            public = Key.from_seed(3).child(number, name)
            keys = Keys(public, derived_secret(public.child("secret")))
            encoded, _ = pipeline.encode(
                update[None].copy(), pipeline.settings(pipeline.init()), np.empty((1, 0)), [keys]
            )
            vectors[name] = encoded[0]
        about = replace(federation.about(round=number), wire=pipeline.sent)
        outcome = federation.session(federation.terms(about), vectors=vectors, lost=lost).run()
        assert isinstance(outcome, Finish), outcome
        info = SumInfo(clients=len(outcome.included), expected_clients=len(updates), round=RoundNumber(number))
        decoded, _ = pipeline.decode(outcome.total, pipeline.init(), info)
        sums.append(decoded.ravel())
    difference: Vector = sums[0] - sums[1]
    return difference


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
