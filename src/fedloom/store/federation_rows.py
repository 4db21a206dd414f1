"""Rows of the coordinator's store: what each is, what names it, and by what it is found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from fedloom.core.component import canonical_json
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.messages import Program
from fedloom.store.blobs import Digest
from fedloom.store.events_chain import EVENTS
from fedloom.store.store_folder import META
from fedloom.store.tables import Table
from fedloom.store.transitions import RoundStage, RunStage, TaskStage

FORMAT = 1

ContributionKind: TypeAlias = Literal["message", "refused", "failed", "lost", "late"]
"""``lost`` and ``late`` are the coordinator's own word: it gave a site up. The others came from the site."""
GIVEN_UP: frozenset[ContributionKind] = frozenset({"lost", "late"})
Verdict: TypeAlias = Literal["ACCEPTED", "DUPLICATE_OK", "TOO_LATE", "REJECTED"]


class RoundKey(NamedTuple):
    """What names a round: opened again it has another ``retry``, and another name."""

    run: RunId
    phase: int
    program: Program
    round: RoundNumber
    retry: int

    def __str__(self) -> str:
        """Return the round as a message names it."""
        return f"{self.program} round {self.round}, retry {self.retry} of phase {self.phase} of run {self.run}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a site is told about something it sent. ``reason`` says why it was not taken."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site, and what was last seen of its own store: an older one has come from a backup."""

    name: ClientId
    organisation: str
    serials: tuple[str, ...] = ()
    """Of its certificates, the newest last."""
    hello: float | None = None
    epoch: str | None = None
    ledger: str | None = None
    """Head of its privacy ledger."""
    chain: str | None = None
    """Head of its events."""
    suspended: str | None = None
    """Why it is not invited; None: it is."""
    session: str | None = None
    """The newest one; all others are over."""
    sessions: int = 0
    """How many it has had."""
    failures: int = 0
    """Rounds in a row in which its work failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A join token as ``secure.join`` keeps it: opaque here."""

    token: str
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """The latest signed message of a sender in a run, and what it was answered."""

    sender: str
    run: str
    sequence: int
    message: bytes
    """Its id."""
    digest: bytes
    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run and its stage."""

    run: RunId
    name: str
    experiment: bytes
    digest: str
    """Of the experiment: what sites approve."""
    stage: RunStage
    priority: int
    created: float
    reason: str = ""
    """Why it is at this stage, where that needs a reason."""
    request: str = ""
    """Named by who asked for it, so that asking twice makes one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What a site said to a run: only yes or no, and a code."""

    run: RunId
    site: ClientId
    digest: str
    approved: bool
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round: who was drawn is written before the first order leaves, and never drawn again."""

    run: RunId
    phase: int
    program: Program
    round: RoundNumber
    retry: int
    stage: RoundStage
    cohort: tuple[ClientId, ...]
    away: tuple[int, ...] = ()
    opened: float = 0.0
    deadline_s: float | None = None
    spent_s: float = 0.0
    """Seconds that it was open while a coordinator was up: downtime does not count."""
    arrivals: int = 0
    """Contributions so far."""
    reason: str = ""
    result: Digest | None = None

    @property
    def key(self) -> RoundKey:
        """What names it."""
        return RoundKey(self.run, self.phase, self.program, self.round, self.retry)

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - self.spent_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one site is asked to do at one step of a round."""

    task: str
    run: RunId
    phase: int
    program: Program
    round: RoundNumber
    retry: int
    step: int
    site: ClientId
    inputs: tuple[Digest, ...]
    stage: TaskStage = "offered"
    session: str | None = None
    lease_s: float = 0.0

    @property
    def key(self) -> RoundKey:
        """The round that it is part of."""
        return RoundKey(self.run, self.phase, self.program, self.round, self.retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What came of a task: one for each, ever. ``order`` counts the arrivals of a round."""

    run: RunId
    phase: int
    program: Program
    round: RoundNumber
    retry: int
    step: int
    site: ClientId
    kind: ContributionKind
    blob: Digest | None = None
    detail: str = ""
    order: int = 0

    @property
    def key(self) -> RoundKey:
        """The round that it is part of."""
        return RoundKey(self.run, self.phase, self.program, self.round, self.retry)

    def says(self, other: Contribution) -> bool:
        """Return whether both say the same."""
        return (self.kind, self.blob, self.detail) == (other.kind, other.blob, other.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A content that a site has announced for a task."""

    upload: str
    task: str
    site: ClientId
    digest: Digest
    length: int


_ROUND = ("run", "phase", "program", "round", "retry")
SITES = Table(name="site", row=Site, key=("name",))
TOKENS = Table(name="token", row=Token, key=("token",))
SEQUENCES = Table(name="sequence", row=Sequence, key=("sender", "run"))
RUNS = Table(name="run", row=Run, key=("run",), find=("request",), index=("request",))
APPROVALS = Table(name="approval", row=Approval, key=("run", "site"))
ROUNDS = Table(name="round", row=Round, key=_ROUND, find=("stage",), index=("stage",))
TASKS = Table(
    name="task", row=Task, key=(*_ROUND, "step", "site"), find=("task", "stage"), index=("task", "stage", "site")
)
CONTRIBUTIONS = Table(name="contribution", row=Contribution, key=(*_ROUND, "step", "site"))
TOO_LATE = Table(name="too_late", row=Contribution, key=(*_ROUND, "step", "site"))
UPLOADS = Table(name="upload", row=Upload, key=("upload",), find=("task",), index=("task",))
TABLES: tuple[Table[Any], ...] = (
    META, SITES, TOKENS, SEQUENCES, RUNS, APPROVALS, ROUNDS, TASKS, CONTRIBUTIONS, TOO_LATE, UPLOADS, EVENTS,
)  # fmt: skip


def task_name(key: RoundKey, step: int, site: ClientId) -> str:
    """Return the name of a task: the same whenever it is offered.

    Example:
        >>> key = RoundKey(RunId("r1"), 1, "train", RoundNumber(3), 0)
        >>> task_name(key, 0, ClientId("north")) == task_name(key, 1, ClientId("north"))
        False
    """
    return hashlib.sha256(canonical_json(["task", *key, step, site])).hexdigest()[:32]


def upload_name(task: str, digest: Digest, length: int) -> str:
    """Return the name of an upload: the same whenever it is begun."""
    return hashlib.sha256(canonical_json(["upload", task, digest, length])).hexdigest()[:32]
