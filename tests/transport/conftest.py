"""A federation of certificates, and a coordinator that keeps its blobs in memory."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedloom.secure.authorities import (
    Intermediate,
    Issued,
    Root,
    issue_admin,
    issue_coordinator,
    issue_intermediate,
    issue_site,
    new_root,
)
from fedloom.secure.requests import Request
from fedloom.secure.tls_keys import new_tls_key
from fedloom.transport import admin, verbs
from fedloom.transport.client import Client
from fedloom.transport.errors import Code, Refusal, Refused
from fedloom.transport.server import Capacity, Server
from fedloom.transport.service import Caller
from fedloom.transport.tls import TlsFiles

FEDERATION = "trial.example"
DAY = 86400.0


class Authority:
    """Issues what tests need, right and wrong; keys are made once, for they cost most."""

    def __init__(self, folder: Path, federation: str = FEDERATION) -> None:
        self.folder = folder
        self.now = time.time()
        self.root: Root = new_root(federation, now=self.now - 100 * DAY)
        self.intermediate: Intermediate = issue_intermediate(self.root, now=self.now - 90 * DAY, days=400)
        self.key = new_tls_key()
        self._count = 0

    def coordinator(self, *names: str, now: float | None = None) -> TlsFiles:
        wanted = names or ("localhost", "127.0.0.1", "::1")
        return self.files(issue_coordinator(self.intermediate, self.key, names=wanted, now=now or self.now))

    def site(self, client: str = "north", *, organisation: str = "clinic", now: float | None = None) -> TlsFiles:
        return self.files(
            issue_site(self.intermediate, self.request, organisation=organisation, client=client, now=now or self.now)
        )

    def admin(self, name: str = "kim") -> TlsFiles:
        return self.files(issue_admin(self.intermediate, self.request, name=name, now=self.now))

    @property
    def request(self) -> Request:
        return Request(public=self.key.public, signing=b"\0" * 32, token=b"", digest=b"")

    def files(self, issued: Issued, *, root: bytes | None = None, key: bytes | None = None) -> TlsFiles:
        self._count += 1
        folder = self.folder / f"{self.root.federation}-{self._count}"
        folder.mkdir()
        files = TlsFiles(root=folder / "root.pem", chain=folder / "chain.pem", key=folder / "key.pem")
        files.root.write_bytes(root or self.root.anchor.certificate)
        files.chain.write_bytes(issued.chain)
        files.key.write_bytes(key or self.key.stored())
        return files


@dataclass
class Held:
    """An upload in memory."""

    blob: verbs.Blob
    data: bytearray = field(default_factory=bytearray)
    done: bool = False


@dataclass
class Reader:
    """A blob in memory, and whether it was closed."""

    data: bytes
    closed: bool = False
    damaged: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def close(self) -> None:
        self.closed = True


class Coordinator:
    """A service that remembers who asked what, and from which thread it was asked."""

    def __init__(self) -> None:
        self.denied: dict[str, Refusal] = {}
        self.asked: list[tuple[Caller, object]] = []
        self.threads: dict[str, str] = {}
        self.uploads: dict[str, Held] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.readers: list[Reader] = []
        self.release = threading.Event()
        self.raises: BaseException | None = None
        self.sizes: list[int] = []
        self.events = 3

    def authorise(self, caller: Caller) -> Refusal | None:
        return self.denied.get(caller.client)

    def _note(self, verb: str, caller: Caller, request: object) -> None:
        self.asked.append((caller, request))
        self.threads[verb] = threading.current_thread().name
        if self.raises is not None:
            raise self.raises

    def hello(self, caller: Caller, request: verbs.Hello) -> verbs.HelloReply:
        self._note("hello", caller, request)
        return verbs.HelloReply(session="s1", session_epoch=1, version="0.1.0", server_time_s=5.0)

    def poll(self, caller: Caller, request: verbs.Poll) -> verbs.Offers:
        self._note("poll", caller, request)
        if request.wait_s:
            self.release.wait(request.wait_s)
        return verbs.Offers()

    def claim(self, caller: Caller, request: verbs.Claim) -> verbs.Claimed:
        self._note("claim", caller, request)
        return verbs.Claimed(task=request.task, lease_s=60.0)

    def decline(self, caller: Caller, request: verbs.Decline) -> verbs.Noted:
        self._note("decline", caller, request)
        return verbs.Noted()

    def heartbeat(self, caller: Caller, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        self._note("heartbeat", caller, request)
        return verbs.HeartbeatReply(server_time_s=6.0)

    def submit(self, caller: Caller, request: verbs.Submit) -> verbs.SubmitReply:
        self._note("submit", caller, request)
        return verbs.SubmitReply(verdict="ACCEPTED")

    def fail(self, caller: Caller, request: verbs.Fail) -> verbs.SubmitReply:
        self._note("fail", caller, request)
        return verbs.SubmitReply(verdict="ACCEPTED")

    def approve(self, caller: Caller, request: verbs.Approve) -> verbs.Noted:
        self._note("approve", caller, request)
        return verbs.Noted()

    def recall(self, caller: Caller, request: verbs.Recall) -> verbs.Recalled:
        self._note("recall", caller, request)
        return verbs.Recalled()

    def record(self, caller: Caller, request: verbs.Record) -> verbs.RecordReply:
        self._note("record", caller, request)
        return verbs.RecordReply(store_epoch="0f0f0f0f0f0f0f0f:1:abababababababab")

    def adopt(self, caller: Caller, request: verbs.Adopt) -> verbs.Noted:
        self._note("adopt", caller, request)
        return verbs.Noted()

    def goodbye(self, caller: Caller, request: verbs.Goodbye) -> verbs.Noted:
        self._note("goodbye", caller, request)
        return verbs.Noted()

    # ---- Blobs

    def open_blob(self, caller: Caller, request: verbs.Fetch) -> Reader:
        self._note("open_blob", caller, request)
        if request.digest not in self.blobs:
            raise Refused(Code.NOT_FOUND, "no such blob.")
        self.readers.append(Reader(self.blobs[request.digest]))
        return self.readers[-1]

    def begin_upload(self, caller: Caller, request: verbs.BeginUpload) -> verbs.UploadAt:
        self._note("begin_upload", caller, request)
        name = f"{caller.client}-{request.task}-{request.retry}"
        held = self.uploads.setdefault(name, Held(request.blob))
        return self._at(name, held)

    def resume_upload(self, caller: Caller, request: verbs.Upload) -> verbs.UploadAt:
        self._note("resume_upload", caller, request)
        if not request.upload.startswith(f"{caller.client}-") or request.upload not in self.uploads:
            raise Refused(Code.NOT_FOUND, "no such upload.")
        return self._at(request.upload, self.uploads[request.upload])

    def write_chunk(self, caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        held = self.uploads[upload].data
        if offset <= len(held):
            held += data[len(held) - offset :]
        self.sizes.append(len(data))
        return len(held)

    def finish_upload(self, caller: Caller, upload: str) -> None:
        held = self.uploads[upload]
        if hashlib.sha256(held.data).digest() != held.blob.digest:
            held.data.clear()
            raise Refused(Code.CORRUPT_UPLOAD, "the upload has another digest.", retryable=True)
        held.done = True

    def _at(self, name: str, held: Held) -> verbs.UploadAt:
        return verbs.UploadAt(upload=name, offset=len(held.data), length=held.blob.length, done=held.done)

    # ---- Operators

    def _run(self, caller: Caller, request: object) -> admin.RunAt:
        self._note("run", caller, request)
        return admin.RunAt(run="r1", name="heart", state="READY")

    def create_run(self, caller: Caller, request: admin.CreateRun) -> admin.RunAt:
        return self._run(caller, request)

    def approve_run(self, caller: Caller, request: admin.ApproveRun) -> admin.RunAt:
        return self._run(caller, request)

    def pause(self, caller: Caller, request: admin.Pause) -> admin.RunAt:
        return self._run(caller, request)

    def resume(self, caller: Caller, request: admin.Resume) -> admin.RunAt:
        return self._run(caller, request)

    def abort(self, caller: Caller, request: admin.Abort) -> admin.RunAt:
        return self._run(caller, request)

    def list_runs(self, caller: Caller, request: admin.ListRuns) -> admin.RunList:
        return admin.RunList(runs=(self._run(caller, request),))

    def watch_run(self, caller: Caller, request: admin.WatchRun) -> Iterator[admin.RunEvent]:
        self._note("watch_run", caller, request)
        for sequence in range(request.since, self.events):
            yield admin.RunEvent(sequence=sequence, time_s=0.0, kind="round")

    def list_sites(self, caller: Caller, request: admin.ListSites) -> admin.SiteList:
        self._note("list_sites", caller, request)
        return admin.SiteList(sites=())

    def invite_site(self, caller: Caller, request: admin.InviteSite) -> admin.Invitation:
        self._note("invite_site", caller, request)
        return admin.Invitation(token="t", expires_s=0.0)

    def revoke(self, caller: Caller, request: admin.Revoke) -> verbs.Noted:
        self._note("revoke", caller, request)
        return verbs.Noted()

    def readmit(self, caller: Caller, request: admin.Readmit) -> verbs.Noted:
        self._note("readmit", caller, request)
        return verbs.Noted()

    def health(self, caller: Caller, request: admin.Health) -> admin.HealthReply:
        self._note("health", caller, request)
        return admin.HealthReply(ready=True, version="0.1.0", server_time_s=7.0)


@dataclass
class Federation:
    """A server that runs, and clients for it."""

    authority: Authority
    coordinator: Coordinator
    server: Server
    opened: list[Client] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def client(self, files: TlsFiles | None = None, **options: object) -> Client:
        settings: dict[str, object] = {"patience_s": 0.0, "jitter": lambda: 0.001} | options
        client = Client(self.address, files or self.authority.site(), **settings)  # type: ignore[arg-type]
        self.opened.append(client)
        return client


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another federation, with a root of its own."""
    return Authority(tmp_path_factory.mktemp("other"), "other.example")


@pytest.fixture(scope="session")
def same_name(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody else's root that calls itself by the same name."""
    return Authority(tmp_path_factory.mktemp("same"), FEDERATION)


@pytest.fixture
def serve(authority: Authority) -> Iterator[Callable[..., Federation]]:
    """Start servers, and stop them at the end."""
    running: list[Federation] = []

    def start(files: TlsFiles | None = None, **options: object) -> Federation:
        coordinator = Coordinator()
        settings: dict[str, object] = {"hosts": ("127.0.0.1",), "capacity": Capacity(sites=4)} | options
        server = Server(coordinator, files or authority.coordinator(), federation=FEDERATION, **settings)  # type: ignore[arg-type]
        server.start()
        running.append(Federation(authority, coordinator, server))
        return running[-1]

    yield start
    for federation in running:
        federation.coordinator.release.set()
        for client in federation.opened:
            client.close()
        federation.server.stop(0.0)


@pytest.fixture
def federation(serve: Callable[..., Federation]) -> Federation:
    return serve()
