from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedloom.errors import StoreError
from fedloom.store import RunFolder, Saved

DAMAGED = r"state\.sqlite is damaged \(.+\): restore the folder from a backup"


@pytest.fixture
def finished(run: RunFolder, write_round: Callable[..., None]) -> tuple[Path, bytes, Saved]:
    """Folder, state file and contents of a run with large and small rows, some of them written twice."""
    write_round(run, 1, clients=tuple(f"client-{i}" for i in range(20)))
    write_round(run, 2, clients=("a",), size=9_000)
    write_round(run, 3, clients=("client-3",))
    saved = run.read()
    run.close()
    return run.path, (run.path / "state.sqlite").read_bytes(), saved


def _read(folder: Path) -> Saved:
    with RunFolder.open(folder) as run:
        return run.read()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.one_of(st.integers(0, 99), st.integers(0)), mask=st.integers(1, 255))
@example(place=18, mask=1)  # format version for writing: makes SQLite refuse to write
@example(place=18, mask=3)
@example(place=19, mask=3)  # format version for reading: turns the write-ahead log off
@example(place=56, mask=3)  # encoding of text
@example(place=3551, mask=255)  # makes SQLite quote what is no text
def test_a_flipped_byte_is_an_error_or_harmless_never_other_data(
    finished: tuple[Path, bytes, Saved], place: int, mask: int
) -> None:
    folder, data, saved = finished
    flipped = bytearray(data)
    flipped[place % len(data)] ^= mask
    (folder / "state.sqlite").write_bytes(flipped)
    try:
        found = _read(folder)
    except StoreError as error:
        assert "damaged" in str(error)
    else:
        assert found == saved


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0))
@example(length=0)
@example(length=4096)
def test_a_truncated_file_is_refused(finished: tuple[Path, bytes, Saved], length: int) -> None:
    folder, data, _ = finished
    (folder / "state.sqlite").write_bytes(data[: length % len(data)])
    with pytest.raises(StoreError, match=DAMAGED):
        _read(folder)


def test_another_file_in_its_place_is_refused(finished: tuple[Path, bytes, Saved]) -> None:
    (finished[0] / "state.sqlite").write_text("a letter, not a database\n" * 1000)
    with pytest.raises(StoreError, match=DAMAGED):
        _read(finished[0])


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM client WHERE key = 'a'",
        "DELETE FROM single WHERE key = 'state'",
        "UPDATE client SET key = 'b' WHERE key = 'a'",
        "UPDATE client SET data = x'00' WHERE key = 'a'",
        "UPDATE record SET key = 9 WHERE key = 0",
        "UPDATE params SET data = 'text' WHERE key = 1",
        "DELETE FROM seal",
        "DROP TABLE params",
        "CREATE TABLE more (key)",
    ],
)
def test_an_edited_file_is_refused(finished: tuple[Path, bytes, Saved], edit: str) -> None:
    with closing(sqlite3.connect(finished[0] / "state.sqlite")) as database, database:
        database.execute(edit)
    with pytest.raises(StoreError, match=DAMAGED):
        _read(finished[0])


def test_a_newer_format_is_refused_and_untouched(finished: tuple[Path, bytes, Saved]) -> None:
    file = finished[0] / "state.sqlite"
    digest = hashlib.sha256(b"single\0format\0" + b"7").digest()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE single SET data = ?, sha256 = ? WHERE key = 'format'", (b"7", digest))
        database.execute("CREATE TABLE of_the_future (key)")
    before = file.read_bytes()
    with pytest.raises(StoreError, match="store is format 7, this build knows up to 2; untouched"):
        _read(finished[0])
    assert file.read_bytes() == before


def test_a_file_that_lost_its_right_to_be_written_says_so_at_the_first_write(
    finished: tuple[Path, bytes, Saved], write_round: Callable[..., None]
) -> None:
    folder, data, saved = finished
    (folder / "state.sqlite").write_bytes(data[:18] + b"\3" + data[19:])  # a format version that SQLite does not know
    with RunFolder.open(folder) as run:
        assert run.read() == saved
        with pytest.raises(StoreError, match=DAMAGED):
            write_round(run, 4)


def test_a_commit_is_in_the_file_itself_when_it_returns(run: RunFolder, write_round: Callable[..., None]) -> None:
    write_round(run, 1)
    assert (run.path / "state.sqlite-wal").stat().st_size == 0


def test_every_commit_is_on_the_disk_when_it_returns(run: RunFolder) -> None:
    database = run._state._database
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
