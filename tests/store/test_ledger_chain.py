from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedloom.core.events import GaussianDpEvent
from fedloom.errors import StoreError
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Budget, Reservation
from fedloom.store.ledger_head import Head, head_path, parse_head

NOISE = GaussianDpEvent(2.0)
ROWS = 9  # created, registered, reserved, (committed, kept) x 2, reserved, committed


def fill(path: Path) -> None:
    """Write a ledger of nine rows."""
    with Ledger.create(path, now=lambda: 1.7e9) as ledger:
        ledger.register(
            Budget(
                data_set="ward-a",
                unit="record",
                adjacency="add_remove",
                epsilon=8.0,
                delta=1e-5,
                composition="basic",
            )
        )
        for run, rounds in (("r1", 2), ("r2", 1)):
            account = ledger.reserve(run, "ward-a", Reservation(epsilon=1.0, delta=0.0, releases=2, events=(NOISE,)))
            for number in range(1, rounds + 1):
                account.commit((1, number, 0), NOISE)
                if run == "r1":
                    account.keep((1, number, 0), os.urandom(6000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "ledger.sqlite")
    return tmp_path / "ledger.sqlite"


@pytest.fixture(scope="module")
def written() -> Iterator[Path]:
    """A ledger to be spoiled many times; ``whole`` beside it has its bytes."""
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name) / "ledger.sqlite")
        shutil.copy(Path(name) / "ledger.sqlite", Path(name) / "whole")
        yield Path(name) / "ledger.sqlite"


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def test_an_untouched_ledger_verifies(path: Path) -> None:
    with Ledger.open(path) as ledger:
        head = ledger.verify()
        assert head.rows == ROWS
        assert parse_head(str(head)) == head
        assert ledger.verify(remembered=[head]) == head
    assert not path.with_name("ledger.sqlite-wal").exists()


@pytest.mark.parametrize(
    ("statements", "row", "detail"),
    [
        (["UPDATE chain SET entry = replace(entry, '1.0', '0.1') WHERE row = 3"], 3, "differs from its digest"),
        (["UPDATE chain SET sha256 = zeroblob(32) WHERE row = 5"], 5, "differs from its digest"),
        (["UPDATE chain SET entry = 'text' WHERE row = 5"], 5, "differs from its digest"),
        (["DELETE FROM chain WHERE row = 4"], 4, "is missing; the next one there is row 5"),
        (["DELETE FROM chain WHERE row = 1"], 1, "is missing; the next one there is row 2"),
        (["DELETE FROM chain"], 1, "is missing, and so is every other"),
        (["DELETE FROM chain WHERE row = 4", "UPDATE chain SET row = row - 1 WHERE row > 4"], 4, "differs"),
        (
            [
                "UPDATE chain SET row = 100 WHERE row = 4",
                "UPDATE chain SET row = 4 WHERE row = 6",
                "UPDATE chain SET row = 6 WHERE row = 100",
            ],
            4,
            "differs from its digest",
        ),
        (["DELETE FROM chain WHERE row = 9"], 9, "is missing: ledger.sqlite.head counted 9 rows and there are 8"),
        (["DELETE FROM chain WHERE row > 2"], 3, "is missing: ledger.sqlite.head counted 9 rows and there are 2"),
        (["DROP TABLE kept"], 1, "tables are not those of a ledger"),
        (["CREATE TRIGGER t AFTER INSERT ON chain BEGIN DELETE FROM chain; END"], 1, "tables are not those"),
    ],
)
@pytest.mark.parametrize("how", [Ledger.open, Ledger.read])
def test_an_edited_ledger_is_refused_with_its_first_wrong_row(
    how: Callable[[Path], Ledger], *, path: Path, statements: list[str], row: int, detail: str
) -> None:
    edit(path, *statements)
    with pytest.raises(StoreError, match=rf"does not verify: row {row} .*{detail}"):
        how(path)


def test_a_row_with_a_digest_of_its_own_breaks_the_next(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        (previous,) = database.execute("SELECT sha256 FROM chain WHERE row = 2").fetchone()
        (entry,) = database.execute("SELECT entry FROM chain WHERE row = 3").fetchone()
        forged = entry.replace(b'"epsilon":1.0', b'"epsilon":0.1')
        digest = hashlib.sha256(previous + forged).digest()
        database.execute("UPDATE chain SET entry = ?, sha256 = ? WHERE row = 3", (forged, digest))
    with pytest.raises(StoreError, match="row 4 differs from its digest: it, or what stood before it"):
        Ledger.open(path)


def forge(path: Path, first: int, change: Callable[[bytes], bytes]) -> None:
    """Change a row and make every digest anew from there: what only a head kept elsewhere can notice."""
    with closing(sqlite3.connect(path)) as database, database:
        (digest,) = database.execute("SELECT sha256 FROM chain WHERE row = ?", (first - 1,)).fetchone()
        for row, entry in database.execute("SELECT row, entry FROM chain WHERE row >= ?", (first,)).fetchall():
            new = change(entry)
            digest = hashlib.sha256(digest + new).digest()
            database.execute("UPDATE chain SET entry = ?, sha256 = ? WHERE row = ?", (new, digest, row))


def test_a_ledger_written_anew_is_noticed_by_a_head_elsewhere(path: Path) -> None:
    with Ledger.read(path) as ledger:
        noted = ledger.head()
    forge(path, 3, lambda entry: entry.replace(b'"epsilon":1.0', b'"epsilon":0.1'))
    with pytest.raises(StoreError, match=r"row 9 is not the one that ledger\.sqlite\.head names"):
        Ledger.open(path)
    head_path(path).unlink()
    with Ledger.accept(path) as forged:
        assert forged.verify().rows == ROWS + 1
    with pytest.raises(StoreError, match="row 9 is not the one that a head noted elsewhere names"):
        Ledger.open(path, remembered=[noted])


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda entry: entry.replace(b'"kept"', b'"lost"'), "row 5 does not decode"),
        (lambda entry: entry.replace(b"[5,", b"[6,"), "row 5 calls itself row 6"),
        (lambda entry: entry.replace(b'"run":"r1"', b'"run":"r7"'), "row 4 cannot stand there: run 'r7' holds nothing"),
        (lambda entry: entry.replace(b'"epsilon":1.0', b'"epsilon":-1.0'), "row 8 cannot stand there"),
    ],
)
def test_rows_that_make_no_sense_are_refused_though_their_digests_fit(
    path: Path, change: Callable[[bytes], bytes], detail: str
) -> None:
    forge(path, 8 if "row 8" in detail else 4, change)
    with pytest.raises(StoreError, match=detail):
        Ledger.open(path)


def test_an_older_copy_is_refused(path: Path) -> None:
    copy = path.with_name("backup")
    shutil.copy(path, copy)
    with Ledger.open(path) as ledger:
        ledger.finish("r1")
        noted = ledger.head()
    shutil.copy(copy, path)
    with pytest.raises(StoreError, match=r"row 10 is missing: ledger\.sqlite\.head counted 10 rows and there are 9"):
        Ledger.open(path)
    head_path(path).unlink()
    with pytest.raises(StoreError, match=r"ledger\.sqlite\.head is missing, so it would not be noticed"):
        Ledger.open(path)
    with Ledger.accept(path) as ledger:
        assert ledger.head().rows == ROWS + 1
    with pytest.raises(StoreError, match="row 10 is not the one that a head noted elsewhere names"):
        Ledger.open(path, remembered=[noted])
    with Ledger.open(path) as ledger:
        ledger.finish("r1")  # goes on


def test_an_accepted_loss_stands_in_the_ledger(path: Path) -> None:
    edit(path, "DELETE FROM chain WHERE row = 9")
    with Ledger.accept(path) as ledger:
        last = json.loads(list(ledger.export())[-1])
        assert last["entry"][2] == "accepted"
        assert last["entry"][3]["rows"] == 9
    with Ledger.open(path) as ledger:
        assert ledger.verify().rows == 9


def test_a_broken_chain_is_never_accepted(path: Path) -> None:
    edit(path, "DELETE FROM chain WHERE row = 5")
    with pytest.raises(StoreError, match="row 5 is missing"):
        Ledger.accept(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"ledger":"x","rows":"9","sha256":1}', "\xff"])
def test_a_head_file_that_is_none_is_refused_until_it_is_accepted(path: Path, text: str) -> None:
    head_path(path).write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"ledger\.sqlite\.head is damaged .* --accept"):
        Ledger.open(path)
    with Ledger.accept(path) as ledger:
        assert ledger.verify().rows == ROWS + 1


def test_the_head_of_another_ledger_is_refused(path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "other.sqlite")
    shutil.copy(head_path(tmp_path / "other.sqlite"), head_path(path))
    with pytest.raises(StoreError, match="belongs to another ledger"):
        Ledger.open(path)


def test_a_head_that_lags_behind_is_no_loss(path: Path) -> None:
    before = head_path(path).read_bytes()
    with Ledger.open(path) as ledger:
        ledger.finish("r1")
    head_path(path).write_bytes(before)  # killed between commit and head
    with Ledger.open(path) as ledger:
        assert json.loads(head_path(path).read_text())["rows"] == ROWS + 1
        assert ledger.verify().rows == ROWS + 1


@pytest.mark.parametrize("text", ["", "9", "9:abc", "0:" + "0" * 64, "9:" + "G" * 64, "-1:" + "0" * 64])
def test_a_text_that_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="expected ROWS:SHA256"):
        parse_head(text)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM kept WHERE round = 1", "UPDATE kept SET data = x'00'", "UPDATE kept SET round = round + 7"],
)
def test_a_stored_release_that_was_changed_is_refused(path: Path, statement: str) -> None:
    edit(path, statement)
    reservation = Reservation(epsilon=1.0, delta=0.0, releases=2, events=(NOISE,))
    with Ledger.open(path) as ledger:
        account = ledger.reserve("r1", "ward-a", reservation)
        with pytest.raises(StoreError, match=r"cannot be made again|differs from its digest"):
            account.kept((1, 1, 0))
        if not statement.startswith("DELETE"):
            with pytest.raises(StoreError, match="does not verify: what is stored of"):
                ledger.verify()


def test_rows_removed_under_an_open_ledger_are_noticed_at_the_next_step(path: Path) -> None:
    with Ledger.open(path) as ledger:
        edit(path, "DELETE FROM chain WHERE row = 9")
        with pytest.raises(StoreError, match="row 9 was changed or removed while this process had the ledger open"):
            ledger.finish("r1")
        with pytest.raises(StoreError, match="row 9"):
            ledger.balance("ward-a")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.one_of(st.integers(0, 99), st.integers(0)), mask=st.integers(1, 255))
@example(place=18, mask=1)
@example(place=19, mask=3)
@example(place=56, mask=3)
def test_a_flipped_byte_is_an_error_or_harmless(written: Path, place: int, mask: int) -> None:
    path, data = written, written.with_name("whole").read_bytes()
    flipped = bytearray(data)
    flipped[place % len(data)] ^= mask
    path.write_bytes(flipped)
    for left in path.parent.glob("ledger.sqlite-*"):
        left.unlink()
    try:
        with Ledger.read(path) as ledger:
            head, releases = ledger.verify(), ledger.balance("ward-a").releases
    except StoreError:
        return
    assert (head.rows, releases) == (ROWS, 3)
    assert head == Head(ROWS, json.loads(head_path(path).read_text())["sha256"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0))
@example(length=0)
@example(length=4096)
def test_a_truncated_file_is_refused(written: Path, length: int) -> None:
    path, data = written, written.with_name("whole").read_bytes()
    path.write_bytes(data[: length % len(data)])
    for left in path.parent.glob("ledger.sqlite-*"):
        left.unlink()
    # A cut in the last page takes of a stored release only: that is found when it is read.
    with pytest.raises(StoreError, match="does not verify"), Ledger.open(path) as ledger:
        ledger.verify()


def test_a_file_of_a_newer_format_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        (first,) = database.execute("SELECT entry FROM chain WHERE row = 1").fetchone()
        newer = first.replace(b'"format":1', b'"format":7')
        database.execute(
            "UPDATE chain SET entry = ?, sha256 = ? WHERE row = 1", (newer, hashlib.sha256(bytes(32) + newer).digest())
        )
    before = path.read_bytes()
    with pytest.raises(StoreError, match="ledger is format 7, this build knows up to 1; untouched"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_folder_or_a_letter_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "letter").write_text("no database\n" * 1000)
    with pytest.raises(StoreError, match="is a folder; a file is expected"):
        Ledger.open(tmp_path / "folder")
    with pytest.raises(StoreError, match="does not verify: row 1 or one after it cannot be reached"):
        Ledger.open(tmp_path / "letter")
    with pytest.raises(StoreError, match="is no ledger: there is no such file"):
        Ledger.read(tmp_path / "nothing")


def test_an_export_can_be_verified_with_a_hash_function_alone(path: Path) -> None:
    with Ledger.read(path) as ledger:
        lines = list(ledger.export())
        head = ledger.head()
    digest = bytes(32)
    for line in lines:
        begin, _, rest = line.partition(b'","entry":')
        digest = hashlib.sha256(digest + rest.removesuffix(b"}\n")).digest()
        assert begin == b'{"sha256":"' + digest.hex().encode()
    assert head == Head(len(lines), digest.hex())


def test_every_commit_is_on_the_disk_when_it_returns(path: Path) -> None:
    with Ledger.open(path) as ledger:
        database = ledger._chain._database
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert database.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        ledger.finish("r1")
        assert json.loads(head_path(path).read_text())["rows"] == ROWS + 1


def test_a_reader_holds_nobody_up(path: Path) -> None:
    with Ledger.read(path) as reader, Ledger.open(path) as writer:
        lines = reader.export()
        next(lines)
        writer.finish("r1")
        assert len(list(lines)) == ROWS - 1  # the ledger of one moment
        assert reader.head() == writer.head()


def test_a_write_that_fails_leaves_all_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(path) as ledger:
        before = ledger.balance("ward-a")

        def full(entry: object, *, seconds: float) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(ledger._chain, "append", full)
        with pytest.raises(StoreError):
            ledger.finish("r1")
        monkeypatch.undo()
        assert ledger.balance("ward-a") == before
        assert ledger.verify().rows == ROWS
        ledger.finish("r1")


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from fedloom.errors import StoreError
from fedloom.store.ledger import Ledger
if os.getuid() == 0:
    os.setuid(65534)
path = Path(sys.argv[1])
with Ledger.read(path) as ledger:
    print(ledger.verify().rows)
for work in (lambda: Ledger.open(path), lambda: Ledger.create(path.with_name("other.sqlite"))):
    try:
        work()
    except StoreError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no user ids")
def test_a_ledger_that_may_not_be_written_can_be_read_and_not_opened(
    process: Callable[..., subprocess.Popen[str]],
) -> None:
    # pytest's own folders may not be entered by another user
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "runs"
        root.mkdir()
        path = root / "ledger.sqlite"
        fill(path)
        Path(name).chmod(0o755)
        for each in (path, root):
            each.chmod(0o555)
        out, err = process(UNPRIVILEGED, path).communicate(timeout=30)
        for each in (root, path):
            each.chmod(0o755)
    private = [folder for folder in Path(sys.base_prefix).parents if not folder.stat().st_mode & 0o001]
    if not out and private:
        pytest.skip(f"another user cannot import from this interpreter: {private[0]} is closed to it")
    assert out.splitlines()[0] == str(ROWS), err
    assert len(out.splitlines()) == 3, err
    for line in out.splitlines()[1:]:
        assert f"belongs to uid {os.getuid()}" in line
        assert "cannot be written" in line


def test_a_log_that_lost_rows_is_noticed(path: Path) -> None:
    log = path.with_name("ledger.sqlite-wal")
    with Ledger.open(path) as ledger:
        ledger.finish("r1")
        ledger.finish("r2")
        left = {each.name: each.read_bytes() for each in (path, log, head_path(path))}
    for name, data in left.items():  # as a kill leaves it, but for a byte of the log
        spoiled = bytearray(data)
        if name == log.name:
            spoiled[len(spoiled) // 2] ^= 1
        path.with_name(name).write_bytes(spoiled)
    with pytest.raises(StoreError, match=r"is missing: ledger\.sqlite\.head counted 11 rows"):
        Ledger.open(path)
