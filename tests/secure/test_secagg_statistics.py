"""What a server sees of a vector: uniform words that are the same for every input; and secrets that nothing prints.

The false alarm of each statistical test, over fresh entropy, is stated by ``ALARM``; here the entropy comes from seeds,
so that a test gives one answer until the protocol changes.
"""

from __future__ import annotations

import copy
import logging
import operator
import pickle
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from scipy.stats import chi2

import fedloom
from fedloom import local
from fedloom.core.aggregator import Continue, Finish, Payload, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.messages import AggregatorMessage, Failed, Refused
from fedloom.core.params import Vector
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret
from fedloom.errors import Error, SumAborted
from fedloom.pipeline import chain, clip, fixed_point, mean
from fedloom.runtime.open_round import OpenRound
from fedloom.secure.messages import (
    MESSAGES,
    Advertise,
    Consistent,
    Delivery,
    Entry,
    Masked,
    Parcel,
    Roll,
    Shares,
    Survivors,
    Unmask,
    Witnesses,
)
from fedloom.secure.roster import simulated_identity
from fedloom.secure.secagg_client import SecAggClient
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.secure_sum import secure_sum
from fedloom.testing import sum_round

ALARM = 1e-4
SESSIONS = 60
DIM = 512
COHORT = tuple(ClientId(name) for name in ("east", "north", "west"))
ME = COHORT[1]
"""Between the others by name: it adds one of its masks and subtracts the other."""
PUBLIC = Key.from_seed(11)
Words = Callable[[str], Vector]
"""From an input's name to the masked vectors of it, shape (sessions, d)."""


def inputs(bits: int) -> dict[str, Vector]:
    dtype = np.dtype(f"uint{bits}")
    return {
        "zeros": np.zeros(DIM, dtype),
        "largest": np.full(DIM, np.iinfo(dtype).max, dtype),
        "rising": np.arange(DIM).astype(dtype),
    }


def about(bits: int, number: int, retry: int = 0) -> SumRound:
    wire = WireType(dim=DIM, dtype=f"uint{bits}", modulus=1 << bits, most_clients=3, fewest_clients=3, weight=False)
    return replace(sum_round(3, wire), round=RoundNumber(number), retry=retry, key=PUBLIC)


def keys(who: str, number: int, retry: int) -> Keys:
    """Return keys of one round, as a node makes them: the secret of another round or retry is another one."""
    return Keys(PUBLIC, derived_secret(PUBLIC.child("secret", who)).child("train", number, retry))


class Talk:
    """One session of three clients, step by step."""

    def __init__(self, value: Vector, number: int, retry: int = 0) -> None:
        asked = about(8 * value.itemsize, number, retry)
        aggregator = secure_sum(protocol=True)
        self.server = cast("SecAggServer", aggregator.server(COHORT, asked, keys("server", number, retry)))
        self.sides = {
            client: cast(
                "SecAggClient",
                aggregator.client(
                    client, value if client == ME else np.zeros_like(value), asked, keys(client, number, retry)
                ),
            )
            for client in COHORT
        }
        self.asked: dict[ClientId, Payload] = dict.fromkeys(COHORT)
        self.total: Vector | None = None

    def step(self) -> dict[ClientId, Any]:
        """Let all clients answer; return what they said."""
        said = {
            client: self.sides[client].open() if request is None else self.sides[client].reply(request)
            for client, request in self.asked.items()
        }
        for client, message in said.items():
            self.server.receive(client, message)
        outcome = self.server.advance()
        if isinstance(outcome, Continue):
            self.asked = dict(outcome.messages)
        else:
            assert isinstance(outcome, Finish)
            self.total = outcome.total
        return said

    def masked(self) -> Vector:
        """Return the masked vector of the client that has an input."""
        self.step()
        self.step()
        message = self.step()[ME]
        assert isinstance(message, Masked)
        return np.frombuffer(message.vector, self.sides[ME]._state.terms.dtype)


@pytest.fixture(scope="module", params=[32, 64])
def bits(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def words(bits: int) -> Words:
    """Return masked vectors by input; each of a session of its own."""
    given = inputs(bits)
    found = {
        name: np.stack([Talk(value, 1 + number + SESSIONS * place).masked() for number in range(SESSIONS)])
        for place, (name, value) in enumerate(given.items())
    }
    return found.__getitem__


def octets(values: Vector) -> Vector:
    """Return words as bytes, one row for each place in a word, lowest first."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return little.reshape(-1, 1).view(np.uint8).T


def not_uniform(values: Vector) -> float:
    """Return the chance that uniform words are as uneven in some place's bytes, corrected for how many there are."""
    worst = 1.0
    for row in (*octets(values), octets(values).ravel()):
        counts = np.bincount(row, minlength=256)
        expected = row.size / 256
        worst = min(worst, float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255)))
    return min(1.0, worst * (1 + values.dtype.itemsize))


def not_alike(one: Vector, other: Vector) -> float:
    """Return the chance that two samples of one law, of any law, differ as much in the bytes of some place."""
    worst = 1.0
    for left, right in zip(octets(one), octets(other), strict=True):
        table = np.stack([np.bincount(left, minlength=256), np.bincount(right, minlength=256)])
        expected = table.sum(axis=0) * (table.sum(axis=1) / table.sum())[:, None]
        worst = min(worst, float(chi2.sf(((table - expected) ** 2 / np.maximum(expected, 1)).sum(), 255)))
    return min(1.0, worst * one.dtype.itemsize)


def not_uniform_by_coordinate(rows: Vector) -> float:
    """Return the chance that the highest half-bytes of each coordinate over all sessions are as uneven, summed up."""
    top = (rows >> (8 * rows.itemsize - 4)).astype(int)
    expected = len(rows) / 16
    counts = np.stack([(top == value).sum(axis=0) for value in range(16)])
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 15 * rows.shape[1]))


# ---- Masked vectors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zeros", "largest", "rising"])
def test_masked_vectors_are_uniform_words(name: str, words: Words) -> None:
    assert not_uniform(words(name)) > ALARM
    assert not_uniform_by_coordinate(words(name)) > ALARM


@pytest.mark.parametrize(("one", "other"), [("zeros", "largest"), ("zeros", "rising"), ("largest", "rising")])
def test_masked_vectors_do_not_tell_one_input_from_another(one: str, other: str, words: Words) -> None:
    assert not_alike(words(one), words(other)) > ALARM


def test_neighbouring_words_and_neighbouring_sessions_are_not_related(words: Words) -> None:
    rows = words("zeros")
    assert not_uniform(rows[:, 1:] - rows[:, :-1]) > ALARM
    assert not_uniform(rows[1:] - rows[:-1]) > ALARM
    assert not_uniform(rows[:, : DIM // 2] ^ rows[:, DIM // 2 :]) > ALARM


def test_the_tests_see_a_bit_that_is_not_hidden(words: Words, bits: int) -> None:
    """The same figures, of masks that leave one bit of each word, or repeat over sessions: certain to be found."""
    rows = words("zeros")
    open_bit = rows & ~np.array(1 << (bits - 1), rows.dtype)
    assert not_uniform(open_bit) < 1e-12
    assert not_uniform_by_coordinate(open_bit) < 1e-12
    assert not_alike(rows, open_bit) < 1e-12
    assert not_uniform_by_coordinate(np.repeat(rows[:1], SESSIONS, axis=0)) < 1e-12
    assert not_uniform(rows - rows) < 1e-12


def test_no_two_rounds_or_retries_have_a_mask_in_common(bits: int) -> None:
    """With one mask twice the difference would be that of the two inputs: here 1 everywhere."""
    given = inputs(bits)["rising"]
    sessions = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (11, 0)]
    sent = [Talk(given + np.array(place, given.dtype), *name).masked() for place, name in enumerate(sessions)]
    differences = [one - other for place, one in enumerate(sent) for other in sent[:place]]
    assert not_uniform(np.stack(differences)) > ALARM
    assert all(len(np.unique(difference)) > DIM // 2 for difference in differences)


def test_with_the_very_same_entropy_another_session_has_other_masks(bits: int) -> None:
    """A client whose entropy came back (a restored machine) still derives all it sends from the session's terms."""
    aggregator = secure_sum(protocol=True)
    given = inputs(bits)["rising"]
    sent = []
    for retry in (0, 1):
        talk = Talk(given, 5, retry)
        fixed = keys(ME, 5, 0)
        talk.sides[ME] = cast("SecAggClient", aggregator.client(ME, given, about(bits, 5, retry), fixed))
        sent.append(talk.masked())
    assert not_uniform(sent[0] - sent[1]) > ALARM


def test_the_sum_comes_out_of_such_words(bits: int) -> None:
    for name, value in inputs(bits).items():
        talk = Talk(value, 7)
        for _ in range(5):
            talk.step()
        assert talk.total is not None, name
        np.testing.assert_array_equal(talk.total, value)


# ---- Secrets do not print ----------------------------------------------------------------------------------------


@pytest.fixture
def begun() -> Talk:
    """A session in which the clients hold all the secrets that they ever hold: after step 1."""
    talk = Talk(inputs(32)["rising"], 1)
    talk.step()
    talk.step()
    return talk


def secrets(side: SecAggClient) -> list[bytes]:
    """Return what must never be shown, as the client keeps it."""
    kept = msgspec.msgpack.decode(side.stored())
    found = [kept["root"], kept["value"], *(each for _, *opened in kept["held"] for each in opened)]
    assert all(len(each) >= 32 for each in found)
    return found


def shown(text: str, secret: bytes) -> bool:
    return any(form in text for form in (repr(secret)[2:-1], secret.hex(), secret[:16].hex()))


def test_a_client_side_does_not_print(begun: Talk) -> None:
    side = begun.sides[ME]
    assert repr(side) == str(side) == f"{side}" == f"{side!r}" == "%s" % side == "<secret>"  # noqa: UP031
    assert repr([side]) == "[<secret>]"
    assert repr(side._state) == str(side._state) == f"{side._state}" == "<secret>"
    assert repr(begun.sides).count("<secret>") == 3


def test_a_client_side_is_not_compared_hashed_copied_or_pickled(begun: Talk) -> None:
    side, other = begun.sides[ME], begun.sides[COHORT[0]]
    for compare in (operator.eq, operator.ne):
        for with_what in (other, side, 1):
            with pytest.raises(Error, match="not compared"):
                compare(side, with_what)
    with pytest.raises(TypeError, match="unhashable"):
        hash(side)
    for carry in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(Error, match="not compared, hashed, pickled or copied"):
            carry(side)
    for carry in (copy.deepcopy, pickle.dumps):
        with pytest.raises(Error, match="not compared, hashed, pickled or copied"):
            carry([side])
    for carry in (copy.deepcopy, pickle.dumps):
        with pytest.raises(Error, match="not pickled"):
            carry(side._state)


def test_an_identity_does_not_print_and_is_not_compared_hashed_copied_or_pickled() -> None:
    identity = simulated_identity(PUBLIC, ME)
    assert repr(identity) == str(identity) == f"{identity}" == "<identity of 'north'>"
    with pytest.raises(Error, match="not compared"):
        _ = identity == simulated_identity(PUBLIC, ME)
    with pytest.raises(TypeError, match="unhashable"):
        hash(identity)
    for carry in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(Error, match="not compared, hashed, pickled or copied"):
            carry(identity)


@pytest.mark.parametrize("broken", ["missing", "short", "flipped"])
def test_a_client_that_fails_shows_no_secret(broken: str, begun: Talk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    side, delivery = begun.sides[ME], begun.asked[ME]
    assert isinstance(delivery, Delivery)
    held = secrets(side)
    parcel = delivery.parcels[-1]
    wrong = {
        "missing": delivery.parcels[:1],
        "short": (delivery.parcels[0], Parcel(parcel.place, parcel.sealed[:-1], parcel.commitments)),
        "flipped": (delivery.parcels[0], Parcel(parcel.place, parcel.sealed, bytes(64))),
    }
    with pytest.raises(SumAborted) as failed:
        side.reply(Delivery(wrong[broken]))
    text = (
        "".join(traceback.format_exception(failed.value)) + repr(failed.value) + caplog.text + repr(vars(failed.value))
    )
    assert "SumAborted" in text
    assert not [secret for secret in held if shown(text, secret)]
    after = side.stored()
    assert not [secret for secret in held if secret in after], "the session has ended: nothing is kept"


def test_secrets_are_gone_when_the_last_message_is_made() -> None:
    talk = Talk(inputs(32)["rising"], 2)
    for step in range(5):
        held = secrets(talk.sides[ME]) if step == 2 else []
        talk.step()
        if step == 2:
            own = held[1]
            assert own not in talk.sides[ME].stored(), "the vector is forgotten when it is masked"
    kept = msgspec.msgpack.decode(talk.sides[ME].stored())
    assert (kept["root"], kept["value"], kept["held"]) == (b"", b"", [])


# ---- Nothing else travels ----------------------------------------------------------------------------------------


FIELDS: dict[type, dict[str, str]] = {
    Advertise: {"channel": "key", "mask": "key", "signature": "signature"},
    Entry: {"place": "place", "client": "name", "channel": "key", "mask": "key", "signature": "signature"},
    Roll: {"size": "places", "entries": "entries"},
    Shares: {"sealed": "ciphertexts", "seed": "hash", "commitments": "hashes", "signature": "signature"},
    Parcel: {"place": "place", "sealed": "ciphertext", "commitments": "hashes"},
    Delivery: {"parcels": "parcels"},
    Masked: {"vector": "masked words"},
    Survivors: {"places": "places"},
    Consistent: {"signature": "signature"},
    Witnesses: {"places": "places", "signatures": "signatures"},
    Unmask: {"shares": "opened shares"},
}
"""All that any message has, and what it is; a field that is new is to be thought about before it stands here."""
PLAIN_TYPES = (int, bytes, str, tuple[int, ...], tuple[Entry, ...], tuple[Parcel, ...])


def test_a_message_has_keys_signatures_ciphertexts_masked_words_places_and_names_and_nothing_else() -> None:
    assert set(MESSAGES) == set(FIELDS) - {Entry, Parcel}
    for message, known in FIELDS.items():
        fields = msgspec.structs.fields(message)
        assert {field.name for field in fields} == set(known), message.__name__
        assert all(field.type in PLAIN_TYPES for field in fields), message.__name__


def test_every_message_has_one_length_whatever_the_input() -> None:
    """The bytes of a session are as many for zeros as for anything else: no length tells of a vector."""

    def lengths(value: Vector) -> list[list[int]]:
        talk = Talk(value, 3)
        return [[len(msgspec.msgpack.encode(message)) for message in talk.step().values()] for _ in range(5)]

    given = inputs(32)
    assert lengths(given["zeros"]) == lengths(given["largest"]) == lengths(given["rising"])


def test_in_a_run_clients_send_messages_of_the_protocol_and_no_figure_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fitting, evaluation and preparation; the fields of what carries a message are the round's own."""
    draw = np.random.default_rng(5)
    silos = fedloom.data.silos(
        {f"c{place}": (draw.standard_normal((20, 3)), np.arange(20) % 2) for place in range(4)}, test=0.25, seed=1
    )
    experiment = fedloom.Experiment(
        data=silos,
        prepare=[fedloom.standardise()],
        learner=fedloom.logistic(),
        algorithm=fedloom.fedavg(fedloom.Schedule(epochs=1, batch_size=8, learning_rate=0.1)),
        pipeline=chain(
            mean(max_weight=100.0), clip(1.0), fixed_point(most_metric=1e4), aggregator=secure_sum(protocol=True)
        ),
        stop=fedloom.max_rounds(2),
        evaluate_every=1,
        seed=1,
        compare=False,
    )
    heard: list[tuple[str, Any]] = []
    receive = OpenRound.receive

    def noted(self: OpenRound, sender: ClientId, message: Any) -> None:
        heard.append((self.order.program, message))
        receive(self, sender, message)

    monkeypatch.setattr(OpenRound, "receive", noted)
    local(strict=True).run(experiment)
    assert {program for program, _ in heard} == {"train", "evaluate", "query"}
    assert not [message for _, message in heard if isinstance(message, Failed | Refused)]
    for _, message in heard:
        assert isinstance(message, AggregatorMessage)
        assert type(message.payload) in (Advertise, Shares, Masked, Consistent, Unmask)
        assert not message.scores
        assert set(message.__struct_fields__) == {"round", "retry", "payload", "scores"}
    sums = Counter(program for program, message in heard if isinstance(message.payload, Masked))
    assert sums == Counter(program for program, message in heard if isinstance(message.payload, Unmask))
    assert sums == {"train": 4 * 2, "evaluate": 4 * 2, "query": 4 * 2}
