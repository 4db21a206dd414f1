"""StoreFolder: what the stores of a coordinator and of a site have in common: lock, key, tables, contents, epoch.

The folder has ``lock.sqlite``, the right to write; a key; the tables in one SQLite file; and ``blobs/``. They are made
in this order, so that a kill while they are made is told from a file that was lost.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedloom.entropy import Secret
from fedloom.errors import StoreError
from fedloom.store.blobs import Blobs
from fedloom.store.crash_points import Point
from fedloom.store.epochs import Epoch, before_first, parse_epoch
from fedloom.store.events_chain import EventsChain
from fedloom.store.faults import explained, forbidden, writable
from fedloom.store.key_file import make_key, read_key
from fedloom.store.lock import RunLock
from fedloom.store.table_file import TableFile
from fedloom.store.tables import Table

_BLOBS = "blobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Which start of which store this is, and whose."""

    key: str
    epoch: str
    pid: int
    host: str
    since: float


META = Table(name="meta", row=Meta, key=("key",))


class StoreFolder:
    """A folder that this process owns, open, and one start further than it was.

    Args:
        folder: Made where there is none.
        what: Whose store it is, for messages.
        name: Of the file of tables, and of the key, without their endings.
        tables: All there are, ``META`` and ``EVENTS`` among them.
        form: Number of the format that this build writes.
        now: The present in seconds.
        point: Called at each crash point.

    Raises:
        StoreError: When another process owns it, it is damaged, of a newer format, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        what: str,
        name: str,
        tables: Sequence[Table[Any]],
        form: int,
        now: Callable[[], float],
        point: Point,
    ) -> None:
        path, key = folder / f"{name}.sqlite", folder / f"{name}.key"
        with explained(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not writable(path if path.exists() else folder):
            raise forbidden(path)
        since = datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds")
        self._lock = RunLock(folder, since=since, what=what)
        try:
            if not path.exists():
                if (folder / _BLOBS).exists():
                    raise StoreError(
                        f"{path} is missing: restore the folder from a backup. Nothing was made in its place"
                    )
                make_key(key)
                TableFile.create(path, tables=tables, form=form)
            self.key: Secret = read_key(key)
            self.file = TableFile.open(path, tables=tables, form=form, point=point)
        except BaseException:
            self._lock.release()
            raise
        try:
            self.events = EventsChain(self.file, now=now)
            self.blobs = Blobs(folder / _BLOBS, point=point)
            self.epoch = self._start(float(now()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files and own the folder no longer. A second call does nothing."""
        self.file.close()
        self._lock.release()

    def _start(self, now: float) -> Epoch:
        """Count this start, and write down whose it is."""
        with self.file.writing("start") as tables:
            tables.fold()
            before = tables.get(META, "store")
            epoch = (before_first() if before is None else parse_epoch(before.epoch)).next()
            tables.put(META, Meta(key="store", epoch=str(epoch), pid=os.getpid(), host=platform.node(), since=now))
            self.events.append("start", {"epoch": str(epoch)})
        return epoch
