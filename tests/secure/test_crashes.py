"""Crashes of one process's machines: a side that is dropped and taken up from what was stored last says the same.

Secrets are fresh, as between organisations: a client that began a second time would say something else.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core.aggregator import Abort, Continue, Finish, InteractiveClient, InteractiveServer, Payload
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, Keys
from fedloom.core.roster import Member
from fedloom.core.wire import WireType
from fedloom.entropy import fresh_secret
from fedloom.errors import Error
from fedloom.secure.agreement import signing_key
from fedloom.secure.roster import LocalIdentity, roster
from fedloom.secure.secure_sum import secure_sum
from fedloom.testing import sum_round

Crash: TypeAlias = Literal["asked", "made", "kept", "sent"]
"""Before a message is made; before it is kept; before it leaves; before it arrives. Of the server: its lists."""
CRASHES: tuple[Crash, ...] = ("asked", "made", "kept", "sent")
Schedule: TypeAlias = Mapping[tuple[str, int], Crash]
SERVER = "server"
SUM = secure_sum(quorum=0.5, protocol=True)
DIM = 3


class Play:
    """A cohort, and crashes by party and step: each happens once."""

    def __init__(self, clients: int, crashes: Schedule) -> None:
        self.cohort = tuple(ClientId(f"site-{number}") for number in range(clients))
        self.keys = {each: signing_key(hashlib.sha256(each.encode()).digest()) for each in self.cohort}
        members = [Member(client=each, organisation=each, key=self.keys[each].public) for each in self.cohort]
        self.roster = roster("trial", 1, members)
        wire = WireType(
            dim=DIM, dtype="uint32", modulus=2**32, most_clients=clients, fewest_clients=clients, weight=False
        )
        self.about = replace(sum_round(clients, wire), roster=self.roster)
        draw = Key.from_seed(clients).generator()
        self.values = {each: draw.integers(0, 2**32, DIM, dtype=np.uint32) for each in self.cohort}
        self.crashes = dict(crashes)
        self.sides: dict[ClientId, InteractiveClient] = {}
        self.kept: dict[str, bytes] = {}
        self.said: dict[tuple[str, int], set[bytes]] = {}
        """Every message that left, by sender and step; of the server, by receiver and step."""

    def run(self) -> Finish | Abort:
        server, asked = self.server(), self.orders()
        phase = 0
        while True:
            for to, message in asked:
                self.ask(server, to, message, phase)
            crash = self.crashes.pop((SERVER, phase), None)
            if crash == "asked":
                server, asked = self.restart()
                continue
            outcome = server.advance()
            if not isinstance(outcome, Continue):
                return outcome
            if crash == "made":
                server, asked = self.restart()
                continue
            self.kept[SERVER] = server.stored()
            phase += 1
            if crash == "kept":
                server, asked = self.restart()
                continue
            asked = outcome.messages
            if crash == "sent":
                for to, message in asked:  # they answer a server that is not there any more
                    self.ask(None, to, message, phase)
                server, asked = self.restart()

    def ask(self, server: InteractiveServer | None, to: ClientId, message: Payload | None, step: int) -> None:
        """Have a client answer, through its crash if there is one, and carry its answer."""
        if message is not None:
            self.say(f"to {to}", step, message)
        crash = self.crashes.pop((to, step), None)
        if crash == "asked":
            self.drop(to)
        answer = self.answer(to, message, keep=crash != "made")
        if crash in ("made", "kept", "sent"):
            if crash == "sent":
                self.say(to, step, answer)
            self.drop(to)
            answer = self.answer(to, message, keep=True)
        self.say(to, step, answer)
        if server is None:
            return
        try:
            server.receive(to, answer)
        except Error as error:
            assert "has sent" in str(error), "only what it has already"

    def answer(self, client: ClientId, message: Payload | None, *, keep: bool) -> Payload:
        side = self.sides.get(client)
        if side is None:
            keys = Keys(Key.from_seed(0).child("client", client), fresh_secret())
            identity = LocalIdentity(client, self.keys[client])
            side = cast("InteractiveClient", SUM.client(client, self.values[client], self.about, keys, identity))
            self.sides[client] = side
        answer = side.open() if message is None else side.reply(message)
        if keep:
            self.kept[client] = side.stored()
        return answer

    def drop(self, client: ClientId) -> None:
        """Forget a client's side, and take it up from what it has kept, if it has kept anything."""
        self.sides.pop(client, None)
        if client in self.kept:
            identity = LocalIdentity(client, self.keys[client])
            revived = SUM.resume(client, self.kept[client], roster=self.roster, identity=identity)
            self.sides[client] = cast("InteractiveClient", revived)

    def server(self) -> InteractiveServer:
        return cast("InteractiveServer", SUM.server(self.cohort, self.about, Keys(Key.from_seed(0), fresh_secret())))

    def restart(self) -> tuple[InteractiveServer, Sequence[tuple[ClientId, Payload | None]]]:
        """Take the server up again, with what it says first: the orders, where it had held nothing."""
        if SERVER not in self.kept:
            return self.server(), self.orders()
        keys = Keys(Key.from_seed(0), fresh_secret())
        server, again = SUM.resume_server(self.cohort, self.kept[SERVER], self.about, keys)
        return server, again.messages

    def orders(self) -> Sequence[tuple[ClientId, None]]:
        return [(each, None) for each in self.cohort]

    def say(self, who: str, step: int, message: Payload) -> None:
        self.said.setdefault((who, step), set()).add(SUM.pack(message))


def check(clients: int, crashes: Schedule) -> None:
    play = Play(clients, crashes)
    outcome = play.run()
    assert not play.crashes, f"crashes that did not happen: {play.crashes}"
    assert isinstance(outcome, Finish), f"{crashes}: {outcome}"
    assert outcome.included == play.cohort
    expected = np.sum([play.values[each] for each in play.cohort], axis=0, dtype=np.uint32)
    assert np.array_equal(outcome.total, expected), f"{crashes}: a wrong sum"
    assert len(play.said) == clients * (5 + 4)
    twice = [place for place, messages in play.said.items() if len(messages) > 1]
    assert not twice, f"{crashes}: two different messages at {twice}"


def places(clients: int) -> list[tuple[tuple[str, int], Crash]]:
    """Return every crash there can be: of each client at its five steps, of the server before each of its lists."""
    names = [f"site-{number}" for number in range(clients)]
    found = [((name, step), crash) for name in names for step in range(5) for crash in CRASHES]
    found += [((SERVER, phase), crash) for phase in range(4) for crash in CRASHES]
    return [*found, ((SERVER, 4), "asked")]


@pytest.mark.parametrize("clients", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_any_one_crash_changes_neither_the_sum_nor_a_message(clients: int) -> None:
    for place, crash in places(clients):
        check(clients, {place: crash})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_two_crashes_change_neither_the_sum_nor_a_message() -> None:
    for (one, first), (other, second) in itertools.combinations(places(3), 2):
        if one != other:
            check(3, {one: first, other: second})


@given(st.lists(st.sampled_from(places(4)), max_size=12, unique_by=lambda each: each[0]))
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_crashes_change_neither_the_sum_nor_a_message(crashes: list[tuple[tuple[str, int], Crash]]) -> None:
    check(4, dict(crashes))
