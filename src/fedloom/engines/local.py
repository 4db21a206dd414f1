"""local: a whole federation in one process, for simulation; the same coordinator and clients as a deployment."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedloom.core.component import ComponentSpec, Json, component
from fedloom.core.data import FederatedDataset
from fedloom.core.keys import Key
from fedloom.core.query import Query
from fedloom.engines.interrupts import uninterrupted
from fedloom.engines.journal import Journal
from fedloom.engines.local_run import QUERY_BLOCK, Hire, LocalRun, Pool, RoundSettings
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.process import log_to, steady_arithmetic
from fedloom.engines.result import RunInterrupted, RunResult
from fedloom.engines.rounds import OnRound, Rounds
from fedloom.engines.trained_model import MODEL, model_metadata
from fedloom.errors import ComponentError, StoreError
from fedloom.experiment.plan import check_data, query_plan, resolve_experiment
from fedloom.experiment.spec import Experiment
from fedloom.pipeline import Pipeline
from fedloom.runtime.coordinator import initial_state
from fedloom.store import FinalStatus, RunFolder, write_model, write_rounds
from fedloom.store.documents import read_outcome

S = TypeVar("S")
R = TypeVar("R")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngine:
    """Runs experiments in this process. Made by ``local``."""

    workers: int
    checkpoint_s: float
    debug: bool
    strict: bool
    pool: Pool
    hire: Hire | None = None
    """Who makes the workers of a run, where they are neither threads nor processes of this one."""
    spec: ComponentSpec | None = None

    @property
    def _settings(self) -> RoundSettings:
        return RoundSettings(workers=self.workers, debug=self.debug, strict=self.strict, pool=self.pool, hire=self.hire)

    def run(
        self,
        experiment: Experiment,
        *,
        output: Path | str | None = None,
        resume: Path | str | None = None,
        base: Path | str | None = None,
        save_rounds: bool = False,
        on_round: Sequence[OnRound] = (),
    ) -> RunResult:
        """Run an experiment to its stop.

        Args:
            experiment: What to run; named components are resolved here.
            output: Folder in which the run gets a folder of its own; None: nothing is written.
            resume: A run's folder to continue, in place of ``output``. A run that has completed is left as it is.
            base: Folder that relative paths of the experiment start from; the current one by default.
            save_rounds: Keep the parameters after every round; of a resumed run, what it was started with holds.
            on_round: Called with each round's record when it is committed.

        Returns:
            The result; also when some clients failed in some rounds.

        Raises:
            DataError: When rows cannot be used, before round 1.
            PlanError: When parts of the experiment do not fit together, before round 1.
            StoreError: When the folder cannot be used; before round 1, or at a write: then the run is paused.
            AlgorithmError: When the server step raised, or its result is not finite.
            RunStopped: When rounds had too few updates, by the policy.
            RunInterrupted: On Ctrl-C. What was committed is kept and can be resumed, as with the three above; an error
                that leaves a run in a folder has a note (``__notes__``) that says so.
        """
        here = Path.cwd() if base is None else Path(base)
        output, resume = (None if folder is None else Path(folder) for folder in (output, resume))
        experiment = resolve_experiment(experiment, base=here)
        runs = output if resume is None else resume.absolute().parent
        run = LocalRun(self._settings, experiment, on_round, base=here, runs=runs, new=resume is None)
        run.check()
        engine = {} if self.spec is None else {"name": self.spec.name, **self.spec.arguments}
        options = {"save_rounds": save_rounds, "engine": engine}
        with _open_folder(experiment, output, resume, base=here, options=options) as folder:
            keeps = save_rounds if folder is None else bool(folder.options.get("save_rounds"))
            saved, completed = None, False
            if folder is not None and resume is not None:
                saved = folder.read()
                run.check_resumed(saved, folder.path)
                outcome = read_outcome(folder.path)
                completed = outcome is not None and outcome.status in ("completed", "completed with warnings")
            journal = Journal(folder=folder, every_s=self.checkpoint_s, params={} if keeps else None)
            with steady_arithmetic(), log_to(None if folder is None else folder.path):
                try:
                    result = run.run(journal, saved)
                    if folder is not None and not (completed and not journal.wrote):
                        write_files(folder, result)
                        folder.finish(result.status, result.as_json())
                except BaseException as error:
                    _leave(journal, error, resumed=resume is not None)
                    if isinstance(error, KeyboardInterrupt):
                        raise RunInterrupted(None if folder is None else folder.path) from None
                    raise
            return result

    def query(self, query: Query[S, R], *, data: FederatedDataset, seed: int, pipeline: Pipeline | None = None) -> R:
        """Ask a question of all clients and return the answer; nothing is trained and nothing is written.

        Raises:
            RunStopped: When a client could not answer.
        """
        prepared = PreparedData(data)
        known = query.init(prepared.schema)
        if query.done(known):
            return query.result(known)
        plan = query_plan(
            query,
            prepared.schema,
            digest="query",
            phase=0,
            key=Key.from_seed(seed).child("query", query.name),
            population=check_data(data),
            pipeline=pipeline,
        )
        journal = Journal(folder=None, every_s=self.checkpoint_s)
        with steady_arithmetic(), self._settings.threads(prepared, journal) as team:
            state = Rounds(team, journal, ()).run(plan, initial_state(plan), block=QUERY_BLOCK)
        return query.result(state.server)


@component("fedloom.engines")
def local(
    *,
    workers: int = 1,
    pool: Pool = "auto",
    checkpoint_s: float = 5.0,
    debug: bool = False,
    strict: bool = False,
) -> LocalEngine:
    """Simulate all clients in this process.

    Args:
        workers: Processes or threads that train blocks of clients and sum them; no number of them changes a bit of the
            result.
        pool: What several workers are. "processes" map the rows, build the experiment by name, and take half a second
            to start. "threads" share the interpreter, so they gain only where compiled code releases its lock. "auto":
            processes where every part has a name, else threads, and a note.
        checkpoint_s: Least seconds between two durable states; 0 writes one every round.
        debug: Raise a client's exception where it happens; otherwise it is recorded and the run goes on.
        strict: Send every order and message through its bytes, as a deployment does.

    Raises:
        ComponentError: When a number is outside its range.
    """
    if workers < 1:
        raise ComponentError(f"local(workers={workers}): expected 1 or more")
    if not checkpoint_s >= 0:
        raise ComponentError(f"local(checkpoint_s={checkpoint_s}): expected seconds from 0")
    return LocalEngine(workers=workers, pool=pool, checkpoint_s=checkpoint_s, debug=debug, strict=strict)


def _open_folder(
    experiment: Experiment, output: Path | None, resume: Path | None, *, base: Path, options: Mapping[str, Json]
) -> AbstractContextManager[RunFolder | None]:
    """Return a run folder to work in, or a context that holds none."""
    if resume is not None:
        folder = RunFolder.open(resume)
        if folder.digest != experiment.digest:
            folder.close()
            paths = ", ".join(experiment.differences(folder.experiment))
            raise StoreError(f"{resume} is a run of another experiment; it differs in: {paths}")
        return folder
    if output is not None:
        return RunFolder.create(
            output, experiment=experiment.as_json(), digest=experiment.digest, base=base, options=options
        )
    return nullcontext()


def _leave(journal: Journal, error: BaseException, *, resumed: bool) -> None:
    """Make durable what was committed, and note at the error how the run was left."""
    folder = journal.folder
    if folder is None or (resumed and journal.state is None):
        return  # refused before it went on: the run is as it was
    paused = isinstance(error, StoreError)
    kind: FinalStatus = "interrupted" if isinstance(error, KeyboardInterrupt) else "paused" if paused else "failed"
    with uninterrupted():
        if kind != "interrupted":
            log.error("the run is %s", kind, exc_info=error)
        try:
            if not paused:
                journal.write()
            folder.finish(kind, {"status": kind, "reason": str(error)})
        except StoreError as second:  # the last checkpoint is whole; without an end on record it is an interrupted run
            if not paused:
                error.add_note(f"its last rounds could not be written: {second}")
    error.add_note(f"the run is {kind}; what it had reached is kept: fedloom resume {folder.path}")


def write_files(folder: RunFolder, result: RunResult) -> None:
    """Write the model of a run, and its parameters by round where they were kept."""
    metadata = model_metadata(
        result.model, preparations=result.preparations, prepared=result.prepared, learner=result.learner_spec
    )
    metadata["digest"] = result.digest
    write_model(folder.path / MODEL, result.learner.layout, result.params, metadata)
    if result.history is not None:
        write_rounds(folder.path / "rounds.npz", result.history, result.learner.layout)
