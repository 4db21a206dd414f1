"""CoordinatorHost: the process of a coordinator: its ports, its store, its engine, and how all of it ends."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import structs

from fedloom.core.ids import ClientId
from fedloom.core.own_version import own_version
from fedloom.core.roster import Identity
from fedloom.engines.accounting import LEDGER
from fedloom.engines.admin_calls import AdminCalls
from fedloom.engines.coordinator_folder import CoordinatorFolder, renew_coordinator
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.desk import Desk, Halted
from fedloom.engines.entry_calls import EntryCalls
from fedloom.engines.federation import ABORTED, RUNS, Federation
from fedloom.engines.health import Durations, HealthPort, Labels, Metric, metric
from fedloom.engines.interrupts import asked_to_end
from fedloom.engines.owned_files import Followed
from fedloom.engines.rounds import OnRound
from fedloom.engines.site_calls import BlobOnDisk, SiteCalls
from fedloom.errors import Error, StoreError
from fedloom.runtime.record import RoundRecord
from fedloom.secure.deny_list import DenyList
from fedloom.secure.peers import COORDINATOR
from fedloom.secure.roster import LocalIdentity, SignedRoster, roster
from fedloom.secure.roster_pin import RosterUpdate
from fedloom.store.crash_points import Point
from fedloom.store.federation import FederationStore
from fedloom.store.ledger import Ledger
from fedloom.transport import verbs
from fedloom.transport.entry import EntryPort
from fedloom.transport.errors import Code, Refusal
from fedloom.transport.probe import ProbePort
from fedloom.transport.server import Capacity, Server
from fedloom.transport.service import Caller

log = logging.getLogger(__name__)
ROSTER_NOTICE = "ROSTER"
"""Code of the notice that names the roster in force: its SHA-256 in hexadecimal, and its length."""
_GRACE_S = 30.0
_TIDY_EVERY_S = 3600.0
_KEPT_S = 86400.0
"""Contents of the store that nothing refers to go after a day: what refers to a new one may not be written yet."""


class CoordinatorCalls(SiteCalls):
    """All that the gRPC port answers, and whether a caller may speak at all.

    Operators' verbs are those of ``AdminCalls``, given out under their own names.
    """

    def __init__(
        self,
        store: FederationStore,
        desk: Desk,
        members: Callable[[], SignedRoster],
        *,
        update: Callable[[], tuple[bytes, RosterUpdate | None]],
        denied: Callable[[], DenyList],
        admin: AdminCalls,
        heartbeat_s: float,
        poll_s: float,
        now: Callable[[], float],
        identity: Identity,
    ) -> None:
        super().__init__(store, desk, members, heartbeat_s=heartbeat_s, poll_s=poll_s, now=now, identity=identity)
        self._members = members
        self._update = update
        self._denied = denied
        self.create_run = admin.create_run
        self.approve_run = admin.approve_run
        self.pause = admin.pause
        self.resume = admin.resume
        self.abort = admin.abort
        self.list_runs = admin.list_runs
        self.watch_run = admin.watch_run
        self.list_sites = admin.list_sites
        self.invite_site = admin.invite_site
        self.revoke = admin.revoke
        self.readmit = admin.readmit
        self.health = admin.health

    def authorise(self, caller: Caller) -> Refusal | None:
        """Say whether a caller may speak: the roster and the deny list as they are now."""
        try:
            return self._authorised(caller)
        except Error as error:  # a list that cannot be read lets nobody in
            log.error("event=no_list error=%s", error)
            return Refusal(
                code=Code.INTERNAL,
                sentence="the coordinator cannot read its roster or deny list; its log says why.",
                retryable=True,
                retry_after_s=30.0,
            )

    def _authorised(self, caller: Caller) -> Refusal | None:
        denied = self._denied()
        if denied.denies(caller.peer):
            return Refusal(
                code=Code.DENIED,
                sentence=f"{caller.client} is on the deny list of {denied.federation} (version {denied.version}).",
                remedy="Ask the coordinator's operator.",
            )
        if caller.role == "admin":
            return None
        member = self._members().member(caller.client)
        if member is None or caller.client == ClientId(COORDINATOR):
            return Refusal(
                code=Code.NOT_IN_ROSTER,
                sentence=f"the roster in force (version {self._members().version}) does not have {caller.client}.",
                remedy="The owner of the federation's root adds it: `fedloom pki roster add`.",
                retryable=True,
                retry_after_s=30.0,
            )
        if member.organisation != caller.organisation:
            return Refusal(
                code=Code.DENIED,
                sentence=f"the roster has {caller.client} of {member.organisation}, not of {caller.organisation}.",
                remedy="Join again with a certificate of that organisation.",
            )
        suspended = self._store.sites.suspended(caller.client)
        if suspended is not None:
            return Refusal(
                code=Code.DENIED,
                sentence=f"{caller.client} is suspended: {suspended}"[:2000],
                remedy="Ask the coordinator's operator.",
            )
        return None

    def hello(self, caller: Caller, request: verbs.Hello) -> verbs.HelloReply:
        """Open a session, and tell which lists are in force."""
        reply = super().hello(caller, request)
        versions = self._members().version, self._denied().version
        return structs.replace(reply, roster_version=versions[0], deny_version=versions[1])

    def poll(self, caller: Caller, request: verbs.Poll) -> verbs.Offers:
        """Return work, and the name of the roster in force, which the site fetches where it has another."""
        offers = super().poll(caller, request)
        data, found = self._update()
        if found is None:
            return offers
        named = verbs.Notice(code=ROSTER_NOTICE, text=f"{hashlib.sha256(data).hexdigest()} {len(data)}")
        return structs.replace(offers, notices=(*offers.notices, named))

    def open_blob(self, caller: Caller, request: verbs.Fetch) -> BlobOnDisk:
        """Return the roster, or a blob that one of the caller's tasks names."""
        data, found = self._update()
        if found is not None and hashlib.sha256(data).digest() == request.digest:
            return BlobOnDisk(len(data), io.BytesIO(data))
        return super().open_blob(caller, request)


class CoordinatorHost:
    """A coordinator that runs. A context manager: entered, it serves its sites; ``serve`` takes runs to their ends.

    Args:
        folder: Its files.
        capacity: How much it takes on at once.
        heartbeat_s: How often sites say that they live.
        poll_s: Longest wait of a site for work.
        rehearsal: Draw secrets from the seed of a run: synthetic or public data only.
        now: Seconds since 1970.

    Raises:
        StoreError: When another process owns the store, or it is damaged.
        PortBusy: When somebody listens at one of the ports.
        TrustError: When its own certificate, the roster or the deny list is not of the root.
    """

    def __init__(
        self,
        folder: CoordinatorFolder | Path,
        *,
        capacity: Capacity | None = None,
        heartbeat_s: float = 12.0,
        poll_s: float = 45.0,
        rehearsal: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder if isinstance(folder, CoordinatorFolder) else CoordinatorFolder(folder)
        self._now = now
        self.settings = self.folder.settings()
        self._update = Followed(self.folder.roster_path, read=self._read_update)
        self._denied = Followed(self.folder.deny_path, read=lambda _: self.folder.deny_list())
        self._update(), self._denied()  # what cannot be read now is told now
        self.peer = renew_coordinator(self.folder, now=now())
        self._stopped = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._rounds, self._commits = Durations(), Durations()
        self._failures = 0
        self._bytes = {"up": 0, "down": 0}
        self._open = contextlib.ExitStack()
        try:
            self.store = self._open.enter_context(
                FederationStore(self.folder.store, now=now, point=_timed(self._commits))
            )
            self.desk = Desk()
            self.federation = Federation(
                self.store,
                self.desk,
                self.members,
                patience=self.settings.patience,
                least=self.settings.least,
                suspend_after=self.settings.suspend_after,
                rehearsal=rehearsal,
            )
            self.admin = AdminCalls(
                self.store,
                self.desk,
                self.federation,
                self.folder,
                ports=lambda: self.ports,
                version=own_version(),
                now=now,
            )
            calls = CoordinatorCalls(
                self.store,
                self.desk,
                self.members,
                update=self._update,
                denied=self._denied,
                admin=self.admin,
                heartbeat_s=heartbeat_s,
                poll_s=poll_s,
                now=now,
                identity=LocalIdentity(ClientId(COORDINATOR), self.folder.signing_key()),
            )
            self._bind(calls, capacity)
        except BaseException:
            self._open.close()
            raise

    def _bind(self, calls: CoordinatorCalls, capacity: Capacity | None) -> None:
        settings, asked = self.settings, self.settings.ports
        one = settings.hosts[0].strip("[]")
        host = "" if one in ("::", "0.0.0.0") else one
        self._health = HealthPort(faults=self.admin.faults, metrics=self.metrics, port=asked.health)
        self._open.callback(self._health.stop)
        entry_calls = EntryCalls(self.store, self.folder, ports=lambda: self.ports, now=self._now)
        self._entry = EntryPort(
            entry_calls, self.folder.tls, version=own_version(), host=host, port=asked.entry, wall=self._now
        )
        self._open.callback(self._entry.stop)
        self._probe = ProbePort(
            self.folder.tls,
            federation=settings.federation,
            authorise=calls.authorise,
            host=host,
            port=asked.probe,
            wall=self._now,
        )
        self._open.callback(self._probe.stop)
        self._server = Server(
            calls,
            self.folder.tls,
            federation=settings.federation,
            hosts=settings.hosts,
            port=asked.sites,
            capacity=capacity,
            require_pq=settings.require_pq,
        )
        self._open.callback(lambda: self._server.stop(self._grace_s))
        self._grace_s = 1.0
        self.ports = Ports(
            sites=self._server.port, entry=self._entry.port, probe=self._probe.port, health=self._health.port
        )

    def _read_update(self, data: bytes | None) -> tuple[bytes, RosterUpdate | None]:
        return (b"", None) if data is None else (data, self.folder.read_roster(data))

    def members(self) -> SignedRoster:
        """Return the roster in force; one of nobody before the first was installed."""
        found = self._update()[1]
        return roster(self.settings.federation, 0, []) if found is None else found.roster

    def sites(self) -> Sequence[ClientId]:
        """Return who is asked to take part: members that are neither denied nor suspended."""
        denied = self._denied()
        suspended = {each.name for each in self.store.sites.all() if each.suspended is not None}
        out = suspended | denied.clients | {ClientId(COORDINATOR)}
        return tuple(each.client for each in self.members().members if each.client not in out)

    # The life of it --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._let_go()
        for port in (self._health, self._entry, self._probe, self._server):
            port.start()
        threading.Thread(target=self._tidy_hourly, name="tidying", daemon=True).start()
        log.info("event=serving sites=%s entry=%s probe=%s", self.ports.sites, self.ports.entry, self.ports.probe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: refuse new calls, give open ones some time, close the store."""
        self.stop()
        self._idle.wait(_GRACE_S)
        self._open.close()

    def serve(self, *, on_round: Sequence[OnRound] = ()) -> None:
        """Take runs to their ends until ``stop``. While the store cannot be written, what was begun waits."""
        self._idle.clear()
        try:
            while not self._stopped.is_set():
                self.federation.serve(sites=self.sites, on_round=(*on_round, self._count, self._leave_paused))
                if self.desk.halted == ABORTED and not self._stopped.is_set():
                    self.desk.resume()
        finally:
            self._idle.set()

    def run(self, *, on_round: Sequence[OnRound] = (), ready: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal: the first lets what is open end, the second does not wait. To be called once, entered.

        Args:
            on_round: Called with each round's record.
            ready: Called when signals are listened to.

        Returns:
            0: everything was left so that it goes on at the next start.
        """
        with asked_to_end(self._drain, second=self._give_no_grace):
            ready()
            self.serve(on_round=on_round)
        return 0

    def stop(self, reason: str = "the coordinator is stopping") -> None:
        """Open nothing more; uploads and results of what was begun are taken for as long as the grace is."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._server.drain()
            self.desk.halt(reason)

    def _drain(self, number: int) -> None:
        log.warning("event=draining signal=%s grace_s=%s", number, _GRACE_S)
        self._grace_s = _GRACE_S
        self.stop()

    def _give_no_grace(self) -> None:
        self._grace_s = 0.0

    def _leave_paused(self, record: RoundRecord) -> None:
        """Open no further round of a run that an operator has paused or ended.

        Raises:
            Halted: When there is one: the engine goes on with the next run.
        """
        del record
        current = self.federation.current
        if current is not None and self.store.runs.run(current).stage in ("paused", "aborted"):
            raise Halted("the run was paused or ended")

    def _count(self, record: RoundRecord) -> None:
        self._rounds.add(record.seconds)
        self._failures += len(record.failures)
        self._bytes["up"] += record.bytes_up
        self._bytes["down"] += record.bytes_down

    def _tidy_hourly(self) -> None:
        """Let go of contents that nothing refers to, and renew the certificate when it is time."""
        while not self._stopped.wait(_TIDY_EVERY_S):
            self._let_go()
            try:
                self.peer = renew_coordinator(self.folder, now=self._now())
            except Error as error:
                log.error("event=not_renewed error=%s", error)

    def _let_go(self) -> None:
        """Delete old contents that nothing needs.

        Nothing is written meanwhile: a site whose content is here already is told so in a transaction, and must find
        it when it hands it in.
        """
        try:
            with self.store.together("let go"):
                deleted = self.store.blobs.collect(self.store.rounds.needed(), _KEPT_S, now=self._now())
        except Error as error:
            log.error("event=not_tidied error=%s", error)
            return
        log.info("event=tidied contents=%s", deleted)

    # Figures ---------------------------------------------------------------------------------------------------------

    def metrics(self) -> Sequence[Metric]:
        """Return the figures of now."""
        stages = Counter[Labels]((("stage", run.stage),) for run in self.store.runs.all())
        ages: dict[Labels, float] = {
            (("site", str(site.name)),): self.desk.clock() - heard
            for site in self.store.sites.all()
            if (heard := self.desk.heard(site.name)) is not None
        }
        return (
            metric("fedloom_rounds_total", "Rounds committed by this process.", self._rounds.count, kind="counter"),
            metric("fedloom_round_seconds_total", "Seconds that they took.", self._rounds.seconds, kind="counter"),
            metric("fedloom_round_seconds_last", "Seconds that the last one took.", self._rounds.last),
            metric("fedloom_failures_total", "Failures of sites in them.", self._failures, kind="counter"),
            Metric(name="fedloom_runs", words="Runs by stage.", values=stages),
            metric("fedloom_waiting_tasks", "Tasks that no site has settled.", self._waiting()),
            metric("fedloom_quorum_gap", "Sites that open rounds still wait for, at most.", self._gap()),
            Metric(
                name="fedloom_bytes_total",
                words="Of messages in committed rounds, up from sites and down to them.",
                values={(("direction", way),): count for way, count in self._bytes.items()},
                kind="counter",
            ),
            metric("fedloom_store_commits_total", "Transactions.", self._commits.count, kind="counter"),
            metric("fedloom_store_commit_seconds_total", "What they took.", self._commits.seconds, kind="counter"),
            Metric(name="fedloom_epsilon", words="Spent or promised, by data set.", values=self._epsilon()),
            Metric(name="fedloom_heartbeat_age_seconds", words="Since a site was last heard of.", values=ages),
            metric("fedloom_sites", "Members that may take part.", len(self.sites())),
            metric("fedloom_events_total", "Events of the store.", self.store.events.head().rows, kind="counter"),
            metric(
                "fedloom_certificate_days_left",
                "Until the coordinator's certificate ends.",
                (self.peer.not_after - self._now()) / 86400.0,
            ),
            metric("fedloom_blob_bytes", "Bytes of contents in the store.", self._blob_bytes()),
        )

    def _waiting(self) -> int:
        return sum(len(self.store.rounds.tasks(site.name)) for site in self.store.sites.all())

    def _gap(self) -> int:
        opened = (self.store.rounds.open_round(run.run) for run in self.store.runs.unfinished())
        return max((len(self.admin.waiting_for(each)) for each in opened if each is not None), default=0)

    def _epsilon(self) -> dict[Labels, float]:
        path = self.folder.store / RUNS / LEDGER
        if not path.exists():
            return {}
        with Ledger.read(path) as ledger:
            names = [budget.data_set for budget in ledger.budgets()]
            return {(("data_set", name),): ledger.balance(name).promised.epsilon for name in names}

    def _blob_bytes(self) -> int:
        try:
            return sum(path.stat().st_size for path in (self.folder.store / "blobs").rglob("*") if path.is_file())
        except OSError as error:
            raise StoreError(f"{self.folder.store / 'blobs'}: {error.strerror}") from error


def _timed(commits: Durations) -> Point:
    """Return what takes the time between a transaction's last write and the moment when it is on the disk."""
    begun = threading.local()

    def point(name: str) -> None:
        if name.endswith("/written"):
            begun.at = time.perf_counter()
        elif name.endswith("/committed") and getattr(begun, "at", None) is not None:
            commits.add(time.perf_counter() - begun.at)
            begun.at = None

    return point
