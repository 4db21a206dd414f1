"""A SQLite file that one process owns: each change is on the disk when it is made, what is deleted is overwritten.

The owner's lock is SQLite's own on the file, and ends with the process, however that ends. A second process that opened
the file could answer for the same client, so it is refused, also for reading.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedloom.errors import StoreError
from fedloom.store.faults import explained, forbidden, is_damage, store_error, writable

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 0.2


class OwnedFile:
    """An open file of one owner. One thread at a time. Make it by ``create_file``, then ``open``; ``close`` it."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database

    @classmethod
    def open(cls, path: Path, *, schema: Mapping[str, str]) -> OwnedFile:
        """Open a file to go on with it, and own it until it is closed.

        Raises:
            StoreError: When it is absent, damaged, owned by another process, or may not be written.
        """
        if not path.exists():
            raise StoreError(f"{path} is missing, and with it what was kept there. Nothing was made in its place")
        if not writable(path):
            raise forbidden(path)
        with _told(path):
            database = _connect(path, mode="rw")
            try:
                _own(path, database)
                _check_structure(path, database, schema)
            except BaseException:
                database.close()
                raise
        return cls(path, database)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Make all that the block writes durable together when it ends, or none of it.

        Raises:
            StoreError: When the file cannot be written. What was there before the block is unchanged.
        """
        with _told(self.path):
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _told_of(error, self.path) from error
            raise
        self._fold()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Let the block read.

        Raises:
            StoreError: When the file cannot be read.
        """
        with _told(self.path):
            yield self._database

    def close(self) -> None:
        """Fold the write-ahead log into the file, close it, and own it no longer. A second call does nothing."""
        self._database.close()

    def _fold(self) -> None:
        """Move what was committed from the write-ahead log into the file, over what it replaces.

        A flipped byte in a log that holds commits takes them back unnoticed, and a step that is taken back could be
        made a second time; in the file it is an error. What was deleted is gone from the log too.
        """
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # What was committed is safe in the log. If the disk is full, the next transaction says so.
            _LOG.warning("log_not_folded file=%s error=%s", self.path, error)


def create_file(path: Path, *, schema: Mapping[str, str], rows: Mapping[str, tuple[object, ...]]) -> None:
    """Make a file where there is none, readable by its owner alone; whoever calls sees to it that nobody sees half.

    Args:
        path: Where there is nothing.
        schema: The statement that makes each table, by name.
        rows: One row for some of the tables.

    Raises:
        StoreError: When it cannot be made.
    """
    with explained(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        database = _connect(path, mode="rw")
        try:
            _own(path, database, make=True)
            database.execute("BEGIN IMMEDIATE")
            for statement in schema.values():
                database.execute(statement)
            for table, row in rows.items():
                database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            database.execute("COMMIT")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            database.close()


def spoiled(path: Path, detail: object) -> StoreError:
    """Return the error for bytes that are not what was written: there is no advice to restore a backup.

    An older state would go on from a step that was made since, and could make it in another way.
    """
    return StoreError(
        f"{path} is damaged ({detail}): the sums that were open are lost. Move it away with its folder, and begin "
        "without; never put a backup in its place"
    )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an error of SQLite or the operating system into a ``StoreError`` about this kind of file."""
    with explained(path):
        try:
            yield
        except sqlite3.Error as error:
            raise _told_of(error, path) from error
        except UnicodeDecodeError as error:  # sqlite3 fails so on its own message when that quotes a damaged name
            raise spoiled(path, "a name in it is no text") from error


def _told_of(error: sqlite3.Error, path: Path) -> StoreError:
    if is_damage(error) and not isinstance(error, sqlite3.ProgrammingError):
        return spoiled(path, error)
    return store_error(error, path)


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)


def _own(path: Path, database: sqlite3.Connection, *, make: bool = False) -> None:
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")  # from the first access on, until the file is closed
        question = "PRAGMA journal_mode=WAL" if make else "PRAGMA journal_mode"
        mode = database.execute(question).fetchone()[0]
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY"):
            raise StoreError(
                f"{path} is owned by another process: two that keep one party's secure sums would answer twice. Stop "
                "the other one"
            ) from error
        raise
    if mode != "wal":
        if make:
            raise StoreError(f"{path}: this file system keeps no write-ahead log (mode {mode}). Use a local disk")
        raise spoiled(path, "its header is not the one that was written")
    database.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
    database.execute("PRAGMA fullfsync=ON")  # macOS: and not in the drive's cache
    database.execute("PRAGMA secure_delete=ON")  # zeros over what is deleted
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")  # notice a damaged page when it is read


def _check_structure(path: Path, database: sqlite3.Connection, schema: Mapping[str, str]) -> None:
    found = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    if found != schema:
        raise spoiled(path, "its tables are not those that were written")
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise spoiled(path, " ".join(str(verdict).split()))
