"""A federation to measure: a coordinator and its sites as processes of this host, as ``fedloom up`` starts them."""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from fedloom.cli.children import Children, ended_by_a_signal
from fedloom.cli.dealt_rows import clients_of
from fedloom.cli.federated import ENDS, run_at
from fedloom.cli.operating import operator
from fedloom.cli.up import Host, Wish
from fedloom.engines.federation import RUNS
from fedloom.experiment.config import Settings, read
from fedloom.store.documents import read_outcome
from fedloom.transport import admin
from fedloom.transport.client import Client

_ASKED_S = 0.5
"""The coordinator is asked so seldom whether a run has ended: it works for the run meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise: a figure and its limit."""

    what: str
    figure: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def held(self) -> bool:
        """Whether the figure is on the right side of its limit."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        """Return the line as text."""
        off = abs(self.figure / self.limit - 1)
        verdict = "holds" if self.held else f"misses by {off:.0%}"
        return f"{self.what:<64} {self.figure:>9,.4g} {self.unit:<5} of {self.limit:>6,.4g}  {verdict}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """What runs."""

    place: Path
    children: Children
    host: Host
    line: Client
    sites: tuple[str, ...]

    @property
    def pids(self) -> Mapping[str, int]:
        """Return the process of each party."""
        return self.children.pids()


def family(roots: Iterable[int]) -> tuple[int, ...]:
    """Return processes and all that they have started, from what the kernel says."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            children.setdefault(int(_stat(path)[1]), []).append(int(path.name))
    found = list(roots)
    for pid in found:
        found += children.get(pid, [])
    return tuple(found)


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of processes, and of the children that they have waited for."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, _stat(Path("/proc") / str(pid))[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pids: Iterable[int], kind: str = "Pss") -> dict[int, float]:
    """Return the memory of each process that is still there: ``Rss``, or ``Pss``, which shares what is shared."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            text = (Path("/proc") / str(pid) / "smaps_rollup").read_text(encoding="ascii")
            kib = next((line.split()[1] for line in text.splitlines() if line.startswith(f"{kind}:")), None)
            if kib is not None:
                found[pid] = int(kib) / 1024
    return found


def _stat(path: Path) -> list[str]:
    """Return the fields of ``stat`` behind the name, which may have spaces: state, parent, ..."""
    return (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def written(folder: Path, name: str, text: str) -> Settings:
    """Return the experiment that a text says."""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return read(path, [])


@contextmanager
def federation(folder: Path, settings: Settings) -> Iterator[Parties]:
    """Start a coordinator and a site for each client, all idle, and end them."""
    clients = clients_of(settings.experiment, settings.base, count=None)
    wish = Wish(file=folder / "experiment.toml", overrides=(), sites=None, folder=None, output=None)
    with ended_by_a_signal(), tempfile.TemporaryDirectory(dir=folder) as name, Children() as children:
        place = Path(name)
        host = Host(place, children, wish, settings)
        host.begin(clients, json=True)
        with operator(host.coordinator) as line:
            yield Parties(place=place, children=children, host=host, line=line, sites=tuple(clients))


def submitted(parties: Parties, settings: Settings, name: str) -> str:
    """Hand an experiment in, and return the run."""
    experiment = settings.experiment
    request = admin.CreateRun(
        request=uuid.uuid4().hex,
        name=name,
        experiment=msgspec.json.encode(experiment.as_json()),
        digest=bytes.fromhex(experiment.digest),
    )
    return parties.line.create_run(request).run


def over(parties: Parties, run: str) -> bool:
    """Return whether a run has ended.

    Raises:
        RuntimeError: When it did not end well.
    """
    end = run_at(parties.line, run)
    if end.state in ("failed", "aborted"):
        raise RuntimeError(f"run {run} {end.state}: {end.reason}")
    return end.state in ENDS


def finished(parties: Parties, run: str, *, within_s: float = 300.0) -> Path:
    """Wait for the end of a run and return its folder."""
    seen = [time.monotonic()]

    def ended() -> bool:
        now = time.monotonic()
        if now - seen[0] < _ASKED_S:
            return False
        seen[0] = now
        return over(parties, run)

    parties.children.wait_until(ended, what=f"run {run} does not end", within_s=within_s)
    path = parties.host.coordinator.store / RUNS / run
    assert read_outcome(path) is not None, "a run that ended says how"
    return path


def tell(lines: Sequence[Line], output: Path | None, **more: object) -> int:
    """Print the lines, keep them as JSON where that is asked for, and return the exit code."""
    for line in lines:
        print(line)
    if output is not None:
        figures = {"load": os.getloadavg(), "lines": [asdict(line) | {"held": line.held} for line in lines], **more}
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(line.held for line in lines) else 1
