"""ray: all clients simulated on a Ray cluster; the loop, the record and the bytes are those of local."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedloom.core.component import ComponentSpec, component
from fedloom.core.data import FederatedDataset
from fedloom.core.query import Query
from fedloom.engines.journal import Journal
from fedloom.engines.local import LocalEngine
from fedloom.engines.local_run import dataset_of
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.processes import unnamed_parts
from fedloom.engines.ray_cluster import Needs, RayCrew, open_crew
from fedloom.engines.ray_team import RayTeam
from fedloom.engines.result import RunResult
from fedloom.engines.rounds import OnRound
from fedloom.engines.teams import Team
from fedloom.errors import ComponentError, MissingExtra, PlanError
from fedloom.experiment.plan import is_interactive, resolve_experiment
from fedloom.experiment.spec import Experiment
from fedloom.pipeline import Pipeline

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """Runs experiments on a Ray cluster. Made by ``ray``."""

    workers: int | None
    address: str | None
    cpus_per_worker: float
    gpus_per_worker: float
    checkpoint_s: float
    strict: bool
    spec: ComponentSpec | None = None

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
        """Run an experiment to its stop; arguments, result and errors are those of ``local().run``, and these.

        Raises:
            PlanError: When a part of the experiment has no name by which a worker can build it, or the cluster has no
                node for a worker; before anything is written.
            WorkerError: When no cluster answers, before anything is written; when a worker raised, or workers were
                lost again and again: then what was committed is kept and can be resumed.
        """
        here = Path.cwd() if base is None else Path(base)
        experiment = resolve_experiment(experiment, base=here)
        unnamed = unnamed_parts(experiment, dataset_of(experiment))
        if unnamed:
            raise PlanError(
                f"ray(): {', '.join(unnamed)} made in Python, which no worker of a cluster can build. Name every part "
                "(a component with an entry point), or run the experiment with local()"
            )
        if is_interactive(experiment):
            raise PlanError(
                "a sum of several messages (protocol = true) runs in fedloom.local: its clients must be there from one "
                "message to the next. Without it the sum has the same bytes here"
            )
        needs = Needs(workers=self.workers, address=self.address, cpus=self.cpus_per_worker, gpus=self.gpus_per_worker)
        with open_crew(needs) as crew:
            engine = self._local(crew)
            return engine.run(
                experiment, output=output, resume=resume, base=here, save_rounds=save_rounds, on_round=on_round
            )

    def query(self, query: Query[S, R], *, data: FederatedDataset, seed: int, pipeline: Pipeline | None = None) -> R:
        """Ask a question of all clients, in this process, and return the answer; nothing is trained or written.

        Raises:
            RunStopped: When a client could not answer.
        """
        return self._local(None).query(query, data=data, seed=seed, pipeline=pipeline)

    def _local(self, crew: RayCrew | None) -> LocalEngine:
        """Return the engine that does all but compute the blocks."""

        def hire(experiment: Experiment, data: PreparedData, journal: Journal, base: Path) -> tuple[Team, str]:
            assert crew is not None, "a run has a cluster"
            said = f"the cluster has room for {crew.room} of {crew.most} workers" if crew.most > crew.room else ""
            team = RayTeam(
                crew, experiment, data.dataset, journal.states, base=str(base.absolute()), strict=self.strict
            )
            return team, said

        return LocalEngine(
            workers=1,
            checkpoint_s=self.checkpoint_s,
            debug=False,
            strict=self.strict,
            pool="threads",
            hire=hire,
            spec=self.spec,
        )


@component("fedloom.engines")
def ray(
    workers: int | None = None,
    *,
    address: str | None = None,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    checkpoint_s: float = 5.0,
    strict: bool = False,
) -> RayEngine:
    """Simulate all clients on a Ray cluster: the bytes of ``local``, on several machines. Needs the extra ``ray``.

    Workers build the experiment by name: what was made in Python, as a function or a module, is for ``local``.

    Args:
        workers: Long-lived actors that train stretches of a round's clients; None: as many as the cluster can hold.
            No number of them, and no loss of one, changes a bit of the result.
        address: ``host:port`` of a cluster to join, or "auto" for the one that this machine belongs to; it is left
            running. None: the cluster that this process is connected to, else one of its own on this machine.
        cpus_per_worker: Cores that an actor takes up. It computes on one thread all the same.
        gpus_per_worker: GPUs of an actor; 0.5 lets two share one.
        checkpoint_s: Least seconds between two durable states; 0 writes one every round.
        strict: Send every order and message through its bytes, as a deployment does.

    Raises:
        MissingExtra: When Ray is not installed.
        ComponentError: When a number is outside its range.
    """
    if workers is not None and workers < 1:
        raise ComponentError(f"ray(workers={workers}): expected 1 or more, or None for as many as there is room for")
    if not cpus_per_worker > 0:
        raise ComponentError(f"ray(cpus_per_worker={cpus_per_worker}): expected a number above 0")
    if not gpus_per_worker >= 0:
        raise ComponentError(f"ray(gpus_per_worker={gpus_per_worker}): expected a number from 0")
    if not checkpoint_s >= 0:
        raise ComponentError(f"ray(checkpoint_s={checkpoint_s}): expected seconds from 0")
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("the Ray engine", extra="ray")
    return RayEngine(
        workers=workers,
        address=address,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        checkpoint_s=checkpoint_s,
        strict=strict,
    )
