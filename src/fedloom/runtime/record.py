"""RoundRecord: the results of one round, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fedloom.core.calibration import CalibrationBin
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import Failure, Program
from fedloom.core.params import Vector

Figures = dict[str, float | None]

_ABSENT = math.inf
"""In a table: the client has no such figure. NaN: it has one, without a value. Figures themselves are finite."""


@dataclass(frozen=True, slots=True, eq=False)
class FigureTable(Mapping[ClientId, Figures]):
    """Figures of many clients: names once, then eight bytes each; a dict of dicts takes sixty times as much.

    Example:
        >>> table = FigureTable.of({ClientId("a"): {"eval/auroc": None}, ClientId("b"): {"eval/accuracy": 0.5}})
        >>> len(table), table[ClientId("a")], table[ClientId("b")]
        (2, {'eval/auroc': None}, {'eval/accuracy': 0.5})
    """

    clients: tuple[ClientId, ...] = ()
    names: tuple[str, ...] = ()
    cells: bytes = b""
    """Shape ``(clients, names)``, float64, little-endian."""

    @staticmethod
    def of(figures: Mapping[ClientId, Mapping[str, float | None]]) -> FigureTable:
        """Return the table of a mapping; the order of clients is kept."""
        names = tuple(sorted({name for own in figures.values() for name in own}))
        rows = [[_cell(own, name) for name in names] for own in figures.values()]
        return FigureTable(tuple(figures), names, np.array(rows, "<f8").tobytes())

    @property
    def values_by_client(self) -> Vector:
        """Figures as an array ``(clients, names)``: NaN where there is no value, infinity where there is no figure."""
        return np.frombuffer(self.cells, "<f8").reshape(len(self.clients), len(self.names))

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.clients)

    def __iter__(self) -> Iterator[ClientId]:
        """Yield the clients."""
        return iter(self.clients)

    def __getitem__(self, client: ClientId) -> Figures:
        """Return the figures of one client."""
        try:
            row = self.clients.index(client)
        except ValueError:
            raise KeyError(client) from None
        return self._figures(self.values_by_client[row].tolist())

    def as_dict(self) -> dict[ClientId, Figures]:
        """Return the figures of all clients, each looked up once."""
        rows = self.values_by_client.tolist()
        return {client: self._figures(row) for client, row in zip(self.clients, rows, strict=True)}

    def _figures(self, row: Sequence[float]) -> Figures:
        named = zip(self.names, row, strict=True)
        return {name: None if math.isnan(cell) else cell for name, cell in named if cell != _ABSENT}

    def __eq__(self, other: object) -> bool:
        """Return whether the other has the same figures for the same clients, to the byte."""
        if not isinstance(other, FigureTable):
            return NotImplemented
        return (self.clients, self.names, self.cells) == (other.clients, other.names, other.cells)

    def __hash__(self) -> int:
        """Return a number that equal tables share."""
        return hash((self.clients, self.names, self.cells))


NO_FIGURES = FigureTable()


def _cell(own: Mapping[str, float | None], name: str) -> float:
    value = own.get(name, _ABSENT)
    return math.nan if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """What one round did.

    ``metrics`` are named ``phase/name``. ``clients`` holds each client's own figures, where they travelled.
    ``seconds`` is the engine's clock and no part of any comparison.
    """

    round: RoundNumber
    retry: int
    program: Program
    status: Literal["closed", "skipped", "retried"]
    invited: int
    included: tuple[ClientId, ...] = ()
    failures: tuple[Failure, ...] = ()
    metrics: Figures = field(default_factory=dict)
    clients: FigureTable = NO_FIGURES
    calibration: tuple[CalibrationBin, ...] = ()
    """Of the test rows of all clients; empty where the learner gives no probabilities."""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


def series(records: Sequence[RoundRecord], metric: str) -> list[tuple[RoundNumber, float]]:
    """Return round and value of a metric, over the closed rounds that have it."""
    return [(r.round, value) for r in records if r.status == "closed" and (value := r.metrics.get(metric)) is not None]
