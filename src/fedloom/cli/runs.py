"""``fedloom runs list`` and ``fedloom runs show``."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from fedloom import store
from fedloom.cli.tables import figure, print_table


def list_runs(output: Path, *, json: bool) -> None:
    """Print all runs of a folder, oldest first."""
    found = store.list_runs(output)
    if json:
        sys.stdout.write(msgspec.json.encode(msgspec.to_builtins(found)).decode() + "\n")
        return
    if not found:
        sys.stdout.write(f"no runs in {output}\n")
        return
    rows = [[run.run_id, run.status, str(run.rounds), figure(_headline(run.metrics)), run.digest[:12]] for run in found]
    print_table(["run", "status", "rounds", "metric", "experiment"], rows)


def show_run(name: str, output: Path, *, json: bool) -> None:
    """Print what a run was asked, and what came of it."""
    folder = store.find(output, name)
    summary = next((run for run in store.list_runs(folder.parent) if run.run_id == folder.name), None)
    head = msgspec.json.decode((folder / "experiment.json").read_bytes())
    record_file = folder / "record.json"
    record = msgspec.json.decode(record_file.read_bytes()) if record_file.exists() else None
    if json:
        shown = {"run": None if summary is None else msgspec.to_builtins(summary), "experiment": head, "record": record}
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
        return
    sys.stdout.write(f"run {folder}\n")
    if summary is not None:
        sys.stdout.write(f"{summary.status}, {summary.rounds} rounds, begun {summary.created}\n")
    if record is not None:
        metrics = record["summary"].get("metrics", {})
        print_table(["metric", "value"], [[key, figure(value, 6)] for key, value in metrics.items()])
    sys.stdout.write("experiment\n")
    text = msgspec.json.format(msgspec.json.encode(head["experiment"]), indent=2).decode()
    sys.stdout.write(text + "\n")


def _headline(metrics: dict[str, float | None]) -> float | None:
    for name in ("eval/auroc", "eval/accuracy", "eval/rmse", "train/objective"):
        if metrics.get(name) is not None:
            return metrics[name]
    return None
