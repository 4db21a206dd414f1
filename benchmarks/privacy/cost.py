"""What protection adds to a round of W1, and what gradients of single rows add to a round of W3.

Runs of the forms take turns, ``--turns`` of them with 8 rounds each; the first and the last round of a run are not
counted. Printed is the median over turns of each form's median round, and its ratio to the plain form of the same turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from federation import experiment
from threadpoolctl import threadpool_limits
from workloads import draw_rows, workload_named

import fedloom

ROUNDS = 8
CLIENT = fedloom.PrivacyTarget(unit="client", delta=1e-6)


def of_clients() -> Mapping[str, fedloom.Experiment]:
    """Return W1 without protection, and with each mechanism."""
    rows = draw_rows(workload_named("W1"))
    plain = experiment(rows, rounds=ROUNDS)
    uniform = dataclasses.replace(
        plain,
        algorithm=fedloom.fedavg(fedloom.Schedule(epochs=1, batch_size=10, learning_rate=0.1), weighting="uniform"),
        evaluate_every=None,
        privacy=CLIENT,
    )
    noise = fedloom.gaussian(clip=1.0, noise_multiplier=1.0)
    average = fedloom.mean(expected=100.0)
    return {
        "plain": plain,
        "clip and seeded float noise": dataclasses.replace(uniform, pipeline=fedloom.chain(average, noise)),
        "clip and exact integer noise": dataclasses.replace(
            uniform, pipeline=fedloom.chain(average, noise, fedloom.fixed_point())
        ),
        "the same, rotated": dataclasses.replace(
            uniform, pipeline=fedloom.chain(average, noise, fedloom.rotate(), fedloom.fixed_point())
        ),
    }


def of_records() -> Mapping[str, fedloom.Experiment]:
    """Return W3 with ordinary steps, and with as many private steps of as many rows."""
    rows = draw_rows(workload_named("W3"))
    plain = experiment(rows, rounds=ROUNDS)
    each = rows.workload.rows
    steps = -(-each // 64)
    private = fedloom.PrivateSteps(clip=1.0, noise_multiplier=1.0, rate=64 / each, rows=each)
    schedule = fedloom.Schedule(steps=steps, learning_rate=0.1, private=private)
    return {
        "plain": plain,
        "private steps": dataclasses.replace(
            plain,
            algorithm=fedloom.fedavg(schedule, weighting="uniform"),
            evaluate_every=None,
            privacy=fedloom.PrivacyTarget(unit="record", delta=1e-6),
        ),
    }


def median_round(asked: fedloom.Experiment) -> float:
    """Return the median seconds of the rounds between the first and the last."""
    seconds = [record.seconds for record in fedloom.local().run(asked).rounds]
    return statistics.median(seconds[1:-1])


def main(arguments: list[str]) -> int:
    """Measure both workloads and print a line for each form."""
    parser = argparse.ArgumentParser(description="Measure what protection adds to a round.")
    parser.add_argument("--turns", type=int, default=9)
    turns: int = parser.parse_args(arguments).turns
    for name, forms in (("W1", of_clients()), ("W3", of_records())):
        taken: dict[str, list[float]] = {form: [] for form in forms}
        with threadpool_limits(limits=1, user_api="blas"):
            for _ in range(turns):
                for form, asked in forms.items():
                    taken[form].append(median_round(asked))
        for form, seconds in taken.items():
            ratio = statistics.median(mine / plain for mine, plain in zip(seconds, taken["plain"], strict=True))
            print(f"{name}  {form:<30} {statistics.median(seconds) * 1e3:8.2f} ms  {ratio:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
