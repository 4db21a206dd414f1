"""A worker process: computes blocks of clients for a run and returns parts of their sum.

It is started by ``engines.processes`` with two open pipes and ends when the run closes the first of them. A third one
ends it where the run is gone, whatever it is at.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from fedloom.core.component import Json
from fedloom.core.data import FederatedDataset
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import NO_SECRET, Keys
from fedloom.core.messages import RoundOrder
from fedloom.engines.blocks import BlockWork, blocks_of
from fedloom.engines.pipes import KeptLog
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.process import steady_arithmetic
from fedloom.engines.shared_rows import read_rows
from fedloom.engines.worker_messages import (
    Part,
    Phase,
    Raised,
    Ready,
    Setup,
    Work,
    part_message,
    read_order,
    send,
)
from fedloom.errors import WorkerError
from fedloom.experiment.lifeline import end_with_starter
from fedloom.experiment.plan import AnyPlan, build_learner, prepare_plan, resolve_experiment, train_plan
from fedloom.experiment.spec import Experiment
from fedloom.runtime.on_the_wire import decode_order
from fedloom.runtime.open_round import OpenRound
from fedloom.runtime.ports import MemoryStates, Slot, decode_stored, encode_stored

PLACEHOLDER = {"group": "fedloom.datasets", "name": "csv", "arguments": {}}
"""Stands for the data in the JSON that a worker gets: its rows are mapped, whatever built them."""


@dataclass(slots=True)
class Worker:
    """A run as one worker knows it."""

    experiment: Experiment
    data: PreparedData
    work: BlockWork
    states: MemoryStates
    log: KeptLog
    plan: AnyPlan | None = None

    @staticmethod
    def of(setup: Setup) -> Worker:
        """Return a worker of a run that begins; its rows lie in a folder."""
        return Worker.over(read_rows(Path(setup.rows), Path(setup.base)), setup)

    @staticmethod
    def over(rows: FederatedDataset, setup: Setup) -> Worker:
        """Return a worker of a run that begins, over its rows."""
        asked = Experiment.from_json(msgspec.json.decode(setup.experiment))
        experiment = resolve_experiment(replace(asked, data=rows), base=Path(setup.base))
        data, states = PreparedData(experiment.data), MemoryStates()  # type: ignore[arg-type]
        work = BlockWork(data=data, states=states, debug=False, strict=setup.strict)
        return Worker(experiment, data, work, states, KeptLog())

    def begin(self, phase: Phase) -> None:
        """Build the plan of a phase, as the run did."""
        prepared: list[Json] = msgspec.json.decode(phase.prepared)
        population = self.data.dataset.population()
        for number in range(len(self.data.transforms), phase.number):
            preparation: Any = self.experiment.prepare[number]
            self.data.add(preparation.transform(msgspec.convert(prepared[number], type=preparation.query.answer)))
        if phase.number < len(self.experiment.prepare):
            plan = prepare_plan(self.experiment, phase.number, self.data.schema, population)
        else:
            learner = build_learner(self.experiment, self.data.schema)
            plan = train_plan(self.experiment, learner, population, phase.splits)  # type: ignore[arg-type]
        if plan.digest != phase.digest:
            raise WorkerError(f"a worker built experiment {plan.digest[:12]}, the run is of {phase.digest[:12]}")
        self.plan = plan

    def carry_out(self, message: Work) -> Part:
        """Compute the clients of a message and return their part of the round."""
        plan = self.plan
        assert plan is not None, "a phase begins before its rounds"
        template = decode_order(message.order, plan, message.program)  # type: ignore[arg-type]
        cohort = [plan.population.id(index) for index in np.frombuffer(message.cohort, np.int64).tolist()]
        mine = cohort[message.start : message.stop]
        orders = _orders(template, mine, message.committed)
        self._take(plan, mine, message.states)
        _, exchange = plan.program_of(template.program)
        keys = Keys(plan.round_key(template.round, template.retry), NO_SECRET)
        part = OpenRound(cohort, template, exchange, plan.sum_round(template, invited=len(cohort)), keys)
        for clients in blocks_of(mine, message.block):
            self.work.fold(plan, part, clients, orders)
        changed = {client: encode_stored(stored) for client, stored in self.states.take_changed()}
        self.states.states.clear()
        return part_message(part.export(), changed, log=self.log.taken())

    def _take(self, plan: AnyPlan, clients: Sequence[ClientId], states: Sequence[bytes]) -> None:
        if not states:
            return
        algorithm, exchange = plan.algorithm, plan.exchange
        like = Slot(
            round=RoundNumber(1),
            state=algorithm.client_init(algorithm.broadcast(algorithm.init(plan.start))),
            memory=exchange.pipeline.start_memory,
        )
        for client, data in zip(clients, states, strict=True):
            self.states.states[client] = decode_stored(data, like)
        self.states.changed.clear()


def answer_all(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer messages until the run closes the pipe."""
    worker: Worker | None = None
    with steady_arithmetic():
        while (message := read_order(orders)) is not None:
            try:
                match message:
                    case Setup():
                        worker = Worker.of(message)
                        answer: Part | Ready | Raised = Ready()
                    case Phase():
                        assert worker is not None, "Setup comes first"
                        worker.begin(message)
                        answer = Ready()
                    case Work():
                        assert worker is not None, "Setup comes first"
                        answer = worker.carry_out(message)
            except Exception as error:
                answer = Raised(text=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
            send(answers, answer)


def _orders(
    template: RoundOrder[Any], clients: Sequence[ClientId], committed: bytes
) -> dict[ClientId, RoundOrder[Any]]:
    rounds = np.frombuffer(committed, np.int64).tolist()
    return {
        client: template if last < 0 else replace(template, committed=RoundNumber(last))
        for client, last in zip(clients, rounds, strict=True)
    }


def serve() -> None:
    """Serve the run that has started this process; its arguments are the numbers of the two pipes and a lifeline."""
    reading, writing, lifeline = (int(number) for number in sys.argv[1:])
    end_with_starter(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then closes the pipe
    os.dup2(2, 1)  # what a client's code prints is no output of the run
    # A run that was interrupted reads no answer: writing one fails, and so does closing what it was buffered in.
    with suppress(BrokenPipeError), os.fdopen(reading, "rb") as read, os.fdopen(writing, "wb") as write:
        answer_all(read, write)
