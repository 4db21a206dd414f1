"""Lines that break: sites behind a proxy that cuts, refuses, swallows and damages (C1, C2, C3, C4, C6, C9)."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId
from fedloom.engines.site_agent import SiteAgent
from fedloom.engines.site_answers import SiteData
from fedloom.engines.site_hand import Limits
from fedloom.engines.site_messages import Looked, SiteSetup, Train, Trained
from fedloom.engines.site_worker import SiteWorker
from fedloom.secure.authorities import issue_coordinator, issue_intermediate, issue_site, new_root
from fedloom.secure.requests import Request
from fedloom.secure.roster import LocalIdentity
from fedloom.secure.tls_keys import new_tls_key
from fedloom.store.site_store import SiteStore
from fedloom.transport import channels, verbs
from fedloom.transport import server as server_module
from fedloom.transport.backoff import LinkState
from fedloom.transport.client import Client
from fedloom.transport.errors import Unreachable
from fedloom.transport.server import Capacity, Server
from fedloom.transport.tls import TlsFiles

END_S = 20.0
What = Literal["cut", "swallow", "flip"]


@dataclass(frozen=True)
class Fate:
    """What becomes of a connection after so many bytes, both ways together; by default nothing."""

    after: int = 1 << 40
    what: What = "cut"
    idle_s: float = END_S
    """Without a byte for so long, either way, the connection is cut."""


class Proxy:
    """A TCP proxy of loopback. ``fate`` says of each connection, by its number, what becomes of it."""

    def __init__(self, target: int, fate: Callable[[int], Fate] = lambda _number: Fate()) -> None:
        self.fate = fate
        self.made = 0
        self.met: list[What] = []
        self._target = target
        self._turn = threading.Lock()
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Take connections, always at the same port."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._start(self._accept, listener)

    def refuse(self) -> None:
        """Cut all connections, and take none until ``listen``."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._turn:
            pairs, self._open = self._open, []
        for pair in pairs:
            _end(*pair)

    def close(self) -> None:
        self.refuse()
        for thread in self._threads:
            thread.join(END_S)
            assert not thread.is_alive(), "a thread of the proxy does not end"

    def _start(self, work: Callable[..., None], *given: Any) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target), timeout=END_S)
            except OSError:
                return
            with self._turn:
                number, self.made = self.made, self.made + 1
                self._open.append((near, far))
            fate = self.fate(number)
            for each in (near, far):
                each.settimeout(fate.idle_s)
            line = _Line(fate, self.met)
            self._start(line.pump, near, far)
            self._start(line.pump, far, near)


class _Line:
    """One connection, both ways."""

    def __init__(self, fate: Fate, met: list[What]) -> None:
        self._fate = fate
        self._met = met
        self._count = 0
        self._turn = threading.Lock()
        self._last = time.monotonic()

    def _heard(self, source: socket.socket) -> bytes:
        """Return what comes next; wait on where the other way is not idle."""
        while True:
            try:
                data = source.recv(16 << 10)
            except TimeoutError:
                if time.monotonic() - self._last >= self._fate.idle_s:
                    raise
                continue
            self._last = time.monotonic()
            return data

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := self._heard(source):
                with self._turn:
                    before, self._count = self._count, self._count + len(data)
                    left = self._fate.after - before
                    meets = 0 <= left < len(data)
                if meets:
                    self._met.append(self._fate.what)
                if self._fate.what == "flip":
                    place = left if meets else -1
                    sink.sendall(bytes(byte ^ (0x20 if at == place else 0) for at, byte in enumerate(data)))
                elif left >= len(data):
                    sink.sendall(data)
                elif self._fate.what == "cut":
                    sink.sendall(data[: max(0, left)])
                    break
        _end(source, sink)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


class Hand:
    """Trains in the agent's own thread; ``before`` is called first."""

    def __init__(self, setup: SiteSetup, before: Callable[[], None]) -> None:
        self._setup = setup
        self._worker: SiteWorker | None = None
        self._before = before

    def look(self) -> Looked:
        return self._made().look()

    def train(self, asked: Train) -> Trained:
        self._before()
        return self._made().train(asked)

    def _made(self) -> SiteWorker:
        if self._worker is None:
            self._worker = SiteWorker.of(self._setup)
        return self._worker

    def cancel(self) -> None:
        """Nothing hangs here."""

    def close(self) -> None:
        self._worker = None


class Answers:
    """The calls of a scene's coordinator, for whoever has a certificate."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene

    def authorise(self, caller: object) -> None:
        del caller

    def __getattr__(self, name: str) -> Any:
        # The server looks up every verb; those of operators have no answer here.
        return getattr(self._scene.open().calls, name, None)


class Far:
    """One site, whose line goes through a proxy."""

    def __init__(self, scene: Any, name: str, files: TlsFiles, proxy: Proxy) -> None:
        self.name = name
        self.proxy = proxy
        self.said: list[bool] = []
        self.reasons: list[str] = []
        self.trained = 0
        self.before: Callable[[], None] = lambda: None
        self.waiting = threading.Event()
        self.error: BaseException | None = None
        self.agent: SiteAgent | None = None
        self._scene = scene
        self.line = Client(f"127.0.0.1:{proxy.port}", files, jitter=lambda: 0.01, tell=self._tell)
        self.thread = threading.Thread(target=self._live, name=f"site {name}", daemon=True)

    def _tell(self, state: LinkState) -> None:
        self.said.append(state.connected)
        self.reasons.append(state.reason)
        if not state.connected:
            self.waiting.set()

    def _train(self) -> None:
        self.trained += 1
        self.before()

    def _live(self) -> None:
        scene, client = self._scene, ClientId(self.name)
        source = ComponentSpec("fedloom.datasets", "csv", {"path": f"{self.name}.csv", "client": "hospital"})

        def hand(setup: SiteSetup, *, limits: Limits, moved: Callable[[], None]) -> Hand:
            del limits, moved
            return Hand(setup, self._train)

        try:
            with SiteStore(scene.folder / f"site-{self.name}") as store:
                self.agent = SiteAgent(
                    self.line,
                    store,
                    LocalIdentity(client, scene.keys[client]),
                    roster=lambda: scene.roster,
                    data=lambda _experiment: SiteData(source=source, base=scene.base),
                    judge=lambda _asked: (),
                    hand=hand,
                    coordinator=lambda: scene.key.public,
                    inline=scene.inline,
                )
                self.agent.serve()
        except Unreachable:
            pass  # the line was closed: the test is over
        except BaseException as error:
            self.error = error


@dataclass
class Net:
    """A federation whose sites are behind proxies."""

    scene: Any
    server: Server
    sites: dict[str, Far]

    def run(self) -> None:
        """Take the run to its end: the model is that of a simulation, and every site was asked for everything once."""
        expected = self.scene.simulated()
        for site in self.sites.values():
            site.thread.start()
        result = self.scene.run()
        for site in self.sites.values():
            assert site.error is None, site.error
        assert result.model_sha256 == expected.model_sha256
        rounds = [record for record in result.records if record.program != "query"]
        assert all(not record.failures for record in rounds)
        orders = [sent for sent in self.scene.contributions() if sent.phase >= 0 and sent.step == 0]
        assert len(orders) == sum(site.trained for site in self.sites.values()), "each order is carried out once"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    """Files of a coordinator and three sites; all share a key, which costs most."""
    folder, now = tmp_path_factory.mktemp("certificates"), time.time()
    root = new_root("trial", now=now)
    intermediate = issue_intermediate(root, now=now)
    key = new_tls_key()
    asked = Request(public=key.public, signing=bytes(32), digest=bytes(32))
    issued = {"coordinator": issue_coordinator(intermediate, key, names=["127.0.0.1"], now=now)}
    for name in ("center", "east", "north"):
        issued[name] = issue_site(intermediate, asked, organisation=name, client=name, now=now)
    (folder / "root.pem").write_bytes(root.anchor.certificate)
    (folder / "key.pem").write_bytes(key.stored())
    files = {}
    for name, each in issued.items():
        (folder / f"{name}.pem").write_bytes(each.chain)
        files[name] = TlsFiles(root=folder / "root.pem", chain=folder / f"{name}.pem", key=folder / "key.pem")
    return files


@pytest.fixture
def net(scene: Callable[..., Any], certificates: dict[str, TlsFiles], tmp_path: Path) -> Iterator[Callable[..., Net]]:
    """Return a maker of one federation; what it started is ended with the test."""
    del tmp_path
    with ExitStack() as stack:

        def make(fate: Callable[[int], Fate] = lambda _number: Fate(), **settings: Any) -> Net:
            made = scene(**({"rounds": 2, "prepare": False} | settings))
            made.open()
            server = Server(
                Answers(made),
                certificates["coordinator"],
                federation="trial",
                hosts=("127.0.0.1",),
                capacity=Capacity(sites=8),
            )
            server.start()
            stack.callback(server.stop, 0.0)
            sites = {}
            for name in made.names:
                proxy = Proxy(server.port, fate)
                stack.callback(proxy.close)
                sites[name] = Far(made, name, certificates[name], proxy)
                stack.callback(_gone, sites[name])
            made.places = sites
            return Net(made, server, sites)

        yield make


def _gone(site: Far) -> None:
    if site.agent is not None:
        site.agent.stop()
    site.line.close()
    if site.thread.ident is not None:
        site.thread.join(END_S)
        assert not site.thread.is_alive(), f"site {site.name} does not end"


def test_c1_sites_that_come_before_their_coordinator_wait_and_say_so_once(net: Callable[..., Net]) -> None:
    made = net()
    for site in made.sites.values():
        site.proxy.refuse()

    def open_late() -> None:
        for site in made.sites.values():
            assert site.waiting.wait(END_S)
        for site in made.sites.values():
            site.proxy.listen()

    late = threading.Thread(target=open_late, daemon=True)
    late.start()
    made.run()
    late.join(END_S)
    assert [site.said for site in made.sites.values()] == [[False, True]] * 3


@pytest.mark.parametrize("after", [300, 6_000, 25_000])
def test_c2_lines_that_are_cut_after_some_bytes_change_nothing(net: Callable[..., Net], after: int) -> None:
    made = net(lambda number: Fate(after) if number < 4 else Fate())
    made.run()
    assert all(site.proxy.met for site in made.sites.values())


@pytest.mark.slow
def test_c2_three_of_ten_connections_are_cut_at_random_under_a_secure_sum(net: Callable[..., Net]) -> None:
    draw = random.Random(4)

    def fate(number: int) -> Fate:
        del number
        return Fate(draw.randrange(30_000) if draw.random() < 0.3 else 100_000)

    made = net(fate, aggregator="secure_sum", rounds=1)
    made.run()
    assert sum(len(site.proxy.met) for site in made.sites.values()) >= 2


def test_c2_a_site_trains_on_while_the_line_is_down_and_sends_when_it_is_back(net: Callable[..., Net]) -> None:
    made = net()
    east = made.sites["east"]

    def down() -> None:
        if east.trained == 1:
            east.proxy.refuse()
            threading.Thread(target=up, daemon=True).start()

    def up() -> None:
        assert east.waiting.wait(END_S)  # it has trained, and found that nobody answers
        east.proxy.listen()

    east.before = down
    made.run()
    assert east.said == [True, False, True]
    assert made.sites["north"].said == [True]


def test_c3_a_line_that_swallows_everything_is_noticed_and_made_anew(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    hundredth(monkeypatch, client=True, server=True)
    made = net(lambda number: Fate(12_000, "swallow") if number == 0 else Fate())
    began = time.monotonic()
    made.run()
    assert time.monotonic() - began < END_S / 2, "nobody waited for the proxy to give up"
    assert all("swallow" in site.proxy.met for site in made.sites.values())


def hundredth(monkeypatch: pytest.MonkeyPatch, *, client: bool, server: bool) -> None:
    """Let times of the line go a hundred times as fast, at either end."""
    pings = {"grpc.keepalive_time_ms": 300, "grpc.keepalive_timeout_ms": 200, "grpc.http2.ping_timeout_ms": 200}
    assert all(dict(channels._OPTIONS)[name] == 100 * value for name, value in pings.items())
    allowed = {"grpc.http2.min_ping_interval_without_data_ms": 200}
    assert all(dict(server_module._OPTIONS)[name] == 100 * value for name, value in allowed.items())
    if client:
        monkeypatch.setattr(channels, "_OPTIONS", _with(channels._OPTIONS, pings))
    if server:
        monkeypatch.setattr(server_module, "_OPTIONS", _with(server_module._OPTIONS, allowed))


def held_back(made: Net, until: Callable[[], bool]) -> None:
    """Let east train until something has happened; the others wait for work meanwhile."""
    east, tick = made.sites["east"], threading.Event()

    def wait() -> None:
        limit = time.monotonic() + END_S
        while east.trained == 1 and not until():
            assert time.monotonic() < limit, "it did not happen"
            tick.wait(0.01)

    east.before = wait


@pytest.mark.parametrize("pings", [pytest.param(True, marks=pytest.mark.slow), False])
def test_c4_a_proxy_that_drops_idle_lines_is_kept_awake_or_not_noticed(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch, pings: bool
) -> None:
    """Lines are cut after 60 s of silence, pings come every 30 s: here 2 s and 1 s, the least that gRPC takes."""
    hundredth(monkeypatch, client=pings, server=True)
    made = net(lambda _number: Fate(idle_s=2.0 if pings else 0.6))
    north, seen = made.sites["north"], []

    def long_enough() -> bool:
        """Whether north has waited for longer than idle lines live; without pings, whether its line was made anew."""
        seen.append(time.monotonic())
        return seen[-1] - seen[0] > 5.0 if pings else False in north.said

    held_back(made, long_enough)
    made.run()
    if pings:
        assert north.said == [True], north.reasons
    else:
        assert north.said[:3] == [True, False, True], north.reasons


@pytest.mark.slow
def test_c6_a_server_that_wants_fewer_pings_costs_a_new_line_and_one_word(
    net: Callable[..., Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our settings it cannot be: 30 s at sites, 20 s at coordinators. Here a site asks each second."""
    asks, allows = dict(channels._OPTIONS), dict(server_module._OPTIONS)
    assert asks["grpc.keepalive_time_ms"] > allows["grpc.http2.min_ping_interval_without_data_ms"]
    hundredth(monkeypatch, client=True, server=False)
    made = net()
    held_back(made, lambda: False in made.sites["north"].said)
    made.run()
    assert made.sites["north"].said[:3] == [True, False, True]
    assert "too many pings" in made.sites["north"].reasons[1].lower()


def _with(options: tuple[tuple[str, Any], ...], changed: dict[str, int]) -> tuple[tuple[str, Any], ...]:
    return (*((name, value) for name, value in options if name not in changed), *changed.items())


@pytest.mark.parametrize("after", [200, 9_000])
def test_c9_a_byte_that_flips_on_the_way_ends_the_line_and_nothing_else(net: Callable[..., Net], after: int) -> None:
    made = net(lambda number: Fate(after, "flip") if number < 2 else Fate())
    made.run()
    assert all("flip" in site.proxy.met for site in made.sites.values())


def test_a_newer_poll_ends_an_older_one_whose_line_was_cut(scene: Callable[..., Any]) -> None:
    made = scene()
    made.open()
    wire = made.wire("east")
    said = verbs.Hello(federation="trial", version="0.1", store_epoch=f"{1:016x}:1:{1:016x}")
    session = wire.hello(said).session
    began = time.monotonic()
    waiting = [
        threading.Thread(target=wire.poll, args=(verbs.Poll(session=session, wait_s=5.0),), daemon=True)
        for _ in range(3)
    ]
    for thread in waiting:
        thread.start()
    while sum(thread.is_alive() for thread in waiting) > 1:
        assert time.monotonic() - began < 4.0, "they hold their places"
        waiting[0].join(0.01)
    wire.poll(verbs.Poll(session=session, wait_s=0.0))
    for thread in waiting:
        thread.join(END_S)
    assert time.monotonic() - began < 4.0


def test_what_is_the_same_in_every_round_is_fetched_once(scene: Callable[..., Any]) -> None:
    made = scene(sites=2, rounds=3, prepare=False)
    fetched: Counter[tuple[str, bytes]] = Counter()

    def on_call(site: str, verb: str, when: str, request: Any) -> bool:
        if (verb, when) == ("fetch", "after"):
            fetched[site, request.digest] += 1
        return False

    made.on_call = on_call
    made.run()
    book = made.open().store.rounds
    keys = [each.key for each in book.rounds(made.run_id()) if each.key.phase >= 0]
    facts = {bytes.fromhex(task.inputs[1]) for key in keys for task in book.tasks_of(key)}
    assert len(keys) > 3
    assert all(fetched[site, digest] == 1 for site in made.names for digest in facts)


def test_a_worker_that_nobody_asks_for_is_ended_and_made_again_when_it_is(scene: Callable[..., Any]) -> None:
    made = scene(sites=2, rounds=1, prepare=False)
    made.run()
    agent: Any = made.places["east"].agent
    (work,) = agent._answers._runs.values()
    agent._rest(verbs.Offers(), 100.0)
    assert work.hand._worker is not None, "it is kept warm"
    agent._rest(verbs.Offers(), 500.0)
    assert work.hand._worker is None
    assert work.hand.look().facts
