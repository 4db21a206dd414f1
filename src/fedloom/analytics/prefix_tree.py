"""Texts that occur anywhere, agreed on by sums: trees whose edges are bytes of UTF-8, one tree for each column.

The server holds the beginnings that are known to occur and asks, round by round, which bytes follow them. A client
answers with the number of its rows that go on in each way, so no client sends a text, and a way that too few rows of
all clients take is not followed. ``label_set`` is the same idea for one column, with yes and no in place of numbers.

A round asks about ``WINDOW`` beginnings at most, whatever their number: what a client sends has one size, and only the
number of rounds grows with the number of categories.

Where every way is followed, a client also adds up, for each beginning and each later byte, the byte and its square over
its rows: a variance of 0 tells that all rows of all clients agree there, and the beginning grows by the whole stretch
at once. Rounds then grow with the number of places where names part, and not with their length. Where rare ways are not
followed these sums would tell the names that the rule keeps back, so they are not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.params import Vector
from fedloom.errors import DataError

LONGEST = 64
"""Bytes of a text: a longer one is a note, not the name of a category."""
END = 256
"""The continuation after the last byte."""
WAYS = 257
WINDOW = 32
"""Beginnings of a round: 32 * 257 numbers are 66 kB, with two sums for each later byte 99 kB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trees:
    """Beginnings that occur, in the first ``used`` rows of ``text``; shapes never change, so that it is saved as it is.

    Rows are in the order of their trees. A row that ``ended`` is a whole text of ``length`` bytes; any other grows.
    """

    text: npt.NDArray[np.uint8]
    """Shape ``(trees * capacity, LONGEST)``; zeros behind the end."""
    tree: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    ended: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.float64]
    """How many rows of all clients have that text."""
    used: int
    pruned: npt.NDArray[np.float64]
    """By tree, rows on ways that were not followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends the growth of a tree: part of no state, because everybody has it from the experiment."""

    least: int
    """Rows that a way must have to be followed; with 1, later bytes are summed too."""
    most: int
    """Texts, or beginnings of them, of one tree."""
    name: Callable[[int], str]
    """Name of a tree in messages."""
    advice: str
    """What to do where there are too many."""


def width(least: int) -> int:
    """Return how many numbers a client sends for each beginning.

    Example:
        >>> width(1), width(10)
        (385, 257)
    """
    return WAYS + 2 * LONGEST if least == 1 else WAYS


def planted(trees: int, capacity: int) -> Trees:
    """Return trees that know the empty beginning only.

    Example:
        >>> planted(2, 3).used, window(planted(2, 3)).tolist()
        (2, [0, 1])
    """
    size = trees * capacity
    tree = np.zeros(size, dtype=np.int64)
    tree[:trees] = np.arange(trees)
    return Trees(
        text=np.zeros((size, LONGEST), dtype=np.uint8),
        tree=tree,
        length=np.zeros(size, dtype=np.int64),
        ended=np.zeros(size, dtype=np.bool_),
        rows=np.zeros(size),
        used=trees,
        pruned=np.zeros(trees),
    )


def grown_up(trees: Trees) -> bool:
    """Return whether every beginning has become a whole text."""
    return bool(trees.ended[: trees.used].all())


def window(trees: Trees) -> npt.NDArray[np.int64]:
    """Return the rows of the beginnings that the next round asks about: the first of the shortest ones."""
    growing = np.flatnonzero(~trees.ended[: trees.used])
    if not growing.size:
        return growing
    shortest = trees.length[growing]
    return np.asarray(growing[shortest == shortest.min()][:WINDOW])


def counted(trees: Trees, least: int, texts: Callable[[int], Mapping[str, int]]) -> Vector:
    """Return what a client answers: for each beginning of the window, its rows by the byte that follows.

    Args:
        trees: What the server knows.
        least: Rows that a way must have to be followed; with 1, two sums for each later byte stand behind the ways.
        texts: The texts of one tree that the client has, with their numbers of rows; asked for once a tree.

    Returns:
        Shape ``(WINDOW * width(least),)``; zeros where the client has nothing, and behind the last beginning.
    """
    answer = np.zeros((WINDOW, width(least)))
    asked = window(trees)
    depth = int(trees.length[asked[0]])
    places = {(int(trees.tree[row]), trees.text[row, :depth].tobytes()): place for place, row in enumerate(asked)}
    for tree in sorted({tree for tree, _ in places}):
        for text, rows in texts(tree).items():
            encoded = text.encode()
            place = places.get((tree, encoded[:depth]))
            # A text that ended earlier is shorter than the beginnings that still grow, so it meets none of them.
            if place is None:
                continue
            answer[place, encoded[depth] if len(encoded) > depth else END] += rows
            if least == 1:
                codes = _codes(encoded)
                answer[place, WAYS : WAYS + LONGEST] += rows * codes
                answer[place, WAYS + LONGEST :] += rows * codes**2
    return answer.reshape(-1)


def grown(trees: Trees, totals: Vector, limits: Limits) -> Trees:
    """Return the trees with one more byte, or as many as all rows agree on, on every beginning of the window.

    Raises:
        DataError: When a tree has more texts, or a text more bytes, than there may be.
    """
    asked = window(trees)
    depth = int(trees.length[asked[0]])
    sums = np.asarray(totals).reshape(WINDOW, width(limits.least))[: len(asked)]
    counts = sums[:, :WAYS]
    # Half a row below the least, and above none: for sums that are whole but for rounding.
    follows = counts > limits.least - 0.5
    parents, ways = np.nonzero(follows)
    sources = asked[parents]
    on = ways != END
    if depth == LONGEST and on.any():
        long = limits.name(int(trees.tree[sources[on][0]]))
        raise DataError(
            f"{long} holds texts of more than {LONGEST} bytes of UTF-8; expected short names of categories. Shorten "
            "them, or leave the column out"
        )
    pruned = trees.pruned.copy()
    np.add.at(pruned, trees.tree[asked], np.where(~follows & (counts > 0.5), counts, 0.0).sum(axis=1))
    text, length, ended = trees.text[sources], depth + on, ~on
    if depth < LONGEST:
        text[on, depth] = ways[on]
    for child in np.flatnonzero(on & (follows.sum(axis=1)[parents] == 1)) if limits.least == 1 else ():
        stretch = _agreed(sums[parents[child], WAYS:], counts[parents[child]].sum(), depth + 1)
        end = depth + 1 + len(stretch)
        ended[child] = 0 in stretch
        length[child] = end - int(ended[child])
        text[child, depth + 1 : length[child]] = stretch[: length[child] - depth - 1] - 1
    kept = np.ones(trees.used, dtype=np.bool_)
    kept[asked] = False
    stay = np.flatnonzero(kept)
    tree = np.concatenate([trees.tree[stay], trees.tree[sources]])
    order = np.argsort(tree, kind="stable")
    _refuse_too_many(tree, limits)
    return Trees(
        text=_laid(trees.text, np.concatenate([trees.text[stay], text])[order]),
        tree=_laid(trees.tree, tree[order]),
        length=_laid(trees.length, np.concatenate([trees.length[stay], length])[order]),
        ended=_laid(trees.ended, np.concatenate([trees.ended[stay], ended])[order]),
        rows=_laid(trees.rows, np.concatenate([trees.rows[stay], counts[follows]])[order]),
        used=len(tree),
        pruned=pruned,
    )


def texts_of(trees: Trees, tree: int, name: str) -> Sequence[tuple[str, float]]:
    """Return the whole texts of a tree, with their rows.

    Raises:
        DataError: When the sums gave bytes that are no text.
    """
    rows = np.flatnonzero(trees.ended[: trees.used] & (trees.tree[: trees.used] == tree))
    try:
        return [(bytes(trees.text[row, : trees.length[row]]).decode(), float(trees.rows[row])) for row in rows.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: the sums give bytes that are no UTF-8 text; expected sums of whole numbers of rows. Use a "
            "pipeline that does not alter them"
        ) from error


def _codes(encoded: bytes) -> Vector:
    """Return the bytes of a text from 1 to 256, with zeros behind its end."""
    codes = np.zeros(LONGEST)
    known = np.frombuffer(encoded[:LONGEST], dtype=np.uint8)
    codes[: len(known)] = known
    codes[: len(known)] += 1.0
    return codes


def _agreed(sums: Vector, rows: float, start: int) -> npt.NDArray[np.int64]:
    """Return the codes from ``start`` on that all rows share, up to the end of the text and with it.

    One row of any number that differs by one leaves ``sum(c^2) - sum(c)^2 / n = (n - 1) / n``, at least a half; where
    rounding hides an agreement, the tree grows byte by byte.
    """
    totals, squares = sums[start:LONGEST], sums[LONGEST + start :]
    codes = np.rint(totals / rows).astype(np.int64)
    parted = np.flatnonzero(np.abs(squares - totals**2 / rows) > 0.25)
    agreed = codes[: parted[0]] if parted.size else codes
    ends = np.flatnonzero(agreed == 0)
    return agreed[: ends[0] + 1] if ends.size else agreed


def _refuse_too_many(tree: npt.NDArray[np.int64], limits: Limits) -> None:
    counts = np.bincount(tree) if tree.size else np.zeros(1, dtype=np.int64)
    if counts.max() > limits.most:
        raise DataError(f"{limits.name(int(counts.argmax()))} has {limits.advice}")


def _laid(before: Vector, values: Vector) -> Vector:
    """Return an array of the shape before, with values at its start and zeros behind."""
    after = np.zeros_like(before)
    after[: len(values)] = values
    return after
