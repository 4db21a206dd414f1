"""Runs that wait for the word of their sites: none holds another, and nobody silent holds one for ever."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fedloom.core.data import Schema
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.engines import federation as federation_module
from fedloom.engines import site_agent
from fedloom.engines.handshake_round import HandshakeRounds
from fedloom.engines.remote_team import Patience
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.engines.site_gate import Undecided
from fedloom.errors import RunStopped
from fedloom.experiment.handshake import SiteFacts, installed_versions
from fedloom.store.federation_rows import Contribution, RoundKey

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sites that wait for their operators ask again soon, and the coordinator look after other runs each time."""
    monkeypatch.setattr(site_agent, "_HELD_S", 0.05)
    monkeypatch.setattr(federation_module, "_OTHERS_EVERY_S", 0.0)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    ready = threading.Event()
    for _ in range(4000):
        if holds():
            return
        ready.wait(0.005)
    raise AssertionError("it never came to that")


@contextmanager
def serving(federation: Any, **more: Any) -> Iterator[Any]:
    """Let a coordinator serve in a thread of its own."""
    office = federation.open()
    thread = threading.Thread(target=lambda: office.engine.serve(sites=lambda: federation.names, **more))
    thread.start()
    try:
        yield office
    finally:
        office.desk.halt("done")
        thread.join(20.0)
        assert not thread.is_alive()


def submitted(federation: Any, *names: str) -> list[RunId]:
    engine = federation.open().engine
    return [
        engine.submit(federation.experiment, name=name, base=federation.base, request=name, at=float(at))
        for at, name in enumerate(names)
    ]


class Operators:
    """The operators of all sites, who say yes to a run when a test lets them, and nothing before."""

    def __init__(self, federation: Any) -> None:
        self.yes: set[str] = set()
        self.no: set[str] = set()
        self.asked: set[tuple[str, str]] = set()
        federation.judge = self.judge
        federation.start_sites()

    def judge(self, found: Any) -> tuple[str, ...]:
        self.asked.add((threading.current_thread().name.removeprefix("site "), found.run))
        if found.run in self.no:
            return ("OUTSIDE_HOURS",)
        if found.run not in self.yes:
            raise Undecided("nobody has said")
        return ()


def stage(office: Any, run: RunId) -> str:
    return str(office.store.runs.run(run).stage)


def test_a_run_whose_sites_have_not_approved_lets_the_next_one_train(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=2)
    operators = Operators(federation)
    first, second = submitted(federation, "first", "second")
    during: list[tuple[str, RunId | None]] = []

    def look(record: Any) -> None:
        """In the middle of the second run, let the first begin."""
        if office.engine.current == second and record.round == 1:
            operators.yes.add(first)
            until(lambda: len(contributions(office, first, step=1)) == 2)
        elif office.engine.current == second:
            during.append((stage(office, first), office.engine.current))

    with serving(federation, on_round=[look]) as office:
        until(lambda: len(operators.asked) == 4)
        waiting = {task.site for task in office.store.rounds.tasks_of(key_of(first)) if task.stage != "settled"}
        assert waiting == set(federation.names), "for whom it waits can be seen"
        operators.yes.add(second)
        until(lambda: stage(office, first) == "completed")
    assert during == [("ready", second)], "it was ready while the other one trained, and waited its turn"
    assert stage(office, second) == "completed"
    model = federation.simulated().model_sha256
    for run in (first, second):
        assert model in (federation.folder / "coordinator/runs" / run / "record.json").read_text()


def test_runs_that_are_ready_begin_in_the_order_in_which_they_were_submitted(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=1)
    operators = Operators(federation)
    first, second, third = submitted(federation, "first", "second", "third")

    def look(_record: Any) -> None:
        """While the third trains, let the others be approved in the other order."""
        for run in (second, first):
            if office.engine.current == third:
                operators.yes.add(run)
                until(lambda run=run: len(contributions(office, run, step=1)) == 2)  # type: ignore[misc]

    with serving(federation, on_round=[look]) as office:
        until(lambda: len(operators.asked) == 6)
        operators.yes.add(third)
        until(lambda: all(stage(office, run) == "completed" for run in (first, second, third)))
    moved = [each.detail for each in office.store.events.since(0) if each.kind == "run"]
    assert [each["run"] for each in moved if each["stage"] == "running"] == [third, first, second]


def test_a_run_that_waits_is_aborted_and_the_one_that_trains_goes_on(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=2)
    operators = Operators(federation)
    first, second = submitted(federation, "first", "second")
    halted: list[str] = []

    def look(record: Any) -> None:
        if office.engine.current == second and record.round == 1:
            office.engine.abort(first, reason="a mistake")
            halted.append(office.desk.halted)

    with serving(federation, on_round=[look]) as office:
        until(lambda: len(operators.asked) == 4)
        operators.yes.add(second)
        until(lambda: stage(office, second) == "completed")
        until(lambda: office.store.rounds.open_round(first) is None)
    assert halted == [""], "nobody was disturbed"
    assert stage(office, first) == "aborted"
    assert office.store.rounds.round(key_of(first)).stage == "aborted", "no site is asked about it any more"
    assert "aborted: a mistake" in (federation.folder / "coordinator/runs" / first / "record.json").read_text()


def test_sites_that_refuse_end_their_run_and_no_other(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=1)
    operators = Operators(federation)
    first, second = submitted(federation, "first", "second")
    operators.no.add(first)
    operators.yes.add(second)
    with serving(federation) as office:
        until(lambda: stage(office, first) == "failed" and stage(office, second) == "completed")
    assert "site center: OUTSIDE_HOURS" in office.store.runs.run(first).reason
    assert office.store.rounds.open_round(first) is None


def test_a_run_whose_folder_is_gone_holds_no_other(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=1)
    operators = Operators(federation)
    first, second = submitted(federation, "first", "second")
    shutil.rmtree(federation.folder / "coordinator/runs" / first)
    operators.yes |= {first, second}
    with serving(federation) as office:
        until(lambda: stage(office, second) == "completed")
    assert stage(office, first) == "failed"


def test_a_handshake_goes_on_after_a_restart(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=1)
    operators = Operators(federation)
    (run,) = submitted(federation, "one")
    with serving(federation) as office:
        until(lambda: len(operators.asked) == 2)
        asked = {task.task for task in office.store.rounds.tasks_of(key_of(run))}
        said = contributions(office, run, step=0)
    federation.bury()
    with serving(federation) as office:
        operators.yes.add(run)
        until(lambda: stage(office, run) == "completed")
    assert {task.task for task in office.store.rounds.tasks_of(key_of(run))} == asked
    assert contributions(office, run, step=0) == said


def contributions(office: Any, run: RunId, *, step: int) -> list[Contribution]:
    return [sent for sent in office.store.rounds.contributions(key_of(run)) if sent.step == step]


# Patience, step by step ----------------------------------------------------------------------------------------------


FACTS = SiteFacts(
    schema=Schema(("age", "bp"), "ill"), splits=("train",), versions=installed_versions(["fedloom"])
).canonical


class Asked:
    """A run whose sites a test plays itself: what they say is put into the store by hand."""

    def __init__(self, federation: Any, **settings: Any) -> None:
        self.clock = federation.clock
        self.office = federation.open()
        self.names = tuple(federation.names)
        self.may = self.names
        (self.run,) = submitted(federation, "one")
        self.settings, self.experiment = settings, federation.experiment
        self.begin()

    def begin(self) -> None:
        """Begin as after a restart: nothing but the store is known."""
        run = self.office.store.runs.run(self.run)
        store, desk = self.office.store, self.office.desk
        self.rounds = HandshakeRounds(store, desk, run, self.experiment, **self.settings)

    def advance(self) -> Any:
        return self.rounds.advance(self.may)

    def say(self, step: int, *names: str, retry: int = 0) -> None:
        key = key_of(self.run, retry)
        blob = self.office.store.blobs.put(FACTS if step == 0 else b"yes")
        for name in names or self.names:
            sent = Contribution(**key._asdict(), step=step, site=ClientId(name), kind="message", blob=blob)
            assert self.office.store.rounds.accept(sent).verdict == "ACCEPTED"

    def given_up(self, retry: int = 0) -> list[tuple[str, int, str]]:
        found = self.office.store.rounds.contributions(key_of(self.run, retry))
        return [(sent.site, sent.step, sent.detail) for sent in found if sent.kind in ("lost", "late")]


def test_a_site_that_is_silent_is_left_out_before_anybody_has_to_look(scene: Make) -> None:
    clock = Clock()
    asked = Asked(scene(clock=clock), least=2, patience=Patience(lost_after_s=30.0))
    assert asked.advance() is None
    asked.say(0, "center", "north")
    clock.now = 29.0
    assert asked.advance() is None and asked.given_up() == []
    clock.now = 30.0
    assert asked.advance() is None
    assert asked.given_up() == [("east", 0, "nothing was heard of the site for 30 s")]
    assert asked.office.store.rounds.round(key_of(asked.run)).stage == "aborted"
    asked.say(0, "center", "north", retry=1)
    assert asked.advance() is None
    asked.say(1, "center", "north", retry=1)
    found = asked.advance()
    assert found.facts.names == ("center", "north")
    assert found.refused == {"east": "nothing was heard of the site for 30 s"}
    assert asked.advance().facts == found.facts, "asked again it says the same"


def test_a_site_that_is_heard_of_takes_its_time(scene: Make) -> None:
    clock = Clock()
    asked = Asked(scene(clock=clock), least=2, patience=Patience(lost_after_s=30.0))
    assert asked.advance() is None
    asked.say(0, "center", "north")
    clock.now = 29.0
    asked.office.desk.hear(ClientId("east"))
    clock.now = 58.0
    assert asked.advance() is None and asked.given_up() == []


def test_silent_sites_are_waited_for_where_too_few_would_be_left(scene: Make) -> None:
    clock = Clock()
    asked = Asked(scene(clock=clock), least=3, patience=Patience(lost_after_s=30.0))
    assert asked.advance() is None
    asked.say(0, "center", "north")
    clock.now = 1e6
    assert asked.advance() is None and asked.given_up() == []
    assert [task.site for task in asked.office.store.rounds.tasks(ClientId("east"))] == ["east"]
    asked.say(0, "east")
    assert asked.advance() is None
    assert len(asked.office.store.rounds.tasks_of(key_of(asked.run))) == 6, "all are asked whether they approve"


def test_an_approval_takes_as_long_as_it_takes(scene: Make) -> None:
    clock = Clock()
    asked = Asked(scene(clock=clock), least=2, patience=Patience(lost_after_s=30.0))
    assert asked.advance() is None
    asked.say(0)
    assert asked.advance() is None
    clock.now = 30 * 86400.0
    assert asked.advance() is None and asked.given_up() == []


def test_an_approval_has_its_time_where_it_is_set_and_downtime_is_not_counted(scene: Make) -> None:
    clock = Clock()
    asked = Asked(scene(clock=clock), least=2, patience=Patience(approval_s=3600.0))
    asked.advance()
    clock.now = 500.0
    asked.say(0)
    asked.advance()
    for clock.now in (1000.0, 2500.0, 4000.0):
        assert asked.advance() is None
    key = key_of(asked.run)
    assert asked.office.store.rounds.round(key).remaining_s == 100.0, "until when it waits can be seen"
    clock.now = 1e6
    asked.begin()
    assert asked.advance() is None and asked.given_up() == []
    clock.now += 99.0
    asked.say(1, "center", "east")
    assert asked.advance() is None and asked.given_up() == []
    clock.now += 1.0
    assert asked.advance() is None
    assert asked.given_up() == [("north", 1, "it had not answered within 3600 s")]
    asked.say(0, "center", "east", retry=1)
    asked.advance()
    asked.say(1, "center", retry=1)
    clock.now += 3600.0
    with pytest.raises(RunStopped, match=r"1 sites are left of the 2(.|\n)*site east: it had not answered within"):
        asked.advance()


def test_who_may_not_take_part_any_more_is_waited_for_no_longer(scene: Make) -> None:
    asked = Asked(scene(clock=Clock()), least=2)
    assert asked.advance() is None
    asked.say(0)
    assert asked.advance() is None
    asked.say(1, "center", "north")
    assert asked.advance() is None and asked.given_up() == []
    asked.may = ("center", "north")
    asked.advance()
    assert asked.given_up() == [("east", 1, "it may not take part any more")]
    assert [task.site for task in asked.office.store.rounds.tasks_of(key_of(asked.run, 1))] == ["center", "north"]


def key_of(run: RunId, retry: int = 0) -> RoundKey:
    return RoundKey(run, HANDSHAKE, "query", RoundNumber(0), retry)
