"""The entry port: small questions of those who have no certificate, and nothing else (D9, 3.8)."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedloom.transport.entry import (
    LARGEST,
    EntryPort,
    EntryReply,
    JoinRequest,
    RenewRequest,
    ask,
    fetch_anchor,
    server_time,
)
from fedloom.transport.errors import Code, Refused, Unreachable
from fedloom.transport.threads import SmallPort
from fedloom.transport.tls import client_context


class Door:
    """Takes everybody whose request is not ``used``."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, str]] = []
        self.alive = True

    def anchor(self) -> bytes:
        return b"the root and its key"

    def join(self, request: JoinRequest, *, address: str) -> EntryReply:
        self.asked.append((request, address))
        if request.request == b"used":
            raise Refused(Code.DENIED, "this token was used.", remedy="Ask for another.")
        if request.request == b"bug":
            raise ValueError("a secret of the coordinator")
        return EntryReply(state="waiting", retry_after_s=30.0)

    def renew(self, request: RenewRequest, *, address: str) -> EntryReply:
        self.asked.append((request, address))
        return EntryReply(state="issued", chain=b"\x00\xff", roster=b"r")

    def healthy(self) -> bool:
        return self.alive


Open = Callable[..., tuple[Door, str]]


@pytest.fixture
def entry(authority: Any) -> Iterator[Open]:
    running: list[EntryPort] = []

    def start(files: Any = None) -> tuple[Door, str]:
        door = Door()
        port = EntryPort(door, files or authority.coordinator(), version="0.1.0", host="127.0.0.1", wall=lambda: 1234.5)
        port.start()
        running.append(port)
        return door, f"127.0.0.1:{port.port}"

    yield start
    for port in running:
        port.stop()


@pytest.fixture
def opened(entry: Open, authority: Any) -> tuple[Door, str, bytes]:
    return *entry(), authority.root.anchor.certificate


def plain(address: str, root: bytes, method: str, path: str, **options: Any) -> tuple[int, bytes]:
    host, _, port = address.partition(":")
    line = http.client.HTTPSConnection(host, int(port), context=client_context(root), timeout=5.0)
    line.request(method, path, **options)
    answer = line.getresponse()
    data = answer.read()
    line.close()
    return answer.status, data


def test_joining_renewing_and_the_time(entry: Open, authority: Any) -> None:
    door, address = entry()
    root = authority.root.anchor.certificate
    assert ask(address, root, JoinRequest(request=b"csr")) == EntryReply(state="waiting", retry_after_s=30.0)
    assert ask(address, root, RenewRequest(request=b"csr")).chain == b"\x00\xff"
    assert server_time(address, root).server_time_s == 1234.5
    assert fetch_anchor(address) == b"the root and its key"
    assert [type(request) for request, _ in door.asked] == [JoinRequest, RenewRequest]
    assert door.asked[0][1].startswith("127.0.0.1:")


def test_a_refusal_arrives_as_it_was_raised_and_a_bug_without_its_text(
    entry: Open, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, address = entry()
    root = authority.root.anchor.certificate
    with pytest.raises(Refused, match=r"DENIED: this token was used\. Ask for another\."):
        ask(address, root, JoinRequest(request=b"used"))
    with caplog.at_level(logging.ERROR), pytest.raises(Refused, match="INTERNAL") as error:
        ask(address, root, JoinRequest(request=b"bug"))
    assert "secret" not in str(error.value)
    assert "a secret of the coordinator" in caplog.text


def test_health_is_for_monitors(entry: Open, authority: Any) -> None:
    door, address = entry()
    root = authority.root.anchor.certificate
    assert plain(address, root, "GET", "/healthz") == (200, b'{"alive":true}')
    door.alive = False
    assert plain(address, root, "GET", "/healthz") == (503, b'{"alive":false}')


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", "/join", {}, 404),
        ("POST", "/healthz", {"body": b""}, 404),
        ("DELETE", "/join", {}, 501),
        ("POST", "/join", {"body": b"{"}, 400),
        ("POST", "/join", {"body": b"[" * 50_000}, 400),
        ("POST", "/join", {"body": b'{"request":"AAAA","more":1}'}, 400),
        ("POST", "/join", {"body": b'{"request":"' + b"A" * 40_000 + b'"}'}, 400),
        ("POST", "/join", {"body": b"", "headers": {"Content-Length": str(LARGEST + 1)}}, 413),
        ("POST", "/join", {"body": b"", "headers": {"Content-Length": "-1"}}, 413),
        ("POST", "/join", {"body": b"", "headers": {"Content-Length": "9" * 5000}}, 413),
        ("GET", "/time", {"headers": {"X-Large": "y" * 70_000}}, 431),
    ],
)
def test_what_is_no_question_is_refused(opened: Any, method: str, path: str, options: Any, status: int) -> None:
    door, address, root = opened
    assert plain(address, root, method, path, **options)[0] == status
    assert door.asked == []


def test_a_server_of_another_root_or_name_gets_no_request(entry: Open, authority: Any, other_authority: Any) -> None:
    root = authority.root.anchor.certificate
    stranger = "is not the coordinator of this federation"
    for files, words in (
        (other_authority.coordinator(), stranger),
        (authority.coordinator("fed.example"), "has a certificate for another name"),
        (authority.site("mallory"), stranger),
    ):
        door, address = entry(files)
        with pytest.raises(Unreachable, match=rf"{words}: [^.]*.*[^.]\. `fedloom doctor`"):
            ask(address, root, JoinRequest(request=b"csr"))
        assert door.asked == []


def test_nobody_there_and_older_tls_are_told(entry: Open, authority: Any) -> None:
    root = authority.root.anchor.certificate
    with pytest.raises(Unreachable, match="no answer from the entry port at 127"):
        server_time("127.0.0.1:1", root)
    _, address = entry()
    context = client_context(root)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = address.partition(":")
    with pytest.raises(ssl.SSLError, match="protocol version"):
        http.client.HTTPSConnection(host, int(port), context=context, timeout=5.0).request("GET", "/time")


def test_one_who_sends_slowly_is_cut_off_and_one_too_many_is_not_taken() -> None:
    begun, served = threading.Event(), threading.Event()

    def serve(connection: socket.socket, address: str) -> None:
        begun.set()
        assert connection.recv(1) == b""
        served.set()

    port = SmallPort(serve, host="127.0.0.1", port=0, threads=1, name="test", life_s=0.05)
    port.start()
    try:
        with socket.create_connection(("127.0.0.1", port.port), timeout=5.0) as slow:
            begun.wait(5.0)
            with socket.create_connection(("127.0.0.1", port.port), timeout=5.0) as another:
                assert another.recv(1) == b""
            assert slow.recv(1) == b""
        assert served.wait(5.0)
    finally:
        port.stop()
