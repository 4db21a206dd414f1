"""What happens to a client is a value, and the run goes on; what is wrong with the program is an exception."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fedloom.algorithms import fedavg
from fedloom.core import codec
from fedloom.core.algorithm import AnyAlgorithm, ClientContext, ask, train
from fedloom.core.data import FEATURES, ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.learner import Job
from fedloom.core.messages import AggregatorMessage, Failed, Failure, Refused
from fedloom.core.metrics import Count
from fedloom.core.schedule import Schedule
from fedloom.core.update import Aggregate, Update
from fedloom.core.work import LocalQuery, LocalWork
from fedloom.errors import AlgorithmError, Error
from fedloom.learners import logistic
from fedloom.runtime.client import ClientNode
from fedloom.runtime.cohort import poisson, uniform
from fedloom.runtime.coordinator import Coordinator, Stopped, initial_state
from fedloom.runtime.effects import Save
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.ports import MemoryStates
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import ListDataset, counting, deliveries, federation, plan_for, simulate
from fedloom.testing.fakes import Tally
from fedloom.testing.simulation import AnyPlan

DATA = federation((3, 4, 5, 6))
POPULATION = DATA.population()
A, B, C, D = (POPULATION.id(index) for index in range(4))
Program = Callable[[Any, Any, ClientContext], Any]


def troubled(trouble: Program, *, whom: ClientId = B, rounds: frozenset[int] = frozenset({2})) -> AnyAlgorithm:
    """Return ``counting`` in which one client runs another program in some rounds."""
    plain = counting(POPULATION)

    def client(broadcast: Any, state: Any, ctx: ClientContext) -> Any:
        chosen = trouble if ctx.client == whom and ctx.round in rounds else plain.client
        return (yield from chosen(broadcast, state, ctx))

    return replace(plain, client=client)


def planned(algorithm: AnyAlgorithm, **changes: Any) -> AnyPlan:
    return plan_for(DATA, algorithm, **{"stop": max_rounds(3), **changes})


def good(seen: int = 0) -> dict[str, Any]:
    return {"counts": np.eye(4)[1], "before": np.eye(4)[1] * seen}


def nan(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update({**good(seen), "before": np.array([0.0, np.nan, 0.0, 0.0])}, 1.0), seen + 1


def infinite(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update({**good(seen), "before": np.array([0.0, np.inf, -np.inf, 0.0])}, 1.0), seen + 1


def other_parts(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update({**good(seen), "surprise": np.zeros(4)}, 1.0), seen + 1


def missing_part(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update({"counts": np.eye(4)[1]}, 1.0), seen + 1


def other_shape(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update({**good(seen), "before": np.zeros(5)}, 1.0), seen + 1


def negative_weight(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update(good(seen), -1.0), seen + 1


def nan_weight(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update(good(seen), float("nan")), seen + 1


def undeclared_metric(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update(good(seen), 1.0, {"surprise": Count(1.0)}), seen + 1


def not_an_array(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update({**good(seen), "before": [0.0, 0.0, 0.0, 0.0]}, 1.0), seen + 1


@pytest.mark.parametrize(
    "program",
    [
        nan,
        infinite,
        other_parts,
        missing_part,
        other_shape,
        negative_weight,
        nan_weight,
        undeclared_metric,
        not_an_array,
    ],
    ids=lambda program: program.__name__,
)
@pytest.mark.parametrize("block", [1, 10])
def test_an_update_that_is_not_as_declared_is_invalid_and_never_summed(program: Program, block: int) -> None:
    run = simulate(planned(troubled(program)), DATA, block=block)
    assert run.included == ((A, B, C, D), (A, C, D), (A, B, C, D)), "the run goes on, without it"
    (failure,) = run.records[1].failures
    assert (failure.client, failure.phase, failure.kind) == (B, "train", "invalid")
    assert failure.detail
    assert run.state.server.counts.tolist() == [3, 2, 3, 3]
    assert run.state.server.before.tolist() == [3, 1, 3, 3], "its state of round 2 was not committed"


def raises(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    raise ValueError("a bug")


def raises_after_an_answer(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ask(LocalQuery(lambda data: {"rows": np.array(float(data.count("train")))}))
    raise ValueError("a bug")


def asks_what_raises(_: Any, seen: int, ctx: ClientContext) -> Any:
    def read(data: ClientDataset) -> Any:
        raise ValueError("a bug")

    yield from ask(LocalQuery(read))
    return Update(good(seen), 1.0), seen + 1


def trains_without_a_learner(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from train(LocalWork(start=np.zeros(4), schedule=Schedule()))
    return Update(good(seen), 1.0), seen + 1


def returns_no_state(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield from ()
    return Update(good(seen), 1.0)


def asks_something_unknown(_: Any, seen: int, ctx: ClientContext) -> Any:
    yield "train, please"
    return Update(good(seen), 1.0), seen + 1


@pytest.mark.parametrize(
    "program",
    [
        raises,
        raises_after_an_answer,
        asks_what_raises,
        trains_without_a_learner,
        returns_no_state,
        asks_something_unknown,
    ],
    ids=lambda program: program.__name__,
)
@pytest.mark.parametrize("block", [1, 10])
def test_a_program_that_raises_has_crashed_and_the_others_count(program: Program, block: int) -> None:
    run = simulate(planned(troubled(program)), DATA, block=block)
    assert run.included == ((A, B, C, D), (A, C, D), (A, B, C, D))
    (failure,) = run.records[1].failures
    assert (failure.client, failure.kind) == (B, "crashed")
    assert failure.where is not None and ":" in failure.where


@pytest.mark.parametrize("program", [raises, raises_after_an_answer])
def test_a_crash_names_file_and_line(program: Program) -> None:
    run = simulate(planned(troubled(program)), DATA)
    (failure,) = run.records[1].failures
    source, first = inspect.getsourcelines(program)
    line = first + next(n for n, text in enumerate(source) if "raise ValueError" in text)
    assert failure.where == f"{__file__}:{line}"
    assert failure.detail == "ValueError: a bug"


def test_debug_raises_in_place() -> None:
    plan = planned(troubled(raises, rounds=frozenset({1})))
    orders = Coordinator(plan, initial_state(plan)).open_round()
    assert not isinstance(orders, Stopped)
    node = ClientNode(client=B, plan=plan, data=DATA.client(B), states=MemoryStates(), debug=True)
    with pytest.raises(ValueError, match="a bug"):
        node.receive(orders[B])


def test_a_client_whose_rows_do_not_fit_crashes_alone_and_changes_nothing_for_its_block() -> None:
    narrow = DATA.client(B)
    broken = {
        **DATA.clients,
        "b": ClientDataset({**narrow.arrays, FEATURES: narrow.arrays[FEATURES][:, :2]}, narrow.rows),
    }
    data = ListDataset(broken, DATA.schema())
    learner = logistic().build(DATA.schema())
    algorithm = fedavg(Schedule(epochs=1, batch_size=4))
    with_broken = simulate(plan_for(data, algorithm, learner, stop=max_rounds(2)), data)
    without = simulate(plan_for(DATA, algorithm, learner, stop=max_rounds(2)), DATA, drop=lambda _, client: client == B)
    assert {failure.kind for record in with_broken.records for failure in record.failures} == {"crashed"}
    assert with_broken.sha256 == without.sha256


def test_a_diverging_client_is_invalid_and_the_run_goes_on_without_a_warning() -> None:
    wild = DATA.client(B)
    data = ListDataset(
        {**DATA.clients, "b": ClientDataset({**wild.arrays, FEATURES: wild.arrays[FEATURES] * 1e200}, wild.rows)},
        DATA.schema(),
    )
    learner = logistic(l2=1.0).build(DATA.schema())
    local = Schedule(steps=5, batch_size="full", learning_rate=1e200)
    plan = plan_for(data, fedavg(replace(local, learning_rate=0.1)), learner, stop=max_rounds(2))
    assert simulate(plan, data).included  # large numbers alone are no failure
    run = simulate(
        plan_for(data, fedavg(local), learner, stop=max_rounds(1), policy=RoundPolicy(on_short="skip")), data
    )
    assert {failure.kind for failure in run.records[0].failures} == {"invalid"}
    assert "diverged" in run.records[0].failures[0].detail


def test_a_client_without_rows_refuses() -> None:
    data = ListDataset({**DATA.clients, "b": DATA.client(B).split("test")}, DATA.schema())
    run = simulate(plan_for(data, counting(POPULATION), stop=max_rounds(1)), data)
    (failure,) = run.records[0].failures
    assert (failure.client, failure.kind) == (B, "refused")
    assert failure.detail.startswith("NO_DATA")


def test_a_client_serves_no_other_plan_than_its_own() -> None:
    plan = planned(counting(POPULATION))
    orders = Coordinator(plan, initial_state(plan)).open_round()
    assert not isinstance(orders, Stopped)
    node = ClientNode(client=A, plan=replace(plan, digest="another"), data=DATA.client(A), states=MemoryStates())
    answer = node.receive(orders[A])
    assert isinstance(answer, Refused)
    assert answer.reason.startswith("PLAN_MISMATCH")


def test_run_block_of_one_is_receive() -> None:
    plan = planned(counting(POPULATION))
    orders = Coordinator(plan, initial_state(plan)).open_round()
    assert not isinstance(orders, Stopped)
    together = dict(deliveries(plan, DATA, MemoryStates(), orders))
    for client, message in together.items():
        alone = ClientNode(client=client, plan=plan, data=DATA.client(client), states=MemoryStates()).receive(
            orders[client]
        )
        assert codec.encode(alone) == codec.encode(message)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (np.zeros(8), "shape"),
        (np.zeros((1, 9)), "shape"),
        (np.zeros(9, np.float32), "dtype"),
        (np.full(9, np.nan), "NaN"),
        (np.full(9, np.inf), "infinity"),
        (np.array([np.inf, -np.inf, *np.zeros(7)]), "infinities that cancel"),
        ("text", "no array"),
        (None, "nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_is_no_vector_of_this_round_is_invalid(payload: Any, why: str) -> None:
    plan = planned(counting(POPULATION))
    coordinator = Coordinator(plan, initial_state(plan))
    orders = coordinator.open_round()
    assert not isinstance(orders, Stopped)
    for client, message in deliveries(plan, DATA, MemoryStates(), orders):
        assert isinstance(message, AggregatorMessage)
        sent = AggregatorMessage(round=message.round, retry=message.retry, payload=payload)
        coordinator.receive(client, sent if client == B else message)
    record = closed(coordinator)
    assert record.included == (A, C, D)
    assert [(failure.client, failure.kind) for failure in record.failures] == [(B, "invalid")], why
    assert coordinator.state.server.counts.tolist() == [1, 0, 1, 1]


def closed(coordinator: Coordinator[Any, Any, Any]) -> RoundRecord:
    while coordinator.advance():
        pass
    return coordinator.records[-1]


def test_the_weight_of_one_client_above_the_declared_bound_fails_that_client_alone() -> None:
    learner = logistic().build(DATA.schema())
    plain = fedavg(Schedule(epochs=1), weighting="uniform")

    def client(broadcast: Any, state: Any, ctx: ClientContext) -> Any:
        update, after = yield from plain.client(broadcast, state, ctx)
        weight = 100.0 if ctx.client == B else 1.0
        return Update(update.parts, weight, update.metrics), after

    run = simulate(plan_for(DATA, replace(plain, client=client), learner, stop=max_rounds(1)), DATA)
    assert run.included == ((A, C, D),)
    assert [(failure.client, failure.kind) for failure in run.records[0].failures] == [(B, "invalid")]


@dataclass(frozen=True)
class Clumsy:
    """A learner that raises for some clients, in a block and alone."""

    inner: Any
    rows: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def fit(self, jobs: list[Job]) -> Any:
        if any(job.data.count("train") == self.rows for job in jobs):
            raise RuntimeError("out of memory")
        return self.inner.fit(jobs)


def test_a_learner_that_raises_in_a_block_shows_which_client_is_to_blame() -> None:
    learner = logistic().build(DATA.schema())
    algorithm = fedavg(Schedule(epochs=1, batch_size=2))
    run = simulate(plan_for(DATA, algorithm, Clumsy(learner, 5), stop=max_rounds(2)), DATA)  # type: ignore[arg-type]
    assert [(f.client, f.kind, f.detail) for f in run.records[0].failures] == [
        (C, "crashed", "RuntimeError: out of memory")
    ]
    sound = simulate(plan_for(DATA, algorithm, learner, stop=max_rounds(2)), DATA, drop=lambda _, client: client == C)
    assert run.sha256 == sound.sha256


# ---- Short rounds ---------------------------------------------------------------------------------------------------


def losing(*pairs: tuple[int, int]) -> Any:
    """Lose everybody but client a in these (round, retry)."""
    return lambda order, client: (order.round, order.retry) in pairs and client != A


def test_a_short_round_is_opened_again_with_a_fresh_cohort_and_other_keys() -> None:
    policy = RoundPolicy(quorum=2, on_short="retry", retries=3)
    plan = planned(counting(POPULATION), policy=policy, cohort=uniform(3))
    seen: list[tuple[int, int, str]] = []

    def drop(order: Any, client: ClientId) -> bool:
        seen.append((order.round, order.retry, client))
        return order.round == 2 and order.retry < 3

    run = simulate(plan, DATA, drop=drop)
    assert [(r.round, r.retry, r.status) for r in run.records] == [
        (1, 0, "closed"), (2, 0, "retried"), (2, 1, "retried"), (2, 2, "retried"), (2, 3, "closed"), (3, 0, "closed"),
    ]  # fmt: skip
    cohorts = {retry: tuple(c for r, again, c in seen if (r, again) == (2, retry)) for retry in range(4)}
    assert len(set(cohorts.values())) > 1, "cohorts of retries are drawn afresh"
    assert run.state.server.counts.sum() == 9
    assert run.state.retry == 0


def test_a_reply_to_an_earlier_retry_is_late_and_the_client_may_still_answer_the_new_order() -> None:
    plan = planned(counting(POPULATION), policy=RoundPolicy(quorum=4, retries=3))
    coordinator, states = Coordinator(plan, initial_state(plan)), MemoryStates()
    first = coordinator.open_round()
    assert not isinstance(first, Stopped)
    old = dict(deliveries(plan, DATA, states, first))
    for client in (A, B, C, D):
        coordinator.lose(client, Failure(client=client, phase="train", kind="late", detail=""))
    assert closed(coordinator).status == "retried"
    second = coordinator.open_round()
    assert not isinstance(second, Stopped)
    assert {order.retry for order in second.values()} == {1}
    for client, message in old.items():
        assert isinstance(message, AggregatorMessage)
        coordinator.receive(client, AggregatorMessage(round=message.round, retry=0, payload=1e6 + message.payload))
    assert not coordinator.advance(), "nobody has answered this order"
    for client, reply in deliveries(plan, DATA, states, second):
        coordinator.receive(client, reply)  # type: ignore[arg-type]
    assert closed(coordinator).included == (A, B, C, D)
    assert coordinator.state.server.counts.tolist() == [1, 1, 1, 1]


def test_a_round_that_stays_short_ends_the_run_as_failed() -> None:
    plan = planned(counting(POPULATION), policy=RoundPolicy(quorum=2, retries=2))
    run = simulate(plan, DATA, drop=losing((2, 0), (2, 1), (2, 2)))
    why = "1 of 4 clients sent an update; 2 are needed"
    assert run.stopped == Stopped(reason=f"round 2 was short of updates 3 times: {why}", failed=True)
    assert [(r.round, r.status) for r in run.records] == [(1, "closed"), *[(2, "retried")] * 3]
    assert run.state.server.counts.tolist() == [1, 1, 1, 1], "nothing of the short round was used"


def test_a_short_round_is_skipped_where_the_policy_says_so() -> None:
    plan = planned(counting(POPULATION), policy=RoundPolicy(quorum=2, on_short="skip"))
    run = simulate(plan, DATA, drop=losing((2, 0)))
    assert [(r.round, r.status, r.included) for r in run.records][1] == (2, "skipped", ())
    assert [failure.client for failure in run.records[1].failures] == [B, C, D]
    assert run.state.server.counts.tolist() == [2, 2, 2, 2], "client a answered round 2 and was not counted"
    assert run.state.server.before.tolist() == [1, 1, 1, 1]


def test_a_short_round_stops_the_run_where_the_policy_says_so() -> None:
    plan = planned(counting(POPULATION), policy=RoundPolicy(quorum=1.0, on_short="stop"))
    run = simulate(plan, DATA, drop=losing((2, 0)))
    assert run.stopped is not None and run.stopped.failed
    assert "round 2 was short of updates" in run.stopped.reason
    assert len(run.records) == 2


def test_a_round_that_stopped_the_run_at_once_does_not_claim_retries() -> None:
    plan = planned(counting(POPULATION), policy=RoundPolicy(quorum=1.0, on_short="stop", retries=3))
    run = simulate(plan, DATA, drop=losing((2, 0)))
    assert run.stopped is not None
    assert "4 times" not in run.stopped.reason, "it was short once"


def test_nobody_answers_is_a_short_round_too() -> None:
    plan = planned(counting(POPULATION), policy=RoundPolicy(quorum=1, on_short="skip"))
    run = simulate(plan, DATA, drop=lambda order, _: order.round == 2)
    assert [record.status for record in run.records] == ["closed", "skipped", "closed"]


def test_an_empty_poisson_cohort_is_a_skipped_round_and_no_retry() -> None:
    plan = planned(counting(POPULATION), cohort=poisson(0.2), stop=max_rounds(30), policy=RoundPolicy(quorum=1))
    run = simulate(plan, DATA)
    statuses = {record.invited: record.status for record in run.records}
    assert statuses[0] == "skipped"
    assert {record.status for record in run.records if record.invited} == {"closed"}
    assert len(run.records) == 30
    assert run.state.server.counts.sum() == sum(record.invited for record in run.records)


# ---- The server's step ----------------------------------------------------------------------------------------------


def stepping(step: Callable[[Tally, Aggregate], Tally]) -> AnyAlgorithm:
    plain = counting(POPULATION)
    return replace(
        plain, step=lambda state, total: step(state, total) if total.round == 2 else plain.step(state, total)
    )


def raising_step(state: Tally, total: Aggregate) -> Tally:
    raise KeyError("gradient")


def nan_step(state: Tally, total: Aggregate) -> Tally:
    return Tally(np.full(4, np.nan), state.before)


@pytest.mark.parametrize("step", [raising_step, nan_step])
def test_a_step_that_raises_or_gives_nan_is_an_error_and_nothing_of_the_round_is_saved(step: Any) -> None:
    plan = planned(stepping(step))
    coordinator = Coordinator(plan, initial_state(plan))
    states, saved = MemoryStates(), []
    with pytest.raises(AlgorithmError) as caught:
        while not isinstance(orders := coordinator.open_round(), Stopped):
            for client, message in deliveries(plan, DATA, states, orders):
                assert not isinstance(message, Failure)
                coordinator.receive(client, message)
            while effects := coordinator.advance():
                saved += [effect.state for effect in effects if isinstance(effect, Save)]
    assert "round 2" in str(caught.value) and "counting" in str(caught.value)
    assert [state.round for state in saved] == [1]
    assert coordinator.state.round == 1
    if step is raising_step:
        source, first = inspect.getsourcelines(raising_step)
        assert f"{__file__}:{first + len(source) - 1}" in str(caught.value)
        assert "KeyError" in str(caught.value)
        assert isinstance(caught.value.__cause__, KeyError)


def test_a_sum_that_overflows_is_an_error_that_says_so() -> None:
    plain = counting(POPULATION)

    def client(_: Any, seen: int, ctx: ClientContext) -> Any:
        yield from ()
        return Update({"counts": np.full(4, 1e308), "before": np.zeros(4)}, 1.0), seen + 1

    plan = planned(replace(plain, client=client))
    with pytest.raises(AlgorithmError, match="overflow"), np.errstate(over="ignore"):
        simulate(plan, DATA)


# ---- Misuse ---------------------------------------------------------------------------------------------------------


def test_a_second_round_does_not_open_while_one_is_open() -> None:
    plan = planned(counting(POPULATION))
    coordinator = Coordinator(plan, initial_state(plan))
    with pytest.raises(Error, match="no round is open"):
        coordinator.partial()
    coordinator.open_round()
    with pytest.raises(Error, match="a round is open"):
        coordinator.open_round()


def test_advance_waits_while_somebody_may_still_answer() -> None:
    plan = planned(counting(POPULATION))
    coordinator = Coordinator(plan, initial_state(plan))
    assert coordinator.advance() == ()
    orders = coordinator.open_round()
    assert not isinstance(orders, Stopped)
    *most, (last, message) = deliveries(plan, DATA, MemoryStates(), orders)
    for client, other in most:
        coordinator.receive(client, other)  # type: ignore[arg-type]
        coordinator.receive(client, other)  # type: ignore[arg-type]
        assert list(coordinator.advance()) == []
    coordinator.receive(last, Failed(round=1, retry=0, kind="crashed", detail="x"))  # type: ignore[arg-type]
    coordinator.receive(last, message)  # type: ignore[arg-type]
    assert closed(coordinator).included == (A, B, C)


def test_bytes_up_and_down_are_the_lengths_of_encoded_messages() -> None:
    learner = logistic().build(DATA.schema())
    plan = plan_for(DATA, fedavg(Schedule()), learner, stop=max_rounds(3), evaluate_every=1)
    states = MemoryStates()
    coordinator = Coordinator(plan, initial_state(plan))
    up, down = 0, 0
    while not isinstance(orders := coordinator.open_round(), Stopped):
        down += sum(len(codec.encode(order)) for order in orders.values())
        for client, message in deliveries(plan, DATA, states, orders):
            up += len(codec.encode(message))
            coordinator.receive(client, message)  # type: ignore[arg-type]
        while coordinator.advance():
            pass
    assert sum(record.bytes_up for record in coordinator.records) == up
    assert sum(record.bytes_down for record in coordinator.records) == down
