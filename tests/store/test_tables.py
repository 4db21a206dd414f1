"""Tables of dataclasses: whole transactions, parts that are taken back, many threads, and what damage says."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedloom.errors import StoreError
from fedloom.store.table_file import TableFile
from fedloom.store.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    book: str
    number: int
    text: bytes
    at: float = 0.0
    marked: str | None = None


PAGES = Table(name="page", row=Page, key=("book", "number"), find=("marked",), index=("marked",))
TABLES = (PAGES,)


def page(number: int, *, text: bytes = b"text", marked: str | None = None) -> Page:
    return Page(book="b", number=number, text=text, marked=marked, at=3)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "t.sqlite"
    TableFile.create(path, tables=TABLES, form=2)
    return path


@pytest.fixture
def file(path: Path) -> Iterator[TableFile]:
    file = TableFile.open(path, tables=TABLES, form=2)
    yield file
    file.close()


def pages(file: TableFile) -> list[int]:
    with file.reading() as tables:
        return [row.number for row in tables.where(PAGES)]


def test_rows_come_back_as_they_were_put_by_key_and_by_column(file: TableFile, path: Path) -> None:
    with file.writing("w") as tables:
        for number in (3, 1, 2):
            tables.put(PAGES, page(number, marked="red" if number > 1 else None))
        tables.put(PAGES, page(2, text=b"new", marked="blue"))
        tables.remove(PAGES, page(1))
        tables.remove(PAGES, page(9))
    file.close()
    again = TableFile.open(path, tables=TABLES, form=2)
    with again.reading() as tables:
        assert tables.get(PAGES, "b", 2) == page(2, text=b"new", marked="blue")
        assert tables.get(PAGES, "b", 1) is None
        assert [row.number for row in tables.where(PAGES, book="b")] == [2, 3]
        assert [row.number for row in tables.where(PAGES, marked="red")] == [3]
        assert tables.last(PAGES) == page(3, marked="red")
    again.close()


def test_a_transaction_is_whole_or_nothing_and_a_part_is_taken_back_alone(file: TableFile, path: Path) -> None:
    with pytest.raises(ZeroDivisionError), file.writing("w") as tables:
        tables.put(PAGES, page(1))
        raise ZeroDivisionError
    assert pages(file) == []
    with file.writing("w") as tables:
        tables.put(PAGES, page(1))
        with pytest.raises(ZeroDivisionError), file.writing("inner") as inner:
            inner.put(PAGES, page(2))
            assert pages(file) == [1, 2], "a transaction reads what it has written"
            raise ZeroDivisionError
        with file.writing("inner") as inner:
            inner.put(PAGES, page(3))
    assert pages(file) == [1, 3]
    file.close()
    TableFile.open(path, tables=TABLES, form=2).close()


def test_readers_see_the_last_commit_while_one_writes_and_are_not_kept_waiting(file: TableFile) -> None:
    seen: list[list[int]] = []
    with file.writing("w") as tables:
        tables.put(PAGES, page(1))
        for _ in range(3):
            reader = threading.Thread(target=lambda: seen.append(pages(file)))
            reader.start()
            reader.join(timeout=10)
    assert seen == [[], [], []]
    assert pages(file) == [1]


def test_writers_take_turns_and_nothing_is_lost(file: TableFile, path: Path) -> None:
    file._database.execute("PRAGMA synchronous=OFF")

    def count(book: str) -> None:
        for _ in range(20):
            with file.writing("w") as tables:
                last = max((row.number for row in tables.where(PAGES, book="b")), default=0)
                tables.put(PAGES, page(last + 1, text=book.encode()))
                with file.reading() as same:
                    assert same.get(PAGES, "b", last + 1) is not None

    threads = [threading.Thread(target=count, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = pages(file)
        assert found == list(range(1, len(found) + 1))
    assert pages(file) == list(range(1, 61))
    file.close()
    TableFile.open(path, tables=TABLES, form=2).close()


def test_a_reader_that_waits_holds_up_no_writer(file: TableFile) -> None:
    with file.reading() as tables:
        assert tables.where(PAGES) == ()
        done = []

        def write() -> None:
            with file.writing("w") as inner:
                inner.put(PAGES, page(1))
            done.append(1)

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(timeout=10)
        assert done == [1]
        assert tables.where(PAGES) == (), "one moment"
    assert pages(file) == [1]


def test_closing_waits_for_who_reads_and_nothing_is_read_after(file: TableFile) -> None:
    with file.writing("put") as tables:
        tables.put(PAGES, page(1))
    reading, go_on, seen = threading.Event(), threading.Event(), list[int]()

    def read() -> None:
        with file.reading() as tables:
            reading.set()
            go_on.wait(10.0)
            seen.extend(each.number for each in tables.where(PAGES))

    reader, closer = threading.Thread(target=read), threading.Thread(target=file.close)
    reader.start()
    assert reading.wait(10.0)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    go_on.set()
    closer.join(10.0)
    reader.join(10.0)
    assert seen == [1]
    with pytest.raises(StoreError, match="was closed by this process"), file.reading():
        pass


def test_a_newer_format_is_left_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"store is format 2, this build knows up to 1; untouched"):
        TableFile.open(path, tables=TABLES, form=1)
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["t.sqlite"]


def test_every_flipped_byte_is_an_error_or_changes_nothing(path: Path, tmp_path: Path) -> None:
    file = TableFile.open(path, tables=TABLES, form=2)
    with file.writing("w") as tables:
        for number in range(4):
            tables.put(PAGES, page(number, text=os.urandom(40)))
    with file.reading() as tables:
        expected = tables.where(PAGES)
    file.close()
    data = path.read_bytes()
    told = 0
    for at in range(0, len(data), 37):
        broken = tmp_path / "broken.sqlite"
        broken.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        for suffix in ("-wal", "-shm"):
            broken.with_name(broken.name + suffix).unlink(missing_ok=True)
        try:
            found = TableFile.open(broken, tables=TABLES, form=2)
        except StoreError as error:
            told += 1
            assert "broken.sqlite" in str(error)
            continue
        with found.reading() as tables:
            assert tables.where(PAGES) == expected
        found.close()
    assert told > 5


@pytest.mark.parametrize("length", [0, 10, 100, 4096, 9000])
def test_a_truncated_file_is_told(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"t\.sqlite is damaged .*restore the folder from a backup"):
        TableFile.open(path, tables=TABLES, form=2)


def test_a_missing_file_is_not_made_anew(path: Path) -> None:
    path.unlink()
    with pytest.raises(StoreError, match="is missing: restore"):
        TableFile.open(path, tables=TABLES, form=2)
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM page WHERE number = 1",
        "UPDATE page SET number = 7 WHERE number = 1",
        "UPDATE page SET data = (SELECT data FROM page WHERE number = 2) WHERE number = 1",
        "UPDATE page SET marked = 'red' WHERE number = 1",
        "INSERT INTO page SELECT book, 9, marked, data, sha256 FROM page WHERE number = 1",
        "DROP INDEX page_marked",
        "DELETE FROM single WHERE key = 'seal'",
    ],
)
def test_a_row_that_was_changed_lost_or_moved_is_told(path: Path, change: str) -> None:
    file = TableFile.open(path, tables=TABLES, form=2)
    with file.writing("w") as tables:
        for number in (1, 2):
            tables.put(PAGES, page(number, text=bytes([number])))
    file.close()
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()
    with pytest.raises(StoreError, match="is damaged"):
        TableFile.open(path, tables=TABLES, form=2)


def test_a_full_disk_leaves_what_was_there_and_says_how_much_is_needed(file: TableFile, path: Path) -> None:
    with file.writing("w") as tables:
        tables.put(PAGES, page(1))
    (count,) = file._database.execute("PRAGMA page_count").fetchone()
    file._database.execute(f"PRAGMA max_page_count={count}")
    with pytest.raises(StoreError, match=r"no space in .*: needs about 3\.0 MB, has"), file.writing("w") as tables:
        tables.put(PAGES, page(2, text=bytes(3_000_000)))
    assert pages(file) == [1]
    file._database.execute("PRAGMA max_page_count=1000000")
    with file.writing("w") as tables:
        tables.put(PAGES, page(2))
    file.close()
    TableFile.open(path, tables=TABLES, form=2).close()


def test_a_copy_of_the_file_alone_is_whole_when_it_was_folded(file: TableFile, path: Path, tmp_path: Path) -> None:
    with file.writing("w") as tables:
        tables.put(PAGES, page(1))
        tables.fold()
    shutil.copy(path, tmp_path / "copy.sqlite")
    copy = TableFile.open(tmp_path / "copy.sqlite", tables=TABLES, form=2)
    assert pages(copy) == [1]
    copy.close()


def test_another_process_may_look_and_not_write(file: TableFile, path: Path) -> None:
    with file.writing("w") as tables:
        tables.put(PAGES, page(1))
    look = TableFile.read(path, tables=TABLES, form=2)
    assert pages(look) == [1]
    with pytest.raises(StoreError), look.writing("w") as tables:
        tables.put(PAGES, page(2))
    look.close()
    assert pages(file) == [1]
