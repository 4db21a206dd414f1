"""What a client program may ask, and the one type that answers each question.

Four requests, four answers; no value of a field changes what a request means. What a program can learn about the data
is what these answers hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from msgspec import Struct

from fedloom.core.data import ClientDataset, Split
from fedloom.core.metrics import MetricSet
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule


class LocalWork(Struct, frozen=True, kw_only=True):
    """Minimise ``f_i(w) + <linear, w> + prox/2 * |w - anchor|^2`` from ``start``, by ``schedule``; -> LocalResult.

    FedProx is ``prox``, SCAFFOLD is ``linear``, Ditto is ``anchor``, FedDyn all three.
    """

    start: Vector
    schedule: Schedule
    linear: Vector | None = None
    prox: float = 0.0
    anchor: Vector | None = None
    """None: the start."""


class LocalGradient(Struct, frozen=True):
    """The gradient of the client's objective over all its training rows; -> GradientResult."""

    at: Vector


class LocalQuery(Struct, frozen=True):
    """A question to the training rows; -> QueryResult. ``read`` is pure and runs where the rows lie."""

    read: Callable[[ClientDataset], Mapping[str, Vector]]


class LocalEvaluation(Struct, frozen=True):
    """The metrics of ``params`` on one split; -> EvaluationResult."""

    params: Vector
    split: Split


class LocalResult(Struct, frozen=True, kw_only=True):
    """Where local training ended.

    ``lr_sum`` is the sum of the learning rates taken, K * eta when constant. ``examples`` stays at the client: a count
    travels in clear only where the plan lists it.
    """

    params: Vector
    lr_sum: float
    steps: int
    examples: int
    metrics: MetricSet = {}


class GradientResult(Struct, frozen=True, kw_only=True):
    """Gradient of the objective (mean loss + penalty), its value, and the number of rows it is over."""

    gradient: Vector
    loss: float
    examples: int


class QueryResult(Struct, frozen=True):
    """Answer of a query, by part."""

    parts: Mapping[str, Vector]


class EvaluationResult(Struct, frozen=True):
    """Metrics that merge over clients, and figures of this client alone that do not (exact AUROC; None: no value)."""

    metrics: MetricSet
    scores: Mapping[str, float | None] = {}


ClientRequest: TypeAlias = LocalWork | LocalGradient | LocalQuery | LocalEvaluation
ClientReply: TypeAlias = LocalResult | GradientResult | QueryResult | EvaluationResult
