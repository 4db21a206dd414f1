"""Rounds: the loop of one phase in one process: orders out, blocks of clients through, effects performed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from fedloom.core.keys import SecretKey
from fedloom.engines.interrupts import uninterrupted
from fedloom.engines.journal import Journal
from fedloom.engines.secrets import server_secret
from fedloom.engines.teams import Orders, Team
from fedloom.errors import RunStopped
from fedloom.experiment.plan import AnyPlan
from fedloom.runtime.coordinator import Coordinator, Stopped
from fedloom.runtime.effects import Append, Closed, Effect, Keep, Save, Send
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import RunState

OnRound: TypeAlias = Callable[[RoundRecord], None]


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
        self,
        team: Team,
        journal: Journal,
        on_round: Sequence[OnRound],
        *,
        secret: Callable[[AnyPlan], SecretKey] = server_secret,
    ) -> None:
        self.team = team
        self.journal = journal
        self.on_round = on_round
        self._secret = secret

    def run(self, plan: AnyPlan, state: RunState[Any], *, block: int) -> RunState[Any]:
        """Run a phase to its stop and return its last state.

        Raises:
            RunStopped: When a round had too few updates too often.
        """
        history = [record for record in self.journal.records if record.program == plan.program]
        coordinator = Coordinator(plan, state, history, secret=self._secret(plan))
        self.journal.commit(state, ())
        self.team.begin(plan, state.prepared)
        clock = Lap()
        while True:
            opened = coordinator.open_round()
            if isinstance(opened, Stopped):
                break
            left_over = list(self._do(plan, coordinator.charge()))
            assert not left_over, "a charge is all for the ledger"
            self.team.work(plan, coordinator, opened, block=block)
            effects = self._converse(plan, coordinator, clock, opened)
            with uninterrupted():
                closed = self._perform(plan, coordinator, clock, effects)
            self.team.settle(again=any(record.status == "retried" for record in closed))
            for record in closed:
                for call in self.on_round:
                    call(record)
        if opened.failed:
            self.journal.write()
            raise RunStopped(_why(opened.reason, self.journal.records))
        return coordinator.state

    def _converse(
        self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], clock: Lap, orders: Orders
    ) -> Sequence[Effect]:
        """Carry the messages of an interactive sum to and fro; return the first effects of its end."""
        effects = coordinator.advance(clock.seconds())
        while sends := [effect for effect in effects if isinstance(effect, Send)]:
            # Nothing is held for a resume: the server side is made again from what its clients have sent.
            self.team.converse(plan, coordinator, sends)
            effects = coordinator.advance(clock.seconds())
        self.team.close(orders)
        return effects

    def _perform(
        self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], clock: Lap, effects: Sequence[Effect]
    ) -> list[RoundRecord]:
        """Perform the effects of a round, commit them together, and write when a write is due."""
        state: RunState[Any] | None = None
        closed: list[RoundRecord] = []
        while effects:
            for effect in self._do(plan, effects):
                match effect:
                    case Save():
                        state = effect.state
                    case Closed():
                        closed.append(effect.record)
            effects = coordinator.advance(clock.seconds())
        self.journal.commit(state, closed)
        if state is not None and state.pending is None and plan.program == "train" and self.journal.params is not None:
            self.journal.params[state.round] = plan.algorithm.params(state.server)
        if self.journal.due():
            self.journal.write()
        return closed

    def _do(self, plan: AnyPlan, effects: Sequence[Effect]) -> Iterator[Effect]:
        """Perform what the ledger is told, in its order; yield the rest."""
        for effect in effects:
            match effect:
                case Append():
                    self.journal.charge(plan.phase, effect)
                case Keep():
                    self.journal.keep(plan.phase, effect)
                case _:
                    yield effect


def _why(reason: str, records: Sequence[RoundRecord]) -> str:
    """Return why a run stopped, with the failures of its last round."""
    last = records[-1].failures if records else ()
    lines = [f"  {f.client}: {f.kind}: {f.detail}" + (f" ({f.where})" if f.where else "") for f in last[:5]]
    more = [f"  and {len(last) - 5} more"] if len(last) > 5 else []
    return "\n".join([reason, *lines, *more])
