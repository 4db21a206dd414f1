"""A driver that asks clients and sums: the default query path without its machinery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from fedloom.core import codec
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.ids import RoundNumber
from fedloom.core.query import Query
from fedloom.core.update import Aggregate

S = TypeVar("S")
R = TypeVar("R")
Answer = Callable[..., Any]


def answer_of(
    query: Query[S, R],
    schema: Schema,
    clients: Sequence[ClientDataset],
    *,
    seen: list[S] | None = None,
    noise: float = 0.0,
) -> R:
    """Return the result of a query over clients whose answers are summed; ``seen`` collects the states."""
    layout = query.parts(schema)
    state = query.init(schema)
    for number in range(100):
        if seen is not None:
            seen.append(state)
        if query.done(state):
            return query.result(state)
        answers = [query.ask(state).read(client) for client in clients]
        for answer in answers:
            assert {part: vector.shape for part, vector in answer.items()} == {
                part: (leaves.size,) for part, leaves in layout.items()
            }
            assert all(vector.dtype == np.float64 for vector in answer.values())
        totals = {part: np.sum([answer[part] for answer in answers], axis=0) + noise for part in layout}
        state = query.step(
            state,
            Aggregate(
                parts=totals,
                weight=float(len(clients)),
                clients=float(len(clients)),
                participation=1.0,
                round=RoundNumber(number),
            ),
        )
    raise AssertionError("the query did not end in 100 rounds")


@pytest.fixture
def answer() -> Answer:
    return answer_of


@pytest.fixture
def same_layout() -> Callable[[Sequence[object]], None]:
    """Every state has the types, shapes and dtypes of the first, so a checkpoint decodes into ``init``."""

    def check(states: Sequence[object]) -> None:
        for state in states:
            for name in type(state).__dataclass_fields__:  # type: ignore[attr-defined]
                value, like = getattr(state, name), getattr(states[0], name)
                assert type(value) is type(like), name
                if isinstance(like, np.ndarray):
                    assert (value.shape, value.dtype) == (like.shape, like.dtype), name

    return check


def dealt_to(rows: ClientDataset, hands: Sequence[int]) -> list[ClientDataset]:
    """Return rows dealt to clients: ``hands`` is the client of each row. One more client has no rows at all."""
    owner = np.asarray(hands)
    held = []
    for client in range(int(owner.max(initial=0)) + 2):
        mine = owner == client
        arrays = {name: array[mine] for name, array in rows.arrays.items()}
        held.append(ClientDataset(arrays, {"train": slice(0, int(mine.sum()))}))
    return held


@pytest.fixture
def deal() -> Callable[[ClientDataset, Sequence[int]], list[ClientDataset]]:
    return dealt_to


@pytest.fixture
def restarted() -> Callable[[Query[Any, Any], Schema, Sequence[object]], None]:
    """Every state decodes into the first one's template, as a checkpoint and an order do."""

    def check(query: Query[Any, Any], schema: Schema, states: Sequence[object]) -> None:
        for state in states:
            again = codec.decode(codec.encode(state), query.init(schema))
            assert codec.encode(again) == codec.encode(state)

    return check


@pytest.fixture
def stored() -> Callable[[Any], Any]:
    """An answer as the model file gives it back: JSON, read into the type of the answer."""

    def through(answer: Any) -> Any:
        return msgspec.convert(msgspec.json.decode(msgspec.json.encode(answer)), type=type(answer))

    return through
