"""Loss and figures by round: how the run came to its model, and who took part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedloom.core.params import Vector
from fedloom.reports.drawing import FAINT, FEDERATED, LOCAL, POOLED, draw
from fedloom.reports.main_figure import better, main_figure
from fedloom.reports.pieces import Column, Panel, Section, Table, numbers, thinned, words
from fedloom.reports.readable import Cell, counted, figure, in_bytes, in_time, number, title_of
from fedloom.reports.stored import Stored
from fedloom.reports.table_of_metrics import ByRound, read_clients
from fedloom.runtime.record import RoundRecord, series
from fedloom.store.rounds import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 400
"""Points of a line; of a longer one the least and greatest of each stretch are drawn."""
_LINES = 12
"""Clients that are drawn as a line each; of more, the middle 80% is a band."""
_LOSSES = {"train/objective": "training objective", "train/loss": "training loss", "fit/loss": "loss of local steps"}
Line: TypeAlias = Sequence[tuple[int, float]]


def rounds_section(stored: Stored) -> Section | None:
    """Return the section; None where no round trained."""
    rounds = [record for record in stored.record.records if record.program == "train"]
    if not rounds:
        return None
    name = main_figure(stored)
    panels = [_losses(rounds), _figures(stored, rounds, name), _participation(rounds)]
    return Section(
        id="rounds",
        title="Round by round",
        words=(_took_part(rounds),),
        panels=tuple(panel for panel in panels if panel is not None),
        tables=(_table(rounds, name),),
    )


def line(points: Line, most: int = MOST_POINTS) -> Line:
    """Return a line of at most about ``most`` points that looks the same: of each stretch its least and greatest.

    Example:
        >>> line([(1, 0.0), (2, 9.0), (3, 1.0), (4, 0.5), (5, 0.6), (6, 0.7)], 4)
        [(1, 0.0), (2, 9.0), (4, 0.5), (6, 0.7)]
    """
    if len(points) <= most:
        return points
    kept = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), max(1, most // 2)):
        values = [points[place][1] for place in stretch]
        kept |= {int(stretch[int(np.argmin(values))]), int(stretch[int(np.argmax(values))])}
    return [points[place] for place in sorted(kept)]


def _losses(rounds: Sequence[RoundRecord]) -> Panel | None:
    found: dict[str, Line] = {}
    for metric, title in _LOSSES.items():
        points = series(rounds, metric)
        if points and not (metric == "train/loss" and found):  # the objective less its penalty: one line on the other
            found[title] = points
    if not found:
        return None
    values = [value for points in found.values() for _, value in points]
    wide = min(values) > 0 and max(values) > 50 * min(values)

    def paint(axes: Axes) -> None:
        styles = ((FEDERATED, "-"), (FAINT, "--"))
        for (title, points), (colour, dash) in zip(found.items(), styles, strict=False):
            _plot(axes, points, title, colour=colour, dash=dash)
        if wide:
            axes.set_yscale("log")
            plain_powers(axes)
        round_axis(axes, [number for points in found.values() for number, _ in points])
        axes.set_ylabel("mean loss of a training row" + (", log scale" if wide else ""))
        _legend(axes)

    return Panel(title="Loss by round", svg=draw("losses", paint), alt=_told("Loss by round", found))


def _figures(stored: Stored, rounds: Sequence[RoundRecord], name: str | None) -> Panel | None:
    if name is None:
        return None
    metric = f"eval/{name}"
    asked = {
        "all test rows": metric, "mean over clients": f"{metric}/mean", "worst client": f"{metric}/worst",
        "validation rows": f"validation/{name}",
    }  # fmt: skip
    found = {title: points for title, key in asked.items() if (points := series(rounds, key))}
    if not found:
        return None
    own = read_clients(stored.folder / METRICS, metric)
    styles = {
        "all test rows": (FEDERATED, "-"), "mean over clients": (FEDERATED, "--"), "worst client": (LOCAL, "-"),
        "validation rows": (POOLED, "-."),
    }  # fmt: skip
    single = len(own.clients) == 1
    shown = {t: p for t, p in found.items() if not (single and t in {"mean over clients", "worst client"})}

    def paint(axes: Axes) -> None:
        if not single:
            _clients_behind(axes, own)
        for title, points in shown.items():
            _plot(axes, points, title, colour=styles[title][0], dash=styles[title][1])
        round_axis(axes, [number for points in shown.values() for number, _ in points])
        axes.set_ylabel(f"{title_of(name)} ({better(name)})")
        _legend(axes)

    return Panel(
        title=f"{title_of(name)} by round", svg=draw("figures", paint), alt=_told(f"{title_of(name)} by round", shown)
    )


def _clients_behind(axes: Axes, own: ByRound) -> None:
    """Draw the clients behind the lines: one thin line each, or where four fifths of many lie."""
    if not own.clients:
        return
    if len(own.clients) <= _LINES:
        for place in range(len(own.clients)):
            points = [(n, float(v)) for n, v in zip(own.rounds, own.values[:, place], strict=True) if np.isfinite(v)]
            label = "each client" if place == 0 else "_"
            axes.plot(*xy(line(points)), color=FAINT, linewidth=0.7, alpha=0.55, label=label)
        return
    kept = thinned(len(own.rounds), MOST_POINTS)
    rows: list[Vector] = [own.values[place][np.isfinite(own.values[place])] for place in kept]
    low, high = ([float(np.quantile(row, share)) for row in rows] for share in (0.1, 0.9))
    axes.fill_between(
        [own.rounds[place] for place in kept],
        low,
        high,
        color=FEDERATED,
        alpha=0.18,
        linewidth=0,
        label="middle 80% of clients",
    )


def _participation(rounds: Sequence[RoundRecord]) -> Panel | None:
    """Return who was invited and who answered; None where that is one number."""
    if len({record.invited for record in rounds} | {len(record.included) for record in rounds}) == 1:
        return None
    closed = [record for record in rounds if record.status != "retried"]
    found: dict[str, Line] = {
        "invited": [(r.round, float(r.invited)) for r in closed],
        "included": [(r.round, float(len(r.included))) for r in closed],
    }

    def paint(axes: Axes) -> None:
        _plot(axes, found["invited"], "invited", colour=FAINT, dash="--")
        _plot(axes, found["included"], "update in the sum", colour=FEDERATED, dash="-")
        axes.set_ylim(bottom=0)
        round_axis(axes, [record.round for record in closed])
        _whole_numbers(axes, "y")
        axes.set_ylabel("clients")
        _legend(axes)

    return Panel(title="Clients by round", svg=draw("clients", paint), alt=_told("Clients by round", found))


def _took_part(rounds: Sequence[RoundRecord]) -> str:
    retried = sum(record.status == "retried" for record in rounds)
    skipped = sum(record.status == "skipped" for record in rounds)
    counts = [len(record.included) for record in rounds if record.status != "retried"]
    who, invited = _span(counts), _span([record.invited for record in rounds])
    text = f"In each round the updates of {who} of {invited} invited clients were summed."
    if retried or skipped:
        text += f" For want of updates {counted(retried, 'round')} opened again, {counted(skipped, 'round')} skipped."
    return text


def _span(counts: Sequence[int]) -> str:
    """Return the least and the greatest of some counts in words; 0 where there are none."""
    least, most = (min(counts), max(counts)) if counts else (0, 0)
    return figure(least) if least == most else f"{figure(least)} to {figure(most)}"


def _table(rounds: Sequence[RoundRecord], name: str | None) -> Table:
    metrics = ["train/objective", "fit/loss"]
    if name is not None:
        metrics += [f"eval/{name}", f"eval/{name}/mean", f"eval/{name}/worst", f"validation/{name}"]
    metrics = [metric for metric in metrics if any(metric in record.metrics for record in rounds)]
    columns: tuple[Column, ...] = numbers("round", "included", "invited", *map(_heading, metrics))
    columns += numbers("sent", "received", "time") + words("status")
    rows: list[tuple[Cell, ...]] = []
    kept = thinned(len(rounds))
    for record in (rounds[place] for place in kept):
        at = int(record.round)
        rows.append(
            (
                (str(at),),
                number(len(record.included), "included", round=at),
                number(record.invited, "invited", round=at),
                *(number(record.metrics.get(metric), metric, round=at) for metric in metrics),
                in_bytes(record.bytes_up, "bytes_up", round=at),
                in_bytes(record.bytes_down, "bytes_down", round=at),
                in_time(record.seconds, "seconds", round=at),
                (record.status,),
            )
        )
    note = (
        f"{figure(len(kept))} of {figure(len(rounds))} rounds; all are in {METRICS}." if len(kept) < len(rounds) else ""
    )
    return Table(title="Rounds of training", columns=columns, rows=tuple(rows), note=note, folded=True)


def _heading(metric: str) -> str:
    phase, name, *over = metric.split("/")
    place = {"train": "training ", "fit": "local ", "validation": "validation ", "eval": ""}.get(phase, f"{phase} ")
    return f"{place}{title_of(name)}" + (f", {over[0]}" if over else "")


def _plot(axes: Axes, points: Line, title: str, *, colour: str, dash: str) -> None:
    mark = "o" if len(points) <= 30 else ""
    axes.plot(*xy(line(points)), color=colour, linestyle=dash, marker=mark, markersize=3, label=title)


def xy(points: Line) -> tuple[list[int], list[float]]:
    """Return the rounds of a line, and its values."""
    return [number for number, _ in points], [value for _, value in points]


def round_axis(axes: Axes, rounds: Sequence[int]) -> None:
    """Number the horizontal axis by whole rounds."""
    axes.set_xlabel("round")
    _whole_numbers(axes, "x")
    axes.grid(axis="y")
    if len(set(rounds)) == 1:
        axes.set_xlim(rounds[0] - 1, rounds[0] + 1)


def _whole_numbers(axes: Axes, which: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1, steps=[1, 2, 5, 10]))


def plain_powers(axes: Axes) -> None:
    """Label a logarithmic axis by plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)


def _told(title: str, found: Mapping[str, Line]) -> str:
    """Return a plot in words: where each line begins, ends, and its extremes."""
    pick: dict[str, Callable[[list[float]], float]] = {"least": min, "greatest": max}
    told = []
    for name, points in found.items():
        values = [value for _, value in points]
        extremes = ", ".join(f"{key} {figure(of(values))}" for key, of in pick.items())
        first, last = (f"{figure(points[end][1])} in round {points[end][0]}" for end in (0, -1))
        told.append(f"{name}: {first}, {last}, {extremes}")
    return f"{title}. {'; '.join(told)}."
