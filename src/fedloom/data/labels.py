"""Labels of many rows as classes and indices, and labels that cannot be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.core.labels import in_order, label_text
from fedloom.core.params import Vector
from fedloom.errors import DataError


def coded(label: Vector) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the names of all classes in order, and the index of each row's class.

    Args:
        label: Labels of shape ``(n,)``: numbers, truth values or text.

    Raises:
        DataError: When a label is missing, or the labels are real numbers that name no classes.

    Example:
        >>> names, index = coded(np.array([2.0, 0.0, 2.0]))
        >>> names, index.tolist()
        (('0', '2'), [1, 0, 1])
    """
    refuse_missing(label)
    if label.dtype.kind == "f" and bool((label != np.floor(label)).any()):
        raise DataError(
            "the labels are numbers with decimals; expected the names or numbers of classes. "
            'For a number to predict, give task="regression"'
        )
    values, inverse = _distinct(label)
    texts = [label_text(value) for value in values]
    names = in_order(texts)
    place = {name: index for index, name in enumerate(names)}
    return names, np.array([place[text] for text in texts], dtype=np.int64)[inverse]


def refuse_missing(label: Vector, *, what: str = "labels") -> None:
    """Raise where a label, or another name that every row must have, is not there.

    Raises:
        DataError: When one is None, NaN, infinite or empty text.
    """
    if label.dtype.kind == "f":
        missing = ~np.isfinite(label)
    elif label.dtype.kind in "US":
        missing = np.char.str_len(np.char.strip(label)) == 0
    elif label.dtype.kind == "O":
        missing = np.array([_is_missing(value) for value in label], dtype=np.bool_)
    else:
        return
    if missing.any():
        rows = np.flatnonzero(missing)
        raise DataError(
            f"{len(rows)} of {len(label)} {what} are missing (first rows, counted from 0: "
            f"{', '.join(map(str, rows[:5].tolist()))}); expected one in every row. Leave those rows out"
        )


def _is_missing(value: Any) -> bool:
    return value is None or str(value).strip() == "" or (isinstance(value, float) and not math.isfinite(value))


def _distinct(label: Vector) -> tuple[list[Any], npt.NDArray[np.int64]]:
    if label.dtype.kind != "O":
        values, inverse = np.unique(label, return_inverse=True)
        return values.tolist(), inverse
    # Objects of several types have no common order: number them as they appear.
    seen: dict[str, int] = {}
    inverse = np.array([seen.setdefault(label_text(value), len(seen)) for value in label], dtype=np.int64)
    return list(seen), inverse
