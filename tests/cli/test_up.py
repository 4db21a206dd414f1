"""``fedloom up`` and ``rehearse``: a coordinator and its sites as processes of one host, over TLS, and none is left."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.cli.dealt_rows import clients_of, source_for
from fedloom.core.ids import ClientId
from fedloom.errors import DataError
from fedloom.experiment.config import read
from fedloom.store import list_runs

Run = Callable[..., tuple[int, str, str]]
BOUND_S = 55.0
SECURE = (
    '[pipeline]\naggregator = { name = "secure_sum" }\nstages = [{ name = "mean", max_weight = 100 }, '
    '{ name = "clip", norm = 1.0 }, { name = "fixed_point", most_metric = 10000.0 }]'
)


def living(pids: dict[str, int]) -> list[str]:
    """Return which processes of a table are still there."""
    found = []
    for name, pid in pids.items():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        found.append(name)
    return found


@pytest.fixture
def small(file: Callable[..., Path]) -> Path:
    """Two of four wards, three rounds, and labels that everybody knows."""
    path = file(rounds=3, algorithm="fedavg")
    text = path.read_text().replace('[[prepare]]\nname = "label_set"\n', "").replace("size = 3", "size = 2")
    path.write_text(text.replace('client = "ward"', 'client = "ward"\nclasses = ["ill", "well"]'))
    return path


def test_up_gives_the_model_of_the_simulation_and_its_report(
    small: Path, tmp_path: Path, undisturbed: Callable[[Path], fedloom.RunResult], fedloom_: Run
) -> None:
    only = "\n".join(
        line for line in (tmp_path / "rows.csv").read_text().splitlines() if "north" in line or "east" in line
    )
    (tmp_path / "rows.csv").write_text((tmp_path / "rows.csv").read_text().splitlines()[0] + "\n" + only + "\n")
    expected = undisturbed(small).model_sha256
    code, out, err = fedloom_("up", small, "--sites", 2, "--folder", "parties")
    assert code == 0, err
    assert f"model {expected}" in out
    assert "2 sites: east, north" in err
    assert re.search(r"round 3 committed: 2 of 2 sites, loss \d\.\d{4}, [\d.]+ k?B up, [\d.]+ k?B down", err)
    (run,) = list_runs(tmp_path / "runs")
    assert run.status == "completed"
    assert (tmp_path / "runs" / run.run_id / "report.html").exists()
    assert (tmp_path / "parties" / "north" / "rows.csv").read_text().count("north") == 60
    assert "east" not in (tmp_path / "parties" / "north" / "rows.csv").read_text()


@pytest.mark.slow
def test_a_rehearsal_is_the_same_bytes_each_time(small: Path, fedloom_: Run) -> None:
    small.write_text(small.read_text().replace("size = 2", "size = 3") + SECURE + "\n")
    models = set()
    for _ in range(2):
        code, out, err = fedloom_("rehearse", small, "--sites", 3, "--rows", "synthetic", "--json", bound_s=BOUND_S)
        assert code == 0, err
        found = json.loads(out)
        models.add(found["model_sha256"])
    assert len(models) == 1


@pytest.mark.slow
def test_ctrl_c_ends_every_process(small: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    small.write_text(small.read_text().replace("rounds = 3", "rounds = 100000"))
    command = start("up", small, "--sites", 2, "--folder", "parties", bound_s=BOUND_S)
    command.wait_for("round 1 committed")
    owners = tmp_path.glob("parties/*/store/owner.json")
    pids = {path.parts[-3]: json.loads(path.read_text())["pid"] for path in owners}
    assert set(pids) >= {"coordinator", "north", "east"}
    assert living(pids) == list(pids)
    begun = time.monotonic()
    command.send(signal.SIGINT)
    code, _, err = command.finish()
    assert code == 130
    assert "error: interrupted" in err
    assert time.monotonic() - begun < 20.0
    assert living(pids) == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
def test_nothing_goes_on_when_the_command_was_killed(small: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    """No handler sees that signal: coordinator, sites and their workers notice it themselves."""
    small.write_text(small.read_text().replace("rounds = 3", "rounds = 100000"))
    command = start("up", small, "--sites", 2, "--folder", "parties", env={"TMPDIR": str(tmp_path)}, bound_s=BOUND_S)
    command.wait_for("round 1 committed")
    running = marked(tmp_path)
    assert [sum(word in each for each in running) for word in ("coordinator", "site_worker", "north")] == [1, 2, 1]
    command.send(signal.SIGKILL)
    limit, tick = time.monotonic() + 20.0, threading.Event()
    while marked(tmp_path):
        assert time.monotonic() < limit, marked(tmp_path)
        tick.wait(0.05)
    assert "stopped: what was begun goes on" in (tmp_path / "parties/coordinator.log").read_text()
    assert "stopped: what was begun goes on" in (tmp_path / "parties/north.log").read_text()


def marked(folder: Path) -> list[str]:
    """Return what runs with a folder for its temporary files: a command, and all that it has started."""
    mark, found = f"TMPDIR={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text())
    return found


@pytest.mark.slow
def test_nobody_waits_for_a_site_that_was_killed(small: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    small.write_text(small.read_text().replace("rounds = 3", "rounds = 100000"))
    command = start("up", small, "--sites", 2, "--folder", "parties", bound_s=BOUND_S)
    command.wait_for("round 1 committed")
    pid = json.loads((tmp_path / "parties/north/store/owner.json").read_text())["pid"]
    others = [json.loads(path.read_text())["pid"] for path in tmp_path.glob("parties/*/store/owner.json")]
    os.kill(pid, signal.SIGKILL)
    code, _, err = command.finish()
    assert code == 1
    assert "north ended with -9" in err
    assert living({str(each): each for each in others}) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "run.toml", "--sites", 5), "the experiment has 4 clients, and each site is one of them"),
        (("up", "run.toml", "--folder", "."), "has something in it: a federation begins in a new folder"),
        (("rehearse", "run.toml", "--rows", "private"), "a rehearsal protects nothing"),
        (("rehearse", "run.toml"), "--rows"),
    ],
)
def test_what_cannot_be_starts_nothing(command: Run, arguments: tuple[object, ...], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_site_gets_its_own_rows(small: Path, tmp_path: Path) -> None:
    settings = read(small)
    clients = clients_of(settings.experiment, settings.base, count=None)
    assert clients == ("east", "north", "south", "west")
    source = source_for(settings.experiment, settings.base, ClientId("south"), place=tmp_path)
    assert source == {"name": "csv", "path": str(tmp_path / "rows.csv")}
    assert (tmp_path / "rows.csv").read_text().count("south") == 18


def test_data_of_other_kinds_are_named_with_their_arguments(small: Path, tmp_path: Path) -> None:
    text = small.read_text()
    table = text[text.index("[data]") : text.index("[[prepare]]")]
    small.write_text(
        text.replace(table, '[data]\nname = "sklearn"\ndataset = "iris"\npartition = { name = "iid", clients = 40 }\n')
    )
    settings = read(small)
    with pytest.raises(DataError, match="say how many become sites"):
        clients_of(settings.experiment, settings.base, count=None)
    clients = clients_of(settings.experiment, settings.base, count=3)
    assert len(clients) == 3
    source = source_for(settings.experiment, settings.base, clients[0], place=tmp_path)
    assert source["name"] == "sklearn"
    assert source["partition"] == {"name": "iid", "clients": 40}
