"""Files of a party of a federation: 0600 in folders of 0700, written whole or not at all, read again on a change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from fedloom.entropy import fresh_secret
from fedloom.errors import StoreError
from fedloom.store.faults import explained
from fedloom.store.files import sync_folder

T = TypeVar("T")


def make_folder(path: Path) -> None:
    """Make a folder that its owner alone may enter; one that is there keeps its mode.

    Raises:
        StoreError: When it cannot be made.
    """
    with explained(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_owned(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, whole or not at all, durably.

    Raises:
        StoreError: When it cannot be written; what was there is unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     write_owned(Path(root) / "key", b"secret")
        ...     oct((Path(root) / "key").stat().st_mode & 0o777)
        '0o600'
    """
    temporary = path.with_name(f".{path.name}.{fresh_secret().random_bytes(4).hex()}.tmp")
    with explained(path, needs=len(data)):
        try:
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def read_owned(path: Path, *, remedy: str) -> bytes:
    """Return what a file holds.

    Raises:
        StoreError: When it is not there, which ``remedy`` answers, or cannot be read.
    """
    if not path.exists():
        raise StoreError(f"{path} is missing: {remedy}")
    with explained(path):
        return path.read_bytes()


class Followed(Generic[T]):
    """What a file says now: it is read again whenever it has changed, and looked at on every call.

    Args:
        path: Of the file.
        read: Makes the value of its content; None: the file is not there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     said = Followed(Path(root) / "word", read=lambda data: "nothing" if data is None else data.decode())
        ...     before = said()
        ...     write_owned(Path(root) / "word", b"yes")
        ...     before, said()
        ('nothing', 'yes')
    """

    def __init__(self, path: Path, *, read: Callable[[bytes | None], T]) -> None:
        self._path = path
        self._read = read
        self._kept: tuple[tuple[int, int, int] | None, T] | None = None

    def __call__(self) -> T:
        """Return the value.

        Raises:
            StoreError: When the file cannot be read; what ``read`` raises else.
        """
        stamp = self._stamp()
        kept = self._kept
        if kept is None or kept[0] != stamp:
            data = None
            if stamp is not None:
                with explained(self._path):
                    data = self._path.read_bytes()
            kept = self._kept = (stamp, self._read(data))
        return kept[1]

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino
