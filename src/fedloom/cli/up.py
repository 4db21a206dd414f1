"""``fedloom up`` and ``fedloom rehearse``: a whole federation on one host, over real sockets, that ends with its run.

A coordinator and one site for each client are processes of their own, with certificates of a root that nobody keeps.
It is for trying out: whoever has this host has every part.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from fedloom.cli.children import Children, ended_by_a_signal
from fedloom.cli.dealt_rows import clients_of, source_for
from fedloom.cli.federated import print_end, run_at, see_through
from fedloom.cli.listening import listening
from fedloom.cli.operating import operator
from fedloom.cli.root_folder import make_root
from fedloom.cli.site_files import Kind, starter_policy
from fedloom.core.component import spec_of
from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.engines.coordinator_folder import (
    CoordinatorFolder,
    approve_join,
    init_coordinator,
    install_roster,
    pending_joins,
)
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.federation import RUNS
from fedloom.engines.owned_files import make_folder, write_owned
from fedloom.engines.site_folder import SiteFolder, approve_roster, collect_certificate, join_site
from fedloom.errors import ConfigError, RunStopped, StoreError, Violation, WorkerError
from fedloom.experiment.config import Settings, read
from fedloom.experiment.examination import named_parts
from fedloom.secure.authorities import issue_intermediate
from fedloom.secure.peers import COORDINATOR
from fedloom.store.export import export_run
from fedloom.transport import admin
from fedloom.transport.client import Client

FEDERATION = "trial"
_START_S = 30.0
_LOOK_EVERY_S = 0.25
_QUICK_COST = 14
"""Of sealing a root that is thrown away with its passphrase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What ``up`` was asked for."""

    file: Path
    overrides: Sequence[str]
    sites: int | None
    folder: Path | None
    """Where the parties' folders stay; None: they go when the command ends."""
    output: Path | None
    rehearsed_rows: str | None = None
    """Kind of the rows in a rehearsal; None: it is none, and secrets are drawn from this machine's entropy."""


def up(wish: Wish, *, json: bool) -> None:
    """Run an experiment in a federation of this host, and keep its model and report.

    Raises:
        ConfigError: When a rehearsal is asked for of rows that nobody calls public or synthetic.
        RunStopped: When the run failed.
        WorkerError: When a process ended.
    """
    _check_rehearsal(wish)
    settings = read(wish.file, wish.overrides)
    clients = clients_of(settings.experiment, settings.base, count=wish.sites)
    with ended_by_a_signal(), _place(wish.folder) as place, Children() as children:
        _say(f"{len(clients)} sites: {', '.join(clients)}", json=json)
        host = Host(place, children, wish, settings)
        host.begin(clients, json=json)
        with operator(host.coordinator) as line:
            run = _submitted(line, settings, wish.file.stem)
            _say(f"run {run}", json=json)
            with _watched(children, line):
                see_through(line, run, out=not json)
                end = run_at(line, run)
        children.end()
        kept = _kept(host.coordinator, end, settings.output if wish.output is None else wish.output)
        print_end(kept, end, json=json)


class Host:
    """The parties of a federation on this host."""

    def __init__(self, place: Path, children: Children, wish: Wish, settings: Settings) -> None:
        self.coordinator = CoordinatorFolder(place / "coordinator")
        self._place = place
        self._children = children
        self._rehearsal = ["--rehearsal"] if wish.rehearsed_rows is not None else []
        self._kind = wish.rehearsed_rows or "private"
        self._settings = settings

    def begin(self, clients: Sequence[ClientId], *, json: bool) -> None:
        """Make the root, start the coordinator, let all sites join as they would from elsewhere, and start them."""
        now = time.time()
        root, keys = make_root(
            self._place / "root",
            FEDERATION,
            passphrase=secrets.token_urlsafe(24),
            years=1,
            now=now,
            cost=_QUICK_COST,
        )
        init_coordinator(
            self.coordinator,
            anchor=root.anchor,
            intermediate=issue_intermediate(keys, now=now, days=30),
            names=("localhost", "127.0.0.1"),
            ports=Ports(sites=0, entry=0, probe=0, health=0),
            now=now,
            hosts=("127.0.0.1",),
            least=len(clients),
        )
        own = self.coordinator.signing_key().public
        root.add([Member(client=ClientId(COORDINATOR), organisation=COORDINATOR, key=own)])
        self._start("coordinator", ["coordinator", "start", self.coordinator.path, *self._rehearsal])
        self._children.wait_until(
            lambda: listening(self.coordinator) is not None, what="the coordinator does not answer", within_s=_START_S
        )
        sites = {client: SiteFolder(self._place / client) for client in clients}
        with operator(self.coordinator) as line:
            for client, site in sites.items():
                self._join(line, client, site)
        for waiting in pending_joins(self.coordinator):
            approve_join(self.coordinator, waiting.fingerprint)
            root.add([Member(client=ClientId(waiting.client), organisation=waiting.organisation, key=waiting.key)])
        root.sign(keys)
        install_roster(self.coordinator, (root.path / "roster.json").read_bytes())
        _say("certificates are issued, the roster is signed", json=json)
        for client, site in sites.items():
            collect_certificate(site)
            approve_roster(site, site.pin().digest)
            self._start(client, ["site", "start", site.path, *self._rehearsal])
        self._wait_for_sites(len(sites))
        _say("all sites are connected", json=json)

    def _join(self, line: Client, client: ClientId, site: SiteFolder) -> None:
        invitation = line.invite_site(
            admin.InviteSite(request=uuid.uuid4().hex, organisation=client, client=client, valid_s=3600.0)
        )
        join_site(site, invitation.token)
        kind = next(each for each in get_args(Kind) if each == self._kind)
        text = starter_policy(
            client,
            federation=FEDERATION,
            source=source_for(self._settings.experiment, self._settings.base, client, place=site.path),
            protection="none",
            mode="auto-if-allowed",
            kind=kind,
            packages=_providers(self._settings),
            min_rows=1,
        )
        write_owned(site.policy_path, text.encode())

    def _start(self, name: str, arguments: Sequence[str | Path]) -> None:
        self._children.start(name, arguments, log=self._place / f"{name}.log", env={"OPENBLAS_NUM_THREADS": "1"})

    def _wait_for_sites(self, count: int) -> None:
        with operator(self.coordinator) as line:

            def connected() -> bool:
                found = line.list_sites(admin.ListSites()).sites
                return sum(each.state == "connected" for each in found) == count

            self._children.wait_until(connected, what="not all sites are connected", within_s=_START_S)


def _submitted(line: Client, settings: Settings, name: str) -> str:
    experiment = settings.experiment
    request = admin.CreateRun(
        request=uuid.uuid4().hex,
        name=name,
        experiment=msgspec.json.encode(experiment.as_json()),
        digest=bytes.fromhex(experiment.digest),
    )
    return line.create_run(request).run


def _kept(coordinator: CoordinatorFolder, end: admin.RunAt, output: Path) -> Path:
    """Copy what a run leaves to the folder of all runs, and return its place there."""
    source = coordinator.store / RUNS / end.run
    if not end.state.startswith("completed"):
        return source
    output.mkdir(parents=True, exist_ok=True)
    export_run(source, output / end.run)
    return output / end.run


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """Give the folder of all parties: a new one that stays, or one that goes.

    Raises:
        StoreError: When there is something in it.
    """
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} has something in it: a federation begins in a new folder")
    place = Path(tempfile.mkdtemp(prefix="fedloom-")) if folder is None else folder
    make_folder(place)
    try:
        yield place
    except (WorkerError, RunStopped) as error:
        logs = "\n".join(f"{path.name}: {_tail(path)}" for path in sorted(place.glob("*.log")))
        error.add_note(f"what the processes said last:\n{logs}")
        raise
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def _tail(path: Path) -> str:
    """Return the last line of a log that says what is wrong, or the last."""
    lines = path.read_text(errors="replace").splitlines()
    wrong = [line for line in lines if " WARNING " in line or " ERROR " in line or line.startswith("error")]
    return (wrong or lines or ["nothing"])[-1]


@contextmanager
def _watched(children: Children, line: Client) -> Iterator[None]:
    """Cut the line when a process ends before its time, so that nobody waits for it, and say which one it was."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY_S):
            if children.ended():
                line.close()
                return

    watcher = threading.Thread(target=watch, name="children", daemon=True)
    watcher.start()
    try:
        yield
    except Exception:
        children.check()
        raise
    finally:
        over.set()
        watcher.join()


def _providers(settings: Settings) -> tuple[str, ...]:
    """Return the distributions that an experiment's parts come from, as a policy allows them."""
    spec = spec_of(settings.experiment.data)
    parts = named_parts(settings.experiment.as_json(), "csv" if spec is None else spec.name)
    return tuple(sorted({f"{part.distribution}=={part.version}" for part in parts if part.distribution}))


def _check_rehearsal(wish: Wish) -> None:
    if wish.rehearsed_rows is None or wish.rehearsed_rows in ("public", "synthetic"):
        return
    raise ConfigError(
        [
            Violation(
                where="--rows",
                path="rehearse",
                message=f"{wish.rehearsed_rows!r}: a rehearsal protects nothing, so its rows are public or synthetic; "
                "say which",
            )
        ]
    )


def _say(words: str, *, json: bool) -> None:
    if not json:
        sys.stderr.write(words + "\n")
        sys.stderr.flush()
