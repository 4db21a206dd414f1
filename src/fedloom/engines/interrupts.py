"""Requests to end: Ctrl-C between commits, never inside one, and processes that are asked twice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a SIGINT back until the block is done; it then arrives as usual.

    Only the main thread receives signals, so anywhere else there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: arrived.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if arrived and callable(previous):
            previous(*arrived[-1])


@contextmanager
def asked_to_end(first: Callable[[int], None], *, second: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Take SIGTERM and Ctrl-C as requests to end in order; the second of them ends the process.

    Args:
        first: Called with the number of the first signal, from a thread of its own: a lock that it needs may be held
            by the very code that the signal came into.
        second: Called before the process ends.
    """

    def begin(number: int, frame: FrameType | None) -> None:
        del frame
        for each in before:
            signal.signal(each, leave)
        threading.Thread(target=first, args=(number,), daemon=True).start()

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        second()
        raise SystemExit(128 + number)

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    for each in before:
        signal.signal(each, begin)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
