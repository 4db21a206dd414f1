"""RayWorker: what lives in an actor. A worker process's own code, over rows from the object store.

This module does not import Ray: an actor is this class, which is imported by name on every node.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from fedloom.core.params import Vector
from fedloom.engines.process import steady_arithmetic
from fedloom.engines.ray_memory import memory_now
from fedloom.engines.ray_messages import Report, encoded, read_work
from fedloom.engines.shared_rows import put_together
from fedloom.engines.worker import Worker
from fedloom.engines.worker_messages import FromWorker, Phase, Raised, Ready, Setup


class RayWorker:
    """One worker of one run. Every method answers with the bytes of a ``Report``; none raises."""

    def __init__(self, setup: bytes, head: bytes, arrays: Mapping[str, Vector]) -> None:
        """Build the experiment by name, over arrays that the workers of a node share."""
        self._steady = ExitStack()
        self._failed: Raised | None = None

        def build() -> Ready:
            message = msgspec.msgpack.decode(setup, type=Setup)
            rows = put_together(head, arrays, base=Path(message.base))
            self._worker = Worker.over(rows, message)
            return Ready()

        answer = _attempt(build)
        self._failed = answer if isinstance(answer, Raised) else None

    def begin(self, phase: bytes) -> bytes:
        """Take up a phase."""

        def begin() -> Ready:
            self._worker.begin(msgspec.msgpack.decode(phase, type=Phase))
            # After the plan is built: what it has loaded is limited too.
            self._steady.close()
            self._steady.enter_context(steady_arithmetic())
            return Ready()

        return self._report(begin)

    def work(self, common: bytes, mine: bytes) -> bytes:
        """Compute a stretch of the cohort and return its part of the round."""
        return self._report(lambda: self._worker.carry_out(read_work(common, mine)))

    def _report(self, act: Callable[[], FromWorker]) -> bytes:
        answer = _attempt(act) if self._failed is None else self._failed
        return encoded(Report(answer=answer, memory=memory_now(), process=os.getpid()))


def _attempt(act: Callable[[], FromWorker]) -> FromWorker:
    try:
        with steady_arithmetic():
            return act()
    except Exception as error:
        return Raised(text=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
