"""Progress lines, and tables that any terminal can show."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from rich.console import Console

from fedloom.cli.progress import Progress, moving_width
from fedloom.cli.tables import bar, figure, marks_for, print_table
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import Failure
from fedloom.runtime.record import RoundRecord


def record(number: int, *, seconds: float = 2.0, failures: Sequence[Failure] = (), **fields: object) -> RoundRecord:
    values = {"program": "train", "status": "closed", "metrics": {"fit/loss": 0.5}, **fields}
    return RoundRecord(
        round=RoundNumber(number),
        retry=0,
        invited=4,
        included=tuple(ClientId(name) for name in "abc"),
        failures=tuple(failures),
        bytes_up=1500,
        seconds=seconds,
        **values,  # type: ignore[arg-type]
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(progress: Progress, out: io.StringIO, clock: Clock, numbers: Sequence[int], seconds: float) -> list[str]:
    for number in numbers:
        clock.now += seconds
        progress(record(number, seconds=seconds))
    return out.getvalue().splitlines()


def test_the_time_left_is_that_of_rounds_alone() -> None:
    """An hour of loading before round 1 is no part of the estimate."""
    out, clock = io.StringIO(), Clock()
    progress = Progress(10, out, clock=clock)
    clock.now += 3600
    said = lines(progress, out, clock, [1, 2, 5], 2.0)
    assert said[0] == "round  1/10  3/4 clients  loss 0.5000  1.5 kB up  2.00 s  18 s left"
    assert said[1].endswith("16 s left")


def test_a_resume_counts_its_own_rounds() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(10, out, clock=clock)
    clock.now += 3600
    said = lines(progress, out, clock, [7, 8, 9, 10], 3.0)
    assert [line.rpartition("  ")[2] for line in said] == ["9 s left", "6 s left", "3 s left", "3.00 s"]


def test_a_clock_that_goes_backwards_leaves_no_time_below_zero() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(5, out, clock=clock)
    said = lines(progress, out, clock, [1, 2, 3], -50.0)
    assert all(not line.rpartition("  ")[2].startswith("-") for line in said)


def shown(rounds: int | None, numbers: Sequence[int], *, seconds: float, width: int | None = None) -> str:
    """Return all that is printed of a run whose rounds take that long each."""
    out, clock = io.StringIO(), Clock()
    with Progress(rounds, out, clock=clock, width=width) as progress:
        for number in numbers:
            clock.now += seconds
            progress(record(number, seconds=seconds))
    return out.getvalue()


def rounds_in(text: str) -> list[int]:
    return [int(found[1]) for found in re.finditer(r"round +(\d+)", text)]


@pytest.mark.parametrize("width", [None, 80])
def test_a_short_run_has_a_line_a_round_anywhere(width: int | None) -> None:
    said = shown(25, range(1, 26), seconds=0.001, width=width)
    assert rounds_in(said) == list(range(1, 26)) and said.count("\n") == 25 and "\x1b" not in said


@pytest.mark.parametrize(("rounds", "seconds"), [(60, 0.01), (1000, 0.01), (10_000, 0.001)])
def test_a_long_run_has_its_first_round_its_last_and_about_twenty(rounds: int, seconds: float) -> None:
    found = rounds_in(shown(rounds, range(1, rounds + 1), seconds=seconds))
    assert found[0] == 1 and found[-1] == rounds and 15 <= len(found) <= 25
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert max(gaps) <= rounds / 20 + 1


def test_a_slow_run_has_a_line_every_ten_seconds() -> None:
    found = rounds_in(shown(1000, range(1, 101), seconds=4.0))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert set(gaps[:-1]) <= {3} or max(gaps) <= 3


def test_the_round_that_a_run_ended_with_is_shown_even_when_it_was_not_due() -> None:
    assert rounds_in(shown(1000, range(1, 124), seconds=0.01))[-1] == 123
    found = rounds_in(shown(None, range(1, 400), seconds=0.01))
    assert found[:25] == list(range(1, 26)) and found[-1] == 399 and len(found) < 60


def test_a_round_that_was_short_is_shown_at_once() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(1000, out, clock=clock)
    progress(record(1))
    progress(record(2, status="skipped"))
    assert rounds_in(out.getvalue()) == [1, 2] and "skipped: too few updates" in out.getvalue()


@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_a_terminal_has_one_line_that_moves_and_fits(width: int) -> None:
    said = shown(1000, range(1, 1001), seconds=0.05, width=width)
    assert said.count("\n") == 1 and said.endswith("\n")
    frames = [frame.removesuffix("\x1b[K") for frame in said.rstrip("\n").split("\r")[1:]]
    assert rounds_in(frames[-1]) == [1000] and 100 <= len(frames) <= 510
    assert all(len(frame) < width for frame in frames)
    if width >= 40:
        assert frames[len(frames) // 2].endswith(" left")
    if width == 200:
        assert frames[-1].startswith("#" * 16)


def test_what_went_wrong_stays_on_the_terminal() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(1000, out, clock=clock, width=80) as progress:
        for number in (1, 2, 3):
            clock.now += 1
            progress(record(number, status="skipped" if number == 2 else "closed"))
    lines = [line.rpartition("\r")[2] for line in out.getvalue().split("\n")]
    assert [rounds_in(line) for line in lines] == [[2], [3], []]


@pytest.mark.parametrize(
    ("terminal", "environment", "moves"),
    [
        (True, {"TERM": "xterm-256color"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm-256color"}, False),
    ],
)
def test_only_a_terminal_that_can_is_written_over(terminal: bool, environment: dict[str, str], moves: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    assert (moving_width(Stream(), environment) is not None) is moves


def test_questions_have_no_line_and_short_rounds_say_so() -> None:
    out = io.StringIO()
    progress = Progress(None, out)
    progress(record(1, program="query"))
    assert out.getvalue() == ""
    lost = [Failure(client=ClientId(name), phase="train", kind="crashed", detail="") for name in "dedfg"]
    progress(record(1, status="retried", failures=lost))
    (line,) = out.getvalue().splitlines()
    assert line.startswith("round 1  3/4 clients  retried: too few updates  ")
    assert line.endswith("without d crashed, e crashed, f crashed and 1 more") and "left" not in line


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"eval/auroc": 0.9, "validation/auroc": 0.8}, "validation/auroc 0.8000"),
        ({"eval/accuracy": 0.7, "eval/auroc": None}, "eval/accuracy 0.7000"),
        ({"eval/rmse": 1.5}, "eval/rmse 1.5000"),
        ({"fit/loss": float("nan")}, "loss nan"),
    ],
)
def test_one_figure_stands_in_a_line(metrics: dict[str, float | None], shown: str) -> None:
    out = io.StringIO()
    Progress(None, out)(record(1, metrics=metrics))
    assert f"  {shown}  " in out.getvalue()


@pytest.mark.parametrize("width", [20, 40, 200])
def test_cells_of_a_table_are_never_broken(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width)
    rows = [["20261121T085002Z-f0ff", "completed with warnings", "0.995"], ["b", "-", "-"]]
    print_table(["run", "a very long header of many words", "metric"], rows, console=console)
    body = out.getvalue().splitlines()
    assert any(all(cell in line for cell in rows[0]) for line in body)
    assert all(line == line.rstrip() or len(line) <= max(width, 60) for line in body)


def test_bars_have_the_length_of_their_value() -> None:
    assert [bar(value, low=0, high=1, width=4, marks="#") for value in (-1.0, 0.0, 0.5, 1.0, 7.0)] == [
        "", "", "##", "####", "####",
    ]  # fmt: skip
    assert bar(None, low=0, high=1, width=4) == ""
    assert bar(33 / 64, low=0, high=1, width=8) == "████▏"
    assert marks_for("utf-8") != marks_for("latin-1") == marks_for("no such encoding") == "#"
    assert figure(None) == "-" and figure(0.12345) == "0.123"
