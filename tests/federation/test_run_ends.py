"""How a run ends other than well, and what a site does with a run that it cannot or may not take part in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.ids import RoundNumber, RunId
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.errors import AlgorithmError, RunStopped
from fedloom.store.federation_rows import RoundKey
from fedloom.store.site_store import SiteStore

Make = Callable[..., Any]


def failing(scene: Make, faulty: Path, fault: str, **settings: Any) -> Any:
    return scene(algorithm="faulty", arguments=f'fault = "{fault}"\nfolder = "{faulty}"', prepare=False, **settings)


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


def test_a15_a_client_whose_update_is_not_finite_says_so_itself(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "nan", policy="quorum = 2")
    found = federation.run()
    assert [[each.client for each in record.failures] for record in found.records] == [[], ["east"], []]
    assert [len(record.included) for record in found.records] == [3, 2, 3]


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
    assert federation.open().store.runs.run(federation.run_id()).stage == "failed"
    assert not federation.trained()


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
    runs = [
        office.engine.submit(federation.experiment, name="trial", base=federation.base, request=name, at=at)
        for name, at in (("one", 1.0), ("two", 2.0))
    ]
    federation.on_point = lambda name, _times: _mend(name, office, runs, faulty)
    serving = threading.Thread(target=lambda: office.engine.serve(sites=lambda: federation.names))
    serving.start()
    until(lambda: office.store.runs.run(runs[1]).stage.startswith("completed"))
    office.desk.halt("done")
    serving.join(10.0)
    assert not serving.is_alive()
    assert [office.store.runs.run(run).stage for run in runs] == ["failed", "completed"]


def _mend(name: str, office: Any, runs: list[RunId], faulty: Path) -> bool:
    if name == "move run/committed" and office.store.runs.run(runs[0]).stage == "failed":
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
    federation.run()
    federation.end()
    for name in federation.names:
        with SiteStore(federation.folder / f"site-{name}") as store:
            assert store.unsubmitted() == ()
            for number in (1, 2):
                for program in ("train", "evaluate"):
                    key = RoundKey(federation.run_id(), 0, program, RoundNumber(number), 0)
                    assert store.outgoing(key, 0) is None, key
            last = RoundKey(federation.run_id(), 0, "train", RoundNumber(3), 0)
            assert store.outgoing(last, 0) is not None, "nobody has said yet that it is over"
