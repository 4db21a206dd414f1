"""The machines of a secure sum: the exact sum of those whose vector arrived, or an abort; however clients are lost.

A client's fate is the step at which it is lost, 0 to 4, or 5: it stays. Where every fate of every client is tried, the
machines go on from ``stored()`` at each step, so that what two patterns have in common is run once.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core.aggregator import Abort, Continue, Finish, Payload, SumRound
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, Keys, permutation
from fedloom.core.params import Vector
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret
from fedloom.errors import Error, SumAborted
from fedloom.secure.messages import Advertise, Masked, Roll, length, most_bytes, pack, unpack
from fedloom.secure.roster import SimulatedRoster, simulated_identity
from fedloom.secure.secagg_client import SecAggClient
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.secure_sum import SecureSum, secure_sum
from fedloom.secure.terms import Rules
from fedloom.testing import check_aggregator, sum_round

STEPS = 5
STAYS = STEPS
KEYS = Keys(Key.from_seed(0), derived_secret(Key.from_seed(0)))
Fates = Mapping[ClientId, int]
few = settings(max_examples=6, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A sum of random words, and both of its sides."""

    aggregator: SecureSum
    about: SumRound
    values: Mapping[ClientId, Vector]

    @property
    def cohort(self) -> tuple[ClientId, ...]:
        return tuple(self.values)

    @property
    def rules(self) -> Rules:
        return self.aggregator.terms(self.about).rules

    def server(self, stored: bytes | None = None) -> SecAggServer:
        if stored is not None:
            return cast("SecAggServer", self.aggregator.resume_server(self.cohort, stored, self.about, KEYS)[0])
        return cast("SecAggServer", self.aggregator.server(self.cohort, self.about, KEYS))

    def client(self, client: ClientId, stored: bytes | None = None) -> SecAggClient:
        if stored is not None:
            roster, identity = SimulatedRoster(self.about.key), simulated_identity(self.about.key, client)
            return cast("SecAggClient", self.aggregator.resume(client, stored, roster=roster, identity=identity))
        keys = Keys(KEYS.public.child("client", client), derived_secret(KEYS.public.child("secret", client)))
        return cast("SecAggClient", self.aggregator.client(client, self.values[client], self.about, keys))

    def sum(self, clients: Sequence[ClientId]) -> list[int]:
        """Return what the vectors add up to, in Python's integers."""
        modulus = self.about.wire.modulus
        assert modulus is not None
        rows = [self.values[client].tolist() for client in clients]
        return [sum(column) % modulus for column in zip(*rows, strict=True)]


def session(clients: int, *, dim: int = 2, bits: int = 32, **settings_: Any) -> Session:
    """Return a sum of some clients whose names are not in the order of the cohort."""
    wire = WireType(
        dim=dim, dtype=f"uint{bits}", modulus=1 << bits, most_clients=clients, fewest_clients=clients, weight=False
    )
    draw = Key.from_seed(clients).child("words", bits).generator()
    words = draw.integers(0, 1 << bits, (clients, dim), dtype=f"uint{bits}", endpoint=False)
    names = [ClientId(f"client-{(7 * place) % clients if clients % 7 else place:03}") for place in range(clients)]
    return Session(
        aggregator=secure_sum(protocol=True, **settings_),
        about=sum_round(clients, wire),
        values=dict(zip(names, words, strict=True)),
    )


def law(of: Session, answered: Sequence[Sequence[ClientId]]) -> tuple[ClientId, ...] | None:
    """Return who must be in the sum if these answered at each step; None: the round must be aborted."""
    rules = of.rules
    least = max(rules.threshold, rules.survivors)
    if any(len(who) < (least if step <= 2 else rules.threshold) for step, who in enumerate(answered)):
        return None
    return tuple(client for client in of.cohort if client in answered[2])


def check(of: Session, answered: Sequence[Sequence[ClientId]], outcome: Finish | Abort) -> None:
    included = law(of, answered)
    if included is None:
        assert isinstance(outcome, Abort), f"{answered}: a value came out of too few"
        assert outcome.reason.startswith("secure_sum: "), outcome.reason
        assert "Nothing was opened" in outcome.reason
        return
    assert isinstance(outcome, Finish), f"{answered}: {outcome}"
    assert outcome.included == included
    assert outcome.total.dtype == of.about.wire.dtype
    assert outcome.total.tolist() == of.sum(included)


# ---- Every pattern ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Where a session ends: who answered at each step, what came out, and of how many patterns it is the end."""

    answered: tuple[tuple[ClientId, ...], ...]
    outcome: Finish | Abort
    patterns: int


def endings(of: Session) -> Iterator[Ending]:
    """Run a session through every pattern of lost clients."""
    sides = {client: of.client(client).stored() for client in of.cohort}
    yield from _endings(of, of.server().stored(), sides, dict.fromkeys(of.cohort), ())


def _endings(
    of: Session,
    stored: bytes,
    sides: Mapping[ClientId, bytes],
    asked: Mapping[ClientId, Payload],
    answered: tuple[tuple[ClientId, ...], ...],
) -> Iterator[Ending]:
    answers: dict[ClientId, Payload] = {}
    after: dict[ClientId, bytes] = {}
    for client, request in asked.items():
        side = of.client(client, sides[client])
        answers[client] = side.open() if request is None else side.reply(request)
        after[client] = side.stored()
    for here in itertools.product((False, True), repeat=len(asked)):
        server = of.server(stored)
        there = tuple(client for client, comes in zip(asked, here, strict=True) if comes)
        for client in asked:
            if client in there:
                server.receive(client, answers[client])
            else:
                server.lose(client)
        outcome = server.advance()
        now = (*answered, there)
        if isinstance(outcome, Continue):
            requests = dict(outcome.messages)
            assert set(requests) == set(there), "who has answered is asked again, and nobody else"
            yield from _endings(of, server.stored(), after, requests, now)
        else:
            yield Ending(answered=now, outcome=outcome, patterns=(STEPS - len(answered)) ** len(there))


def check_every_pattern(of: Session) -> None:
    patterns = finished = 0
    for ending in endings(of):
        check(of, ending.answered, ending.outcome)
        patterns += ending.patterns
        finished += isinstance(ending.outcome, Finish)
    assert patterns == (STEPS + 1) ** len(of.cohort), "not every pattern was met once"
    assert finished, "no pattern gave a sum"


LEAST: dict[str, Any] = {"quorum": 0.1, "min_survivors": 2}
"""So that nothing but the threshold decides."""


@pytest.mark.parametrize(("clients", "bits"), [(3, 32), (3, 64), (4, 32), (4, 64), (5, 32)])
def test_every_way_to_lose_clients_gives_the_exact_sum_or_an_abort(clients: int, bits: int) -> None:
    of = session(clients, bits=bits, **LEAST)
    assert max(of.rules.survivors, of.rules.threshold) == of.rules.threshold == 2 * clients // 3 + 1
    check_every_pattern(of)


@pytest.mark.slow
def test_every_way_to_lose_six_clients() -> None:
    of = session(6, dim=1, **LEAST)
    assert max(of.rules.survivors, of.rules.threshold) == of.rules.threshold == 5
    check_every_pattern(of)


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "threshold"), [(4, 3), (5, 3), (6, 4)])
def test_every_way_to_lose_clients_at_the_lowest_threshold_without_colluders(clients: int, threshold: int) -> None:
    """``2t > n``: more patterns give a sum."""
    check_every_pattern(session(clients, dim=1, threshold=threshold, colluders=0, **LEAST))


@pytest.mark.parametrize("clients", [3, 4, 5])
def test_every_way_to_lose_clients_with_the_quorum_that_is_the_default(clients: int) -> None:
    check_every_pattern(session(clients, dim=1))


@pytest.mark.slow
def test_every_way_to_lose_six_clients_with_the_quorum_that_is_the_default() -> None:
    check_every_pattern(session(6, dim=1))


# ---- One pattern after the other, from beginning to end --------------------------------------------------------------


@dataclass(slots=True)
class Played:
    """What happened in one session that was run through without a stop."""

    outcome: Finish | Abort
    answered: list[list[ClientId]]
    said: list[list[tuple[ClientId, bytes]]]
    """What the server sent, by step."""
    refusals: list[str]


def play(of: Session, fates: Fates, *, shuffle: Key | None = None) -> Played:
    """Run a session; the order of what arrives, losses among it, is that of the cohort or drawn."""
    server, sides = of.server(), {client: of.client(client) for client in of.cohort}
    asked: dict[ClientId, Payload] = dict.fromkeys(of.cohort)
    played = Played(Abort("nothing happened"), [], [], [])
    for step in range(STEPS):
        names = list(asked)
        order = names if shuffle is None else [names[i] for i in permutation(shuffle.child(step), len(names)).tolist()]
        there: list[ClientId] = []
        for client in order:
            if fates[client] <= step:
                server.lose(client)
                continue
            try:
                message = sides[client].open() if asked[client] is None else sides[client].reply(asked[client])
            except SumAborted as refusal:
                played.refusals.append(str(refusal))
                server.lose(client)
                continue
            there.append(client)
            server.receive(client, unpack(pack(message), most=most_bytes(of.about.wire)))
        played.answered.append([client for client in names if client in there])
        outcome = server.advance()
        if not isinstance(outcome, Continue):
            played.outcome = outcome
            return played
        played.said.append([(client, pack(message)) for client, message in outcome.messages])
        asked = {client: unpack(data, most=1 << 20) for client, data in played.said[-1]}
    raise AssertionError("the session goes on after its last step")


def check_fates(of: Session, fates: Fates, **how: Any) -> Played:
    played = play(of, fates, **how)
    assert not played.refusals, "a client refused what an honest server sent"
    check(of, played.answered, played.outcome)
    return played


def drawn_fates(of: Session, seed: int, lost: float) -> Fates:
    draw = np.random.default_rng(seed)
    return {client: int(draw.integers(STEPS)) if draw.random() < lost else STAYS for client in of.cohort}


def test_all_fates_of_three_clients_from_beginning_to_end() -> None:
    of = session(3)
    for drawn in itertools.product(range(STEPS + 1), repeat=3):
        check_fates(of, dict(zip(of.cohort, drawn, strict=True)))


@pytest.mark.slow
def test_all_fates_of_four_clients_from_beginning_to_end() -> None:
    of = session(4, **LEAST)
    for drawn in itertools.product(range(STEPS + 1), repeat=4):
        check_fates(of, dict(zip(of.cohort, drawn, strict=True)))


def test_one_client_lost_at_any_step_is_in_the_sum_from_its_vector_on() -> None:
    of = session(4, **LEAST)
    for lost, step in itertools.product(of.cohort, range(STEPS)):
        played = check_fates(of, {client: step if client == lost else STAYS for client in of.cohort})
        assert isinstance(played.outcome, Finish)
        assert (lost in played.outcome.included) == (step > 2)


@few
@given(st.integers(3, 24), st.sampled_from([32, 64]), st.integers(0, 2**32), st.floats(0, 0.4))
def test_random_losses_give_the_exact_sum_or_an_abort(clients: int, bits: int, seed: int, lost: float) -> None:
    of = session(clients, dim=5, bits=bits, **LEAST)
    check_fates(of, drawn_fates(of, seed, lost), shuffle=Key.from_seed(seed))


@pytest.mark.slow
@many
@given(st.integers(3, 60), st.sampled_from([32, 64]), st.integers(0, 2**32), st.floats(0, 0.5))
def test_many_random_losses_give_the_exact_sum_or_an_abort(clients: int, bits: int, seed: int, lost: float) -> None:
    of = session(clients, dim=5, bits=bits, **LEAST)
    check_fates(of, drawn_fates(of, seed, lost), shuffle=Key.from_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "lost"), [(128, 0.15), (200, 0.3)])
def test_random_losses_of_large_cohorts_on_the_complete_graph(clients: int, lost: float) -> None:
    of = session(clients, dim=300, bits=64, graph="complete", **LEAST)
    check_fates(of, drawn_fates(of, clients, lost))


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("clients", [7, 9])
def test_exactly_the_threshold_is_enough_and_one_less_is_not(clients: int, step: int) -> None:
    of = session(clients, **LEAST)
    spare = clients - of.rules.threshold
    for lost, kind in ((spare, Finish), (spare + 1, Abort)):
        fates = {client: step if place < lost else STAYS for place, client in enumerate(of.cohort)}
        assert isinstance(check_fates(of, fates).outcome, kind)


# ---- The regular graph --------------------------------------------------------------------------------------------


REGULAR: dict[str, Any] = {"graph": "regular", "corrupt": 0.02, "dropout": 0.08}


def check_regular(of: Session, fates: Fates, *, within: bool) -> None:
    """The exact sum over those whose vector arrived, or an abort; within the planned losses never an abort."""
    played = play(of, fates)
    arrived = tuple(client for client in of.cohort if fates[client] > 2)
    if isinstance(played.outcome, Finish):
        assert len(arrived) >= of.rules.survivors
        assert played.outcome.total.tolist() == of.sum(played.outcome.included)
        assert played.outcome.included == arrived
    if within:
        assert not played.refusals
        assert isinstance(played.outcome, Finish), played.outcome


def test_on_a_regular_graph_the_planned_losses_leave_the_exact_sum() -> None:
    of = session(60, dim=3, **REGULAR)
    assert 0 < of.rules.neighbours < 40
    most = 60 - of.rules.survivors
    assert most >= 4
    fates = {client: place % STEPS if place < most else STAYS for place, client in enumerate(of.cohort)}
    check_regular(of, fates, within=True)


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "bits"), [(60, 64), (97, 32), (130, 64), (200, 32)])
def test_random_losses_on_regular_graphs(clients: int, bits: int) -> None:
    of = session(clients, dim=4, bits=bits, **REGULAR)
    most = clients - of.rules.survivors
    for seed in range(2):
        order = permutation(Key.from_seed(seed).child("lost"), clients).tolist()
        for lost, within in ((most, True), (most + 1, False), (clients // 3, False)):
            gone = set(order[:lost])
            draw = np.random.default_rng(seed)
            check_regular(
                of,
                {c: int(draw.integers(STEPS)) if p in gone else STAYS for p, c in enumerate(of.cohort)},
                within=within,
            )


def test_on_a_regular_graph_one_vector_too_few_is_an_abort() -> None:
    of = session(60, dim=3, **REGULAR)
    most = 60 - of.rules.survivors
    fates = {client: 2 if place <= most else STAYS for place, client in enumerate(of.cohort)}
    assert isinstance(play(of, fates).outcome, Abort)


# ---- Order, repeats, strangers -----------------------------------------------------------------------------------


def test_any_order_of_arrival_gives_the_same_bytes_at_every_step() -> None:
    of = session(6, bits=64, **LEAST)
    fates = dict(zip(of.cohort, (5, 5, 2, 5, 5, 5), strict=True))
    plain = play(of, fates)
    assert isinstance(plain.outcome, Finish)
    for seed in range(12):
        other = play(of, fates, shuffle=Key.from_seed(seed))
        assert isinstance(other.outcome, Finish)
        assert other.said == plain.said
        assert other.outcome.total.tobytes() == plain.outcome.total.tobytes()
        assert other.outcome.included == plain.outcome.included


@pytest.mark.parametrize("protocol", [True, False])
def test_the_aggregator_passes_its_battery(protocol: bool) -> None:
    for modulus in (2**32, 2**64):
        check_aggregator(
            lambda: secure_sum(threshold=3, colluders=0, quorum=0.1, protocol=protocol),
            clients=4,
            least=3,
            modulus=modulus,
        )


@pytest.mark.parametrize("step", range(STEPS))
def test_what_comes_after_a_client_was_lost_is_refused_and_changes_nothing(step: int) -> None:
    of = session(4, **LEAST)
    server, sides = of.server(), {client: of.client(client) for client in of.cohort}
    late, asked = of.cohort[0], dict.fromkeys(of.cohort)
    for now in range(STEPS):
        for client, request in asked.items():
            message = sides[client].open() if request is None else sides[client].reply(request)
            if client == late and now == step:
                server.lose(client)
                before = server.stored()
                with pytest.raises(Error, match="has sent, was lost or was left out"):
                    server.receive(client, message)
                assert server.stored() == before
                continue
            server.receive(client, message)
        outcome = server.advance()
        if now == step and isinstance(outcome, Continue):
            before = server.stored()
            with pytest.raises(Error):
                server.receive(late, message)
            assert server.stored() == before
        if not isinstance(outcome, Continue):
            break
        asked = dict(outcome.messages)
    assert isinstance(outcome, Finish)
    arrived = [client for client in of.cohort if client != late or step > 2]
    assert outcome.total.tolist() == of.sum(arrived)


def test_a_repeated_request_gets_the_same_bytes_whatever_came_after() -> None:
    of = session(3)
    server, sides = of.server(), {client: of.client(client) for client in of.cohort}
    asked: dict[ClientId, Payload] = dict.fromkeys(of.cohort)
    past: list[tuple[ClientId, Payload, bytes]] = []
    while True:
        for client, request in asked.items():
            message = sides[client].open() if request is None else sides[client].reply(request)
            past.append((client, request, pack(message)))
            server.receive(client, message)
        for client, request, sent in past:
            again = sides[client].open() if request is None else sides[client].reply(request)
            assert pack(again) == sent
            taken_up = of.client(client, sides[client].stored())
            assert pack(taken_up.open() if request is None else taken_up.reply(request)) == sent
        outcome = server.advance()
        if not isinstance(outcome, Continue):
            break
        asked = dict(outcome.messages)
    assert isinstance(outcome, Finish)
    assert len(past) == 3 * STEPS
    assert all(len(side.sent) == STEPS for side in sides.values())


def test_a_client_that_refuses_has_ended_and_answers_nothing_more() -> None:
    """A right message after a wrong one is a second question."""
    of = session(3)
    server, sides = of.server(), {client: of.client(client) for client in of.cohort}
    for client, side in sides.items():
        server.receive(client, side.open())
    outcome = server.advance()
    assert isinstance(outcome, Continue)
    client, roll = outcome.messages[0]
    assert isinstance(roll, Roll)
    side = sides[client]
    with pytest.raises(SumAborted, match="missing or doubled"):
        side.reply(msgspec.structs.replace(roll, entries=roll.entries[1:]))
    kept = side.stored()
    with pytest.raises(SumAborted, match="missing or doubled"):
        side.reply(roll)
    assert side.stored() == kept
    with pytest.raises(SumAborted, match="missing or doubled"):
        of.client(client, kept).reply(roll)
    before = msgspec.msgpack.decode(of.client(client).stored())
    assert len(before["root"]) == 32
    assert before["value"] == of.values[client].tobytes()
    for secret in (before["root"], before["value"]):
        assert secret not in kept, "secrets are deleted at the end"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros(3, np.uint32), r"\(3,\)"),
        (np.zeros(2, np.uint64), "uint64"),
        (np.zeros((1, 2), np.uint32), r"\(1, 2\)"),
    ],
)
def test_a_vector_that_is_not_of_the_terms_is_not_masked(value: Vector, says: str) -> None:
    of = session(3)
    of = replace(of, values=dict.fromkeys(of.cohort, value))
    with pytest.raises(SumAborted, match=says):
        of.client(of.cohort[0])


@pytest.mark.parametrize("size", [0, 1, 100, 255, 256, 65_535, 65_536])
def test_the_length_of_a_message_is_that_of_its_bytes(size: int) -> None:
    assert length(Masked(bytes(size))) == len(pack(Masked(bytes(size))))
    assert length(Advertise(bytes(size), b"", b"")) == len(pack(Advertise(bytes(size), b"", b"")))


# ---- Damaged messages --------------------------------------------------------------------------------------------


def damaged(message: Payload, draw: random.Random) -> Payload:
    """Return a message with one field, at any depth, changed to another value of its type."""

    def places(value: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
        yield path
        if isinstance(value, list):
            for number, each in enumerate(value):
                yield from places(each, (*path, number))

    def change(value: Any, path: tuple[int, ...]) -> Any:
        if path:
            return [change(each, path[1:]) if at == path[0] else each for at, each in enumerate(value)]
        match value:
            case int():
                return draw.choice([value + 1, value - 1, 0, -1, 2**31, 2**63 - 1])
            case bytes():
                flipped = bytearray(value)
                if flipped:
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
                return draw.choice([b"", value[:-1], value + b"0", bytes(len(value)), bytes(flipped), bytes(flipped)])
            case str():
                return draw.choice(["", "nobody", value + "x", "client-000"])
            case list():
                return draw.choice([[], value[1:], value[:-1], value + value[:1], value[::-1]])
        raise AssertionError(f"{type(value).__name__} in a message")

    fields = msgspec.msgpack.decode(pack(message))
    changed = change(fields, draw.choice(list(places(fields))[1:]))
    return unpack(msgspec.msgpack.encode(changed), most=1 << 20)


def damage(of: Session, *, by: str, step: int, seed: int) -> Finish | Abort:
    """Run a session in which one message is damaged; who refuses something sends nothing more. Errors are typed."""
    draw = random.Random(seed)
    victim = draw.choice(of.cohort)
    server, sides = of.server(), {client: of.client(client) for client in of.cohort}
    asked: dict[ClientId, Payload] = dict.fromkeys(of.cohort)
    for now in range(STEPS):
        for client, request in asked.items():
            hit = client == victim and now == step
            try:
                received = damaged(request, draw) if hit and by == "server" else request
                message = sides[client].open() if received is None else sides[client].reply(received)
                server.receive(client, damaged(message, draw) if hit and by == "client" else message)
            except Error:  # CodecError, SumAborted, or what the server does not take
                server.lose(client)
        outcome = server.advance()
        if not isinstance(outcome, Continue):
            return outcome
        asked = dict(outcome.messages)
    raise AssertionError("the session goes on after its last step")


# A damaged vector is another vector, and its sum another sum: nobody can tell. A client that is told a shorter list of
# who has shared leaves out masks: an honest server does not shorten it, and another one spoils its own sum only.
DAMAGE = [("client", 0), ("client", 1), ("client", 3), ("client", 4), ("server", 1), ("server", 3), ("server", 4)]


def check_damage(seeds: range) -> None:
    for seed, (by, step) in itertools.product(seeds, DAMAGE):
        of = session(4 + seed % 2, dim=1, **LEAST)
        outcome = damage(of, by=by, step=step, seed=seed)
        assert isinstance(outcome, Finish), f"one damaged message in {len(of.cohort)} clients: {outcome}"
        assert outcome.total.tolist() == of.sum(outcome.included), f"seed {seed}: step {step}, by the {by}"
        assert len(outcome.included) >= of.rules.threshold


def test_a_damaged_message_costs_its_client_and_never_gives_a_wrong_sum() -> None:
    check_damage(range(5))


@pytest.mark.slow
def test_many_damaged_messages_cost_their_clients_and_never_give_a_wrong_sum() -> None:
    check_damage(range(5, 300))


@pytest.mark.parametrize(("by", "step"), [("client", 2), ("server", 2)])
def test_a_damaged_vector_or_delivery_is_no_other_error_either(by: str, step: int) -> None:
    for seed in range(25):
        assert isinstance(damage(session(4, **LEAST), by=by, step=step, seed=seed), Finish | Abort)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "step"), [*DAMAGE, ("client", 2), ("server", 2)])
def test_on_a_regular_graph_a_damaged_message_is_no_other_error_either(by: str, step: int) -> None:
    of = session(8, graph="regular", corrupt=0, dropout=0, quorum=0.1, min_survivors=2)
    for seed in range(60):
        outcome = damage(of, by=by, step=step, seed=seed)
        if isinstance(outcome, Finish) and step != 2:
            assert outcome.total.tolist() == of.sum(outcome.included)
