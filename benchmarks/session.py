"""One contestant in a process of its own: ``session.py LEADER TASK_FOLDER OUTPUT_FOLDER [ROUNDS [RIVAL]]``.

It does the rounds of a written task, with a round of the PyTorch loop between two of its own where the rival ``P0`` is
asked for, and leaves the seconds of every round, the time at which the first one was done, and all last parameters. It
runs in whatever environment its interpreter belongs to: of ours it imports what needs numpy alone, and the leader.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from contest import Contest, loops
from workloads import Task

LEADERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fedloom": ("lead", "fedloom_rounds", {}),
    "fedloom, 2 workers": ("lead", "fedloom_rounds", {"workers": 2}),
    "P0": ("lead_loop", "torch_rounds", {}),
    "flower": ("peers.flower", "rounds", {}),
    "pfl": ("peers.pfl", "rounds", {}),
    "fedjax": ("peers.fedjax", "rounds", {}),
    "fluke": ("peers.fluke", "rounds", {}),
    "nvflare": ("peers.nvflare", "rounds", {}),
}
"""Name to module, function and further arguments."""
_VERSIONS = ("fedloom", "flwr", "pfl", "fedjax", "fluke-fl", "nvflare", "numpy", "torch", "jax", "ray")
FIGURES = "session.json"


def main(arguments: Sequence[str]) -> int:
    """Hold one session, and return the exit code."""
    leader, task_folder, output = arguments[:3]
    task = Task.read(Path(task_folder))
    if len(arguments) > 3:
        task = replace(task, cohorts=task.cohorts[: int(arguments[3])])
    rivals = loops(task, numpy_too=False) if arguments[4:] == ["P0"] else []
    contest = Contest(task, rivals, leader=leader)
    module, function, given = LEADERS[leader]
    rounds = partial(getattr(import_module(module), function), **given)
    found = {leader: rounds(contest), **{rival.name: rival.params() for rival in rivals}}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, params in found.items():
        np.savez(folder / f"{name}.npz", **params)
    figures = {
        "seconds": contest.seconds,
        "first_done_at": contest.first_done_at,
        "versions": dict(_versions()),
        "python": sys.version.split()[0],
    }
    # Last: a session that has no such file did not end well.
    (folder / FIGURES).write_text(json.dumps(figures))
    return 0


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _VERSIONS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
