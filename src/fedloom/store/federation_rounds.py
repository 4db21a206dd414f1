"""Rounds: who was drawn, what each site was asked and what came of it. Exactly once, whatever arrives how often.

A contribution is one row, named by round, step and site, and what is in it is never changed. That a site was given up
is such a row too, written before anything rests on it: so a round that is opened again after a kill comes to the same
bytes, losses included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from fedloom.core.ids import ClientId, RunId
from fedloom.errors import StoreError
from fedloom.store.blobs import Blobs, Digest
from fedloom.store.events_chain import EventsChain
from fedloom.store.federation_rows import (
    CONTRIBUTIONS,
    GIVEN_UP,
    ROUNDS,
    RUNS,
    TASKS,
    TOO_LATE,
    UPLOADS,
    Answer,
    Contribution,
    Round,
    RoundKey,
    Task,
    Upload,
    task_name,
    upload_name,
)
from fedloom.store.leases import Leases
from fedloom.store.table_file import TableFile
from fedloom.store.tables import Reader, Writer
from fedloom.store.transitions import ACCEPTING, ROUND, TASK, RoundStage, ends, moved

_OVER = ends(ROUND)


class RoundBook:
    """The rounds of a coordinator's store. Threads may share it."""

    def __init__(
        self, file: TableFile, events: EventsChain, blobs: Blobs, *, leases: Leases, now: Callable[[], float]
    ) -> None:
        self._file = file
        self._events = events
        self._blobs = blobs
        self._leases = leases
        self._now = now
        with file.reading() as tables:
            for task in tables.where(TASKS, stage="claimed"):
                leases.give(task.task, seconds=task.lease_s)

    # Rounds ----------------------------------------------------------------------------------------------------------

    def plan(
        self, key: RoundKey, *, cohort: Sequence[ClientId], away: Sequence[int] = (), deadline_s: float | None = None
    ) -> Round:
        """Write down who was drawn, before any order leaves; the same again changes nothing.

        Raises:
            StoreError: When others were drawn before, another round of the run is open, or the retry is no new one.
        """
        with self._file.writing("plan round") as tables:
            found = tables.get(ROUNDS, *key)
            if found is not None:
                if found.cohort != tuple(cohort):
                    raise StoreError(f"{key} was drawn before, and others: a cohort is never drawn again")
                return found
            for other in _unfinished(tables, key.run):
                raise StoreError(f"{key} cannot be opened while {other.key} is {other.stage}: close that one first")
            for other in tables.where(ROUNDS, run=key.run, phase=key.phase, program=key.program, round=key.round):
                if other.stage == "committed" or other.retry >= key.retry:
                    raise StoreError(f"{key} cannot be opened: {other.key} is {other.stage}")
            self._events.append("round", {**_named(key), "stage": "planned", "cohort": list(cohort)})
            made = Round(
                **key._asdict(), stage="planned", cohort=tuple(cohort), away=tuple(away), opened=float(self._now()),
                deadline_s=deadline_s,
            )  # fmt: skip
            return tables.put(ROUNDS, made)

    def round(self, key: RoundKey) -> Round:
        """Return a round.

        Raises:
            StoreError: When it was never planned.
        """
        with self._file.reading() as tables:
            return _round(tables, key)

    def rounds(self, run: RunId) -> tuple[Round, ...]:
        """Return the rounds of a run, by name."""
        with self._file.reading() as tables:
            return tables.where(ROUNDS, run=run)

    def open_round(self, run: RunId) -> Round | None:
        """Return the round of a run that is not at an end: a resume goes on with it."""
        with self._file.reading() as tables:
            return next(_unfinished(tables, run), None)

    def move(self, key: RoundKey, stage: RoundStage, *, reason: str = "", result: Digest | None = None) -> Round:
        """Bring a round to a stage; the same again changes nothing. From ``closing`` on nothing more is counted.

        Raises:
            StoreError: When it was never planned, or the stage cannot follow.
        """
        with self._file.writing(f"round {stage}") as tables:
            found = _round(tables, key)
            if not moved(ROUND, found.stage, stage, what=str(key)):
                return found
            self._events.append("round", {**_named(key), "stage": stage, "reason": reason, "result": result})
            if stage not in ACCEPTING:
                self._settle_all(tables, key)
            if stage in _OVER:
                tables.fold()
                for task in tables.where(TASKS, **key._asdict()):
                    for upload in tables.where(UPLOADS, task=task.task):
                        tables.remove(UPLOADS, upload)
            return tables.put(ROUNDS, replace(found, stage=stage, reason=reason, result=result or found.result))

    def spend(self, key: RoundKey, seconds: float) -> Round:
        """Count time that a round was open; what was not counted before a kill does not bring its deadline nearer.

        Raises:
            StoreError: When it was never planned.
        """
        with self._file.writing("spend") as tables:
            found = _round(tables, key)
            return tables.put(ROUNDS, replace(found, spent_s=found.spent_s + max(0.0, seconds)))

    # Tasks -----------------------------------------------------------------------------------------------------------

    def offer(self, key: RoundKey, step: int, orders: Mapping[ClientId, Sequence[Digest]]) -> tuple[Task, ...]:
        """Ask sites for a step of a round; each gets the contents it needs. The same again changes nothing.

        Raises:
            StoreError: When a site was not drawn, was asked something else, the round is closed, or a content is
                not here.
        """
        with self._file.writing("offer") as tables:
            found = _round(tables, key)
            made = [self._offer(tables, found, step, site, tuple(inputs)) for site, inputs in sorted(orders.items())]
            if found.stage == "planned":
                tables.put(ROUNDS, replace(found, stage="offered"))
                self._events.append("round", {**_named(key), "stage": "offered"})
        return tuple(made)

    def tasks(self, site: ClientId) -> tuple[Task, ...]:
        """Return what a site is asked and has not answered, by round and step."""
        with self._file.reading() as tables:
            found = (*tables.where(TASKS, site=site, stage="offered"), *tables.where(TASKS, site=site, stage="claimed"))
        return tuple(sorted(found, key=lambda task: (*task.key, task.step)))

    def tasks_of(self, key: RoundKey) -> tuple[Task, ...]:
        """Return all tasks of a round."""
        with self._file.reading() as tables:
            return tables.where(TASKS, **key._asdict())

    def task(self, task: str) -> Task | None:
        """Return a task by its name."""
        with self._file.reading() as tables:
            return _task(tables, task)

    def claim(self, task: str, *, site: ClientId, session: str, lease_s: float) -> Task | Answer:
        """Give a site the lease of a task; a newer session of the same site takes it over.

        The caller has seen to it that the session counts.

        Returns:
            The task; or that it came too late, or is not this site's.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("claim") as tables:
            found = _task(tables, task)
            if found is None or found.site != site:
                return Answer(verdict="REJECTED", reason="there is no such task for this site")
            if found.stage == "settled":
                return Answer(verdict="TOO_LATE", reason="the task is settled")
            claimed = replace(found, stage="claimed", session=session, lease_s=lease_s)
            if claimed != found:
                tables.put(TASKS, claimed)
                self._events.append("claim", {"task": task, "site": site})
                of = _round(tables, found.key)
                if of.stage == "offered":
                    tables.put(ROUNDS, replace(of, stage="running"))
                    self._events.append("round", {**_named(of.key), "stage": "running"})
        self._leases.give(task, seconds=lease_s)
        return claimed

    def extend(self, task: str, *, site: ClientId, session: str) -> bool:
        """Let a lease last its time from now on; False: the site has none any more, and drops the task."""
        found = self.task(task)
        if found is None or (found.site, found.session, found.stage) != (site, session, "claimed"):
            return False
        return self._leases.extend(task, seconds=found.lease_s)

    def expired(self) -> tuple[Task, ...]:
        """Return the claimed tasks whose lease has ended: to be offered again, or given up."""
        found = [self.task(name) for name in self._leases.over()]
        return tuple(task for task in found if task is not None and task.stage == "claimed")

    def reoffer(self, task: str) -> None:
        """Offer a claimed task again: its site was not heard of for a lease.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("reoffer") as tables:
            found = _task(tables, task)
            if found is not None and found.stage == "claimed":
                tables.put(TASKS, replace(found, stage="offered", session=None))
                self._events.append("reoffer", {"task": task, "site": found.site})
        self._leases.drop([task])

    def begin_upload(self, task: str, *, site: ClientId, digest: Digest, length: int) -> Upload | Answer:
        """Write down a content that a site is going to send for a task; the same again is the same upload.

        Returns:
            The upload, whose name the ``sender`` of ``Blobs.writer`` is; or why there is none.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("begin upload") as tables:
            found = _task(tables, task)
            if found is None or found.site != site:
                return Answer(verdict="REJECTED", reason="there is no such task for this site")
            name = upload_name(task, digest, length)
            begun = tables.get(UPLOADS, name)
            if begun is not None:
                return begun
            if found.stage == "settled":
                return Answer(verdict="TOO_LATE", reason="the task is settled")
            made = Upload(upload=name, task=task, site=site, digest=digest, length=length)
            return tables.put(UPLOADS, made)

    def upload(self, upload: str) -> Upload | None:
        """Return an upload by its name."""
        with self._file.reading() as tables:
            return tables.get(UPLOADS, upload)

    # Contributions ---------------------------------------------------------------------------------------------------

    def accept(self, sent: Contribution) -> Answer:
        """Take what came of a task: once. Durable when this returns, and the answer the same however often it comes.

        Returns:
            ACCEPTED, when it counts; DUPLICATE_OK, when it counted before; TOO_LATE, when the round is closed or the
            site was given up: it is kept for an audit; REJECTED, when the site has sent something else for the task,
            was never asked, or the content has not arrived.

        Raises:
            StoreError: When it cannot be written: it does not count.
        """
        assert sent.kind not in GIVEN_UP, "give_up says that"
        with self._file.writing("accept") as tables:
            task = tables.get(TASKS, *sent.key, sent.step, sent.site)
            if task is None:
                return Answer(verdict="REJECTED", reason="the site was not asked for this")
            found = tables.get(CONTRIBUTIONS, *sent.key, sent.step, sent.site)
            if found is not None and found.kind not in GIVEN_UP:
                if found.says(sent):
                    return Answer(verdict="DUPLICATE_OK")
                return Answer(verdict="REJECTED", reason="the site has sent something else for this task")
            if (sent.kind == "message") != (sent.blob is not None) or (sent.blob and not self._blobs.has(sent.blob)):
                return Answer(verdict="REJECTED", reason="the content of the message has not arrived")
            of = _round(tables, sent.key)
            if found is not None or of.stage not in ACCEPTING:
                if tables.get(TOO_LATE, *sent.key, sent.step, sent.site) is None:
                    tables.put(TOO_LATE, sent)
                    self._events.append("too late", {**_named(sent.key), "step": sent.step, "site": sent.site})
                why = f"the round is {of.stage}" if found is None else f"the site was given up ({found.kind})"
                return Answer(verdict="TOO_LATE", reason=why)
            self._take(tables, of, sent, task)
        self._leases.drop([task.task])
        return Answer(verdict="ACCEPTED")

    def give_up(self, key: RoundKey, step: int, site: ClientId, *, kind: Literal["lost", "late"], detail: str) -> bool:
        """Write down that nothing more is counted from a site at a step: before anything rests on it.

        Returns:
            False, when its contribution has arrived before: that counts, and must be taken.

        Raises:
            StoreError: When the site was not asked, the round is closed, or it cannot be written.
        """
        with self._file.writing("give up") as tables:
            task = tables.get(TASKS, *key, step, site)
            of = _round(tables, key)
            if task is None:
                raise StoreError(f"site {site!r} was not asked for step {step} of {key}: it cannot be given up there")
            found = tables.get(CONTRIBUTIONS, *key, step, site)
            if found is not None:
                return found.kind in GIVEN_UP
            if of.stage not in ACCEPTING:
                raise StoreError(f"{key} is {of.stage}: who is given up must be written down before it closes")
            gone = Contribution(**key._asdict(), step=step, site=site, kind=kind, detail=detail)
            self._take(tables, of, gone, task)
        self._leases.drop([task.task])
        return True

    def contributions(self, key: RoundKey) -> tuple[Contribution, ...]:
        """Return what came of a round, losses included, in the order in which it was written down."""
        with self._file.reading() as tables:
            found = tables.where(CONTRIBUTIONS, **key._asdict())
        return tuple(sorted(found, key=lambda each: each.order))

    def too_late(self, key: RoundKey) -> tuple[Contribution, ...]:
        """Return what came too late in a round, by step and site."""
        with self._file.reading() as tables:
            return tables.where(TOO_LATE, **key._asdict())

    def drop(self, run: RunId, *, reason: str) -> None:
        """Abort the rounds of a run that has ended before them, so that no site works for them any more.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("drop rounds") as tables:
            for each in list(_unfinished(tables, run)):
                if "aborted" in ROUND[each.stage]:
                    self.move(each.key, "aborted", reason=reason)

    def needed(self) -> frozenset[Digest]:
        """Return the contents that something still reads; the others may go.

        Those are what open rounds refer to, which the round of a failed run is until it is resumed; what was announced
        for them; what was said before the first round of a run that has not begun, of which its facts are made; and
        what rounds resulted in. Of a round that is over the rows stay and the contents go: who sent what, as a digest,
        stands in the events for an audit, nothing is computed behind a committed round again, and the update of a
        single site is the last thing that a coordinator should keep longer than it must.
        """
        kept: set[Digest] = set()
        with self._file.reading() as tables:
            kept.update(upload.digest for upload in tables.where(UPLOADS))
            waiting = {run.run for run in tables.where(RUNS) if run.stage == "awaiting_approval"}
            for each in tables.where(ROUNDS):
                if each.result is not None:
                    kept.add(each.result)
                if each.stage in _OVER and each.run not in waiting:
                    continue
                name = each.key._asdict()
                for task in tables.where(TASKS, **name):
                    kept.update(task.inputs)
                kept.update(sent.blob for sent in tables.where(CONTRIBUTIONS, **name) if sent.blob is not None)
        return frozenset(kept)

    # -----------------------------------------------------------------------------------------------------------------

    def _offer(self, tables: Writer, of: Round, step: int, site: ClientId, inputs: tuple[Digest, ...]) -> Task:
        found = tables.get(TASKS, *of.key, step, site)
        if found is not None:
            if found.inputs != inputs:
                raise StoreError(
                    f"site {site!r} was asked something else for step {step} of {of.key}: it is asked once"
                )
            return found
        if of.stage not in ("planned", *ACCEPTING):
            raise StoreError(f"{of.key} is {of.stage}: no site can be asked any more")
        if site not in of.cohort:
            raise StoreError(f"site {site!r} was not drawn for {of.key}: expected one of {list(of.cohort)}")
        for digest in inputs:
            if not self._blobs.has(digest):
                raise StoreError(f"content {digest} for site {site!r} is not here: put it before it is offered")
        self._events.append("offer", {**_named(of.key), "step": step, "site": site, "inputs": list(inputs)})
        return tables.put(
            TASKS, Task(task=task_name(of.key, step, site), **of.key._asdict(), step=step, site=site, inputs=inputs)
        )

    def _take(self, tables: Writer, of: Round, sent: Contribution, task: Task) -> None:
        tables.put(CONTRIBUTIONS, replace(sent, order=of.arrivals))
        tables.put(ROUNDS, replace(of, arrivals=of.arrivals + 1))
        tables.put(TASKS, replace(task, stage="settled"))
        detail = {**_named(sent.key), "step": sent.step, "site": sent.site, "kind": sent.kind, "blob": sent.blob}
        self._events.append("contribution", detail)

    def _settle_all(self, tables: Writer, key: RoundKey) -> None:
        left = [task for task in tables.where(TASKS, **key._asdict()) if task.stage != "settled"]
        for task in left:
            assert moved(TASK, task.stage, "settled", what=f"task {task.task}")
            tables.put(TASKS, replace(task, stage="settled"))
        self._leases.drop(task.task for task in left)


def _round(tables: Reader, key: RoundKey) -> Round:
    found = tables.get(ROUNDS, *key)
    if found is None:
        raise StoreError(f"{key} was never planned")
    return found


def _unfinished(tables: Reader, run: RunId) -> Iterator[Round]:
    for stage in sorted(ROUND.keys() - _OVER):
        yield from tables.where(ROUNDS, run=run, stage=stage)


def _task(tables: Reader, task: str) -> Task | None:
    return next(iter(tables.where(TASKS, task=task)), None)


def _named(key: RoundKey) -> dict[str, str | int]:
    return dict(key._asdict())
