"""Desk: where the rounds of a coordinator and the calls of its sites meet. It wakes them; the store is the truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fedloom.core.ids import ClientId


class Halted(Exception):
    """The coordinator opens nothing more: the run stays as it is, to be resumed."""


class Desk:
    """Wakes whoever waits for something to come in, or for work to be laid out."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._changed = threading.Condition()
        self._version = 0
        self._laid_out = 0
        self._halted = ""
        self._heard: dict[ClientId, float] = {}

    def hear(self, site: ClientId) -> None:
        """Note that a site has just been heard of."""
        self._heard[site] = self.clock()

    def heard(self, site: ClientId) -> float | None:
        """Return when a site was last heard of, by ``clock``; None: not since this process began."""
        return self._heard.get(site)

    @property
    def version(self) -> int:
        """How often something has changed: read it before looking at the store, and wait for another one."""
        with self._changed:
            return self._version

    @property
    def laid_out(self) -> int:
        """How often something has changed that may be work for a site: a site that waits for work is woken by that."""
        with self._changed:
            return self._laid_out

    @property
    def halted(self) -> str:
        """Why nothing more is opened; empty while it is."""
        with self._changed:
            return self._halted

    def wake(self) -> None:
        """Say that the store has changed."""
        with self._changed:
            self._version += 1
            self._laid_out += 1
            self._changed.notify_all()

    def came_in(self) -> None:
        """Say that a site has answered: that is no work for others, who go on waiting."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def halt(self, reason: str) -> None:
        """Ask the rounds to stop where they are."""
        with self._changed:
            self._halted = reason
            self._version += 1
            self._laid_out += 1
            self._changed.notify_all()

    def resume(self) -> None:
        """Let rounds go on."""
        with self._changed:
            self._halted = ""

    def wait(self, seen: int, *, timeout_s: float) -> bool:
        """Wait until something has changed since a version; return False where nothing has in that time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._version != seen, timeout=max(0.0, timeout_s))

    def wait_for_work(self, seen: int, *, timeout_s: float) -> bool:
        """Wait until something was laid out since ``laid_out`` was read; return False where nothing was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._laid_out != seen, timeout=max(0.0, timeout_s))

    def check(self) -> None:
        """Stop the rounds where somebody has asked for it.

        Raises:
            Halted: When somebody has.
        """
        if self.halted:
            raise Halted(self.halted)
