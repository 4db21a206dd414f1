"""Where the time of a round goes: the functions of one run, wrapped with a clock that counts nobody's time twice."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from federation import experiment
from workloads import Workload, draw_rows

import fedloom

PARTS = {
    "local work: products and softmax": ["learners.linear:LinearLearner.fit"],
    "local work: gathering rows": [
        "learners.linear_block:_Minibatches.__init__",
        "learners.linear_block:_Minibatches.at",
    ],
    "local work: shuffles": ["core.schedule:Schedule.orders"],
    "client programs": ["runtime.client:_advance", "runtime.client:_answer"],
    "encode": ["runtime.client:_encode"],
    "sum": ["runtime.coordinator:OpenRound.receive"],
    "keys, state, start of programs": ["runtime.client:begin"],
    "cohort and orders": ["runtime.coordinator:Coordinator.open_round"],
    "rows of clients": ["engines.prepared_data:PreparedData.client"],
    "server step and record": ["engines.rounds:Rounds._perform"],
    "checkpoint": ["engines.journal:Journal.write"],
}
REST = "rest"


class Clock:
    """Adds up the time of each part, less the time of the parts that it calls."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        self._stack = [REST]
        self._since = time.perf_counter()

    def switch(self) -> None:
        """Put the time since the last switch down to the part that was running."""
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time put down to ``part``."""

        @functools.wraps(function)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._stack.pop()

        return clocked

    def take(self) -> dict[str, float]:
        """Return the seconds of each part since the last time, and start anew."""
        self.switch()
        taken = dict(self.seconds)
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return taken


def parts_of_a_round(workload: Workload, *, rounds: int) -> dict[str, float]:
    """Return the median seconds that each part takes of a round, the clock's own cost of about 1 % included."""
    rows = draw_rows(workload)
    clock = Clock([*PARTS, REST])
    taken: list[dict[str, float]] = []
    plan = experiment(rows, rounds=rounds + 2)
    for part, names in PARTS.items():
        for name in names:
            replaced(name, functools.partial(clock.wrap, part))
    with tempfile.TemporaryDirectory() as folder:
        fedloom.local().run(plan, output=Path(folder), on_round=[lambda _record: taken.append(clock.take())])
    counted = taken[1:-1]
    return {part: statistics.median(each[part] for each in counted) for part in [*PARTS, REST]}


def replaced(name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Change a function of the library in place, named as ``module:attribute`` or ``module:Class.attribute``.

    Returns:
        A function that puts it back.
    """
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner: Any = import_module(f"fedloom.{module}")
    for step in owners:
        owner = getattr(owner, step)
    before = getattr(owner, attribute)
    setattr(owner, attribute, change(before))
    return functools.partial(setattr, owner, attribute, before)
