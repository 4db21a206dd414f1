"""Memory of a federation: an idle site, a coordinator with two idle sites, and everything while a run is on.

Flags: ``--rounds N`` (40) and ``--output FILE`` for the figures as JSON. The parties are processes of this host, as
``fedloom up`` starts them. While a run is on, all processes are looked at twenty times a second: those of the
handshake, in which each site examines the run in a process that is thrown away, and those of the rounds, a worker at
each site.
What processes share is counted once (PSS), but for the line of the idle site, which is its own resident memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parties import Line, Parties, family, federation, memory_mb, over, submitted, tell, written

SITES = 2
TEXT = """
seed = 1
[data]
name = "generated"
clients = {sites}
rows = 2000
features = 20
test = 0.2
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
local = {{ epochs = 1, batch_size = 32, learning_rate = 0.1 }}
[pipeline]
stages = [{{ name = "mean", max_weight = 10000 }}, {{ name = "clip", norm = 1.0 }}]
[[stop]]
name = "max_rounds"
rounds = {rounds}
"""
_SETTLED_S = 2.0
_LOOKS_S = 0.05
_ASKED_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All processes at one moment, or the most of many moments."""

    mb: float = 0.0
    processes: int = 0

    def most(self, other: Seen) -> Seen:
        """Return the greater of each figure."""
        return Seen(mb=max(self.mb, other.mb), processes=max(self.processes, other.processes))


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit code: 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description="Memory of a federation.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        settings = written(Path(name), "footprint", TEXT.format(sites=SITES, rounds=given.rounds))
        with federation(Path(name), settings) as parties:
            parties.children.pause(_SETTLED_S)
            before, together = site_mb(parties), seen(parties)
            handshake, rounds = watched(parties, submitted(parties, settings, "footprint"))
            parties.children.pause(_SETTLED_S)
            after, left = site_mb(parties), seen(parties)
    print(f"handshake: {handshake.processes} processes, {handshake.mb:.0f} MB")
    print(f"after the run, workers still warm: {left.processes} processes, {left.mb:.0f} MB")
    lines = [
        Line(what="an idle site: resident", figure=before, limit=110, unit="MB"),
        Line(what="an idle site that has checked a plan: resident", figure=after, limit=110, unit="MB"),
        Line(what="a coordinator and two idle sites", figure=together.mb, limit=300, unit="MB"),
        Line(what="the same: processes", figure=together.processes, limit=3, unit=""),
        Line(what="in the rounds of a run, workers included", figure=rounds.mb, limit=400, unit="MB"),
        Line(what="the same: processes", figure=rounds.processes, limit=6, unit=""),
    ]
    return tell(lines, given.output, handshake_mb=handshake.mb, handshake_processes=handshake.processes)


def site_mb(parties: Parties) -> float:
    """Return the resident memory of the larger site."""
    return max(memory_mb((parties.pids[site] for site in parties.sites), "Rss").values())


def seen(parties: Parties) -> Seen:
    """Return what is there now."""
    found = memory_mb(family(parties.pids.values()))
    return Seen(mb=sum(found.values()), processes=len(found))


def watched(parties: Parties, run: str) -> tuple[Seen, Seen]:
    """Return the most that was seen before the first round of a run, and in its rounds."""
    handshake, rounds = Seen(), Seen()
    begun = in_rounds(parties, run)
    asked, at_work = time.monotonic(), False
    while True:
        now = seen(parties)
        at_work = at_work or begun()
        if at_work:
            rounds = rounds.most(now)
        else:
            handshake = handshake.most(now)
        if time.monotonic() - asked >= _ASKED_S:
            if over(parties, run):
                return handshake, rounds
            asked = time.monotonic()
        parties.children.pause(_LOOKS_S)
        parties.children.check()


def in_rounds(parties: Parties, run: str) -> Callable[[], bool]:
    """Return what says whether the sites have agreed: the file that the coordinator writes then is there."""
    path = parties.host.coordinator.store / "runs" / run / "facts.json"
    return path.exists


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
