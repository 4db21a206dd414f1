"""What a site's training does to its worker process does nothing to its agent: it is told, and the next round works."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.engines.remote_team import Patience
from fedloom.engines.site_gate import OpenGate
from fedloom.engines.site_hand import Limits, chosen_cpus

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need pipes to pass on")
Make = Callable[..., Any]


def slow(*values: Any) -> Any:
    """Return values of a case that is left out of the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def failing(scene: Make, faulty: Path, fault: str, **settings: Any) -> Any:
    return scene(
        algorithm="faulty",
        arguments=f'fault = "{fault}"\nfolder = "{faulty}"',
        processes=["east"],
        prepare=False,
        policy="quorum = 2",
        **settings,
    )


def check_one_failure(federation: Any, found: Any, kind: str, detail: str) -> Any:
    """East has failed in round 2 alone, and its agent has gone on."""
    failures = [(record.round, failure) for record in found.records for failure in record.failures]
    assert [(number, each.client, each.kind, each.detail) for number, each in failures] == [(2, "east", kind, detail)]
    assert [len(record.included) for record in found.records] == [3, 2, 3]
    assert federation.places["east"].error is None and federation.places["east"].deaths == 0
    return failures[0][1]


def children() -> set[str]:
    """Return the processes that this one has started and that are workers of sites."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text()
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if "site_worker" in command and parent == str(os.getpid()):
                found.add(entry.name)
    return found


def until(holds: Callable[[], bool]) -> None:
    """Wait for another process: what was killed takes a moment to be gone."""
    tick = threading.Event()
    for _ in range(2000):
        if holds():
            return
        tick.wait(0.005)
    raise AssertionError("it never came to that")


def is_alive(process: int) -> bool:
    """Return whether a process runs: one that has ended and was not asked after is not alive."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_b5_code_that_raises_is_told_as_class_and_line_and_its_text_stays(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "raises", aggregator="secure_sum", sites=5)
    found = federation.run()
    failures = [failure for record in found.records for failure in record.failures]
    assert [(each.client, each.kind, each.detail) for each in failures] == [("east", "crashed", "ValueError")]
    where = failures[0].where
    line = 1 + (faulty / "fedloom_faulty.py").read_text().splitlines().index('        raise ValueError("secret 4711")')
    assert where is not None and where.endswith(f"fedloom_faulty.py:{line}")
    files = [path for path in (federation.folder / "coordinator").rglob("*") if path.is_file()]
    kept = [path.read_bytes() for path in files if path.name != "run.log"]  # of this process, and so of the sites, too
    assert kept and not any(b"secret 4711" in data for data in kept), "the text of an error has left the site"
    assert [len(record.included) for record in found.records] == [5, 4, 5]


class Telling(OpenGate):
    """A policy with ``errors = "full"``."""

    def tells_errors(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("aggregator", "told"), [("plain_sum", "ValueError: secret 4711"), ("secure_sum", "ValueError")]
)
def test_b5_the_message_of_an_error_leaves_where_the_policy_says_so_and_the_run_hides_nothing(
    aggregator: str, told: str, scene: Make, faulty: Path
) -> None:
    federation = failing(scene, faulty, "raises", aggregator=aggregator, sites=5, gate=Telling())
    failures = [failure for record in federation.run().records for failure in record.failures]
    assert [(each.client, each.kind, each.detail) for each in failures] == [("east", "crashed", told)]


@pytest.mark.parametrize(
    ("fault", "code"),
    [("exits", "WORKER_ENDED"), slow("is killed", "WORKER_KILLED"), slow("forks and exits", "WORKER_ENDED")],
)
def test_b6_a_worker_that_ends_is_told_and_replaced(fault: str, code: str, scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, fault)
    check_one_failure(federation, federation.run(), "crashed", code)


@pytest.mark.parametrize("fault", ["freezes", slow("waits")])
def test_b7_a_worker_that_hangs_is_ended(fault: str, scene: Make, faulty: Path) -> None:
    limits = Limits(idle_s=2.5) if fault == "freezes" else Limits(task_s=2.5)
    federation = failing(scene, faulty, fault, limits=limits)
    check_one_failure(federation, federation.run(), "crashed", "TASK_STALLED")


def test_b8_a_worker_that_waits_for_ever_holds_neither_round_nor_site(scene: Make, faulty: Path) -> None:
    """The site's heartbeats go on, the round closes at its deadline, and the site hears that it is over."""
    federation = failing(scene, faulty, "waits", patience=Patience(deadline_s=3.0), heartbeat_s=0.2)
    check_one_failure(federation, federation.run(), "late", "the site had not answered when the round closed")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("fault", ["forks", slow("forks and exits"), slow("forks and waits")])
def test_b9_what_a_task_has_started_ends_with_its_worker(fault: str, scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, fault, limits=Limits(task_s=4.0))
    alive: list[bool] = []

    def look(site: str, verb: str, when: str, request: Any) -> bool:
        if (site, verb, when) == ("east", "submit", "before") and request.key.round == 3:
            alive.append(is_alive(int((faulty / "child").read_text())))
        return False

    federation.on_call = look
    found = federation.run()
    child = int((faulty / "child").read_text())
    if fault == "forks":
        assert all(not record.failures for record in found.records) and alive[0], "its worker has not ended before"
    federation.end()
    until(lambda: not is_alive(child) and not children())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system lets no process choose its CPUs")
@pytest.mark.parametrize("cpu", [1, 64])
def test_a_worker_stays_on_the_cpus_of_its_policy_and_trains_the_same(cpu: int, scene: Make) -> None:
    federation = scene(processes=["east"], limits=Limits(cpu=cpu), sites=2)
    seen: set[frozenset[int]] = set()

    def look(site: str, verb: str, when: str, request: Any) -> bool:
        if (site, verb, when) == ("east", "submit", "before") and request.key.program == "train":
            seen.update(frozenset(os.sched_getaffinity(int(each))) for each in children())
        return False

    federation.on_call = look
    found = federation.run()
    allowed = os.sched_getaffinity(0)
    assert seen == {frozenset(chosen_cpus(allowed, cpu, run=found.run_id))}
    assert [len(each) for each in seen] == [min(cpu, len(allowed))]
    assert found.model_sha256 == federation.simulated().model_sha256


def test_runs_begin_on_different_cpus_and_none_gets_more_than_there_are() -> None:
    chosen = [chosen_cpus(range(8), 2, run=f"r{number}") for number in range(200)]
    assert {len(set(each)) for each in chosen} == {2}
    assert {cpu for each in chosen for cpu in each} == set(range(8))
    assert max(sum(each == other for other in chosen) for each in chosen) < 60, "of 200 in 8 places, 25 are due"
    assert chosen_cpus([3, 5], 9, run="r") == (3, 5)


def test_b1_a_worker_is_gone_when_its_agent_was_killed(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "", sites=3)
    federation.on_site_point = lambda site, name, times: site == "east" and name == "answer/written" and times == 2
    found = federation.run()
    assert federation.places["east"].deaths == 1
    assert found.model_sha256 == federation.simulated().model_sha256
    federation.end()
    assert not children()
