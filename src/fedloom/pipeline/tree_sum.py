"""TreeSum: a sum whose bits do not depend on the order in which its terms arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedloom.core.params import Vector
from fedloom.errors import Error


class TreeSum:
    """Sum of vectors at numbered slots, combined as siblings of one binary tree over the slots.

    The node of an absent slot is absent, not zero, so a node's value depends only on which slots below it are present.
    Terms may come in any order, as blocks, or as sums that other trees made: the bits are the same. In slot order no
    more than ``log2(slots) + 1`` vectors are held, in any order no more than ``slots``.

    Example:
        >>> tree = TreeSum(3)
        >>> tree.add(2, np.array([4.0]))
        >>> tree.lose(1)
        >>> tree.add(0, np.array([1.0]))
        >>> tree.total().tolist()
        [5.0]
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._depth = max(slots - 1, 0).bit_length()
        # (level, index) -> value of a node whose sibling is not known yet; None: nothing below it is present.
        self._nodes: dict[tuple[int, int], Vector | None] = {}

    def add(self, slot: int, value: Vector) -> None:
        """Put a vector at a slot; the array is read during the call and not kept."""
        self._put(0, slot, value)

    def add_block(self, start: int, values: Vector) -> None:
        """Put row ``i`` of ``values`` at slot ``start + i``, whole subtrees at a time."""
        stop = start + len(values)
        for level, index in _dyadic(start, stop):
            rows = values[(index << level) - start : ((index + 1) << level) - start]
            for _ in range(level):
                rows = rows[0::2] + rows[1::2]
            self._put(level, index, rows[0], owned=level > 0)

    def lose(self, slot: int) -> None:
        """Note that a slot stays empty."""
        self._put(0, slot, None)

    def merge(self, other: TreeSum) -> None:
        """Take over the nodes of a tree over the same slots, which is of no use afterwards."""
        if other.slots != self.slots:
            raise Error(f"a tree of {other.slots} slots does not merge into one of {self.slots}")
        for (level, index), value in other._nodes.items():
            self._put(level, index, value, owned=True)

    def export(self) -> tuple[npt.NDArray[np.int64], Vector]:
        """Return the nodes: rows ``(level, index, present)``, and the values of those that are present, in order."""
        places = sorted(self._nodes)
        values = [value for place in places if (value := self._nodes[place]) is not None]
        nodes = [[*place, self._nodes[place] is not None] for place in places]
        return np.array(nodes, np.int64).reshape(-1, 3), np.stack(values) if values else np.empty((0, 0))

    def absorb(self, nodes: npt.NDArray[np.int64], values: Vector) -> None:
        """Take over the nodes that a tree over the same slots exported."""
        row = 0
        for level, index, present in nodes.tolist():
            self._put(level, index, values[row] if present else None)
            row += present

    def total(self) -> Vector | None:
        """Return the sum of what is present, None when nothing is; slots never mentioned count as absent."""
        return self._value(self._depth, 0)

    def _put(self, level: int, index: int, value: Vector | None, *, owned: bool = False) -> None:
        if not 0 <= index << level < max(self.slots, 1):
            raise Error(f"slot {index << level} is outside a tree of {self.slots} slots")
        while level < self._depth:
            sibling = index ^ 1
            if (sibling << level) < self.slots:
                if (level, sibling) not in self._nodes:
                    break
                kept = self._nodes.pop((level, sibling))
                # What the tree keeps is its own, so sums are taken in place. Addition commutes, bit for bit.
                if kept is not None:
                    value = kept if value is None else np.add(kept, value, out=kept)
                    owned = True
            level, index = level + 1, index >> 1
        if (level, index) in self._nodes:
            raise Error(f"slot {index << level} was given twice")
        self._nodes[level, index] = value if owned or value is None else value.copy()

    def _value(self, level: int, index: int) -> Vector | None:
        if (level, index) in self._nodes:
            return self._nodes[level, index]
        if level == 0 or not any(at <= level and node >> (level - at) == index for at, node in self._nodes):
            return None
        return _combine(self._value(level - 1, 2 * index), self._value(level - 1, 2 * index + 1))


def _combine(left: Vector | None, right: Vector | None) -> Vector | None:
    return right if left is None else left if right is None else left + right


def _dyadic(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the largest aligned subtrees that tile ``start .. stop``."""
    while start < stop:
        level = (start & -start).bit_length() - 1 if start else (stop - start).bit_length() - 1
        while start + (1 << level) > stop:
            level -= 1
        yield level, start >> level
        start += 1 << level


def tree_total(values: Vector) -> Vector:
    """Return the sum of the rows of a block by the same tree; zeros when there are none."""
    tree = TreeSum(len(values))
    tree.add_block(0, values)
    total = tree.total()
    return np.zeros(values.shape[1:], dtype=values.dtype) if total is None else total
