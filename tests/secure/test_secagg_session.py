"""A whole session to the byte: a change of any message is a change of the protocol, and needs another version.

``python tests/secure/test_secagg_session.py`` writes the vector anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.core.aggregator import Continue, Finish, Payload, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key
from fedloom.core.roster import Member
from fedloom.core.wire import WireType
from fedloom.secure.agreement import signing_key
from fedloom.secure.messages import MESSAGES, most_bytes, pack, unpack
from fedloom.secure.roster import LocalIdentity, open_roster, roster
from fedloom.secure.secagg_client import SecAggClient
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.terms import VERSION, Rules, Terms, terms_of

VECTOR = Path(__file__).parents[1] / "vectors" / "secure_sum_session.json"
NAMES = ("clinic", "north", "south", "île")
LOST = "south"
"""Lost after its shares are sent, before its vector: its mask key is rebuilt."""
DIM = 8
ABOUT = (
    "One secure sum of four clients, threshold 3, no colluder assumed; one client is lost after it has shared its "
    "secrets. Entropy of a client: its place, from 1, in each of 32 bytes; its Ed25519 key: 16 more; of the root: 255. "
    "Its vector: words i of the client at place p are (p * 0x9E3779B1 + i * 0x85EBCA6B) mod 2**32. Messages are in the "
    "order in which they are made; the server is the empty name."
)


def ed25519(place: int) -> Any:
    return signing_key(bytes([16 + place]) * 32)


def vector(place: int) -> Any:
    return np.array([(place * 0x9E3779B1 + i * 0x85EBCA6B) % 2**32 for i in range(DIM)], np.uint32)


def terms() -> tuple[Terms, Any]:
    """Return the terms, and the roster that all have opened under the root's key."""
    root = signing_key(bytes([255]) * 32)
    members = [
        Member(client=ClientId(name), organisation=f"of {name}", key=ed25519(place).public)
        for place, name in enumerate(NAMES, 1)
    ]
    listed = open_roster(roster("trial", 3, members).signed(root).stored(), root=root.public)
    about = SumRound(
        invited=4,
        wire=WireType(
            dim=DIM, dtype="uint32", modulus=2**32, weight=True, max_weight=100.0, metrics=2, clipped=None, l2=None,
            step=2.0**-20, most_clients=4, fewest_clients=4,
        ),
        digest="ab" * 32,
        phase=1,
        program="train",
        round=RoundNumber(7),
        retry=2,
        key=Key.from_seed(0),
        order=bytes(range(32)),
        run="run 5",
        roster=listed,
    )  # fmt: skip
    return terms_of(about, Rules(threshold=3, survivors=3, colluders=0), listed), listed


def session() -> dict[str, Any]:
    """Run the session; return all that was said, and what came out."""
    agreed, listed = terms()
    cohort = [ClientId(name) for name in NAMES]
    server = SecAggServer(cohort, agreed, listed, graph_seed=bytes(32))
    sides = {
        client: SecAggClient.begin(
            agreed,
            vector(place),
            entropy=bytes([place]) * 32,
            derived=False,
            roster=listed,
            identity=LocalIdentity(client, ed25519(place)),
        )
        for place, client in enumerate(cohort, 1)
    }
    said: list[dict[str, str]] = []
    asked: dict[ClientId, Payload] = dict.fromkeys(cohort)
    while True:
        for client, request in asked.items():
            if client == LOST and len(sides[client].sent) == 2:
                server.lose(client)
                continue
            answer = sides[client].open() if request is None else sides[client].reply(request)
            said.append({"from": client, "to": "", "is": type(answer).__name__, "hex": pack(answer).hex()})
            server.receive(client, answer)
        outcome = server.advance()
        if not isinstance(outcome, Continue):
            break
        asked = dict(outcome.messages)
        said += [
            {"from": "", "to": client, "is": type(message).__name__, "hex": pack(message).hex()}
            for client, message in asked.items()
        ]
    assert isinstance(outcome, Finish), outcome
    return {
        "about": ABOUT,
        "version": VERSION,
        "roster": listed.digest.hex(),
        "sid": agreed.sid.hex(),
        "messages": said,
        "included": list(outcome.included),
        "sum": outcome.total.tolist(),
    }


@pytest.fixture(scope="module")
def known() -> Any:
    return json.loads(VECTOR.read_text("utf-8"))


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return session()


@pytest.mark.parametrize("field", ["version", "roster", "sid", "included", "sum"])
def test_a_session_is_to_the_byte_what_it_was(field: str, known: Any, made: dict[str, Any]) -> None:
    assert made[field] == known[field]


def test_every_message_is_to_the_byte_what_it_was(known: Any, made: dict[str, Any]) -> None:
    assert [(each["from"], each["to"], each["is"]) for each in made["messages"]] == [
        (each["from"], each["to"], each["is"]) for each in known["messages"]
    ]
    for number, (one, other) in enumerate(zip(made["messages"], known["messages"], strict=True)):
        assert one["hex"] == other["hex"], f"message {number}, {one['is']} from {one['from'] or 'the server'}"


def test_the_known_sum_is_that_of_the_survivors(known: Any) -> None:
    present = [place for place, name in enumerate(NAMES, 1) if name != LOST]
    assert known["included"] == [NAMES[place - 1] for place in present]
    assert known["sum"] == np.sum([vector(place) for place in present], axis=0, dtype=np.uint32).tolist()


def test_the_known_messages_are_all_kinds_and_are_read_back(known: Any) -> None:
    agreed, _ = terms()
    most = most_bytes(agreed.about.wire)
    read = [unpack(bytes.fromhex(each["hex"]), most=most) for each in known["messages"]]
    assert {type(message) for message in read} == set(MESSAGES)
    assert [pack(message).hex() for message in read] == [each["hex"] for each in known["messages"]]


if __name__ == "__main__":
    VECTOR.write_text(json.dumps(session(), indent=1, ensure_ascii=False) + "\n", "utf-8")
