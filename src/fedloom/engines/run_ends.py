"""RunEnds: how runs end other than well, in the store and in their folders, and which of these ends is none."""

from __future__ import annotations

import logging
from pathlib import Path

from fedloom.core.ids import RunId
from fedloom.engines.desk import Desk
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.errors import AlgorithmError, Error, RunStopped, StoreError
from fedloom.experiment.spec import Experiment
from fedloom.store import RunFolder
from fedloom.store.documents import FinalStatus, read_outcome
from fedloom.store.federation import FederationStore
from fedloom.store.transitions import RUN, ends

log = logging.getLogger(__name__)
_MOST_WORDS = 2000


class RunEnds:
    """The ends of a coordinator's runs.

    A run whose server step raised keeps its round open, with what its sites sent: that is how it is known later that
    it can go on. Every other end closes the rounds of its run, so that no site works for it any more.

    Args:
        store: The coordinator's.
        desk: Woken when a run has ended.
        folder: Of all runs.
    """

    def __init__(self, store: FederationStore, desk: Desk, folder: Path) -> None:
        self._store = store
        self._desk = desk
        self._folder = folder
        self._closed: set[RunId] = set()

    def fail(self, run: RunId, error: Exception) -> None:
        """Write down that a run could not begin; where its folder is gone, in the store alone."""
        path = self._folder / run
        if not path.is_dir():
            self._fail(run, None, error)
            return
        with RunFolder.open(path) as folder:
            self._fail(run, folder, error)

    def leave(self, run: RunId, experiment: Experiment, folder: RunFolder, error: Exception) -> None:
        """Write down how a run that had begun could not go on.

        Where too few sites answered, however often they were asked, it waits for an operator to bring them back; with
        ``on_short = "stop"`` that is its end.
        """
        match error:
            case RunStopped() if experiment.policy.on_short != "stop":
                self._rest(run, folder, str(error))
            case _:
                self._fail(run, folder, error)

    def reopen(self, run: RunId, *, from_round: int) -> None:
        """Let a run go on from the round in which its server step raised.

        Raises:
            RunStopped: When it failed otherwise, or in another round.
            StoreError: When it has not failed.
        """
        found, opened = self._store.runs.run(run), self._store.rounds.open_round(run)
        if found.stage != "failed":
            raise StoreError(f"run {run} is {found.stage}: a round is named for one that failed in it")
        if opened is None or opened.phase == HANDSHAKE:
            raise RunStopped(
                f"run {run} did not fail in its server step, so there is no round to close: {found.reason}. "
                "Hand the experiment in as a new run"
            )
        if opened.round != from_round:
            past = "a finished round is never changed" if from_round < opened.round else "a later one has not begun"
            raise RunStopped(
                f"run {run} failed in round {opened.round}; received --from-round {from_round}: {past}. Mend the "
                f"algorithm, then use --from-round {opened.round}"
            )
        self._store.runs.reopen(run, reason=f"resumed from round {from_round}")
        log.info("run=%s goes on from round=%s", run, from_round)
        self._desk.wake()

    def give_up(self, run: RunId, *, reason: str) -> None:
        """Close the round of a run whose server step raised: it is not resumed any more, and its sites let go of it.

        Raises:
            StoreError: When it has no open round: it is at its end.
        """
        if self._store.rounds.open_round(run) is None:
            raise StoreError(f"run {run} has failed, and is at its end: {self._store.runs.run(run).reason}")
        self._store.rounds.drop(run, reason=reason)
        log.info("run=%s is given up: %s", run, reason)
        self._desk.wake()

    def close_aborted(self, *, but: RunId | None) -> None:
        """Close the rounds of runs that an operator has ended, and write into their folders how they ended.

        Args:
            but: The run that trains: its round is not left yet.
        """
        for run in self._store.runs.all():
            if run.stage != "aborted" or run.run == but or run.run in self._closed:
                continue
            self._store.rounds.drop(run.run, reason="the run was aborted")
            reason, path = f"aborted: {run.reason}", self._folder / run.run
            if path.exists():
                outcome = read_outcome(path)
                if outcome is None or outcome.summary.get("reason") != reason:
                    with RunFolder.open(path) as folder:
                        _finish(folder, "failed", reason)
            self._closed.add(run.run)
            self._desk.wake()

    def _fail(self, run: RunId, folder: RunFolder | None, error: Exception) -> None:
        if self._store.runs.run(run).stage in ends(RUN):  # an operator was faster
            return
        mendable = isinstance(error, AlgorithmError)
        reason = f"algorithm error: {error}" if mendable else str(error)
        log.error("run=%s failed: %s", run, reason, exc_info=None if isinstance(error, Error) else error)
        if folder is not None:
            _finish(folder, "failed", reason)
        with self._store.together("fail"):
            if not mendable:
                self._store.rounds.drop(run, reason="the run failed")
            self._store.runs.move(run, "failed", reason=reason[:_MOST_WORDS])
        self._desk.wake()

    def _rest(self, run: RunId, folder: RunFolder, reason: str) -> None:
        """Let a run wait for its sites, visibly: it goes on when an operator says so."""
        log.warning("run=%s waits for sites: %s", run, reason)
        _finish(folder, "paused", reason)
        if self._store.runs.run(run).stage == "running":  # else an operator has paused or ended it
            self._store.runs.move(run, "waiting_for_sites", reason=reason[:_MOST_WORDS])
        self._desk.wake()


def _finish(folder: RunFolder, status: FinalStatus, reason: str) -> None:
    folder.finish(status, {"status": status, "reason": reason})
