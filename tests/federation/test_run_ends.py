"""How a run ends other than well, and what a site does with a run that it cannot or may not take part in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.engines.remote_team import RemoteTeam
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.engines.site_record import is_over
from fedloom.errors import AlgorithmError, RunStopped, StoreError
from fedloom.store.documents import read_outcome
from fedloom.store.federation_rows import RoundKey
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs

Make = Callable[..., Any]


def failing(scene: Make, faulty: Path, fault: str, **settings: Any) -> Any:
    return scene(algorithm="faulty", arguments=f'fault = "{fault}"\nfolder = "{faulty}"', prepare=False, **settings)


def failed(scene: Make, faulty: Path, **settings: Any) -> Any:
    """Return a federation whose run failed in the server step of round 2, and the algorithm mended since."""
    federation = failing(scene, faulty, "server raises", **settings)
    with pytest.raises(AlgorithmError):
        federation.run()
    (faulty / "mended").touch()
    return federation


@pytest.mark.parametrize(
    ("fault", "words"),
    [("server raises", r"raised ValueError: secret 4711 .*fedloom_faulty.py:\d+"), ("server nan", "NaN")],
)
def test_a14_a15_a_server_step_that_raises_or_is_not_finite_commits_nothing(
    fault: str, words: str, scene: Make, faulty: Path
) -> None:
    federation = failing(scene, faulty, fault)
    with pytest.raises(AlgorithmError, match=words):
        federation.run()
    assert [record.round for record in federation.records] == [1], "the round before it stays"
    book, run = federation.open().store.rounds, federation.run_id()
    assert federation.open().store.runs.run(run).stage == "failed"
    (key,) = (each.key for each in book.rounds(run) if (each.program, each.round) == ("train", 2))
    kept = book.contributions(key)
    assert len(kept) == 3
    for sent in kept:
        assert federation.open().store.blobs.read(sent.blob), "what the sites sent is kept"


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
@pytest.mark.parametrize("crashes", [False, True])
def test_a14_a_mended_algorithm_goes_on_with_what_the_sites_had_sent(
    crashes: bool, aggregator: str, scene: Make, faulty: Path
) -> None:
    federation = failed(scene, faulty, aggregator=aggregator)
    before = [(sent.key, sent.step, sent.site, sent.blob) for sent in federation.contributions()]
    trained = federation.trained()
    place = federation.folder / "coordinator/runs" / federation.run_id()
    outcome = read_outcome(place)
    assert outcome is not None and outcome.status == "failed"
    assert "algorithm error: round 2" in str(outcome.summary["reason"])
    left = {"reopen run/written", "state/before", "end round/written"} if crashes else set()

    def at(name: str, _times: int) -> bool:
        fresh = name in left
        left.discard(name)
        return fresh

    federation.on_point = at
    while federation.open().store.runs.run(federation.run_id()).stage == "failed":
        try:
            federation.open().engine.reopen(federation.run_id(), from_round=2)
        except federation.killed:
            federation.bury()
    found = federation.run()
    assert federation.lives == (4 if crashes else 1)
    assert found.model_sha256 == federation.simulated().model_sha256
    assert [record.round for record in found.records] == [1, 2, 3]
    after = [(sent.key, sent.step, sent.site, sent.blob) for sent in federation.contributions()]
    assert [sent for sent in after if sent in before] == before
    assert len({sent[:3] for sent in after}) == len(after)
    assert set(federation.trained().values()) == {1}, "a site trained twice for one order"
    assert trained.keys() <= federation.trained().keys()
    assert federation.open().store.runs.run(federation.run_id()).stage == "completed"
    outcome = read_outcome(place)
    assert outcome is not None and (outcome.status, outcome.rounds) == ("completed", 3)
    stages = [each.detail["stage"] for each in federation.open().store.events.since(0) if each.kind == "run"]
    assert stages[-3:] == ["failed", "running", "completed"]


def test_a14_only_the_round_that_failed_can_be_named(scene: Make, faulty: Path) -> None:
    federation = failed(scene, faulty, sites=2)
    engine, run = federation.open().engine, federation.run_id()
    with pytest.raises(RunStopped, match="failed in round 2; received --from-round 1: a finished round is never"):
        engine.reopen(run, from_round=1)
    with pytest.raises(RunStopped, match="received --from-round 3: a later one has not begun"):
        engine.reopen(run, from_round=3)
    assert federation.open().store.runs.run(run).stage == "failed"
    engine.reopen(run, from_round=2)
    federation.run()
    with pytest.raises(StoreError, match="is completed: a round is named for one that failed"):
        engine.reopen(run, from_round=2)


def test_a14_a_mended_algorithm_that_asks_something_else_is_refused(
    scene: Make, faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = failed(scene, faulty, sites=2)
    federation.open().engine.reopen(federation.run_id(), from_round=2)
    with monkeypatch.context() as patched, pytest.raises(AlgorithmError, match="more than its server step"):
        patched.setattr(RemoteTeam, "_put_orders", put_others)
        federation.run()
    assert federation.open().store.runs.run(federation.run_id()).stage == "failed"
    federation.open().engine.reopen(federation.run_id(), from_round=2)
    assert federation.run().model_sha256 == federation.simulated().model_sha256


def put_others(team: Any, orders: Any) -> Any:
    """Store orders of another text than those of the algorithm."""
    return {order.committed: team._store.blobs.put(b"another order") for order in orders.values()}


def test_a15_a_client_whose_update_is_not_finite_says_so_itself(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "nan", policy="quorum = 2")
    found = federation.run()
    assert [[each.client for each in record.failures] for record in found.records] == [[], ["east"], []]
    assert [len(record.included) for record in found.records] == [3, 2, 3]


def test_b5_a_site_whose_work_fails_again_and_again_is_suspended_and_let_in_again(scene: Make, faulty: Path) -> None:
    arguments = f'fault = "raises"\nat = 0\nfolder = "{faulty}"'
    federation = scene(algorithm="faulty", arguments=arguments, prepare=False, policy="quorum = 2", rounds=5)
    found = federation.run()
    assert [[(each.client, each.kind) for each in record.failures][:1] for record in found.records] == [
        *[[("east", "crashed")]] * 3, *[[("east", "lost")]] * 2,
    ]  # fmt: skip
    why = "its work failed in 3 rounds in a row, in the last one: crashed"
    assert found.records[3].failures[0].detail == f"the site is suspended: {why}"
    sites = federation.open().store.sites
    assert sites.suspended(ClientId("east")) == why
    sites.suspend(ClientId("east"), None)
    again = federation.open().engine.submit(federation.experiment, name="again", base=federation.base, request="two")
    second = federation.open().engine.carry_on(again, sites=federation.names)
    assert second.records[0].failures[0].kind == "crashed", "it is asked again"


def test_d13_a_site_that_may_not_take_part_is_left_out_and_the_others_go_on(scene: Make) -> None:
    federation = scene(sites=4)
    asked: list[Any] = []

    def judge(found: Any) -> tuple[str, ...]:
        asked.append(found.facts)
        return ("POLICY_PACKAGE",) if threading.current_thread().name == "site east" else ()

    federation.judge = judge
    found = federation.run()
    assert all(record.included == ("center", "north", "south") for record in found.records)
    assert not any(site == "east" for site, *_ in federation.trained())
    said = [(sent.site, sent.kind, sent.detail) for sent in federation.contributions() if sent.kind == "refused"]
    assert said == [("east", "refused", "POLICY_PACKAGE")]
    assert len({facts.digest for facts in asked}) == 2, "who takes part is a part of what is approved"


def test_d13_too_few_left_ends_the_run_and_names_each(scene: Make) -> None:
    federation = scene(least=3)
    federation.judge = lambda _asked: ("OUTSIDE_HOURS",) if threading.current_thread().name == "site east" else ()
    with pytest.raises(RunStopped, match="2 sites are left of the 3 that the run needs") as stopped:
        federation.run()
    assert "site east: OUTSIDE_HOURS" in str(stopped.value)
    run, store = federation.run_id(), federation.open().store
    assert store.runs.run(run).stage == "failed"
    assert not federation.trained()
    assert store.rounds.open_round(run) is None, "no site works for it any more"
    with pytest.raises(RunStopped, match="did not fail in its server step"):
        federation.open().engine.reopen(run, from_round=0)


@pytest.mark.parametrize("told", [b"\x00\xff", b"{}", b"[1]", b'{"data": {"group": 1}}'])
def test_a_run_that_a_site_cannot_read_is_refused_and_the_site_goes_on(told: bytes, scene: Make) -> None:
    federation = scene(sites=2)
    office = federation.open()
    federation.start_sites()
    key = RoundKey(RunId("strange"), HANDSHAKE, "query", RoundNumber(0), 0)
    office.store.rounds.plan(key, cohort=tuple(federation.names))
    office.store.rounds.offer(key, 0, {name: (office.store.blobs.put(told),) for name in federation.names})
    office.desk.wake()
    until(lambda: len(office.store.rounds.contributions(key)) == 2)
    said = [(sent.kind, sent.detail) for sent in office.store.rounds.contributions(key)]
    assert said == [("refused", "PlanError")] * 2
    office.store.rounds.move(key, "aborted")
    assert federation.run().model_sha256 == federation.simulated().model_sha256
    assert [place.error for place in federation.places.values()] == [None, None]


def test_a_request_that_is_made_twice_makes_one_run(scene: Make) -> None:
    federation = scene(sites=2)
    found = federation.run()
    office = federation.open()
    again = office.engine.submit(federation.experiment, name="trial", base=federation.base, request="one")
    assert again == found.run_id and len(office.store.runs.all()) == 1
    assert len([path for path in (federation.folder / "coordinator" / "runs").iterdir() if path.is_dir()]) == 1


def test_runs_wait_for_each_other_and_a_run_that_fails_does_not_hold_the_next(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "server raises", sites=2)
    federation.start_sites()
    office = federation.open()
    runs: list[RunId] = []
    federation.on_point = lambda name, _times: _mend(name, office, runs, faulty)
    serving = threading.Thread(target=lambda: office.engine.serve(sites=lambda: federation.names))
    serving.start()
    submit = partial(office.engine.submit, federation.experiment, name="trial", base=federation.base)
    runs.append(submit(request="one"))
    until(lambda: office.store.runs.run(runs[0]).stage != "awaiting_approval")  # else the other may be agreed on first
    runs.append(submit(request="two"))
    until(lambda: office.store.runs.run(runs[1]).stage.startswith("completed"))
    office.desk.halt("done")
    serving.join(10.0)
    assert not serving.is_alive()
    assert [office.store.runs.run(run).stage for run in runs] == ["failed", "completed"]


def _mend(name: str, office: Any, runs: list[RunId], faulty: Path) -> bool:
    if name == "fail/committed" and office.store.runs.run(runs[0]).stage == "failed":
        (faulty / "mended").touch()
    return False


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    ready = threading.Event()
    for _ in range(3000):
        if holds():
            return
        ready.wait(0.005)
    raise AssertionError("it never came to that")


def test_a_site_keeps_nothing_of_rounds_that_are_over(scene: Make) -> None:
    federation = scene(aggregator="secure_sum", rounds=3, prepare=False)
    looked: list[str] = []
    left: list[RoundKey] = []

    def look(site: str, verb: str, when: str, request: Any) -> bool:
        if (verb, when) == ("submit", "before") and (request.key.program, request.key.round) == ("train", 3):
            store = federation.places[site].agent._store
            run = RunId(request.key.run)
            over = [RoundKey(run, 0, each, RoundNumber(n), 0) for n in (1, 2) for each in ("train", "evaluate")]
            left.extend(key for key in over if store.outgoing(key, 0) is not None)
            assert store.outgoing(RoundKey(run, 0, "train", RoundNumber(3), 0), 0) is not None
            looked.append(site)
        return False

    federation.on_call = look
    federation.run()
    assert set(looked) == set(federation.names)
    assert not left


def kept_of(federation: Any) -> dict[str, list[str]]:
    """Return what each site has left of any run, and its problem where it had one."""
    found = {}
    for name, place in federation.places.items():
        with SiteStore(federation.folder / f"site-{name}") as store:
            files = [path.name for path in (store.folder / "experiments").glob("*")]
            found[name] = [
                *store.kept_runs(),
                *(out.run for out in store.unsubmitted()),
                *files,
                *map(str, [place.error]),
            ]
    return found


def let_go(federation: Any, run: RunId) -> bool:
    """Return whether every site has let go of a run."""
    try:
        chains = [place.agent._store.events.since(0, limit=10_000) for place in federation.places.values()]
    except StoreError:  # one was killed, and begins anew
        return False
    return all(any(each.kind == "end run" and each.detail["run"] == run for each in chain) for chain in chains)


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
def test_a_run_that_is_over_leaves_nothing_at_its_sites(aggregator: str, scene: Make) -> None:
    federation = scene(aggregator=aggregator, algorithm="scaffold", prepare=False)
    closed: list[str] = []
    federation.on_close = closed.append
    found = federation.run()
    until(lambda: let_go(federation, found.run_id))
    assert set(closed) == set(federation.names), "its worker goes with it"
    federation.end()
    assert kept_of(federation) == {name: ["None"] for name in federation.names}
    with SiteStore(federation.folder / "site-east") as store:
        assert store.reserve_numbers(found.run_id, 1) > 1, "numbers that were used are not given again"


def test_a_run_that_failed_or_was_ended_by_hand_is_over_for_its_sites_too(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "server raises", sites=2)
    with pytest.raises(AlgorithmError):
        federation.run()
    office, run = federation.open(), federation.run_id()
    assert not is_over(office.store, run), "it can be resumed: client states are needed then"
    office.engine.abort(run, reason="nobody mends it")
    assert is_over(office.store, run)
    with pytest.raises(RunStopped, match="did not fail in its server step"):
        office.engine.reopen(run, from_round=2)
    with pytest.raises(StoreError, match="is at its end"):
        office.engine.abort(run, reason="again")
    until(lambda: let_go(federation, federation.run_id()))
    federation.end()
    assert kept_of(federation) == {name: ["None"] for name in federation.names}


@pytest.mark.parametrize("point", ["end run/written", "end run/committed"])
def test_a_site_that_is_killed_while_it_lets_go_of_a_run_does_it_at_its_next_start(point: str, scene: Make) -> None:
    federation = scene(algorithm="scaffold", prepare=False)
    federation.on_site_point = lambda _site, name, times: name == point and times == 1
    found = federation.run()
    until(lambda: all(place.deaths == 1 for place in federation.places.values()))
    until(lambda: let_go(federation, found.run_id))
    federation.end()
    assert kept_of(federation) == {name: ["None"] for name in federation.names}


def test_a_site_is_told_only_of_runs_that_are_over_and_asked_it_for_something(scene: Make) -> None:
    federation = scene(sites=3, rounds=1)
    federation.start_sites(["center", "east"])
    office = federation.open()
    runs = [
        office.engine.submit(federation.experiment, name="trial", base=federation.base, request=name) for name in "ab"
    ]
    office.engine.carry_on(runs[0], sites=federation.names[:2])
    for place in federation.places.values():
        place.agent.stop()
    office.desk.halt("so that polls end")
    for place in federation.places.values():
        place.thread.join(10.0)
    office.desk.resume()

    def told(name: str) -> tuple[str, ...]:
        line = federation.wire(name)
        with SiteStore(federation.folder / f"site-{name}") as store:
            heads = {"store_epoch": str(store.epoch), "events_head": str(store.events.head())}
        session = line.hello(verbs.Hello(federation="trial", version="0.1", **heads)).session
        return tuple(line.poll(verbs.Poll(session=session, wait_s=0.0, runs=(*runs, "unknown"))).ended)

    assert told("center") == (runs[0],)
    assert told("south") == ()
