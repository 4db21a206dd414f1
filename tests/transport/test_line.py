"""Calls over a real connection: who may ask what, what a peer is told, how the line is kept (A13, A17, C1, D7, D8)."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from fedloom.transport import admin, calls, channels, verbs
from fedloom.transport import server as server_module
from fedloom.transport.backoff import LinkState
from fedloom.transport.calls import VERBS
from fedloom.transport.client import Client
from fedloom.transport.errors import Code, PortBusy, Refusal, Refused, TlsFilesError, Unreachable
from fedloom.transport.identity import check_channel
from fedloom.transport.server import Capacity, Server
from fedloom.transport.tls import channel_credentials, read_pair

HELLO = verbs.Hello(federation="trial.example", version="0.1.0")
BEAT = verbs.Heartbeat(session="s")
POLL = verbs.Poll(session="s", wait_s=0.0)
KEY = verbs.TaskKey(run="r1", phase=0, program="train", round=3, retry=0, step=0)
BLOB = verbs.Blob(digest=b"d" * 32, length=10)
Serve = Callable[..., Any]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as error:
        call()
    return error.value.refusal.code


def raw(federation: Any, files: Any) -> grpc.Channel:
    return grpc.secure_channel(federation.address, channel_credentials(read_pair(files)))


# ---- Who -------------------------------------------------------------------------------------------------------------


def test_the_caller_is_who_the_certificate_says(federation: Any) -> None:
    federation.client(federation.authority.site("south", organisation="lab")).hello(HELLO)
    caller, request = federation.coordinator.asked[0]
    assert request == HELLO
    assert caller.identity == "spiffe://trial.example/lab/south"
    assert (caller.client, caller.organisation, caller.role) == ("south", "lab", "site")
    assert int(caller.serial, 16) > 0
    assert caller.address.startswith("ipv4:127.0.0.1:")


def test_the_key_exchange_is_hybrid_and_can_be_required_by_both(serve: Serve) -> None:
    federation = serve(require_pq=True)
    federation.client(require_pq=True).hello(HELLO)
    assert federation.coordinator.asked[0][0].group == "X25519MLKEM768"


@pytest.mark.parametrize(("version", "group"), [("TLSv1.2", "X25519MLKEM768"), ("TLSv1.3", "X25519"), ("TLSv1.3", "")])
def test_a_weaker_channel_is_refused_where_it_is_not_allowed(version: str, group: str) -> None:
    facts = {"ssl_tls_version": [version.encode()], "ssl_negotiated_key_exchange_group": [group.encode()]}
    with pytest.raises(Refused, match=r"WEAK_CHANNEL.*(TLSv1\.3 is needed|X25519MLKEM768 is required)"):
        check_channel(facts, require_pq=True)
    if version == "TLSv1.3":
        assert check_channel(facts, require_pq=False) == group


def test_a_site_may_not_do_what_an_operator_may_and_the_reverse(federation: Any) -> None:
    site, operator = federation.client(), federation.client(federation.authority.admin())
    assert code_of(lambda: site.list_runs(admin.ListRuns())) == Code.DENIED
    assert code_of(lambda: next(site.watch_run(admin.WatchRun(run="r1")))) == Code.DENIED
    assert code_of(lambda: operator.hello(HELLO)) == Code.DENIED
    assert operator.list_runs(admin.ListRuns()).runs[0].run == "r1"
    assert operator.health().ready
    assert site.health().ready
    assert [type(request) for _, request in federation.coordinator.asked] == [
        admin.ListRuns, admin.Health, admin.Health
    ]  # fmt: skip


def test_the_deny_list_is_asked_on_every_call(federation: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = federation.client()
    client.heartbeat(BEAT)
    federation.coordinator.denied["north"] = Refusal(code=Code.DENIED, sentence="north is shut out.", remedy="Ask.")
    with caplog.at_level(logging.WARNING):
        assert code_of(lambda: client.heartbeat(BEAT)) == Code.DENIED
        assert code_of(lambda: client.fetch(BLOB, largest=100)) == Code.DENIED
    assert "event=refused client=north address=ipv4:127.0.0.1" in caplog.text
    assert len(federation.coordinator.asked) == 1
    federation.client(federation.authority.site("south")).heartbeat(BEAT)


def test_an_authority_that_fails_lets_nobody_in(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(caller: object) -> None:
        raise OSError("the deny list cannot be read")

    monkeypatch.setattr(federation.coordinator, "authorise", fails)
    assert code_of(lambda: federation.client().hello(HELLO)) == Code.INTERNAL
    assert federation.coordinator.asked == []


@pytest.mark.parametrize("whose", ["other_authority", "same_name"])
def test_a_certificate_of_another_root_gets_no_line(
    federation: Any, whose: str, request: pytest.FixtureRequest
) -> None:
    other = request.getfixturevalue(whose)
    theirs = other.site()
    theirs.root.write_bytes(federation.authority.root.anchor.certificate)
    with pytest.raises(Unreachable, match="fedloom doctor"):
        federation.client(theirs).hello(HELLO)
    with pytest.raises(Unreachable):  # and nobody takes another root's coordinator for ours
        federation.client(other.site()).hello(HELLO)
    assert federation.coordinator.asked == []


def test_an_expired_certificate_the_servers_own_and_none_get_no_line(federation: Any) -> None:
    authority = federation.authority
    for files in (authority.site(now=authority.now - 20 * 86400.0), authority.coordinator()):
        with pytest.raises(Unreachable):
            federation.client(files).hello(HELLO)
    without = grpc.ssl_channel_credentials(authority.root.anchor.certificate)
    for channel in (grpc.secure_channel(federation.address, without), grpc.insecure_channel(federation.address)):
        with channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(calls.HEALTH.path)(b"", timeout=5.0)
    assert federation.coordinator.asked == []


def test_a_site_and_a_wrong_name_are_no_coordinator(serve: Serve, authority: Any) -> None:
    for files in (authority.site("mallory"), authority.coordinator("fed.example")):
        with pytest.raises(Unreachable):
            serve(files).client().hello(HELLO)
    assert serve(authority.coordinator("fed.example")).client(server_name="fed.example").hello(HELLO).session == "s1"


def test_plain_bytes_and_old_tls_are_not_answered(federation: Any) -> None:
    with socket.create_connection(("127.0.0.1", federation.server.port), timeout=5.0) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64))
        assert line.recv(100) == b""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files = federation.authority.site()
    context.load_verify_locations(files.root)
    context.load_cert_chain(files.chain, files.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", federation.server.port), timeout=5.0) as line,
        context.wrap_socket(line, server_hostname="127.0.0.1") as old,
    ):
        assert old.version() == "TLSv1.2"  # gRPC cannot be told to refuse the handshake: every call is refused instead


def test_another_federation_under_the_same_root_is_refused(serve: Serve, authority: Any) -> None:
    server = Server(serve().coordinator, authority.coordinator(), federation="elsewhere", hosts=("127.0.0.1",))
    server.start()
    try:
        with Client(f"127.0.0.1:{server.port}", authority.site(), patience_s=0.0) as client:
            assert code_of(lambda: client.hello(HELLO)) == Code.UNAUTHENTICATED
    finally:
        server.stop(0.0)


# ---- What ------------------------------------------------------------------------------------------------------------


def test_every_verb_arrives_and_is_answered(federation: Any) -> None:
    site, kim = federation.client(), federation.client(federation.authority.admin())
    site.hello(HELLO)
    site.poll(POLL)
    assert site.claim(verbs.Claim(session="s", task="t", retry=1)).task == "t"
    site.decline(verbs.Decline(session="s", task="t", retry=1, reason="NO_DATA"))
    site.heartbeat(BEAT)
    assert site.submit(verbs.Submit(session="s", task="t", key=KEY, blob=BLOB)).verdict == "ACCEPTED"
    site.fail(verbs.Fail(session="s", task="t", key=KEY, kind="crashed", error="ValueError", where="a.py:3"))
    site.approve(verbs.Approve(session="s", run="r1", digest=b"d" * 32, approved=True))
    assert site.recall(verbs.Recall()).events_head is None
    assert site.record(verbs.Record()).took is None
    site.adopt(verbs.Adopt(store_epoch="e"))
    site.goodbye(verbs.Goodbye(session="s", reason="stopped"))
    kim.create_run(admin.CreateRun(request="q", name="heart", experiment=b"{}", digest=b"d" * 32))
    kim.approve_run(admin.ApproveRun(request="q", run="r1", digest=b"d" * 32))
    kim.pause(admin.Pause(request="q", run="r1"))
    kim.resume(admin.Resume(request="q", run="r1"))
    kim.abort(admin.Abort(request="q", run="r1", reason="enough"))
    kim.list_runs(admin.ListRuns())
    kim.list_sites(admin.ListSites())
    kim.invite_site(admin.InviteSite(request="q", organisation="lab", client="south"))
    kim.revoke(admin.Revoke(request="q", client="south", reason="left"))
    kim.readmit(admin.Readmit(request="q", client="south"))
    kim.health()
    assert [event.sequence for event in kim.watch_run(admin.WatchRun(run="r1", since=1))] == [1, 2]
    asked = {type(request).__name__ for _, request in federation.coordinator.asked}
    blobs = {"BeginUpload", "Upload", "Fetch"}
    assert asked | blobs == {verb.request.__name__ for verb in VERBS}
    assert not asked & blobs


def test_an_error_of_the_coordinator_is_told_without_its_text(
    federation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    federation.coordinator.raises = ValueError("age of patient 7 is 93")
    with caplog.at_level(logging.ERROR), pytest.raises(Refused) as error:
        federation.client().hello(HELLO)
    assert error.value.refusal.code == Code.INTERNAL
    assert "93" not in str(error.value)
    assert "age of patient 7 is 93" in caplog.text


def test_a_refusal_arrives_as_it_was_raised(federation: Any) -> None:
    federation.coordinator.raises = Refused(Code.STALE_SESSION, "a newer session.", remedy="Stop the other agent.")
    with pytest.raises(Refused) as error:
        federation.client().claim(verbs.Claim(session="s", task="t", retry=0))
    assert error.value.refusal == federation.coordinator.raises.refusal


def test_rubbish_is_refused_before_the_service_sees_it_and_its_sender_is_put_off(federation: Any) -> None:
    with raw(federation, federation.authority.site()) as channel:
        call = channel.unary_unary(calls.SUBMIT.path)
        answers = [call(b"\xdd\xff\xff\xff\xff", timeout=5.0) for _ in range(21)]
        assert b"MALFORMED" in answers[19]
        assert b"BUSY" in answers[20]
        with pytest.raises(grpc.RpcError) as error:
            call(bytes(5 << 20), timeout=5.0)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/fedloom.v2.Work/Hello")(b"", timeout=5.0)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError):
            call(b"", metadata=[("x-large", "y" * (64 << 10))], timeout=5.0)
    assert federation.coordinator.asked == []


# ---- Threads and limits ----------------------------------------------------------------------------------------------


def test_waiting_polls_leave_heartbeats_and_control_calls_free(serve: Serve, authority: Any) -> None:
    federation = serve(capacity=Capacity(sites=3))
    clients = [federation.client(authority.site(f"site-{number}")) for number in range(4)]
    waiting = verbs.Poll(session="s", wait_s=40.0)
    threads = [threading.Thread(target=client.poll, args=(waiting,)) for client in clients[:3]]
    for thread in threads:
        thread.start()
    seen = federation.coordinator
    for _ in range(2000):
        if len(seen.asked) == 3:
            break
        clients[3].heartbeat(BEAT)
        seen.asked = [entry for entry in seen.asked if isinstance(entry[1], verbs.Poll)]
    clients[3].heartbeat(BEAT)
    clients[3].hello(HELLO)
    with pytest.raises(Refused) as error:  # the fourth site has no place to wait
        clients[3].poll(POLL)
    assert (error.value.refusal.code, error.value.refusal.retry_after_s) == (Code.BUSY, 15.0)
    seen.release.set()
    for thread in threads:
        thread.join(10.0)
    for verb, lane in {"poll": "poll", "heartbeat": "beat", "hello": "control"}.items():
        assert seen.threads[verb].startswith(f"fedloom-{lane}_")


def test_a_second_server_on_the_port_is_told_so(federation: Any) -> None:
    with pytest.raises(PortBusy, match="another process has the port"):
        Server(
            federation.coordinator, federation.authority.coordinator(), federation="trial.example",
            hosts=("127.0.0.1",), port=federation.server.port,
        )  # fmt: skip


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("options", [server_module._OPTIONS, channels._OPTIONS], ids=["server", "client"])
def test_grpc_knows_every_option_by_its_name(options: tuple[tuple[str, Any], ...]) -> None:
    """A name that it does not know it passes over in silence."""
    library = Path(cygrpc.__file__).read_bytes()
    unknown = [name for name, _ in options if name.encode() + b"\0" not in library]
    assert unknown == []


def test_both_families_are_served(serve: Serve) -> None:
    federation = serve(hosts=("[::]",))
    for host in ("127.0.0.1", "[::1]", "localhost"):
        with Client(f"{host}:{federation.server.port}", federation.authority.site(), patience_s=5.0) as client:
            assert client.health().ready


def test_a_server_that_drains_begins_nothing_new_and_ends_what_was_begun(federation: Any) -> None:
    client = federation.client()
    federation.server.drain()
    assert code_of(lambda: client.poll(POLL)) == Code.DRAINING
    assert code_of(lambda: client.claim(verbs.Claim(session="s", task="t", retry=0))) == Code.DRAINING
    client.heartbeat(BEAT)
    client.submit(verbs.Submit(session="s", task="t", key=KEY, blob=BLOB))


# ---- The line is gone, and comes back --------------------------------------------------------------------------------


class Waiting:
    """A pause without sleeping: it counts, and does something at a given time."""

    def __init__(self, then: Callable[[], None], *, after: int) -> None:
        self.pauses: list[float] = []
        self.now = 0.0
        self._then = then
        self._after = after

    def __call__(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        if len(self.pauses) == self._after:
            self._then()
        return False


def test_a_coordinator_that_comes_late_is_waited_for_and_told_of_once(serve: Serve, authority: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told: list[LinkState] = []
    waiting = Waiting(lambda: serve(port=port), after=4)
    with Client(
        f"127.0.0.1:{port}", authority.site(), tell=told.append, pause=waiting, clock=lambda: waiting.now,
        jitter=lambda: 0.5,
    ) as client:  # fmt: skip
        assert client.hello(HELLO).session == "s1"
        assert client.link is not None
        assert client.link.connected
    assert waiting.pauses == [0.5, 1.0, 2.0, 4.0]
    assert [state.connected for state in told] == [False, True]
    assert "UNAVAILABLE" in told[0].reason


def test_patience_ends_with_advice(authority: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    waiting = Waiting(lambda: None, after=0)
    with (
        Client(
            f"127.0.0.1:{port}", authority.site(), patience_s=100.0, pause=waiting, clock=lambda: waiting.now,
            jitter=lambda: 0.999, tell=lambda state: None,
        ) as client,
        pytest.raises(Unreachable, match=r"no answer from the coordinator at .* in 63 s: .*fedloom doctor"),
    ):  # fmt: skip
        client.hello(HELLO)


def test_busy_is_waited_out_for_as_long_as_the_coordinator_says(federation: Any, authority: Any) -> None:
    seen = federation.coordinator
    seen.raises = Refused(Code.BUSY, "full.", retryable=True, retry_after_s=9.0)

    def free() -> None:
        seen.raises = None

    waiting = Waiting(free, after=2)
    client = federation.client(patience_s=None, pause=waiting, jitter=lambda: 0.5)
    client.hello(HELLO)
    assert waiting.pauses == [9.5, 10.0]


def test_a_client_that_is_closed_ends_its_calls(federation: Any) -> None:
    client = federation.client(patience_s=None)
    ended: list[BaseException] = []

    def poll() -> None:
        try:
            client.poll(verbs.Poll(session="s", wait_s=40.0))
        except Unreachable as error:
            ended.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    other = federation.client(federation.authority.site("south"))
    for _ in range(2000):
        if federation.coordinator.threads.get("poll"):
            break
        other.heartbeat(BEAT)
    client.close()
    thread.join(10.0)
    assert [str(error) for error in ended] == ["the client was closed"]
    with pytest.raises(Unreachable):
        client.hello(HELLO)


def test_events_go_on_after_the_last_one_that_came(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(caller: object, request: admin.WatchRun) -> Any:
        yield admin.RunEvent(sequence=request.since, time_s=0.0, kind="round")
        if request.since < 2:
            raise Refused(Code.BUSY, "cut.")

    client = federation.client(federation.authority.admin(), patience_s=None, pause=lambda seconds: False)
    monkeypatch.setattr(federation.server._service, "watch_run", cut)
    federation.server.stop(0.0)
    seen = federation.coordinator
    again = Server(seen, federation.authority.coordinator(), federation="trial.example", hosts=("127.0.0.1",))
    again.start()
    try:
        client = Client(
            f"127.0.0.1:{again.port}", federation.authority.admin(), pause=lambda seconds: False, patience_s=None
        )
        with client:
            assert [event.sequence for event in client.watch_run(admin.WatchRun(run="r"))] == [0, 1, 2]
    finally:
        again.stop(0.0)


# ---- Certificates change ---------------------------------------------------------------------------------------------


def test_new_certificates_are_taken_over_without_a_restart(serve: Serve, authority: Any) -> None:
    files = authority.coordinator("127.0.0.1")
    federation = serve(files)
    federation.client().hello(HELLO)
    files.chain.write_bytes(authority.coordinator("fed.example").chain.read_bytes())
    federation.client(server_name="fed.example").hello(HELLO)
    with pytest.raises(Unreachable):
        federation.client().hello(HELLO)


def test_files_that_do_not_fit_together_leave_the_certificate_in_use(
    serve: Serve, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from fedloom.secure.tls_keys import new_tls_key

    files = authority.coordinator()
    federation = serve(files)
    files.key.write_bytes(new_tls_key().stored())
    with caplog.at_level(logging.WARNING):
        federation.client().hello(HELLO)
    assert "event=certificate_kept" in caplog.text
    with pytest.raises(TlsFilesError, match="is not that of the certificate"):
        serve(files)


def test_a_site_follows_its_own_files_at_the_next_connection(federation: Any) -> None:
    files = federation.authority.site("north")
    client = federation.client(files, patience_s=None, pause=lambda seconds: False)
    client.hello(HELLO)
    files.chain.write_bytes(federation.authority.site("north-again").chain.read_bytes())
    client._channels.drop("prompt", client._channels.get("prompt"))
    client.hello(HELLO)
    assert [caller.client for caller, _ in federation.coordinator.asked] == ["north", "north-again"]
