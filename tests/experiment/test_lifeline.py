"""A process ends with the one that has started it: killed from outside, and whatever it is at itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
END_S = 20.0
STARTER = """
import subprocess, sys, time
from fedloom.experiment.lifeline import lifeline
with lifeline() as passed:
    command = [sys.executable, "-c", sys.argv[1], *map(str, passed)]
    child = subprocess.Popen(command, pass_fds=passed, start_new_session=sys.argv[2] == "leads")
    child.wait()
"""
CHILD = """
import subprocess, sys, time
from fedloom.experiment.lifeline import end_with_starter
end_with_starter(int(sys.argv[1]))
"""
GRANDCHILD = """
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
child = subprocess.Popen([sys.executable, "-c", sleeper], stdout=subprocess.PIPE)
child.stdout.readline()
"""
WAITS = "print('ready', flush=True)\ntime.sleep(99)\n"
HOLDS = "import re\nprint('ready', flush=True)\nre.match('(a+)+$', 'a' * 60 + 'b')\n"  # no other thread gets its turn
CLOSED = """
import os, sys
from fedloom.experiment.lifeline import end_with_starter
reading, writing = os.pipe()
os.close(writing)
end_with_starter(reading)
import time
time.sleep(99)
"""


def living(mark: str) -> list[str]:
    """Return the commands that run with a mark in their environment; one that has ended and is not noted does not."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text())
    return found


def until(holds: Callable[[], bool]) -> bool:
    tick, limit = threading.Event(), time.monotonic() + END_S
    while not holds() and time.monotonic() < limit:
        tick.wait(0.01)
    return holds()


@pytest.mark.parametrize(
    ("work", "leads"),
    [
        (WAITS, "follows"),
        (GRANDCHILD + WAITS, "leads"),
        pytest.param(
            GRANDCHILD + HOLDS, "leads", marks=pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part")
        ),
    ],
)
def test_a_process_ends_with_its_starter_whatever_it_is_at(work: str, leads: str, tmp_path: Path) -> None:
    mark = f"TMPDIR={tmp_path}"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, CHILD + work, leads],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
        assert len(living(mark)) == (3 if leads == "leads" else 2)
        starter.kill()
        assert until(lambda: not living(mark)), living(mark)


def test_a_starter_that_was_gone_before_is_noticed_too() -> None:
    with subprocess.Popen([sys.executable, "-c", CLOSED], start_new_session=True) as process:
        assert process.wait(END_S) == -9
