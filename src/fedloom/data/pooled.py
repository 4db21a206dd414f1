"""The rows of all clients in one array: a client is a slice of it.

A thousand clients of forty rows cost their rows and sixteen bytes each; there is no object per client. Where the rows
of every client already lie together they are never copied, however large the array is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec, array_digest, digest_of
from fedloom.core.data import FEATURES, LABEL, TEXTS, ClientDataset, Population, Schema, Split
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

    def sizes(self) -> npt.NDArray[np.uint32]:
        """Return the training rows of all clients."""
        return self.spans[:, 1]

    @property
    def examples(self) -> int:
        """Training rows of all clients together."""
        return int(self.spans[:, 1].sum(dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pooled:
    """A federated dataset that is one array of features, shape ``(n, d)``, and one of labels, shape ``(n,)``.

    Where ``columns`` names texts, ``texts`` of shape ``(n, texts)`` holds them.
    """

    features: Vector
    label: Vector
    roll: Roll
    columns: Schema
    texts: Vector | None = None
    order: npt.NDArray[np.uint32] | None = None
    """Rows in the order that ``roll`` counts in; None: as they lie."""
    notes: tuple[str, ...] = ()
    """What a person should know of the rows of all clients together, one sentence each."""
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
        texts = [] if self.texts is None else [array_digest(self.texts)]
        return digest_of([*held, order, list(self.roll.names), *texts])

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
        arrays = {FEATURES: self.features[rows], LABEL: self.label[rows]}
        if self.texts is not None:
            arrays[TEXTS] = self.texts[rows]
        return ClientDataset(arrays, splits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Rows before they are dealt and split: what every source of rows arrives at.

    ``stratum`` is the index of each row's class, None for regression. ``where`` says where a row came from
    ("visits.csv: line 7"), where that is known.
    """

    features: Vector
    label: Vector
    stratum: Ints | None
    columns: Schema
    person: Ints | None = None
    texts: Vector | None = None
    where: Callable[[int], str] | None = None


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
        DataError: When rows have no client, a client has rows but none to train on, or a class that nobody declared
            has rows and none of them, at any client, to train on.
    """
    key = Key.from_seed(seed).child("data")
    names, owner = _dealt(table, owners, key) if isinstance(owners, Partition) else _named(owners)
    if isinstance(owners, Partition):
        table = _changed(table, owners, names, owner=owner, key=key.child("change"))
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
    if not isinstance(owners, Partition) or owners.whole:
        _refuse_untrained_classes(table, fold)
    return replace(_laid_out(table, names, owner=owner, fold=fold, counts=counts), notes=_met_twice(table, owner))


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


def _refuse_untrained_classes(table: Table, fold: npt.NDArray[np.int8]) -> None:
    """Refuse a class that the clients cannot agree on, as they agree on the labels of training rows."""
    if table.where is None or table.stratum is None or table.columns.classes is not None:
        return
    trained = np.bincount(table.stratum[fold == 0], minlength=table.stratum.max() + 1) > 0
    rows = np.flatnonzero(~trained[table.stratum])
    if rows.size:
        raise DataError(
            f"{table.where(int(rows[0]))}: column {table.columns.label!r} has a label that no training row has "
            f"({len(rows)} such rows, this is the first). Name all labels in `classes`, put one of the rows into "
            "training, or leave them out"
        )


def _met_twice(table: Table, owner: Ints) -> tuple[str, ...]:
    """Return a note on persons with rows at more than one client; it counts them and names nobody."""
    if table.person is None:
        return ()
    pairs = np.unique(table.person * (owner.max() + 1) + owner)
    clients = np.bincount(pairs // (owner.max() + 1))
    many = int((clients > 1).sum())
    if not many:
        return ()
    return (
        f"{many} of {np.count_nonzero(clients)} groups (persons) have rows at more than one client. Each client splits "
        "its own: what one trains on, another may test on",
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
    texts, kept = table.texts, None
    features, label = table.features, table.label
    if bool((np.diff(target) < 0).any()):
        order = np.argsort(target, kind="stable")
        if bool((np.diff(seat) >= 0).all()):
            # Grouped already: reading a client gathers its few rows, and the whole is held once.
            kept = order.astype(np.uint32)
        else:
            features, label = features[order], label[order]
            texts = None if texts is None else texts[order]
    return Pooled(features=features, label=label, texts=texts, roll=roll, columns=table.columns, order=kept)


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
    """Return the names of all clients, and the client of each row; a person's rows go to one client.

    Where a column says whose a row is, the row is that client's, whoever the person.
    """
    values = table.label if table.stratum is None else table.stratum
    unit_of_row = None
    if partition.column is not None:
        values = _column(table, partition.column)
    elif table.person is not None:
        _, first, unit_of_row = np.unique(table.person, return_index=True, return_inverse=True)
        values = values[first] if table.stratum is None else majority(table.stratum, unit_of_row, len(first))
    hands = partition.split(values, key.child("partition"))
    clients = len(hands) if partition.clients is None else partition.clients
    names = client_names(clients) if partition.names is None else partition.names(values)
    owner = np.full(len(values), -1)
    for index, rows in enumerate(hands):
        owner[rows] = index
    dealt = sum(map(len, hands))
    if not len(hands) == clients == len(names) or dealt != len(values) or (owner < 0).any():
        raise DataError(
            f"the partition dealt {dealt} rows to {len(hands)} clients, some of them twice or never; "
            f"expected each of {len(values)} rows once, to {clients} clients"
        )
    return tuple(ClientId(name) for name in names), owner if unit_of_row is None else owner[unit_of_row]


def _column(table: Table, name: str) -> Vector:
    """Return the values of a column by its name, classes by theirs."""
    schema = table.columns
    if name in schema.columns:
        return table.features[:, schema.columns.index(name)]
    if table.texts is not None and name in schema.texts:
        return np.asarray(table.texts[:, schema.texts.index(name)])
    if name == schema.label:
        return table.label if schema.classes is None else np.array(schema.classes)[table.label]
    known = [*schema.columns, *schema.texts, *([] if schema.label is None else [schema.label])]
    raise DataError(
        f"by_column: there is no column {name!r} among {len(known)}{nearest(name, known)}. It must be a feature or the "
        "label; to group rows by another column, name that as client"
    )


def _changed(table: Table, partition: Partition, names: Sequence[str], *, owner: Ints, key: Key) -> Table:
    """Return the table with the features that a partition makes of them."""
    if partition.change is None:
        return table
    ends = np.cumsum(np.bincount(owner, minlength=len(names)))
    hands = np.split(np.argsort(owner, kind="stable"), ends[:-1])
    changed = partition.change(table.features, list(zip(names, hands, strict=True)), key)
    return replace(table, features=changed)
