"""A client that sends more than its share: weight, length, or numbers that wrap around.

Nobody can look at a masked vector, so that one client with a weight of a million, or a sum that wraps around, spoils
what all the others send. Shipped implementations warned of a weight above its limit, and of an overflow, and went on.
Here an honest client's own encoding refuses, and a plan whose sum could wrap around is refused before anybody trains.
(A client that lies about its own vector is another matter: no check of a masked vector can tell, and none is claimed.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from scene import Federation
from verdict import Attempt, error_of, refused, report

from fedloom.core.aggregator import Finish
from fedloom.core.ids import RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import SumInfo, WireType
from fedloom.entropy import derived_secret
from fedloom.errors import PipelineError
from fedloom.pipeline import BoundPipeline, chain, clip, fixed_point, mean
from fedloom.secure.secure_sum import secure_sum

DIM = 16
KEYS = [Keys(Key.from_seed(0), derived_secret(Key.from_seed(0)))]


def attack() -> Iterator[Attempt]:
    federation = Federation()
    count = len(federation.names)
    wire = WireType(dim=DIM + 1, dtype="float64", weight=True, most_clients=count, fewest_clients=count)
    sum_of = secure_sum(protocol=True)
    weighted = chain(mean(max_weight=100.0), clip(1.0), fixed_point(), aggregator=sum_of).bind(wire)
    ordinary = np.append(np.full(DIM, 0.1), 100.0)
    for tried, coordinate, value in (
        ("a weight of 101, of 100 at most", DIM, 101.0),
        ("a weight of a million", DIM, 1e6),
        ("a NaN in the update", 0, np.nan),
        ("an infinite number in the update", 0, np.inf),
    ):
        row = ordinary.copy()
        row[coordinate] = value
        yield refused(f"{tried}, encoded by an honest client", error_of(partial(_encoded, weighted, row)))

    long = ordinary.copy()
    long[:DIM] = 1e6  # whole weights in place of an update
    yield _clipped(weighted, long)

    plain = replace(wire, dim=DIM, weight=False)
    bits = next(each for each in range(30, 0, -1) if not isinstance(_bound(plain, each), PipelineError))
    yield refused(f"a scale of one bit more than the modulus holds for {count} clients", _bound(plain, bits + 1))
    yield refused("the same scale, with one client more than fit", _bound(_most(plain, bits), bits))
    yield _at_the_bound(federation, chain(clip(1.0), fixed_point(bits), aggregator=sum_of).bind(plain), bits)


def _encoded(pipeline: BoundPipeline, row: Vector) -> Vector:
    with np.errstate(invalid="ignore"):
        vector: Vector = pipeline.encode(row[None].copy(), pipeline.settings(pipeline.init()), np.empty((1, 0)), KEYS)[
            0
        ]
    return vector


def _bound(wire: WireType, bits: int) -> object:
    pipeline = chain(clip(1.0), fixed_point(bits), aggregator=secure_sum(protocol=True))
    return error_of(partial(pipeline.bind, wire))


def _most(wire: WireType, bits: int) -> WireType:
    """Return the wire type of the fewest clients that no longer fit at a scale."""
    count = next(each for each in range(3, 1000) if isinstance(_bound(_of(wire, each), bits), PipelineError))
    return _of(wire, count)


def _of(wire: WireType, count: int) -> WireType:
    return replace(wire, most_clients=count, fewest_clients=count)


def _clipped(pipeline: BoundPipeline, row: Vector) -> Attempt:
    """Encode a vector that is far too long."""
    sent = _encoded(pipeline, row)[0].astype(np.int32).astype(np.float64)
    length, bound = float(np.linalg.norm(sent[:DIM])), pipeline.sent.clipped or pipeline.sent.l2 or 0.0
    return Attempt(
        tried="a vector of norm 4,000,000, encoded by an honest client",
        seen=f"refused at that length: {length:.0f} steps are sent, of {bound:.0f} at most",
        holds=0 < length <= bound,
    )


def _at_the_bound(federation: Federation, pipeline: BoundPipeline, bits: int) -> Attempt:
    """Sum the largest coordinates that clients can have, at the largest scale that is allowed."""
    row = np.zeros(DIM)
    row[0] = 1.0
    vectors = {name: _encoded(pipeline, row)[0] for name in federation.names}
    terms = federation.terms(replace(federation.about(), wire=pipeline.sent))
    outcome = federation.session(terms, vectors=vectors).run()
    assert isinstance(outcome, Finish), outcome
    count = len(vectors)
    info = SumInfo(clients=count, expected_clients=count, round=RoundNumber(1))
    total = float(pipeline.decode(outcome.total, pipeline.init(), info)[0].ravel()[0])
    return Attempt(
        tried=f"the largest coordinate that there is, from all {count} clients, at the largest scale: {bits} bits",
        seen=f"no wrap: {count} times 1 is {total}",
        holds=abs(total - count) < 1e-3,
    )


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
