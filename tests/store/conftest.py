"""Runs to test with, and real processes that own them."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fedloom.store
from fedloom.core.events import GaussianDpEvent, PoissonSampledDpEvent
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.runtime.record import RoundRecord
from fedloom.store import RunFolder

SOURCE = Path(fedloom.store.__file__).parents[2]


def create(root: Path, *, start: float | None = None, **options: object) -> RunFolder:
    """Make a run. With ``start``, the clock shows that many seconds and steps back a minute at each look."""
    clock = {} if start is None else {"now": (start - 60.0 * i for i in itertools.count()).__next__}
    return RunFolder.create(
        root,
        experiment={"seed": 7, "learner": {"l2": 1e-3}},
        digest="d" * 64,
        base=Path("/data"),
        options=options,
        **clock,
    )


def record(number: int, **figures: float | None) -> RoundRecord:
    return RoundRecord(
        round=RoundNumber(number),
        retry=0,
        program="train",
        status="closed",
        invited=2,
        metrics=dict(figures),
        seconds=0.5,
    )


def write(run: RunFolder, number: int, *, clients: tuple[str, ...] = ("a", "b"), size: int = 300) -> None:
    """Write the checkpoint after round ``number``, with the record of that round and new states of these clients."""
    fill = bytes([number]) * size
    run.write(
        state=b"state" + fill,
        clients=[(ClientId(client), client.encode() + fill) for client in clients],
        records=[(number - 1, record(number, loss=1.0 / number))],
        params=[(number, fill)],
        events=[(1, number, 0, PoissonSampledDpEvent(0.5, GaussianDpEvent(float(number))))],
        fingerprint=f"rows-{number}",
    )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A run without a checkpoint."""
    with create(tmp_path / "runs") as folder:
        yield folder


@pytest.fixture
def make_run() -> Callable[..., RunFolder]:
    return create


@pytest.fixture
def make_record() -> Callable[..., RoundRecord]:
    return record


@pytest.fixture
def write_round() -> Callable[..., None]:
    return write


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start real Python processes that run a script over fedloom; what is left of them is killed, by its pid."""
    with contextlib.ExitStack() as stack:

        def start(script: str, *arguments: object) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            return child

        yield start
