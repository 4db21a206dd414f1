"""``fedloom run`` and ``fedloom resume``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedloom.cli.output import write_json
from fedloom.cli.progress import progress
from fedloom.cli.report import report_of
from fedloom.cli.stored import experiment_of, with_overrides
from fedloom.core.component import ComponentSpec, Json
from fedloom.engines import LocalEngine, RayEngine, RunResult
from fedloom.errors import ConfigError, Violation
from fedloom.experiment.config import read
from fedloom.experiment.registry import resolve
from fedloom.experiment.spec import Experiment
from fedloom.runtime.record import RoundRecord
from fedloom.store import find
from fedloom.store.documents import read_outcome


def run_file(file: Path, overrides: Sequence[str], *, output: Path | None, save_rounds: bool, json: bool) -> None:
    """Run an experiment file and print its summary."""
    settings = read(file, overrides)
    with progress(rounds_of(settings.experiment, settings.base)) as shown:
        result = engine_of(settings.engine).run(
            settings.experiment,
            output=settings.output if output is None else output,
            base=settings.base,
            save_rounds=save_rounds,
            on_round=() if json else (shown,),
        )
    print_result(result, json=json, report=report_of(result))


def resume_run(name: str, overrides: Sequence[str], *, output: Path, from_round: int | None = None, json: bool) -> None:
    """Continue a run and print its summary.

    Raises:
        ConfigError: When a round is named: such a run goes on behind its last one.
    """
    if from_round is not None:
        raise ConfigError(
            [
                Violation(
                    where="--from-round",
                    path="resume",
                    message=f"received {from_round}; {output} is no folder of a coordinator, and a run of this machine "
                    "goes on behind its last round. Leave it out, or name the coordinator by --output",
                )
            ]
        )
    folder = find(output, name)
    experiment, base, engine = experiment_of(folder)
    experiment = replace(experiment, stop=with_overrides(experiment.stop, overrides))
    before = read_outcome(folder)
    new: list[RoundRecord] = []
    with progress(rounds_of(experiment, base)) as shown:
        result = engine_of(engine).run(
            experiment, resume=folder, base=base, on_round=(new.append,) if json else (new.append, shown)
        )
    unchanged = not new and before is not None and before.status.startswith("completed")
    if unchanged and not json:
        sys.stdout.write(f"{folder} had completed before; nothing was changed\n")
    print_result(result, json=json, report=None if unchanged else report_of(result))


def engine_of(table: Mapping[str, Json]) -> LocalEngine | RayEngine:
    """Return the engine that an ``[engine]`` table names."""
    arguments = {key: value for key, value in table.items() if key != "name"}
    engine = resolve(ComponentSpec("fedloom.engines", table.get("name", "local"), arguments))
    assert isinstance(engine, LocalEngine | RayEngine), "these are all engines so far"
    return engine


def rounds_of(experiment: Experiment, base: Path) -> int | None:
    """Return the bound on rounds that the stop sets."""
    stop = experiment.stop
    resolved = resolve(stop, base=base) if isinstance(stop, ComponentSpec) else stop
    rounds: int | None = resolved.rounds
    return rounds


def print_result(result: RunResult, *, json: bool, report: Path | None) -> None:
    """Print a result: one JSON object, or the summary and where the report is."""
    if json:
        write_json(result.as_json())
    else:
        from fedloom.cli.summary import print_summary

        print_summary(result, report=report)
