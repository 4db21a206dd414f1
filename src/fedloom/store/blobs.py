"""Blobs: contents in a folder, each under its own SHA-256; written whole or not at all, in pieces if need be.

A content has one name, so it is written once, whoever sends it, and can be fetched again from any offset. What arrives
in pieces grows in ``partial/`` and gets its name only when its digest is the one that was announced; a kill leaves the
pieces, and the sender goes on behind them. No part of a message ever becomes part of a path: a digest is checked to be
one, a sender is hashed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Set
from io import BufferedReader, FileIO
from pathlib import Path
from types import TracebackType
from typing import NewType, Self

from fedloom.errors import CorruptBlob, StoreError
from fedloom.store.crash_points import Point, passed
from fedloom.store.faults import explained, no_space
from fedloom.store.files import sync_folder

Digest = NewType("Digest", str)
"""SHA-256 of a content in hexadecimal."""

_PIECE = 1 << 20
"""Bytes read at once, so that memory does not grow with a content."""
_AHEAD = 8 << 20
"""Bytes after which the system is asked to begin with the disk, so that ``finish`` waits for little (a third less)."""
_SPARE = 1 << 20
"""Bytes that must stay free beside an announced content: the database of the store is on the same disk."""


def sha256_of(data: bytes | memoryview) -> Digest:
    """Return the digest of a content.

    Example:
        >>> sha256_of(b"")[:8]
        'e3b0c442'
    """
    return Digest(hashlib.sha256(data).hexdigest())


def digest_of(text: str) -> Digest:
    """Return a text as a digest.

    Raises:
        CorruptBlob: When it is none.

    Example:
        >>> digest_of("../../etc/passwd")
        Traceback (most recent call last):
        fedloom.errors.CorruptBlob: '../../etc/passwd' is no SHA-256: expected 64 hexadecimal digits, lower case
    """
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise CorruptBlob(f"{text[:80]!r} is no SHA-256: expected 64 hexadecimal digits, lower case")
    return Digest(text)


class Blobs:
    """The contents in one folder. Threads may share it; one process owns it, by the lock of the store that has it.

    Args:
        folder: Made where there is none.
        point: Called at each crash point.

    Raises:
        StoreError: When the folder cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     blobs = Blobs(Path(root))
        ...     digest = blobs.put(b"model")
        ...     with blobs.writer(digest, 5) as again:
        ...         again.committed, blobs.read(digest)
        (5, b'model')
    """

    def __init__(self, folder: Path, *, point: Point = passed) -> None:
        self._folder = folder
        self._partial = folder / "partial"
        self._point = point
        self._writers: dict[Path, BlobWriter] = {}
        self._lock = threading.RLock()
        with explained(folder):
            self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(folder)

    @property
    def folder(self) -> Path:
        """Where the contents are."""
        return self._folder

    def put(self, data: bytes | memoryview) -> Digest:
        """Store a content; on the disk when this returns.

        Raises:
            StoreError: When it cannot be written.
        """
        digest = sha256_of(data)
        if self._touch(digest):
            return digest
        path = self._partial / f"{secrets.token_hex(16)}.put"
        with explained(self._folder, needs=len(data)):
            try:
                with path.open("xb") as file:
                    file.write(data)
                    self._point("blob/written")
                    file.flush()
                    os.fsync(file.fileno())
                self._point("blob/synced")
                self._name(path, digest)
            finally:
                path.unlink(missing_ok=True)
        return digest

    def writer(self, digest: Digest, length: int, *, sender: str = "") -> BlobWriter:
        """Return where a content that comes in pieces goes on: behind what this sender has sent of it already.

        A second one for the same sender and content is the same, so that two connections of one sender can do each
        other no harm; different senders share nothing until the content is whole.

        Args:
            digest: That the whole content will have.
            length: In bytes; the caller has held it against its limits.
            sender: Who sends: apart from others, who might send something else under this digest.

        Raises:
            StoreError: When there is no room for it.
            CorruptBlob: When the digest or the length is none.
        """
        digest_of(digest)
        if length < 0:
            raise CorruptBlob(f"a content of {length} bytes was announced: expected 0 or more")
        name = hashlib.sha256(f"{digest}\0{length}\0{sender}".encode()).hexdigest()
        path = self._partial / f"{name}.part"
        with self._lock:
            found = self._writers.get(path)
            if found is None:
                found = self._writers[path] = BlobWriter(self, path, digest=digest, length=length)
            found._users += 1
        try:
            found._begin()
        except BaseException:
            found.close()
            raise
        return found

    def has(self, digest: Digest) -> bool:
        """Return whether a content is here, whole."""
        return self._path(digest).exists()

    def length(self, digest: Digest) -> int:
        """Return the length of a content in bytes.

        Raises:
            StoreError: When it is not here.
        """
        path = self._found(digest)
        with explained(path):
            return path.stat().st_size

    def open(self, digest: Digest) -> tuple[int, BufferedReader]:
        """Return length and an open file of a content; whoever reads it all compares the digest, and closes it.

        Raises:
            StoreError: When it is not here.
        """
        path = self._found(digest)
        with explained(path):
            file = path.open("rb")
            return os.fstat(file.fileno()).st_size, file

    def read(self, digest: Digest) -> bytes:
        """Return a content, compared with its digest.

        Raises:
            StoreError: When it is not here.
            CorruptBlob: When the disk has not kept it as it was.
        """
        _, file = self.open(digest)
        with file, explained(self._path(digest)):
            data = file.read()
        if sha256_of(data) != digest:
            raise self._corrupt(digest)
        return data

    def verify(self, digest: Digest) -> None:
        """Compare a content with its digest, piece by piece.

        Raises:
            StoreError: When it is not here.
            CorruptBlob: When the disk has not kept it as it was.
        """
        _, file = self.open(digest)
        with file, explained(self._path(digest)):
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise self._corrupt(digest)

    def digests(self) -> Iterator[Digest]:
        """Yield the digests of the contents that are here, whole; each is what its name says, not verified."""
        with explained(self._folder):
            for path in sorted(self._folder.glob("[0-9a-f][0-9a-f]/*")):
                yield Digest(path.parent.name + path.name)

    def collect(self, keep: Set[Digest], older_than_s: float, *, now: float) -> int:
        """Delete the contents and pieces that are old and that nobody needs.

        Args:
            keep: The contents that something refers to.
            older_than_s: Younger ones stay: what refers to them may not be written yet.
            now: The present, by the clock of the file system.

        Returns:
            How many were deleted.

        Raises:
            StoreError: When one cannot be deleted.
        """
        deleted = 0
        with explained(self._folder), self._lock:
            for digest in list(self.digests()):
                deleted += digest not in keep and _delete_old(self._path(digest), now - older_than_s)
            for path in self._partial.iterdir():
                if path not in self._writers:
                    deleted += _delete_old(path, now - older_than_s)
        return deleted

    def _path(self, digest: Digest) -> Path:
        digest_of(digest)
        return self._folder / digest[:2] / digest[2:]

    def _touch(self, digest: Digest) -> bool:
        """Return whether a content is here; if so it is young again, and stays until its row is written."""
        with self._lock, explained(self._folder):
            try:
                os.utime(self._path(digest))
            except FileNotFoundError:
                return False
            return True

    def _name(self, path: Path, digest: Digest) -> None:
        """Give a file on the disk the name of its content."""
        target = self._path(digest)
        with explained(target), self._lock:
            if not target.parent.exists():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self._folder)
            path.replace(target)
            self._point("blob/named")
            sync_folder(target.parent)
            self._point("blob/kept")

    def _found(self, digest: Digest) -> Path:
        path = self._path(digest)
        if not path.exists():
            raise StoreError(f"{self._folder} has no content {digest}: it was never sent, or was collected")
        return path

    def _corrupt(self, digest: Digest) -> CorruptBlob:
        return CorruptBlob(f"{self._path(digest)} is damaged (its digest differs): restore the folder from a backup")


class BlobWriter:
    """Where a content that comes in pieces is put together. Threads may share it. Made by ``Blobs.writer``.

    A context manager: at its end it lets go of the writer and leaves the pieces.
    """

    def __init__(self, blobs: Blobs, path: Path, *, digest: Digest, length: int) -> None:
        self.digest = digest
        self.length = length
        self._blobs = blobs
        self._path = path
        self._file: FileIO | None = None
        self._sha256 = hashlib.sha256()
        self._committed = 0
        self._begun = 0
        self._users = 0
        self._lock = threading.RLock()

    @property
    def committed(self) -> int:
        """Bytes that are here, from the start without a gap: the offset that the sender goes on from.

        They outlast a kill of this process. A power cut may take some back; then this is less than it was.
        """
        return self._committed

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Take a piece; return ``committed``, which is where the sender must go on.

        What is here already is passed over, so that a piece may come twice or overlap; behind a gap nothing is taken.

        Args:
            offset: Of the first byte of the piece in the content.
            data: The piece.

        Raises:
            CorruptBlob: When the piece reaches beyond the announced length.
            StoreError: When it cannot be written, or the writer was let go of. What was here before is still here.
        """
        with self._lock:
            if offset < 0 or offset + len(data) > self.length:
                raise CorruptBlob(
                    f"a piece of {len(data)} bytes at {offset} of a content of {self.length} bytes: expected one inside"
                )
            new = memoryview(data)[self._committed - offset :] if offset <= self._committed else memoryview(b"")
            if len(new):
                self._append(new)
            return self._committed

    def finish(self) -> Digest:
        """Give the content its name; on the disk when this returns. A second call does nothing.

        Raises:
            StoreError: When some of it is still missing, or it cannot be written.
            CorruptBlob: When it is not the content that was announced: all pieces are thrown away.
        """
        with self._lock:
            if self._blobs._touch(self.digest):
                self._drop()
                return self.digest
            if self._committed < self.length:
                raise StoreError(f"a content has {self._committed} of {self.length} bytes: send the rest first")
            point = self._blobs._point
            point("blob/written")
            with explained(self._path):
                os.fsync(self._opened().fileno())
            point("blob/synced")
            found = self._sha256.hexdigest()
            if found != self.digest:
                self._drop()
                raise CorruptBlob(f"a content has SHA-256 {found}; announced was {self.digest}. Send it again")
            self._blobs._name(self._path, self.digest)
            self._drop()
            return self.digest

    def close(self) -> None:
        """Let go of the writer; the last of its users closes the file. The pieces stay."""
        with self._blobs._lock:
            self._users -= 1
            if self._users <= 0:
                self._shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Open the file and read the pieces that are there, unless another user of the writer has done it."""
        with self._lock:
            if self._file is not None:
                return
            self._committed, self._sha256 = 0, hashlib.sha256()
            if self._blobs.has(self.digest):
                self._committed = self.length  # it came another way: there is nothing to send
                return
            with explained(self._path):
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
                file = FileIO(handle, "r+")  # without a buffer: what is counted as here has left this process
                while piece := file.read(_PIECE):
                    self._sha256.update(piece)
                    self._committed += len(piece)
            missing = self.length - self._committed
            if missing + _SPARE > shutil.disk_usage(self._path.parent).free:
                file.close()
                raise no_space(self._path.parent, missing)
            self._file, self._begun = file, self._committed

    def _append(self, new: memoryview) -> None:
        file = self._opened()
        with explained(self._path, needs=self.length - self._committed):
            try:
                file.seek(self._committed)
                left = new
                while len(left):
                    left = left[file.write(left) :]
            except BaseException:
                file.truncate(self._committed)
                raise
        self._sha256.update(new)
        self._committed += len(new)
        if self._committed - self._begun >= _AHEAD and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), self._begun, self._committed - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._committed

    def _opened(self) -> FileIO:
        if self._file is None:
            raise StoreError("the writer of a content is closed: ask for a new one, which goes on where this one was")
        return self._file

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._blobs._writers.get(self._path) is self:
            del self._blobs._writers[self._path]

    def _drop(self) -> None:
        """Throw the pieces away: they have their name now, or are worth nothing."""
        with self._blobs._lock, explained(self._path):
            self._path.unlink(missing_ok=True)
            self._shut()


def _delete_old(path: Path, before: float) -> bool:
    if path.stat().st_mtime > before:
        return False
    path.unlink()
    return True
