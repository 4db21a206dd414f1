"""``fedloom runs compare``: figures side by side, curves one below the other, and what the runs were asked."""

from __future__ import annotations

import shutil
import string
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from fedloom import store
from fedloom.cli.main_metrics import main_metrics
from fedloom.cli.output import write_json
from fedloom.cli.sparkline import levels_for, sparkline
from fedloom.cli.tables import figure, print_table
from fedloom.core.component import Json
from fedloom.errors import StoreError
from fedloom.experiment.spec import NOT_IN_DIGEST, differences
from fedloom.experiment.tree import dotted, file_form, leaves, shown
from fedloom.reports import Stored, read
from fedloom.runtime.record import series

MOST_RUNS = len(string.ascii_uppercase)
CURVES = 3
"""Metrics that have a curve."""
_ABSENT = object()


def compare_runs(names: Sequence[str], output: Path, *, json: bool) -> None:
    """Print how runs differ: figures, curves, settings, versions.

    Raises:
        StoreError: When a run is not there or has not finished, or there are not two of them.
    """
    if not 2 <= len(names) <= MOST_RUNS:
        raise StoreError(f"runs compare received {len(names)} run; expected 2 to {MOST_RUNS}")
    runs = {letter: read(store.find(output, name)) for letter, name in zip(string.ascii_uppercase, names, strict=False)}
    settings = different_settings({letter: run.head.experiment for letter, run in runs.items()})
    versions = different_versions({letter: run.summary.versions for letter, run in runs.items()})
    if json:
        write_json(_as_json(runs, settings, versions))
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
    silent = [letter for letter, run in runs.items() if not run.summary.versions]
    if silent:
        out.write(f"  not recorded by {', '.join(silent)}\n")
    for sentence in _verdicts(runs, versions):
        out.write(f"{sentence}\n")


def different_settings(trees: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the settings that are not the same in all runs: dotted key, then the value of each run that has one."""
    keys: set[str] = set()
    for one, other in combinations(trees.values(), 2):
        keys.update(differences(_comparable(one), _comparable(other)))
    values = {letter: _by_key(tree) for letter, tree in trees.items()}
    return {key: {letter: each[key] for letter, each in values.items() if key in each} for key in sorted(keys)}


def different_versions(versions: Mapping[str, Mapping[str, str | None]]) -> dict[str, dict[str, Json]]:
    """Return the versions that are not the same in all runs; a run whose record has none says nothing."""
    names = sorted({name for each in versions.values() for name in each})
    known = {letter: each for letter, each in versions.items() if each}
    found = {name: {letter: each.get(name) for letter, each in known.items()} for name in names}
    return {name: dict(values) for name, values in found.items() if len(set(values.values())) > 1}


def _comparable(tree: Json) -> Json:
    return {key: value for key, value in tree.items() if key != "versions"} if isinstance(tree, dict) else tree


def _by_key(tree: Json) -> dict[str, Json]:
    return {dotted(trail): value for trail, value in leaves(file_form(_comparable(tree))).items()}


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


def _verdicts(runs: Mapping[str, Stored], versions: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """Return what follows for the bytes of the models."""
    digests = {run.head.digest for run in runs.values()}
    models = {run.summary.model_sha256 for run in runs.values()}
    sentences = ["\none digest: the same experiment" if len(digests) == 1 else f"\n{len(digests)} digests"]
    if None not in models:
        sentences.append("the models are the same, byte by byte" if len(models) == 1 else "the models differ")
    if len(digests) == 1 and len(models) > 1:
        rounds = {run.record.rounds for run in runs.values()}
        if len(rounds) > 1:
            sentences.append(f"they were stopped after {', '.join(map(str, sorted(rounds)))} rounds")
        elif versions:
            sentences.append("other versions may round differently: see above")
    return sentences


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
