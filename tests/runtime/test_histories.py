"""Any history of a run, drawn by Hypothesis: losses, doubles, late and foreign messages, partial sums, crashes.

The run is of ``counting``: its server counts how often each client was in the sum and adds up what clients say they had
counted before. Both must fit the records whatever happened (see ``fedloom.testing.counting``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedloom.core.ids import ClientId
from fedloom.core.messages import AggregatorMessage, ClientMessage, Failed, Failure, Refused, RoundOrder
from fedloom.runtime.client import ClientNode
from fedloom.runtime.cohort import everyone, poisson, uniform
from fedloom.runtime.coordinator import Coordinator, Stopped, initial_state
from fedloom.runtime.effects import Closed, Save
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.ports import MemoryStates
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.state import decode_state, encode_state
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import counting, federation, plan_for

CLIENTS = 6
DATA = federation((2,) * CLIENTS)
POPULATION = DATA.population()
COHORTS = {"everyone": everyone(), "uniform": uniform(4), "poisson": poisson(0.5)}
someone = st.integers(0, CLIENTS - 1).map(POPULATION.id)


class Histories(RuleBasedStateMachine):
    """One run. What a call of ``advance`` returns is performed as a unit; crashes fall between those."""

    @initialize(
        cohort=st.sampled_from(sorted(COHORTS)),
        quorum=st.sampled_from([1, 2, 0.5, 1.0]),
        on_short=st.sampled_from(["retry", "skip"]),
        seed=st.integers(0, 1000),
    )
    def begin(self, cohort: str, quorum: float, on_short: Any, seed: int) -> None:
        self.plan = plan_for(
            DATA,
            counting(POPULATION),
            cohort=COHORTS[cohort],
            policy=RoundPolicy(quorum=quorum, on_short=on_short, retries=50),
            stop=max_rounds(8),
            seed=seed,
        )
        self.states = MemoryStates()
        self.records: list[RoundRecord] = []
        self.saved = initial_state(self.plan)
        self.saved_clients: dict[Any, Any] = {}
        self.coordinator = Coordinator(self.plan, self.saved)
        self.orders: dict[ClientId, RoundOrder[Any]] | None = None
        self.sent: dict[ClientId, ClientMessage] = {}
        self.old: list[tuple[ClientId, ClientMessage]] = []

    @precondition(lambda self: self.orders is None)
    @rule(away=st.sets(st.integers(0, CLIENTS - 1), max_size=3))
    def open_a_round(self, away: set[int]) -> None:
        opened = self.coordinator.open_round(np.array(sorted(away), dtype=np.int64) if away else None)
        if not isinstance(opened, Stopped):
            self.orders = dict(opened)
            assert not {POPULATION.id(index) for index in away} & opened.keys(), "who is away is not invited"
            assert list(opened) == sorted(opened), "cohorts are in client order"

    def message(self, client: ClientId) -> ClientMessage:
        """Return a client's message of the open round; it computes once, when first asked."""
        assert self.orders is not None
        if client not in self.sent:
            node = ClientNode(client=client, plan=self.plan, data=DATA.client(client), states=self.states)
            self.sent[client] = node.receive(self.orders[client])
        return self.sent[client]

    @precondition(lambda self: self.orders is not None)
    @rule(client=someone)
    def a_reply_arrives_once_or_again(self, client: ClientId) -> None:
        if client in self.orders:
            self.coordinator.receive(client, self.message(client))

    @precondition(lambda self: self.orders is not None)
    @rule(client=someone)
    def a_client_computes_and_its_reply_is_lost(self, client: ClientId) -> None:
        if client in self.orders:
            self.message(client)
            self.lose(client)

    @precondition(lambda self: self.orders is not None)
    @rule(client=someone)
    def an_order_is_lost(self, client: ClientId) -> None:
        self.lose(client)

    def lose(self, client: ClientId) -> None:
        self.coordinator.lose(client, Failure(client=client, phase="train", kind="lost", detail=""))

    @precondition(lambda self: self.orders is not None)
    @rule(client=someone, kind=st.sampled_from(["refused", "failed"]))
    def a_client_refuses_or_fails(self, client: ClientId, kind: str) -> None:
        order = self.coordinator.state
        number, retry = order.round + 1, order.retry
        if kind == "refused":
            self.coordinator.receive(client, Refused(round=number, retry=retry, reason="no"))
        else:
            self.coordinator.receive(client, Failed(round=number, retry=retry, kind="crashed", detail="no"))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_late_reply_arrives(self, data: st.DataObject) -> None:
        client, message = data.draw(st.sampled_from(self.old))
        state = self.coordinator.state
        if self.orders is not None and (message.round, message.retry) == (state.round + 1, state.retry):
            if client in self.orders:  # after a crash: the same order was given again
                self.coordinator.receive(client, self.message(client))
            return
        if isinstance(message, AggregatorMessage):  # were it counted, it would show
            message = AggregatorMessage(round=message.round, retry=message.retry, payload=1e6 + message.payload)
        self.coordinator.receive(client, message)

    @rule(sender=st.sampled_from(["stranger", "a", "f"]), number=st.integers(0, 9), retry=st.integers(0, 2))
    def a_message_of_a_client_that_was_not_invited_or_of_another_round(
        self, sender: str, number: int, retry: int
    ) -> None:
        state = self.coordinator.state
        invited = self.orders is not None and sender in self.orders
        if invited and (number, retry) == (state.round + 1, state.retry):
            return  # that would be its message
        payload = np.full(2 * CLIENTS + 1, 1e6)
        self.coordinator.receive(ClientId(sender), AggregatorMessage(round=number, retry=retry, payload=payload))  # type: ignore[arg-type]

    @precondition(lambda self: self.orders is not None)
    @rule(clients=st.lists(someone, unique=True), workers=st.sampled_from([1, 2]))
    def workers_fold_some_replies_into_partial_sums(self, clients: list[ClientId], workers: int) -> None:
        fresh = [client for client in clients if client in self.orders and client not in self.sent]
        parts = [self.coordinator.partial() for _ in range(workers)]
        for number, client in enumerate(fresh):
            parts[number % workers].receive(client, self.message(client))
        for part in reversed(parts):
            self.coordinator.merge(part)

    @precondition(lambda self: self.orders is not None)
    @rule(crash=st.sampled_from([None, None, None, 0, 1, 2]), memory=st.sampled_from(["as saved", "as left"]))
    def the_round_is_closed(self, crash: int | None, memory: str) -> None:
        for client in self.orders:
            self.lose(client)  # what has not answered by now never will
        batch = 0
        while crash != batch and (effects := self.coordinator.advance()):
            for effect in effects:
                if isinstance(effect, Save):
                    self.saved, self.saved_clients = effect.state, dict(self.states.states)
                elif isinstance(effect, Closed):
                    self.records.append(effect.record)
            batch += 1
        self.old.extend(self.sent.items())
        self.sent, self.orders = {}, None
        if crash is not None:
            self.crash(memory)

    @rule(memory=st.sampled_from(["as saved", "as left"]))
    def everything_is_started_again(self, memory: str) -> None:
        self.old.extend(self.sent.items())
        self.crash(memory)

    def crash(self, memory: str) -> None:
        if memory == "as saved":  # a simulation: what was under way dies with the clients' memories
            self.states, self.old = MemoryStates(dict(self.saved_clients)), []
        self.sent, self.orders = {}, None
        restored = decode_state(encode_state(self.saved), initial_state(self.plan))
        self.records = self.records[: restored.records]
        self.coordinator = Coordinator(self.plan, restored, self.records)

    @invariant()
    def every_client_is_counted_once_for_each_round_it_was_included_in(self) -> None:
        if not hasattr(self, "plan"):
            return
        closed = [record for record in self.records if record.status == "closed"]
        assert len({record.round for record in closed}) == len(closed), "a round counts once"
        counts = np.zeros(CLIENTS)
        for record in closed:
            assert len(set(record.included)) == len(record.included)
            assert not set(record.included) & {failure.client for failure in record.failures}
            assert len(record.included) + len(record.failures) == record.invited
            for client in record.included:
                counts[POPULATION.index(client)] += 1
        server = self.coordinator.state.server
        np.testing.assert_array_equal(server.counts, counts)
        np.testing.assert_array_equal(server.before, counts * (counts - 1) / 2)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=40, derandomize=True, database=None, deadline=None
)
