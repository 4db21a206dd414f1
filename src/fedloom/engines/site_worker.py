"""The process in which a site trains: it has the rows, and no key of the federation.

It is started by ``engines.site_hand`` with two open pipes, answers messages until the agent closes them, and ends then.
A third one ends it, and all that it has started, where the agent is gone, whatever it is at.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from fedloom.core import codec
from fedloom.core.component import ComponentSpec
from fedloom.core.data import ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.keys import SecretKey
from fedloom.engines.pipes import KeptLog
from fedloom.engines.process import steady_arithmetic
from fedloom.engines.processes import slot_like
from fedloom.engines.secrets import client_secret
from fedloom.engines.site_messages import (
    FromSiteWorker,
    Look,
    Looked,
    Moved,
    SiteRaised,
    SiteSetup,
    Train,
    Trained,
    read_to_worker,
    send,
)
from fedloom.entropy import secret_of
from fedloom.errors import WorkerError
from fedloom.experiment.handshake import SiteFacts, installed_versions
from fedloom.experiment.lifeline import end_with_starter
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.registry import provider
from fedloom.experiment.remote import RunFacts, over_rows, read_facts, site_plan
from fedloom.experiment.site_data import SiteData, site_dataset
from fedloom.experiment.spec import Experiment
from fedloom.pipeline.plain_sum import PlainSum
from fedloom.runtime.client import ClientNode
from fedloom.runtime.exchange import Exchange
from fedloom.runtime.on_the_wire import decode_order
from fedloom.runtime.plan import deployed, digest_of
from fedloom.runtime.ports import MemoryStates, decode_stored, encode_stored

_BEAT_S = 1.0
"""While it works the worker says so that often: no more is told of how far it is."""


@dataclass(slots=True)
class SiteWorker:
    """A run as the worker of one site knows it."""

    experiment: Experiment
    """As it was sent."""
    base: Path
    client: ClientId
    source: ComponentSpec
    columns: tuple[str, ...] | None
    log: KeptLog
    data: SiteData | None = None
    facts: RunFacts | None = None
    plan: AnyPlan | None = None
    rows: ClientDataset | None = None
    """Prepared as the phase wants them."""

    @staticmethod
    def of(setup: SiteSetup) -> SiteWorker:
        """Return the worker of a run that begins."""
        return SiteWorker(
            experiment=Experiment.from_json(msgspec.json.decode(setup.experiment)),
            base=Path(setup.base),
            client=ClientId(setup.client),
            source=msgspec.json.decode(setup.source, type=ComponentSpec),
            columns=setup.columns,
            log=KeptLog(),
        )

    def look(self) -> Looked:
        """Read the rows and say what they are."""
        data = site_dataset(self.experiment, self.source, client=self.client, base=self.base, columns=self.columns)
        facts = SiteFacts(schema=data.schema(), splits=data.splits, versions=self._versions())
        return Looked(facts=facts.canonical)

    def _versions(self) -> dict[str, str]:
        groups = (part for part in _parts(self.experiment.as_json()))
        found = (provider(group, name) for group, name in groups)
        return installed_versions(sorted({each.distribution for each in found if each is not None}))

    def train(self, asked: Train) -> Trained:
        """Carry out an order; what comes of it is the encoded vector."""
        plan = self._phase(asked)
        order = decode_order(asked.order, plan, asked.program)
        states = MemoryStates()
        if asked.state is not None:
            states.states[self.client] = decode_stored(asked.state, slot_like(plan))
        secret: SecretKey = client_secret(plan, self.client)
        if asked.secret is not None and plan.keeps_secrets:
            secret = secret_of(asked.secret)
        assert self.rows is not None, "a phase has rows"
        node: ClientNode[Any, Any] = ClientNode(
            client=self.client, plan=in_the_open(plan), data=self.rows, states=states, secret=secret
        )
        message = node.receive(order)
        changed = dict(states.take_changed())
        about = plan.sum_round(order, invited=0 if order.invited is None else order.invited)
        interactive = plan.program_of(asked.program)[1].pipeline.aggregator.interactive
        return Trained(
            message=codec.encode(message),
            state=encode_stored(changed[self.client]) if self.client in changed else None,
            phase_key=plan.key.path,
            order_digest=digest_of(order) if interactive else b"",  # what a sum of one message has no use for
            wire=replace(about.wire, modulus=None),
            residues=about.wire.modulus is not None,
            invited=about.invited,
            log=self.log.taken(),
        )

    def _phase(self, asked: Train) -> AnyPlan:
        facts = read_facts(asked.facts)
        if self.plan is not None and self.plan.phase == asked.phase and facts == self.facts:
            return self.plan
        if self.data is None or self.facts is None or facts.schema != self.facts.schema:
            self.data = site_dataset(
                self.experiment,
                self.source,
                client=self.client,
                base=self.base,
                columns=self.columns,
                schema=facts.schema,
                population=facts.population,
            )
        planned, transforms = site_plan(over_rows(self.experiment, self.data, base=self.base), facts, asked.phase)
        plan = deployed(planned, run="", roster=None)
        rows = self.data.client(self.client)
        for transform in transforms:
            rows = transform.apply(rows)
        self.plan, self.facts, self.rows = plan, facts, rows
        return plan


def in_the_open(plan: AnyPlan) -> AnyPlan:
    """Return a plan whose sums give the vector as it is encoded: the agent, which has the keys, hides it."""

    def opened(exchange: Exchange) -> Exchange:
        shows = exchange.pipeline.aggregator.shows_messages
        pipeline = replace(exchange.pipeline, aggregator=PlainSum(shows_messages=shows))
        return replace(exchange, pipeline=pipeline)

    evaluation = plan.evaluation
    return replace(
        plan,
        exchange=opened(plan.exchange),
        evaluation=None if evaluation is None else replace(evaluation, exchange=opened(evaluation.exchange)),
    )


def _parts(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield group and name of every named part of an experiment."""
    match tree:
        case {"group": str(group), "name": str(name), "arguments": dict(arguments)}:
            yield group, name
            yield from _parts(arguments)
        case dict():
            for value in tree.values():
                yield from _parts(value)
        case list():
            for value in tree:
                yield from _parts(value)


@contextmanager
def _beating(answers: BinaryIO, lock: threading.Lock) -> Iterator[None]:
    """Say at a fixed rate that work goes on, while it does: the interpreter that hangs says nothing."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_S):
            with lock, suppress(BrokenPipeError):
                send(answers, Moved())

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def answer_all(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer messages until the agent closes the pipe."""
    worker: SiteWorker | None = None
    lock = threading.Lock()
    with steady_arithmetic():
        while (message := read_to_worker(orders)) is not None:
            answer: FromSiteWorker | None = None
            try:
                with _beating(answers, lock):
                    match message:
                        case SiteSetup():
                            worker = SiteWorker.of(message)
                            answer = Moved()
                        case Look() if worker is not None:
                            answer = worker.look()
                        case Train() if worker is not None:
                            answer = worker.train(message)
                        case _:
                            raise WorkerError("a worker was asked before it was told of a run")
            except Exception as error:
                answer = SiteRaised(error=type(error).__name__, text=str(error), trace=traceback.format_exc())
            with lock:
                send(answers, answer)


def _confined() -> None:
    """Give up the network, where the system lets a process do that, and what the site's limits do not leave to it."""
    cpus = os.environ.get("FEDLOOM_WORKER_CPUS", "")
    if cpus and sys.platform == "linux":
        os.sched_setaffinity(0, map(int, cpus.split(",")))  # for all that is started later, too
    most = os.environ.get("FEDLOOM_WORKER_BYTES", "")
    if most:
        import resource  # not on every system

        resource.setrlimit(resource.RLIMIT_AS, (int(most), int(most)))
    if sys.platform == "linux":
        import ctypes

        new_user, new_network = 0x10000000, 0x40000000
        ctypes.CDLL(None, use_errno=True).unshare(new_user | new_network)  # refused in some containers: goes on then


def serve() -> None:
    """Serve the agent that has started this process; its arguments are the numbers of the two pipes and a lifeline."""
    reading, writing, lifeline = (int(number) for number in sys.argv[1:])
    _confined()  # before there is a second thread: a process with two keeps its network
    end_with_starter(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then closes the pipe
    os.dup2(2, 1)  # what a client's code prints is no message
    with suppress(BrokenPipeError), os.fdopen(reading, "rb") as read, os.fdopen(writing, "wb") as write:
        answer_all(read, write)
