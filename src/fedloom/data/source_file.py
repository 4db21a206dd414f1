"""A file that rows are read from: there, a file, and readable; else an error that names it."""

from __future__ import annotations

from pathlib import Path

from fedloom.data.pooled import nearest
from fedloom.errors import DataError


def content_of(path: Path, *, kind: str) -> bytes:
    """Return the bytes of a file.

    Args:
        path: The file.
        kind: What was expected there: "a CSV file".

    Raises:
        DataError: When it is not there, is a folder, or cannot be read.

    Example:
        >>> content_of(Path("/"), kind="a CSV file")
        Traceback (most recent call last):
        fedloom.errors.DataError: /: is a folder; expected a CSV file. Give the path of one file in it
    """
    check_file(path, kind=kind)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def check_file(path: Path, *, kind: str) -> None:
    """Refuse what is no file, before a library is asked to open it.

    Raises:
        DataError: When it is not there, or is a folder.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; expected {kind}. Give the path of one file in it")
        path.stat()
    except FileNotFoundError as error:
        siblings = sorted(each.name for each in path.parent.glob("*")) if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file{nearest(path.name, siblings)}") from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that the system does not let us read."""
    return DataError(f"{path}: cannot be read: {error.strerror or error}")
