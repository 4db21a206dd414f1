"""Run a session in a process of its own, and measure the memory of that process and of all that it starts."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contest import Outcome, judged
from session import FIGURES
from workloads import Params, Task

_HERE = Path(__file__).parent
_SAMPLE_S = 0.05
_LIMIT_S = 240.0
_GRACE_S = 5.0
_SET_CHILD_SUBREAPER = 36
"""Of ``prctl``: what a session leaves behind becomes a child of this process, and can be found and ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one contestant did in a process of its own."""

    leader: str
    seconds: Mapping[str, Sequence[float]]
    """Of every round, by contestant, the first and the last included."""
    params: Mapping[str, Params]
    start_s: float
    """From the start of the process to the end of its first round."""
    peak_mb: float
    versions: Mapping[str, str]

    def outcome(self, task: Task) -> Outcome:
        """Return the counted rounds, and whether all did the same work."""
        counted = {name: taken[1:-1] or taken for name, taken in self.seconds.items()}
        return judged(task, counted, self.params)


class SessionFailed(Exception):
    """A contestant could not do the task; the message has the end of what it printed."""


def hold(leader: str, task: Path, *, output: Path, rounds: int, beside: bool, python: str = sys.executable) -> Session:
    """Run a session and return what it did.

    Args:
        leader: Name of the contestant.
        task: Folder of the written task.
        output: Folder for what it leaves, its log among it.
        rounds: Rounds to do.
        beside: Whether the PyTorch loop does a round between two of the leader's: for times. Without it, for memory.
        python: Interpreter of the environment that the contestant is installed in.

    Raises:
        SessionFailed: When it ends with an error, or takes longer than four minutes.
    """
    _adopt_orphans()
    others = children()
    output.mkdir(parents=True, exist_ok=True)
    command = [python, str(_HERE / "session.py"), leader, str(task), str(output), str(rounds)]
    log = output / "log.txt"
    started = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *(["P0"] if beside else [])],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=output,
            env=environment(own=python == sys.executable),
            start_new_session=True,
        )
        with _Watch(process.pid, others) as watch:
            try:
                code = process.wait(_LIMIT_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(watch.seen)
    process.wait()
    figures = output / FIGURES
    if code != 0 or not figures.exists():
        said = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SessionFailed(f"{leader}: {'took too long' if code is None else f'exit code {code}'}\n{said}")
    found: dict[str, Any] = json.loads(figures.read_text())
    return Session(
        leader=leader,
        seconds=found["seconds"],
        params={path.stem: dict(np.load(path)) for path in sorted(output.glob("*.npz"))},
        start_s=found["first_done_at"] - started,
        peak_mb=watch.peak / 1e6,
        versions={"python": found["python"], **found["versions"]},
    )


def environment(*, own: bool) -> dict[str, str]:
    """Return the environment of a session: this one, with one thread in every library, and nobody called up.

    Args:
        own: Whether the session has this interpreter; another finds no packages of this one.
    """
    inherited = {name: value for name, value in os.environ.items() if own or name != "PYTHONPATH"}
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        **inherited,
        **dict.fromkeys(threads, "1"),
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "JAX_PLATFORMS": "cpu",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


class _Watch:
    """Samples the memory of a process and its descendants: each one's share of what it has resident (PSS)."""

    def __init__(self, root: int, others: set[int]) -> None:
        self.root, self.others = root, others
        self.peak = 0
        self.seen: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        mark = 0
        while not self._over.is_set():
            tree = set(descendants(self.root, self.others))
            self.seen |= tree
            # The kernel's own high-water mark misses no moment; it exists for single processes only.
            mark = max(mark, _of_status(self.root, "VmHWM"))
            self.peak = max(self.peak, mark, sum(_shared_fairly(each) for each in tree))
            self._over.wait(_SAMPLE_S)


def descendants(root: int, others: set[int]) -> Iterator[int]:
    """Yield a process and all below it, and what they left to this process when they ended.

    Args:
        root: The process.
        others: Children that this process had before.
    """
    parents = _by_parent()
    waiting = [root, *(child for child in parents.get(os.getpid(), []) if child != root and child not in others)]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += parents.get(each, [])


def children() -> set[int]:
    """Return the processes that this one has started."""
    return set(_by_parent().get(os.getpid(), []))


def _by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended in between
            continue
        found.setdefault(int(fields[1]), []).append(int(status.parent.name))
    return found


def _shared_fairly(process: int) -> int:
    return _kilobytes(process, "smaps_rollup", "Pss")


def _of_status(process: int, field: str) -> int:
    return _kilobytes(process, "status", field)


def _kilobytes(process: int, file: str, field: str) -> int:
    """Return a field of a file about a process in bytes; 0 when the process is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end(seen: set[int]) -> None:
    """End what a session has left running: first politely."""
    for sign, wait in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, 0.0)):
        left = [each for each in seen if _of_status(each, "VmRSS")]
        for each in left:
            _signal(each, sign)
        until = time.monotonic() + wait
        while time.monotonic() < until and any(_of_status(each, "VmRSS") for each in left):
            time.sleep(_SAMPLE_S)


def _signal(process: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, sign)
