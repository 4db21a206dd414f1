"""``fedloom runs compare``: figures side by side, curves one below the other, and what the runs were asked."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedloom import store
from fedloom.cli.output import write_json
from fedloom.cli.sparkline import levels_for, sparkline
from fedloom.cli.tables import figure, print_table
from fedloom.core.component import Json
from fedloom.errors import StoreError
from fedloom.experiment.spec import NOT_IN_DIGEST
from fedloom.experiment.tree import shown
from fedloom.reports import Stored, read, write_comparison
from fedloom.reports.differing import LETTERS, different_settings, different_versions, verdicts, without_versions
from fedloom.reports.metric_order import main_metrics
from fedloom.reports.readable import counted
from fedloom.runtime.record import series

MOST_RUNS = len(LETTERS)
CURVES = 3
"""Metrics that have a curve."""


def compare_runs(names: Sequence[str], output: Path, *, json: bool, html: Path | None = None) -> None:
    """Print how runs differ: figures, curves, settings, versions; or write it as a page, and print where it is.

    Raises:
        StoreError: When a run is not there or has not finished, there are not two of them, or the page's file exists.
    """
    if not 2 <= len(names) <= MOST_RUNS:
        raise StoreError(f"runs compare received {counted(len(names), 'run')}; expected 2 to {MOST_RUNS}")
    runs = {letter: read(store.find(output, name)) for letter, name in zip(LETTERS, names, strict=False)}
    if html is not None:
        write_comparison(html, list(runs.values()))
        if not json:
            sys.stdout.write(f"{html}\n")
            return
    settings = different_settings({letter: run.head.experiment for letter, run in runs.items()})
    versions = different_versions({letter: run.summary.versions for letter, run in runs.items()})
    if json:
        page: dict[str, Json] = {} if html is None else {"html": str(html)}
        write_json(_as_json(runs, settings, versions) | page)
        return
    out = sys.stdout
    for letter, run in runs.items():
        record = run.record
        out.write(f"{letter}  {run.folder}  {record.status}, {record.rounds} rounds, digest {run.head.digest[:12]}\n")
    out.write("\n")
    _print_metrics(runs)
    _print_curves(runs)
    _print_differences("settings", settings, list(runs))
    _print_differences("versions", versions, list(runs))
    silent = without_versions(runs)
    if silent:
        out.write(f"  not recorded by {', '.join(silent)}\n")
    out.write("\n")
    for clause in verdicts(runs, versions):
        out.write(f"{clause}\n")


def _print_metrics(runs: Mapping[str, Stored]) -> None:
    metrics = {letter: run.summary.metrics for letter, run in runs.items()}
    rows = []
    for name in main_metrics({name for each in metrics.values() for name in each}):
        if name.endswith(("/mean", "/spread")):
            continue
        values = [each.get(name) for each in metrics.values()]
        row = [name, *(figure(value, 4) for value in values)]
        if len(values) == 2:
            row.append("-" if None in values else f"{(values[1] or 0.0) - (values[0] or 0.0):+.4f}")
        rows.append(row)
    for name, bytes_ in (("bytes up", "bytes_up"), ("bytes down", "bytes_down")):
        counts = [getattr(run.summary, bytes_) for run in runs.values()]
        known = None not in counts and len(counts) == 2
        difference = [f"{counts[1] - counts[0]:+d}" if known else "-"] if len(counts) == 2 else []
        rows.append([name, *("-" if count is None else str(count) for count in counts), *difference])
    print_table(["metric", *runs, *(["B - A"] if len(runs) == 2 else [])], rows)


def _print_curves(runs: Mapping[str, Stored]) -> None:
    had = [{name for record in run.trained for name in record.metrics} for run in runs.values()]
    names = [name for name in main_metrics(set().union(*had)) if name.count("/") == 1]
    names.sort(key=lambda name: sum(name not in each for each in had))  # what all runs have first, else as it was
    chosen = [name for name in names if not name.startswith("train/")][: CURVES - 1]
    chosen += [name for name in names if name.startswith("train/")][:1]
    levels = levels_for(sys.stdout.encoding)
    width = max(10, min(60, shutil.get_terminal_size().columns - 20))
    for name in dict.fromkeys(chosen):
        curves = {letter: series(run.trained, name) for letter, run in runs.items()}
        values = [value for curve in curves.values() for _, value in curve]
        if not values:
            continue
        low, high = min(values), max(values)
        last = max(number for curve in curves.values() for number, _ in curve)
        sys.stdout.write(f"\n{name} by round, 1 to {last}, from {low:.4g} to {high:.4g}\n")
        for letter, curve in curves.items():
            points = [(float(number), value) for number, value in curve]
            drawn = sparkline(points, span=(1.0, float(last)), low=low, high=high, width=width, levels=levels)
            final = figure(curve[-1][1], 4) if curve else "-"
            sys.stdout.write(f"  {letter} {drawn:<{width}} {final}\n")


def _print_differences(title: str, found: Mapping[str, Mapping[str, Json]], letters: Sequence[str]) -> None:
    sys.stdout.write(f"\n{title} that differ\n" if found else f"\n{title}: the same\n")
    for key, values in found.items():
        sys.stdout.write(f"  {key}\n")
        for letter in letters:
            value = shown(values[letter]) if letter in values else "not set"
            sys.stdout.write(f"    {letter}  {value}\n")


def _as_json(
    runs: Mapping[str, Stored], settings: Mapping[str, Mapping[str, Json]], versions: Mapping[str, Mapping[str, Json]]
) -> dict[str, Json]:
    described: Json = {
        letter: {
            "run": run.head.run_id,
            "folder": str(run.folder),
            "status": run.record.status,
            "rounds": run.record.rounds,
            "digest": run.head.digest,
            "model_sha256": run.summary.model_sha256,
            "bytes_up": run.summary.bytes_up,
            "bytes_down": run.summary.bytes_down,
            "metrics": dict(run.summary.metrics),
        }
        for letter, run in runs.items()
    }
    return {
        "runs": described,
        "settings": {key: dict(values) for key, values in settings.items()},
        "versions": {key: dict(values) for key, values in versions.items()},
        "not_in_digest": list(NOT_IN_DIGEST),
    }
