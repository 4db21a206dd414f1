"""SiteHand: an agent's hold on the process that trains for one run: started, asked, watched, ended."""

from __future__ import annotations

import hashlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from fedloom.engines.site_messages import (
    FromSiteWorker,
    Look,
    Looked,
    Moved,
    SiteRaised,
    SiteSetup,
    ToSiteWorker,
    Train,
    Trained,
    read_from_worker,
    send,
)
from fedloom.errors import WorkerError
from fedloom.experiment.lifeline import lifeline

M = TypeVar("M", bound=FromSiteWorker)
log = logging.getLogger(__name__)
_SERVE = "from fedloom.engines.site_worker import serve; serve()"
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "VECLIB_MAXIMUM", "NUMEXPR")}
"""With more threads some sums round differently: what a site computes must not depend on how many CPUs it gives."""
_PATIENCE_S = 10.0
_LOOK_S = 1.0
"""Whether a silent worker still lives is looked at so often: a process that it left behind may hold its pipe open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may take."""

    idle_s: float = 60.0
    """Without a word of the worker while it has work: it hangs, and is ended."""
    task_s: float | None = None
    """For one order; a program that waits for ever lives, and says so. None: no limit."""
    memory_gb: float | None = None
    """Of address space, in 10^9 bytes; None: what the system gives."""
    cpu: int | None = None
    """CPUs that it, and all that it starts, may run on; None: those of the agent."""


def chosen_cpus(allowed: Iterable[int], count: int, *, run: str) -> tuple[int, ...]:
    """Return the CPUs of one run's worker: neighbours, from a place that follows from the run's name.

    Two runs begin at different places, so that they do not share one CPU while others rest.

    Example:
        >>> chosen_cpus(range(8), 2, run="r1"), chosen_cpus(range(8), 2, run="r2"), chosen_cpus([3], 2, run="r1")
        ((5, 6), (1, 2), (3,))
    """
    cpus = sorted(allowed)
    start = int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big") % len(cpus)
    return tuple(sorted((cpus[start:] + cpus[:start])[:count]))


class WorkerGone(WorkerError):
    """A worker ended, hung or raised; ``code`` is what may be told of it outside the site."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(detail)


class SiteHand:
    """A worker of one run: started when it is first asked, kept between rounds, started anew when it has gone.

    Args:
        setup: What the worker is told first.
        limits: What it may take.
        moved: Called whenever the worker says that it goes on.
    """

    def __init__(
        self, setup: SiteSetup, *, limits: Limits | None = None, moved: Callable[[], None] = lambda: None
    ) -> None:
        self._setup = setup
        self._limits = Limits() if limits is None else limits
        self._moved = moved
        self._worker: _Worker | None = None

    def look(self) -> Looked:
        """Return what the site has.

        Raises:
            WorkerGone: When the worker raised, hung or ended.
        """
        return self._ask(Look(), Looked)

    def train(self, asked: Train) -> Trained:
        """Return what came of an order.

        Raises:
            WorkerGone: When the worker raised, hung or ended.
        """
        return self._ask(asked, Trained)

    def _ask(self, message: ToSiteWorker, kind: type[M]) -> M:
        worker = self._started()
        try:
            worker.send(message)
            return worker.answer(kind, self._limits, moved=self._moved)
        except WorkerGone as gone:
            if gone.code != "raised":
                self.close()
            raise

    def _started(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self._limits, run=self._setup.run)
            try:
                self._worker.send(self._setup)
                self._worker.answer(Moved, self._limits, moved=self._moved, first=True)
            except WorkerGone:
                self.close()
                raise
        return self._worker

    def cancel(self) -> None:
        """Let nothing come of what the worker is at, from another thread: who waits for it is told that it ended."""
        worker = self._worker
        if worker is not None:
            worker.kill()

    def close(self) -> None:
        """End the worker and all that it has started."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def __enter__(self) -> Self:
        """Return the hand."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the worker."""
        self.close()


class _Worker:
    """One process, its two pipes, a third by which it ends with this one, and the group of all that it starts."""

    def __init__(self, limits: Limits, *, run: str) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._open = ExitStack()
        passed = (theirs_in, theirs_out, *self._open.enter_context(lifeline()))
        command = [sys.executable, "-c", _SERVE, *map(str, passed)]
        paths = os.pathsep.join(path for path in sys.path if path)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        most = "" if limits.memory_gb is None else str(int(limits.memory_gb * 1e9))
        environment = {**kept, **_ONE_THREAD, "PYTHONPATH": paths, "FEDLOOM_WORKER_BYTES": most}
        if limits.cpu is not None and sys.platform == "linux":  # elsewhere one thread is what there is
            cpus = chosen_cpus(os.sched_getaffinity(0), limits.cpu, run=run)
            environment["FEDLOOM_WORKER_CPUS"] = ",".join(map(str, cpus))
        try:
            # A group of its own, so that what a program of the user starts ends with it. No variable of the agent is
            # passed on but what a program needs to run: tokens and pass phrases stay behind.
            self._process = subprocess.Popen(command, pass_fds=passed, env=environment, start_new_session=True)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._orders: BinaryIO = os.fdopen(ours_out, "wb")
        self._answers: BinaryIO = os.fdopen(ours_in, "rb", buffering=0)

    def send(self, message: ToSiteWorker) -> None:
        try:
            send(self._orders, message)
        except BrokenPipeError:
            raise self._gone() from None

    def answer(self, kind: type[M], limits: Limits, *, moved: Callable[[], None], first: bool = False) -> M:
        """Return the answer, of the kind that is expected, through any number of words that the worker goes on."""
        began = heard = time.monotonic()
        while True:
            self._await(limits, began=began, heard=heard)
            heard = time.monotonic()
            message = read_from_worker(self._answers)
            if message is None:
                raise self._gone()
            if isinstance(message, Moved) and not (first and kind is Moved):
                moved()
                continue
            if isinstance(message, SiteRaised):
                log.warning("the worker raised %s: %s\n%s", message.error, message.text, message.trace.rstrip())
                raise WorkerGone("raised", f"{message.error}: {message.text}")
            if not isinstance(message, kind):
                raise WorkerGone("raised", f"the worker answered with {type(message).__name__}")
            return message

    def _await(self, limits: Limits, *, began: float, heard: float) -> None:
        """Wait until the worker says something."""
        while not select.select([self._answers], [], [], _LOOK_S)[0]:
            now = time.monotonic()
            if self._process.poll() is not None and not select.select([self._answers], [], [], 0)[0]:
                raise self._gone()
            if now - heard >= limits.idle_s:
                self.kill()
                self.end()
                words = f"the worker said nothing for {limits.idle_s:g} s: it hung, and was ended"
                raise WorkerGone("TASK_STALLED", words)
            self._check_time(limits, began)
        self._check_time(limits, began)

    def _check_time(self, limits: Limits, began: float) -> None:
        if limits.task_s is not None and time.monotonic() - began >= limits.task_s:
            self.kill()
            self.end()
            raise WorkerGone("TASK_STALLED", f"the task was not done within {limits.task_s:g} s, and was ended")

    def kill(self) -> None:
        """End the group at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """End the group: the worker and whatever it has started."""
        for pipe in (self._orders, self._answers):
            with suppress(BrokenPipeError, OSError):
                pipe.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        self.kill()
        self._process.wait()
        self._open.close()

    def _gone(self) -> WorkerGone:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        self.end()
        code = self._process.wait()
        if code < 0:
            why = " (the system ends processes so when memory is short)" if code == -signal.SIGKILL else ""
            return WorkerGone("WORKER_KILLED", f"the worker was ended by signal {-code}{why}")
        return WorkerGone("WORKER_ENDED", f"the worker ended with code {code} in the middle of its work")
