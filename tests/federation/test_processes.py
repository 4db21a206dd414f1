"""A federation of real processes over TLS gives the model of a simulation: undisturbed, with a loss, and killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fedloom
from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Member
from fedloom.engines.coordinator_folder import (
    CoordinatorFolder,
    approve_join,
    init_coordinator,
    install_roster,
    operator_files,
    pending_joins,
)
from fedloom.engines.coordinator_host import CoordinatorHost
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.remote_team import Patience
from fedloom.engines.site_folder import SiteFolder, approve_roster, collect_certificate, follow_roster, join_site
from fedloom.secure.authorities import issue_intermediate, new_root
from fedloom.secure.peers import COORDINATOR
from fedloom.secure.roster import roster
from fedloom.secure.roster_pin import RosterUpdate
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import FORMAT, ROUNDS, TABLES
from fedloom.store.table_file import TableFile
from fedloom.transport import admin
from fedloom.transport.client import Client

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
HOST = """
import sys
from pathlib import Path
from fedloom.engines.coordinator_host import CoordinatorHost
with CoordinatorHost(Path(sys.argv[1]), poll_s=2.0, heartbeat_s=1.0) as host:
    sys.exit(host.run())
"""
SITE = """
import os
import sys
from pathlib import Path
from fedloom.engines.site_host import SiteHost
from fedloom.engines.site_judge import SiteJudge
from fedloom.experiment.examination import examine
if len(sys.argv) > 2:  # the site dies before its message of a step of a round
    usual = SiteJudge.allow
    def allow(self, key, step, facts):
        if (key.phase >= 0, key.program, f"{key.round}.{step}") == (True, "train", sys.argv[2]):
            os._exit(9)
        usual(self, key, step, facts)
    SiteJudge.allow = allow
with SiteHost(Path(sys.argv[1]), examine=examine, jitter=lambda: 0.01) as host:
    sys.exit(host.run())
"""
POLICY = """
[site]
name = "{name}"
[allow]
packages = ["fedloom"]
coordinators = ["spiffe://trial/coordinator"]
[data.cohort]
source = {{ name = "csv", path = "{rows}", client = "hospital" }}
min_rows = 5
[privacy]
require = []
min_sites_in_aggregate = 1
metrics = "any"
[approval]
mode = "auto-if-allowed"
"""


class Processes:
    """A coordinator and its sites, each a process: started, killed, started again."""

    def __init__(self, base: Path, rows: Path, names: Sequence[str], patience: Patience | None = None) -> None:
        self.base = base
        self.names = ("coordinator", *names)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: Counter[str] = Counter()
        self.folder = CoordinatorFolder(base / "coordinator")
        self.store = self.folder.store
        self._environment = {**os.environ, "TMPDIR": str(base)}
        _found(self.folder, base, rows, names, patience)

    def start(self, name: str, *dies: str, command: Sequence[str] = ()) -> None:
        """Start a party; ``command`` is what it is started by, where that is not the usual code in an interpreter."""
        usual = (sys.executable, "-c", HOST if name == "coordinator" else SITE)
        with (self.base / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*(command or usual), str(self.base / name), *dies],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()
        self.killed[name] += 1

    def end(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def left(self) -> list[str]:
        """Return what still runs of all that these processes have started."""
        mark, found = f"TMPDIR={self.base}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
        return found

    def submit(self, experiment: fedloom.Experiment) -> RunId:
        asked = admin.CreateRun(
            request="one",
            name="trial",
            experiment=msgspec.json.encode(experiment.as_json()),
            digest=bytes.fromhex(experiment.digest),
        )
        port = self.folder.settings().ports.sites
        with Client(f"127.0.0.1:{port}", operator_files(self.folder), patience_s=60.0, jitter=lambda: 0.01) as line:
            return RunId(line.create_run(asked).run)

    def summary(self, run: RunId) -> Any:
        """Return what the run came to; None: it goes on."""
        path = self.store / "runs" / run / "record.json"
        return json.loads(path.read_text())["summary"] if path.exists() else None

    def is_over(self, run: RunId, number: int) -> bool:
        """Return whether a round of training is over, as the coordinator has written it down."""
        file = TableFile.read(self.store / "coordinator.sqlite", tables=TABLES, form=FORMAT)
        try:
            with file.reading() as tables:
                rounds = tables.where(ROUNDS, run=run, program="train", round=number)
                return any(each.phase >= 0 and each.stage == "committed" for each in rounds)
        finally:
            file.close()


def _found(folder: CoordinatorFolder, base: Path, rows: Path, names: Sequence[str], patience: Patience | None) -> None:
    """Do what operators do once: certificates, a roster, and a policy for each site."""
    now = time.time()
    root = new_root("trial", now=now)
    init_coordinator(
        folder,
        anchor=root.anchor,
        intermediate=issue_intermediate(root, now=now),
        names=("127.0.0.1", "localhost"),
        hosts=("127.0.0.1",),
        ports=_free_ports(),
        now=now,
        patience=patience,
    )
    members: list[Member] = []
    own = Member(client=ClientId(COORDINATOR), organisation=COORDINATOR, key=folder.signing_key().public)
    with ExitStack() as open_, CoordinatorHost(folder) as host:
        line = open_.enter_context(Client(f"127.0.0.1:{host.ports.sites}", operator_files(folder), patience_s=5.0))
        for name in names:
            (base / name).mkdir(mode=0o700)
            asked = admin.InviteSite(request=name, organisation=name, client=name)
            join_site(SiteFolder(base / name), line.invite_site(asked).token)
            words = next(each for each in pending_joins(folder) if each.client == name)
            joined = approve_join(folder, words.fingerprint)
            members.append(Member(client=ClientId(name), organisation=joined.organisation, key=joined.key))
            signed = roster("trial", len(members), [*members, own]).signed(root.signing)
            install_roster(folder, RosterUpdate(roster=signed).stored())
            collect_certificate(SiteFolder(base / name))
            policy = POLICY.format(name=name, rows=rows / f"{name}.csv")
            SiteFolder(base / name).policy_path.write_text(policy)
    for name in names:
        pin = follow_roster(SiteFolder(base / name), folder.roster_path.read_bytes())
        approve_roster(SiteFolder(base / name), pin.digest)


def _free_ports() -> Ports:
    """Return ports that are free now: a coordinator that is started again listens where it did."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(4)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        numbers = [each.getsockname()[1] for each in sockets]
    return Ports(sites=numbers[0], entry=numbers[1], probe=numbers[2], health=numbers[3])


@pytest.fixture
def trial(tmp_path: Path, scene: Callable[..., Any]) -> Iterator[Callable[..., tuple[Processes, Any]]]:
    """Return a maker of processes, and the scene that has their data and their experiment."""
    made: list[Processes] = []

    def make(*, patience: Patience | None = None, **settings: Any) -> tuple[Processes, Any]:
        federation = scene(**{"sites": 3, **settings})
        base = tmp_path / f"processes{len(made)}"
        base.mkdir()
        made.append(Processes(base, federation.base, federation.names, patience))
        return made[-1], federation

    yield make
    for each in made:
        each.end()


def until(holds: Callable[[], bool], trial: Processes, within_s: float = 100.0) -> None:
    tick, limit = threading.Event(), time.monotonic() + within_s
    while not holds():
        ended = {name: process.poll() for name, process in trial.running.items() if process.poll() is not None}
        assert not ended, (ended, _logs(trial))
        assert time.monotonic() < limit, _logs(trial)
        tick.wait(0.05)


def _logs(trial: Processes) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(trial.base.glob("*.log")))


def check(trial: Processes, federation: Any, run: RunId, *, lost: tuple[str, ...] = ()) -> None:
    """The model of a simulation, everything once, and nothing left running."""
    expected = federation.simulated()
    assert trial.summary(run)["model_sha256"] == expected.model_sha256
    trial.end()
    assert not trial.left()
    with FederationStore(trial.folder.store) as store:
        store.events.verify()
        counted = [sent for each in store.rounds.rounds(run) for sent in store.rounds.contributions(each.key)]
        kinds = Counter(event.kind for event in store.events.since(0))
        assert kinds["contribution"] == len(counted)
        assert {(sent.kind, sent.site) for sent in counted if sent.kind != "message"} == {
            ("lost", name) for name in lost
        }


def test_processes_over_tls_train_the_model_of_a_simulation(trial: Callable[..., tuple[Processes, Any]]) -> None:
    processes, federation = trial(rounds=2)
    for name in processes.names:
        processes.start(name)
    run = processes.submit(federation.experiment)
    until(lambda: processes.summary(run) is not None, processes)
    check(processes, federation, run)


LINEAR = [
    pytest.param(("fedavg", '"logistic"'), "2.2", id="fedavg"),
    pytest.param(("scaffold", '"logistic"'), "2.4", id="scaffold", marks=pytest.mark.slow),
    pytest.param(("fedadam", '"logistic"'), "2.0", id="fedadam", marks=pytest.mark.slow),
]
TORCH = pytest.param(
    ("fedavg", '"torch"\nmodel = { name = "mlp", hidden = [4] }'), "2.3", id="torch", marks=pytest.mark.slow
)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("what", "lost"), [*LINEAR, TORCH])
def test_five_sites_one_lost_at_a_step_of_a_secure_sum(
    what: tuple[str, str], lost: str, trial: Callable[..., tuple[Processes, Any]]
) -> None:
    """One file: a simulation that drops the site, with one worker and with two, and six processes of which it dies."""
    algorithm, learner = what
    if "torch" in learner:
        pytest.importorskip("torch")
    round_number, step = lost.split(".")
    processes, federation = trial(
        sites=5,
        algorithm=algorithm,
        learner=learner,
        aggregator='secure_sum", threshold = 4, colluders = 1, min_survivors = 4, graph = "complete',
        policy="quorum = 4\nretries = 0",
        more=f"[simulate]\nlosses = {{ east = [[{round_number}, {step}]] }}",
        patience=Patience(lost_after_s=8.0),
    )
    for name in processes.names:
        processes.start(name, *([lost] if name == "east" else []))
    run = processes.submit(federation.experiment)
    dying = processes.running.pop("east")  # nobody is surprised at its end
    dying.wait(120.0)
    until(lambda: processes.is_over(run, int(round_number)), processes)
    processes.start("east")
    until(lambda: processes.summary(run) is not None, processes)
    simulated = federation.simulated()
    failures = [each for record in simulated.records for each in record.failures]
    vector = 2  # who is lost later is in the sum, which a simulation takes at once
    assert [(each.client, each.kind) for each in failures] == ([("east", "lost")] if int(step) <= vector else [])
    by_two = fedloom.local(workers=2).run(federation.experiment, base=federation.base)
    assert by_two.model_sha256 == simulated.model_sha256
    check(processes, federation, run, lost=("east",))


QUICK, ALL = 8, 50


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [*range(QUICK), *(pytest.param(n, marks=pytest.mark.slow) for n in range(QUICK, ALL))])
def test_a1_b1_killed_at_random_moments(seed: int, trial: Callable[..., tuple[Processes, Any]]) -> None:
    settings = {"aggregator": ("plain_sum", "secure_sum")[seed % 2], "algorithm": ("scaffold", "fedavg")[seed // 2 % 2]}
    processes, federation = trial(rounds=6, **settings)
    draw = random.Random(seed)
    for name in processes.names:
        processes.start(name)
    run = processes.submit(federation.experiment)
    pause = threading.Event()
    for _ in range(8):
        if processes.summary(run) is not None:
            break
        pause.wait(draw.uniform(0.1, 2.0))
        name = draw.choice(processes.names)
        processes.kill(name)
        processes.start(name)
    until(lambda: processes.summary(run) is not None, processes)
    assert processes.killed
    check(processes, federation, run)


PATIENT = "from fedloom.engines import coordinator_host as host_module\nhost_module._STORE_PATIENCE_S = 0.5\n"


def _namespaces() -> bool:
    """Return whether this user may mount a small disk that only his own process sees."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True, timeout=10).returncode == 0
    return False


@pytest.mark.skipif(not _namespaces(), reason="no small disk can be mounted here")
@pytest.mark.timeout(240)
def test_a7_a_coordinator_whose_disk_is_full_says_so_waits_and_goes_on_when_there_is_room(
    trial: Callable[..., tuple[Processes, Any]], tmp_path: Path
) -> None:
    processes, federation = trial(sites=2, rounds=6)
    store, copy = processes.folder.store, tmp_path / "copy"
    store.rename(copy)
    store.mkdir(mode=0o700)
    small = f"mount -t tmpfs -o size=6m,mode=700 none {store} && cp -a {copy}/. {store} && exec {sys.executable} -c"
    processes.start("coordinator", command=["unshare", "-rm", "sh", "-c", f'{small} "$0" "$1"', PATIENT + HOST])
    processes.store = disk = Path(f"/proc/{processes.running['coordinator'].pid}/root{store}")
    for name in federation.names:
        processes.start(name)
    run = processes.submit(federation.experiment)
    until((disk / "runs" / run / "facts.json").exists, processes)
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    until(lambda: "no space in" in (processes.base / "coordinator.log").read_text(), processes)
    assert processes.summary(run) is None
    (disk / "ballast").unlink()
    until(lambda: processes.summary(run) is not None, processes)
    assert processes.summary(run)["model_sha256"] == federation.simulated().model_sha256
    shutil.rmtree(copy)
    shutil.copytree(disk, copy)
    processes.end()
    with FederationStore(copy) as kept:
        kept.events.verify()
        assert {each.stage for each in kept.rounds.rounds(run)} == {"committed"}
        counted = [sent for each in kept.rounds.rounds(run) for sent in kept.rounds.contributions(each.key)]
        assert {sent.kind for sent in counted} == {"message"}
        assert len(counted) == sum(event.kind == "contribution" for event in kept.events.since(0))
