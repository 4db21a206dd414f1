"""What may follow what: no way leads out of an end, every state can be reached, and every state leads to an end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.errors import StoreError
from fedloom.store.transitions import ACCEPTING, ROUND, RUN, TASK, ends, moved

TABLES: list[tuple[Mapping[Any, frozenset[Any]], str]] = [(ROUND, "planned"), (RUN, "draft"), (TASK, "offered")]


def reached(table: Mapping[Any, frozenset[Any]], start: Any) -> set[Any]:
    found, new = {start}, {start}
    while new:
        new = {after for state in new for after in table[state]} - found
        found |= new
    return found


@pytest.mark.parametrize(("table", "first"), TABLES)
def test_every_state_is_reached_and_leads_to_an_end(table: Mapping[Any, frozenset[Any]], first: str) -> None:
    assert reached(table, first) == set(table)
    assert all(reached(table, state) & ends(table) for state in table)
    assert ends(table)


@given(st.sampled_from(TABLES), st.lists(st.integers(0, 9), max_size=30))
def test_a_walk_that_has_come_to_an_end_stays_there(
    start: tuple[Mapping[Any, frozenset[Any]], str], steps: list[int]
) -> None:
    table, state = start
    ended = None
    for step in steps:
        to = sorted(table)[step % len(table)]
        try:
            if moved(table, state, to, what="it"):
                assert to in table[state]
                state = to
            else:
                assert to == state
        except StoreError as error:
            assert to not in table[state]
            assert f"it is {state} and cannot become {to}" in str(error)
        assert ended in (None, state)
        ended = state if state in ends(table) else None


def test_what_aggregates_is_never_aborted_and_nothing_counts_from_closing_on() -> None:
    assert ROUND["aggregating"] == {"committed"}
    assert not reached(ROUND, "closing") & ACCEPTING
