"""The tutorial of a first federation, played: every command that it shows is run, and prints what is shown.

Commands that serve run in the background until the page has come to its end; a person at a terminal says yes.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloom.cli.asking import PASSPHRASE
from fedloom.store import list_runs

PAGE = Path(__file__).parents[2] / "docs/tutorials/first-federation.md"
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FINGERPRINT = re.compile(r"(?:[a-z2-7]{4} ){7}[a-z2-7]{4}")
_NAMES = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b")
BOUND_S = 55.0
"""The coordinator lives as long as the page."""
READY = {"coordinator": "coordinator of trial: port", "site": "asked to join trial"}


def shape(text: str) -> list[str]:
    """Return lines with everything masked that differs from run to run."""
    masked = re.sub(r"\d+(?:\.\d+)?", "#", _NAMES.sub("*", _FINGERPRINT.sub("*", text)))
    lines = (re.sub(r"─+", "─", " ".join(line.split())) for line in masked.splitlines())
    return [line for line in lines if line]


def missing(shown: str, said: str) -> str | None:
    """Return the first line that is shown and was not said in this order; None: all were.

    A terminal shows what a person types; this one's goes elsewhere.
    """
    lines = iter(shape(said.replace("[y/N] ", "[y/N] y\n")))
    return next((line for line in shape(shown) if line != "..." and line not in lines), None)


def free_ports(count: int) -> int:
    """Return the first of some ports in a row on which nobody listens."""
    for first in range(21000 + os.getpid() % 10000, 60000, count):
        trials = [socket.socket() for _ in range(count)]
        try:
            for place, trial in enumerate(trials):
                trial.bind(("127.0.0.1", first + place))
        except OSError:
            continue
        finally:
            for trial in trials:
                trial.close()
        return first
    raise AssertionError("no ports")


@pytest.fixture
def person() -> Iterator[Callable[[], int]]:
    """Give terminals at which somebody has typed yes, and yes again."""
    ends: list[int] = []

    def sit_down() -> int:
        master, slave = os.openpty()
        ends.extend((master, slave))
        os.write(master, b"y\ny\ny\n")
        return slave

    yield sit_down
    for end in ends:
        os.close(end)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a terminal of its own for each party")
def test_the_commands_of_the_tutorial_make_a_federation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., Any], person: Callable[[], int]
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {PASSPHRASE: "five words of no poem", "COLUMNS": "100"}
    serving: list[tuple[str, str, Any]] = []
    played = 0
    for language, text in ((match[1].strip(), match[2]) for match in _FENCE.finditer(PAGE.read_text())):
        if language == "python":
            exec(compile(text, str(PAGE), "exec", dont_inherit=True), {"__name__": "document"})
        elif language.startswith("toml "):
            (tmp_path / language.removeprefix("toml ")).write_text(text)
        elif language == "text" and text.startswith("$ fedloom"):
            first, _, shown = text.partition("\n")
            words = shlex.split(first.removeprefix("$ fedloom"))
            extra = ["--port", free_ports(4), "--listen", "127.0.0.1"] if words[:2] == ["coordinator", "init"] else []
            command = start(*words, *extra, env=environment, stdin=person(), bound_s=BOUND_S)
            played += 1
            if words[1] == "start":
                command.wait_for(READY[words[0]])
                serving.append((first, shown, command))
                continue
            code, out, err = command.finish()
            assert code == 0, f"{first}\n{err}"
            assert missing(shown, err + "\n" + out) is None, f"{first} does not print that, but\n{err}\n{out}"
            if words[:2] == ["coordinator", "approve"]:
                for _, _, each in serving[1:]:
                    each.wait_for("works for trial")
    assert played >= 7
    for first, shown, command in reversed(serving):
        command.send(signal.SIGTERM)
        code, out, err = command.finish()
        assert code == 0, f"{first}\n{err}"
        assert missing(shown, err + "\n" + out) is None, f"{first} does not print that, but\n{err}\n{out}"
    (run,) = list_runs(tmp_path / "coord/store/runs")
    assert run.status == "completed"
