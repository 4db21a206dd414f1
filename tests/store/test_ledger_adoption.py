"""A ledger that was put back takes in what another party remembers: all of it, once, whether it fits or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.events import GaussianDpEvent
from fedloom.errors import BudgetError
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_adoption import Adoption, without_bound
from fedloom.store.ledger_entries import Budget, ReleaseKey, Reservation, event_tree
from fedloom.store.ledger_price import ORDERS

NOISE = GaussianDpEvent(2.0)
EVENT = event_tree(NOISE)
KEYS: tuple[ReleaseKey, ...] = ((0, 1, 0), (0, 2, 0))


def curve(count: int) -> tuple[float, ...]:
    return tuple(count * order / 8 for order in ORDERS)


def worst(releases: int = 2, *, rdp: bool = False, epsilon: float = 3.0) -> Reservation:
    divergences = curve(releases) if rdp else ()
    return Reservation(epsilon=epsilon, delta=1e-6, releases=releases, rdp=divergences, events=(NOISE,))


def asked(keys: tuple[ReleaseKey, ...] = KEYS, *, run: str = "r1", rdp: bool = False, **more: Any) -> Adoption:
    one = curve(1) if rdp else ()
    return Adoption(run=run, data_set="ward-a", worst=worst(rdp=rdp, **more), keys=keys, event=EVENT, rdp=one)


def budget(composition: str = "basic", epsilon: float = 8.0) -> Budget:
    return Budget(
        data_set="ward-a",
        unit="record",
        adjacency="add_remove",
        epsilon=epsilon,
        delta=1e-5,
        composition=composition,  # type: ignore[arg-type]
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.sqlite", now=lambda: 1.7e9) as one:
        one.register(budget())
        yield one


def held(ledger: Ledger) -> list[tuple[str, int, bool]]:
    return [(each.run, each.releases, each.overspent) for each in ledger.holdings()]


def test_what_is_missing_is_charged_once_however_often_it_is_adopted(ledger: Ledger) -> None:
    account = ledger.reserve("r1", "ward-a", worst())
    account.commit((0, 1, 0), NOISE)
    assert ledger.missing(asked()) == ((0, 2, 0),)
    ledger.adopt(asked())
    head = ledger.head()
    ledger.adopt(asked())
    assert ledger.head() == head
    assert ledger.missing(asked()) == ()
    assert held(ledger) == [("r1", 2, False)]
    assert ledger.verify() == head


def test_a_run_that_is_not_known_is_charged_in_whole(ledger: Ledger) -> None:
    ledger.adopt(asked(KEYS[:1]))
    assert held(ledger) == [("r1", 1, False)]
    assert ledger.balance("ward-a").promised.epsilon == 3.0
    ledger.account("r1", "ward-a").commit((0, 2, 0), NOISE)  # it may go on as it would have


def test_more_releases_than_were_reserved_cost_the_worst_case_once_more(ledger: Ledger) -> None:
    five: tuple[ReleaseKey, ...] = tuple((0, number, 0) for number in range(1, 6))
    ledger.adopt(asked(five, epsilon=2.0))
    assert held(ledger) == [("r1", 2, False), ("r1+1", 2, False), ("r1+2", 1, False)]
    assert ledger.balance("ward-a").promised.epsilon == 6.0
    ledger.adopt(asked(five, epsilon=2.0))
    assert len(held(ledger)) == 3


def test_a_run_that_had_finished_or_was_priced_otherwise_is_charged_beside_itself(ledger: Ledger) -> None:
    ledger.reserve("r1", "ward-a", worst())
    ledger.finish("r1")
    ledger.reserve("r2", "ward-a", worst(epsilon=1.0))
    ledger.adopt(asked())
    ledger.adopt(asked(run="r2"))
    assert held(ledger) == [("r1", 0, False), ("r2", 0, False), ("r1+1", 2, False), ("r2+1", 2, True)]


def test_what_does_not_fit_is_written_down_and_then_nothing_more_is_released(ledger: Ledger) -> None:
    open_run = ledger.reserve("r1", "ward-a", worst(epsilon=6.0))
    open_run.commit((0, 1, 0), NOISE)
    ledger.adopt(asked(run="r2"))
    assert held(ledger) == [("r1", 1, False), ("r2", 2, True)]
    assert ledger.balance("ward-a").promised.epsilon == 9.0
    with pytest.raises(BudgetError, match=r"overspent, epsilon 9, .* of epsilon 8, .* Nothing more is released"):
        open_run.commit((0, 2, 0), NOISE)
    with pytest.raises(BudgetError, match="does not fit the budget"):
        ledger.reserve("r3", "ward-a", worst(epsilon=0.1))
    with Ledger.read(ledger.path) as again:
        assert held(again) == held(ledger)
    ledger.adopt(asked(run="r4"))
    assert held(ledger)[-1] == ("r4", 2, True)


@pytest.mark.parametrize("composition", ["basic", "rdp"])
def test_what_has_no_price_costs_more_than_any_budget(composition: str, tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.sqlite") as ledger:
        ledger.register(budget(composition))
        ledger.adopt(without_bound("r1", "ward-a", KEYS, orders=ORDERS if composition == "rdp" else ()))
        assert held(ledger) == [("r1", 2, True)]
        assert ledger.balance("ward-a").promised.epsilon == math.inf
        ledger.verify()
        with pytest.raises(BudgetError, match="does not fit"):
            ledger.reserve("r2", "ward-a", worst(rdp=composition == "rdp"))


def test_under_rdp_what_an_adopted_run_did_not_use_is_free_when_it_has_finished(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.sqlite") as ledger:
        ledger.register(budget("rdp"))
        ledger.adopt(asked(KEYS[:1], rdp=True))
        before = ledger.balance("ward-a").promised
        ledger.finish("r1")
        assert ledger.balance("ward-a").promised.epsilon < before.epsilon


def test_a_data_set_without_a_budget_has_nothing_to_overspend(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.sqlite") as ledger, pytest.raises(BudgetError, match="has no budget"):
        ledger.adopt(asked())


@settings(max_examples=40, derandomize=True, deadline=None)
@given(known=st.integers(0, 4), first=st.lists(st.integers(1, 9), max_size=6), then=st.lists(st.integers(1, 9)))
def test_every_release_that_is_remembered_is_charged_exactly_once(
    known: int, first: list[int], then: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Ledger.create(tmp_path_factory.mktemp("ledger") / "ledger.sqlite") as ledger:
        ledger.register(budget(epsilon=1000.0))
        account = ledger.reserve("r1", "ward-a", worst(releases=4))
        for number in range(1, known + 1):
            account.commit((0, number, 0), NOISE)
        for numbers in (first, then):
            remembered = Adoption(
                run="r1",
                data_set="ward-a",
                worst=worst(releases=4),
                keys=tuple((0, number, 0) for number in numbers),
                event=EVENT,
            )
            ledger.adopt(remembered)
            assert ledger.missing(remembered) == ()
        different = {*range(1, known + 1), *first, *then}
        assert sum(each.releases for each in ledger.holdings()) == len(different)
        due = math.ceil(len(different) / 4) or 1
        assert ledger.balance("ward-a").promised.epsilon == 3.0 * due
