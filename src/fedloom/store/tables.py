"""Tables of frozen dataclasses: each row with a digest, all rows under one seal; and what a transaction does to them.

A row is kept as the bytes of its dataclass, beside the columns it is found by, with the SHA-256 of table and bytes. The
*seal* is the XOR of all those digests and is written in the same transaction, so that a row that vanished is noticed as
a changed one is.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_type_hints

import msgspec

from fedloom.errors import StoreError
from fedloom.store.faults import damaged

FORMAT = "format"
SEAL = "seal"
SINGLE = "CREATE TABLE single (key TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL, sha256 BLOB NOT NULL)"
"""The table that is the same in all formats to come."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[R]):
    """A table: what its rows are, which fields name one, and by which others rows are found."""

    name: str
    row: type[R]
    key: tuple[str, ...]
    find: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    """Columns with an index of their own."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields that are columns of their own."""
        return (*self.key, *self.find)

    def statements(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the statement of the table and of its indices."""
        kinds = {name: "INTEGER" if hint is int else "TEXT" for name, hint in _hints(cast(Hashable, self.row)).items()}
        columns = [f"{name} {kinds[name]} NOT NULL" for name in self.key]
        columns += [f"{name} {kinds[name]}" for name in self.find]
        columns += ["data BLOB NOT NULL", "sha256 BLOB NOT NULL", f"PRIMARY KEY ({', '.join(self.key)})"]
        yield self.name, f"CREATE TABLE {self.name} ({', '.join(columns)}) WITHOUT ROWID"
        for name in self.index:
            yield f"{self.name}_{name}", f"CREATE INDEX {self.name}_{name} ON {self.name} ({name})"

    def values(self, row: R) -> tuple[Any, ...]:
        """Return what is in the columns of a row."""
        return tuple(getattr(row, name) for name in self.columns)

    def digest(self, data: bytes) -> bytes:
        """Return the digest of a row's bytes in this table."""
        return hashlib.sha256(self.name.encode() + b"\0" + data).digest()


class Reader:
    """The tables as one commit left them. Made by ``TableFile.reading``."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database

    def get(self, table: Table[R], *key: str | int) -> R | None:
        """Return the row of a key, or None.

        Raises:
            StoreError: When it is not what was written.
        """
        where = " AND ".join(f"{name} = ?" for name in table.key)
        return next(self._rows(table, f"WHERE {where}", key), None)

    def where(self, table: Table[R], **columns: str | int) -> tuple[R, ...]:
        """Return the rows with these values in these columns, in the order of keys.

        Raises:
            StoreError: When one is not what was written.
        """
        unknown = set(columns) - set(table.columns)
        assert not unknown, f"{table.name} is not found by {unknown}"
        where = " AND ".join(f"{name} = ?" for name in columns)
        order = f"ORDER BY {', '.join(table.key)}"
        return tuple(self._rows(table, f"WHERE {where} {order}" if columns else order, tuple(columns.values())))

    def after(self, table: Table[R], key: int, *, limit: int) -> tuple[R, ...]:
        """Return at most ``limit`` rows behind a key, of a table whose key is one number.

        Raises:
            StoreError: When one is not what was written.
        """
        (name,) = table.key
        return tuple(self._rows(table, f"WHERE {name} > ? ORDER BY {name} LIMIT ?", (key, limit)))

    def last(self, table: Table[R]) -> R | None:
        """Return the row with the greatest key, or None.

        Raises:
            StoreError: When it is not what was written.
        """
        order = ", ".join(f"{name} DESC" for name in table.key)
        return next(self._rows(table, f"ORDER BY {order} LIMIT 1", ()), None)

    def check(self, tables: Sequence[Table[Any]]) -> None:
        """Read every row of these tables, which are all there are, and compare the seal.

        Raises:
            StoreError: When a row is not what was written, is missing, or is left from before.
        """
        total = 0
        for table in tables:
            for _ in self._rows(table, "", ()):
                pass
            for (sha256,) in self._database.execute(f"SELECT sha256 FROM {table.name}"):
                total ^= int.from_bytes(sha256, "big")
        if total != self._read_seal():
            raise damaged(self._path, "its rows are not those that were written last")

    def _rows(self, table: Table[R], rest: str, values: Sequence[str | int]) -> Iterator[R]:
        names = ", ".join((*table.columns, "data", "sha256"))
        for *columns, data, sha256 in self._database.execute(f"SELECT {names} FROM {table.name} {rest}", values):
            if not isinstance(data, bytes) or sha256 != table.digest(data):
                raise damaged(self._path, f"a row of table {table.name} differs from its digest")
            row = _decoded(self._path, table, data)
            if table.values(row) != tuple(columns):
                raise damaged(self._path, f"a row of table {table.name} stands in another's place")
            yield row

    def _single(self, key: str) -> bytes | None:
        found = self._database.execute("SELECT data, sha256 FROM single WHERE key = ?", (key,)).fetchone()
        return None if found is None else checked_single(self._path, key, *found)

    def _read_seal(self) -> int:
        seal = self._single(SEAL)
        if seal is None:
            raise damaged(self._path, "it has no seal")
        return int.from_bytes(seal, "big")


class Writer(Reader):
    """A transaction on the tables. Made by ``TableFile.writing``."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        super().__init__(path, database)
        self.written = 0
        """Bytes put, for the message of a full disk."""
        self.wants_fold = False
        """Whether the log is to be folded into the file after the commit."""
        self._seal = 0

    def begin(self) -> None:
        """Start a transaction."""
        self.written = 0
        self.wants_fold = False
        self._database.execute("BEGIN IMMEDIATE")
        self._seal = self._read_seal()

    def commit(self) -> None:
        """Write the seal and make all durable."""
        self._write_single(SEAL, self._seal.to_bytes(32, "big"))
        self._database.execute("COMMIT")

    def fold(self) -> None:
        """Ask that what is written now be in the file itself, and not only in its log, when the transaction is over.

        A commit is on the disk without it. But a byte that flips in the log takes commits back unnoticed, and in the
        file it is an error; and what is deleted is in the log until it is folded. It costs two more waits for the disk.
        """
        self.wants_fold = True

    @contextmanager
    def part(self) -> Iterator[None]:
        """Take back what the block writes, and no more, when it raises."""
        before = self._seal
        self._execute("SAVEPOINT part")
        try:
            yield
            self._execute("RELEASE part")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK TO part")
                self._database.execute("RELEASE part")
            self._seal = before
            raise

    def put(self, table: Table[R], row: R) -> R:
        """Insert or replace a row; return it."""
        data = msgspec.msgpack.encode(row)
        digest = table.digest(data)
        values = table.values(row)
        self._seal ^= self._old(table, values) ^ int.from_bytes(digest, "big")
        self.written += len(data)
        marks = ", ".join("?" * (len(values) + 2))
        names = ", ".join((*table.columns, "data", "sha256"))
        self._execute(f"INSERT OR REPLACE INTO {table.name} ({names}) VALUES ({marks})", (*values, data, digest))
        return row

    def remove(self, table: Table[R], row: R) -> None:
        """Delete a row if it is there."""
        values = table.values(row)
        self._seal ^= self._old(table, values)
        where = " AND ".join(f"{name} = ?" for name in table.key)
        self._execute(f"DELETE FROM {table.name} WHERE {where}", values[: len(table.key)])

    def _old(self, table: Table[R], values: Sequence[Any]) -> int:
        where = " AND ".join(f"{name} = ?" for name in table.key)
        key = tuple(values[: len(table.key)])
        found = self._execute(f"SELECT sha256 FROM {table.name} WHERE {where}", key).fetchone()
        return 0 if found is None else int.from_bytes(found[0], "big")

    def _write_single(self, key: str, data: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO single VALUES (?, ?, ?)", (key, data, single_digest(key, data)))

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if not self._database.in_transaction:
            # SQLite takes a whole transaction back when the disk is full: what came after would stand alone.
            raise StoreError(f"{self._path}: the transaction was taken back; nothing of it was written")
        return self._database.execute(statement, values)


def _decoded(path: Path, table: Table[R], data: bytes) -> R:
    try:
        row: R = _decoder(cast(Hashable, table.row)).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(path, f"a row of table {table.name} does not decode") from error
    return row


@cache
def _decoder(row: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(row)


@cache
def _hints(row: Hashable) -> dict[str, Any]:
    return {name: getattr(hint, "__supertype__", hint) for name, hint in get_type_hints(row).items()}


def checked_single(path: Path, key: str, data: object, sha256: object) -> bytes:
    """Return the bytes of a row of the table ``single``.

    Raises:
        StoreError: When they are not what was written.
    """
    if not isinstance(data, bytes) or sha256 != single_digest(key, data):
        raise damaged(path, f"its {key} differs from its digest")
    return data


def single_digest(key: str, data: bytes) -> bytes:
    """Return the digest of a row of the table ``single``."""
    return hashlib.sha256(f"single\0{key}\0".encode() + data).digest()
