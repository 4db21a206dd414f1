"""HeldSums: what a server has announced is there after a crash, byte for byte, or is an error."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedloom.core.ids import RoundNumber
from fedloom.errors import StoreError
from fedloom.runtime.sessions import SessionName
from fedloom.store.held_sums import HeldSums

FIRST, SECOND = (SessionName(1, "train", RoundNumber(number), 0) for number in (1, 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "held.sqlite"


def test_what_was_held_last_is_found_again(path: Path) -> None:
    with HeldSums(path) as held:
        assert held.find(FIRST) is None
        held.keep(FIRST, b"U1")
        held.keep(FIRST, b"U1 and U2")
        held.keep(SECOND, b"other")
    with HeldSums(path) as held:
        assert (held.find(FIRST), held.find(SECOND)) == (b"U1 and U2", b"other")
        held.end(but=SECOND)
        assert (held.find(FIRST), held.find(SECOND)) == (None, b"other")
        held.end()
        assert held.find(SECOND) is None


@pytest.mark.parametrize("change", ["data = x'00'", "round = 3", "sha256 = x''"])
def test_a_row_that_was_changed_is_an_error(path: Path, change: str) -> None:
    with HeldSums(path) as held:
        held.keep(FIRST, b"U1")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"UPDATE held SET {change}")
        number = database.execute("SELECT round FROM held").fetchone()[0]
    with HeldSums(path) as held, pytest.raises(StoreError, match="differs from its digest"):
        held.find(SessionName(1, "train", number, 0))


def test_a_second_owner_is_refused(path: Path) -> None:
    with HeldSums(path), pytest.raises(StoreError, match="owned by another process"):
        HeldSums(path)


def test_a_file_that_is_none_of_ours_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE other (key TEXT)")
    with pytest.raises(StoreError, match="its tables are not those"):
        HeldSums(path)
