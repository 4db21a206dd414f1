"""HeldSums: what the server side of interactive sums must keep before it announces anything, in a file of its own."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fedloom.runtime.sessions import SessionName
from fedloom.store.faults import explained
from fedloom.store.files import sync_folder
from fedloom.store.owned_file import OwnedFile, create_file, spoiled

_SCHEMA = {
    "held": (
        "CREATE TABLE held (phase INTEGER NOT NULL, program TEXT NOT NULL, round INTEGER NOT NULL, "
        "retry INTEGER NOT NULL, data BLOB NOT NULL, sha256 BLOB NOT NULL, "
        "PRIMARY KEY (phase, program, round, retry)) WITHOUT ROWID"
    ),
}
_ONE = "phase = ? AND program = ? AND round = ? AND retry = ?"


class HeldSums:
    """The server sides of one run's open sums, as they were when they last announced something.

    A context manager. One thread, and one process: a second one is refused. What is here is what the server has seen,
    and holds no secret of a client; a coordinator that carried a sum on from other lists than it has announced would
    only be refused by the clients.

    Args:
        path: The file; made, with its folder, where there is none.

    Raises:
        StoreError: When it is damaged, owned by another process, or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root, HeldSums(Path(root) / "held.sqlite") as held:
        ...     held.keep(SessionName(1, "train", 3, 0), b"the list of those who take part")
        ...     held.find(SessionName(1, "train", 3, 0))
        b'the list of those who take part'
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        self._file = OwnedFile.open(path, schema=_SCHEMA)

    def keep(self, name: SessionName, stored: bytes) -> None:
        """Store what a server side must keep: on the disk when this returns, and the messages may leave.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.transaction() as database:
            row = (*name, stored, _digest(name, stored))
            database.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?)", row)

    def find(self, name: SessionName) -> bytes | None:
        """Return what was kept of a sum; None: nothing was announced yet.

        Raises:
            StoreError: When it is not what was written.
        """
        with self._file.reading() as database:
            found = database.execute(f"SELECT data, sha256 FROM held WHERE {_ONE}", name).fetchone()
        if found is None:
            return None
        if not isinstance(found[0], bytes) or found[1] != _digest(name, found[0]):
            raise spoiled(self._file.path, f"what is held of round {name.round} differs from its digest")
        return found[0]

    def end(self, *, but: SessionName | None = None) -> None:
        """Delete what is kept of all sums, save one.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.transaction() as database:
            database.execute(f"DELETE FROM held WHERE NOT ({_ONE})", but or (-1, "", -1, -1))

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            create_file(temporary, schema=_SCHEMA, rows={})
            with suppress(FileExistsError):  # made by another process at the same moment: who owns it will be seen
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def _digest(name: SessionName, data: bytes) -> bytes:
    digest = hashlib.sha256("\0".join(map(str, name)).encode() + b"\0")
    digest.update(data)
    return digest.digest()
