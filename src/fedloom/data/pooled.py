"""The rows of all clients in one array: a client is a slice of it.

A thousand clients of forty rows cost their rows and sixteen bytes each; there is no object per client. Where the rows
of every client already lie together they are never copied, however large the array is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec, array_digest, digest_of
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Population, Schema, Split
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data.labels import refuse_missing
from fedloom.data.partition import Partition, client_names
from fedloom.data.splits import FOLDS, Ints, Rows, Shares, folds, majority
from fedloom.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Roll:
    """Names of all clients in order, and where their rows lie.

    ``spans`` has shape ``(clients, 4)``: the first row, and the numbers of rows for training, validation and test,
    which lie one after the other. Four bytes a number bound a dataset to 2**32 rows.

    Example:
        >>> roll = Roll((ClientId("a"), ClientId("b")), np.array([[0, 3, 0, 1], [4, 2, 0, 0]], dtype=np.uint32))
        >>> roll.id(1), roll.index(ClientId("b")), roll.size(0), roll.examples
        ('b', 1, 3, 5)
    """

    names: tuple[ClientId, ...]
    spans: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.names)

    def id(self, index: int) -> ClientId:
        """Return the client at ``index``."""
        return self.names[index]

    def index(self, client: ClientId) -> int:
        """Return the index of a client.

        Raises:
            DataError: When there is no such client.
        """
        place = bisect_left(self.names, client)
        if place == len(self.names) or self.names[place] != client:
            raise DataError(f"there is no client {client!r} among {len(self)}{nearest(client, self.names)}")
        return place

    def size(self, index: int) -> int:
        """Return the number of training rows of the client at ``index``."""
        return int(self.spans[index, 1])

    @property
    def examples(self) -> int:
        """Training rows of all clients together."""
        return int(self.spans[:, 1].sum(dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pooled:
    """A federated dataset that is one array of features, shape ``(n, d)``, and one of labels, shape ``(n,)``."""

    features: Vector
    label: Vector
    roll: Roll
    columns: Schema
    order: npt.NDArray[np.uint32] | None = None
    """Rows in the order that ``roll`` counts in; None: as they lie."""
    spec: ComponentSpec | None = None

    def population(self) -> Population:
        """Return all clients."""
        return self.roll

    def schema(self) -> Schema:
        """Return what the columns mean."""
        return self.columns

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all rows and of who holds them."""
        held = [array_digest(array) for array in (self.features, self.label, self.roll.spans)]
        order = "" if self.order is None else array_digest(self.order)
        return digest_of([*held, order, list(self.roll.names)])

    def client(self, client: ClientId) -> ClientDataset:
        """Return the rows of one client: views, or copies of its own rows where the split is not how they lie.

        Raises:
            DataError: When there is no such client.
        """
        start, train, validation, test = self.roll.spans[self.roll.index(client)].tolist()
        tuned = train + validation
        rows: slice | npt.NDArray[np.uint32] = slice(start, start + tuned + test)
        if self.order is not None:
            rows = self.order[rows]
        splits: dict[Split, slice] = {
            "train": slice(0, train),
            "validation": slice(train, tuned),
            "test": slice(tuned, tuned + test),
        }
        return ClientDataset({FEATURES: self.features[rows], LABEL: self.label[rows]}, splits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Rows before they are dealt and split: what every source of rows arrives at.

    ``stratum`` is the index of each row's class, None for regression.
    """

    features: Vector
    label: Vector
    stratum: Ints | None
    columns: Schema
    person: Ints | None = None


def pool(
    table: Table,
    *,
    owners: Partition | Vector,
    shares: Shares | npt.NDArray[np.int8],
    seed: int,
) -> Pooled:
    """Deal a table to clients, split each client's rows, and return them as a dataset.

    Args:
        table: All rows.
        owners: A partition, or the client of each row.
        shares: Shares to hold back in each client, or the fold of each row.
        seed: Governs the partition and the split.

    Raises:
        DataError: When rows have no client, or a client has rows but none to train on.
    """
    key = Key.from_seed(seed).child("data")
    names, owner = _dealt(table, owners, key) if isinstance(owners, Partition) else _named(owners)
    if isinstance(shares, Shares):
        stratum = np.zeros(len(owner), dtype=np.int64) if table.stratum is None else table.stratum
        rows = Rows(owner=owner, stratum=stratum, person=table.person)
        fold = folds(rows, names, shares=shares, key=key.child("split"))
    else:
        fold = shares
        _refuse_torn_persons(table, owner, fold)
    counts = np.bincount(owner * len(FOLDS) + fold, minlength=len(names) * len(FOLDS)).reshape(-1, len(FOLDS))
    idle = np.flatnonzero((counts[:, 0] == 0) & (counts.sum(axis=1) > 0))
    if idle.size:
        raise DataError(
            f"client {names[int(idle[0])]!r} has {counts[idle[0]].sum()} rows and none of them in fold 'train' "
            f"({idle.size} such clients); expected at least one. Mark one for training, or leave the client out"
        )
    return _laid_out(table, names, owner=owner, fold=fold, counts=counts)


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a closing half-sentence that names the nearest spelling, where there is one.

    Example:
        >>> nearest("outcom", ["age", "outcome"])
        ". Did you mean 'outcome'?"
    """
    # Comparing with a million names takes a minute; who has that many knows how they are made.
    close = get_close_matches(str(name), names[:10_000], n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


def _refuse_torn_persons(table: Table, owner: Ints, fold: npt.NDArray[np.int8]) -> None:
    if table.person is None:
        return
    pairs = owner * (table.person.max() + 1) + table.person
    sides = np.unique(pairs * len(FOLDS) + fold) // len(FOLDS)
    torn = len(sides) - len(np.unique(pairs))
    if torn:
        raise DataError(
            f"fold puts rows of one group on different sides, {torn} times; expected each on one side. "
            "Correct fold, or leave it out for a split that is drawn"
        )


def _laid_out(
    table: Table, names: tuple[ClientId, ...], *, owner: Ints, fold: npt.NDArray[np.int8], counts: Ints
) -> Pooled:
    # Clients keep the places in which they first appear, so that rows which lie together stay where they are.
    first = np.full(len(names), len(owner))
    np.minimum.at(first, owner, np.arange(len(owner)))
    by_place = np.argsort(first, kind="stable")
    place = np.empty(len(names), dtype=np.int64)
    place[by_place] = np.arange(len(names))
    sizes = counts.sum(axis=1)[by_place]
    spans = np.empty((len(names), 1 + len(FOLDS)), dtype=np.uint32)
    spans[by_place, 0] = np.cumsum(sizes) - sizes
    spans[:, 1:] = counts
    roll = Roll(names, spans)

    seat = place[owner]
    target = seat * len(FOLDS) + fold
    if bool((np.diff(target) >= 0).all()):
        return Pooled(features=table.features, label=table.label, roll=roll, columns=table.columns)
    order = np.argsort(target, kind="stable")
    if bool((np.diff(seat) >= 0).all()):
        # Grouped already: reading a client gathers its few rows, and the whole is held once.
        kept = order.astype(np.uint32)
        return Pooled(features=table.features, label=table.label, roll=roll, columns=table.columns, order=kept)
    return Pooled(features=table.features[order], label=table.label[order], roll=roll, columns=table.columns)


def _named(clients: Vector) -> tuple[tuple[ClientId, ...], Ints]:
    """Return the names of all clients in order, and the client of each row."""
    refuse_missing(clients, what="client names")
    # Names are compared once per run of equal ones: most tables are grouped.
    starts = np.flatnonzero(np.append(True, clients[1:] != clients[:-1]))
    texts = [label_text(value) for value in clients[starts].tolist()]
    names = sorted(set(texts))
    place = {name: index for index, name in enumerate(names)}
    runs = np.array([place[text] for text in texts], dtype=np.int64)
    return tuple(ClientId(name) for name in names), np.repeat(runs, np.diff(np.append(starts, len(clients))))


def _dealt(table: Table, partition: Partition, key: Key) -> tuple[tuple[ClientId, ...], Ints]:
    """Return the names of all clients, and the client of each row; a person's rows go to one client."""
    labels = table.label if table.stratum is None else table.stratum
    unit_of_row = None
    if table.person is not None:
        _, first, unit_of_row = np.unique(table.person, return_index=True, return_inverse=True)
        labels = labels[first] if table.stratum is None else majority(table.stratum, unit_of_row, len(first))
    hands = partition.split(labels, key.child("partition"))
    owner = np.full(len(labels), -1)
    for index, rows in enumerate(hands):
        owner[rows] = index
    dealt = sum(map(len, hands))
    if len(hands) != partition.clients or dealt != len(labels) or (owner < 0).any():
        raise DataError(
            f"the partition dealt {dealt} rows to {len(hands)} clients, some of them twice or never; "
            f"expected each of {len(labels)} rows once, to {partition.clients} clients"
        )
    names = tuple(ClientId(name) for name in client_names(partition.clients))
    return names, owner if unit_of_row is None else owner[unit_of_row]
