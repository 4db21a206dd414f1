"""Runs: what was asked for, who has approved it, and at which stage each run is."""

from __future__ import annotations

from dataclasses import replace

from fedloom.core.ids import ClientId, RunId
from fedloom.errors import StoreError
from fedloom.store.events_chain import EventsChain
from fedloom.store.federation_rows import APPROVALS, RUNS, Approval, Run
from fedloom.store.table_file import TableFile
from fedloom.store.transitions import RUN, RunStage, ends, moved


class Runs:
    """The runs of a coordinator's store. Threads may share it."""

    def __init__(self, file: TableFile, events: EventsChain) -> None:
        self._file = file
        self._events = events

    def create(
        self, run: RunId, name: str, *, experiment: bytes, digest: str, request: str, priority: int, at: float
    ) -> Run:
        """Take a run in, as a draft; the same request again returns the run that it made.

        Args:
            run: A new name.
            name: For people.
            experiment: As it was sent.
            digest: Of the experiment.
            request: Named by who asks.
            priority: Greater comes first.
            at: The present.

        Raises:
            StoreError: When the run is here already, or the request made one of another experiment.
        """
        with self._file.writing("create run") as tables:
            tables.fold()
            for found in tables.where(RUNS, request=request) if request else ():
                if found.digest != digest:
                    raise StoreError(
                        f"request {request!r} made run {found.run} of experiment {found.digest[:12]}, and asks for "
                        f"{digest[:12]} now: give another request its own name"
                    )
                return found
            if tables.get(RUNS, run) is not None:
                raise StoreError(f"run {run} is here already: choose another name")
            self._events.append("run", {"run": run, "digest": digest, "stage": "draft"})
            made = Run(
                run=run, name=name, experiment=experiment, digest=digest, stage="draft", priority=priority, created=at,
                request=request,
            )  # fmt: skip
            return tables.put(RUNS, made)

    def run(self, run: RunId) -> Run:
        """Return a run.

        Raises:
            StoreError: When there is none of that name.
        """
        with self._file.reading() as tables:
            found = tables.get(RUNS, run)
        if found is None:
            raise StoreError(f"there is no run {run!r} here")
        return found

    def all(self) -> tuple[Run, ...]:
        """Return all runs, by name."""
        with self._file.reading() as tables:
            return tables.where(RUNS)

    def unfinished(self) -> tuple[Run, ...]:
        """Return the runs that are not at an end: greatest priority first, then the oldest."""
        over = ends(RUN)
        left = [run for run in self.all() if run.stage not in over]
        return tuple(sorted(left, key=lambda run: (-run.priority, run.created, run.run)))

    def move(self, run: RunId, stage: RunStage, *, reason: str = "") -> Run:
        """Bring a run to a stage; the same again changes nothing.

        Raises:
            StoreError: When there is none of that name, or the stage cannot follow.
        """
        with self._file.writing("move run") as tables:
            tables.fold()
            found = self.run(run)
            if not moved(RUN, found.stage, stage, what=f"run {run}"):
                return found
            self._events.append("run", {"run": run, "stage": stage, "reason": reason})
            return tables.put(RUNS, replace(found, stage=stage, reason=reason))

    def reopen(self, run: RunId, *, reason: str) -> Run:
        """Let a run that failed run again: the one way out of an end, for a run whose open round can be closed yet.

        The caller has seen to it that there is such a round.

        Raises:
            StoreError: When there is none of that name, or it has not failed.
        """
        with self._file.writing("reopen run") as tables:
            tables.fold()
            found = self.run(run)
            if found.stage != "failed":
                raise StoreError(f"run {run} is {found.stage}: only one that failed is opened again")
            self._events.append("run", {"run": run, "stage": "running", "reason": reason})
            return tables.put(RUNS, replace(found, stage="running", reason=reason))

    def approve(self, approval: Approval) -> None:
        """Write what a site said to a run; it may change its mind.

        Raises:
            StoreError: When there is no such run, or what was approved is not what would run.
        """
        with self._file.writing("approve") as tables:
            tables.fold()
            found = self.run(approval.run)
            if found.digest != approval.digest:
                raise StoreError(
                    f"site {approval.site!r} speaks of {approval.digest[:12]}; run {found.run} is {found.digest[:12]}. "
                    "A changed experiment is approved anew"
                )
            if tables.get(APPROVALS, approval.run, approval.site) != approval:
                detail = {"run": found.run, "site": approval.site, "digest": approval.digest}
                self._events.append("approval", {**detail, "approved": approval.approved, "code": approval.code})
                tables.put(APPROVALS, approval)

    def approvals(self, run: RunId) -> tuple[Approval, ...]:
        """Return what the sites said to a run, by site."""
        with self._file.reading() as tables:
            return tables.where(APPROVALS, run=run)

    def approval(self, run: RunId, site: ClientId) -> Approval | None:
        """Return what a site said to a run; None: nothing yet."""
        with self._file.reading() as tables:
            return tables.get(APPROVALS, run, site)
