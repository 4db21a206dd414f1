"""What a private run promises, against one reader: the figure and how it grew, by what, and what is not protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedloom.engines.secrets import SIMULATED
from fedloom.experiment.privacy_record import ELSEWHERE
from fedloom.privacy.guarantee import rounded_up
from fedloom.reports.by_round import round_axis
from fedloom.reports.drawing import FEDERATED, draw
from fedloom.reports.pieces import Column, Panel, Section, Table, numbers, words
from fedloom.reports.readable import Cell, Number, counted, plain
from fedloom.reports.stored import Promise, Spent, Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_THIS_READER = (
    "This page tells who took part in which round. Whoever reads it, or has the folder of the run, is the holder of "
    "participation data whom the figure means. A cohort that is known hides nobody: its sampling does not count."
)
_CAP = (
    'The settings promise an epsilon to reader = "models": that is the most which the models may cost, and not what is '
    "told by this page."
)
_WHO_TOOK_PART = ("who took part in a round", "this page, the record and the progress of the run tell it")
_UNITS = {"client": "all rows of one client", "record": "one record"}
_NEIGHBOURS = {
    "zero_out": "zero_out: its contribution is replaced by zero",
    "add_remove": "add_remove: it is there, or it is not",
    "replace_one": "replace_one: it is replaced by any other",
}
_NOISE_BY = {
    "server": "the server, on the sum",
    "clients": "each client",
    "shares": "each client, a share of it",
}
_READ_BY_SERVER = {
    "server": "it adds the noise itself, and is trusted with what it is added to",
    "clients": "updates that carry noise already; they tell how a client as a whole differs",
    "shares": "sums that carry their noise already, and who is in them",
}


def privacy_section(stored: Stored) -> Section | None:
    """Return what a run promises to whoever holds participation data; None where it promises nothing."""
    promise = stored.promise
    if promise is None:
        return None
    told = [_THIS_READER, sentence(ELSEWHERE)]
    if stored.promised_to == "models":
        told.append(_CAP)
    curve = len(promise.by_round) > 1
    data_set = "not named, so that the ledger counts nothing" if promise.data_set is None else promise.data_set
    return Section(
        id="privacy",
        title="Privacy",
        words=tuple(told),
        panels=(spent_panel(promise),) if curve else (),
        beside=spent_table(promise) if curve else None,
        tables=(promise_table(promise, ("data set", data_set)), unprotected(promise, _WHO_TOOK_PART)),
    )


def promised(promise: Promise) -> tuple[str, ...]:
    """Return the promise in sentences, the one that takes it back first."""
    return (*((sentence(SIMULATED),) if promise.simulated else ()), sentence(plain(promise.words)))


def sentence(text: str) -> str:
    """Return words with a capital at the start and a stop at the end.

    Example:
        >>> sentence("epsilon 2 at delta 1e-05")
        'Epsilon 2 at delta 1e-05.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def epsilon_of(promise: Promise) -> tuple[str, Cell, str]:
    """Return epsilon as a key figure: its name, its value, and what to know of it."""
    return "epsilon", _epsilon(promise.epsilon), f"at delta {promise.delta:g}, against a {plain(promise.reader)}"


def promise_table(promise: Promise, *more: tuple[str, str]) -> Table:
    """Return all that it takes to read the figure."""
    told = (
        ("hidden", _UNITS.get(promise.unit, promise.unit)),
        ("neighbours", _NEIGHBOURS.get(promise.adjacency, promise.adjacency)),
        ("delta", f"{promise.delta:g}"),
        ("against", f"a {promise.reader}"),
        ("mechanism of a round", promise.mechanism),
        ("noise is added by", _NOISE_BY.get(promise.noise_by, promise.noise_by)),
        ("sampling", promise.sampling),
        ("rounds", f"at most {counted(promise.rounds, 'round')}, all of them paid for"),
        *more,
        *(("to know", note) for note in promise.notes),
    )
    rows = tuple(((name,), (plain(value),)) for name, value in told)
    return Table(title="The promise", columns=(*words("of"), Column("what", words=True, long=True)), rows=rows)


def spent_panel(promise: Promise) -> Panel:
    """Return epsilon over the rounds."""
    points = _points(promise)

    def paint(axes: Axes) -> None:
        axes.plot(
            [spent.rounds for spent, _ in points],
            [epsilon for _, epsilon in points],
            color=FEDERATED,
            marker="o",
            markersize=3.5,
        )
        axes.set_ylim(bottom=0)
        round_axis(axes, [spent.rounds for spent, _ in points])
        axes.set_ylabel("epsilon")

    told = ", ".join(f"{_shown(epsilon)} after {counted(spent.rounds, 'round')}" for spent, epsilon in points)
    alt = f"Epsilon against a {plain(promise.reader)}: {told or 'infinite'}."
    return Panel(title="Epsilon over the rounds", svg=draw("epsilon", paint, height_in=2.7), alt=alt)


def spent_table(promise: Promise) -> Table:
    """Return epsilon after some of the rounds."""
    rows = tuple(((str(spent.rounds),), _epsilon(spent.epsilon, spent.rounds)) for spent in promise.by_round)
    note = f"Against a {plain(promise.reader)}; rounded up."
    return Table(title="Epsilon after", columns=numbers("rounds", "epsilon"), rows=rows, note=note)


def unprotected(promise: Promise, *more: tuple[str, str]) -> Table:
    """Return what the promise leaves out."""
    told = [
        ("what the server reads", _READ_BY_SERVER.get(promise.noise_by, promise.noise_by)),
        (
            "one person's several records, or clients",
            "k of them: epsilon is about k times as large, delta more than that",
        ),
        ("times, and who fails", "they may tell of sizes; a client must not fail because of what it holds"),
        ("what is true of everybody", "a model learns it, with the rows of one or without"),
        ("other runs on the same data", "they add up in the ledger, where the data have a name, and not on this page"),
    ]
    if promise.unit == "client":
        told[1] = ("several clients together", told[1][1])
    rows = tuple(((name,), (value,)) for name, value in (*more, *told))
    return Table(title="Not protected", columns=(*words("what"), Column("why", words=True, long=True)), rows=rows)


def _points(promise: Promise) -> list[tuple[Spent, float]]:
    return [(spent, spent.epsilon) for spent in promise.by_round if spent.epsilon is not None]


def _shown(epsilon: float) -> str:
    return f"{rounded_up(epsilon):g}"


def _epsilon(epsilon: float | None, rounds: int | None = None) -> Cell:
    if epsilon is None:
        return ("infinite",)
    return (Number(text=_shown(epsilon), exact=repr(epsilon), metric="privacy/epsilon", round=rounds),)
