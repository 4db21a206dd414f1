"""Crash points: named moments between two durable steps of a store, at which a test can end the process.

A store comes by a point before and after each step that makes something durable: ``accept/written`` before the commit
of ``accept``, ``accept/committed`` after it, ``start/folded`` when a step that asks for it is in the file itself, and
not only in its log; ``blob/written``, ``blob/synced``, ``blob/named`` and ``blob/kept`` of a blob. What is called there
is an argument, which does nothing unless a test says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TypeAlias

from fedloom.errors import Error

Point: TypeAlias = Callable[[str], None]
"""Called with the name of each point that a store comes by."""


def passed(name: str) -> None:
    """Go on: what a store does at its points outside tests."""
    del name


def killed_at(place: str) -> Point:
    """Return a point that kills this process, as nothing can be caught, at a named place.

    Args:
        place: ``NAME`` or ``NAME#N``: the first, or the N-th time that the process comes by it.

    Raises:
        Error: When N is no positive number.

    Example:
        >>> point = killed_at("accept/committed#2")
        >>> point("accept/committed"), point("accept/written")
        (None, None)
        >>> killed_at("accept/written#0")
        Traceback (most recent call last):
        fedloom.errors.Error: crash point 'accept/written#0': expected NAME or NAME#N with N from 1 on
    """
    name, _, number = place.partition("#")
    if not name or (number and not (number.isascii() and number.isdigit() and int(number) > 0)):
        raise Error(f"crash point {place!r}: expected NAME or NAME#N with N from 1 on")
    left = int(number or 1)

    def point(passing: str) -> None:
        nonlocal left
        if passing == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return point
