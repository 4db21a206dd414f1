"""How often audits of the aggregation layer reject: right layers, and each known mistake.

Flags: ``--repeats N`` (100 by default), ``--releases N`` (5,000 by default), ``--noise Z`` (1 by default; several are
allowed), ``--only NAME`` (several are allowed), ``--workers N`` (1 by default) and ``--output FILE`` for the figures as
JSON. An audit stops at the first canary that rejects. Each repeat has another seed. Wanted: no rejection of a right
layer in 100 audits, at least 95 of each broken one. A right layer may be rejected with probability 1e-3 an audit at
most, by its bound; by what was measured, far less often.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from fedloom.privacy.audit_layer import claim_of_layer, findings

LAYERS = Path(__file__).parents[2] / "tests/privacy/broken_layers.py"
DELTA = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One audit."""

    name: str
    seed: int
    noise: float
    releases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Audits of one layer with one noise."""

    layer: str
    right: bool
    noise: float
    audits: int
    rejected: int
    seconds: float
    """Of CPU, a typical audit."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--releases", type=int, default=5_000)
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args(arguments)
    names = [name for name in (*layers().RIGHT, *layers().BROKEN) if flags.only is None or name in flags.only]
    found = []
    print(f"{'layer':36}  {'noise':>5}  {'rejected':>10}  {'CPU s':>6}")
    with ProcessPoolExecutor(flags.workers) as pool:
        for noise in flags.noise:
            for name in names:
                tasks = [
                    Task(name=name, seed=seed, noise=noise, releases=flags.releases) for seed in range(flags.repeats)
                ]
                outcomes = list(pool.map(audit, tasks))
                figures = Figures(
                    layer=name,
                    right=name in layers().RIGHT,
                    noise=noise,
                    audits=len(outcomes),
                    rejected=sum(rejected for rejected, _ in outcomes),
                    seconds=sorted(seconds for _, seconds in outcomes)[len(outcomes) // 2],
                )
                found.append(figures)
                of = f"{figures.rejected} of {figures.audits}"
                print(f"{name:36}  {noise:5g}  {of:>10}  {figures.seconds:6.1f}", flush=True)
    if flags.output is not None:
        flags.output.write_text(json.dumps([asdict(figures) for figures in found], indent=1) + "\n")


def audit(task: Task) -> tuple[bool, float]:
    """Return whether an audit rejects, and its CPU seconds."""
    started = time.process_time()
    made = layers()
    layer = (made.RIGHT | made.BROKEN)[task.name](task.seed, task.noise)
    claim = claim_of_layer(layer, releases=task.releases)
    rejected = any(each.verdict.rejected for each in findings(layer, claim, delta=DELTA, releases=task.releases))
    return rejected, time.process_time() - started


@cache
def layers() -> ModuleType:
    """Return the layers of the tests."""
    spec = importlib.util.spec_from_file_location("broken_layers", LAYERS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
