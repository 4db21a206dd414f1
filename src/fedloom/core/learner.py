"""Learner: the adapter between a request for local work and whatever framework does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from msgspec import Struct

from fedloom.core.component import ComponentSpec
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.keys import Key, Keys
from fedloom.core.metrics import MetricSet, MetricSpec
from fedloom.core.params import Dtype, ParamSpec, Vector
from fedloom.core.work import EvaluationResult, GradientResult, LocalResult, LocalWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a learner can do, or an algorithm needs; an algorithm's needs are checked when the plan is built."""

    linear: bool = False
    prox: bool = False
    gradient: bool = False
    examples: bool = False
    """Of an algorithm: it needs the number of training rows of the whole population."""
    shaped: bool = False
    """Of an algorithm: an optimizer, a clip or weight decay shapes its local steps."""
    plain_only: bool = False
    """Of a learner: its steps are its own, and cannot be shaped."""
    private: bool = False
    """Of a learner: it takes private steps, unless ``not_private`` says why its model cannot."""
    not_private: Callable[[], str] = field(default=str, compare=False, repr=False)
    """Of a learner that takes private steps: why not with this model, empty where it can. Trying may take a second."""
    block: Literal["same bytes", "close", "no"] = "no"
    """How a client inside a block compares with the same client alone."""
    deterministic: bool = True


class Job(Struct, frozen=True):
    """Local work of one client: its training rows, and the keys of this wave."""

    work: LocalWork
    data: ClientDataset
    keys: Keys


class Learner(Protocol):
    """Trains and evaluates flat parameters on the rows of one client, or of a block of clients at once.

    Attributes are read-only, so that frozen values satisfy the protocol.
    """

    @property
    def spec(self) -> ComponentSpec | None:
        """What built it."""
        ...

    @property
    def layout(self) -> ParamSpec:
        """Layout of the parameters."""
        ...

    @property
    def dtype(self) -> Dtype:
        """Type of the parameters."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What requests it can honour."""
        ...

    @property
    def fit_metrics(self) -> MetricSpec:
        """Metrics that every ``LocalResult`` carries."""
        ...

    @property
    def evaluation_metrics(self) -> MetricSpec:
        """Metrics that every ``EvaluationResult`` carries."""
        ...

    @property
    def block(self) -> int:
        """Clients that it likes to advance together on one core."""
        ...

    def init(self, key: Key) -> Vector:
        """Return the parameters before round 1."""
        ...

    def fit(self, jobs: Sequence[Job]) -> Sequence[LocalResult]:
        """Do the work of a block of clients, results in the order of the jobs; one client is a block of one."""
        ...

    def gradient(self, at: Vector, data: ClientDataset) -> GradientResult:
        """Return the gradient of the objective over all rows of ``data``."""
        ...

    def evaluate(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return the metrics of ``params`` over all rows of each client; a client alone is a block of one.

        A client's result has the same bytes in any block. Every client has at least one row.
        """
        ...

    def losses(self, params: Vector, data: Sequence[ClientDataset]) -> Sequence[EvaluationResult]:
        """Return the metrics and scores ``loss`` and ``objective`` alone: what training rows are asked for."""
        ...

    def predict(self, params: Vector, features: Vector) -> Vector:
        """Return class probabilities ``(rows, classes)``, or predicted numbers ``(rows,)``.

        Features are as the learner sees them, after preparations. A row's prediction does not depend on the others.
        """
        ...

    def figures(self, metrics: MetricSet) -> Mapping[str, float | None]:
        """Return what people read (accuracy, AUROC, RMSE) from the merged metrics of evaluations; None: no value."""
        ...


@dataclass(frozen=True, slots=True)
class LearnerBuilder:
    """A learner whose shape is known when the schema is agreed."""

    build: Callable[[Schema], Learner]
    task: Literal["classification", "regression"]
    spec: ComponentSpec | None = None
    capabilities: Capabilities | None = None
    """Those of every learner that it builds, so that a plan can refuse before the schema is agreed; None: not known."""
