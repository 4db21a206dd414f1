"""Teams: who computes the blocks of a round. No team changes a bit of the result."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

from fedloom.core.component import Json
from fedloom.core.ids import ClientId
from fedloom.core.messages import RoundOrder
from fedloom.engines.blocks import BlockWork, blocks_of, even_block
from fedloom.errors import WorkerError
from fedloom.experiment.plan import AnyPlan
from fedloom.runtime.coordinator import Coordinator
from fedloom.runtime.effects import Send
from fedloom.runtime.open_round import OpenRound

Orders = Mapping[ClientId, RoundOrder[Any]]


class Team(Protocol):
    """Workers of an engine. Use it as a context manager: what it has started ends with the block."""

    def begin(self, plan: AnyPlan, prepared: Sequence[Json]) -> None:
        """Take up a phase: its plan, and what the preparations before it found."""
        ...

    def work(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], orders: Orders, *, block: int) -> None:
        """Carry out the orders of a round, ``block`` clients together, and fold the messages into it."""
        ...

    def converse(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], sends: Sequence[Send]) -> None:
        """Take messages of an interactive sum to their clients, and the answers, or the losses, into the round."""
        ...

    def close(self, orders: Orders) -> None:
        """Take note that all of a round has come in: clients forget what they keep of a sum of several messages."""
        ...

    def settle(self, *, again: bool) -> None:
        """Take note that the round is durable; ``again``: as one that is opened again."""
        ...

    def __enter__(self) -> Self:
        """Return the team."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what the team has started."""
        ...


class OneMessage:
    """Of teams whose workers keep no client from one message to the next."""

    def converse(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], sends: Sequence[Send]) -> None:
        """Refuse.

        Raises:
            WorkerError: Always.
        """
        del plan, coordinator
        raise WorkerError(f"{len(sends)} messages of an interactive sum: its rounds need workers that are threads")

    def close(self, orders: Orders) -> None:
        """Do nothing: no client is kept."""

    def settle(self, *, again: bool) -> None:
        """Do nothing."""


class Threads:
    """Threads of this process; with one worker, the thread that asks."""

    def __init__(self, workers: int, work: BlockWork) -> None:
        self._work = work
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fedloom")

    def begin(self, plan: AnyPlan, prepared: Sequence[Json]) -> None:
        """Do nothing: threads see what the engine sees."""

    def work(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], orders: Orders, *, block: int) -> None:
        """Carry out the orders of a round: worker i takes each i-th block and folds it into a part of its own."""
        blocks = blocks_of(tuple(orders), even_block(plan, len(orders), block, self._workers))
        workers = min(self._workers, len(blocks))
        if plan.program_of(coordinator.program)[1].pipeline.aggregator.interactive:
            workers = 1  # messages of an interactive sum do not merge
        if workers <= 1:
            for clients in blocks:
                self._work.fold(plan, coordinator, clients, orders)
            return
        parts = [coordinator.partial() for _ in range(workers)]
        left = threading.Event()
        done = [
            self._pool.submit(self._blocks, plan, part, blocks[i::workers], orders, left)
            for i, part in enumerate(parts)
        ]
        try:
            for future in done:
                future.result()
        except BaseException:
            left.set()  # the pool waits for its threads: each ends with the block that it is in
            raise
        for part in parts:
            coordinator.merge(part)

    def converse(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], sends: Sequence[Send]) -> None:
        """Take messages of an interactive sum to their clients, and the answers, or the losses, into the round."""
        for send in sends:
            self._work.answer(plan, coordinator, send)

    def close(self, orders: Orders) -> None:
        """Let clients forget what they keep of an interactive sum: the round is over."""
        if any(order.invited is not None for order in itertools.islice(orders.values(), 1)):
            self._work.close(orders)

    def settle(self, *, again: bool) -> None:
        """Do nothing."""

    def _blocks(
        self,
        plan: AnyPlan,
        part: OpenRound,
        blocks: Sequence[Sequence[ClientId]],
        orders: Orders,
        left: threading.Event,
    ) -> None:
        for clients in blocks:
            if left.is_set():
                return
            self._work.fold(plan, part, clients, orders)

    def __enter__(self) -> Self:
        """Return the team."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the threads."""
        self._pool.shutdown()
