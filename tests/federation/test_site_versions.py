"""Sites with other versions of software: a run stops before it begins, or the difference is kept with it (B22)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from fedloom.cli.run_events import described
from fedloom.core.own_version import own_version
from fedloom.engines import site_worker
from fedloom.errors import RunStopped
from fedloom.experiment.handshake import installed_versions
from fedloom.transport.admin import RunEvent

Make = Callable[..., Any]
HERE = installed_versions([])


def pretending(monkeypatch: pytest.MonkeyPatch, other: Mapping[str, str]) -> None:
    """Let all sites say that they have other versions of some packages."""
    monkeypatch.setattr(site_worker, "installed_versions", lambda names: {**installed_versions(names), **other})


def other(version: str, *, place: int) -> str:
    """Return a version that differs from one in a place: 0 is the major number."""
    parts = [int(part) for part in version.split(".")[:2]]
    parts[place] += 1
    return ".".join(map(str, parts))


@pytest.mark.parametrize(
    ("package", "version", "words"),
    [
        ("fedloom", "99.0", f"site center: has fedloom 99.0; the run is of {own_version()}: install that version"),
        ("numpy", other(HERE["numpy"], place=0), f"the coordinator {HERE['numpy']}: expected the same major version"),
        ("python", other(HERE["python"], place=0), "expected the same major version"),
    ],
)
def test_b22_versions_that_cannot_work_together_stop_a_run_before_its_first_round(
    package: str, version: str, words: str, scene: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretending(monkeypatch, {package: version})
    federation = scene(sites=2, prepare=False)
    with pytest.raises(RunStopped, match="the sites do not have the same versions") as stopped:
        federation.run()
    assert words in str(stopped.value)
    assert federation.records == []
    store = federation.open().store
    assert store.runs.run(federation.run_id()).stage == "failed"
    assert words in store.runs.run(federation.run_id()).reason


def test_b22_another_minor_version_is_kept_with_the_run_which_goes_on(
    scene: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = other(HERE["numpy"], place=1)
    pretending(monkeypatch, {"numpy": theirs})
    federation = scene(sites=2, prepare=False, rounds=1)
    federation.run()
    events = [event for event in federation.open().store.events.since(0) if event.kind == "versions"]
    words = f"has numpy {theirs}, the coordinator {HERE['numpy']}: last bits may differ"
    assert [event.detail for event in events] == [
        {"run": federation.run_id(), "site": site, "words": words} for site in ("center", "east")
    ]
    first = events[0]
    said = RunEvent(sequence=first.seq, time_s=0.0, kind=first.kind, data=msgspec.json.encode(first.detail))
    assert described(said) == f"00:00:00  center {words}"


def test_b22_the_same_versions_are_no_event(scene: Make) -> None:
    federation = scene(sites=2, prepare=False, rounds=1)
    federation.run()
    assert not [event for event in federation.open().store.events.since(0) if event.kind == "versions"]
