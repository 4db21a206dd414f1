"""``fedloom runs list`` and ``fedloom runs show``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import msgspec

from fedloom import store
from fedloom.cli.options import runs_folder
from fedloom.cli.output import write_json
from fedloom.cli.tables import figure, print_table
from fedloom.store.documents import RECORD, read_head, read_outcome


def list_runs(output: Path, *, json: bool) -> None:
    """Print all runs of a folder, oldest first."""
    found = store.list_runs(output)
    if json:
        write_json(found)
        return
    if not found:
        sys.stdout.write(f"no runs in {output}\n")
        return
    rows = [
        [run.run_id, run.status, figure(run.rounds, 0), figure(_headline(run.metrics)), run.digest[:12]]
        for run in found
    ]
    print_table(["run", "status", "rounds", "metric", "experiment"], rows)


def list_federated_runs(coordinator: Path, *, json: bool) -> None:
    """Print all runs of a coordinator, oldest first: while it runs, where each stands and for whom it waits."""
    from fedloom.cli.federated import ENDS, runs_now

    found = store.list_runs(runs_folder(coordinator))
    now = {name: at for name, at in runs_now(coordinator).items() if at.state not in ENDS}
    if json:
        write_json(
            [
                {**asdict(run), "state": now[run.run_id].state, "waiting_for": now[run.run_id].waiting_for}
                if run.run_id in now
                else asdict(run)
                for run in found
            ]
        )
        return
    if not found:
        sys.stdout.write(f"no runs in {coordinator}\n")
        return
    rows = [
        [
            run.run_id,
            now[run.run_id].state.replace("_", " ") if run.run_id in now else run.status,
            figure(run.rounds, 0),
            figure(_headline(run.metrics)),
            ", ".join(now[run.run_id].waiting_for) if run.run_id in now else "",
        ]
        for run in found
    ]
    print_table(["run", "status", "rounds", "metric", "waits for"], rows)


def show_run(name: str, output: Path, *, json: bool) -> None:
    """Print what a run was asked, and what came of it."""
    folder = store.find(output, name)
    summary = next((run for run in store.list_runs(folder.parent) if run.run_id == folder.name), None)
    head, outcome = read_head(folder), read_outcome(folder)
    if json:
        record = None if outcome is None else msgspec.json.decode((folder / RECORD).read_bytes())
        write_json({"run": summary, "experiment": head, "record": record})
        return
    sys.stdout.write(f"run {folder}\n")
    if summary is not None:
        rounds = "" if summary.rounds is None else f"{summary.rounds} rounds, "
        sys.stdout.write(f"{summary.status}, {rounds}begun {summary.created}\n")
    if outcome is not None:
        metrics = outcome.summary.get("metrics", {})
        print_table(["metric", "value"], [[key, figure(value, 6)] for key, value in metrics.items()])
    sys.stdout.write("experiment\n")
    text = msgspec.json.format(msgspec.json.encode(head.experiment), indent=2).decode()
    sys.stdout.write(text + "\n")


def _headline(metrics: dict[str, float | None]) -> float | None:
    for name in ("eval/auroc", "eval/accuracy", "eval/rmse", "train/objective"):
        if metrics.get(name) is not None:
            return metrics[name]
    return None
