"""Measure speed and memory, and hold the figures against what is asked of them.

Flags: ``--only W1`` (or W3, memory, population, where), ``--rounds N`` (9 counted ones by default), ``--json FILE``
(every figure, with the seconds of each round). Exit code 1 when the contestants of a workload did not reach the same
loss: they have then not done the same work, and no ratio means anything. A missed limit is reported, not an error,
because machines differ; `where` is left out unless asked for.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import contest
import memory
import population
import where
from report import Row, machine, table
from workloads import W1, WORKLOADS, Workload

TOPICS = ("memory", *(workload.name for workload in WORKLOADS), "population", "where")
"""In the order of measuring."""
PEAK_OF_W1 = 350.0
OF_SMALL_POPULATION = 1.5
BYTES_A_CLIENT = 16.0
USAGE = f"usage: bench.py [--only {'|'.join(TOPICS)}] [--rounds N] [--json FILE]"


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
        found, same_loss = _measure(topic, int(rounds))
        rows.extend(found)
        agree = agree and same_loss
    print("\n".join(table(rows)))
    print("Times are medians in ms; figure: ratio of the medians; by round: median of the ratios. Smaller is better.")
    if "--json" in flags:
        report = {"machine": machine(), "rounds": int(rounds), "rows": [asdict(row) for row in rows]}
        Path(flags["--json"]).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if agree else 1


def _measure(topic: str, rounds: int) -> tuple[list[Row], bool]:
    """Return the lines of one topic, and whether its contestants reached the same loss."""
    workloads = {workload.name: workload for workload in WORKLOADS}
    if topic in workloads:
        outcome = contest.hold(workloads[topic], rounds=rounds)
        return list(_contest(outcome)), outcome.agrees
    return {"memory": _memory, "population": _population, "where": _where}[topic](rounds), True


def _contest(outcome: contest.Outcome) -> Iterator[Row]:
    workload, mine = outcome.workload, outcome.seconds["fedloom"]
    if "P0" in outcome.seconds:
        yield _ratio(workload, "PyTorch loop (P0)", mine, outcome.seconds["P0"], workload.of_torch)
    else:
        yield Row(what=f"{workload.name} / PyTorch loop (P0)", mine=_ms(mine), note="not run: torch is not installed")
    yield _ratio(workload, "numpy loop (N0)", mine, outcome.seconds["N0"], workload.of_numpy)
    losses = ", ".join(f"{name} {loss:.5f}" for name, loss in outcome.losses.items())
    said = "within" if outcome.agrees else "FAILS, not within"
    yield Row(what=f"{workload.name} final losses", note=f"{said} {contest.TOLERANCE:g}: {losses}")


def _ratio(workload: Workload, name: str, mine: Sequence[float], theirs: Sequence[float], asked: float) -> Row:
    return Row(
        what=f"{workload.name} / {name}",
        mine=_ms(mine),
        other=_ms(theirs),
        figure=statistics.median(mine) / statistics.median(theirs),
        by_round=statistics.median(one / other for one, other in zip(mine, theirs, strict=True)),
        asked=asked,
        seconds={"fedloom": list(mine), "other": list(theirs)},
    )


def _memory(_rounds: int) -> list[Row]:
    return [
        Row(what="W1 peak memory, MB", figure=memory.peak_of_w1() / 1e6, asked=PEAK_OF_W1),
        Row(what="bytes a client, 1,000 to 1,000,000", figure=memory.bytes_per_client(), asked=BYTES_A_CLIENT),
    ]


def _population(rounds: int) -> list[Row]:
    seconds = population.interleaved(rounds=rounds)
    small, large = seconds[population.SMALL], seconds[population.LARGE]
    pairs = zip(large, small, strict=True)
    return [
        Row(
            what="population 1,000,000 / 1,000",
            mine=_ms(large),
            other=_ms(small),
            figure=statistics.median(large) / statistics.median(small),
            by_round=statistics.median(one / other for one, other in pairs),
            asked=OF_SMALL_POPULATION,
            seconds={"fedloom": large, "other": small},
        )
    ]


def _where(rounds: int) -> list[Row]:
    parts = where.parts_of_a_round(W1, rounds=rounds)
    whole = sum(parts.values())
    return [Row(what=f"W1 {part}", mine=_ms([taken]), note=f"{taken / whole:.0%}") for part, taken in parts.items()]


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
