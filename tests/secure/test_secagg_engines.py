"""A secure sum in a run: the bytes of the plain sum, whoever is lost, whoever works, whatever is sent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core import codec
from fedloom.core.aggregator import Aggregator
from fedloom.core.messages import AggregatorMessage, AggregatorRequest, RoundOrder
from fedloom.engines import blocks
from fedloom.errors import PlanError, RunStopped
from fedloom.pipeline import chain, clip, fixed_point, mean, plain_sum, rotate
from fedloom.runtime import on_the_wire
from fedloom.runtime.cohort import uniform
from fedloom.runtime.open_round import OpenRound
from fedloom.secure.messages import Advertise
from fedloom.secure.secagg_client import SecAggClient
from fedloom.secure.secure_sum import secure_sum
from fedloom.secure.shares_sum import shares_sum

SCHEDULE = fedloom.Schedule(epochs=1, batch_size=16, learning_rate=0.2)
ALGORITHMS: dict[str, Callable[..., Any]] = {
    "fedavg": fedloom.fedavg,
    "fedadam": fedloom.fedadam,
    "scaffold": fedloom.scaffold,
}
SOME: dict[str, Any] = {"quorum": 0.5}
"""Of ten clients seven are enough: a fifth of them may be lost."""
SECURE: dict[str, Callable[[], Aggregator]] = {
    "arithmetic": lambda: secure_sum(**SOME),
    "protocol": lambda: secure_sum(**SOME, protocol=True),
    "shares": shares_sum,
    "shares, sent": lambda: shares_sum(protocol=True),
}
Make = Callable[..., fedloom.Experiment]
Same = Callable[[fedloom.RunResult, fedloom.RunResult], None]


@pytest.fixture(scope="module")
def silos() -> Any:
    """Ten clients of unequal sizes."""
    draw = np.random.default_rng(3)
    tables = {}
    for place, size in enumerate((9, 33, 24, 12, 30, 8, 28, 25, 21, 11)):
        features = draw.standard_normal((size, 4)) + place / 5
        label = (features[:, 0] + draw.standard_normal(size) > place / 5).astype(int)
        label[:2] = (0, 1)
        tables[f"c{place}"] = (features, label)
    return fedloom.data.silos(tables, test=0.25, seed=3)


@pytest.fixture
def make(silos: Any) -> Make:
    def asked(
        aggregator: Aggregator,
        *,
        algorithm: str = "fedavg",
        weighting: str = "examples",
        between: tuple[Any, ...] = (),
        bits: Any = 32,
        **fields: Any,
    ) -> fedloom.Experiment:
        taken = mean(expected=10.0) if weighting == "uniform" else mean(max_weight=100.0)
        made = fedloom.Experiment(
            data=silos,
            learner=fedloom.logistic(l2=1e-3),
            algorithm=ALGORITHMS[algorithm](SCHEDULE, weighting=weighting),
            pipeline=chain(
                taken, clip(0.4), *between, fixed_point(most_metric=1e4, modulus_bits=bits), aggregator=aggregator
            ),
            stop=fedloom.max_rounds(3),
            policy=fedloom.RoundPolicy(quorum=3),
            simulate=fedloom.Simulation(dropout=0.2),
            seed=7,
            compare=False,
        )
        return replace(made, **fields)

    return asked


def traffic_aside(result: fedloom.RunResult) -> list[Any]:
    """Return the records without what the protocol costs."""
    return [replace(record, seconds=0.0, bytes_up=0, bytes_down=0) for record in result.records]


def check_same(one: fedloom.RunResult, other: fedloom.RunResult) -> None:
    """Compare two runs in all but traffic and time."""
    assert one.model_sha256 == other.model_sha256
    assert one.params.tobytes() == other.params.tobytes()
    assert traffic_aside(one) == traffic_aside(other)


def check_model(plain: fedloom.RunResult, secure: fedloom.RunResult) -> None:
    """Compare with a plain sum, whose evaluations are sums of floats: all but their rounding."""
    assert plain.model_sha256 == secure.model_sha256
    assert plain.params.tobytes() == secure.params.tobytes()
    for one, other in zip(plain.records, secure.records, strict=True):
        assert (one.round, one.retry, one.status, one.invited) == (
            other.round,
            other.retry,
            other.status,
            other.invited,
        )
        assert (one.included, one.failures) == (other.included, other.failures)
        over_clients = {name for name in one.metrics if name.endswith(("/mean", "/worst", "/spread"))}
        assert one.metrics.keys() - other.metrics.keys() == over_clients, "what single clients measured is hidden"
        for name, value in other.metrics.items():
            exact = name.startswith(("fit/", "step/"))
            assert one.metrics[name] == (value if exact else pytest.approx(value, abs=1e-5)), name


def check_identical(one: fedloom.RunResult, other: fedloom.RunResult) -> None:
    """Compare two runs in all but time."""
    check_same(one, other)
    assert [(each.bytes_up, each.bytes_down) for each in one.records] == [
        (each.bytes_up, each.bytes_down) for each in other.records
    ]


# ---- The same bytes ---------------------------------------------------------------------------------------------


QUICK = [("fedavg", "uniform"), ("scaffold", "examples"), ("fedadam", "uniform")]
REST = [("fedavg", "examples"), ("scaffold", "uniform"), ("fedadam", "examples")]


@pytest.mark.parametrize(
    ("algorithm", "weighting"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)]
)
def test_every_way_to_add_gives_the_model_of_the_plain_sum(algorithm: str, weighting: str, make: Make) -> None:
    plain = local().run(make(plain_sum(), algorithm=algorithm, weighting=weighting))
    lost = [len(record.failures) for record in plain.records]
    assert any(lost) and all(record.status == "closed" for record in plain.records)
    for build in SECURE.values():
        check_model(plain, local().run(make(build(), algorithm=algorithm, weighting=weighting)))


@pytest.mark.parametrize("step", range(5))
def test_a_client_that_is_lost_at_any_step_by_the_script_changes_no_byte(step: int, make: Make) -> None:
    """Before its vector is in the sum it is out of every sum; after that it is in every sum."""
    world = fedloom.Simulation(losses={"c3": [[2, step]]})
    quorum = fedloom.RoundPolicy(quorum=0.5)
    runs = [
        local().run(make(build(), simulate=world, policy=quorum))
        for build in (plain_sum, secure_sum, lambda: secure_sum(protocol=True), lambda: shares_sum(protocol=True))
    ]
    assert len({run.model_sha256 for run in runs}) == 1
    clients = runs[0].records[0].invited
    for run in runs:
        assert [len(record.included) for record in run.records[:2]] == [clients, clients - (step <= 2)]


def test_clients_are_lost_at_every_step_up_to_their_vector(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only there: who is lost after its vector would be in the sum, and in that of one message not."""
    steps: Counter[int] = Counter()
    lost_at = blocks.lost_at

    def noted(*given: Any, step: int) -> Any:
        found = lost_at(*given, step=step)
        steps[step] += found is not None
        return found

    monkeypatch.setattr(blocks, "lost_at", noted)
    asked = make(SECURE["protocol"](), stop=fedloom.max_rounds(5))
    result = local().run(asked)
    assert {step for step, count in steps.items() if count} == {0, 1, 2}
    assert sum(steps.values()) == sum(len(record.failures) for record in result.records)


def test_words_of_eight_bytes_and_a_rotation_have_the_same_bytes_too(make: Make) -> None:
    more: dict[str, Any] = {"between": (rotate(),), "bits": 64, "cohort": uniform(8)}
    plain = local().run(make(plain_sum(), **more))
    for build in SECURE.values():
        check_model(plain, local().run(make(build(), **more)))


@pytest.mark.parametrize("algorithm", [pytest.param("fedavg", marks=pytest.mark.slow), "scaffold"])
def test_preparation_and_evaluation_are_sums_too_and_have_the_same_figures(algorithm: str, make: Make) -> None:
    more: dict[str, Any] = {"prepare": [fedloom.standardise()], "evaluate_every": 1, "stop": fedloom.max_rounds(2)}
    first, *others = [local().run(make(build(), algorithm=algorithm, **more)) for build in SECURE.values()]
    for other in others:
        check_same(first, other)
    assert all("eval/accuracy" in record.metrics for record in first.rounds)
    plain = local().run(make(plain_sum(), algorithm=algorithm, **more))
    np.testing.assert_allclose(plain.params, first.params, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_regular_graph_has_the_same_bytes_too(make: Make) -> None:
    draw = np.random.default_rng(8)
    tables = {f"c{place:02}": (draw.standard_normal((6, 2)), np.arange(6) % 2) for place in range(60)}
    more: dict[str, Any] = {
        "data": fedloom.data.silos(tables, test=0.0, seed=3),
        "simulate": fedloom.Simulation(dropout=0.03),
        "stop": fedloom.max_rounds(2),
    }
    graph: dict[str, Any] = {"graph": "regular", "corrupt": 0.02, "dropout": 0.08}
    plain = local().run(make(plain_sum(), **more))
    assert any(record.failures for record in plain.records)
    for protocol in (False, True):
        check_model(plain, local().run(make(secure_sum(**graph, protocol=protocol), **more)))


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_a_network_has_the_same_bytes_too(weighting: str, make: Make) -> None:
    pytest.importorskip("torch", reason="the torch learner needs the extra `torch`")
    more: dict[str, Any] = {"learner": fedloom.torch_module(fedloom.models.mlp([8])), "weighting": weighting}
    plain = local().run(make(plain_sum(), **more))
    for build in SECURE.values():
        check_model(plain, local().run(make(build(), **more)))


def test_no_figure_of_a_single_client_is_known(make: Make) -> None:
    for name, build in {"plain": plain_sum, **SECURE}.items():
        result = local().run(make(build(), evaluate_every=1))
        assert any(record.clients for record in result.records) == (name == "plain"), name


# ---- Whoever works ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["protocol", "shares, sent"])
@pytest.mark.parametrize(
    "how",
    [
        {"workers": 2, "strict": True},
        pytest.param({"strict": True}, marks=pytest.mark.slow),
        pytest.param({"workers": 2, "pool": "threads"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_workers_and_bytes_change_nothing(how: dict[str, Any], name: str, make: Make) -> None:
    asked = make(SECURE[name](), algorithm="scaffold", prepare=[fedloom.standardise()], stop=fedloom.max_rounds(2))
    check_identical(local().run(asked), local(**how).run(replace(asked, block=3)))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="worker processes need pipes to pass on")
@pytest.mark.parametrize("name", ["arithmetic", "shares"])
def test_worker_processes_do_the_arithmetic_with_the_same_bytes(name: str, make: Make) -> None:
    asked = make(SECURE[name](), evaluate_every=2, prepare=[fedloom.standardise()], block=3)
    check_identical(local().run(asked), local(workers=2, pool="processes").run(asked))


@pytest.mark.parametrize("name", ["protocol", "shares, sent"])
def test_worker_processes_are_refused_to_the_protocol(name: str, make: Make) -> None:
    with pytest.raises(PlanError, match=r"protocol = true"):
        local(workers=2, pool="processes").run(make(SECURE[name]()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_is_refused_to_the_protocol(make: Make) -> None:
    pytest.importorskip("ray", reason="the Ray engine needs the extra `ray`")
    with pytest.raises(PlanError, match=r"protocol = true.*runs in fedloom\.local"):
        fedloom.ray(2).run(make(SECURE["protocol"]()))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_does_the_arithmetic_with_the_same_bytes(make: Make) -> None:
    pytest.importorskip("ray", reason="the Ray engine needs the extra `ray`")
    asked = make(SECURE["arithmetic"](), evaluate_every=2, block=3)
    check_identical(local().run(asked), fedloom.ray(2).run(asked))


# ---- Left and taken up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "checkpoint_s"),
    [
        (40, 0.0),
        *(
            pytest.param(at, pause, marks=pytest.mark.slow)
            for at, pause in ((1, 0.0), (1, 3600.0), (95, 0.0), (95, 3600.0))
        ),
    ],
)
def test_a_run_that_was_left_within_a_session_ends_with_the_same_bytes(
    at: int, checkpoint_s: float, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients of a simulation end with it: the round begins anew, under the same keys, with the same messages."""
    asked = make(SECURE["protocol"](), algorithm="scaffold")
    whole = local().run(asked)
    engine = local(checkpoint_s=checkpoint_s)
    calls = 0
    reply = SecAggClient.reply

    def interrupted(self: SecAggClient, message: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return reply(self, message)

    with monkeypatch.context() as patched:
        patched.setattr(SecAggClient, "reply", interrupted)
        with pytest.raises(fedloom.RunInterrupted) as stopped:
            engine.run(asked, output=tmp_path)
    assert stopped.value.folder is not None
    check_identical(engine.run(asked, resume=stopped.value.folder), whole)


# ---- Too few ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_short", ["retry", "skip"])
def test_a_round_of_too_few_follows_the_policy_in_both_modes(on_short: Any, make: Make) -> None:
    """The policy is content with one client; the sum is not."""
    more: dict[str, Any] = {
        "policy": fedloom.RoundPolicy(quorum=1, on_short=on_short, retries=30),
        "simulate": fedloom.Simulation(dropout=0.35),
        "stop": fedloom.max_rounds(5),
    }
    runs = [local().run(make(SECURE[name](), **more)) for name in ("arithmetic", "protocol")]
    check_same_statuses(*runs)
    statuses = Counter(record.status for record in runs[0].records)
    assert statuses["closed"], statuses
    assert len(statuses) > 1, "no round was short: the test shows nothing"


def check_same_statuses(one: fedloom.RunResult, other: fedloom.RunResult) -> None:
    assert one.model_sha256 == other.model_sha256
    assert [(each.round, each.retry, each.status, each.included) for each in one.records] == [
        (each.round, each.retry, each.status, each.included) for each in other.records
    ]
    assert [{failure.client for failure in each.failures} for each in one.records] == [
        {failure.client for failure in each.failures} for each in other.records
    ]


def test_a_round_of_too_few_ends_the_run_in_both_modes(make: Make) -> None:
    more: dict[str, Any] = {
        "policy": fedloom.RoundPolicy(quorum=1, on_short="stop"),
        "simulate": fedloom.Simulation(dropout=0.7),
    }
    for name in ("arithmetic", "protocol"):
        with pytest.raises(RunStopped, match="round 1 was short of updates"):
            local().run(make(SECURE[name](), **more))


def test_three_clients_are_all_needed(make: Make) -> None:
    asked = make(secure_sum(protocol=True), cohort=uniform(3), simulate=None, weighting="examples")
    assert all(len(record.included) == 3 for record in local().run(asked).records)
    lossy = replace(asked, simulate=fedloom.Simulation(dropout=0.3), policy=fedloom.RoundPolicy(quorum=1, retries=50))
    closed = [record for record in local().run(lossy).records if record.status == "closed"]
    assert len(closed) == 3
    assert all(len(record.included) == 3 for record in closed)


# ---- Traffic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SECURE))
def test_traffic_is_the_bytes_that_travel(name: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``strict`` every order and message goes through its bytes: they are counted here."""
    up: list[int] = []
    down: list[int] = []

    def encode(message: Any) -> bytes:
        data = codec.encode(message)
        (down if isinstance(message, RoundOrder | AggregatorRequest) else up).append(len(data))
        return data

    counted = SimpleNamespace(encode=encode, decode=codec.decode, decode_one_of=codec.decode_one_of)
    monkeypatch.setattr(on_the_wire, "codec", counted)
    result = local(strict=True).run(make(SECURE[name](), evaluate_every=2, algorithm="scaffold"))
    assert sum(record.bytes_up for record in result.records) == sum(up)
    assert sum(record.bytes_down for record in result.records) == sum(down)
    assert result.bytes_up == sum(up)
    assert len(up) > 3 * 10


# ---- Keys -------------------------------------------------------------------------------------------------------


def test_no_key_is_used_in_two_sums_of_a_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rounds, of their retries, of training, evaluation and preparation, and of two clients."""
    sums: list[tuple[Any, ...]] = []
    keys: list[bytes] = []
    receive = OpenRound.receive

    def noted(self: OpenRound, sender: Any, message: Any) -> None:
        if isinstance(message, AggregatorMessage) and isinstance(message.payload, Advertise):
            sums.append((self.order.program, message.round, message.retry))
            keys.extend((message.payload.channel, message.payload.mask))
        receive(self, sender, message)

    monkeypatch.setattr(OpenRound, "receive", noted)
    more: dict[str, Any] = {
        "policy": fedloom.RoundPolicy(quorum=1, retries=30),
        "simulate": fedloom.Simulation(dropout=0.35),
        "prepare": [fedloom.standardise()],
        "evaluate_every": 1,
    }
    local().run(make(SECURE["protocol"](), **more))
    assert {program for program, _, _ in sums} == {"train", "evaluate", "query"}
    assert any(retry for _, _, retry in sums), "no round was opened again: the test shows less than it says"
    assert len(set(keys)) == len(keys) == 2 * len(sums)
