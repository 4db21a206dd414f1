"""What a site's training does to its worker process does nothing to its agent: it is told, and the next round works."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.engines.remote_team import Patience
from fedloom.engines.site_hand import Limits

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
    found = federation.run()
    child = int((faulty / "child").read_text())
    if fault == "forks":
        assert all(not record.failures for record in found.records) and is_alive(child)
    federation.end()
    assert not is_alive(child)
    assert not children()


def test_b1_a_worker_is_gone_when_its_agent_was_killed(scene: Make, faulty: Path) -> None:
    federation = failing(scene, faulty, "", sites=3)
    federation.on_site_point = lambda site, name, times: site == "east" and name == "answer/written" and times == 2
    found = federation.run()
    assert federation.places["east"].deaths == 1
    assert found.model_sha256 == federation.simulated().model_sha256
    federation.end()
    assert not children()
