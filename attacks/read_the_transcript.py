"""Every byte of a run, read for what a client would rather keep to itself.

Shipped implementations mask the vector and send weights, counts or losses in the clear beside it. Here a whole run goes
through its bytes (preparation, training, evaluation), and all of them are searched for one client's rows, its numbers
of rows, its loss, its update and its encoded vector: as decimal text, as floats of 32 and 64 bits and integers of 32
and 64 bits in both byte orders. The same search of the same run under plain sums must find them, or it proves nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from verdict import Attempt, report

import fedloom
from fedloom.core import codec
from fedloom.core.aggregator import Aggregator
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.core.wire import Stage, SumInfo, WireType, stateless
from fedloom.data import silos
from fedloom.errors import RunStopped
from fedloom.pipeline import chain, clip, fixed_point, mean, plain_sum
from fedloom.secure.secure_sum import secure_sum

ROWS = 65_537 + 4_096
"""Training rows of the client in question: too many for 16 bits, which anything random holds by chance."""


@dataclass
class Tap:
    """What the client in question has put into its pipeline, and what came out: the one with the largest weight."""

    raw: Vector = field(default_factory=lambda: np.empty(0))
    metrics: int = 0
    encoded: Vector = field(default_factory=lambda: np.empty(0, np.uint32))

    def stage(self, name: str) -> Stage[None]:
        """Return a stage that looks, and changes nothing."""

        def encode(
            wire: WireType, values: Vector, setting: Vector, memory: Vector, keys: Sequence[Keys]
        ) -> tuple[Vector, Vector]:
            del setting, keys
            self.metrics = wire.metrics
            heaviest = int(values[:, -1].astype(np.float64).argmax())
            if not self.raw.size or values[heaviest, -1] >= getattr(self, name)[-1:].max(initial=0):
                setattr(self, name, values[heaviest].copy())
            return values, memory

        def decode(wire: WireType, total: Vector, state: None, info: SumInfo) -> tuple[Vector, None]:
            del wire, info
            return total, state

        return Stage(name=name, plan=lambda wire: wire, encode=encode, decode=decode, init=stateless)


@contextmanager
def wiretap() -> Iterator[list[bytes]]:
    """Keep every message that is turned into bytes."""
    heard: list[bytes] = []
    encode = codec.encode

    def listening(value: object) -> bytes:
        data = encode(value)
        heard.append(data)
        return data

    codec.encode = listening
    try:
        yield heard
    finally:
        codec.encode = encode


def attack() -> Iterator[Attempt]:
    integers = (clip(1.0), fixed_point(most_metric=float(1 << 17)))
    for what, stages, visible in (
        ("sums of floats", (), {"rows counted", "metrics", "encoded vector"}),
        ("sums of integers", integers, {"rows counted", "encoded vector"}),
    ):
        plain, words = _transcript(plain_sum(), stages)
        found = _search(plain, words)
        yield Attempt(
            tried=f"control: the same run under plain_sum, {what}, {sum(map(len, plain))} bytes",
            seen=f"found: {', '.join(found)}. The search can see",
            holds=not set(found) >= visible,
            claimed=False,
        )
    for what, stages in (
        ("a run", integers),
        (
            "a run that fails, because a client's loss does not fit its encoding",
            (clip(1.0), fixed_point(most_metric=9.0)),
        ),
    ):
        masked, words = _transcript(secure_sum(protocol=True), stages)
        found = _search(masked, words)
        yield Attempt(
            tried=f"{what} under secure_sum, {len(masked)} messages of {sum(map(len, masked))} bytes, for "
            f"{sum(map(len, words.values()))} patterns",
            seen=f"FOUND: {', '.join(found)}"
            if found
            else "refused: nothing of the client stands in the clear anywhere",
            holds=not found,
        )


def _transcript(aggregator: Aggregator, inner: tuple[Stage[None], ...]) -> tuple[list[bytes], dict[str, list[bytes]]]:
    """Return all bytes of a run, and what to look for in them."""
    tables: dict[str, tuple[Vector, Vector]] = {}
    for name, size in (("ash", 2 * ROWS), ("birch", 40), ("cedar", 50), ("elm", 60)):
        draw = Key.from_seed(4).child(name).generator()
        features = draw.standard_normal((size, 2)) + 0.5
        tables[name] = (features, (features[:, 0] + draw.standard_normal(size) > 0.5).astype(np.int64))
    tap = Tap()
    stages = (tap.stage("raw"), mean(max_weight=float(1 << 17)), *inner, tap.stage("encoded"))
    experiment = fedloom.Experiment(
        data=silos(tables, test=0.5, seed=1),
        prepare=[fedloom.standardise()],
        learner=fedloom.logistic(),
        algorithm=fedloom.fedavg(Schedule(epochs=1, batch_size=8192, learning_rate=0.1)),
        pipeline=chain(*stages, aggregator=aggregator),
        stop=fedloom.max_rounds(2),  # before the first update everybody has the same loss
        seed=1,
        compare=False,
    )
    with wiretap() as heard, suppress(RunStopped):
        fedloom.local(strict=True).run(experiment)
    rows = tables["ash"][0]
    update, metrics, weight = tap.raw[: -1 - tap.metrics], tap.raw[-1 - tap.metrics : -1], tap.raw[-1]
    return heard, {
        "rows": [each for value in rows[:50].ravel().tolist() for each in _floats(value)],
        "rows counted": [*_integers(ROWS), *_floats(float(weight))],
        "metrics": [each for value in (*metrics, *metrics / weight) for each in _floats(float(value))],
        "update": [each for value in (*update, *update * weight) for each in _floats(float(value))],
        "encoded vector": [each for value in tap.encoded.tolist() for each in _words(value)],
    }


def _search(messages: Sequence[bytes], patterns: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Return what was found in any message."""
    everything = b"|".join(messages)
    return [what for what, forms in patterns.items() if any(form in everything for form in forms)]


def _floats(value: float) -> list[bytes]:
    """Return the forms of a number; of a small whole one, which stands everywhere, none."""
    if value.is_integer() and abs(value) < 1 << 16:
        return []
    return [struct.pack(form, value) for form in ("<d", ">d", "<f", ">f")] + [repr(value).encode(), b"%.7g" % value]


def _integers(value: int) -> list[bytes]:
    return [struct.pack(form, value) for form in ("<I", ">I", "<Q", ">Q")] + [str(value).encode()]


def _words(value: float | int) -> list[bytes]:
    """Return the forms of one coordinate, in Z_m; of less than 17 bits, which stand everywhere by chance, none."""
    if isinstance(value, float):
        return _floats(value)
    return _integers(value) if 1 << 16 <= value <= (1 << 32) - (1 << 16) else []


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
