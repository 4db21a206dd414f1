"""Who owns a run: a lock that the operating system releases when its holder dies, however it dies.

The lock is an exclusive transaction held open on ``lock.sqlite``, a file without content; SQLite asks each system for
its own kind of file lock. ``owner.json`` beside it says who, for people; it proves nothing.

Nothing else may open ``lock.sqlite`` in the owner's process: POSIX drops a process's locks on a file when *any* of its
handles on that file is closed. SQLite takes care of its own.
"""

from __future__ import annotations

import logging
import os
import platform
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fedloom.errors import StoreError
from fedloom.store.faults import explained
from fedloom.store.files import write_text

_LOG = logging.getLogger(__name__)
_LOCK = "lock.sqlite"
_OWNER = "owner.json"
_PATIENCE_S = 0.2
"""A listing that looks at the lock holds it, shared, for less than a millisecond: an owner-to-be waits that out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that holds a run, as it described itself."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        """Return the owner as a message names it."""
        return f"pid {self.pid} on host {self.host} since {self.since}"


class RunLock:
    """The right to write one run folder, from the constructor to ``release``.

    Args:
        folder: An existing run folder.
        since: The present, for people.
        what: What the folder is of, for people.

    Raises:
        StoreError: When another process, or another part of this one, owns the run.
    """

    def __init__(self, folder: Path, *, since: str, what: str = "run") -> None:
        self._folder = folder
        self._released = False
        self._held = _connect(folder / _LOCK, mode="rwc", timeout_s=_PATIENCE_S)
        try:
            self._held.execute("PRAGMA journal_mode=MEMORY")  # nothing is ever written: no journal file
            self._held.execute("BEGIN EXCLUSIVE")
            owner = Owner(pid=os.getpid(), host=platform.node(), since=since)
            write_text(folder / _OWNER, msgspec.json.encode(owner).decode() + "\n")
        except BaseException as error:
            self._held.close()
            if isinstance(error, sqlite3.Error) and _is_busy(error):
                raise StoreError(f"{what} {folder.name} is owned by {_owner(folder)}") from error
            with explained(folder / _LOCK):
                raise

    def release(self) -> None:
        """Give the run free. A second call does nothing."""
        if self._released:
            return
        self._released = True
        try:
            (self._folder / _OWNER).unlink(missing_ok=True)
        except OSError as error:
            # It proves nothing: whoever comes next takes the lock and overwrites it.
            _LOG.warning("owner_left_behind folder=%s error=%s", self._folder.name, error.strerror)
        finally:
            self._held.close()


def is_held(folder: Path) -> bool:
    """Return whether a living process owns a run. Looking changes nothing and keeps nobody out."""
    try:
        with closing(_connect(folder / _LOCK, mode="ro", timeout_s=0.0)) as probe:
            probe.execute("SELECT 1 FROM sqlite_master").fetchall()
    except StoreError:
        return False  # no lock file, or none that we may read
    except sqlite3.Error as error:
        return _is_busy(error)
    return False


def _connect(path: Path, *, mode: str, timeout_s: float) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with explained(path):
        return sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)


def _is_busy(error: sqlite3.Error) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def _owner(folder: Path) -> str:
    try:
        return str(msgspec.json.decode((folder / _OWNER).read_bytes(), type=Owner))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return "another process, which has not said who it is"
