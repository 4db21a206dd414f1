"""Text of a label, and the one order of classes that every party arrives at.

Classes are named by text, because text is what a file holds and what a report shows. A number is named as a person
would write it: 1.0 and 1 are the class ``1``, so that a hospital whose export has a decimal point still agrees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

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


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
