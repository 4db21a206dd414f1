"""A whole federation in one process: a coordinator, sites as threads, and a line between them that tests can cut.

A coordinator or a site is killed by an exception at one of its store's crash points or at a call: from then on nothing
of it becomes durable any more, and what comes next begins from its folder. Training happens in the thread of the
agent, or, where a test says so, in the processes of a real federation.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec import structs

import fedloom
from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Member
from fedloom.engines import handshake_round
from fedloom.engines.desk import Desk, Halted
from fedloom.engines.federation import Federation
from fedloom.engines.journal import Journal
from fedloom.engines.remote_team import Patience
from fedloom.engines.site_agent import SiteAgent
from fedloom.engines.site_answers import SiteData
from fedloom.engines.site_calls import SiteCalls
from fedloom.engines.site_gate import Gate
from fedloom.engines.site_hand import Limits, SiteHand, WorkerGone
from fedloom.engines.site_messages import Looked, SiteSetup, Train, Trained
from fedloom.engines.site_worker import SiteWorker
from fedloom.experiment.config import read
from fedloom.experiment.remote import read_facts
from fedloom.experiment.spec import Experiment
from fedloom.secure.agreement import signing_key
from fedloom.secure.peers import COORDINATOR, Peer
from fedloom.secure.roster import LocalIdentity, roster
from fedloom.store import RunFolder
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs
from fedloom.transport.errors import Unreachable
from fedloom.transport.service import Caller

NAMES = ("center", "east", "north", "south", "west", "upland", "valley")
_END_S = 20.0
R = TypeVar("R")


class Killed(BaseException):
    """A process ended here, without a word."""


class Lost(Exception):
    """What was said did not arrive: it is said again."""


class Inside:
    """A hand whose worker is in the agent's own thread. It notes what it was asked to train."""

    def __init__(self, scene: Scene, name: str, setup: SiteSetup) -> None:
        self._scene = scene
        self._name = name
        self._setup = setup
        self._worker: SiteWorker | None = None

    def look(self) -> Looked:
        return self._asked(lambda worker: worker.look())

    def train(self, asked: Train) -> Trained:
        number = self._scene.note_training(self._name, asked)
        self._scene.on_train(self._name, asked, number)
        return self._asked(lambda worker: worker.train(asked))

    def cancel(self) -> None:
        self._scene.on_cancel(self._name)

    def close(self) -> None:
        self._worker = None
        self._scene.on_close(self._name)

    def _asked(self, ask: Callable[[SiteWorker], R]) -> R:
        if self._worker is None:
            self._worker = SiteWorker.of(self._setup)
            # In one process with all others it would keep their logs, too, and its agent would log them again.
            logging.getLogger("fedloom").removeHandler(self._worker.log)
        try:
            return ask(self._worker)
        except Exception as error:
            raise WorkerGone("raised", f"{type(error).__name__}: {error}") from error


class Office:
    """One life of a coordinator: its store, its desk, its answers and its engine, until it is killed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.killed = False
        self.passed: list[str] = []
        self._calls = 0
        self._idle = threading.Condition()
        self.store = FederationStore(scene.folder / "coordinator", point=self.point)
        self.desk = Desk(clock=scene.clock)
        self.calls = SiteCalls(
            self.store,
            self.desk,
            lambda: scene.roster,
            poll_s=5.0,
            heartbeat_s=scene.heartbeat_s,
            lease_s=scene.lease_s,
            identity=LocalIdentity(ClientId(COORDINATOR), scene.key),
            inline=scene.inline,
        )
        self.engine = Federation(
            self.store,
            self.desk,
            lambda: scene.roster,
            patience=scene.patience,
            least=scene.least,
            rehearsal=scene.rehearsal,
        )

    def point(self, name: str) -> None:
        """Come by a crash point: once it is killed, nothing goes on."""
        if not self.killed:
            self.passed.append(name)
            if not self.scene.on_point(name, self.passed.count(name)):
                return
            self.kill()
        raise Killed(name)

    def kill(self) -> None:
        """Let nothing become durable any more."""
        self.killed = True
        if hasattr(self, "desk"):
            self.desk.halt("killed")

    @contextmanager
    def in_call(self) -> Iterator[None]:
        with self._idle:
            self._calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def bury(self) -> None:
        """Close the files when nobody is at them any more."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self._calls, _END_S), "a call does not end"
        self.calls.close()
        self.store.close()


class Wire:
    """The line of one site: to whatever coordinator there is, again and again until there is one."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self._name = name
        self.dead = False
        self.caller = Caller(
            peer=Peer(
                federation="trial",
                role="site",
                organisation=name,
                client=ClientId(name),
                serial="01",
                not_before=0,
                not_after=1e12,
            ),
            address="here",
            group="X25519MLKEM768",
        )

    def hello(self, request: verbs.Hello) -> verbs.HelloReply:
        return self._through("hello", request, lambda office: office.calls.hello(self.caller, request))

    def recall(self, request: verbs.Recall) -> verbs.Recalled:
        return self._through("recall", request, lambda office: office.calls.recall(self.caller, request))

    def poll(self, request: verbs.Poll) -> verbs.Offers:
        offers = self._through("poll", request, lambda office: office.calls.poll(self.caller, request))
        changed = tuple(self._scene.on_offer(self._name, offer) for offer in offers.offers)
        return structs.replace(offers, offers=changed)

    def claim(self, request: verbs.Claim) -> verbs.Claimed:
        return self._through("claim", request, lambda office: office.calls.claim(self.caller, request))

    def decline(self, request: verbs.Decline) -> verbs.Noted:
        return self._through("decline", request, lambda office: office.calls.decline(self.caller, request))

    def submit(self, request: verbs.Submit) -> verbs.SubmitReply:
        return self._through("submit", request, lambda office: office.calls.submit(self.caller, request))

    def fail(self, request: verbs.Fail) -> verbs.SubmitReply:
        return self._through("fail", request, lambda office: office.calls.fail(self.caller, request))

    def goodbye(self, request: verbs.Goodbye) -> verbs.Noted:
        return self._through("goodbye", request, lambda office: office.calls.goodbye(self.caller, request))

    def heartbeat(self, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        try:
            return self._through("heartbeat", request, lambda office: office.calls.heartbeat(self.caller, request))
        except Killed as gone:
            raise Unreachable("this site is gone") from gone

    def fetch(self, blob: verbs.Blob, *, largest: int) -> bytes:
        del largest

        def whole(office: Office) -> bytes:
            reader = office.calls.open_blob(self.caller, verbs.Fetch(digest=blob.digest))
            try:
                return reader.read(0, reader.length)
            finally:
                reader.close()

        return self._through("fetch", blob, whole)

    def upload(self, request: verbs.BeginUpload, read: Callable[[int, int], bytes]) -> verbs.UploadAt:
        while True:
            at = self._through("begin_upload", request, lambda office: office.calls.begin_upload(self.caller, request))
            if at.done:
                return at
            with suppress(Lost):
                self._pieces(at, read)
                return at

    def _pieces(self, at: verbs.UploadAt, read: Callable[[int, int], bytes]) -> None:
        offset, size = at.offset, max(1, -(-at.length // 4))
        while offset < at.length:
            piece = memoryview(read(offset, min(size, at.length - offset)))
            if not piece:
                raise EOFError
            offset = self._once("write_chunk", (at, offset), self._writing(at.upload, offset, piece))
        self._once("finish_upload", at, lambda office: office.calls.finish_upload(self.caller, at.upload))

    def _writing(self, upload: str, offset: int, piece: memoryview) -> Callable[[Office], int]:
        return lambda office: office.calls.write_chunk(self.caller, upload, offset, piece)

    def _through(self, verb: str, request: Any, ask: Callable[[Office], R]) -> R:
        """Ask until there is an answer: every verb may be asked twice with the effect of once."""
        while True:
            with suppress(Lost):
                return self._once(verb, request, ask)

    def _once(self, verb: str, request: Any, ask: Callable[[Office], R]) -> R:
        scene = self._scene
        if self.dead:
            raise Killed(self._name)
        office = scene.present()
        scene.say(self, self._name, verb, "before", request)
        try:
            with office.in_call():
                answer = ask(office)
        except Killed:
            raise Lost from None
        except Exception:
            if office.killed:
                raise Lost from None
            raise
        if office.killed:
            raise Lost
        scene.say(self, self._name, verb, "after", request)
        return answer


class Place:
    """One site: its folder, and its lives one after the other."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene = scene
        self.name = name
        self.wire = Wire(scene, name)
        self.agent: SiteAgent | None = None
        self.deaths = 0
        self.passed: list[str] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._live, name=f"site {name}", daemon=True)

    def _live(self) -> None:
        scene, client = self.scene, ClientId(self.name)
        while not scene.ending:
            try:
                with SiteStore(scene.folder / f"site-{self.name}", point=self.point) as store:
                    self.agent = SiteAgent(
                        self.wire,
                        store,
                        LocalIdentity(client, scene.keys[client]),
                        roster=lambda: scene.roster,
                        data=lambda _experiment: self.rows(),
                        judge=scene.judge,
                        limits=lambda: scene.limits or Limits(),
                        rehearsal=scene.rehearsal,
                        hand=self._hand,
                        coordinator=lambda: scene.key.public,
                        inline=scene.inline,
                        gate=scene.gate,
                    )
                    self._tamper(self.agent)
                    if not scene.ending:  # whoever ends the scene may have asked only the life before
                        self.agent.serve()
                    return
            except Killed:
                self.deaths += 1
                if not scene.revive(self.name):
                    return
                self.wire.dead = False
            except BaseException as error:
                self.error = error
                return

    def _tamper(self, agent: Any) -> None:
        """Let a test put something else in the place of what the site sends."""
        post = agent._post.write_bytes
        agent._post.write_bytes = lambda key, step, data: post(
            key, step, self.scene.on_message(self.name, key, step, data)
        )

    def rows(self) -> SiteData:
        """Return where the rows of the site lie."""
        source = ComponentSpec("fedloom.datasets", "csv", {"path": f"{self.name}.csv", "client": "hospital"})
        return SiteData(source=source, base=self.scene.base)

    def _hand(self, setup: SiteSetup, *, limits: Limits, moved: Callable[[], None]) -> Any:
        if self.name in self.scene.processes:
            return SiteHand(setup, limits=limits, moved=moved)
        return Inside(self.scene, self.name, setup)

    def point(self, name: str) -> None:
        """Come by a crash point of the site's store."""
        if self.wire.dead:
            raise Killed(name)
        self.passed.append(name)
        if self.scene.on_site_point(self.name, name, self.passed.count(name)):
            self.wire.dead = True
            raise Killed(name)


class Scene:
    """A federation over folders, with places at which a test can step in.

    Its models are small: with ``inline`` 0 their messages are uploaded as those of large ones are.
    """

    killed = Killed
    lost = Lost

    def __init__(
        self,
        folder: Path,
        *,
        sites: int = 3,
        aggregator: str = "plain_sum",
        exact: bool = False,
        algorithm: str = "fedavg",
        arguments: str = "",
        rounds: int = 3,
        prepare: bool = True,
        more: str = "",
        weights: str | None = None,
        stages: str | None = None,
        learner: str = '"logistic"',
        policy: str = "quorum = 0.5",
        patience: Patience | None = None,
        limits: Limits | None = None,
        least: int = 2,
        rehearsal: bool = False,
        processes: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        heartbeat_s: float = 12.0,
        lease_s: float = 60.0,
        inline: int = 0,
        gate: Gate | None = None,
    ) -> None:
        self.folder = folder
        self.base = folder / "data"
        self.names = [ClientId(name) for name in NAMES[:sites]]
        self.patience = patience
        self.limits = limits
        self.least = least
        self.rehearsal = rehearsal
        self.processes = processes
        self.clock = clock
        self.heartbeat_s = heartbeat_s
        self.lease_s = lease_s
        self.inline = inline
        self.gate = gate
        self.ending = False
        self.judge: Callable[[Any], tuple[str, ...]] = lambda _asked: ()
        self.on_point: Callable[[str, int], bool] = lambda _name, _times: False
        self.on_site_point: Callable[[str, str, int], bool] = lambda _site, _name, _times: False
        self.on_call: Callable[[str, str, str, Any], bool] = lambda _site, _verb, _when, _request: False
        self.on_offer: Callable[[str, verbs.Offer], verbs.Offer] = lambda _site, offer: offer
        self.on_train: Callable[[str, Train, int], None] = lambda _site, _asked, _times: None
        self.on_message: Callable[[str, Any, int, bytes], bytes] = lambda _site, _key, _step, data: data
        self.on_cancel: Callable[[str], None] = lambda _site: None
        self.on_close: Callable[[str], None] = lambda _site: None
        self.revive: Callable[[str], bool] = lambda _site: True
        self.records: list[Any] = []
        self.released: list[tuple[tuple[int, int, int], bytes]] = []
        self.lives = 0
        self.passed: list[str] = []
        self.keys = {name: signing_key(bytes([place + 1] * 32)) for place, name in enumerate(self.names)}
        self.key = signing_key(bytes([99] * 32))
        members = [Member(client=name, organisation=name, key=self.keys[name].public) for name in self.names]
        self.roster = roster("trial", 1, members)
        self._trained: Counter[tuple[str, int, str, bytes]] = Counter()
        self._turn = threading.Condition()
        self._office: Office | None = None
        self.run_now: RunId | None = None
        self.places: dict[str, Place] = {}
        _write_rows(self.base, self.names)
        toml = self.base / "run.toml"
        toml.write_text(
            _toml(
                sites=sites,
                aggregator=aggregator,
                exact=exact,
                algorithm=algorithm,
                arguments=arguments,
                rounds=rounds,
                prepare=prepare,
                more=more,
                weights=weights,
                stages=stages,
                learner=learner,
                policy=policy,
            )
        )
        self.experiment: Experiment = read(toml, []).experiment

    # What a test asks for --------------------------------------------------------------------------------------------

    def simulated(self, output: Path | None = None) -> Any:
        """Return the result of the same experiment in a simulation."""
        return fedloom.local().run(self.experiment, base=self.base, output=output)

    def start_sites(self, names: Sequence[str] | None = None) -> None:
        for name in self.names if names is None else names:
            self.places[name] = Place(self, name)
            self.places[name].thread.start()

    def open(self) -> Office:
        """Return the coordinator, made anew from its folder where it is not there."""
        with self._turn:
            if self._office is None:
                self.lives += 1
                self._office = Office(self)
                self._turn.notify_all()
            return self._office

    def run(self, *, most_lives: int = 200) -> Any:
        """Submit, and carry on until the end, in as many lives as that takes."""
        if not self.places:
            self.start_sites()
        while True:
            assert self.lives < most_lives, f"the coordinator was killed too often: {self.passed[-20:]}"
            try:
                office = self.open()
                self.run_now = run = office.engine.submit(self.experiment, name="trial", base=self.base, request="one")
                return office.engine.carry_on(run, sites=self.names, on_round=[self.records.append])
            except (Killed, Halted):
                self.bury()

    def bury(self) -> None:
        """End a coordinator's life: what is not in its folder is gone."""
        office = self._office
        if office is not None:
            office.kill()
            with self._turn:
                self._office = None
            office.bury()
            self.passed += office.passed

    def alive(self) -> Office | None:
        """Return the coordinator, if there is one that lives."""
        with self._turn:
            return None if self._office is None or self._office.killed else self._office

    def run_id(self) -> RunId:
        if self.run_now is None:
            self.run_now = self.open().store.runs.all()[0].run
        return self.run_now

    def contributions(self) -> list[Contribution]:
        """Return everything that counted, over all rounds and steps."""
        book = self.open().store.rounds
        return [sent for each in book.rounds(self.run_id()) for sent in book.contributions(each.key)]

    def trained(self) -> Counter[tuple[str, int, str, bytes]]:
        """Return how often each site has trained for each order."""
        return Counter(self._trained)

    def wire(self, name: str) -> Wire:
        """Return a line for a site that a test plays itself."""
        return Wire(self, name)

    # What the parts ask for ------------------------------------------------------------------------------------------

    def present(self) -> Office:
        """Wait for a coordinator that lives."""
        with self._turn:
            self._turn.wait_for(lambda: self.ending or (self._office is not None and not self._office.killed))
            if self._office is None or self._office.killed:
                raise Killed("the scene ends")
            return self._office

    def say(self, wire: Wire, name: str, verb: str, when: str, request: Any) -> None:
        if self.on_call(name, verb, when, request):
            wire.dead = True
            raise Killed(name)

    def note_training(self, name: str, asked: Train) -> int:
        read_facts(asked.facts)
        key = (name, asked.phase, asked.program, asked.order)
        with self._turn:
            self._trained[key] += 1
            return self._trained[key]

    def end(self) -> None:
        if self.ending:
            return
        self.ending = True
        for place in self.places.values():
            if place.agent is not None:
                place.agent.stop()
        with self._turn:
            office = self._office
            self._turn.notify_all()
        if office is not None:
            office.desk.halt("the scene ends")
        for place in self.places.values():
            place.thread.join(_END_S)
            assert not place.thread.is_alive(), f"site {place.name} does not end"
        if office is not None:
            office.bury()


FAULTY = """
import os, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import fedloom as fl

@fl.component("fedloom.algorithms")
def faulty(local: fl.Schedule, fault: str = "", site: str = "east", at: int = 2, folder: str = "",
           weighting: str = "examples") -> fl.Algorithm:
    inner = fl.fedavg(local, weighting=weighting)

    def client(broadcast, state, ctx):
        here = ctx.client == site and at in (0, ctx.round)
        if here:
            _fail(fault, Path(folder))
        update, state = yield from inner.client(broadcast, state, ctx)
        if here and fault == "nan":
            update.vectors["delta"][0] = np.nan
        return update, state

    def step(state, mean):
        if mean.round == at and fault == "server raises" and not Path(folder, "mended").exists():
            raise ValueError("secret 4711")
        found = inner.step(state, mean)
        return replace(found, params=found.params * np.inf) if mean.round == at and fault == "server nan" else found

    return replace(inner, client=client, step=step, spec=None)

def _fail(fault, folder):
    if fault == "raises":
        raise ValueError("secret 4711")
    if fault == "exits":
        os._exit(3)
    if fault == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "freezes":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "waits":
        while True:
            time.sleep(0.01)
    if fault in ("forks", "forks and exits", "forks and waits"):
        sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
        sleeper += "; print(1, flush=True); time.sleep(99)"
        child = subprocess.Popen([sys.executable, "-c", sleeper], stdout=subprocess.PIPE, close_fds=False)
        child.stdout.readline()
        (folder / "child").write_text(str(child.pid))
        if fault == "forks and exits":
            os._exit(3)
        while fault == "forks and waits":
            time.sleep(0.01)
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package whose algorithm fails as it is told to; return the folder that it leaves notes in."""
    site = tmp_path / "site"
    info = site / "fedloom_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "fedloom_faulty.py").write_text(FAULTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedloom-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedloom.algorithms]\nfaulty = fedloom_faulty:faulty\n")
    monkeypatch.syspath_prepend(site)
    yield site
    sys.modules.pop("fedloom_faulty", None)


def _write_rows(base: Path, names: Sequence[str]) -> None:
    base.mkdir()
    draw = random.Random(1)
    head, rows = "hospital,age,bp,ill", []
    for name in NAMES:
        for _ in range(30 + draw.randrange(20)):
            age, pressure = draw.random(), draw.random()
            ill = age + pressure + 0.3 * draw.random() > 1.1
            rows.append(f"{name},{age:.3f},{pressure:.3f},{'yes' if ill else 'no'}")
    for name in names:
        own = [row for row in rows if row.split(",")[0] == name]
        (base / f"{name}.csv").write_text("\n".join([head, *own]) + "\n")
    own = [row for row in rows if row.split(",")[0] in names]
    (base / "all.csv").write_text("\n".join([head, *own]) + "\n")


def _toml(
    *,
    sites: int,
    aggregator: str,
    exact: bool,
    algorithm: str,
    arguments: str,
    rounds: int,
    prepare: bool,
    more: str,
    weights: str | None,
    stages: str | None,
    learner: str,
    policy: str,
) -> str:
    integers = "" if aggregator == "plain_sum" and not exact else ', { name = "fixed_point", most_metric = 10000.0 }'
    weighting = weights or ("uniform" if algorithm == "scaffold" else "examples")
    bound = "max_weight = 100" if weighting == "examples" else f"expected = {sites}.0"
    usual = f'{{ name = "mean", {bound} }}, {{ name = "clip", norm = 1.0 }}{integers}'
    return f"""
seed = 1
[data]
name = "csv"
path = "all.csv"
client = "hospital"
label = "ill"
classes = ["no", "yes"]
test = 0.2
{"[[prepare]]" if prepare else ""}
{'name = "standardise"' if prepare else ""}
[learner]
name = {learner}
[algorithm]
name = "{algorithm}"
weighting = "{weighting}"
{arguments}
local = {{ epochs = 1, batch_size = 8, learning_rate = 0.1 }}
[pipeline]
stages = [{usual if stages is None else stages}]
aggregator = {{ name = "{aggregator}" }}
[[stop]]
name = "max_rounds"
rounds = {rounds}
[policy]
{policy}
{more}
"""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    """Return a maker of one scene; what it started is ended with the test."""
    made: list[Scene] = []

    def make(**settings: Any) -> Scene:
        folder = tmp_path / f"scene{len(made)}"
        folder.mkdir()
        made.append(Scene(folder, **settings))
        _watch(monkeypatch, made)
        return made[-1]

    yield make
    for each in made:
        each.end()


def _watch(monkeypatch: pytest.MonkeyPatch, made: Sequence[Scene]) -> None:
    """Make crash points of what a coordinator writes outside its store: the state of a run, and its facts."""

    def passing(path: Path, name: str) -> None:
        for each in made:
            if path.is_relative_to(each.folder):
                each.open().point(name)

    if getattr(RunFolder.write, "watched", False):
        return
    write, finish, shake = RunFolder.write, RunFolder.finish, handshake_round.shake_hands

    def watched_write(self: RunFolder, **what: Any) -> None:
        passing(self.path, "state/before")
        write(self, **what)
        passing(self.path, "state/after")

    def watched_finish(self: RunFolder, *what: Any, **more: Any) -> None:
        passing(self.path, "finish/before")
        finish(self, *what, **more)
        passing(self.path, "finish/after")

    def watched_shake(store: FederationStore, *what: Any, **more: Any) -> Any:
        agreed = shake(store, *what, **more)
        passing(store.folder, "facts/before")
        return agreed

    charge, keep = Journal.charge, Journal.keep

    def watched_charge(self: Journal, phase: int, charged: Any) -> None:
        if self.folder is None:
            return charge(self, phase, charged)
        passing(self.folder.path, "charge/before")
        charge(self, phase, charged)
        passing(self.folder.path, "charge/after")

    def watched_keep(self: Journal, phase: int, kept: Any) -> None:
        if self.folder is None:
            return keep(self, phase, kept)
        for each in made:
            if self.folder.path.is_relative_to(each.folder):
                each.released.append(((phase, kept.round, kept.retry), kept.released.tobytes()))
        passing(self.folder.path, "keep/before")
        keep(self, phase, kept)
        passing(self.folder.path, "keep/after")

    watched_write.watched = True  # type: ignore[attr-defined]
    monkeypatch.setattr(RunFolder, "write", watched_write)
    monkeypatch.setattr(Journal, "charge", watched_charge)
    monkeypatch.setattr(Journal, "keep", watched_keep)
    monkeypatch.setattr(RunFolder, "finish", watched_finish)
    monkeypatch.setattr(handshake_round, "shake_hands", watched_shake)
