"""SiteJudge: whether a run, and each task of it, may happen at a site: its policy, its operator, its ledger.

The policy is asked before any code of the run is imported; then the run is examined in a process that is thrown away,
and what came of it is held against the policy and laid out for the operator. What is not approved is not begun.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import structs

from fedloom.core.ids import ClientId, RunId
from fedloom.engines.site_answers import Asked, SiteData
from fedloom.engines.site_folder import SiteFolder
from fedloom.engines.site_gate import Refusing, Undecided
from fedloom.engines.site_inbox import (
    Entry,
    approval_of,
    approval_path,
    approve_run,
    begun_since,
    entry_of,
    inbox,
    lay_out,
    over,
    received,
    shown,
    taken,
    withdraw_run,
)
from fedloom.engines.site_ledger import SiteLedger
from fedloom.engines.site_rules import SiteRules
from fedloom.engines.site_runs import read_experiment
from fedloom.errors import BudgetError, ComponentError, StoreError, WorkerError
from fedloom.experiment.elsewhere import examine_elsewhere
from fedloom.experiment.examination import Examined, Question, named_parts, run_fingerprint
from fedloom.experiment.refusals import Refusal
from fedloom.experiment.remote import RunFacts, read_facts
from fedloom.experiment.site_check import DataFacts, Visit, check_plan, check_visit
from fedloom.experiment.site_policy import SitePolicy, data_of
from fedloom.experiment.spec import Experiment
from fedloom.store.federation_rows import RoundKey
from fedloom.store.site_rows import Permission
from fedloom.store.site_store import SiteStore

__all__ = ["Examine", "SiteJudge", "approve_run", "inbox", "shown", "withdraw_run"]

log = logging.getLogger(__name__)
Examine = Callable[[Question], Examined]
_DAY = 86400.0
_EXAMINATION_S = 600.0


class SiteJudge:
    """What decides at one site. It is the agent's ``judge``, ``data`` and ``gate``.

    Args:
        folder: Of the site.
        store: Of the site, open.
        rules: Of the site: its policy as it is now, and what follows from it.
        client: The site.
        rehearsal: Whether secrets are drawn from the seed: the policy must allow it for the rows.
        now: Seconds since 1970.
        minute: Of the day, local time, at a moment.
        examine: Examines a run; by default in a process of its own.
    """

    def __init__(
        self,
        folder: SiteFolder,
        store: SiteStore,
        rules: SiteRules,
        *,
        client: ClientId,
        rehearsal: bool = False,
        now: Callable[[], float] = time.time,
        minute: Callable[[float], int] | None = None,
        examine: Examine | None = None,
    ) -> None:
        self._folder = folder
        self._store = store
        self._rules = rules
        self._in_force = rules.last
        self._client = client
        self._rehearsal = rehearsal
        self._now = now
        self._minute = minute or _local_minute
        self._examine = examine or self._elsewhere
        self._coordinator = folder.coordinator_name
        self._waiting: dict[RunId, tuple[object, ...]] = {}
        self._anybody = self._moment()

    @property
    def _policy(self) -> SitePolicy:
        return self._in_force.policy

    @property
    def _ledger(self) -> SiteLedger:
        return self._in_force.ledger

    # What the agent asks ---------------------------------------------------------------------------------------------

    def follow(self, run: RunId) -> bool:
        """Go by the policy as it is now; return whether it is another one than before.

        Raises:
            Undecided: While it cannot be used: nothing is allowed.
        """
        found = self._rules()
        if isinstance(found, str):
            self._waiting[run] = self._stamp(run)
            raise Undecided(found)
        self._waiting.pop(run, None)
        changed = found.digest != self._in_force.digest
        self._in_force = found
        return changed

    def data(self, experiment: Experiment) -> SiteData:
        """Return where the rows of a run lie, once the policy lets its code be imported.

        Raises:
            Refusing: When the policy does not.
            Undecided: When the site is paused, or it is not the hour.
        """
        self._anybody = self._moment()
        self._check_paused()
        name = self._data_of(experiment)
        rows = self._policy.data[name]
        self._check_visit(experiment, name)
        columns = None if rows.columns is None else tuple(rows.columns)
        return SiteData(source=rows.source, base=self._policy.base, columns=columns)

    def judge(self, asked: Asked) -> tuple[str, ...]:
        """Return what speaks against a run, as codes; none: it may happen here.

        Raises:
            Undecided: While the operator has not said, the site is paused, or it is not the hour.
        """
        try:
            self._check_paused()
            self._check_visit(asked.experiment, self._data_of(asked.experiment))
            entry = self._examined(asked.run, asked.experiment, asked.received, asked.facts)
            if entry.codes:
                return entry.codes
            self._take(entry)
        except Refusing as refusing:
            return (refusing.code,)
        except Undecided:
            self._waiting[asked.run] = self._stamp(asked.run)
            raise
        self._waiting.pop(asked.run, None)
        return ()

    def allow(self, key: RoundKey, step: int, facts: RunFacts | None) -> None:
        """Let a step of a round be carried out: its run was approved, over these facts, and its time is not over.

        Raises:
            Refusing: When it was not, or is.
            Undecided: When the site is paused, or it is not the hour: a sum that has begun goes on.
        """
        try:
            if step == 0:
                self._check_paused()
                self._check_hours()
            entry = self._current(key.run)
            if entry.codes:
                raise Refusing(entry.codes[0], "; ".join(entry.words))
            if facts is not None and structs.replace(facts, prepared=()).digest != entry.facts:
                raise Refusing("NOT_APPROVED", f"run {key.run}: other facts than those that were approved")
            if key.program not in self._policy.allow.tasks:
                raise Refusing("POLICY_TASK", f"allow.tasks has no {key.program}")
            self._take(entry)
            if not self._store.permitted(key.run, entry.manifest, round_number=key.round):
                raise Refusing("NOT_APPROVED", f"run {key.run}: its approval does not reach to round {key.round}")
        except Undecided:
            self._waiting[key.run] = self._stamp(key.run)
            raise

    def release(self, key: RoundKey) -> None:
        """Charge a release of training before its message is made.

        Raises:
            Refusing: ``BUDGET_EXHAUSTED``.
        """
        if key.program != "train":
            return
        entry = self._current(key.run)
        place = (key.phase, int(key.round), key.retry)
        try:
            self._ledger.charge(key.run, entry.data, place, releases=entry.releases)
        except BudgetError as error:
            raise Refusing("BUDGET_EXHAUSTED", str(error)) from error

    def finish(self, run: RunId) -> None:
        """Take in that a run is over: what it did not use is free, and no task of it is carried out any more."""
        self._ledger.finish(run)
        over(self._folder, run)
        self._waiting.pop(run, None)

    def recall(self, run: RunId, received: bytes, facts: RunFacts) -> Entry:
        """Return what was found of a run that had a part here, found anew where that was lost with the store.

        Raises:
            Refusing: When the policy lets none of its code be imported, or has no rows for it.
            PlanError: When what was received is no experiment.
        """
        experiment = read_experiment(run, received)
        found, agreed = entry_of(self._folder, run), structs.replace(facts, prepared=())
        if found is not None and (found.experiment, found.facts) == (experiment.digest, agreed.digest):
            return found
        with suppress(Undecided):  # nothing is trained: the hour does not matter
            self._check_visit(experiment, self._data_of(experiment))
        return self._examined(run, experiment, received, facts)

    def tells_errors(self) -> bool:
        """Return whether the message of an error may leave, of a run that hides nothing."""
        return self._in_force.policy.site.errors == "full"

    def ready(self, run: RunId) -> bool:
        """Return whether something has changed for a run that was undecided."""
        if run not in self._waiting:  # it was undecided before it had a name here
            return self._anybody != self._moment()
        return self._waiting[run] != self._stamp(run)

    # How it decides --------------------------------------------------------------------------------------------------

    def _check_paused(self) -> None:
        if self._folder.paused_path.exists():
            raise Undecided("the site is paused")

    def _check_hours(self) -> None:
        if not self._policy.limits.within_hours(self._minute(self._now())):
            raise Undecided(f"limits.hours = {self._policy.limits.hours}: it is not the hour")

    def _data_of(self, experiment: Experiment) -> str:
        asked = None if experiment.privacy is None else experiment.privacy.data_set
        found = data_of(self._policy, asked=asked)
        if found is None:
            names = ", ".join(self._policy.data)
            raise Refusing("NO_DATA", f"the run names data {asked!r}, and the policy has {names}")
        return found

    def _visit(self, but: RunId) -> Visit:
        return Visit(
            coordinator=self._coordinator,
            minute=self._minute(self._now()),
            rehearsal=self._rehearsal,
            runs_today=begun_since(inbox(self._folder), self._now() - _DAY, but=but),
        )

    def _check_visit(self, experiment: Experiment, name: str) -> None:
        """Ask the policy before any code of the run is imported.

        Raises:
            Refusing: When it says no.
            Undecided: When it is only not the hour.
        """
        try:
            parts = named_parts(experiment.as_json(), self._policy.data[name].source.name)
        except ComponentError as error:
            raise Refusing("POLICY_COMPONENT", str(error)) from error
        visit = structs.replace(self._visit(RunId("")), runs_today=0)  # of runs today, the judge knows which is which
        refusals = check_visit(self._policy, parts, visit=visit, data=name)
        others = [each for each in refusals if each.code != "POLICY_HOURS"]
        if others:
            raise Refusing(others[0].code, "; ".join(map(str, others)))
        if refusals:
            raise Undecided(refusals[0].words)

    def _examined(self, run: RunId, experiment: Experiment, raw: bytes, facts: RunFacts) -> Entry:
        """Return what was found of a run: once, as long as run, facts and policy stay what they are."""
        agreed = structs.replace(facts, prepared=())
        found = entry_of(self._folder, run)
        about = (experiment.digest, agreed.digest, self._in_force.digest)
        if found is not None and found.state == "over":
            return found
        if found is not None and (found.experiment, found.facts, found.policy) == about and not _for_now(found):
            return found
        name = self._data_of(experiment)
        rows = self._policy.data[name]
        question = Question(
            experiment=msgspec.json.decode(raw),
            client=self._client,
            source=rows.source.name,
            arguments=dict(rows.source.arguments),
            base=str(self._policy.base),
            columns=None if rows.columns is None else tuple(rows.columns),
            facts=agreed,
            run=run,
            data=name,
            rehearsal=self._rehearsal,
            orders=self._ledger.orders,
        )
        try:
            examined = self._examine(question)
        except WorkerError as error:  # nothing is known, and nothing allowed
            examined = Examined(refusals=(Refusal(code="PLAN", words=str(error)),))
        refusals = self._held_against(run, name, examined)
        words = tuple(f"{each.code}: {each.words}" for each in refusals)
        for line in (*words, *examined.warnings):
            log.warning("run=%s %s", run, line)
        entry = Entry(
            run=run,
            experiment=experiment.digest,
            facts=agreed.digest,
            policy=self._in_force.digest,
            data=name,
            asked_at=self._now(),
            state="refused" if refusals else "waiting",
            codes=tuple(each.code for each in refusals),
            words=words,
            warnings=examined.warnings,
            rows=examined.rows,
            manifest="" if examined.manifest is None else examined.manifest.fingerprint,
            promise=None if examined.request is None else examined.request.promise,
            price=examined.price,
            releases=examined.releases,
            begun_at=None if found is None else found.begun_at,
        )
        lay_out(self._folder, entry, received=raw, facts=agreed.canonical, manifest=examined.manifest)
        return entry

    def _held_against(self, run: RunId, name: str, examined: Examined) -> tuple[Refusal, ...]:
        """Return what speaks against a run: of its rows and plan, and of the policy."""
        request = examined.request
        if request is None or examined.manifest is None:
            return examined.refusals or (Refusal(code="PLAN", words="the run could not be planned here"),)
        changed = False
        if examined.fingerprint is not None:
            told = run_fingerprint(self._store.fingerprint_key(run), run, examined.fingerprint)
            changed = not self._store.saw_data(run, name, told)
        facts = None if examined.rows is None else DataFacts(rows=examined.rows, changed=changed)
        accounts = self._ledger.accounts(run, name, promise=request.promise, releases=examined.releases)
        visit = self._visit(run)
        found = check_plan(self._policy, request, data=name, facts=facts, visit=visit, accounts=accounts)
        return (*examined.refusals, *(each for each in found if each.code != "POLICY_HOURS"))

    def _current(self, run: RunId) -> Entry:
        """Return what was found of a run, examined anew where the policy has changed since.

        Raises:
            Refusing: When the run was never shown here.
        """
        entry = entry_of(self._folder, run)
        if entry is None:
            raise Refusing("NOT_APPROVED", f"run {run} was never judged here")
        if entry.policy == self._in_force.digest or entry.state == "over":
            return entry
        raw, facts = received(self._folder, run)
        experiment = Experiment.from_json(msgspec.json.decode(raw))
        self._check_visit(experiment, self._data_of(experiment))
        return self._examined(run, experiment, raw, read_facts(facts))

    def _take(self, entry: Entry) -> None:
        """Write down that a run may happen, by the operator's word or by the policy's, and set its worst case aside.

        Raises:
            Undecided: When the operator has not said.
            Refusing: When the operator has said no, the budget does not reach, or the run is over.
        """
        if entry.state == "over":
            raise Refusing("NOT_APPROVED", f"run {entry.run} is over")
        word = self._word(entry)
        known = self._store.permission(entry.run)
        if known is not None and known == word and entry.state == "approved":
            return
        try:
            self._ledger.reserve(entry.run, entry.data, promise=entry.promise, releases=entry.releases)
        except BudgetError as error:
            raise Refusing("POLICY_EPSILON", str(error)) from error
        if known != word:
            self._store.permit(word)
        begun = self._now() if entry.begun_at is None else entry.begun_at
        taken(self._folder, structs.replace(entry, state="approved", begun_at=begun))
        log.info("run=%s may happen here", entry.run)

    def _word(self, entry: Entry) -> Permission:
        try:
            said = approval_of(self._folder, entry.run)
        except StoreError as error:
            log.error("run=%s %s", entry.run, error)
            raise Undecided(str(error)) from error
        automatic = self._policy.approval.mode == "auto-if-allowed"
        if said is not None and said.withdrawn:
            no = Permission(run=entry.run, digest=entry.manifest, signed=msgspec.json.encode(said), withdrawn=True)
            if self._store.permission(entry.run) != no:
                self._store.permit(no)
            raise Refusing("NOT_APPROVED", f"the operator has said no to run {entry.run}")
        if said is not None and said.manifest == entry.manifest:
            return Permission(
                run=entry.run,
                digest=entry.manifest,
                signed=msgspec.json.encode(said),
                until=said.until,
                max_rounds=said.max_rounds,
            )
        if automatic:
            return Permission(run=entry.run, digest=entry.manifest, signed=b"")
        raise Undecided(f"run {entry.run} waits for approval: fedloom site show {entry.run}")

    def _stamp(self, run: RunId) -> tuple[object, ...]:
        """Return all that could let another answer come of an undecided run."""
        return (_changed_at(approval_path(self._folder, run)), *self._moment())

    def _moment(self) -> tuple[object, ...]:
        hours = self._policy.limits.within_hours(self._minute(self._now()))
        return self._folder.paused_path.exists(), hours, _changed_at(self._folder.policy_path)

    def _elsewhere(self, question: Question) -> Examined:
        memory = self._policy.limits.memory_gb
        size = None if memory is None else int(memory * 1e9)
        return examine_elsewhere(question, limit_s=_EXAMINATION_S, memory_bytes=size)


_PASSING = frozenset({"POLICY_RUNS", "POLICY_EPSILON", "NO_DATA", "DATA_CHANGED"})


def _for_now(entry: Entry) -> bool:
    """Return whether a refusal may be another one tomorrow: it is looked at anew."""
    return any(code in _PASSING for code in entry.codes)


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _local_minute(moment: float) -> int:
    local = time.localtime(moment)
    return local.tm_hour * 60 + local.tm_min
