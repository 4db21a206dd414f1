"""Processes: a team of worker processes that map the rows and return parts of the sum.

A worker is a fresh interpreter (nothing of a script is imported again) with two pipes. It builds the experiment by
name, so what was made in Python cannot travel: such an experiment is for threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import numpy as np

from fedloom.core import codec
from fedloom.core.component import Json, spec_of
from fedloom.core.data import FederatedDataset, Population
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.engines.blocks import even_block
from fedloom.engines.pipes import log_again
from fedloom.engines.shared_rows import is_named, shared_bytes, shared_folder, write_rows
from fedloom.engines.teams import OneMessage, Orders
from fedloom.engines.worker import PLACEHOLDER
from fedloom.engines.worker_messages import (
    FromWorker,
    Part,
    Phase,
    Raised,
    Setup,
    ToWorker,
    Work,
    read_answer,
    round_part,
    send,
)
from fedloom.errors import WorkerError
from fedloom.experiment.lifeline import lifeline
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.spec import Experiment
from fedloom.runtime.coordinator import Coordinator
from fedloom.runtime.ports import MemoryStates, Slot, decode_stored, encode_stored

_PARTS = ("learner", "algorithm", "pipeline", "metrics_pipeline", "cohort", "evaluate_cohort", "stop")
_SERVE = "from fedloom.engines.worker import serve; serve()"
_PATIENCE_S = 5.0
"""A worker that does not end by itself when its pipe is closed is ended after this."""


def unnamed_parts(experiment: Experiment, data: FederatedDataset) -> tuple[str, ...]:
    """Return the parts of an experiment that no other process can build; empty where processes will do."""
    named = {name: spec_of(part) for name in _PARTS if (part := getattr(experiment, name)) is not None}
    named |= {f"prepare.{number}": spec_of(part) for number, part in enumerate(experiment.prepare)}
    missing = [name for name, spec in named.items() if not is_named(spec)]
    in_memory = shared_bytes(data) > 0
    return (*missing, *(() if in_memory or is_named(data.spec) else ("data",)))


class Processes(OneMessage):
    """Worker processes of one run. They are started at the first phase and end with the block."""

    def __init__(
        self,
        workers: int,
        experiment: Experiment,
        data: FederatedDataset,
        states: MemoryStates,
        *,
        base: Path,
        strict: bool,
    ) -> None:
        self._count = workers
        self._experiment = experiment
        self._data = data
        self._states = states
        self._base = base
        self._strict = strict
        self._workers: list[_Process] = []
        self._open = ExitStack()

    def begin(self, plan: AnyPlan, prepared: Sequence[Json]) -> None:
        """Start the workers where they are not, and tell them the phase."""
        if not self._workers:
            self._start()
        splits = () if plan.evaluation is None else plan.evaluation.splits
        message = Phase(
            number=plan.phase,
            digest=plan.digest,
            prepared=msgspec.json.encode(list(prepared)),
            splits=splits,
        )
        self._ask([message] * self._count)

    def work(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], orders: Orders, *, block: int) -> None:
        """Carry out the orders of a round: each worker takes a stretch of whole blocks, so its part is a few nodes."""
        if not orders:
            return
        clients = tuple(orders)
        block = even_block(plan, len(clients), block, self._count)
        template = replace(orders[clients[0]], committed=None)
        order = codec.encode(template)
        population = plan.population
        indices = np.array([population.index(client) for client in clients], np.int64)
        committed = np.array([-1 if (last := orders[c].committed) is None else last for c in clients], np.int64)
        stateful = plan.stateful
        messages = [
            Work(
                program=template.program,
                order=order,
                cohort=indices.tobytes(),
                start=start,
                stop=stop,
                block=block,
                committed=committed[start:stop].tobytes(),
                states=tuple(encode_stored(self._states.load(c)) for c in clients[start:stop]) if stateful else (),
            )
            for start, stop in stretches(population, indices, block, self._count)
        ]
        like = slot_like(plan) if stateful else None
        for answer in self._ask(messages):
            assert isinstance(answer, Part), "work is answered by a part"
            coordinator.absorb(round_part(answer))
            log_again(answer.log)
            for client, data in answer.states.items():
                assert like is not None, "clients keep something only where the plan says so"
                self._states.save(ClientId(client), decode_stored(data, like))

    def _start(self) -> None:
        folder = self._open.enter_context(shared_folder(shared_bytes(self._data)))
        write_rows(self._data, folder)
        tree = {**self._experiment.as_json(), "data": PLACEHOLDER}
        setup = Setup(experiment=msgspec.json.encode(tree), base=str(self._base), rows=str(folder), strict=self._strict)
        for number in range(self._count):
            self._workers.append(self._open.enter_context(_Process(number)))
        self._ask([setup] * self._count)

    def _ask(self, messages: Sequence[ToWorker]) -> list[FromWorker]:
        """Send a message to each worker, then return the answers in their order."""
        asked = self._workers[: len(messages)]
        for worker, message in zip(asked, messages, strict=True):
            worker.send(message)
        return [worker.answer() for worker in asked]

    def __enter__(self) -> Self:
        """Return the team."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers and remove what they mapped."""
        self._open.close()


class _Process:
    """One worker process, its two pipes, and the third by which it ends with this one."""

    def __init__(self, number: int) -> None:
        self.number = number
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._open = ExitStack()
        passed = (theirs_in, theirs_out, *self._open.enter_context(lifeline()))
        command = [sys.executable, "-c", _SERVE, *map(str, passed)]
        # The same search path: a plug-in that this process can import is there for the worker too.
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths}
        try:
            self._process = subprocess.Popen(command, pass_fds=passed, env=environment)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._orders: BinaryIO = os.fdopen(ours_out, "wb")
        self._answers: BinaryIO = os.fdopen(ours_in, "rb")

    def send(self, message: ToWorker) -> None:
        """Send a message.

        Raises:
            WorkerError: When the process has ended.
        """
        try:
            send(self._orders, message)
        except BrokenPipeError:
            raise self._gone() from None

    def answer(self) -> FromWorker:
        """Wait for the answer to the last message.

        Raises:
            WorkerError: When the process has ended, or raised what is no client's failure.
        """
        answer = read_answer(self._answers)
        if answer is None:
            raise self._gone()
        if isinstance(answer, Raised):
            raise WorkerError(f"worker {self.number} raised {answer.text}\n{answer.trace.rstrip()}")
        return answer

    def _gone(self) -> WorkerError:
        code = self._process.wait(_PATIENCE_S)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        why = " (the system ends processes so when memory is short: use fewer workers)" if code == -9 else ""
        return WorkerError(f"worker {self.number} {how}{why}; what was committed is kept: resume the run")

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pipes, so that the process ends by itself; end it where it does not."""
        for pipe in (self._orders, self._answers):
            with suppress(BrokenPipeError):
                pipe.close()
        if error is not None:
            self._process.terminate()  # it may be in the middle of a block that nobody waits for
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._open.close()


def stretches(population: Population, indices: np.ndarray[Any, Any], block: int, workers: int) -> list[tuple[int, int]]:
    """Return where the cohort is cut for the workers: at ends of blocks, by about equal numbers of training rows."""
    starts = range(0, len(indices), block)
    rows = np.array([population.size(index) for index in indices.tolist()], np.float64)
    done = np.cumsum([rows[start : start + block].sum() for start in starts])
    cuts = [0]
    for worker in range(1, workers):
        cut = int(np.searchsorted(done, done[-1] * worker / workers, side="left")) + 1
        cuts.append(min(max(cut * block, cuts[-1]), len(indices)))
    cuts.append(len(indices))
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]


def slot_like(plan: AnyPlan) -> Slot:
    """Return a slot of the types that a client of a plan keeps."""
    algorithm = plan.algorithm
    state = algorithm.client_init(algorithm.broadcast(algorithm.init(plan.start)))
    return Slot(round=RoundNumber(1), state=state, memory=plan.exchange.pipeline.start_memory)
