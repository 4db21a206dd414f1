"""Experiment files, and command lines as real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import fedloom
from fedloom.core.keys import Key
from fedloom.experiment import config

# A test runner in the background ignores SIGINT, and its children would too.
MAIN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from fedloom.cli import main; main()"
BOUND_S = 30.0
SIZES = {"north": 60, "east": 33, "south": 18, "west": 71}


def write_rows(path: Path, *, columns: int = 3, seed: int = 4) -> Path:
    """Write a CSV file of four wards of unequal size."""
    lines = [",".join([*(f"x{place}" for place in range(columns)), "ward", "outcome"])]
    for ward, size in SIZES.items():
        draw = Key.from_seed(seed).child(ward).generator()
        for row, noise in zip(draw.standard_normal((size, columns)), draw.standard_normal(size), strict=True):
            outcome = "ill" if row[0] + noise > 0 else "well"
            lines.append(",".join([*(repr(float(value)) for value in row), ward, outcome]))
    path.write_text("\n".join(lines) + "\n")
    return path


def experiment_text(*, rounds: int = 10, algorithm: str = "scaffold", steps: int = 3, **tables: str) -> str:
    """Return an experiment file over ``rows.csv``; ``tables`` are added as they are."""
    return "\n".join(
        [
            "seed = 7",
            "compare = false",
            "[data]",
            'name = "csv"',
            'path = "rows.csv"',
            'label = "outcome"',
            'client = "ward"',
            "[[prepare]]",
            'name = "label_set"',
            "[[prepare]]",
            'name = "standardise"',
            "[learner]",
            'name = "logistic"',
            "l2 = 0.01",
            "[algorithm]",
            f'name = "{algorithm}"',
            f"local = {{ steps = {steps}, batch_size = 16, learning_rate = 0.05 }}",
            "[cohort]",
            'name = "uniform"',
            "size = 3",
            "[[stop]]",
            'name = "max_rounds"',
            f"rounds = {rounds}",
            "[engine]",
            'name = "local"',
            "checkpoint_s = 0",
            *tables.values(),
            "",
        ]
    )


@pytest.fixture
def text() -> Callable[..., str]:
    return experiment_text


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write an experiment file and its rows into the test's folder."""

    def write(**fields: object) -> Path:
        write_rows(tmp_path / "rows.csv")
        path = tmp_path / "run.toml"
        path.write_text(experiment_text(**fields))  # type: ignore[arg-type]
        return path

    return write


@pytest.fixture
def undisturbed() -> Callable[[Path], fedloom.RunResult]:
    """Run an experiment file in this process, without a folder."""

    def run(path: Path) -> fedloom.RunResult:
        settings = config.read(path)
        return fedloom.local().run(settings.experiment, base=settings.base, save_rounds=True)

    return run


@dataclass
class Command:
    """A command line in a process of its own, in a session of its own."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """What standard error has said so far."""
    bound_s: float = BOUND_S
    """For the end of it."""

    def wait_for(self, text: str) -> str:
        """Read standard error up to a line that holds ``text``; the process ended without: fail."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}: {''.join(self.lines[-20:])}")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, while the process lives."""
        end = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < end
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"ended with {self.process.wait(timeout=0.002)}: {self.finish()}")

    def send(self, number: int) -> float:
        """Send a signal to the process, by its pid; return the time."""
        self.process.send_signal(number)
        return time.monotonic()

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code, standard output, and all of standard error."""
        out, err = self.process.communicate(timeout=self.bound_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 0)
            raise AssertionError("a process of the command lives on")
        return self.process.returncode, out, "".join(self.lines) + err


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command; what is left of it at the end is killed, by its pid. A watchdog bounds every read."""
    with contextlib.ExitStack() as stack:

        def run(
            *arguments: object,
            env: Mapping[str, str] | None = None,
            options: Sequence[str] = (),
            script: str = MAIN,
            cwd: Path | None = None,
            stdin: int = subprocess.DEVNULL,
            bound_s: float = BOUND_S,
        ) -> Command:
            child = subprocess.Popen(
                [sys.executable, *options, "-c", script, *map(str, arguments)],
                cwd=tmp_path if cwd is None else cwd,
                env={**os.environ, **(env or {})},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
            stack.enter_context(child)
            watchdog = threading.Timer(bound_s, child.kill)
            watchdog.start()
            stack.callback(watchdog.join)
            stack.callback(watchdog.cancel)
            stack.callback(child.kill)
            return Command(child, bound_s=bound_s)

        yield run


@pytest.fixture
def fedloom_(start: Start) -> Callable[..., tuple[int, str, str]]:
    """Run a command to its end: exit code, standard output, standard error."""

    def run(*arguments: object, **settings: object) -> tuple[int, str, str]:
        return start(*arguments, **settings).finish()

    return run


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, in the test's folder: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from fedloom.cli import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["fedloom", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "100")
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return run
