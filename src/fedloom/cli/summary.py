"""The last words of a run: what came of it, who failed, where it lies."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fedloom.cli.progress import in_bytes
from fedloom.cli.tables import figure, print_table
from fedloom.engines import RunResult

FIGURES = ("objective", "loss", "accuracy", "log_loss", "auroc", "average_precision", "brier", "rmse", "r2")


def print_summary(result: RunResult, *, report: Path | None) -> None:
    """Print the summary of a finished run, and where its report is."""
    rounds = result.rounds
    out = sys.stdout
    out.write(f"\n{result.status}: {result.reason}\n")
    seconds = sum(record.seconds for record in result.records)
    out.write(
        f"{len(rounds)} rounds, {in_bytes(result.bytes_up)} up, {in_bytes(result.bytes_down)} down, {seconds:.2f} s\n"
    )
    print_metrics(result.metrics)
    if result.worth is not None:
        width = min(100, shutil.get_terminal_size().columns)
        for words in result.worth.words:
            out.write(textwrap.fill(words, width) + "\n")
    failed = Counter((f.client, f.kind, f.detail, f.where) for record in result.records for f in record.failures)
    for (client, kind, detail, where), times in sorted(failed.items(), key=lambda item: (-item[1], item[0][:2]))[:10]:
        place = f" ({where})" if where else ""
        out.write(f"  {client}: {kind} {times} times: {detail}{place}\n")
    for note in result.notes[:10]:
        out.write(f"  note: {note}\n")
    if len(result.notes) > 10:
        out.write(f"  and {len(result.notes) - 10} more notes in record.json\n")
    out.write(f"model {result.model_sha256}\n")
    if result.folder is not None:
        out.write(f"run {result.folder}\n")
    if report is not None:
        out.write(f"report {report}\n")


def print_metrics(metrics: Mapping[str, float | None]) -> None:
    """Print the figures of a run, a line for each set of rows."""
    columns = [name for name in FIGURES if any(key.split("/")[1:2] == [name] for key in metrics)]
    rows = []
    for phase in ("train", "validation", "eval", "local", "pooled"):
        for suffix, title in (("", ""), ("/mean", ", mean"), ("/worst", ", worst")):
            values = [metrics.get(f"{phase}/{name}{suffix}") for name in columns]
            if any(value is not None for value in values):
                rows.append([phase + title, *(figure(value, 4) for value in values)])
    if rows:
        print_table(["", *(name.replace("_", " ") for name in columns)], rows)
