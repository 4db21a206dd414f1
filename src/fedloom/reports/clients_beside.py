"""The main figure of the same clients in several runs: a mark for each, and how many clients a run is better for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedloom.reports.drawing import MARKS, PAPER, RUNS, draw
from fedloom.reports.main_figure import better, lower_is_better, main_figure
from fedloom.reports.overlaid import legend_by_rows, style_of
from fedloom.reports.pieces import Panel, Section, Table, numbers, words
from fedloom.reports.readable import BREAK, NONE, Cell, counted, difference, figure, number, of_run, plain, title_of
from fedloom.reports.side_by_side import best_of
from fedloom.reports.stored import Stored
from fedloom.reports.worth import client_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLIENTS = 50
"""Clients that are listed one by one."""
_MOST_MARKS = 160
"""In a drawing; a table holds more."""
_QUANTILES = {"least": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "greatest": 1.0}
Own = Mapping[str, Mapping[str, float | None]]
"""The figure by run and client."""


def clients_section(runs: Mapping[str, Stored], labels: Mapping[str, str]) -> Section | None:
    """Return the section; None where fewer than two runs have a figure of single clients in common.

    Args:
        runs: By letter.
        labels: What the legend calls each run.
    """
    name, own = _shared(runs)
    if name is None:
        return None
    sets = {frozenset(each) for each in own.values()}
    without = [letter for letter in runs if letter not in own]
    told = [f"{title_of(name)} of the federated model on each client's test rows; {better(name)}."]
    if without:
        told.append(f"No {title_of(name)} of single clients in {', '.join(without)}.")
    if len(sets) > 1:
        both = len(frozenset.intersection(*sets))
        counts = ", ".join(f"{letter} {figure(len(each))}" for letter, each in own.items())
        told.append(f"The runs have different clients ({counts}; {figure(both)} in all of them).")
        return _section(told, (), (_quantiles(name, own),))
    clients = list(next(iter(own.values())))
    if len(own) == 2:
        told.append(_who_is_better(name, own, clients))
    if len(clients) > MOST_CLIENTS:
        told.append(f"Of more than {MOST_CLIENTS} clients the quantiles are shown.")
        return _section(told, (), (_quantiles(name, own),))
    panels = (_dots(name, own, clients, labels),) if len(own) * len(clients) <= _MOST_MARKS else ()
    return _section(told, panels, (_table(name, own, clients),))


def _section(told: Sequence[str], panels: tuple[Panel, ...], tables: tuple[Table, ...]) -> Section:
    return Section(id="clients", title="Client by client", words=(" ".join(told),), panels=panels, tables=tables)


def _shared(runs: Mapping[str, Stored]) -> tuple[str | None, Own]:
    """Return the first main figure that two runs have of single clients, and its values."""
    for name in dict.fromkeys(main_figure(run) for run in runs.values()):
        metric = f"eval/{name}"
        own = {
            letter: {client: figures[metric] for client, figures in run.summary.clients.items() if metric in figures}
            for letter, run in runs.items()
        }
        own = {letter: each for letter, each in own.items() if each}
        if name is not None and len(own) > 1:
            return name, own
    return None, {}


def _who_is_better(name: str, own: Own, clients: Sequence[str]) -> str:
    (one, first), (other, second) = own.items()
    counts = {one: 0, other: 0, "": 0}
    compared = 0
    for client in clients:
        mine, yours = first[client], second[client]
        if mine is None or yours is None:
            continue
        compared += 1
        counts["" if mine == yours else one if (mine < yours) == lower_is_better(name) else other] += 1
    text = f"{other} is better than {one} for {figure(counts[other])} of {counted(compared, 'client')}"
    text += f", {one} for {figure(counts[one])}"
    return text + (f", and {figure(counts[''])} have the same." if counts[""] else ".")


def _dots(name: str, own: Own, clients: Sequence[str], labels: Mapping[str, str]) -> Panel:
    many = len(own)
    shift = min(0.22, 0.7 / many)
    height = (0.1 + 0.1 * many) * (1.0 if len(clients) <= 12 else 0.8)

    def paint(axes: Axes) -> None:
        for rank, (letter, figures) in enumerate(own.items()):
            at = np.arange(len(clients)) + (rank - (many - 1) / 2) * shift
            values = [float("nan") if (value := figures[client]) is None else value for client in clients]
            axes.plot(
                values, at, MARKS[rank % len(MARKS)], color=RUNS[style_of(letter)[0]], markeredgecolor=PAPER,
                markeredgewidth=0.6, markersize=6.5, label=labels[letter],
            )  # fmt: skip
        client_axis(axes, clients)
        axes.set_xlabel(f"{title_of(name)} ({better(name)})")
        legend_by_rows(axes)

    told = [
        f"{plain(client)} " + ", ".join(f"{letter} {figure(own[letter][client])}" for letter in own)
        for client in clients[:8]
    ]
    more = f"; and {len(clients) - 8} more clients, in the table" if len(clients) > 8 else ""
    return Panel(
        title=f"{title_of(name)} at each client",
        svg=draw("clients", paint, height_in=1.0 + height * max(2, len(clients))),
        alt=f"{title_of(name)} on each client's test rows: {'; '.join(told)}{more}.",
        note="Numbers: table below.",
    )


def _table(name: str, own: Own, clients: Sequence[str]) -> Table:
    metric, two = f"eval/{name}", len(own) == 2
    rows = []
    for client in clients:
        values = {letter: own[letter][client] for letter in own}
        best = best_of(metric, values)
        cells: list[Cell] = [(plain(client),)]
        for letter, value in values.items():
            cell = of_run(number(value, metric, client=client), letter, best=letter in best)
            cells.append((*cell, BREAK, "best") if letter in best else cell)
        if two:
            (_, one), (letter, other) = values.items()
            change = None if one is None or other is None else other - one
            cells.append(of_run(difference(change, f"{metric}/difference", client=client), letter))
        rows.append(tuple(cells))
    letters = list(own)
    columns = words("client") + numbers(*letters, *([f"{letters[1]} − {letters[0]}"] if two else []))
    note = "A client whose test rows are of one class has no AUROC." if name == "auroc" else ""
    return Table(title=f"{title_of(name)} at each client", columns=columns, rows=tuple(rows), note=note)


def _quantiles(name: str, own: Own) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for letter, figures in own.items():
        values = [value for value in figures.values() if value is not None]
        cells = [
            number(float(np.quantile(values, share)), f"eval/{name}/{key}") if values else (NONE,)
            for key, share in _QUANTILES.items()
        ]
        count = number(len(values), f"eval/{name}/clients")
        rows.append(((letter,), *(of_run(cell, letter) for cell in (count, *cells))))
    return Table(
        title=f"Quantiles of {title_of(name)} over clients",
        columns=words("run") + numbers("clients", *_QUANTILES),
        rows=tuple(rows),
    )
