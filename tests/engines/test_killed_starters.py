"""A site's agent or a run that is killed leaves no worker behind, in the middle of its work or not."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from fedloom.experiment.config import read
from fedloom.experiment.examination import Question

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
END_S = 30.0
EXPERIMENT = """seed = 1
compare = false
[data]
name = "csv"
path = "rows.csv"
client = "hospital"
label = "ill"
classes = ["no", "yes"]
test = 0.0
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
local = { steps = 2000000000, batch_size = 8, learning_rate = 0.1 }
[[stop]]
name = "max_rounds"
rounds = 2
"""
SITE = """
import sys
import msgspec
from fedloom.core.component import ComponentSpec
from fedloom.engines.site_hand import SiteHand
from fedloom.engines.site_messages import SiteSetup
source = ComponentSpec("fedloom.datasets", "csv", {"path": "pipe.csv", "client": "hospital"})
experiment = open(sys.argv[1] + "/experiment.json", "rb").read()
setup = SiteSetup(
    run="r",
    experiment=experiment,
    base=sys.argv[1],
    client="east",
    source=msgspec.json.encode(source),
    columns=None,
)
SiteHand(setup).look()
"""
EXAMINATION = """
import sys
import msgspec
from fedloom.experiment.elsewhere import examine_elsewhere
from fedloom.experiment.examination import Question
asked = msgspec.msgpack.decode(open(sys.argv[1] + "/question", "rb").read(), type=Question)
examine_elsewhere(asked, limit_s=600)
"""
SIMULATION = """
import sys
from pathlib import Path
import fedloom
from fedloom.experiment.config import read
made = read(Path(sys.argv[1]) / "run.toml", []).experiment
fedloom.local(workers=2, pool="processes").run(made, base=Path(sys.argv[1]))
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A run over rows, and beside them a pipe that a site takes for its rows: who reads it waits for ever."""
    draw, lines = random.Random(3), ["hospital,age,bp,ill"]
    for name in ("east", "north", "south", "west"):
        lines += [f"{name},{draw.random():.3f},{draw.random():.3f},{draw.choice(('no', 'yes'))}" for _ in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "run.toml").write_text(EXPERIMENT)
    os.mkfifo(tmp_path / "pipe.csv")
    tree = read(tmp_path / "run.toml", []).experiment.as_json()
    (tmp_path / "experiment.json").write_bytes(msgspec.json.encode(tree))
    asked = Question(
        experiment=tree, client="east", source="csv", arguments={"path": "pipe.csv", "client": "hospital"},
        base=str(tmp_path), facts=None, run="r", data="cohort",
    )  # fmt: skip
    (tmp_path / "question").write_bytes(msgspec.msgpack.encode(asked))
    return tmp_path


@contextmanager
def started(code: str, base: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a program; whatever it leaves at the end of the test is killed, by its number."""
    environment = {**os.environ, "TMPDIR": str(base)}
    with subprocess.Popen([sys.executable, "-c", code, str(base)], env=environment, text=True) as program:
        try:
            yield program
        finally:
            for number in living(base):
                with suppress(ProcessLookupError):
                    os.kill(number, 9)


def living(base: Path) -> dict[int, str]:
    """Return what runs of a program and of all that it has started: numbers and commands."""
    mark, found = f"TMPDIR={base}".encode(), {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_text()
    return found


def until(holds: Callable[[], bool]) -> bool:
    tick, limit = threading.Event(), time.monotonic() + END_S
    while not holds() and time.monotonic() < limit:
        tick.wait(0.02)
    return holds()


@pytest.mark.parametrize("code", [SITE, EXAMINATION], ids=["agent", "examination"])
def test_what_reads_the_rows_of_a_site_ends_with_its_agent(code: str, base: Path) -> None:
    with started(code, base) as agent:
        opened: list[int] = []

        def reads() -> bool:
            with suppress(OSError):
                opened.append(os.open(base / "pipe.csv", os.O_WRONLY | os.O_NONBLOCK))
            return bool(opened) or agent.poll() is not None

        assert until(reads)
        assert len(living(base)) == 2, "one asks, and one reads"
        agent.kill()
        assert until(lambda: not living(base)), living(base)
        os.close(opened[0])


def test_workers_end_with_their_run_in_the_middle_of_a_block(base: Path) -> None:
    def at_work() -> int:
        """Return how many workers have computed for two seconds: they are past their start, and never end."""
        return sum("fedloom.engines.worker" in said and cpu_s(number) > 2.0 for number, said in living(base).items())

    with started(SIMULATION, base) as run:
        assert until(lambda: at_work() == 2 or run.poll() is not None)
        assert run.poll() is None
        run.kill()
        assert until(lambda: not living(base)), living(base)


def cpu_s(number: int) -> float:
    """Return the seconds of processors that a process has used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ESRCH)
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
