"""What each further client of a population adds to the peak memory: two runs, each in a process of its own.

A peak never falls, so nothing else may have run there before.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import population

import fedloom

ROUNDS = 5


def bytes_per_client() -> float:
    """Return what each further generated client adds to the peak, from 1,000 to 1,000,000 of them."""
    small, large = population.SMALL, population.LARGE
    return (_peak_of(large) - _peak_of(small)) / (large - small)


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


def _peak_of(clients: int) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, clients).result()


def _run(clients: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        fedloom.local().run(population.experiment(clients, rounds=ROUNDS), output=Path(folder))
    return peak_bytes()
