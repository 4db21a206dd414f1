"""FederatedRun: the phases of one run whose clients are sites: preparations, then training. No rows are here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedloom.core.component import Json
from fedloom.core.data import Transform
from fedloom.core.ids import RunId
from fedloom.core.keys import NO_SECRET, SecretKey
from fedloom.core.learner import Learner
from fedloom.core.query import AnyPreparation
from fedloom.core.roster import Roster
from fedloom.engines.accounting import account_of, check_ledger
from fedloom.engines.journal import Journal
from fedloom.engines.remote_team import RemoteTeam
from fedloom.engines.result import RunResult, Status
from fedloom.engines.rounds import OnRound, Rounds
from fedloom.engines.secrets import server_secret
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.privacy import PrivacyPrice, price_experiment
from fedloom.experiment.privacy_record import ELSEWHERE, for_the_record
from fedloom.experiment.remote import RunFacts, coordinator_plan, public_answer, without_rows
from fedloom.experiment.spec import Experiment
from fedloom.runtime.coordinator import initial_state
from fedloom.runtime.plan import deployed
from fedloom.runtime.state import RunState, decode_state, peek
from fedloom.runtime.stopping import has_diverged
from fedloom.store import RunFolder, Saved

REHEARSED = "rehearsal: no protection. Keys, noise and sampling come from the seed of the run, which everybody knows"

NOT_COMPARED = "compare = true is for simulations: nobody here has the rows of all sites, so there is no pooled model"


class FederatedRun:
    """One run: what it is, what its sites agreed on, and where it is kept.

    Args:
        experiment: As it was submitted.
        facts: What the sites have agreed on.
        folder: Of the run; its state is durable after every round.
        team: The sites.
        roster: Who may take part in a secure sum.
        secret: The coordinator's own, for noise and cohorts; None in a rehearsal: derived from the seed.
        on_round: Called with each round's record when it is committed.
    """

    def __init__(
        self,
        experiment: Experiment,
        facts: RunFacts,
        folder: RunFolder,
        team: RemoteTeam,
        *,
        roster: Roster | None,
        secret: SecretKey | None,
        on_round: Sequence[OnRound] = (),
    ) -> None:
        self.facts = facts
        self.experiment = without_rows(experiment, facts, base=Path(folder.base))
        self.notes: list[str] = [NOT_COMPARED] if experiment.compare else []
        self.price: PrivacyPrice | None = None
        self._folder = folder
        self._team = team
        self._roster = roster
        self._secret = secret
        self._on_round = on_round
        self._transforms: list[Transform] = []

    def run(self) -> RunResult:
        """Run all phases from where the folder left them, and return the result.

        Raises:
            RunStopped: When rounds had too few updates, by the policy.
            AlgorithmError: When the server step raised, or its result is not finite.
            Halted: When the coordinator was asked to stop; what was committed is kept.
        """
        saved = self._folder.read()
        journal = Journal(folder=self._folder, every_s=0.0)
        rounds = Rounds(self._team, journal, self._on_round, secret=self._secret_of)
        plan, state, learner = self._phases(rounds, saved if saved.state is not None else None)
        journal.write()
        return self._result(journal, plan, state, learner)

    def _secret_of(self, plan: AnyPlan) -> SecretKey:
        """Return what the coordinator draws from in a phase: of its own entropy, save in a rehearsal."""
        if self._secret is None:
            return server_secret(plan)
        return self._secret.child("run", self._folder.run_id) if plan.keeps_secrets else NO_SECRET

    def _phases(self, rounds: Rounds, saved: Saved | None) -> tuple[AnyPlan, RunState[Any], Learner]:
        journal, (begun, phase) = rounds.journal, self._restore(rounds.journal, saved)
        for number in range(len(self.experiment.prepare)):
            if number >= len(self.facts.prepared):
                self.facts = self.facts.answered(self._answer(rounds, number, begun if number == phase else None))
            preparation = self._preparations[number]
            self._transforms.append(
                preparation.transform(msgspec.convert(self.facts.prepared[number], type=preparation.query.answer))
            )
        plan = self._plan(len(self.experiment.prepare))
        learner = plan.learner
        assert learner is not None, "training has a learner"
        self.notes.extend(getattr(learner, "notes", ()))
        self._note_privacy(plan, new=saved is None)
        plan, state = self._begun(plan, begun if phase == plan.phase else None, journal)
        with ExitStack() as open_accounts:
            journal.ledger = open_accounts.enter_context(account_of(self.price, self._folder, fingerprint=None))
            try:
                state = rounds.run(plan, state, block=1)
                journal.write()
            finally:
                journal.ledger = None
        return plan, state, learner

    def _plan(self, phase: int) -> AnyPlan:
        return deployed(
            coordinator_plan(self.experiment, self.facts, phase), run=self._folder.run_id, roster=self._roster
        )

    def _answer(self, rounds: Rounds, number: int, begun: bytes | None) -> Json:
        """Return the result of a preparation, asked of the sites where it is not public."""
        known = public_answer(self.experiment, self.facts, number)
        if known is not None:
            return known[0]
        plan, state = self._begun(self._plan(number), begun, rounds.journal)
        state = rounds.run(plan, state, block=1)
        result: Json = msgspec.to_builtins(self._preparations[number].query.result(state.server))
        return result

    def _restore(self, journal: Journal, saved: Saved | None) -> tuple[bytes | None, int]:
        if saved is None or saved.state is None:
            return None, 0
        _, phase, prepared = peek(saved.state)
        journal.restore(saved.state, saved.records)
        for result in prepared[len(self.facts.prepared) :]:
            self.facts = self.facts.answered(result)
        return saved.state, phase

    def _begun(self, plan: AnyPlan, saved: bytes | None, journal: Journal) -> tuple[AnyPlan, RunState[Any]]:
        """Return a phase and where it stands.

        A round that was short as often as the policy has it is opened as often again: under numbers that no retry has
        had, because they name what is drawn.
        """
        fresh = initial_state(plan, prepared=self.facts.prepared, records=len(journal.records))
        if saved is None:
            return plan, fresh
        state, times = decode_state(saved, fresh), plan.policy.retries + 1
        if state.retry < times:
            return plan, state
        policy = replace(plan.policy, retries=(state.retry // times + 1) * times - 1)
        return replace(plan, policy=policy), state

    def _note_privacy(self, plan: AnyPlan, *, new: bool) -> None:
        if self._secret is None:
            self.notes.append(REHEARSED)
        if self.experiment.privacy is None:
            return
        self.price = price_experiment(self.experiment, plan)
        check_ledger(self.price, self._folder.path.parent, new=new)
        if self.price is not None:
            self.notes.extend([self.price.figures.participation.words, ELSEWHERE, *self.price.notes])

    @property
    def _preparations(self) -> Sequence[AnyPreparation]:
        return self.experiment.prepare  # type: ignore[return-value]

    def _result(self, journal: Journal, plan: AnyPlan, state: RunState[Any], learner: Learner) -> RunResult:
        records = journal.records
        failed = any(record.failures or record.status != "closed" for record in records)
        status: Status = "completed with warnings" if failed or has_diverged(state.stopped or "") else "completed"
        schema = self.facts.schema
        for transform in self._transforms:
            schema = transform.schema(schema)
        return RunResult(
            status=status,
            reason=state.stopped or "",
            digest=plan.digest,
            learner=learner,
            schema=schema,
            transforms=tuple(self._transforms),
            prepared=state.prepared,
            params=np.asarray(plan.algorithm.params(state.server)),
            records=tuple(records),
            history=None,
            notes=tuple(self.notes),
            comparison=None,
            raw=self.facts.schema,
            holdings=None,
            privacy=None if self.price is None else for_the_record(self.price, simulated=self._secret is None),
            preparations=self._preparations,
            learner_spec=self.experiment.learner.spec,  # type: ignore[union-attr]
            run_id=RunId(self._folder.run_id),
            folder=self._folder.path,
        )
