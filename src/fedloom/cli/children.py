"""Processes of one host that belong to one command: they are started by it, and all end with it, killed or not.

The command holds the other end of their standard input, from which nothing comes: its end is that of the command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from fedloom.errors import WorkerError

GRACE_S = 8.0
"""For a process to end by itself after it was asked to."""
ENDS_WITH_STDIN = "FEDLOOM_ENDS_WITH_STDIN"
"""Environment variable of a command whose standard input ends when it shall end itself."""
_TOLD = 12
"""Last lines of a process's output that an error shows."""


@contextmanager
def ended_by_a_signal() -> Iterator[None]:
    """Let a request to end come as Ctrl-C does, so that no process is left behind."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    kinds = [each for each in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if each is not None]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, interrupted) for each in kinds}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def end_with_stdin(*, grace_s: float = GRACE_S) -> None:
    """Let this process end when its standard input does: as by a signal, and after a while at once.

    What it does later reads nothing there.
    """
    os.environ.pop(ENDS_WITH_STDIN, None)
    watched, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(watched, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        _kill_group(os.getpid())

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Children:
    """Processes that run ``fedloom`` commands, each in a session of its own, its output in a file.

    Leaving the context asks all of them to end, and ends those that do not: whatever they started goes with them.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(
        self, name: str, arguments: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start ``fedloom`` with arguments; what it prints goes to the end of a file."""
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "fedloom", *map(str, arguments)],
                env={**os.environ, **(env or {}), ENDS_WITH_STDIN: "1"},
                stdin=subprocess.PIPE,  # never written to: it ends with this process
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = (child, log)

    def pids(self) -> dict[str, int]:
        """Return the id of each process, by name."""
        return {name: child.pid for name, (child, _) in self._running.items()}

    def ended(self) -> bool:
        """Return whether one has ended."""
        return any(child.poll() is not None for child, _ in self._running.values())

    def check(self) -> None:
        """Look whether all are there.

        Raises:
            WorkerError: When one has ended; it shows the last lines that it printed.
        """
        for name, (child, log) in self._running.items():
            code = child.poll()
            if code is not None:
                said = log.read_text(errors="replace").splitlines()[-_TOLD:]
                raise WorkerError("\n".join([f"{name} ended with {code}; all that it said is in {log}:", *said]))

    def wait_until(self, condition: Callable[[], bool], *, what: str, within_s: float) -> None:
        """Wait until a condition holds, while all processes live.

        Raises:
            WorkerError: When one ends, or the time is over.
        """
        end = self._clock() + within_s
        while not condition():
            self.check()
            if self._clock() > end:
                logs = ", ".join(str(log) for _, log in self._running.values())
                raise WorkerError(f"{what}: not within {within_s:g} s; the logs are {logs}")
            self.pause(0.05)

    def pause(self, seconds: float) -> None:
        """Wait for any process to end, for so long at most."""
        first = next((child for child, _ in self._running.values()), None)
        if first is None:
            time.sleep(seconds)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            first.wait(timeout=seconds)

    def end(self) -> None:
        """End all, those first that were started last. Safe to repeat."""
        started = list(reversed(self._running.values()))
        for child, _ in started:
            if child.poll() is None:
                child.terminate()
        end = self._clock() + GRACE_S
        for child, _ in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(0.1, end - self._clock()))
            _end_group(child)
        self._running.clear()


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the session of a process: it and its own children."""
    if os.name == "posix":
        _kill_group(child.pid)
    else:
        child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
