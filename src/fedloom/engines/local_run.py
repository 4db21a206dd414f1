"""LocalRun: the phases of one run in one process: preparations, then training, then the comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from fedloom.core.component import ComponentSpec, Json
from fedloom.core.data import SPLITS, FederatedDataset, Split
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.learner import Learner
from fedloom.core.params import Vector
from fedloom.core.query import AnyPreparation
from fedloom.data import Holding, Pooled, check_rows
from fedloom.data.describe import holding
from fedloom.data.duplicates import duplicates
from fedloom.data.lopsided import lopsided
from fedloom.data.row_checks import grouped_notes
from fedloom.engines.accounting import account_of, check_ledger
from fedloom.engines.blocks import BlockWork
from fedloom.engines.comparison import MOST_CLIENTS, Comparison, compare
from fedloom.engines.journal import Journal
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.processes import Processes, unnamed_parts
from fedloom.engines.result import RunResult, Status
from fedloom.engines.rounds import OnRound, Rounds
from fedloom.engines.secrets import SIMULATED
from fedloom.engines.teams import Team, Threads
from fedloom.errors import DataError, PlanError
from fedloom.experiment.plan import (
    AnyPlan,
    build_learner,
    check_data,
    check_parts,
    evaluation_period,
    is_interactive,
    prepare_plan,
    train_plan,
)
from fedloom.experiment.privacy import PrivacyPrice, price_experiment
from fedloom.experiment.privacy_record import ELSEWHERE, for_the_public, for_the_record
from fedloom.experiment.spec import Experiment
from fedloom.pipeline import Pipeline
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.coordinator import initial_state
from fedloom.runtime.ports import Slot, decode_stored
from fedloom.runtime.state import RunState, decode_state, peek
from fedloom.runtime.stopping import has_diverged
from fedloom.store import Saved
from fedloom.store.documents import write_public_privacy

Pool = Literal["auto", "processes", "threads"]
Hire: TypeAlias = Callable[[Experiment, PreparedData, Journal, Path], tuple[Team, str]]
"""Returns the workers of a run, and why they are what they are. The path is where relative ones start from."""
QUERY_BLOCK = 64
_LISTED = 1_000
"""Clients whose holdings stand in the record one by one."""
_NOTES = 4
"""Clients that are named one by one for each kind of fault in their rows."""
_LOOKED_AT = 10_000
"""Clients whose rows are looked at before round 1; beyond, a client's rows are seen when it is first invited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """How rounds are worked through; nothing here changes a bit of the result."""

    workers: int
    debug: bool
    strict: bool
    pool: Pool = "threads"
    hire: Hire | None = None
    """Takes the place of threads and processes, for training and preparations."""

    def threads(self, data: PreparedData, journal: Journal) -> Team:
        """Return workers that are threads of this process."""
        work = BlockWork(data=data, states=journal.states, debug=self.debug, strict=self.strict)
        return Threads(self.workers, work)

    def team(self, experiment: Experiment, data: PreparedData, journal: Journal, *, base: Path) -> tuple[Team, str]:
        """Return the workers of a run, and why they are what they are, empty where there is nothing to say.

        Raises:
            PlanError: When processes are asked for and cannot be had.
        """
        interactive = is_interactive(experiment)
        if self.hire is not None:
            return self.hire(experiment, data, journal, base)
        if self.workers == 1 or self.pool == "threads" or (self.pool == "auto" and self.debug):
            return self.threads(data, journal), ""
        unnamed = unnamed_parts(experiment, data.dataset)
        said = f"{', '.join(unnamed)} made in Python, which no other process can build"
        if interactive:
            said = "a sum of several messages (protocol = true) needs its clients from one message to the next"
        if self.debug:
            said = "debug raises an exception where it happens"
        elif os.name != "posix":
            said = "this system has no pipes to pass on"
        elif not unnamed and not interactive:
            team = Processes(self.workers, experiment, data.dataset, journal.states, base=base, strict=self.strict)
            return team, ""
        if self.pool == "processes":
            raise PlanError(f'pool = "processes": {said}. Use pool = "threads", or name every part')
        return self.threads(data, journal), f"{self.workers} workers are threads and not processes: {said}"


class LocalRun:
    """The phases of one run: preparations, then training, then the comparison."""

    def __init__(
        self,
        settings: RoundSettings,
        experiment: Experiment,
        on_round: Sequence[OnRound],
        *,
        base: Path,
        runs: Path | None = None,
        new: bool = True,
    ) -> None:
        self.experiment = experiment
        self.data = PreparedData(dataset_of(experiment))
        self.population = check_data(self.data.dataset)
        self.notes: list[str] = []
        self.price: PrivacyPrice | None = None
        self._held: list[Holding] = []
        self._settings = settings
        self._base = base
        self._runs, self._new = runs, new
        self._on_round = on_round
        self._splits: tuple[Split, ...] = ()

    def check(self) -> None:
        """Refuse what cannot run, before anything is written.

        Raises:
            DataError: When rows cannot be used.
            PlanError: When parts of the experiment do not fit together.
        """
        self._splits = self._look_at_rows()
        check_parts(self.experiment, self.population, self._splits)
        if not self.experiment.prepare:
            self._price(self._plan(build_learner(self.experiment, self.data.schema)))

    def check_resumed(self, saved: Saved, path: Path) -> None:
        """Refuse to continue a run over other rows than it began with.

        Raises:
            DataError: When their fingerprints differ.
        """
        if saved.fingerprint is not None and saved.fingerprint != self._fingerprint:
            raise DataError(
                f"the rows are not those that {path} began with (their fingerprint differs): put the data back, "
                "or start a new run"
            )

    @cached_property
    def _fingerprint(self) -> str | None:
        """The rows' fingerprint: it reads all of them, so it is taken once, and only for what is written down."""
        return self.data.dataset.fingerprint

    def run(self, journal: Journal, saved: Saved | None) -> RunResult:
        """Run all phases from where a folder left them, None for the start; after ``check`` and ``check_resumed``."""
        self.journal = journal
        journal.fingerprint = None if journal.folder is None else self._fingerprint
        team, said = self._settings.team(self.experiment, self.data, journal, base=self._base)
        self.notes.extend([said] if said else [])
        with team:
            plan, state, learner = self._phases(Rounds(team, journal, self._on_round), saved)
        journal.write()
        return self._result(plan, state, learner)

    def _phases(self, rounds: Rounds, saved: Saved | None) -> tuple[AnyPlan, RunState[Any], Learner]:
        """Run preparations, then training; return the plan of training, its last state and the learner."""
        begun, phase, prepared = self._restore(saved)
        for number in range(len(self.experiment.prepare)):
            preparation = self._preparations[number]
            if number >= phase:
                query, start = preparation.query, preparation.query.init(self.data.schema)
                if not query.done(start):
                    plan = prepare_plan(self.experiment, number, self.data.schema, self.population)
                    state = self._state(plan, begun if number == phase else None, prepared)
                    start = rounds.run(plan, state, block=QUERY_BLOCK).server
                prepared = (*prepared, msgspec.to_builtins(query.result(start)))
            self._adopt(preparation, prepared[number])
        learner = build_learner(self.experiment, self.data.schema)
        self.notes.extend(getattr(learner, "notes", ()))
        plan = self._plan(learner)
        self._price(plan)
        self._note_privacy(self.price)
        if any(preparation.fills for preparation in self._preparations):
            self._check_prepared()
        self._note_period()
        state = self._state(plan, begun if phase == plan.phase else None, prepared)
        if saved is not None:
            self._restore_clients(plan, state, saved)
        self._keep_start(plan, state)
        block = self.experiment.block or learner.block
        with account_of(self.price, self.journal.folder, fingerprint=self.journal.fingerprint) as account:
            self.journal.ledger = account
            try:
                state = rounds.run(plan, state, block=block)
                self.journal.write()  # the account ends when nothing of the run has to be computed again
            finally:
                self.journal.ledger = None
        return plan, state, learner

    def _plan(self, learner: Learner) -> AnyPlan:
        return train_plan(self.experiment, learner, self.population, self._splits)

    def _price(self, plan: AnyPlan) -> None:
        """Price the whole run, once: a plan that costs more than it may, or than is left, is refused before round 1."""
        if self.price is None:
            self.price = price_experiment(self.experiment, plan)
            check_ledger(self.price, self._runs, new=self._new)

    def _note_privacy(self, price: PrivacyPrice | None) -> None:
        """Say what is promised to whoever reads the record, and write down apart from it what the models promise."""
        if price is None:
            return
        self.notes.extend([SIMULATED, price.figures.participation.words, ELSEWHERE, *price.notes])
        if self.journal.folder is not None:
            cohort: Cohort = self.experiment.cohort  # type: ignore[assignment]
            public = for_the_public(price, cohort, self.population, simulated=True)
            write_public_privacy(self.journal.folder.path, public)

    def _note_period(self) -> None:
        if self.experiment.privacy is not None:
            self.notes.append("no figures of the clients' rows: each would be a release of its own")
            return
        if self._discreet and not self.experiment.compare:
            self.notes.append("nothing is told of single clients' rows: the sums hide them")
        period = evaluation_period(self.experiment, self.population)
        if self.experiment.evaluate_every is None and period > 1:
            self.notes.append(
                f"{len(self.population)} clients evaluate every {period} rounds and after the last: set evaluate_every "
                "for another period"
            )

    def _adopt(self, preparation: AnyPreparation, result: Json) -> None:
        answer = msgspec.convert(result, type=preparation.query.answer)
        self.notes.extend(preparation.report(answer, self.data.schema))
        self.data.add(preparation.transform(answer))

    def _look_at_rows(self) -> tuple[Split, ...]:
        dataset, seen = self.data.dataset, set[Split]()
        fills = any(preparation.fills for preparation in self._preparations)
        missing: Literal["allow", "refuse"] = "allow" if fills else "refuse"
        warnings: dict[ClientId, tuple[str, ...]] = {}
        held: list[Holding] = []
        for index in range(min(len(self.population), _LOOKED_AT)):
            name = self.population.id(index)
            data = dataset.client(name)
            warnings[name] = check_rows(name, data, self.data.schema, missing=missing)
            if len(self.population) <= _LISTED:
                held.append(holding(name, data, self.data.schema))
            seen.update(split for split in SPLITS if data.count(split))
        if self._discreet:  # what rows look like is theirs: it is checked, and told to nobody
            return tuple(split for split in SPLITS if split in seen)
        self.notes.extend((*getattr(dataset, "notes", ()), *grouped_notes(warnings, limit=_NOTES)))
        if isinstance(dataset, Pooled):  # rows that are made when they are asked for are told apart by what makes them
            self.notes.extend(duplicates(dataset))
        self._held = held
        dealt = None if dataset.spec is None else dataset.spec.arguments.get("partition")
        if dealt is not None and (note := lopsided(held)) is not None:
            self.notes.append(note)
        return tuple(split for split in SPLITS if split in seen)

    def _check_prepared(self) -> None:
        """Refuse values that are still missing after the last preparation, before a round is spent on them."""
        for index in range(min(len(self.population), _LOOKED_AT)):
            name = self.population.id(index)
            check_rows(name, self.data.client(name), self.data.schema)

    @property
    def _discreet(self) -> bool:
        """Whether the run is to tell of no single client more than a server would know, though it sees them all."""
        pipeline: Pipeline = self.experiment.pipeline  # type: ignore[assignment]
        return self.experiment.privacy is not None or not pipeline.aggregator.shows_messages

    @property
    def _preparations(self) -> Sequence[AnyPreparation]:
        return self.experiment.prepare  # type: ignore[return-value]

    def _restore(self, saved: Saved | None) -> tuple[bytes | None, int, tuple[Json, ...]]:
        """Return the saved state, its phase, and the results of the preparations before it."""
        if saved is None or saved.state is None:
            return None, 0, ()
        _, phase, prepared = peek(saved.state)
        self.journal.restore(saved.state, saved.records)
        return saved.state, phase, prepared

    def _state(self, plan: AnyPlan, saved: bytes | None, prepared: tuple[Json, ...]) -> RunState[Any]:
        fresh = initial_state(plan, prepared=prepared, records=len(self.journal.records))
        if saved is None:
            return fresh
        # A run that was short of updates may try again: what kept its clients from answering may be mended.
        state = decode_state(saved, fresh)
        return replace(state, retry=0) if state.retry > plan.policy.retries else self._reopened(plan, state)

    def _reopened(self, plan: AnyPlan, state: RunState[Any]) -> RunState[Any]:
        """Return a state that has ended where the stop of today holds, and only there: a resume may change it."""
        if plan.program == "query" or state.pending is not None:
            return state
        history = [record for record in self.journal.records if record.program == plan.program]
        return replace(state, stopped=plan.stop.holds(history) if history else None)

    def _restore_clients(self, plan: AnyPlan, state: RunState[Any], saved: Saved) -> None:
        broadcast = plan.algorithm.broadcast(state.server)
        memory = plan.exchange.pipeline.start_memory
        like = Slot(round=RoundNumber(1), state=plan.algorithm.client_init(broadcast), memory=memory)
        for client, data in saved.clients.items():
            self.journal.states.states[client] = decode_stored(data, like)
        dtype = plan.start.dtype
        self.journal.restore_params({number: np.frombuffer(data, dtype) for number, data in saved.params.items()})

    def _keep_start(self, plan: AnyPlan, state: RunState[Any]) -> None:
        if self.journal.params is not None and not self.journal.params:
            self.journal.params[0] = plan.algorithm.params(state.server)

    def _result(self, plan: AnyPlan, state: RunState[Any], learner: Learner) -> RunResult:
        params = plan.algorithm.params(state.server)
        records = self.journal.records
        failed = any(record.failures or record.status != "closed" for record in records)
        folder = self.journal.folder
        history = None if self.journal.params is None else [self.journal.params[n] for n in sorted(self.journal.params)]
        status: Status = "completed with warnings" if failed or has_diverged(state.stopped or "") else "completed"
        return RunResult(
            status=status,
            reason=state.stopped or "",
            digest=plan.digest,
            learner=learner,
            schema=self.data.schema,
            transforms=tuple(self.data.transforms),
            prepared=state.prepared,
            params=params,
            records=tuple(records),
            history=None if history is None else np.stack(history),
            notes=tuple(self.notes),
            comparison=self._compare(plan, state, learner),
            raw=self.data.dataset.schema(),
            holdings=self._held if len(self.population) <= _LISTED and not self._discreet else None,
            privacy=None if self.price is None else for_the_record(self.price, simulated=True),
            preparations=self._preparations,
            learner_spec=self.experiment.learner.spec,  # type: ignore[union-attr]
            run_id=None if folder is None else RunId(folder.run_id),
            folder=None if folder is None else folder.path,
        )

    def _compare(self, plan: AnyPlan, state: RunState[Any], learner: Learner) -> Comparison | None:
        wanted = self.experiment.compare
        if wanted is None and self._discreet:
            return None
        if wanted is None:
            wanted = len(self.population) <= MOST_CLIENTS and learner.capabilities.gradient
        if not wanted:
            return None
        names = [self.population.id(index) for index in range(len(self.population))]
        return compare(
            learner,
            plan.start,
            {name: self.data.client(name) for name in names},
            federated=self._model_of(plan, state),
            key=plan.key.child("compare"),
        )

    def _model_of(self, plan: AnyPlan, state: RunState[Any]) -> Callable[[ClientId], Vector]:
        """Return the model that each client got: its personal one where the algorithm has them."""
        algorithm = plan.algorithm
        params, broadcast = algorithm.params(state.server), algorithm.broadcast(state.server)
        personal = algorithm.personal
        if personal is None:
            return lambda _client: params

        def model(client: ClientId) -> Vector:
            kept = self.journal.states.load(client).settle(state.included.get(client)).committed
            return personal(broadcast, algorithm.client_init(broadcast) if kept is None else kept.state)

        return model


def dataset_of(experiment: Experiment) -> FederatedDataset:
    """Return the data set of an experiment whose names have been resolved."""
    if isinstance(experiment.data, ComponentSpec):
        raise PlanError("data was not resolved before planning")
    return experiment.data
