"""WaitingRuns: the runs whose sites have not agreed yet. Each goes as far as its sites let it, none holds another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedloom.core.ids import ClientId, RunId
from fedloom.engines import handshake_round
from fedloom.engines.desk import Desk
from fedloom.engines.handshake_round import Handshake, HandshakeRounds
from fedloom.engines.remote_team import Patience
from fedloom.errors import StoreError
from fedloom.experiment.remote import RunFacts, read_facts
from fedloom.experiment.spec import Experiment
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Run
from fedloom.store.transitions import RUN, ends


class WaitingRuns:
    """The runs of a coordinator that wait for the word of their sites.

    Args:
        store: The coordinator's.
        desk: Woken by what comes in.
        folder: Of all runs: what the sites of one agree on is kept in its own.
        least: Sites that a run needs.
        patience: How long sites are waited for.
    """

    def __init__(self, store: FederationStore, desk: Desk, folder: Path, *, least: int, patience: Patience) -> None:
        self._store = store
        self._desk = desk
        self._folder = folder
        self._least = least
        self._patience = patience
        self._rounds: dict[RunId, HandshakeRounds] = {}

    def advance(self, sites: Sequence[ClientId], *, but: RunId | None = None) -> dict[RunId, Exception]:
        """Let each run go as far as it can without waiting; those whose sites have agreed are ready then.

        Args:
            sites: Who may take part now.
            but: A run that is looked after elsewhere.

        Returns:
            The runs that cannot begin, and why: sites differ, or too few are left.

        Raises:
            StoreError: When the store fails: all is as it was.
        """
        waiting = [run for run in self._store.runs.unfinished() if run.stage == "awaiting_approval" and run.run != but]
        names = {run.run for run in waiting}
        self._rounds = {run: rounds for run, rounds in self._rounds.items() if run in names}
        failed: dict[RunId, Exception] = {}
        for run in waiting:
            try:
                if self._found(run) is None:
                    if run.run not in self._rounds:
                        self._rounds[run.run] = self._begun(run)
                    agreed = self._rounds[run.run].advance(sites)
                    if agreed is None:
                        continue
                    self._keep(run, agreed)
                self.make_ready(run.run)
            except StoreError:
                if self._store.runs.run(run.run).stage not in ends(RUN):  # else it was ended in the meantime
                    raise
            except Exception as error:
                failed[run.run] = error
        return failed

    def agreed(self, run: Run, experiment: Experiment, sites: Sequence[ClientId]) -> RunFacts:
        """Return what the sites of a run have agreed on; where they have not yet, wait for it.

        Raises:
            RunStopped: When sites differ, or too few are left.
            Halted: When the coordinator was asked to stop.
        """
        found = self._found(run)
        if found is not None:
            return found
        handshake = handshake_round.shake_hands(
            self._store, self._desk, run, experiment, sites, least=self._least, patience=self._patience
        )
        self._keep(run, handshake)
        return handshake.facts

    def make_ready(self, run: RunId) -> None:
        """Let a run begin whose sites have agreed."""
        if self._store.runs.run(run).stage == "awaiting_approval":
            self._store.runs.move(run, "ready")
            self._desk.wake()

    def _begun(self, run: Run) -> HandshakeRounds:
        experiment = Experiment.from_json(msgspec.json.decode(run.experiment))
        return HandshakeRounds(self._store, self._desk, run, experiment, least=self._least, patience=self._patience)

    def _path(self, run: Run) -> Path:
        return self._folder / run.run / "facts.json"

    def _found(self, run: Run) -> RunFacts | None:
        path = self._path(run)
        return read_facts(path.read_bytes()) if path.exists() else None

    def _keep(self, run: Run, agreed: Handshake) -> None:
        """Keep what the sites agreed on: once, whatever happens to this process."""
        path = self._path(run)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(agreed.facts.canonical)
        temporary.replace(path)
