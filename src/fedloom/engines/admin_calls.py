"""AdminCalls: what a coordinator answers to its operators. Whatever changes something, asked twice, is done once."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator

import msgspec

from fedloom.core.data import Schema
from fedloom.core.ids import ClientId, RunId
from fedloom.engines.coordinator_folder import CoordinatorFolder, install_deny_list
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.desk import Desk
from fedloom.engines.entry_calls import invite
from fedloom.engines.federation import ABORTED, Federation
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.errors import Error, RunStopped, StoreError, TrustError
from fedloom.experiment.remote import RunFacts, without_rows
from fedloom.experiment.spec import Experiment
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Round, Run, Site
from fedloom.store.transitions import RUN, RunStage, ends
from fedloom.transport import admin, verbs
from fedloom.transport.errors import Code, Refused
from fedloom.transport.service import Caller

log = logging.getLogger(__name__)
_TICK_S = 1.0
_MOST_WORDS = 2000
_LOW_DISK = 256 << 20
"""Bytes below which a coordinator calls its disk full: a round of two hundred sites and models of 1 MB."""
CONNECTED_S = 60.0
"""A site that was heard of within this time is connected."""


class AdminCalls:
    """The coordinator's side of what operators ask for.

    Args:
        store: The coordinator's.
        desk: Woken, and halted where a run is ended in the middle of a round.
        federation: The engine, which takes runs in.
        folder: Files of the coordinator.
        ports: Where it listens.
        version: Of fedloom.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        store: FederationStore,
        desk: Desk,
        federation: Federation,
        folder: CoordinatorFolder,
        *,
        ports: Callable[[], Ports],
        version: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._desk = desk
        self._federation = federation
        self._folder = folder
        self._ports = ports
        self._version = version
        self._now = now

    # Runs ------------------------------------------------------------------------------------------------------------

    def create_run(self, caller: Caller, request: admin.CreateRun) -> admin.RunAt:
        """Take in an experiment, once it is sure that it can be planned; the sites are asked about it next.

        Raises:
            Refused: ``MALFORMED``, with every reason, when it is none, or not the one that its digest names.
        """
        experiment = self._experiment(request)
        try:
            run = self._federation.submit(
                experiment, name=request.name, base=self._folder.path, request=request.request, at=self._now()
            )
        except StoreError as error:
            raise Refused(Code.ABORTED, f"{error}.") from error
        log.info("event=run_created run=%s by=%s", run, caller.client)
        self._store.events.append("run created", {"run": run, "by": caller.client})
        return self._at(self._store.runs.run(run))

    def _experiment(self, request: admin.CreateRun) -> Experiment:
        try:
            experiment = Experiment.from_json(msgspec.json.decode(request.experiment))
            check_parts(experiment, self._folder)
        except (Error, msgspec.MsgspecError, TypeError, ValueError, LookupError, RecursionError) as error:
            raise Refused(Code.MALFORMED, f"the experiment cannot be planned: {error}.") from error
        if bytes.fromhex(experiment.digest) != request.digest:
            raise Refused(
                Code.MALFORMED,
                f"the experiment has the digest {experiment.digest[:12]} here and {request.digest.hex()[:12]} there.",
                remedy="Check that both ends have the same versions of fedloom and of what the experiment names.",
            )
        return experiment

    def approve_run(self, caller: Caller, request: admin.ApproveRun) -> admin.RunAt:
        """Confirm what was handed in: whoever hands in a run is an operator, and the sites decide for themselves.

        Raises:
            Refused: When the run is of another experiment.
        """
        del caller
        found = self._run(request.run)
        if bytes.fromhex(found.digest) != request.digest:
            raise Refused(
                Code.MALFORMED, f"run {found.run} is of {found.digest[:12]}, not {request.digest.hex()[:12]}."
            )
        if found.stage == "draft":
            self._move(found, "awaiting_approval")
        return self._at(self._run(request.run))

    def pause(self, caller: Caller, request: admin.Pause) -> admin.RunAt:
        """Open no further round of a run: the one that is open ends first."""
        found = self._run(request.run)
        if found.stage != "paused":
            self._move(found, "paused", reason=f"paused by {caller.client}")
        return self._at(self._run(request.run))

    def resume(self, caller: Caller, request: admin.Resume) -> admin.RunAt:
        """Go on with a run that was paused, that waits for its sites, or whose server step raised and was mended.

        Raises:
            Refused: When another round is named than the one that failed, or one is named of a run that has not, or
                the run failed and none is named.
        """
        found = self._run(request.run)
        if found.stage in ("paused", "waiting_for_sites"):
            if request.from_round is not None:
                raise Refused(
                    Code.ABORTED,
                    f"run {found.run} is {found.stage}: it goes on by itself from the round behind its last one.",
                    remedy="Resume it without naming a round.",
                )
            self._move(found, "running", reason=f"resumed by {caller.client}")
        elif found.stage == "failed":
            self._reopen(found, request.from_round)
        return self._at(self._run(request.run))

    def _reopen(self, run: Run, from_round: int | None) -> None:
        opened = self._store.rounds.open_round(run.run)
        if from_round is None and opened is not None:
            raise Refused(
                Code.ABORTED,
                f"run {run.run} failed in round {opened.round}: {run.reason}."[:_MOST_WORDS],
                remedy=f"Mend the algorithm, start the coordinator with it, and use --from-round {opened.round}.",
            )
        try:
            self._federation.reopen(run.run, from_round=from_round or 0)
        except (RunStopped, StoreError) as error:
            raise Refused(Code.ABORTED, f"{error}."[:_MOST_WORDS]) from error

    def abort(self, caller: Caller, request: admin.Abort) -> admin.RunAt:
        """End a run now. What it has released stays counted."""
        found = self._run(request.run)
        if found.stage != "aborted":
            try:
                self._federation.abort(found.run, reason=f"{caller.client}: {request.reason}"[:_MOST_WORDS])
            except StoreError as error:
                raise Refused(Code.ABORTED, f"{error}.") from error
        return self._at(self._run(request.run))

    def list_runs(self, caller: Caller, request: admin.ListRuns) -> admin.RunList:
        """Return a page of runs, newest first."""
        del caller
        runs = sorted(self._store.runs.all(), key=lambda run: (run.created, run.run), reverse=True)
        if request.after is not None:
            names = [run.run for run in runs]
            start = names.index(RunId(request.after)) + 1 if request.after in names else len(names)
            runs = runs[start:]
        page = runs[: request.limit]
        return admin.RunList(runs=tuple(map(self._at, page)), more=len(runs) > len(page))

    def watch_run(self, caller: Caller, request: admin.WatchRun) -> Iterator[admin.RunEvent]:
        """Yield the events of a run, from a number on: those that there are, or as they come until the run ends."""
        del caller
        run, since = self._run(request.run).run, max(0, request.since - 1)
        while True:
            seen = self._desk.version
            over = request.until == "now" or self._run(run).stage in ends(RUN)
            page = self._store.events.since(since)
            for event in page:
                since = event.seq
                if event.detail.get("run") == run:
                    data = msgspec.json.encode(event.detail)
                    yield admin.RunEvent(sequence=event.seq, time_s=event.at, kind=event.kind, data=data)
            if not page and (over or self._desk.halted not in ("", ABORTED)):
                return
            if not page:
                self._desk.wait(seen, timeout_s=_TICK_S)

    def _run(self, name: str) -> Run:
        try:
            return self._store.runs.run(RunId(name))
        except StoreError as error:
            raise Refused(Code.NOT_FOUND, f"{error}.") from error

    def _move(self, run: Run, stage: RunStage, *, reason: str = "") -> None:
        try:
            self._store.runs.move(run.run, stage, reason=reason)
        except StoreError as error:
            raise Refused(Code.ABORTED, f"{error}.") from error
        self._desk.wake()

    def _at(self, run: Run) -> admin.RunAt:
        opened = self._store.rounds.open_round(run.run)
        waiting: tuple[str, ...] = ()
        if run.stage not in ends(RUN):
            waiting = self._missing(run.run) if opened is None else self.waiting_for(opened)
        return admin.RunAt(
            run=run.run,
            name=run.name,
            state=run.stage,
            round=0 if opened is None else opened.round,
            reason=run.reason[:2000] or None,
            waiting_for=waiting[:32],
            until_s=None if opened is None else opened.remaining_s,
        )

    def waiting_for(self, opened: Round) -> tuple[str, ...]:
        """Return the sites that an open round waits for."""
        tasks = self._store.rounds.tasks_of(opened.key)
        return tuple(sorted({task.site for task in tasks if task.stage != "settled"}))

    def _missing(self, run: RunId) -> tuple[str, ...]:
        """Return whose work was missing from a round that was short, of a run that has no round open: it waits."""
        rounds = [each for each in self._store.rounds.rounds(run) if each.phase != HANDSHAKE]
        last = max(rounds, key=lambda each: (each.phase, each.round, each.retry), default=None)
        if last is None or last.stage != "aborted":
            return ()
        sent = self._store.rounds.contributions(last.key)
        there = {each.site for each in sent if each.kind == "message"} - {
            each.site for each in sent if each.kind != "message"
        }
        return tuple(sorted(set(last.cohort) - there))

    # Sites -----------------------------------------------------------------------------------------------------------

    def list_sites(self, caller: Caller, request: admin.ListSites) -> admin.SiteList:
        """Return a page of sites: members of the roster, and whoever has come."""
        del caller
        roster, denied = self._folder.roster(), self._folder.deny_list()
        members = {} if roster is None else {each.client: each.organisation for each in roster.roster.members}
        come = {each.name: each for each in self._store.sites.all()}
        names = sorted({*members, *come} - {ClientId("coordinator")})
        names = [name for name in names if request.after is None or name > request.after]
        page = names[: request.limit]
        sites = tuple(
            self._site(name, members.get(name), come.get(name), denied=denied.denies_client(name)) for name in page
        )
        return admin.SiteList(sites=sites, more=len(names) > len(page))

    def _site(self, name: ClientId, organisation: str | None, come: Site | None, *, denied: bool) -> admin.SiteAt:
        heard = self._desk.heard(name)
        age = None if heard is None else max(0.0, self._desk.clock() - heard)
        connected = age is not None and age <= CONNECTED_S and come is not None and come.session is not None
        return admin.SiteAt(
            client=name,
            organisation=organisation or (come.organisation if come is not None else "unknown"),
            state="revoked"
            if denied
            else "suspended"
            if come is not None and come.suspended is not None
            else "unknown"
            if organisation is None
            else "connected"
            if connected
            else "away",
            heartbeat_age_s=age,
            tasks=0 if come is None else len(self._store.rounds.tasks(name)),
            failures=0 if come is None else come.failures,
            reason=None if come is None or come.suspended is None else come.suspended[:_MOST_WORDS],
        )

    def invite_site(self, caller: Caller, request: admin.InviteSite) -> admin.Invitation:
        """Issue a token, once for a request.

        Raises:
            Refused: When a name cannot stand in a certificate.
        """
        names, entry = self._folder.settings().names, self._ports().entry
        try:
            token = invite(
                self._store,
                self._folder,
                organisation=request.organisation,
                client=request.client,
                address=f"[{names[0]}]:{entry}" if ":" in names[0] else f"{names[0]}:{entry}",
                now=self._now(),
                valid_s=request.valid_s,
            )
        except TrustError as error:
            raise Refused(Code.MALFORMED, f"{error}.") from error
        self._store.events.append("invited", {"client": request.client, "by": caller.client})
        return admin.Invitation(token=token.text, expires_s=self._now() + request.valid_s)

    def revoke(self, caller: Caller, request: admin.Revoke) -> verbs.Noted:
        """Shut an identity out: at once, by the root's deny list where one is sent, else until the operator says else.

        Raises:
            Refused: When the list is not the root's, does not name the identity, or nobody of the name has come.
        """
        client = ClientId(request.client)
        try:
            if request.document:
                found = install_deny_list(self._folder, request.document)
                if not found.denies_client(client):
                    raise Refused(Code.MALFORMED, f"version {found.version} of the deny list does not name {client!r}.")
            if not request.document or any(each.name == client for each in self._store.sites.all()):
                self._store.sites.suspend(client, request.reason or "revoked")
        except TrustError as error:
            raise Refused(Code.MALFORMED, f"{error}.") from error
        except StoreError as error:
            raise Refused(Code.NOT_FOUND, f"{error}.") from error
        log.warning("event=revoked client=%s by=%s", client, caller.client)
        self._store.events.append("revoked", {"client": client, "by": caller.client, "reason": request.reason})
        self._desk.wake()
        return verbs.Noted()

    def readmit(self, caller: Caller, request: admin.Readmit) -> verbs.Noted:
        """Let in a site that was suspended: from now on it is invited again.

        Raises:
            Refused: When nobody of the name has come, or the root's deny list has it.
        """
        client = ClientId(request.client)
        if self._folder.deny_list().denies_client(client):
            raise Refused(
                Code.DENIED,
                f"the deny list has {client}: whoever is on it stays out for good.",
                remedy="It joins anew under another name.",
            )
        try:
            found = self._store.sites.site(client)
            if found.suspended is not None:
                with self._store.together("readmit"):
                    self._store.sites.suspend(client, None)
                    self._store.events.append("readmitted", {"client": client, "by": caller.client})
        except StoreError as error:
            raise Refused(Code.NOT_FOUND, f"{error}.") from error
        log.warning("event=readmitted client=%s by=%s", client, caller.client)
        self._desk.wake()
        return verbs.Noted()

    def health(self, caller: Caller, request: admin.Health) -> admin.HealthReply:
        """Say whether the coordinator can work."""
        del caller, request
        faults = self.faults()
        return admin.HealthReply(ready=not faults, version=self._version, server_time_s=self._now(), faults=faults[:32])

    def faults(self) -> tuple[str, ...]:
        """Return what keeps the coordinator from its work; empty: nothing."""
        found = []
        if self._desk.halted:
            found.append(f"it opens nothing more: {self._desk.halted}")
        free = shutil.disk_usage(self._store.folder).free
        if free < _LOW_DISK:
            found.append(f"the disk of {self._store.folder} has {free >> 20} MiB left; {_LOW_DISK >> 20} are needed")
        try:
            if self._folder.roster() is None:
                found.append("no roster was installed: no site may work. The root's owner signs one")
            self._folder.own(self._now())
        except Error as error:
            found.append(str(error)[:2000])
        return tuple(found)


def check_parts(experiment: Experiment, folder: CoordinatorFolder) -> None:
    """Build every part of an experiment but its data, of which nothing is opened.

    Raises:
        Error: What speaks against it.
    """
    nobody = RunFacts(names=(ClientId("one"), ClientId("two")), schema=Schema(("x",), "y"), splits=("train",))
    without_rows(experiment, nobody, base=folder.path)
