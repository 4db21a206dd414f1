"""Which rows of a client are for training, validation and test: drawn client by client, computed for all at once.

Every client draws its own words from a key named after it, so its split is the same whoever else takes part. Only the
words are per client; the sorting that follows runs over all rows together, because a loop over 100,000 clients of
forty rows would spend its time in calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.data import Split
from fedloom.core.keys import Key, uniforms
from fedloom.errors import ComponentError

Ints = npt.NDArray[np.int64]

FOLDS: tuple[Split, ...] = ("train", "validation", "test")
"""Splits in the order in which a client's rows lie; a fold is an index into this."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of each client's rows that are held back.

    Raises:
        ComponentError: When a share is negative, or nothing is left to train on.
    """

    test: float = 0.25
    validation: float = 0.0

    def __post_init__(self) -> None:
        """Check both shares once, where they are written."""
        for name, share in [("test", self.test), ("validation", self.validation)]:
            if not 0 <= share < 1:
                raise ComponentError(f"{name} = {share}; expected a share from 0 up to, but not including, 1")
        if not self.test + self.validation < 1:
            raise ComponentError(
                f"test = {self.test} and validation = {self.validation} leave no rows to train on; "
                "expected a sum below 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a split needs to know of every row: arrays of one length.

    ``owner`` is the index of the row's client, ``stratum`` the class it is balanced by, ``person`` the group whose
    rows stay together (None: every row is alone).
    """

    owner: Ints
    stratum: Ints
    person: Ints | None = None


def folds(rows: Rows, names: Sequence[str], *, shares: Shares, key: Key) -> npt.NDArray[np.int8]:
    """Return the fold of every row.

    Each class of a client is laid out evenly over [0, 1) in an order drawn for it and from a start drawn for it; the
    classes are merged by position, and the merged row is cut at the shares. So every class is in each fold with its
    share, up to rounding, the folds have exactly their sizes, and a class of one row is as likely to be tested as any
    other. A person's rows move as one and fall on the side on which their middle lies.

    Args:
        rows: Client, class and person of each row.
        names: Names of the clients, which name their streams.
        shares: Shares to hold back; rounded half up in each client, and never all of its rows.
        key: Stream of the split.

    Example:
        >>> rows = Rows(owner=np.zeros(8, dtype=np.int64), stratum=np.array([0, 1] * 4))
        >>> fold = folds(rows, ["a"], shares=Shares(test=0.25), key=Key.from_seed(0))
        >>> np.bincount(fold, minlength=3).tolist()
        [6, 0, 2]
    """
    if shares.test == 0 and shares.validation == 0:
        return np.zeros(len(rows.owner), dtype=np.int8)
    unit_of_row, owner, stratum, size = _units(rows)
    order_words, start_words = _words(owner, names, key)

    by_class = np.lexsort((order_words, stratum, owner))
    new_class = _changes(owner[by_class], stratum[by_class])
    before, total = _running(size[by_class], new_class)
    start = uniforms(start_words[by_class])[np.maximum.accumulate(np.where(new_class, np.arange(len(owner)), 0))]
    position = np.empty(len(owner))
    position[by_class] = (before + start * size[by_class]) / total

    merged = np.lexsort((position, owner))
    new_client = _changes(owner[merged])
    before, total = _running(size[merged], new_client)
    middle = before + size[merged] / 2
    tested = middle < np.floor(shares.test * total + 0.5)
    held = middle < np.floor((shares.test + shares.validation) * total + 0.5)
    # The last unit of a client is the last to be held back; where even it was, it is given back to training.
    held &= ~np.append(new_client[1:], True)
    fold = np.empty(len(owner), dtype=np.int8)
    fold[merged] = np.where(held, np.where(tested, FOLDS.index("test"), FOLDS.index("validation")), 0)
    return fold[unit_of_row]


def _units(rows: Rows) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the unit of each row; and owner, class and number of rows of each unit, units sorted by owner."""
    if rows.person is None:
        order = np.argsort(rows.owner, kind="stable")
        unit_of_row = np.empty_like(order)
        unit_of_row[order] = np.arange(len(order))
        return unit_of_row, rows.owner[order], rows.stratum[order], np.ones(len(order), dtype=np.int64)
    pairs = rows.owner * (rows.person.max(initial=0) + 1) + rows.person
    _, first, unit_of_row = np.unique(pairs, return_index=True, return_inverse=True)
    return unit_of_row, rows.owner[first], majority(rows.stratum, unit_of_row, len(first)), np.bincount(unit_of_row)


def majority(stratum: Ints, unit_of_row: Ints, units: int) -> Ints:
    """Return the commonest class of each unit; of several, the first.

    Example:
        >>> majority(np.array([2, 1, 1, 0]), np.array([0, 0, 0, 1]), 2).tolist()
        [1, 0]
    """
    width = int(stratum.max(initial=0)) + 1
    pairs, counts = np.unique(unit_of_row * width + stratum, return_counts=True)
    order = np.lexsort((-pairs, counts, pairs // width))
    last = np.append(np.diff(pairs[order] // width) != 0, True) if len(order) else np.zeros(0, dtype=np.bool_)
    chosen = pairs[order][last] % width
    assert len(chosen) == units
    return np.asarray(chosen, dtype=np.int64)


def _words(owner: Ints, names: Sequence[str], key: Key) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return two words for each unit, from the stream of its client."""
    counts = np.bincount(owner, minlength=len(names))
    pairs = np.empty((2, len(owner)), dtype=np.uint64)
    start = 0
    for name, count in zip(names, counts.tolist(), strict=True):
        pairs[:, start : start + count] = key.child(name).random_raw(2 * count).reshape(2, count)
        start += count
    return pairs[0], pairs[1]


def _changes(*columns: Ints) -> npt.NDArray[np.bool_]:
    """Return True at each row that differs from the one before it; the first does."""
    changed = np.ones(len(columns[0]), dtype=np.bool_)
    changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def _running(size: Ints, new: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return, by unit, the rows before it in its run and the rows of its whole run."""
    run = np.cumsum(new) - 1
    before = np.cumsum(size) - size
    total = np.bincount(run, weights=size).astype(np.int64)
    return before - before[new][run], total[run]
