"""The file of a privacy ledger: rows that only grow, each with a digest over the one before it.

``sha256`` of row n is SHA-256 of the digest of row n-1 (32 zero bytes for the first) and the bytes of row n. Beside the
rows stand the bytes of what was released, each named with its digest in a row. Many processes may have the file open:
one transaction at a time writes, and begins by reading what the others have written. The write-ahead log is folded into
the file when it is long, and by the last process that closes it; damage to it loses rows, which the head notices.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedloom.errors import StoreError
from fedloom.store.faults import explained, forbidden, is_damage, store_error, writable
from fedloom.store.files import sync_folder
from fedloom.store.ledger_entries import Created, Entry, ReleaseKey, decode_entry, encode_entry
from fedloom.store.ledger_head import Head, head_path, read_head, write_head

FORMAT = 1
START = bytes(32)
PATIENCE_S = 30.0
"""How long one waits for another's transaction; each lasts some milliseconds."""

_SCHEMA = {
    "chain": "CREATE TABLE chain (row INTEGER PRIMARY KEY NOT NULL, entry BLOB NOT NULL, sha256 BLOB NOT NULL)",
    "kept": (
        "CREATE TABLE kept (run TEXT NOT NULL, data_set TEXT NOT NULL, phase INTEGER NOT NULL, round INTEGER NOT NULL, "
        "retry INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (run, data_set, phase, round, retry))"
    ),
}
_WHERE = "run = ? AND data_set = ? AND phase = ? AND round = ? AND retry = ?"


class Chain:
    """An open ledger file. One thread at a time. Make one by ``open`` or ``read``; ``close`` it."""

    def __init__(self, path: Path, database: sqlite3.Connection, *, name: str = "") -> None:
        self.path = path
        self._database = database
        self._name = name
        self._seen = Head(0, START.hex())
        self._tail = self._seen

    @property
    def head(self) -> Head:
        """The last row that was read."""
        return self._seen

    @classmethod
    def open(cls, path: Path) -> Chain:
        """Open a ledger to go on with it.

        Raises:
            StoreError: When it is absent, damaged, or may not be written.
        """
        if path.is_file() and not writable(path):
            raise forbidden(path)
        return cls._opened(path, "rw", only_read=False)

    @classmethod
    def read(cls, path: Path) -> Chain:
        """Open a ledger to look at it, whoever owns it.

        Raises:
            StoreError: When it is absent or damaged.
        """
        if not path.is_file() or writable(path):
            return cls._opened(path, "rw", only_read=True)  # the last one to close it leaves no log behind
        log = path.with_name(f"{path.name}-wal")
        # Who may not write cannot make the files of a log; without a log the file alone is whole.
        alone = not log.exists() or log.stat().st_size == 0
        return cls._opened(path, "ro&immutable=1" if alone else "ro", only_read=True)

    @classmethod
    def _opened(cls, path: Path, mode: str, *, only_read: bool) -> Chain:
        if not path.exists():
            # The head of a ledger that is gone must not be taken for a new beginning.
            left = f"; {head_path(path).name} beside it says there was one" if head_path(path).exists() else ""
            raise StoreError(f"{path} is no ledger: there is no such file{left}")
        with _told(path):
            database = _connect(path, mode)
            try:
                _configure(database)
                if only_read:
                    database.execute("PRAGMA query_only=ON")
                _check_structure(path, database, logged="immutable" not in mode)
                return cls(path, database)
            except BaseException:
                database.close()
                raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the rows that the block appends durable together, or none of them. Nobody else writes meanwhile.

        Raises:
            StoreError: When the file cannot be written: what was there before the block is unchanged. When the head
                beside it cannot: the rows are there, and count.
        """
        with _told(self.path):
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._tail = self._seen
            if isinstance(error, sqlite3.Error):
                raise _told_of(error, self.path) from error
            raise
        if self._tail != self._seen:
            self._remember(self._tail)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the block see the ledger of one moment.

        Raises:
            StoreError: When the file cannot be read.
        """
        with _told(self.path):
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("ROLLBACK")

    def news(self) -> Iterator[tuple[int, str, Entry]]:
        """Yield row, time and entry of the rows not read yet, each checked against the chain. Inside a block only.

        Raises:
            StoreError: When a row is not what was written; the first such row is named.
        """
        self._check_seen()
        rows = "SELECT row, entry, sha256 FROM chain WHERE row > ? ORDER BY row"
        for row, data, sha256 in self._database.execute(rows, (self._seen.rows,)):
            due = self._seen.rows + 1
            if row != due:
                raise broken(self.path, due, f"is missing; the next one there is row {row}")
            if not isinstance(data, bytes) or sha256 != linked(self._seen.sha256, data):
                raise broken(self.path, due, "differs from its digest: it, or what stood before it, was changed")
            try:
                found, at, entry = decode_entry(data)
            except (ValueError, TypeError) as error:
                raise broken(self.path, due, f"does not decode: {error}") from error
            if found != due:
                raise broken(self.path, due, f"calls itself row {found}")
            if isinstance(entry, Created):
                self._name = entry.ledger
                if entry.format > FORMAT:
                    raise StoreError(
                        f"{self.path}: ledger is format {entry.format}, this build knows up to {FORMAT}; untouched"
                    )
            self._seen = self._tail = Head(due, sha256.hex())
            yield due, at, entry
        if not self._seen.rows:
            raise broken(self.path, 1, "is missing, and so is every other")

    def lines(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the bytes and the digest of every row. Inside a block only."""
        yield from self._database.execute("SELECT entry, sha256 FROM chain ORDER BY row")

    def append(self, entry: Entry, *, seconds: float) -> None:
        """Add a row, with the time it is written at. Inside a ``writing`` block that has read all news."""
        at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
        row = self._tail.rows + 1
        data = encode_entry(row, entry, at=at)
        sha256 = linked(self._tail.sha256, data)
        self._database.execute("INSERT INTO chain VALUES (?, ?, ?)", (row, data, sha256))
        self._tail = Head(row, sha256.hex())

    def put_kept(self, run: str, data_set: str, key: ReleaseKey, data: bytes) -> None:
        """Store what was released. Inside a ``writing`` block only."""
        self._database.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?)", (run, data_set, *key, data))

    def kept(self, run: str, data_set: str, key: ReleaseKey) -> bytes | None:
        """Return what was released, None where it is not there."""
        found = self._database.execute(f"SELECT data FROM kept WHERE {_WHERE}", (run, data_set, *key)).fetchone()
        return None if found is None else bytes(found[0])

    def kept_keys(self) -> Iterator[tuple[str, str, ReleaseKey]]:
        """Yield run, data set and key of what is stored."""
        for run, data_set, *key in self._database.execute("SELECT run, data_set, phase, round, retry FROM kept"):
            yield run, data_set, (key[0], key[1], key[2])

    def drop_kept(self, run: str) -> None:
        """Remove the bytes of all that a run released. Inside a ``writing`` block only."""
        self._database.execute("DELETE FROM kept WHERE run = ?", (run,))

    def drop_kept_before(self, run: str, data_set: str, key: ReleaseKey) -> None:
        """Remove the bytes of what a run released from a data set before a key. Inside a ``writing`` block only."""
        where = "run = ? AND data_set = ? AND (phase, round, retry) < (?, ?, ?)"
        self._database.execute(f"DELETE FROM kept WHERE {where}", (run, data_set, *key))

    def check_head(self, remembered: Head, *, where: str) -> None:
        """Compare what is there with a head from elsewhere. Inside a block that has read all news.

        Raises:
            StoreError: When rows that the head counted are gone or are others.
        """
        if remembered.rows > self._seen.rows:
            raise broken(
                self.path,
                self._seen.rows + 1,
                f"is missing: {where} counted {remembered.rows} rows and there are {self._seen.rows}. The ledger was "
                "cut short or restored from a backup",
            )
        found = self._database.execute("SELECT sha256 FROM chain WHERE row = ?", (remembered.rows,)).fetchone()
        if found is None or bytes(found[0]).hex() != remembered.sha256:
            raise broken(self.path, remembered.rows, f"is not the one that {where} names: the ledger is another one")

    def check_beside(self, found: tuple[str, Head] | None) -> None:
        """Compare what is there with the head that was read from beside it before the block began.

        Raises:
            StoreError: When they do not fit, or there is none though there are rows.
        """
        beside = head_path(self.path)
        if found is None:
            if self._seen.rows > 1:
                raise StoreError(
                    f"{beside} is missing, so it would not be noticed if the last rows of {self.path.name} were gone. "
                    "Put it back if the ledger was moved without it; else compare the ledger with a head noted "
                    "elsewhere (fedloom ledger verify --head ROWS:SHA256) and take it as it is by --accept"
                )
            return
        name, head = found
        if name != self._name:
            raise StoreError(f"{beside} belongs to another ledger: put back the one that belongs to {self.path}")
        self.check_head(head, where=beside.name)

    def remember(self) -> None:
        """Write the head beside the ledger, as far as it has been read."""
        self._remember(self._seen)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it. A second call does nothing."""
        self._database.close()

    def _remember(self, head: Head) -> None:
        beside = read_head(self.path)
        # Another process may have gone on and written its head already.
        if beside is None or beside[0] != self._name or beside[1].rows < head.rows:
            write_head(self.path, head, name=self._name)

    def _check_seen(self) -> None:
        """Check that the rows read before still lead where they led."""
        if not self._seen.rows:
            return
        found = self._database.execute("SELECT sha256 FROM chain WHERE row = ?", (self._seen.rows,)).fetchone()
        if found is None or bytes(found[0]).hex() != self._seen.sha256:
            raise broken(self.path, self._seen.rows, "was changed or removed while this process had the ledger open")


def create_chain(path: Path, *, orders: Sequence[float], seconds: float) -> None:
    """Make a new ledger file of one row; where there is one already, leave it.

    It is filled under another name and then linked to its own, so that nobody ever sees half of it.

    Raises:
        StoreError: When it cannot be made, or the head of a ledger that is gone lies there.
    """
    if head_path(path).exists() and not path.exists():
        raise StoreError(
            f"{path} is missing, and {head_path(path).name} beside it says there was a ledger. A new one would forget "
            "what has been spent: put the ledger back. If it held nothing that counts, remove that file too"
        )
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _told(path):
        try:
            database = _connect(temporary, "rwc")
            try:
                mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise StoreError(
                        f"{path}: this file system keeps no write-ahead log (mode {mode}). Use a local disk"
                    )
                _configure(database)
                database.execute("BEGIN")
                for statement in _SCHEMA.values():
                    database.execute(statement)
                chain = Chain(temporary, database)
                chain.append(Created(ledger=secrets.token_hex(16), orders=tuple(orders)), seconds=seconds)
                database.execute("COMMIT")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                database.close()
            try:
                os.link(temporary, path)
            except FileExistsError:
                return  # made by another process at the same moment, or there before
            sync_folder(path.parent)
        finally:
            for left in path.parent.glob(f"{temporary.name}*"):
                left.unlink()


def linked(previous: str, data: bytes) -> bytes:
    """Return the digest of a row: of the digest before it, in hexadecimal, and its bytes.

    Example:
        >>> linked("00" * 32, b"first").hex()[:8]
        '3db4b4eb'
    """
    return hashlib.sha256(bytes.fromhex(previous) + data).digest()


def broken(path: Path, row: int, detail: str) -> StoreError:
    """Return the error for a row that is not what was written."""
    return StoreError(
        f"{path} does not verify: row {row} {detail}. Nothing is released on it. Find out who changed it; a backup "
        "that is older than the last release would count too little"
    )


def _check_structure(path: Path, database: sqlite3.Connection, *, logged: bool) -> None:
    if logged and database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise broken(path, 1, "cannot be reached: the file's header is not the one that was written")
    schema = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    if schema != _SCHEMA:
        raise broken(path, 1, "cannot be reached: the file's tables are not those of a ledger")
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise broken(path, 1, f"or one after it cannot be reached: {' '.join(str(verdict).split())}")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)


def _configure(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")  # notice a damaged page when it is read


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an error of SQLite or the operating system into a ``StoreError`` about the ledger."""
    with explained(path):
        try:
            yield
        except sqlite3.Error as error:
            raise _told_of(error, path) from error


def _told_of(error: sqlite3.Error, path: Path) -> StoreError:
    if is_damage(error) and not isinstance(error, sqlite3.ProgrammingError):
        return broken(path, 1, f"or one after it cannot be reached: {error}")
    return store_error(error, path)
