"""Curves of several runs on one pair of axes: one line for each, told apart by colour, dashes and its letter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedloom.reports.by_round import line, plain_powers, round_axis
from fedloom.reports.differing import by_task
from fedloom.reports.drawing import DASHES, RUNS, draw
from fedloom.reports.main_figure import better, lower_is_better, main_figure
from fedloom.reports.pieces import Panel, Section, Table, numbers, thinned
from fedloom.reports.readable import NONE, Cell, figure, number, of_run, plain, title_of
from fedloom.reports.stored import Stored
from fedloom.reports.traffic import unit_for
from fedloom.runtime.record import series
from fedloom.store.rounds import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve: TypeAlias = Sequence[tuple[float, float]]
_TABLE_ROUNDS = 26
"""Rounds in the table below a plot."""
_LETTERED = 12
"""Runs whose lines carry their letter; of more the letters would lie on each other."""
_MARKED = 3
"""Runs whose points are marked, where they are few."""
_GAP = 0.065
"""Between the letters at the ends of lines, as a share of the axes: about the height of one."""
_HEIGHT_IN = 2.9
_TITLES = {"train/objective": "Training objective", "train/loss": "Training loss", "fit/loss": "Loss of local steps"}


def rounds_section(runs: Mapping[str, Stored], labels: Mapping[str, str]) -> Section | None:
    """Return the curves by round; None where no run has one.

    Args:
        runs: By letter.
        labels: What the legend calls each run.
    """
    panels: list[Panel] = []
    for metric in _metrics(runs):
        for task, some in _comparable(metric, runs).items():
            curves: dict[str, Curve] = {letter: _by_round(run, metric) for letter, run in some.items()}
            if any(curves.values()):
                panels.append(_panel(f"round-{len(panels)}", metric, some, curves, labels, task=task))
    costs = _by_bytes(runs, labels)
    if not panels:
        return None
    return Section(id="rounds", title="Round by round", panels=(*panels, *costs))


def legend_by_rows(axes: Axes) -> None:
    """Put the legend above the axes, in reading order."""
    handles, titles = axes.get_legend_handles_labels()
    columns = legend_columns(titles)
    order = [place for column in range(columns) for place in range(column, len(titles), columns)]
    axes.figure.legend(  # of the figure: the axes may be narrow, beside long names of clients
        [handles[place] for place in order], [titles[place] for place in order],
        loc="outside upper left", ncols=columns, handlelength=2.3,
    )  # fmt: skip


def legend_columns(titles: Sequence[str]) -> int:
    """Return how many runs stand beside each other in a legend."""
    return min(max(1, 42 // (max(map(len, titles)) + 6)), len(titles))


def style_of(letter: str) -> tuple[int, int]:
    """Return the places of a run's colour and dashes; no two of 26 runs share both.

    Example:
        >>> style_of("A"), style_of("B"), style_of("G")
        ((0, 0), (1, 1), (0, 2))
    """
    place = ord(letter) - ord("A")
    return place % len(RUNS), (place + place // len(RUNS)) % len(DASHES)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return places for things of height ``gap``: between 0 and 1, none on another, in the order and near those given.

    Example:
        >>> [round(place, 2) for place in spread([0.5, 0.52, 0.01], 0.1)]
        [0.46, 0.56, 0.05]
    """
    order = sorted(range(len(places)), key=lambda rank: (places[rank], rank))
    gap = min(gap, 1.0 / max(1, len(places)))
    groups: list[list[int]] = []
    centres: list[float] = []
    for rank in order:
        groups.append([rank])
        centres.append(places[rank])
        while True:
            half = [gap * len(group) / 2 for group in groups[-2:]]
            centres[-1] = min(max(centres[-1], half[-1]), 1 - half[-1])
            if len(groups) < 2 or centres[-1] - half[-1] >= centres[-2] + half[-2] - 1e-12:
                break
            joined = groups[-2] + groups[-1]
            centres[-2:] = [sum(places[each] for each in joined) / len(joined)]
            groups[-2:] = [joined]
    found = [0.0] * len(places)
    for group, centre in zip(groups, centres, strict=True):
        for step, rank in enumerate(group):
            found[rank] = centre + gap * (step - (len(group) - 1) / 2)
    return found


def _metrics(runs: Mapping[str, Stored]) -> list[str]:
    """Return what is drawn: main figures over all rows and at the worst client, log-loss, losses of training."""
    had = {name for run in runs.values() for record in run.trained for name in record.metrics}
    mains = dict.fromkeys(name for run in runs.values() if (name := main_figure(run)) is not None)
    wanted = [f"eval/{name}{over}" for name in mains for over in ("", "/worst")]
    wanted += [f"validation/{name}" for name in mains]
    wanted += ["eval/log_loss", "train/objective" if "train/objective" in had else "train/loss", "fit/loss"]
    return [name for name in dict.fromkeys(wanted) if any(_by_round(run, name) for run in runs.values())]


def _comparable(metric: str, runs: Mapping[str, Stored]) -> dict[str, Mapping[str, Stored]]:
    """Return the runs that share axes: losses of different tasks are different losses."""
    tasks = by_task(runs)
    if len(tasks) < 2 or not metric.startswith(("train/", "fit/")):
        return {"": runs}
    return {task: {letter: runs[letter] for letter in letters} for task, letters in tasks.items()}


def _by_round(run: Stored, metric: str) -> Curve:
    return [(float(at), value) for at, value in series(run.trained, metric)]


def _panel(
    name: str,
    metric: str,
    runs: Mapping[str, Stored],
    curves: Mapping[str, Curve],
    labels: Mapping[str, str],
    *,
    task: str,
) -> Panel:
    title = f"{_title(metric)} by round" + (f", {plain(task)}" if task else "")
    found = {letter: curve for letter, curve in curves.items() if curve}
    whole = _label(metric)

    def paint(axes: Axes) -> None:
        round_axis(axes, [round(at) for curve in found.values() for at, _ in curve])
        _lines(axes, found, labels, label=whole, falling=_falls(metric))

    return Panel(
        title=title,
        svg=draw(name, paint, height_in=_height_in(found, labels)),
        alt=_told(title, found, unit="round"),
        note=_lacking(title_of(metric), runs, found),
        table=_table(title, metric, found),
    )


def _by_bytes(runs: Mapping[str, Stored], labels: Mapping[str, str]) -> list[Panel]:
    """Return the first main figure over the bytes it took; nothing where rounds cost the same in all runs."""
    name = next((name for run in runs.values() if (name := main_figure(run)) is not None), None)
    if name is None:
        return []
    metric = f"eval/{name}"
    spent = {letter: _spent(run) for letter, run in runs.items()}
    found: dict[str, Curve] = {
        letter: [(float(spent[letter][round(at)]), value) for at, value in curve]
        for letter, run in runs.items()
        if (curve := _by_round(run, metric))
    }
    shared = set.intersection(*(set(spent[letter]) for letter in found)) if found else set()
    if len(found) < 2 or all(len({spent[letter][at] for letter in found}) == 1 for at in shared):
        return []
    size, unit = unit_for(int(max(at for curve in found.values() for at, _ in curve)))
    scaled: dict[str, Curve] = {letter: [(at / size, v) for at, v in curve] for letter, curve in found.items()}
    title = f"{title_of(name)} by bytes"

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        axes.set_xlabel(f"{unit} sent and received by all clients")
        _lines(axes, scaled, labels, label=_label(metric), falling=_falls(metric))
        axes.set_xlim(left=0)

    panel = Panel(
        title=title,
        svg=draw("by-bytes", paint, height_in=_height_in(found, labels)),
        alt=_told(title, scaled, unit=unit),
        note=_lacking(title_of(metric), runs, found),
    )
    return [panel]


def _spent(run: Stored) -> dict[int, int]:
    """Return the bytes up to the end of each round of training, preparations among them."""
    found, total = {}, 0
    for record in run.record.records:
        total += record.bytes_up + record.bytes_down
        if record.program == "train":
            found[int(record.round)] = total
    return found


def _lines(axes: Axes, curves: Mapping[str, Curve], labels: Mapping[str, str], *, label: str, falling: bool) -> None:
    for letter, curve in curves.items():
        colour, dash = style_of(letter)
        few = len(curve) == 1 or (len(curve) <= 30 and len(curves) <= _MARKED)
        points = _line(curve)
        axes.plot(
            [at for at, _ in points],
            [value for _, value in points],
            color=RUNS[colour],
            linestyle=DASHES[dash],
            marker="o" if few else "",
            markersize=3,
            label=labels[letter],
        )
    values = [value for curve in curves.values() for _, value in curve]
    if falling and min(values) > 0 and max(values) > 50 * min(values):
        axes.set_yscale("log")
        plain_powers(axes)
        label += ", log scale"
    axes.set_ylabel(label)
    _letters_at_ends(axes, curves)
    legend_by_rows(axes)


def _line(curve: Curve) -> Curve:
    """Return the points that are drawn of a curve: the places of those that a thinned one keeps."""
    kept = line([(place, value) for place, (_, value) in enumerate(curve)])
    return [curve[place] for place, _ in kept]


def _letters_at_ends(axes: Axes, curves: Mapping[str, Curve]) -> None:
    if not 1 < len(curves) <= _LETTERED:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    scale = math.log if axes.get_yscale() == "log" else float
    ends: dict[float, list[str]] = defaultdict(list)
    for letter, curve in curves.items():
        ends[curve[-1][0]].append(letter)
    for at, letters in ends.items():
        heights = [(scale(curves[each][-1][1]) - scale(low)) / (scale(high) - scale(low)) for each in letters]
        for letter, height in zip(letters, spread(heights, _GAP), strict=True):
            axes.annotate(
                letter, xy=(at, height), xycoords=("data", "axes fraction"), xytext=(5, 0),
                textcoords="offset points", va="center", color=RUNS[style_of(letter)[0]], fontsize=9.5, weight="bold",
            )  # fmt: skip


def _height_in(found: Mapping[str, Curve], labels: Mapping[str, str]) -> float:
    titles = [labels[letter] for letter in found]
    return _HEIGHT_IN + 0.19 * (math.ceil(len(titles) / legend_columns(titles)) - 1)


def _table(title: str, metric: str, found: Mapping[str, Curve]) -> Table:
    values = {letter: dict(curve) for letter, curve in found.items()}
    rounds = sorted({at for each in values.values() for at in each})
    kept = [rounds[place] for place in thinned(len(rounds), _TABLE_ROUNDS)]
    rows: list[tuple[Cell, ...]] = [
        (
            (str(int(at)),),
            *(of_run(number(each.get(at), metric, round=int(at)), letter) for letter, each in values.items()),
        )
        for at in kept
    ]
    note = f"{figure(len(kept))} of {figure(len(rounds))} rounds; the rest are in each run's {METRICS}."
    return Table(
        title=title, columns=numbers("round", *found), rows=tuple(rows), note=note if len(kept) < len(rounds) else ""
    )


def _title(metric: str) -> str:
    if metric in _TITLES:
        return _TITLES[metric]
    title = title_of(metric)
    title = title[0].upper() + title[1:]
    if metric.startswith("validation/"):
        return f"{title} on validation rows"
    return title + (" of the worst client" if metric.endswith("/worst") else "")


def _label(metric: str) -> str:
    if metric in _TITLES:
        return "mean loss of a training row"
    return f"{title_of(metric)} ({better(metric.split('/')[1])})"


def _falls(metric: str) -> bool:
    return lower_is_better(metric.split("/")[1])


def _lacking(title: str, runs: Mapping[str, Stored], found: Mapping[str, Curve]) -> str:
    absent = [letter for letter in runs if letter not in found]
    if len(absent) > len(found):
        return f"Only {', '.join(found)} {'has' if len(found) == 1 else 'have'} it."
    return f"No {title} in {', '.join(absent)}." if absent else ""


def _told(title: str, found: Mapping[str, Curve], *, unit: str) -> str:
    """Return a plot in words: where each line begins and ends, and its extremes."""
    told = []
    for letter, curve in list(found.items())[:8]:
        values = np.array([value for _, value in curve])
        (first, start), (last, end) = curve[0], curve[-1]
        ends = (
            f"{figure(start)} in round {first:g}, {figure(end)} in round {last:g}"
            if unit == "round"
            else f"{figure(start)} at {first:.3g} {unit}, {figure(end)} at {last:.3g} {unit}"
        )
        told.append(f"{letter}: {ends}, least {figure(float(values.min()))}, greatest {figure(float(values.max()))}")
    more = f"; and {len(found) - 8} more runs" if len(found) > 8 else ""
    return f"{title}. {'; '.join(told) or NONE}{more}."
