"""``fedloom run FILE --seeds N``: the same experiment by several seeds, and how much its figures depend on them.

The experiment's seed and, where the data have one, the seed of partition and split go up together: an error bar is over
who holds which rows, which of them are held back, and every random choice of training.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from fedloom.cli.failures import describe
from fedloom.cli.main_metrics import print_by_phase
from fedloom.cli.output import write_json
from fedloom.cli.report import report_of
from fedloom.cli.run import engine_of
from fedloom.cli.tables import figure
from fedloom.core.component import Json
from fedloom.engines import RunInterrupted, RunResult
from fedloom.errors import ComponentError, Error
from fedloom.experiment.config import Settings, read
from fedloom.reports.metric_order import main_metrics

SEEDS = ("seed", "data.seed")
"""What a next seed changes, where the experiment has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A metric over seeds: mean, sample standard deviation (None of one value), and how many runs have a value."""

    mean: float
    deviation: float | None
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRun:
    """One of the runs: its result, or why there is none."""

    seed: int
    result: RunResult | None = None
    error: Error | None = None


def run_seeds(
    file: Path, overrides: Sequence[str], *, count: int, output: Path | None, save_rounds: bool, json: bool
) -> None:
    """Run an experiment file by ``count`` seeds, each in a run folder of its own, and print the spread of its figures.

    Raises:
        ComponentError: When ``count`` is below 1.
        RunInterrupted: On Ctrl-C: the run that was going on is kept, the seeds after it are not begun.
        typer.Exit: With code 1 when a run failed; the others are done all the same.
    """
    if count < 1:
        raise ComponentError(f"--seeds {count}: expected 1 or more")
    first = read(file, overrides)
    base = seeds_of(first)
    if not json:
        moved = " and ".join(f"{key} = {value} to {value + count - 1}" for key, value in base.items())
        sys.stderr.write(f"{count} runs: {moved}\n")
    runs: list[SeedRun] = []
    for step in range(count):
        moved_on = [f"{key}={value + step}" for key, value in base.items()]
        runs.append(_run(file, [*overrides, *moved_on], base["seed"] + step, output=output, save_rounds=save_rounds))
        if not json:
            sys.stderr.write(_line(runs[-1]) + "\n")
    spreads = spread_over([run.result.metrics for run in runs if run.result is not None])
    if json:
        write_json(_as_json(runs, spreads, base))
    else:
        _print(runs, spreads, base)
    if any(run.error is not None for run in runs):
        raise typer.Exit(1)


def seeds_of(settings: Settings) -> dict[str, int]:
    """Return the seeds that the next run moves on, by their keys."""
    values = {setting.path: setting.value for setting in settings.settings}
    return {key: values[key] for key in SEEDS if isinstance(values.get(key), int)}


def spread_over(metrics: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """Return mean and sample standard deviation of each metric over the runs that have a value.

    Example:
        >>> spread_over([{"eval/auroc": 0.8}, {"eval/auroc": 0.9}, {"eval/auroc": None}])["eval/auroc"].runs
        2
    """
    found: dict[str, Spread] = {}
    for name in sorted({name for each in metrics for name in each}):
        values = [value for each in metrics if (value := each.get(name)) is not None]
        if values:
            mean = math.fsum(values) / len(values)
            squares = math.fsum((value - mean) ** 2 for value in values)
            deviation = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None
            found[name] = Spread(mean=mean, deviation=deviation, runs=len(values))
    return found


def _run(file: Path, overrides: Sequence[str], seed: int, *, output: Path | None, save_rounds: bool) -> SeedRun:
    try:
        settings = read(file, overrides)
        result = engine_of(settings.engine).run(
            settings.experiment,
            output=settings.output if output is None else output,
            base=settings.base,
            save_rounds=save_rounds,
        )
    except RunInterrupted:
        raise
    except Error as error:
        return SeedRun(seed=seed, error=error)
    report_of(result)
    return SeedRun(seed=seed, result=result)


def _line(run: SeedRun) -> str:
    if run.result is None:
        assert run.error is not None, "a run has a result or an error"
        return f"seed {run.seed}  failed: {describe(run.error).splitlines()[0]}"
    words = [f"seed {run.seed}", f"{len(run.result.rounds)} rounds"]
    metrics = run.result.metrics
    words += [f"{name} {metrics[name]:.4f}" for name in main_metrics(metrics)[:1]]
    seconds = sum(record.seconds for record in run.result.records)
    return "  ".join([*words, f"{seconds:.2f} s"])


def _print(runs: Sequence[SeedRun], spreads: Mapping[str, Spread], base: Mapping[str, int]) -> None:
    failed = [run for run in runs if run.error is not None]
    for run in failed:
        assert run.error is not None, "only failed runs are here"
        sys.stderr.write(f"error: seed {run.seed}: " + describe(run.error).replace("\n", "\n       ") + "\n")
    sys.stdout.write(f"\n{len(runs) - len(failed)} of {len(runs)} runs; moved together: {', '.join(base)}\n")
    print_by_phase({name: _shown(spread) for name, spread in spreads.items()})
    for run in runs:
        if run.result is not None:
            sys.stdout.write(f"seed {run.seed}  {run.result.folder}\n")


def _shown(spread: Spread) -> str:
    """Return mean and deviation as text that any encoding has."""
    return figure(spread.mean, 4) + ("" if spread.deviation is None else f" +/- {figure(spread.deviation, 4)}")


def _as_json(runs: Sequence[SeedRun], spreads: Mapping[str, Spread], base: Mapping[str, int]) -> dict[str, Json]:
    done: list[Json] = [
        {"seed": run.seed, "result": None if run.result is None else run.result.as_json(), "error": _error(run.error)}
        for run in runs
    ]
    summary = {name: {"mean": s.mean, "deviation": s.deviation, "runs": s.runs} for name, s in spreads.items()}
    return {"moved": list(base), "runs": done, "summary": summary}


def _error(error: Error | None) -> Json:
    return None if error is None else {"kind": type(error).__name__, "message": describe(error)}
