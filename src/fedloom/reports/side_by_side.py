"""Figures, cost, settings and versions of several runs as tables: a column for each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fedloom.reports.differing import by_task
from fedloom.reports.main_figure import MODELS, lower_is_better, main_figure
from fedloom.reports.metric_order import FIGURES, main_metrics
from fedloom.reports.overview import totals
from fedloom.reports.pieces import Column, Table, numbers, words
from fedloom.reports.readable import BREAK, NONE, Cell, difference, in_bytes, in_time, number, of_run, plain, title_of
from fedloom.reports.settings import cut
from fedloom.reports.stored import Stored
from fedloom.runtime.stopping import falls

OVER = {"": "all rows", "/mean": "mean over clients", "/worst": "worst client", "/spread": "spread over clients"}
HELD_BACK = frozenset({*MODELS, "validation"})
"""Phases whose figures are of rows held back from training: of no other is one called the best."""
_MOST_CHARACTERS = 120
_WHERE = {
    "eval": "test rows", "local": "test rows, local-only models", "pooled": "test rows, pooled model",
    "validation": "validation rows", "train": "training rows", "fit": "rows of local steps", "step": "server step",
}  # fmt: skip


def figures_table(runs: Mapping[str, Stored]) -> Table:
    """Return the figures that people look at first."""
    names = {name for run in runs.values() for name in run.summary.metrics}
    mains = {main_figure(run) for run in runs.values()}
    chosen = [name for name in _ordered(names) if _leads(name, mains)]
    chosen.sort(key=lambda name: name.startswith("train/"))
    notes = ["In small: the difference from A."] if len(runs) > 2 else []
    if any(name.startswith("train/") for name in chosen):
        notes.append("A loss of training rows holds the run's own penalty, so none is called the best.")
    return _figures("Figures at the last evaluation", runs, chosen, note=" ".join(notes))


def all_figures_table(runs: Mapping[str, Stored]) -> Table:
    """Return every figure that any of the runs has."""
    names = {name for run in runs.values() for name in run.summary.metrics}
    table = _figures("All figures", runs, _ordered(names), note="Spread is the standard deviation over clients.")
    return replace(table, folded=True)


def best_of(metric: str, values: Mapping[str, float | None]) -> frozenset[str]:
    """Return the runs with the best value; none where fewer than two have one, or all have the same.

    Example:
        >>> best_of("eval/rmse", {"A": 2.0, "B": 1.5, "C": None}), best_of("train/loss", {"A": 2.0, "B": 1.5})
        (frozenset({'B'}), frozenset())
    """
    phase, name, *over = metric.split("/") if "/" in metric else (metric, "")
    known = {letter: value for letter, value in values.items() if value is not None}
    if phase not in HELD_BACK or over == ["spread"] or not (name in FIGURES or falls(name)):
        return frozenset()
    if len(set(known.values())) < 2:
        return frozenset()
    top = (min if lower_is_better(name) else max)(known.values())
    return frozenset(letter for letter, value in known.items() if value == top)


def cost_table(runs: Mapping[str, Stored]) -> Table:
    """Return what the runs took: rounds, updates, bytes, time, and what did not come."""
    write: dict[str, tuple[str, Callable[[Stored], Cell]]] = {
        "rounds": ("rounds of training", lambda run: number(run.record.rounds, "rounds")),
        "updates": ("updates in the sums", lambda run: number(_updates(run), "updates")),
        "bytes_up": ("sent by all clients", lambda run: in_bytes(totals(run)[0], "bytes_up")),
        "bytes_down": ("received by all clients", lambda run: in_bytes(totals(run)[1], "bytes_down")),
        "bytes_of_a_round": ("sent and received, a round of training", _bytes_of_a_round),
        "seconds": ("time in rounds", lambda run: in_time(totals(run)[2], "seconds")),
        "not_closed": ("rounds opened again or skipped", lambda run: number(_not_closed(run), "not_closed")),
        "failures": ("answers that did not come", lambda run: number(_failures(run), "failures")),
    }
    rows = [((title,), *(of_run(cell(run), letter) for letter, run in runs.items())) for title, cell in write.values()]
    return Table(
        title="Rounds, bytes, time",
        columns=words("") + numbers(*runs),
        rows=tuple(rows),
        note="Bytes are lengths of encoded messages, preparations and evaluations among them; of the round, the mean. "
        "Times are comparable on one machine that did nothing else.",
    )


def values_table(title: str, head: str, found: Mapping[str, Mapping[str, str]], letters: Sequence[str]) -> Table:
    """Return values that differ, a row for each key: settings or versions.

    Args:
        title: Of the table.
        head: What a key is.
        found: By key, the value of each run that has one.
        letters: Of all runs.
    """
    rows = [
        (
            (cut(key, _MOST_CHARACTERS),),
            *((cut(values[letter], _MOST_CHARACTERS) if letter in values else "not set",) for letter in letters),
        )
        for key, values in found.items()
    ]
    columns: tuple[Column, ...] = words(head, *letters)
    return Table(title=title, columns=columns, rows=tuple(rows))


def _ordered(names: set[str]) -> list[str]:
    known = main_metrics(names)
    return known + sorted(names - set(known))


def _leads(metric: str, mains: set[str | None]) -> bool:
    phase, _, rest = metric.partition("/")
    name, _, over = rest.partition("/")
    if phase == "eval":
        return not over or (name in mains and over != "spread")
    if phase == "validation":
        return not over and name in mains
    return metric == "train/objective"


def _figures(title: str, runs: Mapping[str, Stored], metrics: Sequence[str], *, note: str) -> Table:
    two, one_task = len(runs) == 2, len(by_task(runs)) < 2
    rows = []
    for metric in metrics:
        values = {letter: run.summary.metrics.get(metric) for letter, run in runs.items()}
        first, best = values[next(iter(values))], best_of(metric, values)
        same = one_task or metric.partition("/")[0] in HELD_BACK  # losses of training are other losses in other tasks
        cells: list[Cell] = []
        for place, (letter, value) in enumerate(values.items()):
            cell = of_run(number(value, metric), letter, best=letter in best)
            below: Cell = ("best",) if letter in best else ()
            if same and not two and place and value is not None and first is not None:
                change = of_run(difference(value - first, f"{metric}/difference"), letter)
                below += (", ", *change) if below else change
            cells.append((*cell, BREAK, *below) if below else cell)
        if two:
            one, other = values.values()
            change = (
                (NONE,) if not same or one is None or other is None else difference(other - one, f"{metric}/difference")
            )
            cells.append(of_run(change, list(values)[1]))
        rows.append((_figure_title(metric), (_where(metric),), *cells))
    columns = words("figure", "of") + numbers(*runs, *(["B − A"] if two else []))
    return Table(title=title, columns=columns, rows=tuple(rows), note=note)


def _figure_title(metric: str) -> Cell:
    return (title_of(metric) if "/" in metric else plain(metric),)


def _where(metric: str) -> str:
    phase, _, rest = metric.partition("/")
    over = rest.partition("/")[2]
    where = _WHERE.get(phase, plain(phase))
    return where + (f", {OVER.get('/' + over, plain(over))}" if over else "")


def _updates(run: Stored) -> int:
    return sum(len(record.included) for record in run.trained if record.status == "closed")


def _bytes_of_a_round(run: Stored) -> Cell:
    trained = run.trained
    if not trained:
        return (NONE,)
    return in_bytes(round(sum(r.bytes_up + r.bytes_down for r in trained) / len(trained)), "bytes_of_a_round")


def _not_closed(run: Stored) -> int:
    return sum(record.status != "closed" for record in run.record.records)


def _failures(run: Stored) -> int:
    return len(run.summary.failures) or sum(len(record.failures) for record in run.record.records)
