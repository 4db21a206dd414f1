"""Measure speed and memory, and hold the figures against what is asked of them.

Flags: ``--only TOPIC``, ``--rounds N`` (9 counted ones by default), ``--json FILE`` (every figure, with the seconds of
each round). Exit code 1 when the contestants of a workload have not done the same work: no ratio means anything then. A
missed limit is reported, not an error, because machines differ; `where` is left out unless asked for.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import contest
import memory
import population
import processes
import where
from federation import task_of
from lead import fedloom_rounds
from losses import TOLERANCE
from own_cost import cost_of
from report import Row, machine, table
from workloads import W1, W2, W4, WORKLOADS, Task, Workload, workload_named

TOPICS = ("memory", "start", *(workload.name for workload in WORKLOADS), "own", "population", "where")
"""In the order of measuring."""
PEAK_OF_W1 = 350.0
FIRST_ROUND_S = 3.0
OF_SMALL_POPULATION = 1.5
BYTES_A_CLIENT = 16.0
ONE, TWO = "fedloom", "fedloom, 2 workers"
USAGE = f"usage: bench.py [--only {'|'.join(TOPICS)}] [--rounds N] [--json FILE]"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def main(arguments: Sequence[str]) -> int:
    """Measure what the flags ask for, print the table, and return the exit code."""
    flags = dict(zip(arguments[::2], arguments[1::2], strict=False))
    only, rounds = flags.get("--only"), flags.get("--rounds", "9")
    wrong = len(arguments) % 2 or not flags.keys() <= {"--only", "--rounds", "--json"} or not rounds.isdigit()
    if wrong or int(rounds) < 1 or only not in (None, *TOPICS):
        print(USAGE, file=sys.stderr)
        return 2
    rows: list[Row] = []
    agree = True
    for topic in [only] if only else TOPICS[:-1]:
        print(f"measuring {topic} ...", file=sys.stderr, flush=True)
        found, same_work = _measure(topic, int(rounds))
        rows.extend(found)
        agree = agree and same_work
    print("\n".join(table(rows)))
    print("Times are medians in ms; figure: ratio of the medians; by round: median of the ratios. Smaller is better.")
    if "--json" in flags:
        report = {"machine": machine(), "rounds": int(rounds), "rows": [asdict(row) for row in rows]}
        Path(flags["--json"]).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if agree else 1


def _measure(topic: str, rounds: int) -> tuple[list[Row], bool]:
    """Return the lines of one topic, and whether its contestants have done the same work."""
    if topic in {workload.name for workload in WORKLOADS}:
        return _workload(workload_named(topic), rounds)
    measured: dict[str, Callable[[int], list[Row]]] = {
        "memory": _memory, "start": _start, "own": _own, "population": _population, "where": _where,
    }  # fmt: skip
    return measured[topic](rounds), True


def _workload(workload: Workload, rounds: int) -> tuple[list[Row], bool]:
    """Hold a contest with one worker, and one with two."""
    if workload.model != "linear" and not HAS_TORCH:
        return [Row(what=workload.name, note="not run: torch is not installed")], True
    # The first round is not counted, because it has the engine's start in it, nor the last, which has its evaluation.
    task = task_of(workload, rounds=rounds + 2)
    limits = workload.limits
    rows: list[Row] = []
    agree = True
    for leader, lead, asked, numpy_too in (
        (ONE, fedloom_rounds, limits.of_torch, True),
        (TWO, partial(fedloom_rounds, workers=2), limits.of_torch_two, False),
    ):
        held = contest.Contest(task, contest.loops(task, numpy_too=numpy_too), leader=leader)
        outcome = held.outcome(lead(held))
        rows.extend(_ratios(outcome, leader, asked))
        agree = agree and outcome.agrees
    return rows, agree


def _ratios(outcome: contest.Outcome, leader: str, asked: float | None) -> Iterator[Row]:
    workload, mine = outcome.workload, outcome.seconds[leader]
    stem = f"{workload.name}{leader.removeprefix(ONE)}"
    if "P0" in outcome.seconds:
        yield _ratio(f"{stem} / PyTorch loop (P0)", mine, outcome.seconds["P0"], asked)
    else:
        yield Row(what=f"{stem} / PyTorch loop (P0)", mine=_ms(mine), note="not run: torch is not installed")
    if "N0" in outcome.seconds:
        yield _ratio(f"{stem} / numpy loop (N0)", mine, outcome.seconds["N0"], workload.limits.of_numpy)
    losses = ", ".join(f"{name} {loss:.5f}" for name, loss in outcome.losses.items())
    moved = ", ".join(f"{name} {distance:.4g}" for name, distance in outcome.moved.items())
    said = "the same work" if outcome.agrees else f"NOT THE SAME WORK (losses to {TOLERANCE[workload.model]:g})"
    yield Row(what=f"{stem} / loss, distance moved", note=f"{said}: {losses}; {moved}")


def _ratio(what: str, mine: Sequence[float], theirs: Sequence[float], asked: float | None) -> Row:
    return Row(
        what=what,
        mine=_ms(mine),
        other=_ms(theirs),
        figure=statistics.median(mine) / statistics.median(theirs),
        by_round=statistics.median(one / other for one, other in zip(mine, theirs, strict=True)),
        asked=asked,
        seconds={"fedloom": list(mine), "other": list(theirs)},
    )


def _memory(_rounds: int) -> list[Row]:
    return [Row(what="bytes a client, 1,000 to 1,000,000", figure=memory.bytes_per_client(), asked=BYTES_A_CLIENT)]


def _start(_rounds: int) -> list[Row]:
    """Run W1 and W4 in processes of their own, W4 with torch: peak memory, and time to the first finished round."""
    rows: list[Row] = []
    for workload, peak in ((W1, PEAK_OF_W1), (W4, None)):
        if workload.model != "linear" and not HAS_TORCH:
            rows.append(Row(what=f"{workload.name} start", note="not run: torch is not installed"))
            continue
        with tempfile.TemporaryDirectory() as folder:
            task: Task = task_of(workload, rounds=memory.ROUNDS)
            task.write(Path(folder) / "task")
            for leader in (ONE, "P0") if HAS_TORCH else (ONE,):
                output = Path(folder) / leader
                found = processes.hold(leader, Path(folder) / "task", output=output, rounds=memory.ROUNDS, beside=False)
                mine = leader == ONE
                rows += [
                    Row(
                        what=f"{workload.name} peak memory, MB, {leader}",
                        figure=found.peak_mb,
                        asked=peak if mine else None,
                    ),
                    Row(
                        what=f"{workload.name} start to end of round 1, s, {leader}",
                        figure=found.start_s,
                        asked=FIRST_ROUND_S if mine else None,
                    ),
                ]
    return rows


def _own(rounds: int) -> list[Row]:
    """Return what rounds cost around local training: of W1 a client, of the networks as a share."""
    rows = [Row(what="W2, W4 own cost", note="not run: torch is not installed")] if not HAS_TORCH else []
    for workload in (W1, W2, W4) if HAS_TORCH else (W1,):
        cost = cost_of(workload, rounds=rounds)
        limits = workload.limits
        if limits.own_us_client is not None:
            each = cost.own_s / workload.cohort * 1e6
            rows.append(Row(what=f"{workload.name} own cost, us a client", figure=each, asked=limits.own_us_client))
        if limits.own_share is not None:
            share = cost.own_s / cost.round_s
            rows.append(Row(what=f"{workload.name} own cost, of a round", figure=share, asked=limits.own_share))
    return rows


def _population(rounds: int) -> list[Row]:
    seconds = population.interleaved(rounds=rounds)
    small, large = seconds[population.SMALL], seconds[population.LARGE]
    return [_ratio("population 1,000,000 / 1,000", large, small, OF_SMALL_POPULATION)]


def _where(rounds: int) -> list[Row]:
    parts = where.parts_of_a_round(W1, rounds=rounds)
    whole = sum(parts.values())
    return [Row(what=f"W1 {part}", mine=_ms([taken]), note=f"{taken / whole:.0%}") for part, taken in parts.items()]


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
