from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from fedloom.errors import StoreError
from fedloom.store.faults import explained, is_damage


def _sqlite(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("what SQLite said")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "no space in .*: needs about 5.0 MB, has .*; free some and resume"),
        (OSError(errno.EDQUOT, "quota"), "no space in"),
        (OSError(errno.EROFS, "read-only"), "cannot be written: .* belongs to uid"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error. Check the disk"),
        (_sqlite("SQLITE_FULL"), "no space in .*: needs about 5.0 MB"),
        (_sqlite("SQLITE_BUSY"), "in use by another process for too long"),
        (_sqlite("SQLITE_IOERR_WRITE"), "SQLITE_IOERR_WRITE.*Check the disk"),
        (_sqlite("SQLITE_TOOBIG"), "larger than SQLite holds"),
        (_sqlite("SQLITE_CORRUPT_VTAB"), "is damaged .*: restore the folder from a backup"),
        (_sqlite("SQLITE_NOTADB"), "is damaged"),
        (sqlite3.OperationalError("Could not decode to UTF-8"), "is damaged"),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), "is closed"),
    ],
)
def test_an_error_says_what_to_do(tmp_path: Path, error: Exception, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=message) as caught, explained(tmp_path / "file", needs=5_000_000):
        raise error
    assert caught.value.__cause__ is error
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_does_not_exist_yet_is_judged_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} belongs to uid {os.getuid()}"), explained(tmp_path / "a" / "b"):
        raise PermissionError(errno.EACCES, "denied")


def test_what_the_surroundings_did_is_no_damage() -> None:
    assert not is_damage(_sqlite("SQLITE_BUSY_SNAPSHOT"))
    assert not is_damage(_sqlite("SQLITE_READONLY_DIRECTORY"))
    assert is_damage(_sqlite("SQLITE_CORRUPT"))


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), explained(tmp_path):
        raise ValueError("mine")
