"""Peak memory, each figure in a process of its own: a peak never falls, so nothing else may have run there before."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec

import population
from workloads import W1, draw_rows, experiment

import fedloom

P = ParamSpec("P")
ROUNDS = 5


def peak_of_w1() -> int:
    """Return the peak resident bytes of a run of W1, its 188 MB of rows included, torch not."""
    return _in_new_process(_run_w1)


def bytes_per_client() -> float:
    """Return what each further generated client adds to the peak, from 1,000 to 1,000,000 of them."""
    small, large = population.SMALL, population.LARGE
    return (_in_new_process(_run_population, large) - _in_new_process(_run_population, small)) / (large - small)


def peak_bytes() -> int:
    """Return the peak resident bytes of this process.

    On Linux ``getrusage`` starts from the peak of the process that started this one, because a child begins in its
    parent's memory; the kernel's own mark of this address space does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _in_new_process(work: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _run_w1() -> int:
    return _run(experiment(draw_rows(W1), rounds=ROUNDS))


def _run_population(clients: int) -> int:
    return _run(population.experiment(clients, rounds=ROUNDS))


def _run(plan: fedloom.Experiment) -> int:
    with tempfile.TemporaryDirectory() as folder:
        fedloom.local().run(plan, output=Path(folder))
    if "torch" in sys.modules:
        raise RuntimeError("torch was loaded in the process whose memory is measured")
    return peak_bytes()
