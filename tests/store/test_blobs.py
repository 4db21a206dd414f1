"""Contents by their digest: in pieces, again and again, over kills; and what a damaged disk or a full one says."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import CorruptBlob, StoreError
from fedloom.store.blobs import Blobs, Digest, sha256_of

DATA = bytes(range(256)) * 5


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return Blobs(tmp_path / "blobs")


def names(blobs: Blobs) -> list[str]:
    return [path.name for path in (blobs.folder / "partial").iterdir()]


def test_a_content_is_read_as_it_was_put_and_put_once(blobs: Blobs) -> None:
    digest = blobs.put(DATA)
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert blobs.put(DATA) == digest
    assert list(blobs.digests()) == [digest]
    length, file = blobs.open(digest)
    with file:
        file.seek(1000)
        assert (length, file.read()) == (len(DATA), DATA[1000:])
    blobs.verify(digest)
    assert names(blobs) == []


def test_pieces_grow_over_restarts_and_overlaps_and_a_gap_is_told_where_to_go_on(blobs: Blobs) -> None:
    digest = sha256_of(DATA)
    with blobs.writer(digest, len(DATA)) as writer:
        assert writer.write(0, DATA[:500]) == 500
        assert writer.write(700, DATA[700:900]) == 500, "a gap"
        assert writer.write(100, DATA[100:400]) == 500, "a duplicate"
        assert writer.write(400, DATA[400:600]) == 600, "an overlap"
    again = Blobs(blobs.folder)  # as after a kill: nothing was flushed or closed
    with again.writer(digest, len(DATA)) as writer:
        assert writer.committed == 600
        with pytest.raises(StoreError, match=r"600 of 1280 bytes"):
            writer.finish()
        writer.write(600, DATA[600:])
        assert not again.has(digest)
        assert writer.finish() == digest
        assert writer.finish() == digest
    assert again.read(digest) == DATA
    assert names(again) == []


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=40), pieces=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=30))
def test_c10_pieces_in_any_order_never_make_another_content(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, pieces: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    blobs = Blobs(folder)
    digest, expected = sha256_of(data), 0
    with blobs.writer(digest, len(data)) as writer:
        for offset, size in pieces:
            piece = data[offset : offset + size]
            if offset > len(data):
                with pytest.raises(CorruptBlob, match="expected one inside"):
                    writer.write(offset, piece)
                continue
            if offset <= expected:
                expected = max(expected, offset + len(piece))
            assert writer.write(offset, piece) == writer.committed == expected
        writer.write(expected, data[expected:])
        assert writer.finish() == digest
    assert blobs.read(digest) == data
    shutil.rmtree(folder)


def test_another_content_than_announced_is_thrown_away_and_can_be_sent_again(blobs: Blobs) -> None:
    digest = sha256_of(DATA)
    with blobs.writer(digest, len(DATA)) as writer:
        writer.write(0, b"\x01" + DATA[1:])
        with pytest.raises(CorruptBlob, match=r"announced was .*Send it again"):
            writer.finish()
    assert not blobs.has(digest)
    assert names(blobs) == []
    with blobs.writer(digest, len(DATA)) as writer:
        assert writer.committed == 0
        writer.write(0, DATA)
        writer.finish()
    assert blobs.read(digest) == DATA


def test_two_connections_of_a_sender_share_a_writer_and_two_senders_do_not(blobs: Blobs) -> None:
    digest = sha256_of(DATA)
    first, second = (blobs.writer(digest, len(DATA), sender="north") for _ in range(2))
    assert first is second
    first.write(0, DATA[:700])
    first.close()  # the connection broke; the other one goes on
    assert second.write(700, DATA[700:]) == len(DATA)
    with blobs.writer(digest, len(DATA), sender="south") as other:
        assert other.committed == 0
        other.write(0, b"\x00" * len(DATA))
        with pytest.raises(CorruptBlob):
            other.finish()
    second.finish()
    second.close()
    assert blobs.read(digest) == DATA


def test_a_writer_that_was_let_go_of_takes_nothing(blobs: Blobs) -> None:
    writer = blobs.writer(sha256_of(DATA), len(DATA))
    writer.close()
    with pytest.raises(StoreError, match="is closed: ask for a new one"):
        writer.write(0, DATA)


def test_what_came_another_way_need_not_be_sent(blobs: Blobs) -> None:
    digest = blobs.put(DATA)
    with blobs.writer(digest, len(DATA)) as writer:
        assert writer.committed == len(DATA)
        assert writer.finish() == digest
    assert names(blobs) == []


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "é" * 64])
def test_what_is_no_digest_never_reaches_a_path(blobs: Blobs, bad: str) -> None:
    for use in (blobs.has, blobs.read, blobs.open, blobs.length, lambda each: blobs.writer(each, 3)):
        with pytest.raises(CorruptBlob, match="is no SHA-256"):
            use(Digest(bad))


def test_a_sender_is_no_path(blobs: Blobs) -> None:
    with blobs.writer(sha256_of(DATA), len(DATA), sender="../../../north") as writer:
        writer.write(0, DATA[:3])
    assert len(names(blobs)) == 1
    assert "north" not in names(blobs)[0]


def test_a_flipped_byte_is_noticed_and_a_missing_content_named(blobs: Blobs) -> None:
    digest = blobs.put(DATA)
    path = blobs.folder / digest[:2] / digest[2:]
    path.write_bytes(DATA[:7] + b"\xff" + DATA[8:])
    for read in (blobs.read, blobs.verify):
        with pytest.raises(CorruptBlob, match=r"is damaged .*restore the folder"):
            read(digest)
    path.unlink()
    with pytest.raises(StoreError, match="was never sent, or was collected"):
        blobs.read(digest)


def test_collecting_leaves_what_is_needed_young_or_being_written(blobs: Blobs) -> None:
    old, kept, young = (blobs.put(each) for each in (b"old", b"kept", b"young"))
    for digest in (old, kept):
        os.utime(blobs.folder / digest[:2] / digest[2:], (1000.0, 1000.0))
    os.utime(blobs.folder / young[:2] / young[2:], (5000.0, 5000.0))
    with blobs.writer(sha256_of(DATA), len(DATA)) as writer:
        writer.write(0, DATA[:3])
        left = blobs.folder / "partial" / ("0" * 64 + ".part")
        left.write_bytes(b"pieces of long ago")
        os.utime(left, (1000.0, 1000.0))
        assert blobs.collect(frozenset({kept}), 100.0, now=5050.0) == 2
        writer.write(3, DATA[3:])
        writer.finish()
    assert set(blobs.digests()) == {kept, young, sha256_of(DATA)}
    assert names(blobs) == []
    os.utime(blobs.folder / young[:2] / young[2:], (1000.0, 1000.0))
    blobs.put(b"young")  # put again: a row that refers to it is about to be written
    assert blobs.collect(frozenset({kept}), 3600.0, now=(blobs.folder / young[:2] / young[2:]).stat().st_mtime) == 0


def test_an_announced_content_that_does_not_fit_is_refused_before_its_first_byte(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 5_000_000))
    with pytest.raises(StoreError, match=r"no space in .*: needs about 20\.0 MB, has 5\.0 MB"):
        blobs.writer(sha256_of(DATA), 20_000_000)
    with blobs.writer(sha256_of(DATA), len(DATA)) as writer:
        assert writer.committed == 0


def test_a_disk_that_fills_up_takes_nothing_back_and_goes_on_when_there_is_room(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blobs.writer(sha256_of(DATA), len(DATA)) as writer:
        writer.write(0, DATA[:500])

        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                if self.tell() >= 600:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return super().write(memoryview(data)[:100])

        file = writer._file
        assert file is not None
        writer._file = Full(os.dup(file.fileno()), "r+")
        with pytest.raises(StoreError, match="no space in"):
            writer.write(500, DATA[500:])
        assert writer.committed == 500
        writer._file.close()
        writer._file = file
        assert writer.write(500, DATA[500:]) == len(DATA)
        writer.finish()
    assert blobs.read(sha256_of(DATA)) == DATA
