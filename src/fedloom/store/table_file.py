"""TableFile: the tables of a store in a SQLite file that threads share: one writes at a time, each reads one commit.

The row ``format`` of the table ``single`` is read first, without write access, so that a file from a newer build is
left as it was. Then come SQLite's own check of its structure, every row, and the seal over them.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedloom.errors import StoreError
from fedloom.store.crash_points import Point, passed
from fedloom.store.faults import damaged, explained, forbidden, store_error, writable
from fedloom.store.files import sync_folder
from fedloom.store.tables import FORMAT, SEAL, SINGLE, Reader, Table, Writer, checked_single, single_digest

_LOG = logging.getLogger(__name__)
_READERS = 4
"""Connections for reading: a read lasts some tens of microseconds, and more of them would wait for the interpreter."""
_PATIENCE_S = 0.2
_CLOSING_S = 10.0


class TableFile:
    """An open file of tables; threads may share it. Make one by ``create``, then ``open``; ``close`` it."""

    def __init__(self, path: Path, database: sqlite3.Connection, *, point: Point) -> None:
        self.path = path
        self._point = point
        self._database = database
        self._writer = Writer(path, database)
        self._turn = threading.RLock()
        self._depth = 0
        self._made: list[sqlite3.Connection] = []
        self._free: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._reading = 0
        self._making = threading.Condition()
        self._closed = False

    @classmethod
    def create(cls, path: Path, *, tables: Sequence[Table[Any]], form: int) -> None:
        """Make a file with empty tables where there is none, whole or not at all, readable by its owner alone.

        Raises:
            StoreError: When it cannot be made.
        """
        temporary = path.with_name(f".{path.name}.tmp")
        with explained(path, needs=100_000):
            for suffix in ("", "-wal", "-shm"):  # of one that was killed here; whoever calls owns the folder
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(_connect(temporary, mode="rw")) as database:
                mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise StoreError(
                        f"{path}: this file system keeps no write-ahead log (mode {mode}). Use a local disk"
                    )
                _configure(database)
                database.execute("BEGIN IMMEDIATE")
                for statement in _schema(tables).values():
                    database.execute(statement)
                for key, data in ((FORMAT, str(form).encode()), (SEAL, bytes(32))):
                    database.execute("INSERT INTO single VALUES (?, ?, ?)", (key, data, single_digest(key, data)))
                database.execute("COMMIT")
            temporary.replace(path)  # closed, and so without a log
            sync_folder(path.parent)

    @classmethod
    def open(cls, path: Path, *, tables: Sequence[Table[Any]], form: int, point: Point = passed) -> TableFile:
        """Open a file to go on with it: its format first, then its structure, then every row and the seal.

        Raises:
            StoreError: When it is absent, damaged, of a newer format, or may not be written.
        """
        if not path.exists():
            raise StoreError(f"{path} is missing: restore the folder from a backup. Nothing was made in its place")
        with explained(path):
            _check_format(path, form)
            if not writable(path):
                raise forbidden(path)
            file = cls(path, _connect(path, mode="rw"), point=point)
            try:
                _configure(file._database)
                file._database.execute("PRAGMA secure_delete=ON")
                _check_structure(path, file._database, tables)
                Reader(path, file._database).check(tables)
                file._fold()
            except BaseException:
                file.close()
                raise
        return file

    @classmethod
    def read(cls, path: Path, *, tables: Sequence[Table[Any]], form: int) -> TableFile:
        """Open a file to look at it, whoever owns it; its rows are checked as they are read.

        Raises:
            StoreError: When it is absent, damaged, or of a newer format.
        """
        if not path.exists():
            raise StoreError(f"{path} does not exist")
        with explained(path):
            _check_format(path, form)
            file = cls(path, _connect(path, mode="ro"), point=passed)
            try:
                file._database.execute("PRAGMA query_only=ON")
                _check_structure(path, file._database, tables)
            except BaseException:
                file.close()
                raise
        return file

    @contextmanager
    def writing(self, step: str) -> Iterator[Writer]:
        """Make all that the block writes durable together when it ends, or none of it.

        A block inside another of the same thread is part of it: when it raises, what it wrote is taken back alone.

        Args:
            step: What is done, for the crash points.

        Raises:
            StoreError: When the file cannot be written. What was there before the block is unchanged.
        """
        with self._turn:
            if self._depth:
                with self._explained(), self._writer.part():
                    yield self._writer
                return
            self._depth = 1
            try:
                with self._explained():
                    try:
                        self._writer.begin()
                        yield self._writer
                        self._point(f"{step}/written")
                        self._writer.commit()
                    except BaseException:
                        if self._database.in_transaction:
                            self._database.execute("ROLLBACK")
                        raise
            finally:
                self._depth = 0
            self._point(f"{step}/committed")
            if self._writer.wants_fold:
                self._fold()
                self._point(f"{step}/folded")

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Let the block see the tables of one moment; inside ``writing``, what that has written so far.

        Raises:
            StoreError: When the file cannot be read.
        """
        if self._depth and self._turn.acquire(blocking=False):
            try:
                if self._depth:  # this thread's own transaction
                    with self._explained():
                        yield self._writer
                    return
            finally:
                self._turn.release()
        with explained(self.path):
            database = self._take()
            try:
                database.execute("BEGIN")
                yield Reader(self.path, database)
            finally:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                self._give(database)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it. A second call does nothing.

        Threads that read or write end first: SQLite does not survive a connection that is closed under a query.
        """
        with self._turn:
            with self._making:
                self._closed = True
                self._making.wait_for(lambda: not self._reading, timeout=_CLOSING_S)
                for database in self._made:
                    database.close()
                self._made.clear()
            self._database.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(error, self.path, needs=self._writer.written) from error

    def _take(self) -> sqlite3.Connection:
        with self._making:
            if self._closed:
                raise StoreError(f"{self.path} was closed by this process: nothing more is read from it")
            self._reading += 1
            if self._free.empty() and len(self._made) < _READERS:
                database = _connect(self.path, mode="ro")
                database.execute("PRAGMA query_only=ON")
                database.execute("PRAGMA cell_size_check=ON")
                self._made.append(database)
                return database
        return self._free.get()

    def _give(self, database: sqlite3.Connection) -> None:
        self._free.put(database)
        with self._making:
            self._reading -= 1
            self._making.notify_all()

    def _fold(self) -> None:
        """Move what was committed from the write-ahead log into the file.

        A reader that is at it is not waited for: the next time the rest is folded.
        """
        kind = "PASSIVE" if self._reading else "TRUNCATE"
        try:
            self._database.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        except sqlite3.Error as error:
            # What was committed is safe in the log. If the disk is full, the next transaction says so.
            _LOG.warning("log_not_folded file=%s error=%s", self.path, error)


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)


def _configure(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
    database.execute("PRAGMA fullfsync=ON")  # macOS: and not in the drive's cache
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")  # notice a damaged page when it is read


def _schema(tables: Sequence[Table[Any]]) -> dict[str, str]:
    return {"single": SINGLE, **{name: text for table in tables for name, text in table.statements()}}


def _check_format(path: Path, form: int) -> None:
    log = path.with_name(f"{path.name}-wal")
    alone = not log.exists() or log.stat().st_size == 0  # then looking leaves no log behind
    with closing(_connect(path, mode="ro&immutable=1" if alone else "ro")) as database:
        found = database.execute("SELECT data, sha256 FROM single WHERE key = ?", (FORMAT,)).fetchone()
    if found is None:
        raise damaged(path, "it names no format")
    number = int(checked_single(path, FORMAT, *found))
    if number > form:
        raise StoreError(f"{path}: store is format {number}, this build knows up to {form}; untouched")


def _check_structure(path: Path, database: sqlite3.Connection, tables: Sequence[Table[Any]]) -> None:
    if database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise damaged(path, "its header is not the one that was written")
    found = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    if found != _schema(tables):
        raise damaged(path, "its tables are not those that were written")
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(path, " ".join(str(verdict).split()))
