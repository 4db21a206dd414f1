"""Runs with a canary client and without it: a pipeline's own code, two rounds, thousands of times.

What runs is what runs in a round: ``encode`` at the clients, the sum, ``release`` with its noise, ``decode``, and the
stages' states into a second round. Only the vector is short: what a layer does to one coordinate it does to a million,
and thousands of sums of a few numbers take seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from fedloom.core.ids import RoundNumber
from fedloom.core.keys import Key, Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import SumInfo
from fedloom.errors import Error
from fedloom.pipeline import BoundPipeline
from fedloom.pipeline.modular import centred

Place: TypeAlias = Literal["coordinate", "intercept"]

SUMS = 2
"""Rounds that a canary is in: noise that is used twice shows only where they are subtracted."""
_COORDINATE = 1
_OTHERS = 2
"""Clients of every sum that send the same in every run."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A client whose update lies in one place, ``norm`` times the bound; in round 2 it has the other sign."""

    norm: float
    place: Place

    @property
    def words(self) -> str:
        """The canary as a phrase.

        Example:
            >>> Canary(1_000.0, "intercept").words
            '1,000 C in the intercept'
        """
        size = {0.0: "0", 1.0: "C"}.get(self.norm, f"{self.norm:,g} C")
        return f"{size} in {'the intercept' if self.place == 'intercept' else 'a coordinate'}"


CANARIES = (
    Canary(1_000.0, "intercept"),
    Canary(1_000.0, "coordinate"),
    Canary(1.0, "intercept"),
    Canary(1.0, "coordinate"),
    Canary(0.0, "coordinate"),
)
"""Of a layer that clips. Noise before a clip, and no clip, show with the large ones; a zero update is legal."""
WITHIN = tuple(canary for canary in CANARIES if canary.norm <= 1)
"""Of a layer whose bound is kept elsewhere, by the steps of the clients."""


def noise_path(secret: SecretKey, round_number: int) -> SecretKey:
    """Return where the noise of a round is drawn from, below a run's secret."""
    return secret.child("round", round_number, "noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What is audited: a pipeline bound to a short vector, and what surrounds it in a round.

    Args:
        pipeline: See ``shortened``.
        clip: The bound that its first noise is measured by, in units of the parameters.
        canaries: Who is played.
        expected_clients: Of a round, as the server states it when it decodes.
        secret: All noise hangs below it. Float noise takes a derived one only.
        public: Rounding and all else that is public hangs below it.
        noise_secret: Where the server takes the noise of a round from, given the secret of a run.
        shares: Of a noise that clients add in shares: clients of each sum whose shares nobody subtracts, the one that
            is or is not a canary among them. 0: the server adds it.
    """

    pipeline: BoundPipeline
    clip: float
    canaries: tuple[Canary, ...] = CANARIES
    expected_clients: float = 3.0
    secret: SecretKey
    public: Key
    noise_secret: Callable[[SecretKey, int], SecretKey] = noise_path
    shares: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Where many runs stand, all at the same round; ``states`` and ``memory`` are written over by each round."""

    states: list[Sequence[Any]]
    memory: Vector
    """``(runs, senders, numbers)``."""
    public: Sequence[Key]
    secrets: Sequence[SecretKey]


def played(layer: Layer, canary: Canary | None, releases: int) -> tuple[Vector, int]:
    """Return what an observer sees, one row a run, and how often the canary's update was refused.

    The columns are both rounds, and their difference, of every coordinate of the noised sum and of its decoding.
    """
    world = "nobody" if canary is None else canary.words
    bound = layer.pipeline
    runs = _Runs(
        states=[bound.init()] * releases,
        memory=np.tile(bound.start_memory, (releases, _OTHERS + max(layer.shares, 1), 1)),
        public=[layer.public.child(world, run) for run in range(releases)],
        secrets=[layer.secret.child(world, run) for run in range(releases)],
    )
    seen, refused = [], 0
    for number in range(1, SUMS + 1):
        values = _updates(layer, canary, number)
        totals, lost = _totals(layer, values, runs, number)
        refused += lost
        info = SumInfo(
            clients=round(layer.expected_clients), expected_clients=layer.expected_clients, round=RoundNumber(number)
        )
        rows = []
        for run in range(releases):
            released = bound.release(totals[run], layer.noise_secret(runs.secrets[run], number))
            decoded, runs.states[run] = bound.decode(released, runs.states[run], info)
            rows.append(np.concatenate([_numbers(released), decoded[: parameters_of(bound)]]))
        seen.append(np.array(rows))
    with np.errstate(invalid="ignore"):
        return np.concatenate([*seen, seen[0] - seen[1]], axis=1), refused


def _updates(layer: Layer, canary: Canary | None, number: int) -> Vector:
    """Return what the clients of a round would send: one of the bound's norm, one within it, and last the canary.

    Where noise comes in shares there are as many more within the bound as it takes, and who is no canary sends zero.
    """
    wire, parameters = layer.pipeline.wires[0], parameters_of(layer.pipeline)
    senders = _OTHERS + (layer.shares or canary is not None)
    rows = np.zeros((senders, parameters + wire.tail), wire.dtype)
    rows[:, :parameters] = -layer.clip / 10 / math.sqrt(parameters)
    rows[0, :parameters] = layer.clip / math.sqrt(parameters)
    if senders > _OTHERS:
        rows[-1] = 0
    weights = np.ones(senders)
    if canary is not None:
        place = parameters - 1 if canary.place == "intercept" else _COORDINATE
        rows[-1, place] = layer.clip * canary.norm * (1 if number == 1 else -1)
        weights[-1] = max(1.0, canary.norm)
    if wire.weight:
        most = math.inf if wire.max_weight is None else wire.max_weight
        rows[:, parameters + wire.metrics :] = wire.split_weight(np.minimum(weights, most))
    return rows


def _totals(layer: Layer, values: Vector, runs: _Runs, number: int) -> tuple[Vector, int]:
    """Return the sums of a round, one a run, and how many canaries were refused.

    Two other clients draw the same in every run, so that nothing of theirs hides the canary: who claims to protect one
    client from all others must not count on them. Where the claim counts on the shares of some, these draw afresh.
    """
    bound, memory = layer.pipeline, runs.memory
    others = [Keys(layer.public.child("other", i, number), layer.secret.child("other", i, number)) for i in range(2)]
    totals = np.empty((len(runs.states), bound.sent.dim or 0), bound.sent.dtype)
    refused = 0
    for settings, members in _by_settings(bound, runs.states):
        rest, memory[members, :_OTHERS] = bound.encode(
            values[:_OTHERS].copy(), settings, memory[members[0], :_OTHERS], others
        )
        totals[members] = rest.sum(axis=0, dtype=rest.dtype)
        for place in range(_OTHERS, len(values)):
            if place < len(values) - 1:
                public = layer.public.child("other", place, number)
                keys = [Keys(public, runs.secrets[run].child("other", place, number)) for run in members]
            else:
                keys = [
                    Keys(runs.public[run].child(number), runs.secrets[run].child("client", number)) for run in members
                ]
            repeated = np.repeat(values[place : place + 1], len(members), axis=0)
            sent, memory[members, place], lost = _encoded(bound, repeated, settings, memory[members, place], keys)
            with np.errstate(over="ignore", invalid="ignore"):
                totals[members] += sent
            refused += lost
    return totals, refused


def _by_settings(
    bound: BoundPipeline, states: Sequence[Sequence[Any]]
) -> Iterator[tuple[tuple[Vector, ...], list[int]]]:
    """Yield the public numbers of a round with the runs that have them: in round 1 all have the same."""
    groups: dict[bytes, list[int]] = {}
    known: dict[bytes, tuple[Vector, ...]] = {}
    for run, state in enumerate(states):
        settings = bound.settings(state)
        name = b"|".join(setting.tobytes() for setting in settings)
        known.setdefault(name, settings)
        groups.setdefault(name, []).append(run)
    for name, runs in groups.items():
        yield known[name], runs


def _encoded(
    bound: BoundPipeline, values: Vector, settings: Sequence[Vector], memory: Vector, keys: Sequence[Keys]
) -> tuple[Vector, Vector, int]:
    """Encode one client in many runs at once; a run in which a stage refuses it goes without, as a round would."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            encoded, renewed = bound.encode(values.copy(), settings, memory, keys)
    except Error:
        if len(values) == 1:
            return np.zeros((1, bound.sent.dim or 0), bound.sent.dtype), memory, 1
        rows = [
            _encoded(bound, values[i : i + 1], settings, memory[i : i + 1], keys[i : i + 1]) for i in range(len(values))
        ]
        return (
            np.concatenate([row[0] for row in rows]),
            np.concatenate([row[1] for row in rows]),
            sum(row[2] for row in rows),
        )
    return encoded, renewed, 0


def _numbers(released: Vector) -> Vector:
    """Return a sum as floats, residues as the integers nearest to zero."""
    return (centred(released) if released.dtype.kind == "u" else released).astype(np.float64)


def parameters_of(bound: BoundPipeline) -> int:
    """Return the length of what enters a pipeline, without metrics and weight."""
    wire = bound.wires[0]
    assert wire.dim is not None, "an exchange is made when the schema is agreed"
    return wire.dim - wire.tail
