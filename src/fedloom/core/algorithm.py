"""Algorithm: a frozen value of pure functions, and the helpers that its client program asks with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

from msgspec import Struct

from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key
from fedloom.core.learner import Capabilities
from fedloom.core.metrics import MetricSpec
from fedloom.core.params import ParamSpec, Vector
from fedloom.core.schedule import Schedule
from fedloom.core.update import Aggregate, Update
from fedloom.core.work import (
    ClientReply,
    ClientRequest,
    EvaluationResult,
    GradientResult,
    LocalEvaluation,
    LocalGradient,
    LocalQuery,
    LocalResult,
    LocalWork,
    QueryResult,
)

R = TypeVar("R")
S = TypeVar("S")
B = TypeVar("B")
C = TypeVar("C")

Weighting = Literal["examples", "uniform"]
NEEDS_NOTHING = Capabilities()
Asking: TypeAlias = Generator[ClientRequest, ClientReply, R]
ClientProgram: TypeAlias = Asking[tuple[Update, C]]
"""Asks, is answered, and ends with an update and the client's new state; may end before its first question."""


def train(work: LocalWork) -> Asking[LocalResult]:
    """Ask for local training."""
    return cast("LocalResult", (yield work))


def gradient(at: LocalGradient) -> Asking[GradientResult]:
    """Ask for a gradient over all training rows."""
    return cast("GradientResult", (yield at))


def ask(query: LocalQuery) -> Asking[QueryResult]:
    """Ask the training rows a question."""
    return cast("QueryResult", (yield query))


def evaluate(request: LocalEvaluation) -> Asking[EvaluationResult]:
    """Ask for the metrics of some parameters on one split."""
    return cast("EvaluationResult", (yield request))


class ClientContext(Struct, frozen=True):
    """What a client program knows of where and when it runs. ``key`` is for algorithms that draw."""

    client: ClientId
    round: RoundNumber
    examples: int
    key: Key


def delta_only(layout: ParamSpec) -> Mapping[str, ParamSpec]:
    """Return the parts of an update that is one change of the parameters."""
    return {"delta": layout}


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm(Generic[S, B, C]):
    """A federated method: server state ``S``, broadcast ``B``, client state ``C``.

    Each of the three is None, a ``Vector``, or a frozen dataclass of arrays, numbers and strings, so that it is saved
    and travels. All functions are pure; hyper-parameters are closed over.
    """

    name: str
    init: Callable[[Vector], S]
    broadcast: Callable[[S], B]
    """What clients are told; the rest of the server state stays home."""
    client_init: Callable[[B], C]
    client: Callable[[B, C, ClientContext], ClientProgram[C]]
    step: Callable[[S, Aggregate], S]
    params: Callable[[S], Vector]
    """The published model."""
    parts: Callable[[ParamSpec], Mapping[str, ParamSpec]] = delta_only
    """Parts of an update, in wire order."""
    metrics: MetricSpec | None = None
    """Metrics of an update; None: those of the learner's ``fit``."""
    weighting: Weighting = "examples"
    personal: Callable[[B, C], Vector] | None = None
    """What this client evaluates and serves, where it is not the published model."""
    needs: Capabilities = NEEDS_NOTHING
    local: Schedule | None = None
    """The schedule of all local work that its programs ask for, where it is one. A plan prices private steps by it, and
    a client does no private work that is not told here."""
    spec: ComponentSpec | None = None


AnyAlgorithm: TypeAlias = Algorithm[Any, Any, Any]
