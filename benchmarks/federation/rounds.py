"""What a round of a federation costs beside the training: a model of 1 MB, three sites, certificates, stores, disks.

Flags: ``--rounds N`` (30) and ``--output FILE`` for the figures as JSON. The model is a logistic regression of 250,100
float32 numbers over 64 generated rows at each site. From the seconds of a round, the median of all but the first, go
the seconds that the same round takes in a simulation of one process with one worker, which trains the three clients one
after the other: on a host with fewer cores than sites that is what training takes here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from parties import Line, cpu_s, family, federation, finished, submitted, tell, written

import fedloom
from fedloom.experiment.config import Settings
from fedloom.store import RunFolder

LIMITS = {"plain_sum": 0.10, "secure_sum": 0.50}
SITES = 3
TEXT = """
seed = 1
evaluate_every = {rounds}
[data]
name = "generated"
clients = {sites}
rows = 64
features = {features}
classes = 100
[learner]
name = "logistic"
dtype = "float32"
[algorithm]
name = "fedavg"
weighting = "uniform"
local = {{ steps = 1, batch_size = 32, learning_rate = 0.1 }}
[pipeline]
stages = [{{ name = "mean", expected = {sites} }}, {{ name = "clip", norm = 1.0 }}{integers}]
aggregator = {{ name = "{aggregator}" }}
[[stop]]
name = "max_rounds"
rounds = {rounds}
"""


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit code: 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description="What a round of a federation costs beside the training.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--features", type=int, default=2500, help="of the data: a hundredth of the model's numbers")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    lines, seconds = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = {kind: experiment(folder, kind, given.rounds, given.features) for kind in LIMITS}
        alone = {kind: simulated(settings) for kind, settings in asked.items()}
        with federation(folder, next(iter(asked.values()))) as parties:
            for kind, settings in asked.items():
                before = cpu_s(family(parties.pids.values()))
                path = finished(parties, submitted(parties, settings, kind))
                seconds[kind] = taken(path)
                cpu = (cpu_s(family(parties.pids.values())) - before) / given.rounds
                trained, model = alone[kind]
                assert model_of(path) == model, "a federation trains what a simulation trains"
                whole = statistics.median(seconds[kind])
                what = f"a round of {SITES} sites with {kind}, without its training"
                lines.append(Line(what=what, figure=whole - trained, limit=LIMITS[kind], unit="s"))
                print(
                    f"{kind}: {whole:.3f} s a round ({min(seconds[kind]):.3f} the fastest), {trained:.3f} s simulated; "
                    f"{cpu:.3f} s of processors for a round and its share of the start"
                )
    return tell(lines, given.output, seconds=seconds, simulated={kind: trained for kind, (trained, _) in alone.items()})


def experiment(folder: Path, aggregator: str, rounds: int, features: int) -> Settings:
    """Return the run that is measured."""
    integers = ', { name = "fixed_point", most_metric = 10000.0 }' if aggregator == "secure_sum" else ""
    text = TEXT.format(sites=SITES, features=features, integers=integers, aggregator=aggregator, rounds=rounds)
    return written(folder, aggregator, text)


def simulated(settings: Settings) -> tuple[float, str]:
    """Return the seconds of a round in one process, and the model."""
    result = fedloom.local(workers=1).run(settings.experiment, base=settings.base)
    return statistics.median(
        [record.seconds for record in result.records if record.program == "train"][1:]
    ), result.model_sha256


def taken(path: Path) -> list[float]:
    """Return the seconds of all rounds of a run but the first, in which workers make their plan."""
    with RunFolder.open(path) as folder:
        saved = folder.read()
    assert saved is not None, "the run has ended"
    return [record.seconds for record in saved.records if record.program == "train"][1:]


def model_of(path: Path) -> str:
    """Return the digest of a run's model."""
    from fedloom.store.documents import read_outcome

    outcome = read_outcome(path)
    assert outcome is not None, "the run has ended"
    return str(outcome.summary["model_sha256"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
