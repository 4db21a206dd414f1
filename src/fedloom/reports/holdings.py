"""Who holds what: rows by client, split and class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedloom.reports.drawing import CLASSES, FEDERATED, PAPER, TONES, draw
from fedloom.reports.pieces import Column, Panel, Section, Table, numbers, thinned, words
from fedloom.reports.readable import Cell, counted, figure, number, plain, short
from fedloom.reports.stored import Holding, Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SHOWN = 50
_SPLITS = ("train", "validation", "test")
_SPLIT_TITLES = {"train": "training rows", "validation": "validation rows", "test": "test rows"}
_TONES = dict(zip(_SPLITS, TONES, strict=True))
_ABSENT = "The record does not list rows by client: it does so up to 1,000 clients."


def holdings_section(stored: Stored) -> Section | None:
    """Return the section; without panels where the record lists no holdings, None where nothing was trained either."""
    holdings = stored.summary.holdings
    if not holdings:
        return None if not stored.summary.clients else Section(id="holdings", title="Who holds what", words=(_ABSENT,))
    classes = _class_names(stored, holdings)
    panels = []
    if len(holdings) <= _MOST_SHOWN:
        panels.append(_splits(holdings))
        if classes:
            panels.append(_bars(holdings, classes) if len(classes) <= len(CLASSES) else _map(holdings, classes))
    else:
        panels.append(_sizes(holdings))
        if classes:
            panels.append(_shares(holdings, classes))
    return Section(
        id="holdings",
        title="Who holds what",
        words=(_told(holdings, classes),),
        panels=tuple(panels),
        tables=(_table(holdings, classes),),
    )


def _class_names(stored: Stored, holdings: Sequence[Holding]) -> list[str]:
    known = list(stored.summary.classes or ())
    return list(dict.fromkeys([*known, *(name for each in holdings for name in each.classes or {})]))


def _told(holdings: Sequence[Holding], classes: Sequence[str]) -> str:
    sizes = [each.train for each in holdings]
    text = (
        f"Rows of {counted(len(holdings), 'client')}: {figure(sum(map(_rows, holdings)))}; training rows by client go "
        f"from {figure(min(sizes))} to {figure(max(sizes))}."
    )
    single = [each.client for each in holdings if each.classes and sum(n > 0 for n in each.classes.values()) == 1]
    if len(classes) > 1 and single:
        named = ", ".join(plain(client) for client in single[:5]) + (" and others" if len(single) > 5 else "")
        text += f" {figure(len(single))} of them hold a single class: {named}."
    return text


def _splits(holdings: Sequence[Holding]) -> Panel:
    kept = [split for split in _SPLITS if any(getattr(each, split) for each in holdings)]

    def paint(axes: Axes) -> None:
        counts = [[getattr(each, split) for each in holdings] for split in kept]
        _stack(axes, holdings, counts, [_SPLIT_TITLES[split] for split in kept], [_TONES[split] for split in kept])
        axes.set_xlabel("rows")

    told = "; ".join(
        f"{plain(each.client)} " + ", ".join(f"{figure(getattr(each, s))} {_SPLIT_TITLES[s]}" for s in kept)
        for each in holdings[:8]
    )
    return Panel(
        title="Rows by client", svg=draw("splits", paint, height_in=_height(holdings)), alt=f"Rows by client: {told}."
    )


def _bars(holdings: Sequence[Holding], classes: Sequence[str]) -> Panel:
    def paint(axes: Axes) -> None:
        totals = [max(1, sum((each.classes or {}).values())) for each in holdings]
        counts = [
            [100 * (h.classes or {}).get(c, 0) / t for h, t in zip(holdings, totals, strict=True)] for c in classes
        ]
        _stack(axes, holdings, counts, [short(name) for name in classes], CLASSES)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the client's rows, %")

    return Panel(
        title="Classes by client", svg=draw("classes", paint, height_in=_height(holdings)), alt=_class_words(holdings)
    )


def _map(holdings: Sequence[Holding], classes: Sequence[str]) -> Panel:
    """Return shares of many classes as shades: more colours than eight are not told apart."""

    def paint(axes: Axes) -> None:
        counts = np.array([[(each.classes or {}).get(name, 0) for name in classes] for each in holdings], dtype=float)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(shares, aspect="auto", interpolation="none", cmap="cividis", vmin=0)
        assert axes.figure is not None
        axes.figure.colorbar(image, ax=axes).ax.set_title("%", fontsize=9.5)
        axes.set_yticks(range(len(holdings)), [short(each.client) for each in holdings])
        kept = thinned(len(classes), 12)
        axes.set_xticks(list(kept), [short(classes[place], 10) for place in kept], rotation=45 if _long(classes) else 0)
        axes.set_xlabel("class (shade: share of the client's rows)")

    return Panel(
        title="Classes by client",
        svg=draw("classes", paint, height_in=max(2.6, _height(holdings))),
        alt=_class_words(holdings),
    )


def _sizes(holdings: Sequence[Holding]) -> Panel:
    sizes = [each.train for each in holdings]
    counts, edges = np.histogram(sizes, bins=min(20, max(sizes) - min(sizes) + 1))

    def paint(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=FEDERATED)
        for edge in edges[1:-1]:
            axes.axvline(edge, color=PAPER, linewidth=0.6)
        axes.set(xlabel="training rows of a client", ylabel="clients")

    middle = figure(float(np.median(sizes)))
    alt = f"Training rows by client: least {figure(min(sizes))}, median {middle}, greatest {figure(max(sizes))}."
    return Panel(title="Training rows by client", svg=draw("sizes", paint), alt=alt)


def _shares(holdings: Sequence[Holding], classes: Sequence[str]) -> Panel:
    """Return how unevenly each class lies over many clients: the share of its rows at a client, middle and range."""
    kept = list(classes)[:40]
    totals = np.array([max(1, sum((each.classes or {}).values())) for each in holdings])
    shares = {name: 100 * np.array([(each.classes or {}).get(name, 0) for each in holdings]) / totals for name in kept}

    def paint(axes: Axes) -> None:
        for place, values in enumerate(shares.values()):
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
            axes.plot((low, high), (place, place), color=FEDERATED, linewidth=1.6, solid_capstyle="butt")
            axes.plot(middle, place, "o", color=FEDERATED)
        axes.set_yticks(range(len(kept)), [short(name) for name in kept])
        axes.set_ylim(len(kept) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of a client's rows, %")

    told = "; ".join(f"{plain(name)} median {figure(float(np.median(values)))} %" for name, values in shares.items())
    note = "The mark is the median client, the bar goes from the 10th to the 90th of 100."
    svg = draw("shares", paint, height_in=0.95 + 0.25 * max(len(kept), 4))
    return Panel(
        title="Share of each class at a client", svg=svg, alt=f"Share of each class at a client: {told}.", note=note
    )


def _table(holdings: Sequence[Holding], classes: Sequence[str]) -> Table:
    listed = list(classes)[:40]
    columns: tuple[Column, ...] = words("client") + numbers("rows", *(_SPLIT_TITLES[s] for s in _SPLITS))
    columns += numbers(*(plain(name) for name in listed))
    kept = thinned(len(holdings))
    rows: list[tuple[Cell, ...]] = []
    for each in (holdings[place] for place in kept):
        cells = [number(_rows(each), "holdings/rows", client=each.client)]
        cells += [number(getattr(each, split), f"holdings/{split}", client=each.client) for split in _SPLITS]
        cells += [number((each.classes or {}).get(c, 0), f"holdings/class/{c}", client=each.client) for c in listed]
        rows.append(((plain(each.client),), *cells))
    totals = [number(sum(map(_rows, holdings)), "holdings/rows")]
    totals += [number(sum(getattr(each, split) for each in holdings), f"holdings/{split}") for split in _SPLITS]
    totals += [number(sum((each.classes or {}).get(c, 0) for each in holdings), f"holdings/class/{c}") for c in listed]
    rows.append((("all clients",), *totals))
    told = []
    if len(kept) < len(holdings):
        told.append(f"{figure(len(kept))} of {figure(len(holdings))} clients; all are in record.json.")
    if len(listed) < len(classes):
        told.append(f"{figure(len(listed))} of {figure(len(classes))} classes.")
    return Table(title="Rows", columns=columns, rows=tuple(rows), note=" ".join(told), folded=True)


def _stack(
    axes: Axes,
    holdings: Sequence[Holding],
    counts: Sequence[Sequence[float]],
    titles: Sequence[str],
    colours: Sequence[str],
) -> None:
    left = np.zeros(len(holdings))
    for row, title, colour in zip(counts, titles, colours, strict=False):
        axes.barh(
            range(len(holdings)), row, left=left, height=0.7, color=colour, edgecolor=PAPER, linewidth=0.6, label=title
        )
        left = left + np.array(row)
    axes.set_yticks(range(len(holdings)), [short(each.client) for each in holdings])
    axes.set_ylim(len(holdings) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)


def _class_words(holdings: Sequence[Holding]) -> str:
    told = "; ".join(
        f"{plain(each.client)} "
        + ", ".join(f"{plain(name)} {figure(n)}" for name, n in list((each.classes or {}).items())[:10])
        for each in holdings[:8]
    )
    more = f"; and {len(holdings) - 8} more clients, in the table" if len(holdings) > 8 else ""
    return f"Rows by class at each client: {told}{more}."


def _rows(each: Holding) -> int:
    return each.train + each.validation + each.test


def _height(holdings: Sequence[Holding]) -> float:
    return 1.0 + 0.25 * max(len(holdings), 3)


def _long(classes: Sequence[str]) -> bool:
    return max(map(len, classes)) > 3
