"""FederationStore: the durable truth of a coordinator, in one folder that one process owns.

``coordinator.sqlite`` has the rows, ``blobs/`` the contents, ``coordinator.key`` 32 secret bytes, ``lock.sqlite`` the
right to write. Each method of a part is one transaction; ``together`` makes one of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from fedloom.entropy import Secret
from fedloom.store.crash_points import Point, passed
from fedloom.store.federation_rounds import RoundBook
from fedloom.store.federation_rows import FORMAT, TABLES
from fedloom.store.federation_runs import Runs
from fedloom.store.federation_sites import Sites
from fedloom.store.leases import Leases
from fedloom.store.store_folder import StoreFolder


class FederationStore:
    """A coordinator's store, open. Threads may share it. A context manager.

    Args:
        folder: Made where there is none.
        now: The present in seconds, for people.
        clock: Seconds of a clock that is never set, for leases.
        point: Called at each crash point.

    Raises:
        StoreError: When another process owns it, it is damaged, of a newer format, or cannot be written.

    Example:
        >>> import tempfile
        >>> from fedloom.core.ids import ClientId
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with FederationStore(Path(root) / "coordinator") as store:
        ...         _ = store.sites.add(ClientId("north"), "North Hospital")
        ...     with FederationStore(Path(root) / "coordinator") as store:
        ...         [site.name for site in store.sites.all()], store.epoch.start
        (['north'], 2)
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        point: Point = passed,
    ) -> None:
        self.folder = folder
        self._store = StoreFolder(
            folder, what="the coordinator's store", name="coordinator", tables=TABLES, form=FORMAT, now=now, point=point
        )
        self.epoch = self._store.epoch
        self.coordinator_secret: Secret = self._store.key
        """Of the coordinator alone: what noise and cohorts are drawn from."""
        self.events = self._store.events
        self.blobs = self._store.blobs
        try:
            file = self._store.file
            self.sites = Sites(file, self.events)
            self.runs = Runs(file, self.events)
            self.rounds = RoundBook(file, self.events, self.blobs, leases=Leases(clock=clock), now=now)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def together(self, step: str = "together") -> Iterator[None]:
        """Make all that the block does with this store durable at once when it ends, or none of it."""
        with self._store.file.writing(step):
            yield

    def close(self) -> None:
        """Close the files and own the folder no longer. A second call does nothing."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
