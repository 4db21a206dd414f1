"""StoredSessions: what a party keeps of interactive sums, encrypted, on the disk before a message leaves.

The folder has two files, made together: ``sessions.sqlite`` and ``sessions.key``, 32 bytes that only the owner may
read. The file has a row for each sum that lasts, and for each client and program the latest sum that was begun: a sum
that is over, or whose row is gone, is never begun again.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fedloom.core.aggregator import InteractiveClient
from fedloom.core.ids import ClientId
from fedloom.entropy import Secret, fresh_secret, secret_of
from fedloom.errors import Error, StoreError
from fedloom.runtime.sessions import SessionName
from fedloom.secure.at_rest import open_at_rest, seal_at_rest
from fedloom.secure.encoding import frame
from fedloom.store.faults import explained
from fedloom.store.files import sync_folder
from fedloom.store.owned_file import OwnedFile, create_file, spoiled

FORMAT = 1
FILE = "sessions.sqlite"
KEY = "sessions.key"
_KEY_BYTES = 32
_NAME = (
    "client TEXT NOT NULL, phase INTEGER NOT NULL, program TEXT NOT NULL, round INTEGER NOT NULL, "
    "retry INTEGER NOT NULL"
)
_UNIQUE = "PRIMARY KEY (client, phase, program"
_SCHEMA = {
    "single": "CREATE TABLE single (format INTEGER NOT NULL, epoch BLOB NOT NULL, proof BLOB NOT NULL)",
    "session": f"CREATE TABLE session ({_NAME}, sealed BLOB NOT NULL, {_UNIQUE}, round, retry)) WITHOUT ROWID",
    "begun": f"CREATE TABLE begun ({_NAME}, proof BLOB NOT NULL, {_UNIQUE})) WITHOUT ROWID",
}
_ONE = "client = ? AND phase = ? AND program = ? AND round = ? AND retry = ?"


class StoredSessions:
    """The open sessions of one run; ``runtime.sessions.Sessions`` for a party that must outlive its process.

    A context manager. One thread, and one process: a second one is refused. ``find`` reads the disk each time, so that
    a side which an error left half changed is not seen again.

    Args:
        folder: Of the party and the run; made, with a key from the operating system's entropy, where there is none.
        key: The key's file; None: beside the other. Where it lies elsewhere, a copy of the folder opens nothing.

    Raises:
        StoreError: When one of the two files is missing, damaged, open to others, of another key or a newer format, or
            owned by another process.

    Security:
        Adversary: one who reads or changes the file of sessions, or copies it, and has not the key: it learns who took
        part in which rounds, and sizes. Whoever has both files has what the party had: the vectors under the masks of
        open sums. Two copies of a store, or one restored from a backup, can make a second message for a step, which
        nothing here can notice: ``epoch`` and the latest rounds are for peers to remember.
        ``end`` writes zeros over what it deletes and empties the log, so that the file system has it nowhere under a
        name. A flash disk, or a file system that copies on write, may keep old blocks until it uses them again; they
        are ciphertext, and who could read them there could read the key. Memory is not wiped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with StoredSessions(Path(root) / "north") as sessions:
        ...         sessions.over(ClientId("north"), SessionName(1, "train", 1, 0))
        False
    """

    def __init__(self, folder: Path, *, key: Path | None = None) -> None:
        self._key = folder / KEY if key is None else key
        if not (folder / FILE).exists() and not self._key.exists():
            _create(folder, self._key)
        self._owner = _read_key(self._key)
        if not (folder / FILE).exists():
            raise StoreError(
                f"{folder / FILE} is missing, though {self._key} says that there was one: what it knew of sums that "
                "were begun is lost. If it was moved, put it back, but no backup; or remove the key, to begin anew"
            )
        self._file = OwnedFile.open(folder / FILE, schema=_SCHEMA)
        self._epoch = b""
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @property
    def epoch(self) -> str:
        """Name of this store from its first day on: a store made in its place has another."""
        return self._epoch.hex()

    def find(
        self, client: ClientId, name: SessionName, revive: Callable[[bytes], InteractiveClient]
    ) -> InteractiveClient | None:
        """Return the client side of a sum as it was kept last; None: it is not here.

        Raises:
            StoreError: When what is here is not what was kept.
        """
        with self._file.reading() as database:
            found = database.execute(f"SELECT sealed FROM session WHERE {_ONE}", (client, *name)).fetchone()
        if found is None:
            return None
        try:
            return revive(self._open(found[0], "session", client, *name))
        except Error as error:
            raise StoreError(
                f"{self._file.path}: the sum of {client!r} in {_words(name)} cannot be taken up: {error}. This client "
                "is lost to that sum, and makes no second message for it; the next round is not touched"
            ) from error

    def over(self, client: ClientId, name: SessionName) -> bool:
        """Return whether a sum was begun here and is no more, or is older than one that was begun."""
        with self._file.reading() as database:
            here = database.execute(f"SELECT 1 FROM session WHERE {_ONE}", (client, *name)).fetchone()
            latest = database.execute(
                "SELECT round, retry FROM begun WHERE client = ? AND phase = ? AND program = ?",
                (client, name.phase, name.program),
            ).fetchone()
        return here is None and latest is not None and (name.round, name.retry) <= latest

    def keep(self, client: ClientId, name: SessionName, side: InteractiveClient) -> None:
        """Store the client side of a sum as it is now: on the disk when this returns.

        Raises:
            StoreError: When it cannot be written, or the sum is over: its message must not leave.
        """
        if self.over(client, name):
            raise StoreError(
                f"{self._file.path}: {client!r} has begun {_words(name)} before, and keeps nothing of it: it makes no "
                "second message for a sum"
            )
        row = (client, *name)
        sealed = self._seal(side.stored(), "session", *row)
        proof = self._seal(b"", "begun", *row)
        with self._file.transaction() as database:
            database.execute("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?, ?, ?)", (*row, sealed))
            database.execute(
                "INSERT INTO begun VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (client, phase, program) "
                "DO UPDATE SET round = excluded.round, retry = excluded.retry, proof = excluded.proof "
                "WHERE (excluded.round, excluded.retry) > (round, retry)",
                (*row, proof),
            )

    def end(self, client: ClientId, *, but: SessionName | None = None) -> None:
        """Delete what is kept of a client's sums, save one; that they were begun is remembered.

        Raises:
            StoreError: When it cannot be written.
        """
        kept = (client, *(but or (-1, "", -1, -1)))
        where = f"client = ? AND NOT ({_ONE})"
        with self._file.reading() as database:
            if database.execute(f"SELECT 1 FROM session WHERE {where}", (client, *kept)).fetchone() is None:
                return
        with self._file.transaction() as database:
            database.execute(f"DELETE FROM session WHERE {where}", (client, *kept))

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seal(self, content: bytes, table: str, *row: str | int) -> bytes:
        return seal_at_rest(self._owner, content, place=frame(table, self._epoch, *row))

    def _open(self, sealed: object, table: str, *row: str | int) -> bytes:
        if not isinstance(sealed, bytes):
            raise Error(f"what is stored does not open: it is {type(sealed).__name__}, and no bytes")
        return open_at_rest(self._owner, sealed, place=frame(table, self._epoch, *row))

    def _check(self) -> None:
        """Read the epoch, and refuse a file of another format or key, or that has forgotten what was begun."""
        path = self._file.path
        with self._file.reading() as database:
            rows = database.execute("SELECT format, epoch, proof FROM single").fetchall()
            begun = database.execute("SELECT proof, client, phase, program, round, retry FROM begun").fetchall()
        if len(rows) != 1 or not isinstance(rows[0][0], int) or not isinstance(rows[0][1], bytes):
            raise spoiled(path, "it names no format")
        found, proof = rows[0][0], rows[0][2]
        self._epoch = rows[0][1]
        if found > FORMAT:
            raise StoreError(f"{path}: store is format {found}, this build knows up to {FORMAT}; untouched")
        try:
            self._open(proof, "single")
        except Error as error:
            raise StoreError(
                f"{self._key} is not the key that {path} was made with: put the right one back. Nothing was changed"
            ) from error
        try:
            for sealed, *row in begun:
                self._open(sealed, "begun", *row)
        except Error as error:
            raise spoiled(path, "which sums were begun is not what was written") from error


def _create(folder: Path, key: Path) -> None:
    """Make both files under another name and give the folder its own at once, so that nobody ever sees half of it."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    owner = fresh_secret()
    epoch = fresh_secret().random_bytes(16)
    proof = seal_at_rest(owner, b"", place=frame("single", epoch))
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        try:
            create_file(temporary / FILE, schema=_SCHEMA, rows={"single": (FORMAT, epoch, proof)})
            _write_key(temporary / KEY, owner)
            sync_folder(temporary)
            if key.parent != folder:
                _move_key(temporary / KEY, key)
            try:
                temporary.rename(folder)  # over an empty folder at most
            except OSError as error:
                if not (folder / FILE).exists():
                    raise StoreError(f"{folder} has other files in it: name a folder for the sessions alone") from error
                # Another process has made it at the same moment: who owns it will be seen.
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_key(path: Path, owner: Secret) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(owner.stored())
        file.flush()
        os.fsync(file.fileno())


def _move_key(path: Path, key: Path) -> None:
    owner = secret_of(path.read_bytes())
    _write_key(key, owner)
    sync_folder(key.parent)
    path.unlink()


def _read_key(path: Path) -> Secret:
    try:
        with explained(path):
            mode = path.stat().st_mode & 0o777
            data = path.read_bytes()
    except StoreError as error:
        if not path.exists():
            raise StoreError(
                f"{path} is missing: without it the sums that are kept cannot be opened. Put it back; or move the "
                "folder away, and the open sums are lost"
            ) from error
        raise
    if os.name == "posix" and mode & 0o077:
        raise StoreError(f"{path} is open to others (mode {mode:o}): whoever has read it can open what is kept. "
                         "Make it 600, or move the folder away for a new key")  # fmt: skip
    try:
        return secret_of(data)
    except Error as error:
        raise StoreError(f"{path} is no key of {_KEY_BYTES} random bytes: put the right one back") from error


def _words(name: SessionName) -> str:
    return f"{name.program} round {name.round}, retry {name.retry} of phase {name.phase}"
