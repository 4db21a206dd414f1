"""A query whose answer everybody knows: its first state is done, and no client is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from fedloom.core.data import Schema
from fedloom.core.params import Leaf, ParamSpec
from fedloom.core.query import Query
from fedloom.core.update import Aggregate
from fedloom.core.work import LocalQuery

R = TypeVar("R")


def public_answer(name: str, answer: type[R], known: Callable[[Schema], R]) -> Query[R, R]:
    """Return a query that is answered by the schema alone.

    Args:
        name: Name of the query.
        answer: Type of its answer, which is its state too.
        known: The answer for a schema; raises a DataError where the schema does not fit.

    Example:
        >>> from fedloom.analytics import Moments
        >>> query = public_answer("none", Moments, lambda schema: Moments(count=0.0, mean=(), variance=()))
        >>> query.done(query.init(Schema(())))
        True
    """

    def parts(_schema: Schema) -> Mapping[str, ParamSpec]:
        return {name: ParamSpec((Leaf(name, (0,)),))}

    def never(*_: object) -> NoReturn:
        raise AssertionError(f"{name} asks nothing")

    def ask(_state: R) -> LocalQuery:
        never()

    def step(_state: R, _aggregate: Aggregate) -> R:
        never()

    return Query(
        name=name,
        answer=answer,
        parts=parts,
        init=known,
        ask=ask,
        step=step,
        done=lambda _state: True,
        result=lambda state: state,
    )
