"""Masked vectors that look like their clients' vectors.

If masks were short, repeated, or not uniform, what the server receives would tell something of what was sent: all zeros
would look unlike all ones, and a client's vector in one round like its vector in the next. The bytes of masked vectors
are held against the uniform distribution, against what they hide and against the round before, by chi-square tests that
each raise a false alarm once in a million; the same tests of vectors that are not masked must raise one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scene import Federation
from scipy.stats import chi2
from verdict import Attempt, report

from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.secure.messages import Masked

DIM = 1 << 14
FALSE_ALARM = 1e-6


def attack() -> Iterator[Attempt]:
    federation = Federation(5)
    known: dict[str, Vector] = {
        "all zeros": np.zeros(DIM, np.uint32),
        "all ones": np.full(DIM, 2**32 - 1, np.uint32),
        "one small number": np.full(DIM, 7, np.uint32),
        "what fixed_point makes of an update": np.round(
            4096 * Key.from_seed(5).child("update").generator().standard_normal(DIM)
        ).astype(np.int64).astype(np.uint32),
        "a ramp": np.arange(DIM, dtype=np.uint32),
    }  # fmt: skip
    vectors = dict(zip(federation.names, known.values(), strict=True))
    first, second = (_masked(federation, vectors, number) for number in (1, 2))
    update = federation.names[3]
    for name, what in zip(federation.names, known, strict=True):
        yield _judged(f"the masked vector of {what}, against uniform", _uniform(first[name]))
    yield _judged("a masked update, against the update", _dependent(vectors[update], first[update]))
    yield _judged("a client's masked vectors of two rounds with one vector", _dependent(first[update], second[update]))
    yield _judged("the masked vectors of two clients", _dependent(first[update], first[federation.names[0]]))
    seen = [_uniform(vectors[update]), _dependent(vectors[update], vectors[update])]
    yield Attempt(
        tried="control: the same tests on a vector without masks",
        seen=f"told apart, p = {max(seen):.1g}: the tests can see",
        holds=max(seen) > FALSE_ALARM,
        claimed=False,
    )


def _judged(tried: str, p: float) -> Attempt:
    holds = p > FALSE_ALARM
    seen = (
        f"refused: no difference from uniform and independent bytes, p = {p:.2g}"
        if holds
        else f"TOLD APART, p = {p:.1g}"
    )
    return Attempt(tried=tried, seen=seen, holds=holds)


def _masked(federation: Federation, vectors: dict[ClientId, Vector], number: int) -> dict[ClientId, Vector]:
    """Return the masked vectors of a round."""
    session = federation.session(federation.terms(federation.about(round=number, dim=DIM)), vectors=vectors)
    masked = {}
    for name, message in session.until(2).items():
        answer = session.ask(name, message)
        assert isinstance(answer, Masked)
        masked[name] = np.frombuffer(answer.vector, "<u4")
    return masked


def _uniform(vector: Vector) -> float:
    """Return the p-value of the vector's bytes being uniform: 256 classes."""
    counts = np.bincount(np.ascontiguousarray(vector, "<u4").view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))


def _dependent(one: Vector, other: Vector) -> float:
    """Return the p-value of the low 4 bits of coordinates being independent: 16 by 16 classes."""
    pairs = (one & 15) * 16 + (other & 15)
    counts = np.bincount(pairs, minlength=256).reshape(16, 16)
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    return float(chi2.sf(((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum(), 225))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
