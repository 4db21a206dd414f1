"""Was it worth joining: each client's own model, the federated one and the pooled one, on the client's test rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedloom.reports.drawing import FAINT, FEDERATED, LOCAL, PAPER, POOLED, RULE, draw
from fedloom.reports.main_figure import MODELS, better, lower_is_better, main_figure
from fedloom.reports.pieces import Column, Panel, Section, Table, numbers, words
from fedloom.reports.readable import BREAK, NONE, Cell, difference, figure, number, plain, short, signed, title_of
from fedloom.reports.stored import ClientWorth, Difference, Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SHOWN = 50
"""Clients that are drawn and listed one by one; beyond, the extremes and how the rest lies."""
_EXTREMES = 10
_ROW_IN = 0.36
_STYLE = {"local": (LOCAL, "s"), "eval": (FEDERATED, "o"), "pooled": (POOLED, "D")}
_NOTHING = ClientWorth()


def worth_section(stored: Stored) -> Section | None:
    """Return the section; None where no client has a figure on test rows."""
    name = main_figure(stored)
    clients = _order(stored, name)
    if name is None or not clients:
        return None
    worth = stored.summary.worth
    compared = worth is not None and bool(worth.clients)
    title = "Was it worth joining" if compared else "The model at each client"
    if len(clients) > MOST_SHOWN:
        return Section(
            id="worth",
            title=title,
            words=_counted(stored),
            panels=tuple(_spread_panels(stored, name, clients)),
            tables=_extremes(stored, name, clients),
        )
    panels = [_dots(stored, name, clients)]
    if compared and (forest := _forest(stored, clients)) is not None:
        panels.append(forest)
    return Section(
        id="worth",
        title=title,
        words=_counted(stored),
        panels=tuple(panels),
        tables=(_table("Client by client", stored, name, clients),),
    )


def _order(stored: Stored, name: str | None) -> list[str]:
    """Return the clients in the order of the record."""
    summary = stored.summary
    own = [c for c, figures in summary.clients.items() if any(k.split("/")[1:2] == [name] for k in figures)]
    compared = [] if summary.worth is None else list(summary.worth.clients)
    return list(dict.fromkeys([*own, *compared]))


def _counted(stored: Stored) -> tuple[str, ...]:
    worth = stored.summary.worth
    if worth is None or not worth.clients:
        return ()
    counts = Counter(each.verdict for each in worth.clients.values() if each.verdict)
    told = ", ".join(f"{plain(verdict)} at {figure(count)}" for verdict, count in counts.most_common())
    resampled = (
        "" if worth.resamples is None else f" from {figure(worth.resamples)} bootstrap resamples of its test rows"
    )
    return (
        f"Verdicts over {figure(len(worth.clients))} clients: {told}. A client gains or loses where the "
        f"{worth.confidence:.0%} interval of the difference in {title_of(worth.measure)}{resampled} "
        "lies on one side of 0; else the rows do not tell.",
    )


def _dots(stored: Stored, name: str, clients: Sequence[str]) -> Panel:
    summary = stored.summary
    phases = [p for p in ("local", "eval", "pooled") if any(f"{p}/{name}" in f for f in summary.clients.values())]
    places = np.arange(len(clients))

    def paint(axes: Axes) -> None:
        shift = 0.22 if len(phases) > 1 else 0.0
        for rank, phase in enumerate(phases):
            colour, mark = _STYLE[phase]
            at = places + (rank - (len(phases) - 1) / 2) * shift
            values = [_value(summary.clients.get(client, {}).get(f"{phase}/{name}")) for client in clients]
            for place, client in zip(at, clients, strict=True):
                bounds = _worth_of(stored, client).interval(f"{phase}/{name}")
                if bounds is not None:
                    axes.plot(bounds, (place, place), color=colour, linewidth=1.4, solid_capstyle="butt")
            axes.plot(values, at, mark, color=colour, markeredgecolor=PAPER, markeredgewidth=0.6, label=MODELS[phase])
        client_axis(axes, clients)
        axes.set_xlabel(f"{title_of(name)} ({better(name)})")
        if len(phases) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)

    shown = " and ".join(
        [", ".join(MODELS[p] for p in phases[:-1]), MODELS[phases[-1]]] if phases[1:] else [MODELS[p] for p in phases]
    )
    told = [
        f"{plain(c)} "
        + ", ".join(f"{MODELS[p]} {figure(summary.clients.get(c, {}).get(f'{p}/{name}'))}" for p in phases)
        for c in clients[:8]
    ]
    more = f"; and {len(clients) - 8} more clients, in the table" if len(clients) > 8 else ""
    bars = any(_worth_of(stored, client).interval(f"{phase}/{name}") for client in clients for phase in phases)
    confidence = stored.summary.worth.confidence if stored.summary.worth is not None else 0.95
    return Panel(
        title=f"{title_of(name)} on each client's test rows",
        svg=draw("dots", paint, height_in=_height(len(clients), per_row=_ROW_IN if len(phases) > 1 else 0.25)),
        alt=f"{title_of(name)} of the {shown} model at each client: {'; '.join(told)}{more}.",
        note=f"Bars are {confidence:.0%} intervals. Numbers: table below." if bars else "Numbers: table below.",
    )


def _forest(stored: Stored, clients: Sequence[str]) -> Panel | None:
    """Return the differences that the verdicts rest on, with their intervals."""
    worth = stored.summary.worth
    assert worth is not None
    found = [(client, _difference(stored, client, worth.measure)) for client in clients]
    if all(each is None or each.value is None for _, each in found):
        return None

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)))
        for place, (client, each) in enumerate(found):
            if each is None or each.value is None:
                continue
            clear = _worth_of(stored, client).verdict in {"gains", "loses"}
            if each.low is not None and each.high is not None:
                axes.plot((each.low, each.high), (place, place), color=FEDERATED, linewidth=1.6, solid_capstyle="butt")
            face = FEDERATED if clear else PAPER
            axes.plot(
                each.value, place, "o", color=FEDERATED, markerfacecolor=face, markersize=5.5, markeredgewidth=1.3
            )
        client_axis(axes, clients)
        worse, improved = ("worse →", "← better") if lower_is_better(worth.measure) else ("better →", "← worse")
        axes.set_title(improved, loc="left", fontsize=9, color=FAINT)
        axes.set_title(worse, loc="right", fontsize=9, color=FAINT)
        axes.set_xlabel(f"{title_of(worth.measure)}: federated − local-only")

    told = [
        f"{plain(client)} {signed(each.value)} ({figure(each.low)} to {figure(each.high)})"
        for client, each in found[:8]
        if each is not None and each.value is not None
    ]
    return Panel(
        title=f"What joining changed, in {title_of(worth.measure)}",
        svg=draw("forest", paint, height_in=_height(len(clients), per_row=_ROW_IN)),
        alt=f"Federated minus local-only {title_of(worth.measure)} with interval, by client: {'; '.join(told)}.",
        note="A filled mark is a verdict, an open one is unclear. Numbers: table below.",
    )


def _table(title: str, stored: Stored, name: str, clients: Sequence[str], *, folded: bool = False) -> Table:
    worth = stored.summary.worth
    compared = worth is not None and bool(worth.clients)
    phases = [
        p for p in ("local", "eval", "pooled") if any(f"{p}/{name}" in f for f in stored.summary.clients.values())
    ]
    columns: tuple[Column, ...] = words("client")
    measures: list[str] = []
    if compared:
        assert worth is not None
        measures = [m for m in dict.fromkeys([worth.measure, name]) if any(_difference(stored, c, m) for c in clients)]
        columns += words("verdict") + numbers("test rows")
    columns += numbers(*(f"{title_of(name)}, {MODELS[phase]}" for phase in phases))
    columns += numbers(*(f"change in {title_of(measure)}" for measure in measures))
    columns += (Column("in words", words=True, long=True),) if compared else ()
    rows = []
    for client in clients:
        own, told = stored.summary.clients.get(client, {}), _worth_of(stored, client)
        cells: list[Cell] = [(plain(client),)]
        if compared:
            cells += [(plain(told.verdict) or NONE,), number(told.test_rows, "worth/test_rows", client=client)]
        for phase in phases:
            metric = f"{phase}/{name}"
            cells.append(
                number(own.get(metric), metric, client=client) + _bounds(told.interval(metric), metric, client)
            )
        for measure in measures:
            each = _difference(stored, client, measure) or Difference()
            metric = f"worth/{measure}"
            cells.append(
                difference(each.value, metric, client=client)
                + _bounds((each.low, each.high), metric, client, write=difference)
            )
        if compared:
            cells.append((plain(told.words),))
        rows.append(tuple(cells))
    note = ""
    if compared:
        note = "Below a figure: its interval. A change is federated minus local-only: " + ", ".join(
            f"in {title_of(measure)} {better(measure)}" for measure in measures
        ) + "."  # fmt: skip
    return Table(title=title, columns=columns, rows=tuple(rows), note=note, folded=folded)


def _extremes(stored: Stored, name: str, clients: Sequence[str]) -> tuple[Table, ...]:
    key, ranked = _ranking(stored, name, clients)
    if not ranked:
        return ()
    if len(ranked) <= 2 * _EXTREMES:
        return (_table(f"Client by client, from the worst {key}", stored, name, ranked),)
    return (
        _table(f"The {_EXTREMES} clients with the worst {key}", stored, name, ranked[:_EXTREMES]),
        _table(f"The {_EXTREMES} clients with the best {key}", stored, name, ranked[-_EXTREMES:][::-1]),
    )


def _ranking(stored: Stored, name: str, clients: Sequence[str]) -> tuple[str, list[str]]:
    """Return what clients are ranked by, and those that have it, the worst first; by the verdict's measure if known."""
    worth = stored.summary.worth
    if worth is not None and worth.clients:
        changes = {c: d.value for c in clients if (d := _difference(stored, c, worth.measure)) and d.value is not None}
        sign = -1.0 if lower_is_better(worth.measure) else 1.0
        return f"change in {title_of(worth.measure)}", sorted(changes, key=lambda c: (sign * changes[c], c))
    own = {c: v for c in clients if (v := stored.summary.clients[c].get(f"eval/{name}")) is not None}
    sign = -1.0 if lower_is_better(name) else 1.0
    return title_of(name), sorted(own, key=lambda c: (sign * own[c], c))


def _spread_panels(stored: Stored, name: str, clients: Sequence[str]) -> list[Panel]:
    """Return how the figure lies over many clients, and the change that joining made."""
    panels = []
    own = [v for c in clients if (v := stored.summary.clients.get(c, {}).get(f"eval/{name}")) is not None]
    if own:
        label = f"{title_of(name)} of the federated model ({better(name)})"
        panels.append(_histogram("spread", f"{title_of(name)} over clients", label, own, metric=f"eval/{name}"))
    worth = stored.summary.worth
    if worth is not None and worth.clients:
        changes = [d.value for c in clients if (d := _difference(stored, c, worth.measure)) and d.value is not None]
        if changes:
            title = f"What joining changed, in {title_of(worth.measure)}"
            label = f"{title_of(worth.measure)}: federated − local-only ({better(worth.measure)})"
            panels.append(_histogram("changes", title, label, changes, metric=f"worth/{worth.measure}", zero=True))
    return panels


def _histogram(id: str, title: str, label: str, values: Sequence[float], *, metric: str, zero: bool = False) -> Panel:
    counts, edges = np.histogram(values, bins=min(20, max(5, len(values) // 5)))

    def paint(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=FEDERATED)
        for edge in edges[1:-1]:
            axes.axvline(edge, color=PAPER, linewidth=0.6)
        if zero:
            axes.axvline(0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xlabel=label, ylabel="clients")

    quantiles = {"least": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "greatest": 1.0}
    found = {key: float(np.quantile(values, share)) for key, share in quantiles.items()}
    table = Table(
        title="Quantiles over clients",
        columns=numbers("clients", *quantiles),
        rows=((number(len(values), f"{metric}/clients"), *(number(v, f"{metric}/{k}") for k, v in found.items())),),
        folded=True,
    )
    alt = (
        f"{title}, {len(values)} clients: " + ", ".join(f"{key} {figure(value)}" for key, value in found.items()) + "."
    )
    return Panel(title=title, svg=draw(id, paint), alt=alt, table=table)


def client_axis(axes: Axes, clients: Sequence[str]) -> None:
    """Name a client on each line of the vertical axis, the first on top."""
    axes.set_yticks(range(len(clients)), [short(client) for client in clients])
    axes.set_ylim(len(clients) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    for place in range(1, len(clients)):
        axes.axhline(place - 0.5, color=RULE, linewidth=0.4)


def _height(rows: int, *, per_row: float) -> float:
    return 0.95 + (per_row if rows <= 12 else 0.75 * per_row) * max(rows, 2)


def _worth_of(stored: Stored, client: str) -> ClientWorth:
    worth = stored.summary.worth
    return _NOTHING if worth is None else worth.clients.get(client, _NOTHING)


def _difference(stored: Stored, client: str, measure: str) -> Difference | None:
    return _worth_of(stored, client).differences.get(measure)


def _bounds(
    bounds: tuple[float | None, float | None] | None,
    metric: str,
    client: str,
    *,
    write: Callable[..., Cell] = number,
) -> Cell:
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return ()
    return (
        BREAK,
        *write(bounds[0], f"{metric}/low", client=client),
        " to ",
        *write(bounds[1], f"{metric}/high", client=client),
    )


def _value(value: float | None) -> float:
    return float("nan") if value is None else value
