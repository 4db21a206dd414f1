"""The set of all clients' labels, agreed on by sums: no client sends the text of a label.

The labels are the leaves of a tree whose edges are bytes of UTF-8. The server holds the prefixes that are known to
occur and asks, round by round, which bytes follow them anywhere. A client answers with ones and zeros, so a sum tells
how many clients go on in a way, and under a secure sum nobody learns which clients these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.core.component import component
from fedloom.core.data import LABEL, ClientDataset, Schema
from fedloom.core.labels import in_order, label_text
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.query import Preparation, Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery
from fedloom.errors import ComponentError, DataError

PART = "label_set"
LONGEST = 64
"""Bytes of a label: 65 rounds at most. A longer text is a note, not the name of a class."""
END = 256
"""The continuation after the last byte."""
WAYS = 257


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The answer: names of all classes, in the order of their indices."""

    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """Prefixes that occur, in the first ``used`` rows of ``text``; shapes never change, so that it is saved as it is.

    A row that ``ended`` is a whole label of ``length`` bytes; any other is ``depth`` bytes long and grows.
    """

    text: npt.NDArray[np.uint8]
    """Shape ``(max_classes, LONGEST)``; zeros behind the end."""
    length: npt.NDArray[np.int64]
    ended: npt.NDArray[np.bool_]
    used: int
    depth: int


@component("fedloom.preparations")
def label_set(max_classes: int = 64) -> Preparation[Tree, LabelSet]:
    """Agree on the classes that occur in any client's training rows, and make labels their indices.

    Names that are all numbers are ordered by number, others as text; 1.0 and 1 are one name. A label is in the set if
    a client that has it answers every round: one that is lost on the way takes its own labels with it, and is told so
    when its rows are changed.

    Args:
        max_classes: Most classes that there may be; each client sends ``257 * max_classes`` numbers a round.

    Raises:
        ComponentError: When ``max_classes`` is below 1. More classes, or a label of more than 64 bytes, are a
            DataError in the round that finds them.

    Source:
        The tree of prefixes follows Zhu et al. 2020, arXiv:1902.08534, Algorithm 1, without sampling or threshold:
        every client answers for all of its labels, and one occurrence is enough (differs: not private by itself).

    Example:
        >>> change = label_set().transform(LabelSet(("no", "yes")))
        >>> change.apply(ClientDataset({"label": np.array(["yes", "no"])})).arrays["label"].tolist()
        [1, 0]
    """
    if max_classes < 1:
        raise ComponentError(f"label_set: max_classes = {max_classes}; expected 1 or more")

    def parts(_schema: Schema) -> Mapping[str, ParamSpec]:
        return {PART: ParamSpec((Leaf(PART, (max_classes, WAYS)),))}

    def init(schema: Schema) -> Tree:
        if schema.classes is not None:
            raise DataError(
                f"label_set: the data already name their {len(schema.classes)} classes; leave this preparation out"
            )
        return Tree(
            text=np.zeros((max_classes, LONGEST), dtype=np.uint8),
            length=np.zeros(max_classes, dtype=np.int64),
            ended=np.zeros(max_classes, dtype=np.bool_),
            used=1,
            depth=0,
        )

    query = Query(name=PART, answer=LabelSet, parts=parts, init=init, ask=_ask, step=_grown, done=_done, result=_result)
    return Preparation(query=query, transform=Indices, report=_report)


@dataclass(frozen=True, slots=True)
class Indices:
    """The change of rows that an answer gives: labels become int64 indices of classes."""

    answer: LabelSet

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows with labels as indices; rows without labels as they are.

        Raises:
            DataError: When labels are not in the set: it tells how many rows, never which labels.
        """
        if LABEL not in data.arrays:
            return data
        values, inverse = _distinct(data.arrays[LABEL])
        place = {name: index for index, name in enumerate(self.answer.classes)}
        index = np.array([place.get(label_text(value), -1) for value in values], dtype=np.int64)[inverse]
        unknown = int((index < 0).sum())
        if unknown:
            raise DataError(
                f"label_set: {unknown} of {len(index)} rows have a label outside the agreed classes "
                f"{self.answer.classes}; expected labels that occur in some client's training rows. Correct those rows "
                "or leave them out"
            )
        return ClientDataset({**data.arrays, LABEL: index}, data.rows)

    def schema(self, before: Schema) -> Schema:
        """Return the schema with the classes."""
        return replace(before, classes=self.answer.classes)


def _ask(state: Tree) -> LocalQuery:
    rows = {bytes(state.text[row, : state.depth]): row for row in range(state.used) if not state.ended[row]}
    depth, shape = state.depth, (len(state.text), WAYS)

    def read(data: ClientDataset) -> Mapping[str, Vector]:
        follows = np.zeros(shape)
        _refuse_missing(data.split("train").arrays[LABEL])
        for value in _distinct(data.split("train").arrays[LABEL])[0]:
            text = label_text(value).encode()
            row = rows.get(text[:depth])
            # A label that ended earlier is shorter than the prefixes that still grow, so it meets none of them.
            if row is not None:
                follows[row, text[depth] if len(text) > depth else END] = 1.0
        return {PART: follows.reshape(-1)}

    return LocalQuery(read)


def _grown(state: Tree, aggregate: Aggregate) -> Tree:
    """Return the tree with one more byte on every prefix that goes on."""
    totals = np.asarray(aggregate[PART]).reshape(len(state.text), WAYS)
    # One client is a sum of 1; half of it is above what fixed-point rounding leaves of none.
    follows = totals > 0.5
    follows[state.used :] = False
    follows[state.ended] = False
    rows, ways = np.nonzero(follows)
    growing = ways != END
    if state.depth == LONGEST and growing.any():
        raise DataError(
            f"label_set: a label is longer than {LONGEST} bytes of UTF-8; expected short names of classes. "
            "Shorten the labels"
        )
    finished = np.flatnonzero(state.ended[: state.used])
    used = len(finished) + len(rows)
    if used == 0:
        raise DataError("label_set: no client has a labelled training row; expected at least one")
    if used > len(state.text):
        raise DataError(
            f"label_set: there are more than max_classes = {len(state.text)} classes. Raise max_classes; if the label "
            "is a number to predict, leave label_set out and use a learner for regression"
        )
    text, length, ended = np.zeros_like(state.text), np.zeros_like(state.length), np.zeros_like(state.ended)
    source = np.concatenate([finished, rows])
    text[:used] = state.text[source]
    length[: len(finished)] = state.length[finished]
    ended[: len(finished)] = True
    new = slice(len(finished), used)
    length[new] = state.depth + growing
    ended[new] = ~growing
    grown = len(finished) + np.flatnonzero(growing)
    if grown.size:
        text[grown, state.depth] = ways[growing]
    return Tree(text=text, length=length, ended=ended, used=used, depth=state.depth + 1)


def _done(state: Tree) -> bool:
    return bool(state.ended[: state.used].all())


def _result(state: Tree) -> LabelSet:
    ends = zip(state.text[: state.used], state.length[: state.used].tolist(), strict=True)
    try:
        return LabelSet(in_order([bytes(row[:end]).decode() for row, end in ends]))
    except UnicodeDecodeError as error:
        raise DataError(
            "label_set: the sums give bytes that are no UTF-8 text; expected sums of ones and zeros. Use a pipeline "
            "that does not alter them"
        ) from error


def _report(answer: LabelSet, _schema: Schema) -> tuple[str, ...]:
    if len(answer.classes) > 1:
        return ()
    return ("all training rows of all clients are of one class: there is nothing to tell apart",)


def _refuse_missing(label: Vector) -> None:
    missing = [value for value in label.tolist() if str(value) in ("", "None", "nan")]
    if missing:
        raise DataError(
            f"label_set: {len(missing)} of {len(label)} training labels are missing; expected one in every row. "
            "Leave those rows out"
        )


def _distinct(label: Vector) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Return the different labels, and which of them each row has."""
    if label.dtype.kind != "O":
        values, inverse = np.unique(label, return_inverse=True)
        return values.tolist(), inverse
    # Objects of several types have no common order: number them as they appear.
    seen: dict[str, int] = {}
    inverse = np.array([seen.setdefault(label_text(value), len(seen)) for value in label.tolist()], dtype=np.int64)
    return list(seen), inverse
