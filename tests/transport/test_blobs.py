"""Blobs over a real connection: whole, in order and once, whatever becomes of the line (B3, C8, C9, C10)."""

from __future__ import annotations

import hashlib
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from fedloom.transport import calls, verbs
from fedloom.transport.calls import decode_answer, encode
from fedloom.transport.chunks import CHUNK, SEGMENT, frame
from fedloom.transport.client import Client, Memory
from fedloom.transport.errors import Code, Refused, Unreachable
from fedloom.transport.server import Capacity, Server
from fedloom.transport.service import Caller
from fedloom.transport.tls import channel_credentials, read_pair

Serve = Callable[..., Any]
DATA = bytes(range(256)) * 14_000  # 3.4 MiB: four chunks, the last one short


def blob_of(data: bytes) -> verbs.Blob:
    return verbs.Blob(digest=hashlib.sha256(data).digest(), length=len(data))


def begin(data: bytes, task: str = "t") -> verbs.BeginUpload:
    return verbs.BeginUpload(session="s", task=task, retry=0, blob=blob_of(data))


def reading(data: bytes, asked: list[int] | None = None) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        if asked is not None:
            asked.append(offset)
        return data[offset : offset + size]

    return read


def held(federation: Any, task: str = "t") -> bytes:
    upload = federation.coordinator.uploads[f"north-{task}-0"]
    assert upload.done
    return bytes(upload.data)


def no_pause(seconds: float) -> bool:
    return False


# ---- Upload ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, len(DATA)])
def test_an_upload_arrives_in_chunks_of_a_mebibyte(federation: Any, length: int) -> None:
    data = DATA[:length]
    seen: list[int] = []
    at = federation.client().upload(begin(data), reading(data), progress=seen.append)
    assert (at.done, at.offset) == (True, length)
    assert seen[-1] == length
    assert held(federation) == data
    assert max(federation.coordinator.sizes) <= CHUNK
    assert len(federation.coordinator.sizes) == -(-length // CHUNK)


def test_an_empty_blob_is_a_blob(federation: Any) -> None:
    assert federation.client().upload(begin(b""), reading(b"")).done
    assert held(federation) == b""


def test_an_upload_that_is_there_already_sends_nothing(federation: Any) -> None:
    client = federation.client()
    client.upload(begin(DATA), reading(DATA))
    asked: list[int] = []
    assert client.upload(begin(DATA), reading(DATA, asked)).done
    assert asked == []


def test_a_disk_that_fails_at_the_site_is_raised_there_and_costs_no_byte(federation: Any) -> None:
    client = federation.client(patience_s=None, pause=no_pause)

    def failing(offset: int, size: int) -> bytes:
        if offset == 2 * CHUNK:
            raise OSError("the disk of the site")
        return DATA[offset : offset + size]

    with pytest.raises(OSError, match="the disk of the site"):
        client.upload(begin(DATA), failing)
    asked: list[int] = []
    assert client.upload(begin(DATA), reading(DATA, asked)).done
    assert held(federation) == DATA
    assert sum(federation.coordinator.sizes) == len(DATA)
    assert asked[0] == sum(federation.coordinator.sizes[: -len(asked)])


def test_a_coordinator_that_was_killed_goes_on_from_what_it_has(serve: Serve, authority: Any) -> None:
    federation = serve()
    seen, port = federation.coordinator, federation.server.port
    asked: list[int] = []
    begun: list[Server] = []

    def again(seconds: float) -> bool:
        if not begun:
            begun.append(
                Server(seen, authority.coordinator(), federation="trial.example", hosts=("127.0.0.1",), port=port)
            )
            begun[0].start()
        return False

    write = seen.write_chunk

    def write_once_and_die(caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        committed: int = write(caller, upload, offset, data)
        if offset == CHUNK and not begun:
            threading.Thread(target=federation.server.stop, args=(0.0,)).start()
            federation.server._stopped.wait(5.0)
        return committed

    seen.write_chunk = write_once_and_die
    client = federation.client(patience_s=None, pause=again)
    try:
        assert client.upload(begin(DATA), reading(DATA, asked)).done
    finally:
        client.close()
        for server in begun:
            server.stop(0.0)
    assert held(federation) == DATA
    assert asked.count(0) == 1


def test_a_damaged_chunk_is_sent_again_and_only_that_one(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = [CHUNK, 2 * CHUNK]
    spoil(monkeypatch, damaged)
    asked: list[int] = []
    assert federation.client().upload(begin(DATA), reading(DATA, asked)).done
    assert held(federation) == DATA
    assert damaged == []
    assert asked.count(0) == 1


def test_a_chunk_that_is_damaged_every_time_ends_the_upload(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, [CHUNK] * 100)
    with pytest.raises(Refused, match=rf"CORRUPT_UPLOAD: the chunk at {CHUNK} .* 3 times.*memory and the disk"):
        federation.client().upload(begin(DATA), reading(DATA))


def spoil(monkeypatch: pytest.MonkeyPatch, places: list[int]) -> None:
    """Flip a bit of the chunk at each of the places, once each, on its way."""

    def spoiled(offset: int, data: bytes) -> bytes:
        sent = frame(offset, data)
        if offset in places:
            places.remove(offset)
            return sent[:-1] + bytes([sent[-1] ^ 4])
        return sent

    monkeypatch.setattr("fedloom.transport.chunks.frame", spoiled)


def test_a_blob_of_another_digest_begins_anew_and_then_fails(federation: Any) -> None:
    with pytest.raises(Refused, match="CORRUPT_UPLOAD: the upload has another digest"):
        federation.client().upload(begin(DATA), reading(DATA[:-1] + b"x"))
    assert not federation.coordinator.uploads["north-t-0"].done
    assert federation.client().upload(begin(DATA), reading(DATA)).done


def test_a_blob_that_shrinks_while_it_is_read_ends_the_upload(federation: Any) -> None:
    with pytest.raises(EOFError, match="were announced"):
        federation.client().upload(begin(DATA), reading(DATA[:-5]))
    assert not federation.coordinator.uploads["north-t-0"].done


# ---- A client made by hand -------------------------------------------------------------------------------------------


def by_hand(federation: Any, messages: list[bytes], *, client: str = "north") -> list[verbs.UploadAt]:
    files = federation.authority.site(client)
    with grpc.secure_channel(federation.address, channel_credentials(read_pair(files))) as channel:
        stream = channel.stream_stream(calls.UPLOAD.path)(iter(messages), timeout=10.0)
        return [decode_answer(calls.UPLOAD, data) for data in stream]


def opened(federation: Any, data: bytes) -> bytes:
    at = federation.client().call(calls.BEGIN_UPLOAD, begin(data))
    return encode(verbs.Upload(session="s", upload=at.upload, offset=at.offset))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (frame(start, data[start : start + size]) for start in range(0, len(data), size))


def test_c10_duplicates_and_overlaps_change_nothing(federation: Any) -> None:
    data = DATA[:1000]
    first, *rest = pieces(data, 100)
    overlapping = frame(50, data[50:250])
    answers = by_hand(federation, [opened(federation, data), first, first, overlapping, first, *rest])
    assert answers[-1].done
    assert held(federation) == data


def test_c10_a_gap_is_told_with_the_offset_at_which_to_go_on(federation: Any) -> None:
    data = DATA[:1000]
    first, second, third, *_ = pieces(data, 100)
    head = opened(federation, data)
    answers = by_hand(federation, [head, first, third, second])
    assert [(at.offset, at.damaged, at.done) for at in answers] == [(100, True, False)]
    ahead = verbs.Upload(session="s", upload="north-t-0", offset=500)
    assert [(at.offset, at.damaged) for at in by_hand(federation, [encode(ahead)])] == [(100, True)]
    assert bytes(federation.coordinator.uploads["north-t-0"].data) == data[:100]


def test_an_upload_that_stops_early_is_not_finished(federation: Any) -> None:
    first, *_ = pieces(DATA[:1000], 100)
    answers = by_hand(federation, [opened(federation, DATA[:1000]), first])
    assert [(at.offset, at.done) for at in answers] == [(100, False)]


def test_an_upload_belongs_to_the_one_who_began_it(federation: Any) -> None:
    head = opened(federation, DATA[:1000])
    with pytest.raises(Refused, match="NOT_FOUND"):
        by_hand(federation, [head, *pieces(DATA[:1000], 100)], client="south")
    assert not federation.coordinator.uploads["north-t-0"].data


@pytest.mark.parametrize(
    "messages", [[], [b"rubbish"], ["head", b"short"], ["head", frame(0, bytes(CHUNK + 1))], [frame(0, b"abc")]]
)
def test_a_stream_that_is_no_upload_is_refused(federation: Any, messages: list[Any]) -> None:
    head = opened(federation, DATA[:1000])
    with pytest.raises(Refused, match=r"MALFORMED|TOO_LARGE"):
        by_hand(federation, [head if message == "head" else message for message in messages])
    assert not federation.coordinator.uploads["north-t-0"].data


# ---- Download --------------------------------------------------------------------------------------------------------


def test_a_download_brings_the_blob_and_closes_it(federation: Any) -> None:
    blob = blob_of(DATA)
    federation.coordinator.blobs[blob.digest] = DATA
    assert federation.client().fetch(blob, largest=len(DATA)) == DATA
    assert federation.client(federation.authority.admin()).fetch(blob, largest=len(DATA)) == DATA
    assert [reader.closed for reader in federation.coordinator.readers] == [True, True]


def test_a_blob_too_large_to_hold_and_one_that_is_not_there_are_refused(federation: Any) -> None:
    client = federation.client()
    with pytest.raises(Refused, match=rf"TOO_LARGE: the blob has {len(DATA)} bytes; at most 10 are held"):
        client.fetch(blob_of(DATA), largest=10)
    with pytest.raises(Refused, match="NOT_FOUND: no such blob"):
        client.fetch(blob_of(DATA), largest=len(DATA))
    assert client.fetch(blob_of(b""), largest=10) == b""


def test_a_download_goes_on_where_it_stopped_and_repeats_a_damaged_chunk(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = blob_of(DATA)
    federation.coordinator.blobs[blob.digest] = DATA
    damaged = [CHUNK]

    def spoiled(offset: int, data: bytes) -> bytes:
        sent = frame(offset, data)
        if offset in damaged:
            damaged.remove(offset)
            return sent[:-1] + bytes([sent[-1] ^ 4])
        return sent

    monkeypatch.setattr("fedloom.transport.server.frame", spoiled)
    sink = Memory(blob)
    sink.data += DATA[:1000]
    federation.client().download(verbs.Fetch(digest=blob.digest), length=blob.length, sink=sink)
    assert bytes(sink.data) == DATA
    damaged[:] = [1000 + CHUNK]
    sink.data = sink.data[:1000]
    federation.client().download(verbs.Fetch(digest=blob.digest), length=blob.length, sink=sink)
    assert damaged == []
    asked = [request.offset for _, request in federation.coordinator.asked]
    assert asked == [1000, 1000, 1000 + CHUNK]
    damaged[:] = [0] * 100
    with pytest.raises(Refused, match="the chunk at 0 arrived damaged"):
        federation.client().fetch(blob, largest=len(DATA))


def test_a_blob_with_another_digest_is_refused(federation: Any) -> None:
    blob = blob_of(DATA)
    federation.coordinator.blobs[blob.digest] = DATA[:-1] + b"x"
    with pytest.raises(Refused, match="arrived with another digest"):
        federation.client().fetch(blob, largest=len(DATA))


def test_more_uploads_than_places_wait_and_then_are_told_to_come_back(serve: Serve) -> None:
    federation = serve(capacity=Capacity(sites=4, uploads=1, waiting=0))
    entered, leave = threading.Event(), threading.Event()
    write = federation.coordinator.write_chunk

    def slow(caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        entered.set()
        leave.wait(10.0)
        committed: int = write(caller, upload, offset, data)
        return committed

    federation.coordinator.write_chunk = slow
    client = federation.client()
    thread = threading.Thread(target=client.upload, args=(begin(DATA), reading(DATA)))
    thread.start()
    entered.wait(10.0)
    with pytest.raises(Refused) as error:
        federation.client().upload(begin(DATA, "u"), reading(DATA))
    assert (error.value.refusal.code, error.value.refusal.retry_after_s) == (Code.BUSY, 2.0)
    client.heartbeat(verbs.Heartbeat(session="s"))
    leave.set()
    thread.join(10.0)
    assert held(federation) == DATA


def test_a_stream_of_one_who_is_shut_out_is_cut_at_the_next_look(serve: Serve) -> None:
    federation = serve()
    entered, leave = threading.Event(), threading.Event()

    def slow(caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        entered.set()
        leave.wait(10.0)
        return offset + len(data)

    federation.coordinator.write_chunk = slow
    client = federation.client(patience_s=0.0)
    ended: list[BaseException] = []

    def upload() -> None:
        try:
            client.upload(begin(DATA), reading(DATA))
        except (Refused, Unreachable) as error:
            ended.append(error)

    thread = threading.Thread(target=upload)
    thread.start()
    entered.wait(10.0)
    assert federation.server.watchdog.sweep() == 0
    federation.coordinator.denied["north"] = Refused(Code.DENIED, "north is shut out.").refusal
    assert federation.server.watchdog.sweep() == 1
    leave.set()
    thread.join(10.0)
    assert len(ended) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_c8_memory_stays_flat_while_256_mb_go_up_and_down(serve: Serve) -> None:
    federation = serve()
    block = bytes(range(256)) * (CHUNK // 256)
    length = 256 << 20
    digest = hashlib.sha256()
    for _ in range(256):
        digest.update(block)
    blob = verbs.Blob(digest=digest.digest(), length=length)
    seen = federation.coordinator
    arrived = hashlib.sha256()
    there = [0]

    def write(caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        assert offset == there[0]
        arrived.update(data)
        there[0] += len(data)
        return there[0]

    seen.write_chunk = write
    seen.finish_upload = lambda caller, upload: None
    client = federation.client()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    request = verbs.BeginUpload(session="s", task="t", retry=0, blob=blob)
    told: list[int] = []
    assert client.upload(request, lambda offset, size: block[:size], progress=told.append).done
    assert arrived.digest() == blob.digest
    assert len(told) >= length // SEGMENT

    class Repeated:
        length = blob.length

        def read(self, offset: int, size: int) -> bytes:
            return block[:size]

        def close(self) -> None:
            pass

    class Counted:
        committed = 0
        digest = hashlib.sha256()

        def write(self, offset: int, data: memoryview) -> int:
            self.digest.update(data)
            self.committed += len(data)
            return self.committed

        def finish(self) -> None:
            assert self.digest.digest() == blob.digest

    seen.open_blob = lambda caller, request: Repeated()
    client.download(verbs.Fetch(digest=blob.digest), length=length, sink=Counted())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10, f"{grown} KiB more than before, for both ends in one process"


def test_a_client_that_is_closed_ends_an_upload(federation: Any) -> None:
    client: Client = federation.client(patience_s=None)

    def read(offset: int, size: int) -> bytes:
        client._closed.set()
        client._channels.close()
        return DATA[offset : offset + size]

    with pytest.raises(Unreachable, match="closed"):
        client.upload(begin(DATA), read)
