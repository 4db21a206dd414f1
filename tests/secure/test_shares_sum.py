"""shares_sum: the sum of a plain one, by arithmetic or by the protocol; fewer than all servers learn nothing but it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.aggregator import Abort, Continue, Finish, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.core.wire import WireType
from fedloom.data import silos
from fedloom.entropy import derived_secret
from fedloom.errors import CodecError, ComponentError, Error, PipelineError, PlanError
from fedloom.pipeline import chain, clip, fixed_point, mean, plain_sum, rotate
from fedloom.runtime.simulation import Simulation
from fedloom.secure.shares_sum import SealedShares, SharesServer, shares_sum
from fedloom.testing import check_aggregator, sum_round

KEY = Key.from_seed(5)
NAMES = tuple(ClientId(f"site {number}") for number in range(5))
SUMS = [
    pytest.param({"servers": servers, "protocol": protocol}, id=f"{servers}-{'protocol' if protocol else 'arithmetic'}")
    for servers in (2, 3)
    for protocol in (False, True)
]


def wire_of(dtype: str = "uint32", dim: int = 8, **fields: Any) -> WireType:
    return WireType(dim=dim, dtype=dtype, modulus=1 << 8 * np.dtype(dtype).itemsize, most_clients=5, **fields)


def keys_of(client: str) -> Keys:
    return Keys(KEY.child("client", client), derived_secret(KEY.child("secret", client)))


def about(**fields: Any) -> SumRound:
    return replace(sum_round(len(NAMES), wire_of()), **fields)


def values_of(client: str, dtype: str = "uint32") -> Vector:
    draw = KEY.child("values", client).generator()
    return draw.integers(0, np.iinfo(dtype).max, 8, dtype=dtype, endpoint=True)


def message(client: ClientId, asked: Any, said: SumRound) -> Any:
    return asked.client(client, values_of(client, said.wire.dtype), said, keys_of(client)).open()


def server_of(asked: Any, said: SumRound) -> SharesServer:
    server = asked.server(NAMES, said, keys_of("server"))
    assert isinstance(server, SharesServer)
    return server


def expected(names: Sequence[str], dtype: str = "uint32") -> list[int]:
    total: list[int] = np.sum([values_of(name, dtype) for name in names], axis=0, dtype=dtype).tolist()
    return total


# ---- One sum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [3, 4])
@pytest.mark.parametrize("arguments", SUMS)
def test_it_keeps_the_laws_of_sums_for_every_dropout_pattern(arguments: dict[str, Any], least: int) -> None:
    check_aggregator(
        lambda: shares_sum(**arguments, min_survivors=least), clients=least + 1, least=least, modulus=2**32
    )


@pytest.mark.parametrize("arguments", SUMS)
def test_words_of_64_bits_add_up_as_well(arguments: dict[str, Any]) -> None:
    asked, said = shares_sum(**arguments), about(wire=wire_of("uint64"))
    server = asked.server(NAMES, said, keys_of("server"))
    for name in NAMES[1:]:
        server.receive(name, message(name, asked, said))
    server.lose(NAMES[0])
    outcome = server.advance()
    assert isinstance(outcome, Finish)
    assert outcome.total.dtype == np.uint64
    assert (outcome.total.tolist(), outcome.included) == (expected(NAMES[1:], "uint64"), NAMES[1:])


def test_arithmetic_and_protocol_end_alike_below_the_minimum() -> None:
    reasons = set()
    for arguments in ({"protocol": False}, {"protocol": True}):
        for answers in range(3):
            asked = shares_sum(**arguments)
            server = asked.server(NAMES, about(), keys_of("server"))
            for name in NAMES[:answers]:
                server.receive(name, message(name, asked, about()))
            for name in NAMES[answers:]:
                server.lose(name)
            outcome = server.advance()
            assert isinstance(outcome, Abort)
            reasons.add((answers, outcome.reason))
        empty = shares_sum(**arguments).server((), about(), keys_of("server")).advance()
        assert isinstance(empty, Abort)
    assert len(reasons) == 3


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_share_that_one_server_refuses_loses_its_client_at_every_server_and_no_other(part: int) -> None:
    asked, said = shares_sum(3, protocol=True), about()
    server = server_of(asked, said)
    for name in NAMES[1:]:
        server.receive(name, message(name, asked, said))
    right = message(NAMES[0], asked, said)
    shares = list(right.shares)
    shares[part] = shares[part][:-1] + bytes([shares[part][-1] ^ 1])
    with pytest.raises(Error, match=f"for server {part} of this sum"):
        server.receive(NAMES[0], SealedShares(tuple(shares)))
    assert len(server.lost) == 3
    assert all(f"for server {part}" in lost[NAMES[0]] for lost in server.lost)
    with pytest.raises(Error, match="was lost"):
        server.receive(NAMES[0], right)
    assert isinstance(server.advance(), Continue), "whoever runs the round says when it waits no longer"
    server.lose(NAMES[0])
    outcome = server.advance()
    assert isinstance(outcome, Finish)
    assert (outcome.total.tolist(), outcome.included) == (expected(NAMES[1:]), NAMES[1:])


@pytest.mark.parametrize(
    "other",
    [
        {"round": RoundNumber(2)},
        {"retry": 1},
        {"phase": 1},
        {"program": "query"},
        {"digest": "1" * 64},
        {"order": bytes(31) + b"\x01"},
        {"invited": 6},
        {"wire": wire_of(step=2.0**-20)},
        {"wire": wire_of(l2=7.0)},
        {"wire": wire_of(noise_multiplier=1.0)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_message_of_another_round_model_or_plan_is_refused(other: dict[str, Any]) -> None:
    asked = shares_sum(protocol=True)
    server = server_of(asked, about())
    with pytest.raises(Error, match="of another round"):
        server.receive(NAMES[0], message(NAMES[0], asked, about(**other)))
    with pytest.raises(Error, match="not signed by its key"):
        server.receive(NAMES[1], message(NAMES[2], asked, about()))


@pytest.mark.parametrize("changed", [{"min_survivors": 4}, {"colluders": 0}])
def test_a_client_that_wants_other_terms_is_not_summed_under_these(changed: dict[str, Any]) -> None:
    server = server_of(shares_sum(protocol=True), about())
    with pytest.raises(Error, match="not signed by its key"):
        server.receive(NAMES[0], message(NAMES[0], shares_sum(protocol=True, **changed), about()))


@pytest.mark.parametrize(
    "wrong", [np.zeros(8, np.uint32), SealedShares(()), SealedShares((b"",)), SealedShares((b"", b"", b"")), None, b""]
)
def test_what_is_no_message_of_so_many_shares_is_refused(wrong: Any) -> None:
    server = server_of(shares_sum(protocol=True), about())
    with pytest.raises(Error, match="no message of 2 shares"):
        server.receive(NAMES[0], wrong)


# ---- Messages and stores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 8, 40, 100, 20_000])
@pytest.mark.parametrize("servers", [2, 3])
def test_a_message_is_itself_again_after_its_way_through_bytes(servers: int, dim: int) -> None:
    asked, wire = shares_sum(servers, protocol=True), wire_of(dim=dim)
    said = about(wire=wire)
    sent = asked.client(NAMES[0], np.arange(dim, dtype=np.uint32), said, keys_of(NAMES[0])).open()
    packed = asked.pack(sent)
    assert asked.unpack(packed, wire) == sent
    assert asked.length(sent) == len(packed) <= 4 * dim + 144 * servers + 32


def test_bytes_that_are_no_message_are_refused_and_long_ones_are_not_read() -> None:
    asked = shares_sum(protocol=True)
    packed = asked.pack(message(NAMES[0], asked, about()))
    for wrong in (b"", packed[:-1], b"\xc1", b"\x91\x91\x01"):
        with pytest.raises(CodecError, match="no message"):
            asked.unpack(wrong, wire_of())
    with pytest.raises(CodecError, match="none above"):
        asked.unpack(bytes(5000), wire_of())


def test_a_client_that_comes_back_sends_the_stored_bytes() -> None:
    asked = shares_sum(3, protocol=True)
    side: Any = asked.client(NAMES[0], values_of(NAMES[0]), about(), keys_of(NAMES[0]))
    again = asked.resume(NAMES[0], side.stored(), roster=None, identity=None)
    assert asked.pack(again.open()) == asked.pack(side.open())
    assert values_of(NAMES[0]).tobytes()[:8] not in side.stored(), "the vector is not kept"
    with pytest.raises(Error, match="one message"):
        again.reply(None)
    with pytest.raises(CodecError, match="no message"):
        asked.resume(NAMES[0], side.stored()[:-1], roster=None, identity=None)


@pytest.mark.parametrize("after", range(6))
def test_servers_that_are_killed_after_any_message_go_on_to_the_same_sum(after: int) -> None:
    asked, said = shares_sum(3, protocol=True), about()
    server = server_of(asked, said)
    for place, name in enumerate((*NAMES, None)):
        if place == after:
            server, announced = asked.resume_server(NAMES, server.stored(), said, keys_of("server"))
            assert not announced.messages
        if name == NAMES[2]:
            server.lose(name)
        elif name is not None:
            server.receive(name, message(name, asked, said))
    outcome = server.advance()
    assert isinstance(outcome, Finish)
    included = tuple(name for name in NAMES if name != NAMES[2])
    assert (outcome.total.tolist(), outcome.included) == (expected(included), included)
    resumed, _ = asked.resume_server(NAMES, server.stored(), said, keys_of("server"))
    again = resumed.advance()
    assert isinstance(again, Finish)
    assert again.total.tolist() == outcome.total.tolist()
    with pytest.raises(Error, match="damaged"):
        asked.resume_server(NAMES, b"\x01", said, keys_of("server"))


def test_sealed_shares_are_not_merged() -> None:
    server = server_of(shares_sum(protocol=True), about())
    attempts: tuple[Callable[[], object], ...] = (
        server.partial, server.export, lambda: server.merge(server), lambda: server.absorb(None)  # type: ignore[arg-type]
    )  # fmt: skip
    for attempt in attempts:
        with pytest.raises(Error, match="not mergeable"):
            attempt()
    assert not shares_sum(protocol=True).mergeable
    assert shares_sum().mergeable


# ---- Plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "match"),
    [
        (WireType(dim=4, dtype="float64"), "put fixed_point"),
        (WireType(dim=None, dtype="float32"), "put fixed_point"),
        (WireType(dim=4, dtype="uint32", modulus=2**31), "range of uint32"),
        (WireType(dim=4, dtype="uint64", modulus=2**32), "range of uint64"),
        (WireType(dim=4, dtype="uint32", modulus=2**32, most_clients=2), "invites 2 clients at most"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_round_1(wire: WireType, match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        shares_sum().plan(wire)


def test_without_integers_the_chain_is_refused_when_it_is_put_together() -> None:
    with pytest.raises(PipelineError, match="put fixed_point"):
        chain(clip(1.0), mean(max_weight=10.0), aggregator=shares_sum())
    assert chain(clip(1.0), mean(max_weight=10.0), fixed_point(), aggregator=shares_sum()).stages


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"servers": 1}, "expected 2 or 3"),
        ({"servers": 4}, "expected 2 or 3"),
        ({"min_survivors": 2}, "at least 3"),
        ({"min_survivors": 2, "colluders": 0}, "at least 3"),
        ({"colluders": 2}, "at least 4"),
        ({"min_survivors": 9, "colluders": 8}, "at least 10"),
        ({"colluders": -1}, "0 or more"),
    ],
)
def test_arguments_that_hide_nothing_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        shares_sum(**arguments)


def test_what_is_honest_is_the_minimum_without_the_colluders() -> None:
    assert shares_sum().honest(wire_of()) == 2
    assert shares_sum(min_survivors=10, colluders=3).honest(wire_of()) == 7
    bound = chain(clip(1.0), mean(max_weight=1.0), fixed_point(), aggregator=shares_sum(min_survivors=5)).bind(
        WireType(dim=4, dtype="float64", max_weight=1.0, most_clients=9)
    )
    assert bound.wires[0].honest == 4


def test_it_says_who_reads_what_and_whom_it_trusts() -> None:
    asked = shares_sum(3, min_survivors=6, colluders=2)
    said = " ".join(asked.words(wire_of(fewest_clients=9)))
    parts = ("3 servers", "One honest server is enough", "must not collude", "of 9 clients", "from 6 vectors on")
    for words in (*parts, "3 may be missing", "leaves 4 honest", "took part in which round"):
        assert words in said
    assert "simulated" in said
    assert "simulated" not in " ".join(shares_sum(protocol=True).words(wire_of()))


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("servers", [2, 3])
def test_the_plan_knows_how_long_a_message_is(servers: int, dtype: str) -> None:
    asked, wire = shares_sum(servers, protocol=True), wire_of(dtype)
    (up,), down = asked.specimens(wire, NAMES)
    sent = message(NAMES[0], asked, about(wire=wire))
    assert [len(share) for share in up.shares] == [len(share) for share in sent.shares]
    assert asked.length(up) == asked.length(sent)
    assert not down


@pytest.mark.parametrize("protocol", [False, True])
def test_between_organisations_it_is_refused_as_one_process_would_be_all_servers(protocol: bool) -> None:
    asked, said = shares_sum(protocol=protocol), about(run="trial-7")
    with pytest.raises(PlanError, match="for simulation"):
        asked.server(NAMES, said, keys_of("server"))
    with pytest.raises(PlanError, match="for simulation"):
        asked.client(NAMES[0], values_of(NAMES[0]), said, keys_of(NAMES[0]))


# ---- Runs --------------------------------------------------------------------------------------------------------

ALGORITHMS: dict[str, Callable[..., Any]] = {
    "fedavg": fedloom.fedavg, "scaffold": fedloom.scaffold, "fedadam": fedloom.fedadam
}  # fmt: skip
WORLDS = {"all answer": Simulation(), "some are lost": Simulation(dropout=0.3)}


def sites() -> Any:
    tables = {}
    for place in range(6):
        draw = Key.from_seed(3).child("rows", place).generator()
        features = draw.standard_normal((20 + place, 4))
        labels = (features[:, 0] + draw.standard_normal(20 + place) / 2 > 0).astype(int)
        labels[:2] = (0, 1)
        tables[f"site-{place}"] = (features, labels)
    return silos(tables, test=0.25, seed=3)


def experiment(aggregator: Any, algorithm: str = "fedavg", **fields: Any) -> fedloom.Experiment:
    local_work = Schedule(epochs=1, batch_size=8, learning_rate=0.2)
    asked = fedloom.Experiment(
        data=sites(),
        learner=fedloom.logistic(l2=1e-3),
        algorithm=ALGORITHMS[algorithm](local_work),
        pipeline=chain(
            clip(0.4), mean(max_weight=100.0), rotate(), fixed_point(most_metric=1e4), aggregator=aggregator
        ),
        metrics_pipeline=chain(clip(1e3), fixed_point(most_metric=1e5), aggregator=aggregator),
        stop=fedloom.max_rounds(5),
        seed=7,
        compare=False,
    )
    return replace(asked, **fields)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_has_the_model_of_a_plain_sum(algorithm: str, world: str) -> None:
    fields: dict[str, Any] = {"simulate": WORLDS[world], "policy": replace(fedloom.RoundPolicy(), on_short="skip")}
    plain = local().run(experiment(plain_sum(), algorithm, **fields))
    included = [record.included for record in plain.records]
    assert all(len(each) >= 3 for each in included), "no round is below the minimum"
    assert (world == "all answer") == all(len(each) == 6 for each in included)
    for servers, protocol in itertools.product((2, 3), (False, True)):
        shared = local(strict=protocol).run(experiment(shares_sum(servers, protocol=protocol), algorithm, **fields))
        assert shared.model_sha256 == plain.model_sha256
        assert [record.included for record in shared.records] == included
        for one, other in zip(shared.records, plain.records, strict=True):
            assert one.metrics == {name: other.metrics[name] for name in one.metrics}


def test_workers_give_the_same_model() -> None:
    plain = local().run(experiment(plain_sum()))
    for asked in (shares_sum(), shares_sum(protocol=True)):
        assert local(workers=2, pool="threads").run(experiment(asked)).model_sha256 == plain.model_sha256


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="worker processes need pipes to pass on")
def test_worker_processes_give_the_same_model() -> None:
    asked = experiment(shares_sum())
    assert local(workers=2, pool="processes").run(asked).model_sha256 == local().run(asked).model_sha256


def test_a_round_below_the_minimum_has_no_sum_in_either_mode() -> None:
    records = []
    for protocol in (False, True):
        fields: dict[str, Any] = {
            "simulate": Simulation(dropout=0.5),
            "policy": replace(fedloom.RoundPolicy(), quorum=1, on_short="skip"),
        }
        asked = experiment(shares_sum(min_survivors=4, protocol=protocol), **fields)
        run = local().run(asked)
        records.append([(record.status, record.included) for record in run.records])
        assert {4, 5, 6}.issuperset(len(record.included) for record in run.records if record.status == "closed")
    assert records[0] == records[1]
    assert {status for status, _ in records[0]} >= {"closed", "skipped"}


def test_figures_of_single_clients_reach_nobody() -> None:
    for protocol in (False, True):
        run = local().run(experiment(shares_sum(protocol=protocol)))
        assert not any(record.clients for record in run.records)
        assert "accuracy" in " ".join(run.records[-1].metrics), "their sum does"
