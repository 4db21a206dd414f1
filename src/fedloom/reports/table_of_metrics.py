"""``metrics.csv`` read back: one figure of every client by round."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedloom.core.params import Vector
from fedloom.errors import StoreError
from fedloom.store.faults import damaged, explained
from fedloom.store.rounds import KEYS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByRound:
    """A figure by round and client: ``values`` has shape ``(rounds, clients)``, NaN where there is none."""

    rounds: tuple[int, ...]
    clients: tuple[str, ...]
    values: Vector


def read_clients(path: Path, metric: str) -> ByRound:
    """Return a figure of every client in every round of training that has it; of retries the last.

    Args:
        path: A run's ``metrics.csv``.
        metric: Such as ``eval/auroc``; a table without that column has no value.

    Raises:
        StoreError: When the file is absent or is not such a table.
    """
    found: dict[tuple[int, str], float] = {}
    if not path.exists():
        raise StoreError(
            f"{path} is missing: the report reads each client's figures by round from it. Restore it from a backup"
        )
    with explained(path), path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        try:
            head = next(lines, [])
            if not set(KEYS) <= set(head):
                raise damaged(path, f"its first line names no {', no '.join(k for k in KEYS if k not in head)}")
            if metric in head:
                _collect(lines, head, metric, into=found)
        except (IndexError, ValueError, csv.Error) as error:
            raise damaged(path, f"line {lines.line_num}: {error}") from error
    rounds, clients = sorted({key[0] for key in found}), sorted({key[1] for key in found})
    rows, columns = ({key: place for place, key in enumerate(keys)} for keys in (rounds, clients))
    values = np.full((len(rounds), len(clients)), np.nan)
    for (number, name), value in found.items():
        values[rows[number], columns[name]] = value
    return ByRound(rounds=tuple(rounds), clients=tuple(clients), values=values)


def _collect(lines: Iterator[list[str]], head: list[str], metric: str, *, into: dict[tuple[int, str], float]) -> None:
    program, round_, client, place = (head.index(name) for name in ("program", "round", "client", metric))
    for line in lines:
        if line[client] and line[program] == "train" and line[place]:
            into[int(line[round_]), line[client]] = float(line[place])
