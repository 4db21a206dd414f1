"""Text of a label, and the one order of classes that every party arrives at.

Classes are named by text, because text is what a file holds and what a report shows. A number is named as a person
would write it: 1.0 and 1 are the class ``1``, so that a hospital whose export has a decimal point still agrees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedloom.core.params import Vector
from fedloom.errors import DataError

_WHOLE = re.compile(r"-?\d+\.0*")


def label_text(value: object) -> str:
    """Return the name of the class that a label stands for.

    Example:
        >>> label_text(1.0), label_text("1.0"), label_text(2.5), label_text(" benign")
        ('1', '1', '2.5', 'benign')
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and plain.is_integer():
        return str(int(plain))
    text = str(plain).strip()
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def in_order(texts: Sequence[str]) -> tuple[str, ...]:
    """Return distinct names in class order: by number where all of them are numbers, else as text.

    Example:
        >>> in_order(["10", "9"]), in_order(["10", "9", "none"])
        (('9', '10'), ('10', '9', 'none'))
    """
    distinct = set(texts)
    if all(_is_number(text) for text in distinct):
        return tuple(sorted(distinct, key=lambda text: (float(text), text)))
    return tuple(sorted(distinct))


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


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _distinct(label: Vector) -> tuple[list[Any], npt.NDArray[np.int64]]:
    if label.dtype.kind != "O":
        values, inverse = np.unique(label, return_inverse=True)
        return values.tolist(), inverse
    # Objects of several types have no common order: number them as they appear.
    seen: dict[str, int] = {}
    inverse = np.array([seen.setdefault(label_text(value), len(seen)) for value in label], dtype=np.int64)
    return list(seen), inverse
