"""Rounds: the loop of one phase in one process: orders out, blocks of clients through, effects performed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fedloom.core import codec
from fedloom.core.ids import ClientId
from fedloom.core.messages import AggregatorMessage, ClientMessage, Failed, Failure, Refused, RoundOrder
from fedloom.engines.interrupts import uninterrupted
from fedloom.engines.journal import Journal
from fedloom.engines.prepared_data import PreparedData
from fedloom.errors import DataError, PlanError, RunStopped
from fedloom.experiment.plan import AnyPlan
from fedloom.runtime.client import ClientNode, run_block
from fedloom.runtime.coordinator import Coordinator, Stopped
from fedloom.runtime.effects import Append, Closed, Keep, Save, Send
from fedloom.runtime.open_round import OpenRound
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import RunState

OnRound: TypeAlias = Callable[[RoundRecord], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """How rounds are worked through; nothing here changes a bit of the result."""

    workers: int
    debug: bool
    strict: bool


class Lap:
    """Time since it was last asked: what every call returns adds up to the whole. A clock set back gives 0."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the last call, or since the start."""
        last, self._last = self._last, time.monotonic()
        return max(0.0, self._last - last)


class Rounds:
    """The loop: orders out, blocks of clients through, effects performed."""

    def __init__(
        self, settings: RoundSettings, data: PreparedData, journal: Journal, on_round: Sequence[OnRound]
    ) -> None:
        self.settings = settings
        self.data = data
        self.journal = journal
        self.on_round = on_round

    def run(self, plan: AnyPlan, state: RunState[Any], *, block: int) -> RunState[Any]:
        """Run a phase to its stop and return its last state.

        Raises:
            RunStopped: When a round had too few updates too often.
        """
        history = [record for record in self.journal.records if record.program == plan.program]
        coordinator = Coordinator(plan, state, history)
        self.journal.commit(state, ())
        with ThreadPoolExecutor(self.settings.workers, thread_name_prefix="fedloom") as pool:
            clock = Lap()
            while True:
                opened = coordinator.open_round()
                if isinstance(opened, Stopped):
                    break
                self._work(plan, coordinator, opened, block, pool)
                with uninterrupted():
                    closed = self._perform(plan, coordinator, clock)
                for record in closed:
                    for call in self.on_round:
                        call(record)
        if opened.failed:
            self.journal.write()
            raise RunStopped(_why(opened.reason, self.journal.records))
        return coordinator.state

    def _work(
        self,
        plan: AnyPlan,
        coordinator: Coordinator[Any, Any, Any],
        orders: Mapping[ClientId, RoundOrder[Any]],
        block: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        # Blocks are cut from the ordered cohort before anyone is lost: composition is a function of the cohort.
        names = tuple(orders)
        blocks = [names[start : start + block] for start in range(0, len(names), block)]
        workers = min(self.settings.workers, len(blocks))
        if workers <= 1:
            for clients in blocks:
                self._block(plan, coordinator, clients, orders)
            return
        parts = [coordinator.partial() for _ in range(workers)]
        left = threading.Event()
        done = [pool.submit(self._blocks, plan, part, blocks[i::workers], orders, left) for i, part in enumerate(parts)]
        try:
            for future in done:
                future.result()
        except BaseException:
            left.set()  # the pool waits for its threads: each ends with the block that it is in
            raise
        for part in parts:
            coordinator.merge(part)

    def _blocks(
        self,
        plan: AnyPlan,
        part: OpenRound,
        blocks: Sequence[Sequence[ClientId]],
        orders: Mapping[ClientId, RoundOrder[Any]],
        left: threading.Event,
    ) -> None:
        for clients in blocks:
            if left.is_set():
                return
            self._block(plan, part, clients, orders)

    def _block(
        self,
        plan: AnyPlan,
        to: Coordinator[Any, Any, Any] | OpenRound,
        clients: Sequence[ClientId],
        orders: Mapping[ClientId, RoundOrder[Any]],
    ) -> None:
        nodes: list[ClientNode[Any, Any]] = []
        for client in clients:
            try:
                data = self.data.client(client)
            except DataError as error:
                phase = orders[client].program
                to.lose(client, Failure(client=client, phase=phase, kind="refused", detail=str(error)))
                continue
            nodes.append(
                ClientNode(client=client, plan=plan, data=data, states=self.journal.states, debug=self.settings.debug)
            )
        asked = [orders[node.client] for node in nodes]
        if self.settings.strict:
            asked = [codec.decode(codec.encode(order), order) for order in asked]
        messages = run_block(nodes, asked)
        with np.errstate(over="ignore"):  # a sum that overflows is told by the check on the aggregate
            for node, message in zip(nodes, messages, strict=True):
                lost = _lost(plan, orders[node.client], node.client)
                if lost is not None:
                    to.lose(node.client, lost)
                else:
                    to.receive(node.client, _through_bytes(message) if self.settings.strict else message)

    def _perform(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], clock: Lap) -> list[RoundRecord]:
        """Perform the effects of a round, commit them together, and write when a write is due."""
        state: RunState[Any] | None = None
        closed: list[RoundRecord] = []
        while effects := coordinator.advance(clock.seconds()):
            for effect in effects:
                match effect:
                    case Append():
                        self.journal.events.append((plan.phase, effect.round, effect.retry, effect.event))
                    case Save():
                        state = effect.state
                    case Closed():
                        closed.append(effect.record)
                    case Keep() | Send():
                        raise PlanError("local runs plain sums without noise; this pipeline needs more")
        self.journal.commit(state, closed)
        if state is not None and state.pending is None and plan.program == "train" and self.journal.params is not None:
            self.journal.params[state.round] = plan.algorithm.params(state.server)
        if self.journal.due():
            self.journal.write()
        return closed


def _lost(plan: AnyPlan, order: RoundOrder[Any], client: ClientId) -> Failure | None:
    """Return the failure that a simulated world makes of a reply: the client has computed and kept its state."""
    if plan.world is None or order.program != "train":
        return None
    return plan.world.failure(plan.round_key(order.round, order.retry), client)


def _through_bytes(message: ClientMessage) -> ClientMessage:
    """Return a message as it arrives after its way through bytes."""
    likes: list[ClientMessage] = [
        Refused(round=message.round, retry=0, reason=""),
        Failed(round=message.round, retry=0, kind="lost", detail=""),
    ]
    if isinstance(message, AggregatorMessage):
        likes.append(AggregatorMessage(round=message.round, retry=0, payload=message.payload))
    return codec.decode_one_of(codec.encode(message), likes)


def _why(reason: str, records: Sequence[RoundRecord]) -> str:
    """Return why a run stopped, with the failures of its last round."""
    last = records[-1].failures if records else ()
    lines = [f"  {f.client}: {f.kind}: {f.detail}" + (f" ({f.where})" if f.where else "") for f in last[:5]]
    more = [f"  and {len(last) - 5} more"] if len(last) > 5 else []
    return "\n".join([reason, *lines, *more])
