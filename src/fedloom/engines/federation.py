"""Federation: the engine of a coordinator: it takes the runs of its store, one after the other, to their ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Roster
from fedloom.engines.desk import Desk, Halted
from fedloom.engines.federated_run import FederatedRun
from fedloom.engines.handshake_round import Handshake, shake_hands
from fedloom.engines.local import write_files
from fedloom.engines.process import log_to, steady_arithmetic
from fedloom.engines.remote_team import Patience, RemoteTeam
from fedloom.engines.result import RunResult
from fedloom.engines.rounds import OnRound
from fedloom.errors import Error, RunStopped, StoreError
from fedloom.experiment.remote import read_facts
from fedloom.experiment.spec import Experiment
from fedloom.store import RunFolder
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Run

log = logging.getLogger(__name__)
RUNS = "runs"


class Federation:
    """The coordinator's engine.

    Args:
        store: The coordinator's own.
        desk: Shared with what answers the sites.
        roster: Who may take part.
        patience: How long rounds wait.
        least: Sites that a run needs.
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
        rehearsal: bool = False,
    ) -> None:
        self._store = store
        self._desk = desk
        self._roster = roster
        self._patience = Patience() if patience is None else patience
        self._least = least
        self._rehearsal = rehearsal

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

    def serve(self, *, sites: Callable[[], Sequence[ClientId]], on_round: Sequence[OnRound] = ()) -> None:
        """Take runs to their ends until the desk halts.

        Args:
            sites: Who is asked to take part in a run that begins.
            on_round: Called with each round's record.
        """
        while not self._desk.halted:
            seen = self._desk.version
            waiting = [run for run in self._store.runs.unfinished() if run.stage != "paused"]
            if not waiting:
                self._desk.wait(seen, timeout_s=1.0)
                continue
            try:
                self.carry_on(waiting[0].run, sites=sites(), on_round=on_round)
            except Halted:
                return
            except Error as error:
                log.error("run=%s failed: %s", waiting[0].run, error)

    def carry_on(self, run: RunId, *, sites: Sequence[ClientId], on_round: Sequence[OnRound] = ()) -> RunResult:
        """Take one run to its end, from wherever it is.

        Raises:
            RunStopped: When sites differ, too few are left, or rounds had too few updates.
            Halted: When the coordinator was asked to stop: the run goes on the next time.
        """
        found = self._store.runs.run(run)
        experiment = Experiment.from_json(msgspec.json.decode(found.experiment))
        try:
            agreed = self._agreed(found, experiment, sites)
            if self._store.runs.run(run).stage == "awaiting_approval":
                self._store.runs.move(run, "ready")
            if self._store.runs.run(run).stage in ("ready", "waiting_for_sites"):
                self._store.runs.move(run, "running")
            return self._run(found, experiment, agreed, on_round)
        except Halted:
            raise
        except StoreError:
            raise  # the disk: the run is as it was, and goes on when there is room
        except Exception as error:
            self._store.runs.move(run, "failed", reason=str(error)[:2000])
            raise

    def _agreed(self, run: Run, experiment: Experiment, sites: Sequence[ClientId]) -> Handshake:
        """Return what the sites have agreed on: once, whatever happens to this process."""
        path = self._store.folder / RUNS / run.run / "facts.json"
        if path.exists():
            return Handshake(facts=read_facts(path.read_bytes()), refused={})
        agreed = shake_hands(self._store, self._desk, run, experiment, sites, least=self._least)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(agreed.facts.canonical)
        temporary.replace(path)
        return agreed

    def _run(self, run: Run, experiment: Experiment, agreed: Handshake, on_round: Sequence[OnRound]) -> RunResult:
        path = self._store.folder / RUNS / run.run
        with RunFolder.open(path) as folder, steady_arithmetic(), log_to(path):
            team = RemoteTeam(self._store, self._desk, run.run, agreed.facts, patience=self._patience)
            secret: Any = None if self._rehearsal else self._store.coordinator_secret
            federated = FederatedRun(
                experiment, agreed.facts, folder, team, roster=self._roster(), secret=secret, on_round=on_round
            )
            try:
                result = federated.run()
                team.leave()
            except RunStopped as error:
                folder.finish("failed", {"status": "failed", "reason": str(error)})
                raise
            write_files(folder, result)
            folder.finish(result.status, result.as_json())
        stage = "completed" if result.status == "completed" else "completed_with_warnings"
        self._store.runs.move(run.run, stage, reason=result.reason)  # type: ignore[arg-type]
        self._desk.wake()
        return result
