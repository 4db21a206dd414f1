"""Rows that occur twice where they should not: at two clients, or in training and in test of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.data import FEATURES, LABEL, TEXTS, ClientDataset, FederatedDataset
from fedloom.core.params import Vector
from fedloom.data.splits import Ints

Hashes = npt.NDArray[np.uint64]

CLIENTS = 10_000
"""Clients whose rows are looked at where nobody says otherwise: as many as are checked before round 1."""
_AT_ONCE = 1 << 15
"""Numbers that are hashed in one go: what fits a processor's second cache together with its results."""
_TEST = 1
_TRAIN = 0


def duplicates(dataset: FederatedDataset, *, limit: int = CLIENTS) -> tuple[str, ...]:
    """Return a sentence on rows that occur at several clients, and one on rows both in training and in test of one.

    A row is its features, texts and label, and is compared by a hash of 64 bits: of ten million different rows, two
    look the same with a probability of 3e-6. Rows of a client are counted from 0 over train, validation and test; no
    sentence holds a value. It reads every client once.

    Args:
        dataset: The rows; nothing that learns from them.
        limit: Clients to look at, the first ones by name.

    Example:
        >>> from fedloom.data.memory import arrays
        >>> data = arrays([[1.0], [2.0], [2.0]], ["ill", "well", "well"], clients=["a", "a", "b"], test=0.0)
        >>> duplicates(data)
        ('1 row occurs at more than one client: a row 1 = b row 0',)
    """
    rows = _rows(dataset, limit)
    # Equal rows lie together afterwards, in the order of clients and rows.
    order = np.argsort(rows.hashes, kind="stable")
    same = np.append(False, rows.hashes[order][1:] == rows.hashes[order][:-1])
    if not same.any():
        return ()
    group = np.cumsum(~same) - 1
    alike = np.flatnonzero(same | np.append(same[1:], False))
    order, group = order[alike], group[alike]
    sentences = (
        _at_two_clients(dataset, rows, order, group),
        _trained_and_tested(dataset, rows, order, group),
    )
    return tuple(sentence for sentence in sentences if sentence)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """A hash of each row, the index of its client, its place there, and whether it is for training or for test."""

    hashes: Hashes
    client: Ints
    place: Ints
    side: npt.NDArray[np.int8]

    def named(self, dataset: FederatedDataset, row: int) -> str:
        return f"{dataset.population().id(int(self.client[row]))} row {int(self.place[row])}"


def _at_two_clients(dataset: FederatedDataset, rows: _Rows, order: Ints, group: Ints) -> str:
    """Return the sentence on groups of equal rows that have more than one client."""
    client = rows.client[order]
    start = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    shared = np.minimum.reduceat(client, start) != np.maximum.reduceat(client, start)
    if not shared.any():
        return ""
    firsts = order[start[shared]]
    number = int(np.argmin(firsts))
    first = int(start[shared][number])
    other = first + int(np.argmax(client[first:] != client[first]))
    count = int(shared.sum())
    what = (
        "1 row occurs at more than one client:"
        if count == 1
        else (f"{count} different rows occur at more than one client; the first:")
    )
    return f"{what} {rows.named(dataset, int(order[first]))} = {rows.named(dataset, int(order[other]))}"


def _trained_and_tested(dataset: FederatedDataset, rows: _Rows, order: Ints, group: Ints) -> str:
    """Return the sentence on test rows whose client trains on an equal row."""
    held = group * (rows.client.max() + 1) + rows.client[order]
    trained = rows.side[order] == _TRAIN
    tested = np.flatnonzero((rows.side[order] == _TEST) & np.isin(held, held[trained]))
    if not tested.size:
        return ""
    first = tested[int(np.argmin(order[tested]))]
    twin = np.flatnonzero(trained & (held == held[first]))[0]
    clients = len(np.unique(rows.client[order[tested]]))
    what = "1 test row equals a training row" if len(tested) == 1 else f"{len(tested)} test rows equal training rows"
    who = "of its client" if clients == 1 else f"of their clients, at {clients} clients"
    place = int(rows.place[order[twin]])
    return f"{what} {who}; the first: {rows.named(dataset, int(order[first]))} = row {place}"


def _rows(dataset: FederatedDataset, limit: int) -> _Rows:
    population = dataset.population()
    count = min(limit, len(population))
    hashes: list[Hashes] = []
    sizes = np.zeros((count, 3), dtype=np.int64)
    waiting: list[ClientDataset] = []
    numbers = 0
    for index in range(count):
        data = dataset.client(population.id(index))
        sizes[index] = data.count("train"), data.count("validation"), data.count("test")
        waiting.append(data)
        numbers += data.arrays[FEATURES].size
        if numbers >= _AT_ONCE or index == count - 1:
            hashes.extend(_hashes(waiting))
            waiting, numbers = [], 0
    total = sizes.sum(axis=1)
    start = np.cumsum(total) - total
    client = np.repeat(np.arange(count), total)
    place = np.arange(len(client)) - start[client]
    train, tuned = sizes[client, 0], sizes[client, 0] + sizes[client, 1]
    side = np.where(place < train, _TRAIN, np.where(place < tuned, -1, _TEST)).astype(np.int8)
    joined = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.uint64)
    return _Rows(hashes=joined, client=client, place=place, side=side)


def _hashes(clients: list[ClientDataset]) -> Iterator[Hashes]:
    """Yield the hashes of the rows of several clients, in their order."""
    features = _joined(clients, FEATURES)
    step = max(1, _AT_ONCE // max(1, features.shape[1]))
    words = [_coded(_joined(clients, name)) for name in (TEXTS, LABEL) if name in clients[0].arrays]
    for start in range(0, len(features), step):
        part = slice(start, start + step)
        # Minus zero becomes zero, and every NaN the same.
        numbers = features[part] + features.dtype.type(0)
        numbers[np.isnan(numbers)] = np.nan
        found = _mixed(numbers.view(np.dtype(f"u{numbers.dtype.itemsize}")).astype(np.uint64), salt=1)
        for number, codes in enumerate(words, start=2):
            found = found * np.uint64(3) + _mixed(codes[part], salt=number)
        yield found


def _joined(clients: list[ClientDataset], name: str) -> Vector:
    parts = [data.arrays[name] for data in clients]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _coded(values: Vector) -> Hashes:
    """Return labels or texts as numbers that are equal where they are, of shape ``(rows, columns)``."""
    table = values.reshape(len(values), -1)
    if table.dtype.kind in "biuf":
        return np.ascontiguousarray(table, dtype=np.float64).view(np.uint64)
    # Python keeps the hash of a string for the length of a process, and hashes of one process is all we compare.
    hashes = [hash(str(value)) for value in table.ravel().tolist()]
    return np.array(hashes, dtype=np.int64).view(np.uint64).reshape(table.shape)


def _mixed(numbers: Hashes, *, salt: int) -> Hashes:
    """Return one hash of each row: every number is scrambled with its column, and the row summed.

    Source:
        The finaliser of SplitMix64 (Steele, Lea, Flood 2014, OOPSLA, figure 15, constants of variant 13).
    """
    columns = np.arange(1, numbers.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = numbers + (columns + np.uint64(salt))
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray(mixed.sum(axis=1, dtype=np.uint64))
