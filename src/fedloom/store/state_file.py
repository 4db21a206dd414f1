"""``state.sqlite``: all that a resume needs, as rows of bytes in one transactional file.

Every row has a key, its bytes, and the SHA-256 of table, key and bytes. A *seal*, the XOR of those digests, is written
in the same transaction, so that a row that vanished is noticed as a changed one is. Together with SQLite's own check
of its structure, what is read is what was written, or an error.

The row ``format`` of the table ``single`` stays as it is in all formats to come. It is read first, without write
access, so that a file from a newer build is left as it was.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from fedloom.errors import StoreError
from fedloom.store.faults import damaged, explained, forbidden, store_error, writable

FORMAT = 2

_LOG = logging.getLogger(__name__)

Table = Literal["single", "client", "record", "params", "event"]
RowKey: TypeAlias = str | int

_KEYS: dict[Table, str] = {
    "single": "TEXT", "client": "TEXT", "record": "INTEGER", "params": "INTEGER", "event": "TEXT",
}  # fmt: skip
_COLUMNS = "key {kind} PRIMARY KEY NOT NULL, data BLOB NOT NULL, sha256 BLOB NOT NULL"
_SCHEMA: dict[str, str] = {
    "seal": "CREATE TABLE seal (key INTEGER PRIMARY KEY NOT NULL, sha256 BLOB NOT NULL)",
    **{table: f"CREATE TABLE {table} ({_COLUMNS.format(kind=kind)}) WITHOUT ROWID" for table, kind in _KEYS.items()},
}


class StateFile:
    """An open state file. One thread at a time.

    Make one by ``create`` or ``open``; ``close`` it.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._written = 0
        self._seal = 0

    @classmethod
    def create(cls, path: Path, *, rows: Iterable[tuple[str, bytes]]) -> StateFile:
        """Make a new file that holds ``rows`` in its table ``single``.

        Raises:
            StoreError: When the file cannot be made.
        """
        with explained(path):
            file = cls(path, _connect(path, mode="rwc"))
            try:
                mode = file._database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise StoreError(
                        f"{path}: this file system keeps no write-ahead log (mode {mode}). Use a local disk"
                    )
                _configure(file._database)
                file._database.execute("BEGIN")
                for statement in _SCHEMA.values():
                    file._database.execute(statement)
                file._database.execute("COMMIT")
                with file.transaction():
                    file.put("single", "format", str(FORMAT).encode())
                    for key, data in rows:
                        file.put("single", key, data)
            except BaseException:
                file.close()
                raise
        return file

    @classmethod
    def open(cls, path: Path) -> StateFile:
        """Open a file to go on with it: format first, then structure. ``rows`` and ``check_seal`` check the contents.

        Raises:
            StoreError: When the file is absent, damaged, of a newer format, or may not be written.
        """
        with explained(path):
            _check_format(path)
            if not writable(path):
                raise forbidden(path)
            file = cls(path, _connect(path, mode="rw"))
            try:
                _configure(file._database)
                _check_structure(path, file._database)
            except BaseException:
                file.close()
                raise
        return file

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all that the block puts durable together, or none of it.

        Raises:
            StoreError: When the file cannot be written. What was there before the block is unchanged.
        """
        self._written = 0
        with explained(self.path):
            self._database.execute("BEGIN IMMEDIATE")
        try:
            self._seal = self._read_seal()
            yield
            self._write_seal()
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise store_error(error, self.path, needs=self._written) from error
            raise
        self._fold()

    def put(self, table: Table, key: RowKey, data: bytes) -> None:
        """Insert or replace a row. Inside a transaction only."""
        self._written += len(data)
        digest = _row_digest(table, key, data)
        self._seal ^= self._digest(table, key) ^ int.from_bytes(digest, "big")
        self._database.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (key, data, digest))

    def put_new(self, table: Table, key: RowKey, data: bytes) -> None:
        """Insert a row unless its key is there already. Inside a transaction only."""
        if not self._digest(table, key):
            self.put(table, key, data)

    def remove(self, table: Table, key: RowKey) -> None:
        """Delete a row if it is there. Inside a transaction only."""
        self._seal ^= self._digest(table, key)
        self._database.execute(f"DELETE FROM {table} WHERE key = ?", (key,))

    def rows(self, table: Table) -> Iterator[tuple[RowKey, bytes]]:
        """Yield key and bytes of every row, in the order of keys, each compared with its digest.

        Raises:
            StoreError: When a row is not what was written.
        """
        with explained(self.path):
            for key, data, sha256 in self._database.execute(f"SELECT key, data, sha256 FROM {table} ORDER BY key"):
                _check_row(self.path, table, key, data, sha256)
                yield key, data

    def check_seal(self) -> None:
        """Compare the seal with the rows that are there.

        Raises:
            StoreError: When a row is missing, or one is left from before.
        """
        with explained(self.path):
            total = 0
            for table in _KEYS:
                for (sha256,) in self._database.execute(f"SELECT sha256 FROM {table}"):
                    total ^= int.from_bytes(sha256, "big")
            if self._read_seal() != total:
                raise damaged(self.path, "its rows are not those that were written last")

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it. A second call does nothing."""
        self._database.close()

    def _fold(self) -> None:
        """Move what was committed from the write-ahead log into the file, so that a copy of the file alone is whole.

        A flipped byte in a log that holds commits would take them back unnoticed; in the file it is an error.
        """
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # What was committed is safe in the log. If the disk is full, the next transaction says so.
            _LOG.warning("log_not_folded file=%s error=%s", self.path, error)

    def _digest(self, table: Table, key: RowKey) -> int:
        """Return a row's digest as a number, 0 when there is no such row."""
        found = self._database.execute(f"SELECT sha256 FROM {table} WHERE key = ?", (key,)).fetchone()
        return 0 if found is None else int.from_bytes(found[0], "big")

    def _read_seal(self) -> int:
        found = self._database.execute("SELECT sha256 FROM seal").fetchone()
        return 0 if found is None else int.from_bytes(found[0], "big")

    def _write_seal(self) -> None:
        self._database.execute("INSERT OR REPLACE INTO seal VALUES (0, ?)", (self._seal.to_bytes(32, "big"),))


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _configure(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")  # notice a damaged page when it is read


def _check_format(path: Path) -> None:
    with closing(_connect(path, mode="ro")) as database:
        found = database.execute("SELECT key, data, sha256 FROM single WHERE key = 'format'").fetchone()
        if found is None:
            raise damaged(path, "it names no format")
        key, data, sha256 = found
        _check_row(path, "single", key, data, sha256)
        if int(data) > FORMAT:
            raise StoreError(f"{path}: store is format {int(data)}, this build knows up to {FORMAT}; untouched")


def _check_structure(path: Path, database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise damaged(path, "its header is not the one that was written")
    schema = dict(database.execute("SELECT name, sql FROM sqlite_master").fetchall())
    if schema != _SCHEMA:
        raise damaged(path, "its tables are not those that were written")
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(path, " ".join(str(verdict).split()))


def _check_row(path: Path, table: Table, key: object, data: object, sha256: object) -> None:
    kind = str if _KEYS[table] == "TEXT" else int
    if not isinstance(key, kind) or not isinstance(data, bytes) or sha256 != _row_digest(table, key, data):
        raise damaged(path, f"a row of table {table} differs from its digest")


def _row_digest(table: Table, key: RowKey, data: bytes) -> bytes:
    digest = hashlib.sha256(f"{table}\0{key}\0".encode())
    digest.update(data)
    return digest.digest()
