"""Federation: the engine of a coordinator: it takes the runs of its store to their ends, one that trains at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Roster
from fedloom.engines.desk import Desk, Halted
from fedloom.engines.federated_run import FederatedRun
from fedloom.engines.local import write_files
from fedloom.engines.process import log_to, steady_arithmetic
from fedloom.engines.remote_team import Patience, RemoteTeam
from fedloom.engines.result import RunResult
from fedloom.engines.rounds import OnRound
from fedloom.engines.run_ends import RunEnds
from fedloom.engines.waiting_runs import WaitingRuns
from fedloom.errors import Error, RunStopped, StoreError
from fedloom.experiment.remote import RunFacts
from fedloom.experiment.spec import Experiment
from fedloom.runtime.record import RoundRecord
from fedloom.store import RunFolder
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Run

log = logging.getLogger(__name__)
RUNS = "runs"
ABORTED = "a run was aborted"
"""Why the desk halts for a moment when an operator ends the run that trains."""
_STORE_PATIENCE_S = 15.0
_OTHERS_EVERY_S = 0.5
"""While one run trains, those that wait for their sites are looked at so often."""
_BLAMED = ("crashed", "invalid")
"""Failures that are of a site's own work; silence, lateness and a refusal are none."""


class Federation:
    """The coordinator's engine.

    One run trains at a time: its arithmetic and its memory are its own. Beside it others wait for their sites, which
    may take days, and begin in the order in which they were submitted.

    Args:
        store: The coordinator's own.
        desk: Shared with what answers the sites.
        roster: Who may take part.
        patience: How long rounds wait.
        least: Sites that a run needs.
        suspend_after: Failures in a row after which a site is asked no more; None: it always is.
        rehearsal: Draw secrets from the seed of a run: synthetic or public data only.
    """

    def __init__(
        self,
        store: FederationStore,
        desk: Desk,
        roster: Callable[[], Roster],
        *,
        patience: Patience | None = None,
        least: int = 2,
        suspend_after: int | None = 3,
        rehearsal: bool = False,
    ) -> None:
        self._store = store
        self._desk = desk
        self._roster = roster
        self._patience = Patience() if patience is None else patience
        self._suspend_after = suspend_after
        self._rehearsal = rehearsal
        self._waiting = WaitingRuns(store, desk, store.folder / RUNS, least=least, patience=self._patience)
        self._ends = RunEnds(store, desk, store.folder / RUNS)
        self._looked: float | None = None
        self.current: RunId | None = None
        """The run that trains now."""

    def submit(self, experiment: Experiment, *, name: str, base: Path, request: str = "", at: float = 0.0) -> RunId:
        """Take in an experiment as a run that the sites are asked about.

        Raises:
            StoreError: When it cannot be written, or the request made a run of another experiment.
        """
        root = self._store.folder / RUNS
        tree = experiment.as_json()
        asked = [run for run in self._store.runs.all() if request and run.request == request]
        if asked and asked[0].digest == experiment.digest:
            return asked[0].run
        with (
            RunFolder.create(
                root, experiment=tree, digest=experiment.digest, base=base, options={"engine": {"name": "federation"}}
            ) as folder,
            self._store.together("submit"),
        ):
            run = self._store.runs.create(
                RunId(folder.run_id),
                name,
                experiment=msgspec.json.encode(tree),
                digest=experiment.digest,
                request=request,
                priority=0,
                at=at,
            )
            self._store.runs.move(run.run, "awaiting_approval")
        self._desk.wake()
        return run.run

    def abort(self, run: RunId, *, reason: str) -> None:
        """End a run now; the one that trains leaves its round. What it has released stays counted.

        One whose server step raised stays failed, and cannot be resumed any more.

        Raises:
            StoreError: When it is at an end already.
        """
        if self._store.runs.run(run).stage == "failed":
            self._ends.give_up(run, reason=reason)
            return
        self._store.runs.move(run, "aborted", reason=reason)
        if self.current == run:
            self._desk.halt(ABORTED)  # the engine leaves the round, and whoever serves lets it go on with the next run
        else:
            self._desk.wake()

    def reopen(self, run: RunId, *, from_round: int) -> None:
        """Let a run go on whose server step raised, with the algorithm as it is installed now.

        What the sites sent for the round is aggregated again: nobody is asked anew, nothing is charged anew.

        Raises:
            RunStopped: When it failed otherwise, or in another round.
            StoreError: When it has not failed.
        """
        self._ends.reopen(run, from_round=from_round)

    def serve(self, *, sites: Callable[[], Sequence[ClientId]], on_round: Sequence[OnRound] = ()) -> None:
        """Take runs to their ends until the desk halts.

        Args:
            sites: Who may take part.
            on_round: Called with each round's record.
        """
        while not self._desk.halted:
            seen = self._desk.version
            try:
                self._look_after_others(sites())
                run = self._next()
                if run is None:
                    self._desk.wait(seen, timeout_s=1.0)
                else:
                    self._carry_on(run, sites, on_round)
            except Halted:
                return
            except StoreError as error:
                log.error("the store failed, and what was begun waits: %s", error)
                if not self._desk.halted:
                    self._desk.wait(self._desk.version, timeout_s=_STORE_PATIENCE_S)
            except Error:
                continue  # of one run: how it ended is written down

    def carry_on(self, run: RunId, *, sites: Sequence[ClientId], on_round: Sequence[OnRound] = ()) -> RunResult:
        """Take one run to its end, from wherever it is.

        Raises:
            RunStopped: When sites differ, too few are left, or rounds had too few updates.
            AlgorithmError: When the server step raised: ``reopen`` lets it go on, once it is mended.
            Halted: When the coordinator was asked to stop: the run goes on the next time.
        """
        return self._carry_on(run, lambda: sites, on_round)

    def _carry_on(self, run: RunId, sites: Callable[[], Sequence[ClientId]], on_round: Sequence[OnRound]) -> RunResult:
        self.current = run
        try:
            found = self._store.runs.run(run)  # after the line above: who aborts it looks at that one second
            if found.stage in ("aborted", "failed"):
                raise RunStopped(f"run {run} is {found.stage}: {found.reason}")
            with self._ended_badly(run):
                experiment = Experiment.from_json(msgspec.json.decode(found.experiment))
                facts = self._waiting.agreed(found, experiment, sites())
            self._waiting.make_ready(run)
            if self._store.runs.run(run).stage in ("ready", "waiting_for_sites"):
                self._store.runs.move(run, "running")
            return self._train(found, experiment, facts, sites, on_round)
        finally:
            self.current = None

    def _next(self) -> RunId | None:
        """Return the run that trains next: one that was begun, else the first of those whose sites have agreed."""
        found = {run.stage: run.run for run in reversed(self._store.runs.unfinished())}
        return found.get("running") or found.get("ready")

    def _look_after_others(self, sites: Sequence[ClientId]) -> None:
        """Let runs that wait for their sites go on, and end those that an operator has ended."""
        self._looked = self._desk.clock()
        self._ends.close_aborted(but=self.current)
        for run, error in self._waiting.advance(sites, but=self.current).items():
            self._ends.fail(run, error)

    @contextmanager
    def _ended_badly(self, run: RunId) -> Iterator[None]:
        """Write down how a run ended that could not begin."""
        try:
            yield
        except (Halted, StoreError):
            raise  # the run is as it was, and goes on when there is a coordinator, or room on its disk
        except Exception as error:
            self._ends.fail(run, error)
            raise

    def _train(
        self,
        run: Run,
        experiment: Experiment,
        facts: RunFacts,
        sites: Callable[[], Sequence[ClientId]],
        on_round: Sequence[OnRound],
    ) -> RunResult:
        path = self._store.folder / RUNS / run.run

        def waits(_key: object, _sites: object) -> None:
            if self._looked is None or self._desk.clock() - self._looked >= _OTHERS_EVERY_S:
                self._look_after_others(sites())

        with RunFolder.open(path) as folder, steady_arithmetic(), log_to(path):
            team = RemoteTeam(
                self._store,
                self._desk,
                run.run,
                facts,
                patience=self._patience,
                on_wait=waits,
                gone=lambda waiting: self._gone(waiting, sites()),
            )
            secret: Any = None if self._rehearsal else self._store.coordinator_secret
            calls = [lambda record: self._tell(run.run, record), *on_round]
            try:
                federated = FederatedRun(
                    experiment, facts, folder, team, roster=self._roster(), secret=secret, on_round=calls
                )
                result = federated.run()
                team.leave()
                write_files(folder, result)
                folder.finish(result.status, result.as_json())
            except (Halted, StoreError):
                raise
            except Exception as error:
                self._ends.leave(run.run, experiment, folder, error)
                raise
        stage = "completed" if result.status == "completed" else "completed_with_warnings"
        self._store.runs.move(run.run, stage, reason=result.reason)  # type: ignore[arg-type]
        self._desk.wake()
        return result

    def _gone(self, waiting: Collection[ClientId], sites: Sequence[ClientId]) -> dict[ClientId, str]:
        """Return who of those that a round waits for may not take part any more, and why."""
        may, out = frozenset(sites), dict[ClientId, str]()
        for site in waiting:
            suspended = self._store.sites.suspended(site)
            if suspended is not None:
                out[site] = f"the site is suspended: {suspended}"
            elif site not in may:
                out[site] = "the site is denied, or not in the roster any more"
        return out

    def _tell(self, run: RunId, record: RoundRecord) -> None:
        """Write down what a round did, for whoever follows the run, and whose work fails again and again."""
        failed = {each.client: each.kind for each in record.failures if each.kind in _BLAMED}
        with self._store.together("record"):
            self._store.events.append(
                "record",
                {
                    "run": run,
                    "program": record.program,
                    "round": record.round,
                    "retry": record.retry,
                    "status": record.status,
                    "included": len(record.included),
                    "invited": record.invited,
                    "loss": record.metrics.get("fit/loss"),
                    "up": record.bytes_up,
                    "down": record.bytes_down,
                },
            )
            out = self._store.sites.count(failed=failed, well=record.included, most=self._suspend_after)
        for site in out:
            log.warning("run=%s site=%s is suspended: its work fails again and again", run, site)
