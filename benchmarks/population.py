"""What a large population costs a round: two runs that differ in their number of clients, round by round in turn."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fedloom
from fedloom import data

SMALL, LARGE = 1_000, 1_000_000
COHORT = 100


def experiment(clients: int, *, rounds: int) -> fedloom.Experiment:
    """Return a run over generated clients in the shape that ``data.generated`` has by default.

    Small rows are the stricter choice: the less a client costs, the more of a round is the population's.
    """
    return fedloom.Experiment(
        data=data.generated(clients),
        learner=fedloom.logistic(dtype="float32"),
        algorithm=fedloom.fedavg(fedloom.Schedule(epochs=1, batch_size=10, learning_rate=0.1)),
        cohort=fedloom.uniform(COHORT),
        evaluate_cohort=fedloom.uniform(1),
        stop=fedloom.max_rounds(rounds),
        seed=1,
        evaluate_every=rounds + 1,
        compare=False,
    )


class Turns:
    """Lets one of several threads go at a time, in a fixed order."""

    def __init__(self, places: int) -> None:
        self._left = list(range(places))
        self._turn = 0
        self._changed = threading.Condition()

    def wait(self, place: int) -> None:
        """Wait for the turn of ``place``."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == place)

    def hand_on(self, place: int) -> None:
        """End the turn of ``place``; the next one that has not left begins."""
        with self._changed:
            self._turn = min(self._left, key=lambda other: (other <= place, other))
            self._changed.notify_all()

    def leave(self, place: int) -> None:
        """End the last turn of ``place``."""
        with self._changed:
            self._left.remove(place)
            if self._left:
                self.hand_on(place)


def interleaved(sizes: Sequence[int] = (SMALL, LARGE), *, rounds: int) -> dict[int, list[float]]:
    """Return the seconds of ``rounds`` counted rounds, by number of clients; the first and the last are not counted."""
    turns = Turns(len(sizes))
    with ThreadPoolExecutor(len(sizes)) as pool, tempfile.TemporaryDirectory() as folder:
        jobs = [
            pool.submit(_clocked, size, turns=turns, place=place, rounds=rounds + 2, folder=Path(folder))
            for place, size in enumerate(sizes)
        ]
        return {size: job.result()[1:-1] for size, job in zip(sizes, jobs, strict=True)}


def _clocked(clients: int, *, turns: Turns, place: int, rounds: int, folder: Path) -> list[float]:
    seconds: list[float] = []
    turns.wait(place)
    started = time.perf_counter()

    def next_turn(_record: fedloom.RoundRecord) -> None:
        nonlocal started
        seconds.append(time.perf_counter() - started)
        turns.hand_on(place)
        turns.wait(place)
        started = time.perf_counter()

    try:
        fedloom.local().run(experiment(clients, rounds=rounds), output=folder, on_round=[next_turn])
    finally:
        turns.leave(place)
    return seconds
