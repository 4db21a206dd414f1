"""The main metrics of a run as a table."""

from __future__ import annotations

from collections.abc import Mapping

from fedloom.cli.tables import print_table
from fedloom.reports.metric_order import FIGURES, PHASES, main_metrics


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
