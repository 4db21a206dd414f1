"""Clients leave until the threshold, and below it.

An attacker who can cut lines makes as many clients disappear as it takes: for a wrong sum, or one of few. (A secure sum
that cannot mend any loss is among the mistakes of shipped implementations.) With as many clients as the threshold left
after the vectors have come, and as many vectors as the terms say, the sum is exact; with one fewer nothing is opened.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from loot import openable
from scene import Federation, vectors_of
from verdict import Attempt, refused, report

from fedloom.core.aggregator import Abort, Finish

STEPS = (
    "before its keys",
    "before its shares",
    "before its vector",
    "before its signature",
    "before its opened shares",
)


def attack() -> Iterator[Attempt]:
    federation = Federation()
    rules = federation.rules()
    spare = len(federation.names) - max(rules.threshold, rules.survivors)
    values = vectors_of(federation.names)
    for step, when in enumerate(STEPS):
        lost = dict.fromkeys(federation.names[-spare:], step)
        session = federation.session(lost=lost)
        outcome = session.run()
        included = [name for name in federation.names if name not in lost or step > 2]
        truth = np.sum([values[name] for name in included], axis=0, dtype=np.uint32)
        exact = isinstance(outcome, Finish) and np.array_equal(outcome.total, truth)
        yield Attempt(
            tried=f"{spare} of {len(federation.names)} lost {when}, so that {rules.threshold} remain",
            seen=f"mended: the exact sum of {len(included)} vectors" if exact else f"NO SUM, OR A WRONG ONE: {outcome}",
            holds=exact,
            opened=tuple(set(openable(session)) - {frozenset(included)}),
        )
        lost = dict.fromkeys(federation.names[-spare - 1 :], step)
        session = federation.session(lost=lost)
        outcome = session.run()
        assert isinstance(outcome, Abort | Finish)
        yield refused(f"{spare + 1} lost {when}: one too few remain", outcome, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
