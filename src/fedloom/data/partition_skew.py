"""Partitions that make clients differ in one way only: in classes, in size, or in the noise of their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedloom.core.component import component
from fedloom.core.keys import Key, permutation
from fedloom.core.params import Vector
from fedloom.data.partition import (
    Hands,
    Partition,
    check_clients,
    check_enough,
    check_shares,
    class_codes,
    deal_by_shares,
    iid,
)
from fedloom.data.splits import Ints
from fedloom.data.tables import plain_table
from fedloom.errors import ComponentError, DataError


@component("fedloom.partitions")
def labels_per_client(clients: int, labels: int) -> Partition:
    """Give every client rows of exactly ``labels`` classes; every class has a client, and its clients share it evenly.

    Classes have as equal numbers of clients as their rows allow: each of them gets at least one row. Which clients is
    drawn.

    Args:
        clients: Number of clients, 1 or more.
        labels: Classes that each client holds, 1 or more.

    Raises:
        ComponentError: When a number is below 1; its ``split`` raises DataError, with the rows of each class, when
            there are fewer classes than ``labels``, more than clients can hold, or too few rows of them.

    Source:
        Li, Diao, Chen, He 2022, arXiv:2102.02079, "quantity-based label imbalance" (#C = k); classes are dealt so
        that all have clients, and evenly, also where clients are few (differs: the paper draws k for each client).

    Example:
        >>> of_row = np.repeat(np.arange(4), 5)
        >>> [np.unique(of_row[rows]).size for rows in labels_per_client(6, 2).split(of_row, Key.from_seed(1))]
        [2, 2, 2, 2, 2, 2]
    """
    check_clients("labels_per_client", clients)
    if labels < 1:
        raise ComponentError(f"labels_per_client: labels = {labels}; expected 1 or more")

    def split(of_row: Vector, key: Key) -> Hands:
        check_enough("labels_per_client", of_row, needed=clients * labels)
        names, class_of = class_codes("labels_per_client", of_row)
        counts = np.bincount(class_of)
        holders = _holders(names.tolist(), counts, clients, labels=labels, key=key)
        hands: list[list[Ints]] = [[] for _ in range(clients)]
        for index, held_by in enumerate(holders):
            rows = np.flatnonzero(class_of == index)
            rows = rows[permutation(key.child("class", index), len(rows))]
            for client, part in zip(held_by.tolist(), np.array_split(rows, len(held_by)), strict=True):
                hands[client].append(part)
        return tuple(np.sort(np.concatenate(hand)) for hand in hands)

    return Partition(clients, split)


@component("fedloom.partitions")
def quantity(clients: int, alpha: float, *, min_rows: int = 1) -> Partition:
    """Deal rows at random, in numbers drawn from a symmetric Dirichlet distribution: sizes differ, classes do not.

    A draw that leaves some client with fewer than ``min_rows`` rows is drawn again, from the next key, as ``dirichlet``
    does.

    Args:
        clients: Number of clients, 1 or more.
        alpha: Concentration, above 0: small, and few clients hold nearly everything.
        min_rows: Fewest rows that a client may have.

    Raises:
        ComponentError: When an argument is outside its range; its ``split`` raises DataError, with the sizes that came
            nearest, when no draw gives every client its rows.

    Source:
        Li, Diao, Chen, He 2022, arXiv:2102.02079, "quantity skew".

    Example:
        >>> [len(rows) for rows in quantity(3, 0.5).split(np.zeros(60), Key.from_seed(0))]
        [4, 2, 54]
    """
    check_shares("quantity", clients, alpha=alpha, min_rows=min_rows)

    def split(labels: Vector, key: Key) -> Hands:
        alike = np.zeros(len(labels), dtype=np.int64)
        return deal_by_shares("quantity", alike, clients, alpha=alpha, min_rows=min_rows, key=key)

    return Partition(clients, split)


@component("fedloom.partitions")
def feature_noise(clients: int, sigma: float, *, unit: Literal["feature", "deviation"] = "feature") -> Partition:
    """Deal rows as ``iid`` does, and add Gaussian noise to the features of each client, more from client to client.

    Client i of N, counted from 1, gets noise of variance ``sigma * i / N``, on the rows of every split. It is drawn
    from a key named after the client, row by row in the order of the table. Missing values stay missing, and the
    columns that hold text stay as they are.

    Args:
        clients: Number of clients, 1 or more.
        sigma: Variance of the last client's noise, 0 or more.
        unit: What it is measured in: "feature" as the values stand (images between 0 and 1), "deviation" in standard
            deviations of each column over all rows, for tables whose columns have units of their own.

    Raises:
        ComponentError: When an argument is outside its range; its ``split`` raises DataError when there are fewer rows
            than clients.

    Source:
        Li, Diao, Chen, He 2022, arXiv:2102.02079, "noise-based feature imbalance": a Gaussian of mean
        0 and *variance* sigma i / N, as the text has it. The code published with the paper takes the same number for
        the standard deviation (differs).

    Example:
        >>> spread = feature_noise(2, 4.0).change
        >>> rows = [("a", np.arange(5000)), ("b", np.arange(5000, 10000))]
        >>> noise = spread(np.zeros((10000, 1)), rows, Key.from_seed(0))
        >>> noise[:5000].var().round(1), noise[5000:].var().round(1)
        (np.float64(2.0), np.float64(4.0))
    """
    if not 0 <= sigma < np.inf:
        raise ComponentError(f"feature_noise: sigma = {sigma}; expected a finite number, 0 or more")

    def change(features: Vector, hands: Sequence[tuple[str, Ints]], key: Key) -> Vector:
        noisy = features.copy()
        size = _deviations(features) if unit == "deviation" else np.ones(features.shape[1])
        for number, (client, rows) in enumerate(hands, start=1):
            drawn = key.child(client).generator().standard_normal((len(rows), features.shape[1]))
            noisy[rows] += (np.sqrt(sigma * number / len(hands)) * size * drawn).astype(features.dtype)
        return noisy

    return Partition(clients, iid(clients).split, change=change)


def _deviations(features: Vector) -> Vector:
    """Return the standard deviation of each column over the rows that have a value; 0 where none has."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, features, 0.0).sum(axis=0, dtype=np.float64) / count
    deviations: Vector = np.sqrt(np.where(known, (features - mean) ** 2, 0.0).sum(axis=0) / count)
    return deviations


def _holders(names: Sequence[object], counts: Ints, clients: int, *, labels: int, key: Key) -> list[Ints]:
    """Return the clients of each class, ascending: exactly ``labels`` classes a client, every class at one at least."""
    wanted = clients * labels
    most = np.minimum(counts, clients)  # a client has one row of its class at least
    problem = None
    if labels > len(counts):
        problem = f"there are {len(counts)} classes. Use fewer labels"
    elif wanted < len(counts):
        problem = f"{len(counts)} classes do not all find a client. Use more clients or more labels"
    elif most.sum() < wanted:
        problem = f"the smaller classes have too few rows: clients can hold {most.sum()} of them, not {wanted}. " + (
            "Use fewer clients or fewer labels"
        )
    if problem is not None:
        table = plain_table(("class", "rows"), list(zip(map(str, names), counts.tolist(), strict=True)))
        raise DataError(f"labels_per_client(clients={clients}, labels={labels}): {problem}\n{table}")
    # As even as rows allow: one client more for each class that can take one, until all are dealt.
    share = np.zeros(len(counts), dtype=np.int64)
    order = permutation(key.child("classes"), len(counts))
    while wanted:
        able = order[share[order] < most[order]][:wanted]
        share[able] += 1
        wanted -= len(able)
    # To the clients that lack most, ties drawn: their lacks never differ by more than one, so that none is left over.
    lacks = np.full(clients, labels)
    holders = [order] * len(counts)
    for index in order.tolist():
        drawn = permutation(key.child("holders", index), clients)
        chosen = np.sort(drawn[np.argsort(-lacks[drawn], kind="stable")][: share[index]])
        lacks[chosen] -= 1
        holders[index] = chosen
    assert not lacks.any()
    return holders
