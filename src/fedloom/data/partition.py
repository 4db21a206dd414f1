"""Ways to deal the rows of one table to clients: pure functions from labels and a key to index arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fedloom.core.component import ComponentSpec, component
from fedloom.core.keys import Key, permutation
from fedloom.core.params import Vector
from fedloom.data.splits import Ints
from fedloom.data.tables import plain_table
from fedloom.errors import ComponentError, DataError

Hands: TypeAlias = tuple[Ints, ...]

DRAWS = 100
"""Draws of a Dirichlet partition before it is called impossible. A draw costs microseconds: only sizes are computed."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A way to deal rows to clients.

    ``split`` takes the labels of all rows, shape ``(n,)``, and a key; it returns the rows of each client, ascending.
    Every row belongs to exactly one client. Where ``column`` names one, ``split`` and ``names`` take its values in
    place of the labels, and the number of clients follows from them.

    Example:
        >>> sorted(rows.tolist() for rows in shards(2, 1).split(np.array([1, 0, 1, 0]), Key.from_seed(3)))
        [[0, 2], [1, 3]]
    """

    clients: int | None
    """None: it follows from the data, and ``names`` tells."""
    split: Callable[[Vector, Key], Hands]
    spec: ComponentSpec | None = None
    column: str | None = None
    names: Callable[[Vector], tuple[str, ...]] | None = None
    """Names of the clients in their order, which is that of text; None: numbered ones."""
    change: Callable[[Vector, Sequence[tuple[str, Ints]], Key], Vector] | None = None
    """What becomes of the features, shape ``(n, d)``, given each client's name and rows; a new array. None: nothing."""
    whole: bool = True
    """Whether the rows are those of all clients: only then is a class that no row trains known to nobody."""


@component("fedloom.partitions")
def iid(clients: int) -> Partition:
    """Deal rows at random, in numbers that differ by one at most.

    Args:
        clients: Number of clients, 1 or more.

    Raises:
        ComponentError: When ``clients`` is below 1; its ``split`` raises DataError when there are fewer rows.

    Example:
        >>> [len(rows) for rows in iid(3).split(np.zeros(8), Key.from_seed(0))]
        [3, 3, 2]
    """
    check_clients("iid", clients)

    def split(labels: Vector, key: Key) -> Hands:
        check_enough("iid", labels, needed=clients)
        return tuple(np.sort(part) for part in np.array_split(permutation(key, len(labels)), clients))

    return Partition(clients, split)


@component("fedloom.partitions")
def dirichlet(clients: int, alpha: float, *, min_rows: int = 1) -> Partition:
    """Deal the rows of each class by shares drawn from a symmetric Dirichlet distribution over clients.

    A small ``alpha`` gives each class to a few clients, a large one gives every client the mix of the whole. A draw
    that leaves some client with fewer than ``min_rows`` rows is drawn again, from the next key, up to ``DRAWS`` times.

    Args:
        clients: Number of clients, 1 or more.
        alpha: Concentration, above 0.
        min_rows: Fewest rows that a client may have.

    Raises:
        ComponentError: When an argument is outside its range; its ``split`` raises DataError, with the sizes that came
            nearest, when no draw gives every client its rows.

    Source:
        Hsu, Qi, Brown 2019, arXiv:1909.06335, Section 3, draws a client's mix of classes; this draws a class's mix of
        clients (differs: all rows are used, and sizes vary), as Yurochkin et al. 2019, arXiv:1905.12022, Section 4.

    Example:
        >>> parts = dirichlet(3, 0.5).split(np.arange(60) % 2, Key.from_seed(0))
        >>> sum(len(rows) for rows in parts)
        60
    """
    check_shares("dirichlet", clients, alpha=alpha, min_rows=min_rows)

    def split(labels: Vector, key: Key) -> Hands:
        class_of = class_codes("dirichlet", labels)[1]
        return deal_by_shares("dirichlet", class_of, clients, alpha=alpha, min_rows=min_rows, key=key)

    return Partition(clients, split)


@component("fedloom.partitions")
def shards(clients: int, shards_per_client: int = 2) -> Partition:
    """Sort rows by label, cut them into equal shards, and deal the shards: each client sees few classes.

    Args:
        clients: Number of clients, 1 or more.
        shards_per_client: Shards each client receives, 1 or more.

    Raises:
        ComponentError: When a number is below 1; its ``split`` raises DataError when there are fewer rows than shards.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, Section 3, "pathological non-IID"; shards may differ by one row where
        the rows do not divide (differs: no row is left out).

    Example:
        >>> labels = np.repeat(np.arange(4), 5)
        >>> [np.unique(labels[rows]).size for rows in shards(2, 2).split(labels, Key.from_seed(1))]
        [2, 2]
    """
    check_clients("shards", clients)
    if shards_per_client < 1:
        raise ComponentError(f"shards: shards_per_client = {shards_per_client}; expected 1 or more")

    def split(labels: Vector, key: Key) -> Hands:
        pieces = clients * shards_per_client
        check_enough("shards", labels, needed=pieces)
        cut = np.array_split(np.argsort(labels, kind="stable"), pieces)
        dealt = permutation(key, pieces).reshape(clients, shards_per_client).tolist()
        return tuple(np.sort(np.concatenate([cut[piece] for piece in hand])) for hand in dealt)

    return Partition(clients, split)


def client_names(count: int, *, digits: int = 1) -> tuple[str, ...]:
    """Return names for clients that have none, zero-padded so that name order is index order.

    Example:
        >>> client_names(11)[:3]
        ('client-00', 'client-01', 'client-02')
    """
    width = max(digits, len(str(count - 1)))
    return tuple(f"client-{index:0{width}d}" for index in range(count))


def check_clients(name: str, clients: int) -> None:
    """Refuse a number of clients below one."""
    if clients < 1:
        raise ComponentError(f"{name}: clients = {clients}; expected 1 or more")


def check_shares(name: str, clients: int, *, alpha: float, min_rows: int) -> None:
    """Refuse what ``deal_by_shares`` cannot work with, whatever the rows."""
    check_clients(name, clients)
    if not 0 < alpha < np.inf:
        raise ComponentError(f"{name}: alpha = {alpha}; expected a finite number above 0")
    if min_rows < 0:
        raise ComponentError(f"{name}: min_rows = {min_rows}; expected 0 or more")


def check_enough(name: str, labels: Vector, *, needed: int) -> None:
    """Refuse fewer rows than are needed."""
    if len(labels) == 0:
        raise DataError(f"{name} received no rows to deal")
    if len(labels) < needed:
        raise DataError(
            f"{name} received {len(labels)} rows; expected at least {needed}. Use fewer clients or more rows"
        )


def class_codes(name: str, labels: Vector) -> tuple[Vector, Ints]:
    """Return the distinct labels in order, and the place of each row's among them."""
    if labels.dtype.kind == "f" and bool((labels != np.floor(labels)).any()):
        raise DataError(f"{name} deals rows class by class; the labels are numbers with decimals. Use iid or shards")
    return np.unique(labels, return_inverse=True)


def deal_by_shares(name: str, class_of: Ints, clients: int, *, alpha: float, min_rows: int, key: Key) -> Hands:
    """Deal the rows of each class by shares from a symmetric Dirichlet, drawn again until every client has its rows.

    Raises:
        DataError: When no draw gives every client its rows; it shows the sizes that came nearest, and an ``alpha``
            that works for these rows and this key, where one is found.
    """
    check_enough(name, class_of, needed=clients * max(1, min_rows))
    counts = np.bincount(class_of)
    cuts, best = _drawn(counts, clients, alpha=alpha, min_rows=min_rows, key=key)
    if cuts is not None:
        return _deal(class_of, cuts, key)
    tried = [float(f"{alpha * factor:.1g}") for factor in (2, 4, 8, 16, 64, 256, 1024)]
    works = (a for a in tried if _drawn(counts, clients, alpha=a, min_rows=min_rows, key=key)[0] is not None)
    larger = next((f"{a:g} works here" for a in works), f"such as {max(2 * alpha, 0.1):g}")
    raise DataError(
        f"{name}(clients={clients}, alpha={alpha}, min_rows={min_rows}) over {len(class_of)} rows left a client "
        f"with fewer than {min_rows} in each of {DRAWS} draws; the nearest one:\n{size_table(best.tolist())}\n"
        f"Use a larger alpha ({larger}), fewer clients, or a smaller min_rows"
    )


def size_table(sizes: Sequence[int]) -> str:
    """Return how many rows each client would have, as a table."""
    return plain_table(("client", "rows"), list(zip(client_names(len(sizes)), sizes, strict=True)))


def _drawn(counts: Ints, clients: int, *, alpha: float, min_rows: int, key: Key) -> tuple[Ints | None, Ints]:
    """Return the cuts of the first draw that gives every client its rows, else None; and the sizes of the best draw."""
    best = np.empty(0, dtype=np.int64)
    for draw in range(DRAWS):
        cuts = _cuts(counts, clients, alpha=alpha, key=key.child("draw", draw))
        sizes = np.diff(cuts, axis=1).sum(axis=0)
        if sizes.min() >= min_rows:
            return cuts, sizes
        if not best.size or sizes.min() > best.min():
            best = sizes
    return None, best


def _cuts(counts: Ints, clients: int, *, alpha: float, key: Key) -> Ints:
    """Return where each class is cut for the clients, shape ``(classes, clients + 1)``."""
    shares = key.generator().dirichlet(np.full(clients, alpha), size=len(counts))
    cuts = np.zeros((len(counts), clients + 1), dtype=np.int64)
    cuts[:, 1:] = np.rint(np.cumsum(shares, axis=1) * counts[:, None])
    cuts[:, -1] = counts
    return np.minimum(cuts, counts[:, None])


def _deal(class_of: Ints, cuts: Ints, key: Key) -> Hands:
    hands: list[list[Ints]] = [[] for _ in range(cuts.shape[1] - 1)]
    for index, cut in enumerate(cuts):
        rows = np.flatnonzero(class_of == index)
        rows = rows[permutation(key.child("class", index), len(rows))]
        for hand, start, stop in zip(hands, cut[:-1].tolist(), cut[1:].tolist(), strict=True):
            hand.append(rows[start:stop])
    return tuple(np.sort(np.concatenate(hand)) for hand in hands)
