"""What travelled: bytes by round and in all, and what each kind of round took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedloom.reports.drawing import FEDERATED, LOCAL, draw
from fedloom.reports.pieces import Panel, Section, Table, numbers, thinned, words
from fedloom.reports.readable import Cell, figure, in_bytes, in_time, number
from fedloom.reports.stored import Stored
from fedloom.runtime.record import RoundRecord
from fedloom.store.faults import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))
_TITLES = {"query": "preparation", "train": "training", "evaluate": "evaluation"}


def traffic_section(stored: Stored) -> Section | None:
    """Return the section; None where no round was recorded."""
    records = stored.record.records
    if not records:
        return None
    up, down = sum(r.bytes_up for r in records), sum(r.bytes_down for r in records)
    return Section(
        id="traffic",
        title="What travelled",
        words=(
            f"Clients sent {amount(up)} and received {amount(down)}: lengths of the encoded messages of all rounds, "
            "those of preparations and evaluations among them.",
        ),
        panels=(_added_up(records), _by_round(records)),
        tables=(_table(records),),
    )


def _added_up(records: Sequence[RoundRecord]) -> Panel:
    up, down = (np.cumsum([0, *(getattr(r, name) for r in records)]) for name in ("bytes_up", "bytes_down"))
    size, unit = unit_for(int(max(up[-1], down[-1])))
    kept = list(thinned(len(up), 300))

    def paint(axes: Axes) -> None:
        for values, title, colour, dash in ((up, "sent", FEDERATED, "-"), (down, "received", LOCAL, "--")):
            axes.plot(
                kept, values[kept] / size, color=colour, linestyle=dash, label=f"{title}: {amount(int(values[-1]))}"
            )
        asked = sum(record.program == "query" for record in records)
        axes.set(xlabel="round" + (f" (the first {asked} prepare)" if asked else ""), ylabel=f"{unit}, added up")
        _finish(axes)

    alt = f"Bytes added up over rounds: {amount(int(up[-1]))} sent and {amount(int(down[-1]))} received at the end."
    return Panel(title="Bytes, added up", svg=draw("added", paint, height_in=2.7), alt=alt)


def _by_round(records: Sequence[RoundRecord]) -> Panel:
    size, unit = unit_for(max(max(r.bytes_up, r.bytes_down) for r in records))
    kept = thinned(len(records), 300)

    def paint(axes: Axes) -> None:
        numbers_ = [place + 1 for place in kept]
        for name, title, colour, dash in (
            ("bytes_up", "sent", FEDERATED, "-"),
            ("bytes_down", "received", LOCAL, "--"),
        ):
            values = [getattr(records[place], name) / size for place in kept]
            axes.plot(
                numbers_,
                values,
                color=colour,
                linestyle=dash,
                marker="o" if len(kept) <= 30 else "",
                markersize=3,
                label=title,
            )
        axes.set(xlabel="round", ylabel=f"{unit} in a round")
        _finish(axes)

    most = max(record.bytes_up for record in records)
    alt = f"Bytes by round: at most {amount(most)} sent in one round. The table of rounds has every round."
    return Panel(title="Bytes by round", svg=draw("bytes", paint, height_in=2.7), alt=alt)


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)


def _table(records: Sequence[RoundRecord]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for program in ("query", "train", "evaluate"):
        own = [record for record in records if record.program == program]
        if not own:
            continue
        up, down = sum(r.bytes_up for r in own), sum(r.bytes_down for r in own)
        closed = [record for record in own if record.status == "closed"]
        answers, answered = sum(len(r.included) for r in closed), sum(r.bytes_up for r in closed)
        rows.append(
            (
                (_TITLES[program],),
                number(len(own), f"traffic/{program}/rounds"),
                in_bytes(up, f"traffic/{program}/bytes_up"),
                in_bytes(down, f"traffic/{program}/bytes_down"),
                in_bytes(round(answered / answers), f"traffic/{program}/bytes_of_an_answer")
                if answers
                else (figure(None),),
                in_time(sum(r.seconds for r in own), f"traffic/{program}/seconds"),
            )
        )
    columns = words("rounds of") + numbers(
        "rounds", "sent", "received", "sent by a client in a closed round, about", "time"
    )
    note = "Rounds that were opened again count. Training rounds include the answers to evaluations in the same round."
    return Table(title="Bytes by kind of round", columns=columns, rows=tuple(rows), note=note)


def unit_for(most: int) -> tuple[int, str]:
    """Return the size and the name of the unit in which amounts up to ``most`` bytes are told."""
    return next((size, unit) for size, unit in _UNITS if most >= size or size == 1)
