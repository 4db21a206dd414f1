"""A simulated world hangs on names, rounds and the seed, on nothing else; what is lost is lost as in a real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedloom.algorithms import fedavg, fedprox, scaffold
from fedloom.core.algorithm import Algorithm
from fedloom.core.data import ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.schedule import Schedule
from fedloom.data.generated import Numbered
from fedloom.errors import ComponentError, PlanError
from fedloom.learners import logistic
from fedloom.runtime.cohort import uniform
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.simulation import (
    Daily,
    Simulation,
    World,
    check_simulation,
    part_of,
    with_partial_work,
)
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import counting, federation, plan_for, simulate
from fedloom.testing.fakes import ListDataset, Names, Tally

quick = settings(max_examples=40, derandomize=True, database=None, deadline=None)
FALSE_ALARM = 1e-6
KEY = Key.from_seed(7).child("train")
SIZES = (40, 7, 16, 33, 65, 3)
DATA = federation(SIZES, seed=2, columns=4)
LEARNER = logistic(l2=1e-3).build(DATA.schema())
LOCAL = Schedule(epochs=2, batch_size=8, learning_rate=0.2)


def world(**settings: Any) -> World:
    return World(simulation=Simulation(**settings), key=KEY)


def named(*names: str) -> Names:
    return Names(tuple(map(ClientId, names)), (1,) * len(names))


def in_world(plan: Any, **settings: Any) -> Any:
    return replace(plan, world=World(simulation=Simulation(**settings), key=plan.key))


def away(asked: World, number: int, population: Any, retry: int = 0) -> list[str]:
    gone = asked.away(KEY.child("round", number, retry), number, population)
    return [] if gone is None else [population.id(index) for index in gone.tolist()]


@quick
@given(st.sets(st.text("abcd", min_size=1, max_size=3), min_size=2), st.integers(1, 50), st.data())
def test_what_happens_to_a_client_does_not_depend_on_the_others(names: set[str], number: int, data: Any) -> None:
    asked = world(away=0.4, daily=Daily(period=6, share=0.3), dropout=0.4, stragglers=0.3)
    whole = sorted(names)
    some = sorted(data.draw(st.sets(st.sampled_from(whole), min_size=1)))
    gone = away(asked, number, named(*whole))
    assert gone == sorted(gone)
    assert away(asked, number, named(*some)) == [name for name in gone if name in some]
    round_key = KEY.child("round", number, 0)
    for name in map(ClientId, whole):
        assert asked.failure(round_key, name) == asked.failure(round_key, name)


def test_chances_are_those_that_were_asked_for() -> None:
    population, rounds = Numbered(clients=500, rows=1), 8
    asked = world(away=0.2, dropout=0.1, stragglers=0.3)
    draws = rounds * len(population)
    low, high = (binom.ppf([FALSE_ALARM, 1 - FALSE_ALARM], draws, chance) for chance in (0.2, 0.1))
    absent = sum(len(away(asked, number, population)) for number in range(1, rounds + 1))
    assert low[0] <= absent <= low[1]
    kinds: dict[str, int] = {}
    for number in range(1, rounds + 1):
        for index in range(len(population)):
            failure = replace_slow(asked).failure(KEY.child("round", number, 0), population.id(index))
            if failure is not None:
                kinds[failure.kind] = kinds.get(failure.kind, 0) + 1
    assert set(kinds) == {"lost"} and high[0] <= kinds["lost"] <= high[1]
    slow = sum(asked.is_slow(population.id(index)) for index in range(len(population)))
    few, many = binom.ppf([FALSE_ALARM, 1 - FALSE_ALARM], len(population), 0.3)
    assert few <= slow <= many


def replace_slow(asked: World) -> World:
    return World(simulation=replace(asked.simulation, stragglers=0.0), key=asked.key)


def test_a_repeated_round_is_drawn_again_and_a_slow_client_stays_slow() -> None:
    population = Numbered(clients=200, rows=1)
    asked = world(away=0.5, dropout=0.5)
    assert away(asked, 3, population) == away(asked, 3, population)
    assert away(asked, 3, population) != away(asked, 3, population, retry=1)
    assert away(asked, 3, population) != away(asked, 4, population)
    names = [population.id(index) for index in range(200)]
    first, second = ([asked.failure(KEY.child("round", 3, retry), name) for name in names] for retry in (0, 1))
    assert first != second
    late = world(stragglers=0.4)
    slow = {name for name in names if late.is_slow(name)}
    for number in (1, 2):
        failures = {name: late.failure(KEY.child("round", number, 0), name) for name in names}
        assert {name for name, failure in failures.items() if failure is not None} == slow
        assert {failure.kind for failure in failures.values() if failure is not None} == {"late"}


def test_of_every_period_a_client_is_away_for_its_share_and_clients_differ() -> None:
    population = named(*"abcdefgh")
    asked = world(daily=Daily(period=24, share=0.25))
    gone = {name: [name in away(asked, number, population) for number in range(1, 49)] for name in "abcdefgh"}
    for pattern in gone.values():
        assert pattern[:24] == pattern[24:] and sum(pattern[:24]) == 6
        changes = sum(one != other for one, other in pairwise(pattern[:25]))
        assert changes == 2, "away once a period, in one piece"
    assert len({tuple(pattern) for pattern in gone.values()}) > 3


def test_a_trace_takes_a_client_away_from_its_first_to_its_last_round() -> None:
    asked = world(absences={"b": [[2, 3], [6, 6]], "a": ((3, 3),)})
    found = [away(asked, number, named("a", "b", "c")) for number in range(1, 8)]
    assert found == [[], ["b"], ["a", "b"], [], [], ["b"], []]


def test_nobody_away_is_none_and_an_idle_world_changes_no_byte() -> None:
    assert world().away(KEY, 1, named("a")) is None
    plan = plan_for(DATA, scaffold(LOCAL), LEARNER, cohort=uniform(3), stop=max_rounds(3))
    assert simulate(in_world(plan), DATA).bytes == simulate(plan, DATA).bytes


def test_who_is_away_is_not_invited() -> None:
    plan = plan_for(DATA, fedavg(LOCAL), LEARNER, stop=max_rounds(4))
    run = simulate(in_world(plan, absences={"b": [[2, 3]], "e": [[3, 4]]}), DATA)
    assert [record.invited for record in run.records] == [6, 5, 4, 5]
    assert run.included[1:] == (tuple("acdef"), tuple("acdf"), tuple("abcdf"))
    sampled = plan_for(DATA, fedavg(LOCAL), LEARNER, cohort=uniform(4), stop=max_rounds(3))
    run = simulate(in_world(sampled, absences={"b": [[1, 9]], "e": [[1, 9]]}), DATA)
    assert [set(clients) for clients in run.included] == [set("acdf")] * 3, "a cohort keeps its size while it can"


def test_a_round_in_which_all_are_away_is_skipped() -> None:
    plan = plan_for(DATA, fedavg(LOCAL), LEARNER, stop=max_rounds(3))
    run = simulate(in_world(plan, absences={name: [[2, 2]] for name in "abcdef"}), DATA)
    assert [record.status for record in run.records] == ["closed", "skipped", "closed"]


def test_losses_are_in_the_record_and_the_policy_decides() -> None:
    plan = plan_for(DATA, fedavg(LOCAL), LEARNER, stop=max_rounds(6), policy=RoundPolicy(quorum=5, retries=9))
    run = simulate(in_world(plan, dropout=0.3), DATA)
    assert {failure.kind for record in run.records for failure in record.failures} == {"lost"}
    assert {record.status for record in run.records} == {"closed", "retried"}
    for record in run.records:
        lost = {failure.client for failure in record.failures}
        assert (record.status == "closed") == (6 - len(lost) >= 5)
        assert not lost & set(record.included)
    never = replace(plan, policy=RoundPolicy(quorum=6, on_short="stop"))
    stopped = simulate(in_world(never, stragglers=0.5), DATA).stopped
    assert stopped is not None and stopped.failed


def test_evaluation_reaches_everybody() -> None:
    data = federation(SIZES, seed=2, columns=4, test=8)
    plan = plan_for(data, fedavg(LOCAL), LEARNER, stop=max_rounds(2), evaluate_every=1, splits=("train", "test"))
    plan = replace(plan, policy=RoundPolicy(quorum=1))
    run = simulate(in_world(plan, dropout=0.5, absences={"a": [[1, 9]]}), data)
    assert any(record.failures for record in run.records)
    assert all(failure.phase == "train" for record in run.records for failure in record.failures)
    assert [len(record.clients) for record in run.records] == [6, 6]


@pytest.mark.parametrize("options", [{"block": 1}, {"block": 4, "order": "reversed"}, {"partials": 3, "order": KEY}])
@pytest.mark.parametrize("slow", ["late", "partial"])
def test_the_world_is_the_same_in_any_order_of_work(options: Mapping[str, Any], slow: Any) -> None:
    plan = plan_for(DATA, scaffold(LOCAL), LEARNER, cohort=uniform(5), stop=max_rounds(4), policy=RoundPolicy(quorum=1))
    asked = in_world(plan, away=0.2, dropout=0.2, stragglers=0.4, slow=slow)
    if slow == "partial":
        asked = replace(asked, algorithm=with_partial_work(asked.algorithm, asked.world))
    assert simulate(asked, DATA, **options).bytes == simulate(asked, DATA).bytes


@pytest.mark.parametrize("crash_after", [1, 4, 9])
def test_a_crash_changes_nothing_of_a_simulated_world(crash_after: int) -> None:
    plan = plan_for(DATA, scaffold(LOCAL), LEARNER, cohort=uniform(5), stop=max_rounds(4), policy=RoundPolicy(quorum=1))
    asked = in_world(plan, away=0.2, dropout=0.3)
    crashed = simulate(asked, DATA, crash_after=crash_after)
    assert crashed.bytes == simulate(asked, DATA).bytes


def test_a_lost_reply_leaves_the_clients_state_uncommitted() -> None:
    """The server counts the rounds of each client, and what each said of its own: they agree in spite of losses."""
    data = ListDataset(
        {name: ClientDataset({"label": np.ones(1)}, {"train": slice(0, 1)}) for name in "abcd"}, DATA.columns
    )
    algorithm: Algorithm[Tally, int, int] = counting(data.population())
    plan = plan_for(data, algorithm, stop=max_rounds(12), policy=RoundPolicy(quorum=1))
    run = simulate(in_world(plan, dropout=0.4), data)
    assert any(record.failures for record in run.records)
    counts, before = run.state.server.counts, run.state.server.before
    assert 0 < counts.min() < counts.max()
    assert before.tolist() == [n * (n - 1) / 2 for n in counts.tolist()]


def test_losing_the_same_clients_by_the_world_or_by_hand_is_one_thing() -> None:
    plan = plan_for(DATA, scaffold(LOCAL), LEARNER, stop=max_rounds(4), policy=RoundPolicy(quorum=1))
    asked = in_world(plan, dropout=0.3)
    lost = {(record.round, failure.client) for record in simulate(asked, DATA).records for failure in record.failures}
    by_hand = simulate(plan, DATA, drop=lambda order, client: (order.round, client) in lost)
    assert lost and by_hand.sha256 == simulate(asked, DATA).sha256


@pytest.mark.parametrize(
    ("schedule", "rows", "work", "steps"),
    [
        (Schedule(epochs=2, batch_size=10), 45, 0.5, 5),
        (Schedule(epochs=3, batch_size="full"), 45, 0.5, 1),
        (Schedule(epochs=4, batch_size=64), 45, 0.5, 2),
        (Schedule(steps=9), 45, 0.34, 3),
        (Schedule(batch_size=32), 5, 0.1, 1),
        (Schedule(epochs=2, batch_size=10), 45, 1.0, 10),
    ],
)
def test_a_part_of_the_work_is_rounded_down_and_one_step_at_least(
    schedule: Schedule, rows: int, work: float, steps: int
) -> None:
    part = part_of(schedule, rows, work)
    assert (part.steps, part.epochs) == (steps, None)
    whole, first = schedule.order(rows, KEY), part.order(rows, KEY)
    assert first.steps == steps
    assert first.valid.tolist() == whole.valid[:steps].tolist()
    if whole.rows is not None and first.rows is not None:
        assert first.rows.tolist() == whole.rows[:steps].tolist(), "the beginning of the same work"


def test_partial_work_is_that_of_a_table_of_steps() -> None:
    asked = world(stragglers=0.5, slow="partial", work=0.5)
    slow = {name for name in "abcdef" if asked.is_slow(ClientId(name))}
    assert slow and slow != set("abcdef")
    full = dict(zip("abcdef", (2 * -(-size // 8) for size in SIZES), strict=True))
    steps = {name: max(1, count // 2) if name in slow else count for name, count in full.items()}
    by_table = fedprox(Schedule(steps=steps, batch_size=8, learning_rate=0.2), mu=0.1)
    plan = plan_for(DATA, by_table, LEARNER, stop=max_rounds(3))
    partial = plan_for(DATA, with_partial_work(fedprox(LOCAL, mu=0.1), asked), LEARNER, stop=max_rounds(3))
    found = simulate(in_world(partial, stragglers=0.5, slow="partial"), DATA)
    assert found.sha256 == simulate(plan, DATA).sha256
    assert not any(record.failures for record in found.records), "partial work is no failure"


def test_partial_work_keeps_the_rules_of_the_algorithm() -> None:
    """Scaffold's control is made of the steps that were taken: whole work gives the bytes of no world at all."""
    whole = with_partial_work(scaffold(LOCAL), world(stragglers=1.0, slow="partial", work=1.0))
    plans = (plan_for(DATA, algorithm, LEARNER, stop=max_rounds(3)) for algorithm in (scaffold(LOCAL), whole))
    one, other = (simulate(plan, DATA) for plan in plans)
    assert one.bytes == other.bytes


@pytest.mark.parametrize(
    "settings",
    [
        {"away": 1.0}, {"away": -0.1}, {"dropout": 1.0}, {"dropout": float("nan")}, {"stragglers": 1.0},
        {"stragglers": 1.5, "slow": "partial"}, {"slow": "sleepy"}, {"work": 0.0}, {"work": 1.1},
        {"absences": {"a": [[3, 2]]}}, {"absences": {"a": [[0, 2]]}}, {"absences": {"a": [[1]]}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ComponentError, match=rf"simulate: .*{next(iter(settings))}.*expected"):
        Simulation(**settings)


@pytest.mark.parametrize(
    "settings", [{"period": 1, "share": 0.5}, {"period": 4, "share": 0.0}, {"period": 4, "share": 1}]
)
def test_a_daily_pattern_has_a_period_and_a_share_of_it(settings: dict[str, Any]) -> None:
    with pytest.raises(ComponentError, match="simulate: daily"):
        Daily(**settings)


def test_absences_of_nobody_are_refused() -> None:
    population = DATA.population()
    check_simulation(Simulation(absences={"a": [[1, 2]]}), population)
    with pytest.raises(PlanError, match=r"simulate\.absences: there is no client"):
        check_simulation(Simulation(absences={"north": [[1, 2]]}), Numbered(clients=3, rows=1))
