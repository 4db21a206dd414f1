"""``fedloom doctor``: what it looks at, and when it calls something a problem."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.cli import doctor
from fedloom.cli.doctor import examine
from fedloom.cli.findings import Finding

Run = Callable[..., tuple[int, str, str]]


def by_subject(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_a_sound_machine_has_no_problems_and_is_asked_without_network(
    tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the doctor called somebody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    code, out, err = command("doctor")
    assert (code, err) == (0, "") and out.endswith("\nno problems\n")
    for subject in ("Python", "fedloom", "BLAS", "cores", "memory", "run folder", "free disk", "terminal", "clock"):
        assert f" {subject}: " in out, subject
    assert not list(tmp_path.iterdir())
    found = json.loads(command("doctor", "--json")[1])
    assert found["problems"] == 0 and {each["level"] for each in found["findings"]} <= {"ok", "warning"}


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path, command: Run) -> None:
    (tmp_path / "taken").write_text("")
    code, out, err = command("doctor", "--output", "taken")
    assert (code, err) == (1, "") and "problem  run folder: " in out and "--output FOLDER" in out
    assert out.endswith("1 problem: see above\n")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no folder that nobody can write")
def test_a_folder_that_refuses_files_is_a_problem() -> None:
    found = by_subject(examine(Path("/proc/runs")))
    assert found["run folder"].level == "problem" and "cannot be written" in found["run folder"].value


def test_a_clock_that_was_never_set_and_a_full_disk_are_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    found = by_subject(examine(tmp_path, now=lambda: 0.0))
    assert found["clock"].level == "warning" and found["clock"].value.startswith("1970-01-01")
    assert found["free disk"].level == "warning" and found["free disk"].value == "1.0 kB"


def test_packages_that_are_missing_are_problems_and_extras_are_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["numpy>=2.0", "no-such-package (>=1)", 'neither-this>=1; extra == "torch"']
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    found = by_subject(examine(tmp_path))
    assert found["numpy"].level == "ok" and found["no-such-package"].level == "problem"
    assert found["no-such-package"].advice == "pip install no-such-package"
    extra = found["extra torch"]
    assert (extra.level, extra.value) == ("ok", "not installed: neither-this")
    assert extra.advice is not None and "pip install 'fedloom[torch]'" in extra.advice
