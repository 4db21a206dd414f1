"""What went wrong with a file, in words that say what to do.

SQLite and the operating system name a fault by a code. Here each code becomes one of five answers: free some space,
change the owner, wait for another process, restore from a backup, or look at the disk.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, EISDIR, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path

from fedloom.errors import StoreError

_FULL = {ENOSPC, EDQUOT, EFBIG}
_FORBIDDEN = {EACCES, EPERM, EROFS}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_LEAST_BYTES = 100_000
"""Of a new folder with an empty state file, the least that a run takes."""
_HEALTHY = (
    "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_LOCKED",
    "SQLITE_IOERR", "SQLITE_TOOBIG", "SQLITE_INTERRUPT", "SQLITE_NOMEM",
)  # fmt: skip
"""Families of codes that blame the surroundings. Any other code, and none, means that the bytes are not ours."""


@contextmanager
def explained(path: Path, *, needs: int = 0) -> Iterator[None]:
    """Turn an error of SQLite or the operating system inside the block into a ``StoreError`` about ``path``.

    Args:
        path: The file or folder that the block works on.
        needs: About how many bytes the block writes.

    Raises:
        StoreError: In place of ``sqlite3.Error``, ``OSError`` and ``UnicodeDecodeError``.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path, needs=needs) from error
    except UnicodeDecodeError as error:
        # sqlite3 fails so on its own message when that quotes a damaged name.
        raise damaged(path, "a name in it is no text") from error


def store_error(error: sqlite3.Error | OSError, path: Path, *, needs: int = 0) -> StoreError:
    """Return what to tell the user about an error that came from working on ``path``."""
    if isinstance(error, sqlite3.Error):
        return _from_sqlite(error, path, needs)
    if error.errno in _FULL:
        return no_space(path, needs)
    if error.errno in _FORBIDDEN:
        return forbidden(path)
    if isinstance(error, FileExistsError | NotADirectoryError) or error.errno == ENOTDIR:
        return StoreError(f"{path} cannot be a folder: a file is in the way. Name another folder, or move the file")
    if error.errno == EISDIR:
        return StoreError(f"{path} is a folder; a file is expected there. Move the folder away")
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{path} does not exist")
    return StoreError(f"{path}: {error.strerror or error}. Check the disk and how it is mounted")


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means that the bytes of a file are not what was written."""
    return not _code(error).startswith(_HEALTHY)


def damaged(path: Path, detail: object) -> StoreError:
    """Return the error for bytes that are not what was written."""
    return StoreError(f"{path} is damaged ({detail}): restore the folder from a backup")


def no_space(path: Path, needs: int) -> StoreError:
    """Return the error for a full disk or quota."""
    folder = _existing(path if path.is_dir() else path.parent)
    has = shutil.disk_usage(folder).free
    return StoreError(
        f"no space in {folder}: needs about {amount(max(needs, _LEAST_BYTES))}, has {amount(has)}; free some and resume"
    )


def forbidden(path: Path) -> StoreError:
    """Return the error for a file or folder that this process may not write."""
    culprit = _existing(path)
    if not hasattr(os, "getuid"):
        return StoreError(f"{path} cannot be written: make it writable, or use another folder")
    status = culprit.stat()
    return StoreError(
        f"{path} cannot be written: {culprit} belongs to uid {status.st_uid} (mode {status.st_mode & 0o777:o}) and "
        f"this process is uid {os.getuid()}. Change owner or mode, or use another folder"
    )


def amount(size: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> amount(512), amount(12_345), amount(3_000_000_000)
        ('512 bytes', '12.3 kB', '3.0 GB')
    """
    value = float(size)
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def writable(path: Path) -> bool:
    """Return whether the operating system would let this process write a file, and beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _from_sqlite(error: sqlite3.Error, path: Path, needs: int) -> StoreError:
    name = _code(error)
    if isinstance(error, sqlite3.ProgrammingError):
        return StoreError(f"{path} is closed; open the run again to read or write it")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")) and path.is_dir():
        return StoreError(f"{path} is a folder; a file is expected there. Move the folder away")
    if name.startswith("SQLITE_CANTOPEN") and not path.exists() and os.access(path.parent, os.W_OK):
        return StoreError(f"{path} is missing: restore the folder from a backup")
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _is_full(path, needs)):
        return no_space(path, needs)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(
            f"{path} has been in use by another process for too long ({error}): try again when it has ended"
        )
    if name.startswith("SQLITE_READONLY") and writable(path):
        # The system would write. A format version in the header that SQLite does not know makes a file read-only.
        return damaged(path, error)
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
        return forbidden(path)
    if name == "SQLITE_TOOBIG":
        return StoreError(f"{path}: one value is larger than SQLite holds (1 GB). Use float32, or a smaller model")
    if is_damage(error):
        return damaged(path, error)
    return StoreError(f"{path}: {error} ({name}). Check the disk and how it is mounted")


def _code(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def _is_full(path: Path, needs: int) -> bool:
    # A shared-memory file or a sync that finds no space reports a plain I/O error. 64 kB: two pages of WAL index.
    return shutil.disk_usage(_existing(path)).free < needs + 65_536


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    candidates = (path, *path.absolute().parents)
    return next(candidate for candidate in candidates if candidate.exists())
