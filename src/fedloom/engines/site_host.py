"""SiteHost: the process of a site: it dials out, works through its agent, and looks after its certificate."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from fedloom.engines.coordinator_host import ROSTER_NOTICE
from fedloom.engines.health import HealthPort, Labels, Metric, metric
from fedloom.engines.interrupts import asked_to_end
from fedloom.engines.owned_files import Followed
from fedloom.engines.site_agent import SiteAgent
from fedloom.engines.site_folder import SiteFolder, check_member, follow_roster, renew
from fedloom.engines.site_judge import Examine, SiteJudge
from fedloom.engines.site_rules import SiteRules
from fedloom.errors import Error, StoreError, TransportError, TrustError
from fedloom.secure.certificates import renewal_due, warnings
from fedloom.secure.roster_pin import RosterPin
from fedloom.store.ledger import Ledger
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs
from fedloom.transport.backoff import Jitter, LinkState
from fedloom.transport.client import Client
from fedloom.transport.errors import Code, Refused, TlsFilesError, Unreachable
from fedloom.transport.probe import probe

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 600.0
_AGAIN_S = 15.0
_LARGEST_ROSTER = 1 << 20
_KEPT_S = 86400.0
"""Contents that nothing refers to are kept so long: what refers to them may not be written yet."""
_LEAVING_S = 30.0
"""For a task that is at work when the store is to be closed."""
_FINAL = frozenset({Code.LOST_STATE, Code.VERSION, Code.WEAK_CHANNEL})
"""Refusals that time does not mend: an operator has to look."""


class RosterLine(Client):
    """A client that follows the roster that its coordinator names, and knows whether it only waits for work."""

    folder: SiteFolder
    waiting = False
    leaving = False
    """Nothing more is waited for: the session is ended, and then the line."""
    _seen = ""

    def poll(self, request: verbs.Poll) -> verbs.Offers:
        """Ask for work; take a newer roster where one is named.

        Raises:
            Unreachable: When the site is leaving.
        """
        self.waiting = True
        try:
            if self.leaving:
                raise Unreachable("the site is stopping")
            offers = super().poll(request)
        finally:
            self.waiting = False
        for notice in offers.notices:
            if notice.code == ROSTER_NOTICE:
                self._follow(notice.text)
        return offers

    def _follow(self, text: str) -> None:
        """Fetch a roster that is not the one seen last. What the root has not signed changes nothing here."""
        if text == self._seen:
            return
        digest, _, length = text.partition(" ")
        try:
            blob = verbs.Blob(digest=bytes.fromhex(digest), length=int(length))
            data = self.fetch(blob, largest=_LARGEST_ROSTER)
            pin = follow_roster(self.folder, data)
        except (ValueError, TrustError, Refused) as error:
            log.error("event=roster_refused error=%s", error)
            return
        self._seen = text
        if pin.pending:
            said = "; ".join(map(str, pin.pending))
            log.warning("event=roster_waits said=%s: look at it, and approve it", said)


class SiteHost:
    """A site that runs. A context manager: entered, it holds its store; ``serve`` works until ``stop``.

    Args:
        folder: Its files.
        server_name: Name to expect in the coordinator's certificate, where it is dialled by another.
        require_pq: Refuse a coordinator whose key exchange a quantum computer breaks.
        rehearsal: Draw secrets from the seed of a run: where the policy allows it only.
        health_port: Of ``/healthz``, ``/readyz`` and ``/metrics`` on loopback; None: none, 0: the system chooses.
        examine: Examines a run; by default in a process of its own.
        jitter: Of the waits between attempts.
        now: Seconds since 1970.

    Raises:
        ConfigError: When the policy breaks a rule: nothing is allowed then, and the site does not start.
        StoreError: When another agent owns the store, or the folder has not joined.
    """

    def __init__(
        self,
        folder: SiteFolder | Path,
        *,
        server_name: str | None = None,
        require_pq: bool = False,
        rehearsal: bool = False,
        health_port: int | None = None,
        examine: Examine | None = None,
        jitter: Jitter | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder if isinstance(folder, SiteFolder) else SiteFolder(folder)
        self._now = now
        self._server_name = server_name
        self._rehearsal = rehearsal
        self.identity = self.folder.identity()
        check_member(self.folder)
        self._pin = Followed(self.folder.pin_path, read=lambda _: self.folder.pin())
        self._stopping = threading.Event()
        self._agent: SiteAgent | None = None
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._told: tuple[str, ...] = ()
        place = self.folder.coordinator()
        if not place.sites:
            raise StoreError(
                f"{self.folder.path / 'coordinator.json'} names no port for sites: write `sites`, host:port, into it"
            )
        self._place = place
        self.line = RosterLine(
            place.sites,
            self.folder.tls,
            server_name=server_name,
            require_pq=require_pq,
            tell=self._changed,
            jitter=jitter,
            pause=self._stopping.wait,  # a site that stops makes no second attempt: what it has to say is in its outbox
        )
        self.line.folder = self.folder
        self._open = contextlib.ExitStack()
        self._open.callback(self.line.close)
        try:
            self.folder.policy()  # what breaks a rule is told before the store counts a start
            self.store = self._open.enter_context(SiteStore(self.folder.store, now=now))
            self.rules = SiteRules(self.folder, self.store, client=self.identity.client, now=now)
            self.judge = SiteJudge(
                self.folder,
                self.store,
                self.rules,
                client=self.identity.client,
                rehearsal=rehearsal,
                now=now,
                examine=examine,
            )
            self._health = None
            if health_port is not None:
                self._health = HealthPort(faults=self.faults, metrics=self.metrics, port=health_port)
                self._open.callback(self._health.stop)
        except BaseException:
            self._open.close()
            raise

    def pin(self) -> RosterPin:
        """Return the roster, and whom the operator has approved, as they are now."""
        return self._pin()

    # The life of it --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin to look after the certificate, and let go of contents that nothing refers to."""
        self.look_after_certificate()
        self._let_go()
        threading.Thread(target=self._look_after, name="certificate", daemon=True).start()
        if self._health is not None:
            self._health.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and own the store no longer."""
        self.stop()
        self._idle.wait(_LEAVING_S)
        self._open.close()

    def serve(self) -> None:
        """Work until ``stop``. Refusals that may pass are waited out; the others end it.

        Raises:
            Refused: When the coordinator has seen a newer store of this site, or speaks another protocol.
            StoreWentBack: When the coordinator's store is older than this site has seen it.
            StoreError: When the site's own store cannot be written.
        """
        self._idle.clear()
        try:
            self._serve()
        finally:
            self._idle.set()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve_once()
            except Refused as error:
                if error.refusal.code in _FINAL:
                    raise
                wait_s = max(error.refusal.retry_after_s, _AGAIN_S)
                log.error("event=refused code=%s again_s=%s said=%s", error.refusal.code, wait_s, error)
                self._stopping.wait(wait_s)
            except (Unreachable, TlsFilesError) as error:
                if self._stopping.is_set():
                    return
                log.error("event=no_line error=%s", error)
                self._stopping.wait(_AGAIN_S)

    def _serve_once(self) -> None:
        agent = SiteAgent(
            self.line,
            self.store,
            self.identity,
            roster=self.pin,
            data=self.judge.data,
            judge=self.judge.judge,
            gate=self.judge,
            coordinator=lambda: self.pin().coordinator,
            limits=lambda: self.rules.last.limits,
            rehearsal=self._rehearsal,
            now=self._now,
        )
        with self._lock:
            if self._stopping.is_set():
                return
            self._agent = agent
        agent.serve()

    def run(self, *, ready: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal: the first lets a task that is at work end, the second does not wait.

        Args:
            ready: Called when signals are listened to.

        Returns:
            0: everything was left so that it goes on at the next start.
        """
        with asked_to_end(self._leave):
            ready()
            self.serve()
        return 0

    def stop(self) -> None:
        """Begin nothing more; a task that is at work ends first, a wait for work does not. Safe to repeat."""
        with self._lock:
            self._stopping.set()
            agent = self._agent
        if agent is None:
            self.line.close()
            return
        agent.stop()
        self.line.leaving = True
        link = self.line.link
        if self.line.waiting:
            agent.leave()
        if self.line.waiting or (link is not None and not link.connected):
            self.line.close()  # else a call is under way: it is answered, and the agent takes its leave

    def _leave(self, number: int) -> None:
        log.warning("event=stopping signal=%s", number)
        self.stop()

    # Certificate and line --------------------------------------------------------------------------------------------

    def look_after_certificate(self) -> None:
        """Renew the certificate when a day has gone, and say so while it is near its end and was not renewed."""
        now = self._now()
        try:
            due = renewal_due(self.folder.peer(now), now)
        except TrustError as error:
            if error.reason != "expired":
                raise
            log.warning("event=expired said=%s", error)
            due = True
        if due:
            try:
                peer = renew(self.folder)
                log.info("event=renewed serial=%s", peer.serial)
            except (TransportError, TrustError) as error:
                log.warning("event=not_renewed error=%s", error)
        with contextlib.suppress(TrustError):
            told = warnings(self.folder.peer(now), now)
            for line in told:
                if line not in self._told:
                    log.warning("event=certificate said=%s", line)
            self._told = told

    def _look_after(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            try:
                self.look_after_certificate()
            except Error as error:
                log.error("event=certificate_unusable error=%s", error)
            try:
                self._let_go()
            except Error as error:
                log.error("event=not_tidied error=%s", error)

    def _let_go(self) -> None:
        self.store.blobs.collect(self.store.needed(), _KEPT_S, now=self._now())

    def _changed(self, state: LinkState) -> None:
        """Say once that the coordinator answers or does not, and ask the probe port why it does not."""
        if state.connected:
            log.info("event=connected address=%s", state.address)
            return
        log.warning("event=waiting address=%s reason=%s", state.address, state.reason)
        # From another thread: the connection that has just failed is still in its caller's hands.
        after = self.line.close if self._stopping.is_set() else self._ask_why
        threading.Thread(target=after, name="probe", daemon=True).start()

    def _ask_why(self) -> None:
        """Present the certificate at the probe port: gRPC tells neither side why it was refused."""
        try:
            self.folder.peer(self._now())
        except (TrustError, StoreError) as error:
            log.error("event=own_certificate said=%s", error)
            return
        if not self._place.probe:
            return
        try:
            found = probe(self._place.probe, self.folder.tls, server_name=self._server_name)
        except TransportError as error:
            log.error("event=probe_failed error=%s", error)
            return
        log.log(
            logging.INFO if found.ok else logging.ERROR,
            "event=probed part=%s reason=%s said=%s %s",
            found.part,
            found.reason,
            found.sentence,
            found.remedy,
        )

    # Health ----------------------------------------------------------------------------------------------------------

    def faults(self) -> tuple[str, ...]:
        """Return what keeps the site from its work; empty: nothing."""
        found = []
        link = self.line.link
        if link is not None and not link.connected:
            found.append(link.told(time.monotonic()))
        if self.folder.paused_path.exists():
            found.append("the site is paused by its operator")
        if self.rules.fault:
            found.append(self.rules.fault)
        try:
            self.folder.peer(self._now())
            if self.pin().member(self.identity.client) is None:
                found.append("the roster with this site was not approved here: secure sums are refused")
        except Error as error:
            found.append(str(error))
        return tuple(found)

    def metrics(self) -> Iterator[Metric]:
        """Yield the figures of now."""
        link = self.line.link
        yield metric("fedloom_connected", "Whether the coordinator answers.", float(bool(link and link.connected)))
        yield metric("fedloom_outbox", "Answers that are not known to have arrived.", len(self.store.unsubmitted()))
        events = self.store.events.head().rows
        yield metric("fedloom_events_total", "Events of the store.", events, kind="counter")
        with contextlib.suppress(TrustError):
            left = self.folder.peer(self._now()).not_after - self._now()
            yield metric("fedloom_certificate_days_left", "Until the site's certificate ends.", left / 86400.0)
        if self.store.ledger_path.exists():
            with Ledger.read(self.store.ledger_path) as ledger:
                spent: dict[Labels, float] = {
                    (("data_set", each.data_set),): ledger.balance(each.data_set).promised.epsilon
                    for each in ledger.budgets()
                }
            yield Metric(name="fedloom_epsilon", words="Spent or promised, by data set.", values=spent)
