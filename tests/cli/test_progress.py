"""Progress lines, and tables that any terminal can show."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from fedloom.cli.progress import Progress
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
