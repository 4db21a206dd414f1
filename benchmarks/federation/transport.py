"""The line of a federation over loopback TLS: uploads, heartbeats beside waiting polls, memory of an idle client.

Flags: ``--quick`` (a tenth of everything) and ``--output FILE`` for the figures as JSON. The coordinator, the two
processes of agents and the one that uploads are processes of their own. Each agent has the connections of a real one:
a poll that waits, a heartbeat about every two seconds (six times as often as in use), certificates at both ends. An
upload is read in chunks of 1 MiB, hashed at both ends, written and fsynced by the receiver.
"""

# ruff: noqa: ARG002  # methods of a service have its arguments

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from fedloom.secure.authorities import Intermediate, Issued, issue_coordinator, issue_intermediate, issue_site, new_root
from fedloom.secure.requests import Request
from fedloom.secure.tls_keys import TlsKey, new_tls_key
from fedloom.transport import verbs
from fedloom.transport.chunks import CHUNK
from fedloom.transport.client import Client
from fedloom.transport.server import Capacity, Server
from fedloom.transport.service import Caller, Service
from fedloom.transport.tls import TlsFiles

FEDERATION = "benchmark"
BEAT_S = 2.0
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise: a figure and its limit."""

    what: str
    figure: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def held(self) -> bool:
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        return f"{self.what:<52} {self.figure:>9,.1f} {self.unit:<6} {word} {self.limit:>6,.0f}  {self.verdict}"

    @property
    def verdict(self) -> str:
        return "holds" if self.held else "MISSED"


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit code: 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description="What the line of a federation does.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    scale = 10 if given.quick else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [idle_memory(folder / "memory"), *beats_and_uploads(folder, agents=200 // scale, mib=256 // scale)]
    for line in lines:
        print(line)
    if given.output is not None:
        figures = {line.what: {"figure": line.figure, "limit": line.limit, "unit": line.unit} for line in lines}
        given.output.write_text(
            json.dumps({"load": os.getloadavg(), "lines": figures}, indent=1) + "\n", encoding="utf-8"
        )
    return 0 if all(line.held for line in lines) else 1


def beats_and_uploads(folder: Path, *, agents: int, mib: int) -> Iterator[Line]:
    """Measure uploads alone, then heartbeats of many agents, idle and beside an upload."""
    files = certificates(folder, agents)
    with in_process(coordinator, files["coordinator"], folder) as at, in_process(uploader, files["site-0"]) as up:
        address = f"127.0.0.1:{at.recv()}"
        up.send((address, mib))
        up.recv()  # the first one warms up what there is to warm
        speeds = []
        for _ in range(3):
            up.send((address, mib))
            speeds.append(up.recv())
        yield Line(
            what=f"upload of {mib} MiB", figure=statistics.median(speeds), limit=250, unit="MiB/s", at_least=True
        )
        print(f"the disk alone, written and fsynced: {disk_alone(folder, mib):.0f} MiB/s")
        halves = [[f"site-{number}" for number in range(start, agents + 1, 2)] for start in (1, 2)]
        with (
            in_process(agent_process, address, [files[name] for name in halves[0]]) as first,
            in_process(agent_process, address, [files[name] for name in halves[1]]) as second,
        ):
            both = (first, second)
            for each in both:
                each.recv()  # all of them poll
            beaten(both, 2 * BEAT_S)
            late = beaten(both, 8 * BEAT_S)
            yield Line(what=f"heartbeats of {agents} agents, idle: 99 %", figure=late, limit=30, unit="ms")
            up.send((address, 4 * mib))
            late = beaten(both, None, until=up)
            yield Line(what=f"heartbeats of {agents} agents, beside an upload: 99 %", figure=late, limit=250, unit="ms")
        at.send("stop")
        print(f"coordinator: {at.recv():.0f} MB resident at most")


def disk_alone(folder: Path, mib: int) -> float:
    """Return what an upload cannot be faster than."""
    block = os.urandom(CHUNK)
    speeds = []
    for _ in range(3):
        path = folder / "alone"
        began = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(mib):
                file.write(block)
            os.fsync(file.fileno())
        speeds.append(mib / (time.perf_counter() - began))
        path.unlink()
    return statistics.median(speeds)


def idle_memory(folder: Path) -> Line:
    """Measure a process that polls and does nothing else."""
    files = certificates(folder, 1)
    with in_process(coordinator, files["coordinator"], folder) as at:
        with in_process(idle, f"127.0.0.1:{at.recv()}", files["site-1"]) as client:
            figure = client.recv()
        at.send("stop")
        at.recv()
    return Line(what="idle client: resident", figure=figure, limit=110, unit="MB")


def beaten(agents: Sequence[Connection], seconds: float | None, *, until: Connection | None = None) -> float:
    """Let the agents beat for a time, or until something is over, and return their 99th percentile in ms."""
    for each in agents:
        each.send("begin")
    if until is not None:
        print(f"upload beside the heartbeats: {until.recv():.0f} MiB/s")
    elif seconds is not None:
        time.sleep(seconds)
    for each in agents:
        each.send("end")
    delays = sorted(delay for each in agents for delay in each.recv())
    return float(delays[int(0.99 * (len(delays) - 1))] * 1000)


# ---- Processes -------------------------------------------------------------------------------------------------------


@contextmanager
def in_process(run: Any, *given: Any) -> Iterator[Connection]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=run, args=(theirs, *given), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(10.0)
        process.kill()


def coordinator(pipe: Connection, files: TlsFiles, folder: Path) -> None:
    server = Server(
        cast(Service, OnDisk(folder)), files, federation=FEDERATION, hosts=("127.0.0.1",), capacity=Capacity(sites=220)
    )
    server.start()
    pipe.send(server.port)
    pipe.recv()
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    server.stop(0.0)


def uploader(pipe: Connection, files: TlsFiles) -> None:
    block = os.urandom(CHUNK)
    twice = block * 2

    def read(offset: int, size: int) -> bytes:
        start = offset % CHUNK
        return block if start == 0 and size == CHUNK else twice[start : start + size]

    for number in range(1 << 30):
        try:
            address, mib = pipe.recv()
        except EOFError:
            return
        digest = hashlib.sha256()
        for _ in range(mib):
            digest.update(block)
        blob = verbs.Blob(digest=digest.digest(), length=mib * CHUNK)
        began = time.perf_counter()
        with Client(address, files, patience_s=10.0) as client:
            client.upload(verbs.BeginUpload(session="s", task=f"{number}", retry=0, blob=blob), read)
        pipe.send(mib / (time.perf_counter() - began))


def agent_process(pipe: Connection, address: str, files: Sequence[TlsFiles]) -> None:
    clients = [Client(address, each, patience_s=60.0) for each in files]
    beating, over = threading.Event(), threading.Event()
    lock = threading.Lock()
    delays: list[float] = []

    def poll(client: Client) -> None:
        while not over.is_set():
            client.poll(verbs.Poll(session="s", wait_s=40.0))

    def beat(client: Client, first_s: float) -> None:
        over.wait(first_s)
        while not over.is_set():
            began = time.perf_counter()
            client.heartbeat(verbs.Heartbeat(session="s"))
            took = time.perf_counter() - began
            if beating.is_set():
                with lock:
                    delays.append(took)
            over.wait(BEAT_S)

    for client in clients:
        client.heartbeat(verbs.Heartbeat(session="s"))
    for number, client in enumerate(clients):
        first_s = BEAT_S * number / len(clients)
        for target, given in ((poll, (client,)), (beat, (client, first_s))):
            threading.Thread(target=target, args=given, daemon=True).start()
    pipe.send("ready")
    try:
        while True:
            pipe.recv()
            beating.set()
            pipe.recv()
            beating.clear()
            with lock:
                pipe.send(tuple(delays))
                delays.clear()
    except EOFError:
        over.set()
    os._exit(0)  # 200 threads wait for polls that nobody will answer


def idle(pipe: Connection, address: str, files: TlsFiles) -> None:
    with Client(address, files, patience_s=10.0) as client:
        client.heartbeat(verbs.Heartbeat(session="s"))
        client.poll(verbs.Poll(session="s", wait_s=0.0))
        threading.Thread(target=client.poll, args=(verbs.Poll(session="s", wait_s=40.0),), daemon=True).start()
        client.heartbeat(verbs.Heartbeat(session="s"))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    os._exit(0)


# ---- What is measured against ----------------------------------------------------------------------------------------


class OnDisk:
    """As much of a coordinator as is asked here: polls wait, uploads go to a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[str, _Upload] = {}
        self._never = threading.Event()

    def __getattr__(self, name: str) -> Any:
        # The server looks up every verb; the ones that nobody calls here need no body.
        if name.startswith("_"):
            raise AttributeError(name)
        return None

    def authorise(self, caller: Caller) -> None:
        return None

    def poll(self, caller: Caller, request: verbs.Poll) -> verbs.Offers:
        self._never.wait(request.wait_s)
        return verbs.Offers()

    def heartbeat(self, caller: Caller, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        return verbs.HeartbeatReply(server_time_s=time.time())

    def begin_upload(self, caller: Caller, request: verbs.BeginUpload) -> verbs.UploadAt:
        if request.task not in self._uploads:
            self._uploads[request.task] = _Upload(self._folder / f"upload-{request.task}", request.blob)
        return self._uploads[request.task].at(request.task)

    def resume_upload(self, caller: Caller, request: verbs.Upload) -> verbs.UploadAt:
        return self._uploads[request.upload].at(request.upload)

    def write_chunk(self, caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        return self._uploads[upload].write(offset, data)

    def finish_upload(self, caller: Caller, upload: str) -> None:
        self._uploads[upload].finish()


class _Upload:
    def __init__(self, path: Path, blob: verbs.Blob) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)
        self._blob = blob
        self._digest = hashlib.sha256()
        self._committed = 0
        self._done = False

    def at(self, name: str) -> verbs.UploadAt:
        return verbs.UploadAt(upload=name, offset=self._committed, length=self._blob.length, done=self._done)

    def write(self, offset: int, data: memoryview) -> int:
        if offset == self._committed:
            self._file.write(data)
            self._digest.update(data)
            self._committed += len(data)
        return self._committed

    def finish(self) -> None:
        os.fsync(self._file.fileno())
        if self._digest.digest() != self._blob.digest:
            raise ValueError("the upload has another digest")
        self._done = True
        self._file.close()
        self._path.unlink()


def certificates(folder: Path, agents: int) -> dict[str, TlsFiles]:
    """Make a federation; all share one key, which costs most."""
    folder.mkdir(exist_ok=True)
    now = time.time()
    root = new_root(FEDERATION, now=now)
    intermediate: Intermediate = issue_intermediate(root, now=now)
    key = new_tls_key()
    asked = Request(public=key.public, signing=bytes(32), digest=bytes(32))

    def kept(name: str, issued: Issued, own: TlsKey) -> TlsFiles:
        files = TlsFiles(root=folder / "root.pem", chain=folder / f"{name}.pem", key=folder / "key.pem")
        files.chain.write_bytes(issued.chain)
        files.root.write_bytes(root.anchor.certificate)
        files.key.write_bytes(own.stored())
        return files

    server = issue_coordinator(intermediate, key, names=["127.0.0.1"], now=now)
    made = {"coordinator": kept("coordinator", server, key)}
    for number in range(agents + 1):
        name = f"site-{number}"
        issued = issue_site(intermediate, asked, organisation=f"o{number}", client=name, now=now)
        made[name] = kept(name, issued, key)
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
