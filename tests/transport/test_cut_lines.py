"""A line that is cut, goes dead, is slow, or leads through a proxy (C2, C3, C5, C11, C12, C15)."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedloom.transport import calls, verbs
from fedloom.transport import server as server_module
from fedloom.transport.backoff import LinkState
from fedloom.transport.client import Client, Memory
from fedloom.transport.errors import Unreachable
from fedloom.transport.server import Capacity, Server

DATA = bytes(range(256)) * 14_000
BEAT = verbs.Heartbeat(session="s")


class Proxy:
    """Passes connections on. The first of them carry only so many bytes: then they are cut, or silent (``dead``).

    With a ``pace`` each way carries so many bytes a second.
    """

    def __init__(
        self,
        target: int,
        limits: list[int | None],
        *,
        dead: bool = False,
        connect: bool = False,
        pace: float | None = None,
    ) -> None:
        self._target = target
        self._pace = pace
        self._closed = threading.Event()
        self._limits = limits
        self._dead = dead
        self._connect = connect
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.asked: list[str] = []
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._open:
                self._end(each)
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._connect:
                self.asked.append(client.recv(4096).split(b"\r\n")[0].decode())
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            server = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                limit = self._limits[self.accepted] if self.accepted < len(self._limits) else None
                self.accepted += 1
                self._open += [client, server]
            for source, sink, most in ((client, server, limit), (server, client, limit)):
                threading.Thread(target=self._pass, args=(source, sink, most), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, most: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(1 << 16):
                passed += len(data)
                if self._pace is not None:
                    self._closed.wait(len(data) / self._pace)
                if most is not None and passed > most:
                    if self._dead:
                        continue
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            self._end(each)

    @staticmethod
    def _end(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def through(federation: Any) -> Iterator[Callable[..., tuple[Proxy, Client]]]:
    made: list[tuple[Proxy, Client]] = []

    def start(limits: list[int | None], *, dead: bool = False, **options: Any) -> tuple[Proxy, Client]:
        proxy = Proxy(federation.server.port, limits, dead=dead)
        settings: dict[str, Any] = {"pause": lambda seconds: False, "jitter": lambda: 0.0, "patience_s": None}
        client = Client(f"127.0.0.1:{proxy.port}", federation.authority.site(), **(settings | options))
        made.append((proxy, client))
        return proxy, client

    yield start
    for proxy, client in made:
        client.close()
        proxy.close()


def test_an_upload_over_a_line_that_is_cut_again_and_again_arrives_once(federation: Any, through: Any) -> None:
    told: list[LinkState] = []
    # The first connection carries control calls; then come those for bytes, each cut a little later.
    proxy, client = through([None, 100_000, 900_000, 1_500_000, 60_000, 1_500_000, 1_200_000], tell=told.append)
    blob = verbs.Blob(digest=hashlib.sha256(DATA).digest(), length=len(DATA))
    request = verbs.BeginUpload(session="s", task="t", retry=0, blob=blob)
    assert client.upload(request, lambda offset, size: DATA[offset : offset + size]).done
    upload = federation.coordinator.uploads["north-t-0"]
    assert upload.done
    assert bytes(upload.data) == DATA
    assert proxy.accepted >= 6
    assert told[0].connected
    assert all(before.connected != after.connected for before, after in itertools.pairwise(told))


def test_a_download_over_a_line_that_is_cut_goes_on_where_it_was(federation: Any, through: Any) -> None:
    blob = verbs.Blob(digest=hashlib.sha256(DATA).digest(), length=len(DATA))
    federation.coordinator.blobs[blob.digest] = DATA
    proxy, client = through([100_000, 2_300_000, 1_200_000])
    sink = Memory(blob)
    client.download(verbs.Fetch(digest=blob.digest), length=blob.length, sink=sink)
    assert bytes(sink.data) == DATA
    assert proxy.accepted >= 4
    asked = [request.offset for _, request in federation.coordinator.asked]
    assert asked == sorted(asked)
    assert asked[-1] > 0


def test_a_line_that_is_dead_without_a_word_is_given_up_and_made_again(federation: Any, through: Any) -> None:
    told: list[LinkState] = []
    proxy, client = through([6_000], dead=True, tell=told.append)
    for _ in range(200):
        assert client.call(calls.HEARTBEAT, BEAT, within_s=0.3).server_time_s == 6.0
        if proxy.accepted > 1:
            break
    assert proxy.accepted == 2
    assert [state.connected for state in told] == [True, False, True]
    assert "DEADLINE_EXCEEDED" in told[1].reason


def test_c5_a_coordinator_that_hangs_is_noticed_though_its_line_answers_pings(
    federation: Any, through: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC answers pings by itself, whatever becomes of the program behind it; an unanswered heartbeat tells."""
    told: list[LinkState] = []
    hangs = threading.Event()
    answer = federation.coordinator.heartbeat

    def heartbeat(caller: Any, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        hangs.wait(20.0)
        reply: verbs.HeartbeatReply = answer(caller, request)
        return reply

    ask = Client._ask
    monkeypatch.setattr(federation.coordinator, "heartbeat", heartbeat)
    monkeypatch.setattr(Client, "_ask", lambda self, line, verb, request, s: ask(self, line, verb, request, s / 50))
    # The service's methods are looked up when the server is made: this one answers for the one that hangs.
    hung = type(federation)(federation.authority, federation.coordinator, _serving(federation))
    client = hung.client(tell=told.append)
    try:
        with pytest.raises(Unreachable, match="Heartbeat got no answer"):
            client.heartbeat(BEAT)
        assert [state.connected for state in told] == [False]
        assert "DEADLINE_EXCEEDED" in told[0].reason
        hangs.set()
        assert client.call(calls.HEARTBEAT, BEAT, within_s=500.0).server_time_s == 6.0
        assert [state.connected for state in told] == [False, True]
    finally:
        hangs.set()
        client.close()
        hung.server.stop(0.0)


def _serving(federation: Any) -> Server:
    server = Server(
        federation.coordinator, federation.authority.coordinator(), federation="trial.example", hosts=("127.0.0.1",)
    )
    server.start()
    return server


def test_c11_a_line_that_is_slow_is_no_line_that_stands_still(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 kB a second, 60 s without a byte as the limit: here a hundred times as fast, and as short."""
    monkeypatch.setattr(server_module, "_SWEEP_S", 0.1)
    idle_s = 0.6
    federation = serve(capacity=Capacity(sites=4, idle_s=idle_s))
    proxy = Proxy(federation.server.port, [], pace=6.4e6)
    data = DATA + DATA + DATA
    blob = verbs.Blob(digest=hashlib.sha256(data).digest(), length=len(data))
    told: list[LinkState] = []
    client = Client(f"127.0.0.1:{proxy.port}", federation.authority.site(), patience_s=0.0, tell=told.append)
    began = time.monotonic()
    try:
        request = verbs.BeginUpload(session="s", task="t", retry=0, blob=blob)
        assert client.upload(request, lambda offset, size: data[offset : offset + size]).done
    finally:
        client.close()
        proxy.close()
    assert time.monotonic() - began > 2 * idle_s, "it took longer than a line may stand still"
    assert bytes(federation.coordinator.uploads["north-t-0"].data) == data
    assert [state.connected for state in told] == [True]
    assert proxy.accepted == 2, "one line for control calls, one for bytes, and none made anew"


def test_a_proxy_of_the_environment_is_used_and_can_be_gone_round(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(federation.server.port, [], connect=True)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    try:
        federation.client(patience_s=5.0).heartbeat(BEAT)
        assert proxy.asked == [f"CONNECT 127.0.0.1:{federation.server.port} HTTP/1.1"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        federation.client(patience_s=5.0).heartbeat(BEAT)
        assert len(proxy.asked) == 1
    finally:
        proxy.close()


def test_a_connection_that_another_thread_gives_up_before_its_use_is_made_anew(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with federation.client(patience_s=None) as client:
        get, given_up = client._channels.get, []

        def lost_to_another(path: Any) -> Any:
            found = get(path)
            if len(given_up) < 3 and path not in given_up[-1:]:
                given_up.append(path)
                client._channels.drop(path, found)  # as a heartbeat does whose line is down
            return found

        monkeypatch.setattr(client._channels, "get", lost_to_another)
        client.claim(verbs.Claim(session="s", task="t", retry=0))
        blob = verbs.Blob(digest=hashlib.sha256(DATA).digest(), length=len(DATA))
        request = verbs.BeginUpload(session="s", task="t", retry=0, blob=blob)
        assert client.upload(request, lambda offset, size: DATA[offset : offset + size]).done
        federation.coordinator.blobs[blob.digest] = DATA
        assert client.fetch(blob, largest=len(DATA)) == DATA
        assert len(given_up) == 3
