"""Which metrics of a run people look at first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedloom.cli.tables import print_table

PHASES = ("eval", "local", "pooled", "validation", "train")
FIGURES = (
    "auroc", "average_precision", "accuracy", "balanced_accuracy", "log_loss", "brier", "rmse", "r2", "objective",
)  # fmt: skip
SUFFIXES = ("", "/mean", "/worst", "/spread")


def main_metrics(names: Iterable[str]) -> list[str]:
    """Return the known ones of some names of metrics, the most telling first.

    Example:
        >>> main_metrics(["train/objective", "eval/auroc/worst", "fit/loss", "eval/auroc"])
        ['eval/auroc', 'eval/auroc/worst', 'train/objective']
    """
    there = set(names)
    ordered = (f"{phase}/{figure}{suffix}" for phase in PHASES for figure in FIGURES for suffix in SUFFIXES)
    return [name for name in ordered if name in there]


def print_by_phase(cells: Mapping[str, str]) -> None:
    """Print the main metrics as a table: a row for each figure, a column for each phase that has any."""
    names = main_metrics(cells)
    phases = [phase for phase in PHASES if any(name.startswith(phase + "/") for name in names)]
    rows = []
    for one in FIGURES:
        for suffix, title in (("", ""), ("/mean", ", mean of clients"), ("/worst", ", worst client")):
            row = [cells.get(f"{phase}/{one}{suffix}", "") for phase in phases]
            if any(row):
                rows.append([one.replace("_", " ") + title, *(cell or "-" for cell in row)])
    if rows:
        print_table(["", *phases], rows)
