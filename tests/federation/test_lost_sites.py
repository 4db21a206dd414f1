"""Sites that do not answer: what is given up is written down first, and a sum that goes on is the same for ever."""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from fedloom.core.ids import ClientId
from fedloom.engines.remote_team import Patience
from fedloom.errors import RunStopped, StoreError
from fedloom.store.documents import read_outcome
from fedloom.store.federation_rows import RoundKey
from fedloom.store.site_store import SiteStore
from fedloom.transport.errors import Code, Refused

Make = Callable[..., Any]


def slow(*values: Any) -> Any:
    """Return values of a case that is left out of the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Silence:
    """Cuts sites off at a step of a round, for good or until that round is over, and lets time pass for the others."""

    def __init__(self, federation: Any, sites: tuple[str, ...], *, step: int, round_number: int, clock: Clock) -> None:
        self.federation, self.sites, self.step, self.round = federation, sites, step, round_number
        self.clock = clock
        self.cut: set[str] = set()
        federation.on_call = self.at
        federation.revive = lambda site: site not in self.cut
        threading.Thread(target=self.let_time_pass, daemon=True).start()

    def at(self, site: str, verb: str, when: str, request: Any) -> bool:
        if site not in self.sites or verb != "begin_upload" or when != "before":
            return False
        task = self.federation.present().store.rounds.task(request.task)
        if (task.program, task.round, task.step) != ("train", self.round, self.step):
            return False
        self.cut.add(site)
        return True

    def let_time_pass(self) -> None:
        """Let so much time pass that a site is lost, whenever the round waits for nobody else."""
        tick = threading.Event()
        while not self.federation.ending:
            tick.wait(0.03)
            office, run = self.federation.alive(), self.federation.run_now
            if office is None or run is None or not self.cut:
                continue
            with suppress(StoreError), office.in_call():
                found = office.store.rounds.open_round(run)
                tasks = () if found is None else office.store.rounds.tasks_of(found.key)
                waiting = {task.site for task in tasks if task.stage != "settled"}
                if found is None:  # it may be waiting before it opens a round again
                    self.clock.now += 5.0
                    office.desk.wake()
                elif waiting and waiting <= self.cut:
                    self.clock.now += 100.0
                    office.desk.wake()


def losing(
    scene: Make, step: int, *, sites: tuple[str, ...] = ("east",), round_number: int = 1, **settings: Any
) -> tuple[Any, Silence]:
    """Return a federation in which sites are lost at a step of a round."""
    clock = Clock()
    usual: dict[str, Any] = {"sites": 5, "aggregator": "secure_sum", "prepare": False, "rounds": 2}
    usual |= {"policy": "quorum = 3\nretries = 0", "patience": Patience(lost_after_s=50.0), "clock": clock}
    federation = scene(**(usual | settings))
    return federation, Silence(federation, sites, step=step, round_number=round_number, clock=clock)


def messages(federation: Any) -> list[tuple[Any, int, str]]:
    return [(sent.key, sent.step, sent.site) for sent in federation.contributions() if sent.phase >= 0]


def the_model_of_a_plain_sum(scene: Make, round_number: int) -> str:
    """Return the model of the sum in the clear, with east lost from a round on."""
    federation, _ = losing(scene, 0, round_number=round_number, aggregator="plain_sum", exact=True)
    model: str = federation.run().model_sha256
    return model


@pytest.mark.parametrize("step", [0, slow(1), 2, slow(3), 4])
def test_a_site_lost_at_a_step_of_a_secure_sum(step: int, scene: Make) -> None:
    """Before its vector it is left out; after, its vector is in the sum and the others unmask it."""
    federation, silence = losing(scene, step)
    found = federation.run()
    first, second = found.records
    assert silence.cut == {"east"}
    others = ("center", "north", "south", "west")
    vector = 2
    assert first.included == (others if step <= vector else ("center", "east", *others[1:]))
    assert second.included == others
    assert {(each.client, each.kind) for each in first.failures} == {("east", "lost")}
    assert len(messages(federation)) == len(set(messages(federation)))
    steps = [sent.step for sent in federation.contributions() if (sent.round, sent.kind) == (1, "lost")]
    assert max(steps) == step
    assert found.model_sha256 == the_model_of_a_plain_sum(scene, 1 if step <= vector else 2)


@pytest.mark.parametrize("step", [slow(0), slow(1), 2, slow(3), 4])
def test_a_secure_sum_below_its_threshold_opens_nothing(step: int, scene: Make) -> None:
    federation, silence = losing(scene, step, sites=("east", "west"))
    with pytest.raises(RunStopped, match=r"3 of 5 clients .*; at least 4 must\. Nothing was opened"):
        federation.run()
    assert silence.cut == {"east", "west"}
    run = federation.open().store.runs.run(federation.run_id())
    assert (run.stage, "Nothing was opened" in run.reason) == ("waiting_for_sites", True)


@pytest.mark.parametrize("step", [slow(1), 2, slow(3), 4])
def test_a_site_that_has_lost_its_side_of_a_sum_makes_no_second_message(step: int, scene: Make) -> None:
    federation, _ = losing(scene, 99)
    robbed: list[str] = []

    def at(site: str, verb: str, when: str, request: Any) -> bool:
        if site != "east" or robbed or (verb, when) != ("claim", "before"):
            return False
        task = federation.present().store.rounds.task(request.task)
        return (task.phase, task.program, task.round, task.step) == (0, "train", 1, step)

    def rob(site: str) -> bool:
        robbed.append(site)
        with SiteStore(federation.folder / f"site-{site}") as store:
            store.sessions(federation.run_id()).end(ClientId(site))
        return True

    federation.on_call, federation.revive = at, rob
    found = federation.run()
    assert robbed == ["east"]
    first, second = found.records
    assert {(each.client, each.kind, each.detail) for each in first.failures} == {("east", "lost", "LOST_STATE")}
    assert ("east" in first.included) == (step > 2) and "east" in second.included
    assert [site for key, at_, site in messages(federation) if (key.round, key.program, at_) == (1, "train", step)]


@pytest.mark.parametrize("lost", [slow(None), 2])
def test_a1_killed_between_any_two_steps_of_a_secure_sum(lost: int | None, scene: Make) -> None:
    """One life for each step of each sum: the same sum, and one message of each site for each step."""
    federation, _ = losing(scene, 99 if lost is None else lost)
    killed: set[Any] = set()

    def between(name: str, _times: int) -> bool:
        if name != "offer/committed":
            return False
        book = federation.open().store.rounds
        found = book.open_round(federation.run_id())
        step = max(task.step for task in book.tasks_of(found.key))
        fresh = (found.key, step) not in killed
        killed.add((found.key, step))
        return fresh

    federation.on_point = between
    found = federation.run()
    assert federation.lives > 15
    assert len(messages(federation)) == len(set(messages(federation)))
    assert set(federation.trained().values()) == {1}
    undisturbed, _ = losing(scene, 99 if lost is None else lost)
    expected = undisturbed.run()
    assert found.model_sha256 == expected.model_sha256
    assert [(r.round, r.included, r.failures, r.bytes_up) for r in found.records] == [
        (r.round, r.included, r.failures, r.bytes_up) for r in expected.records
    ]
    assert Counter(at[1:] for at in messages(federation)) == Counter(at[1:] for at in messages(undisturbed))


def test_b10_a_site_that_never_returns_is_lost_and_the_round_goes_on(scene: Make) -> None:
    federation, _ = losing(scene, 0, aggregator="plain_sum")
    found = federation.run()
    for record in found.records:
        assert [(each.client, each.kind, each.detail) for each in record.failures][:1] == [
            ("east", "lost", "nothing was heard of the site for 50 s")
        ]
        assert "east" not in record.included and len(record.included) == 4


def test_b10_below_the_quorum_the_run_stops_and_says_for_whom_it_waited(scene: Make) -> None:
    federation, _ = losing(scene, 0, sites=("east", "north", "west"), aggregator="plain_sum")
    with pytest.raises(RunStopped, match="2 of 5 clients sent an update; 3 are needed") as stopped:
        federation.run()
    assert "east: lost" in str(stopped.value)


def test_b10_a_run_that_waits_for_its_sites_goes_on_when_they_are_back(scene: Make) -> None:
    """The round is opened again as often as the policy has it, then once more as often: each time as a new retry."""
    federation, silence = losing(scene, 0, sites=("east", "north", "west"), aggregator="plain_sum")
    with pytest.raises(RunStopped, match="2 of 5 clients sent an update; 3 are needed"):
        federation.run()
    store, run = federation.open().store, federation.run_id()
    place = federation.folder / "coordinator/runs" / run
    assert store.runs.run(run).stage == "waiting_for_sites"
    assert read_outcome(place).status == "paused"
    with pytest.raises(RunStopped, match="round 1 was short of updates 2 times"):
        store.runs.move(run, "running")
        federation.run()
    silence.cut.clear()
    federation.on_call = lambda *_said: False
    federation.start_sites(["east", "north", "west"])
    store.runs.move(run, "running")
    found = federation.run()
    assert [(record.round, record.retry, record.status) for record in found.records] == [
        (1, 0, "retried"), (1, 1, "retried"), (1, 2, "closed"), (2, 0, "closed"),
    ]  # fmt: skip
    assert len(found.records[2].included) == 5
    assert (store.runs.run(run).stage, read_outcome(place).status) == (
        "completed_with_warnings", "completed with warnings",
    )  # fmt: skip


def test_b10_a_policy_that_stops_ends_the_run(scene: Make) -> None:
    federation, _ = losing(
        scene, 0, sites=("east", "north", "west"), aggregator="plain_sum", policy='quorum = 3\non_short = "stop"'
    )
    with pytest.raises(RunStopped, match="2 of 5 clients sent an update"):
        federation.run()
    assert federation.open().store.runs.run(federation.run_id()).stage == "failed"


def test_b10_a_short_round_is_opened_again_after_a_while(scene: Make, caplog: pytest.LogCaptureFixture) -> None:
    federation, _ = losing(scene, 0, aggregator="plain_sum", policy="quorum = 5\nretries = 2")
    with (
        caplog.at_level(logging.WARNING, "fedloom.engines.remote_team"),
        pytest.raises(RunStopped, match="short of updates 3 times"),
    ):
        federation.run()
    said = [each.getMessage() for each in caplog.records if "is opened in" in each.getMessage()]
    assert [words.split(":")[0] for words in said] == [
        "round=1 retry=1 is opened in 1 s", "round=1 retry=2 is opened in 2 s",
    ]  # fmt: skip


def test_b10_what_comes_after_the_deadline_is_kept_and_not_counted(scene: Make) -> None:
    clock = Clock()
    federation = scene(prepare=False, policy="quorum = 2", patience=Patience(deadline_s=30.0), clock=clock, rounds=2)
    late: list[str] = []

    def at(site: str, verb: str, when: str, request: Any) -> bool:
        if (site, verb, when) == ("east", "submit", "before") and request.key.phase == 1 and not late:
            late.append(request.task)
            others = {"center", "north"}
            book = federation.open().store.rounds
            key = book.task(request.task).key
            _until(lambda: {sent.site for sent in book.contributions(key)} >= others)
            clock.now += 31.0
            federation.open().desk.wake()
            _until(lambda: book.round(key).stage == "committed")
        return False

    federation.on_call = at
    found = federation.run()
    assert [(each.client, each.kind) for each in found.records[0].failures] == [("east", "late")]
    assert found.records[1].included == ("center", "east", "north") and late
    book = federation.open().store.rounds
    (first,) = (r.key for r in book.rounds(federation.run_id()) if (r.program, r.round) == ("train", 1))
    assert [(sent.site, sent.kind) for sent in book.too_late(first)] == [("east", "message")]


def test_a1_b10_the_time_that_a_coordinator_was_down_does_not_bring_a_deadline_nearer(scene: Make) -> None:
    clock = Clock()
    settings: dict[str, Any] = {"policy": "quorum = 2", "patience": Patience(deadline_s=30.0), "clock": clock}
    federation = scene(prepare=False, rounds=1, **settings)
    federation.on_call = lambda site, verb, _when, request: (
        (site, verb) == ("east", "submit") and request.key.phase == 1
    )
    federation.revive = lambda _site: False
    left: list[float | None] = []

    def first_round() -> Any:
        rounds = federation.present().store.rounds.rounds(federation.run_now)
        return next(each for each in rounds if each.program == "train")

    def pass_time() -> None:
        _until(lambda: federation.run_now is not None and federation.places["east"].deaths == 1)
        office = federation.present()
        _until(lambda: first_round().arrivals == 2)
        clock.now += 20.0
        office.desk.wake()
        _until(lambda: first_round().remaining_s == 10.0)
        office.kill()
        clock.now += 1000.0
        _until(lambda: federation.lives == 2)
        federation.present().desk.wake()
        left.append(first_round().remaining_s)
        while not done.wait(0.01):  # the new life counts from when it opens the round
            clock.now += 0.5
            federation.present().desk.wake()

    done = threading.Event()
    passing = threading.Thread(target=pass_time)
    passing.start()
    try:
        found = federation.run()
    finally:
        done.set()
        passing.join(20.0)
    assert left == [10.0]
    assert [(each.client, each.kind) for each in found.records[0].failures][:1] == [("east", "late")]
    assert 30.0 <= first_round().spent_s < 60.0


@pytest.mark.parametrize("verb", ["claim", "fetch", "begin_upload", "submit"])
def test_a_task_that_is_settled_while_its_site_is_at_it_is_dropped(verb: str, scene: Make) -> None:
    federation = scene(prepare=False, policy="quorum = 2", rounds=2)
    settled: list[RoundKey] = []

    def at(site: str, said: str, when: str, _request: Any) -> bool:
        if (site, said, when) == ("east", verb, "before") and not settled:
            book = federation.present().store.rounds
            found = book.open_round(federation.run_now)
            if found is not None and found.phase == 0:
                settled.append(found.key)
                book.give_up(found.key, 0, ClientId("east"), kind="late", detail="too late")
        return False

    federation.on_call = at
    found = federation.run()
    assert [(each.client, each.kind) for each in found.records[0].failures] == [("east", "late")]
    assert found.records[1].included == ("center", "east", "north") and settled
    assert federation.places["east"].error is None


@pytest.mark.parametrize("how", ["another store", "a backup"])
def test_b25_a_site_whose_store_went_back_takes_no_part(how: str, scene: Make) -> None:
    federation, silence = losing(scene, 0, aggregator="plain_sum")
    folder, backup = federation.folder / "site-east", federation.folder / "backup"

    def restore(_site: str) -> bool:
        shutil.rmtree(folder)
        if how == "a backup":
            shutil.copytree(backup, folder)
        return True

    if how == "a backup":
        SiteStore(folder).close()
        shutil.copytree(folder, backup)
    federation.revive = restore
    found = federation.run()
    assert silence.cut == {"east"}
    federation.places["east"].thread.join(10.0)
    error = federation.places["east"].error
    assert isinstance(error, Refused) and error.refusal.code == Code.LOST_STATE
    assert all("east" not in record.included and len(record.included) == 4 for record in found.records)


def _until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    ready = threading.Event()
    for _ in range(4000):
        if holds():
            return
        ready.wait(0.005)
    raise AssertionError("it never came to that")
