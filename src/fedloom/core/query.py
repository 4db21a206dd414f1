"""Questions answered by rounds that train nothing, and the change of rows that an answer gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from fedloom.core.component import ComponentSpec
from fedloom.core.data import Schema, Transform
from fedloom.core.params import ParamSpec
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Generic[S, R]):
    """A question asked of all clients: same orders, pipeline, ledger and checkpoint as training.

    With the default pipeline of queries the aggregate is the total of the clients' answers. ``R`` is a frozen dataclass
    of numbers, strings and tuples of them: it stands in the record and in the model file as JSON. A query whose first
    state is ``done`` asks nothing: its answer was public.
    """

    name: str
    answer: type[R]
    parts: Callable[[Schema], Mapping[str, ParamSpec]]
    init: Callable[[Schema], S]
    ask: Callable[[S], LocalQuery]
    step: Callable[[S, Aggregate], S]
    done: Callable[[S], bool]
    result: Callable[[S], R]
    spec: ComponentSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation(Generic[S, R]):
    """A query and the transform its result gives; a party receives the result and rebuilds the transform itself."""

    query: Query[S, R]
    transform: Callable[[R], Transform]
    report: Callable[[R, Schema], tuple[str, ...]] = lambda _result, _schema: ()
    """What a person should know of the result (a constant column), one sentence each."""
    fills: bool = False
    """Whether it puts values in place of missing ones: without such a preparation a missing value is an error."""
    spec: ComponentSpec | None = None


AnyQuery: TypeAlias = Query[Any, Any]
AnyPreparation: TypeAlias = Preparation[Any, Any]
