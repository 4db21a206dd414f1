"""A model that is made to take the sum apart again (imprinting).

The server broadcasts a network whose first layer sorts rows into bins: each neuron is active for rows above one value
of a projection, so that the difference of two neighbouring neurons' gradients is a single row, whoever had it. (Fowl et
al. 2022, "Robbing the Fed"; Boenisch et al. 2023, "When the Curious Abandon Honesty".) ``secure_sum`` ALONE DOES NOT
STOP THIS: rows are read off the exact sum. Noise that hides single rows does, and so does looking at a model first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from scene import Federation
from verdict import Attempt, report

from fedloom.core.aggregator import Finish
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import SumInfo, WireType
from fedloom.entropy import derived_secret
from fedloom.pipeline import BoundPipeline, Pipeline, chain, clip, fixed_point
from fedloom.privacy.distributed import distributed_shared_gaussian
from fedloom.secure.secure_sum import secure_sum

ROWS, COLUMNS, BINS = 4, 6, 128
RECORD = 1.0
"""Bound on what one row changes in a client's sum of gradients."""
CLOSE = 0.02


def attack() -> Iterator[Attempt]:
    federation = Federation()
    rows = {name: _rows(name) for name in federation.names}
    everything = np.concatenate(list(rows.values()))
    count, dim = len(federation.names), BINS * (COLUMNS + 1)
    wire = WireType(dim=dim, dtype="float64", weight=False, most_clients=count, fewest_clients=count)
    sum_of = secure_sum(protocol=True)

    plain = chain(clip(float(ROWS)), fixed_point(), aggregator=sum_of).bind(wire)
    found = _read_off(_sum(federation, plain, {name: _gradient(held).ravel() for name, held in rows.items()}))
    got = _recovered(found, everything)
    yield Attempt(
        tried=f"secure_sum without noise: gradients of a crafted layer of {BINS} neurons, over {len(everything)} rows "
        f"of {count} clients",
        seen=f"{got} of {len(everything)} rows are read off the sum, up to {CLOSE} of their norm: which client had one "
        "is hidden, and the row is not",
        holds=got < len(everything) // 4,
        claimed=False,
    )

    noise = distributed_shared_gaussian(noise_multiplier=1.0)
    noised = Pipeline(stages=(noise,), aggregator=sum_of).bind(replace(wire, record=RECORD))
    found = _read_off(_sum(federation, noised, {name: _gradient(held).ravel() for name, held in rows.items()}))
    got = _recovered(found, everything)
    yield Attempt(
        tried="the same with distributed_shared_gaussian(noise_multiplier=1): each client adds a share of noise that "
        "hides single rows",
        seen=f"refused by the noise: {got} of {len(everything)} rows are read off",
        holds=got == 0,
    )


def _rows(name: ClientId) -> Vector:
    """Return rows of norm 1."""
    drawn = Key.from_seed(8).child("rows", name).generator().standard_normal((ROWS, COLUMNS))
    rows: Vector = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return rows


def _gradient(rows: Vector) -> Vector:
    """Return the sum over rows of clipped gradients of the crafted layer, weights and biases: ``(BINS, columns + 1)``.

    Neuron i is active for rows whose first column is above the i-th cut, and the layer behind weighs all alike.
    """
    cuts = np.linspace(-1.0, 1.0, BINS, endpoint=False)
    active = (rows[:, :1] > cuts).astype(np.float64)
    inputs = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    each = active[:, :, None] * inputs[:, None, :]
    norms = np.sqrt((each**2).sum(axis=(1, 2), keepdims=True))
    total: Vector = (each * np.minimum(1.0, RECORD / np.maximum(norms, 1e-12))).sum(axis=0)
    return total


def _read_off(total: Vector) -> Vector:
    """Return a row from each bin that has anything in it: the difference of two neurons, over that of their biases."""
    gradients = total.reshape(BINS, COLUMNS + 1)
    steps = gradients - np.concatenate([gradients[1:], np.zeros((1, COLUMNS + 1))])
    used = np.abs(steps[:, -1]) > 1e-3
    rows: Vector = steps[used, :-1] / steps[used, -1:]
    return rows


def _recovered(found: Vector, rows: Vector) -> int:
    """Return how many of the rows are among what was found."""
    distances = np.linalg.norm(found[None] - rows[:, None], axis=2)
    return int((distances.min(axis=1) < CLOSE).sum())


def _sum(federation: Federation, pipeline: BoundPipeline, gradients: Mapping[ClientId, Vector]) -> Vector:
    """Return the decoded sum of a round."""
    vectors = {}
    for name, gradient in gradients.items():
        public = Key.from_seed(9).child(name)
        keys = Keys(public, derived_secret(public.child("secret")))
        encoded, _ = pipeline.encode(
            gradient[None].copy(), pipeline.settings(pipeline.init()), np.empty((1, 0)), [keys]
        )
        vectors[name] = encoded[0]
    about = replace(federation.about(), wire=pipeline.sent)
    outcome = federation.session(federation.terms(about), vectors=vectors).run()
    assert isinstance(outcome, Finish), outcome
    info = SumInfo(clients=len(gradients), expected_clients=len(gradients), round=RoundNumber(1))
    decoded, _ = pipeline.decode(outcome.total, pipeline.init(), info)
    total: Vector = decoded.ravel()
    return total


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
