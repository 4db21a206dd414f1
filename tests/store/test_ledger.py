from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.events import ComposedDpEvent, DpEvent, GaussianDpEvent, LaplaceDpEvent, NonPrivateDpEvent
from fedloom.errors import BudgetError, StoreError
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_books import Claim
from fedloom.store.ledger_entries import Budget, Reservation, decode_entry, encode_entry
from fedloom.store.ledger_price import ORDERS, Price, filtered
from fedloom.store.priced_accounts import PricedAccounts

NOISE = GaussianDpEvent(2.0)


def curve(noise: float, count: int = 1) -> tuple[float, ...]:
    """Return the divergences of ``count`` releases with Gaussian noise."""
    return tuple(count * order / (2 * noise * noise) for order in ORDERS)


def worst(epsilon: float, *, releases: int = 3, noise: float = 2.0, delta: float = 1e-6) -> Reservation:
    return Reservation(epsilon=epsilon, delta=delta, releases=releases, rdp=curve(noise, releases))


def budget(data_set: str = "ward-a", **changes: Any) -> Budget:
    fields = {"unit": "record", "adjacency": "add_remove", "epsilon": 8.0, "delta": 1e-5, "composition": "basic"}
    return Budget(data_set=data_set, **{**fields, **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "runs" / "ledger.sqlite", now=lambda: 1.7e9) as one:
        yield one


@pytest.fixture
def registered(ledger: Ledger) -> Callable[..., Ledger]:
    def register(**changes: Any) -> Ledger:
        ledger.register(budget(**changes))
        return ledger

    return register


def spend(ledger: Ledger, run: str, data_set: str, *, rounds: int = 3, epsilon: float = 3.0) -> None:
    account = ledger.reserve(run, data_set, worst(epsilon))
    for number in range(1, rounds + 1):
        account.commit((1, number, 0), NOISE, curve(2.0))
        account.keep((1, number, 0), f"{run}/{number}".encode())


def test_a_registration_stands_for_ever(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    rows = ledger.head().rows
    ledger.register(budget())
    assert ledger.head().rows == rows
    with pytest.raises(BudgetError, match=r"registered as epsilon 8, .*; received epsilon 9, .*never changed"):
        ledger.register(budget(epsilon=9.0))
    with pytest.raises(BudgetError, match=r"unit record, .*received .*unit client"):
        ledger.register(budget(unit="client"))
    assert ledger.budgets() == (budget(),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; expected a number above 0"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"delta": 1.0}, "delta is 1.0; expected 0 or more, below 1"),
        ({"delta": -1e-9}, "delta is -1e-09"),
        ({"delta": math.nan}, "delta is nan"),
        ({"delta": 0.0, "composition": "rdp"}, "delta is 0; composition 'rdp' needs one above 0"),
        ({"unit": "patient"}, "unit is 'patient'; expected one of client, record"),
        ({"adjacency": "swap"}, "adjacency is 'swap'"),
        ({"composition": "pld"}, "composition is 'pld'; expected one of basic, rdp"),
        ({"data_set": ""}, "data set ''"),
        ({"data_set": "ward\na"}, "printable"),
        ({"shares_units_with": ("ward-b ",)}, "no space at either end"),
    ],
)
def test_a_budget_outside_its_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        budget(**changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": -1.0, "delta": 0.0, "releases": 1, "rdp": (1.0,)}, "epsilon -1.0"),
        ({"epsilon": math.nan, "delta": 0.0, "releases": 1, "rdp": (1.0,)}, "epsilon nan"),
        ({"epsilon": 1.0, "delta": 1.5, "releases": 1, "rdp": (1.0,)}, "delta 1.5"),
        ({"epsilon": 1.0, "delta": 0.0, "releases": -1}, "-1 releases"),
        ({"epsilon": 1.0, "delta": 0.0, "releases": 1, "rdp": (math.nan,)}, "numbers of 0 or more"),
        ({"epsilon": 1.0, "delta": 0.0, "releases": 1}, "neither Renyi divergences nor events"),
        (
            {"epsilon": 1.0, "delta": 0.0, "releases": 1, "events": (ComposedDpEvent((NonPrivateDpEvent(),)),)},
            "names an event without protection",
        ),
    ],
)
def test_a_reservation_outside_its_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Reservation(**fields)


def test_a_run_that_does_not_fit_is_refused_with_all_figures(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    spend(ledger, "r1", "ward-a", epsilon=4.0)
    ledger.finish("r1")
    ledger.reserve("r2", "ward-a", worst(2.0))
    rows = ledger.head().rows
    with pytest.raises(BudgetError) as caught:
        ledger.reserve("r3", "ward-a", worst(3.0))
    assert str(caught.value) == (
        "run 'r3' does not fit the budget of data set 'ward-a': budget epsilon 8, delta 1e-05 (basic); spent epsilon "
        "4, delta 1e-06; with what open runs hold epsilon 6, delta 2e-06; asked epsilon 3, delta 1e-06; together "
        "epsilon 9, delta 3e-06. Nothing was computed. Ask for less, by fewer rounds or more noise."
    )
    assert ledger.head().rows == rows
    ledger.reserve("r4", "ward-a", worst(2.0))  # exactly what is left


def test_delta_is_a_budget_too(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    with pytest.raises(BudgetError, match="together epsilon 1, delta 2e-05"):
        ledger.reserve("r1", "ward-a", worst(1.0, delta=2e-5))


def test_an_unknown_data_set_is_refused_with_what_to_do(registered: Callable[..., Ledger]) -> None:
    with pytest.raises(
        BudgetError, match=r"'ward-b' has no budget; registered are ward-a.*fedloom ledger budget ward-b"
    ):
        registered().reserve("r1", "ward-b", worst(1.0))


def test_the_same_reservation_again_is_the_same(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    first = ledger.reserve("r1", "ward-a", worst(3.0), fingerprint="rows-1")
    first.commit((1, 1, 0), NOISE, curve(2.0))
    again = ledger.reserve("r1", "ward-a", worst(3.0), fingerprint="rows-2")  # resumed over changed rows
    assert ledger.balance("ward-a").promised.epsilon == 3.0
    again.commit((1, 2, 0), NOISE, curve(2.0))
    entries = [decode_entry(json.dumps(json.loads(line)["entry"]).encode())[2] for line in ledger.export()]
    assert [entry.fingerprint for entry in entries[-2:]] == ["rows-1", "rows-2"]  # type: ignore[union-attr]
    with pytest.raises(BudgetError, match=r"holds epsilon 3, .*; received epsilon 4, .*never changed"):
        ledger.reserve("r1", "ward-a", worst(4.0))


def test_several_data_sets_are_reserved_together_or_not_at_all(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    ledger.register(budget("ward-b", epsilon=1.0))
    claims = [Claim(data_set=name, worst=worst(3.0)) for name in ("ward-a", "ward-b")]
    with pytest.raises(BudgetError, match="budget of data set 'ward-b'"):
        ledger.reserve_all("r1", claims)
    assert ledger.holdings() == ()
    with pytest.raises(BudgetError, match="asks for one data set twice"):
        ledger.reserve_all("r1", [claims[0], claims[0]])
    first, second = ledger.reserve_all("r2", [claims[0], Claim(data_set="ward-b", worst=worst(1.0))])
    assert (first.data_set, second.data_set) == ("ward-a", "ward-b")


def test_one_release_has_one_event(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    account = ledger.reserve("r1", "ward-a", worst(3.0))
    for _ in range(5):
        account.commit((1, 1, 0), NOISE, curve(2.0))
    assert ledger.balance("ward-a").releases == 1
    with pytest.raises(BudgetError, match=r"phase 1, round 1, retry 0 is charged as .*One release has one event"):
        account.commit((1, 1, 0), GaussianDpEvent(3.0), curve(3.0))
    account.commit((1, 1, 1), NOISE, curve(2.0))  # a retry is a release of its own
    assert ledger.balance("ward-a").releases == 2


def test_more_than_was_reserved_is_refused(registered: Callable[..., Ledger]) -> None:
    account = registered().reserve("r1", "ward-a", worst(3.0, releases=2))
    account.commit((1, 1, 0), NOISE, curve(2.0))
    with pytest.raises(BudgetError, match=r"divergence at order 2 would be .* was reserved. The noise is weaker"):
        account.commit((1, 2, 0), GaussianDpEvent(1.9), curve(1.9))
    with pytest.raises(BudgetError, match="received 1 Renyi divergences, expected 16"):
        account.commit((1, 2, 0), NOISE, (0.1,))
    with pytest.raises(BudgetError, match="numbers of 0 or more"):
        account.commit((1, 2, 0), NOISE, (-0.1,) * len(ORDERS))
    with pytest.raises(BudgetError, match="has no protection"):
        account.commit((1, 2, 0), NonPrivateDpEvent(), (0.0,) * len(ORDERS))
    with pytest.raises(BudgetError, match="0 or more"):
        account.commit((1, -2, 0), NOISE, curve(2.0))
    account.commit((1, 2, 0), NOISE, curve(2.0))
    with pytest.raises(BudgetError, match="all 2 releases that were reserved have been made"):
        account.commit((1, 3, 0), NOISE, curve(2.0))


def test_without_divergences_only_the_events_of_the_plan_pass(registered: Callable[..., Ledger]) -> None:
    plan = Reservation(epsilon=2.0, delta=0.0, releases=2, events=(LaplaceDpEvent(1.0),))
    account = registered().reserve("r1", "ward-a", plan)
    account.commit((1, 1, 0), LaplaceDpEvent(1.0))
    with pytest.raises(BudgetError, match=r"'LaplaceDpEvent', 0.5\] is none that was reserved"):
        account.commit((1, 2, 0), LaplaceDpEvent(0.5))


def test_an_event_that_no_file_can_hold_is_refused(registered: Callable[..., Ledger]) -> None:
    account = registered().reserve("r1", "ward-a", worst(3.0))
    with pytest.raises(BudgetError, match="every number of a privacy event is finite"):
        account.commit((1, 1, 0), GaussianDpEvent(math.inf), (0.0,) * len(ORDERS))


def test_who_has_reserved_nothing_releases_nothing(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    account = ledger.reserve("r1", "ward-a", worst(3.0))
    stranger = type(account)(ledger, "r2", "ward-a", None)
    with pytest.raises(BudgetError, match="'r2' has reserved nothing on data set 'ward-a'"):
        stranger.commit((1, 1, 0), NOISE)
    with pytest.raises(BudgetError, match="'r2' has reserved nothing on data set 'ward-a'"):
        stranger.keep((1, 1, 0), b"x")
    with pytest.raises(BudgetError, match="'r2' has reserved nothing"):
        ledger.finish("r2")
    with pytest.raises(BudgetError, match="run ''"):
        ledger.reserve("", "ward-a", worst(1.0))


def test_what_was_released_is_stored_once_and_after_its_event(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    account = ledger.reserve("r1", "ward-a", worst(3.0))
    with pytest.raises(BudgetError, match="round 1, retry 0 has not been charged: commit its event"):
        account.keep((1, 1, 0), b"early")
    account.commit((1, 1, 0), NOISE, curve(2.0))
    assert account.kept((1, 1, 0)) is None, "seen by nobody: noise may be drawn once more"
    for _ in range(2):
        account.keep((1, 1, 0), b"noised")
    assert account.kept((1, 1, 0)) == b"noised"
    with pytest.raises(BudgetError, match="used as it is stored, never made again"):
        account.keep((1, 1, 0), b"drawn anew")
    assert account.kept((1, 1, 0)) == b"noised"


def test_dropped_bytes_are_never_drawn_anew(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    ledger.register(budget("ward-b"))
    for name in ("ward-a", "ward-b"):
        spend(ledger, "r1", name)
    account = ledger.reserve("r1", "ward-a", worst(3.0))
    account.drop_kept((1, 3, 0))
    assert account.kept((1, 3, 0)) == b"r1/3"
    assert ledger.reserve("r1", "ward-b", worst(3.0)).kept((1, 1, 0)) == b"r1/1"
    for number in (1, 2):
        with pytest.raises(StoreError, match="was made and its bytes are gone, so it cannot be made again"):
            account.kept((1, number, 0))
    ledger.verify()


def test_under_basic_a_finished_run_gives_nothing_back(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    spend(ledger, "r1", "ward-a", rounds=1, epsilon=5.0)
    before = ledger.balance("ward-a")
    assert (before.spent, before.promised) == (Price(0.0, 0.0), Price(5.0, 1e-6))
    ledger.finish("r1")
    after = ledger.balance("ward-a")
    assert (after.spent, after.promised, after.open_runs) == (Price(5.0, 1e-6), Price(5.0, 1e-6), ())


def test_under_rdp_an_early_stop_gives_back_what_was_not_released(registered: Callable[..., Ledger]) -> None:
    limit = Price(4.5, 1e-5)
    ledger = registered(epsilon=4.5, composition="rdp")
    account = ledger.reserve("r1", "ward-a", worst(9.9, releases=3))
    assert ledger.balance("ward-a").promised == filtered(curve(2.0, 3), ORDERS, limit)
    with pytest.raises(BudgetError, match="Or wait until r1 has finished: what it does not use is free"):
        ledger.reserve("r2", "ward-a", worst(1.0, releases=3))
    account.commit((1, 1, 0), NOISE, curve(2.0))
    assert ledger.balance("ward-a").spent == filtered(curve(2.0), ORDERS, limit)
    ledger.finish("r1")
    assert ledger.balance("ward-a").promised == filtered(curve(2.0), ORDERS, limit)
    ledger.reserve("r2", "ward-a", worst(1.0, releases=2))
    assert ledger.balance("ward-a").promised == filtered(curve(2.0, 3), ORDERS, limit)


def test_a_finished_run_does_nothing_more(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    ledger.register(budget("ward-b"))
    account = ledger.reserve("r1", "ward-a", worst(3.0))
    account.commit((1, 1, 0), NOISE, curve(2.0))
    for _ in range(2):
        ledger.finish("r1")
    account.commit((1, 1, 0), NOISE, curve(2.0))  # counted already
    with pytest.raises(BudgetError, match="has finished and releases nothing more"):
        account.commit((1, 2, 0), NOISE, curve(2.0))
    with pytest.raises(BudgetError, match="has finished and releases nothing more"):
        account.keep((1, 1, 0), b"late")
    with pytest.raises(BudgetError, match="has finished and reserves nothing more"):
        ledger.reserve("r1", "ward-b", worst(1.0))


def test_ids_that_share_units_spend_together_whoever_said_so(ledger: Ledger) -> None:
    ledger.register(budget("ward-a", shares_units_with=("ward-b",)))
    ledger.register(budget("ward-b", epsilon=5.0))
    ledger.register(budget("ward-c", shares_units_with=("ward-b",)))
    ledger.register(budget("ward-d"))
    assert ledger.balance("ward-c").sharing == ("ward-a", "ward-b")
    ledger.reserve("r1", "ward-a", worst(3.0))
    assert [ledger.balance(f"ward-{x}").promised.epsilon for x in "abcd"] == [3.0, 3.0, 3.0, 0.0]
    with pytest.raises(
        BudgetError, match=r"budget of data set 'ward-b': .*asked \(through ward-c, which may hold the same people\)"
    ):
        ledger.reserve("r2", "ward-c", worst(3.0))
    with pytest.raises(BudgetError, match="together epsilon 6"):  # two ids of one group in one run add up
        ledger.reserve_all("r3", [Claim(data_set=f"ward-{x}", worst=worst(1.5)) for x in "ab"])
    ledger.reserve("r2", "ward-d", worst(8.0))


def test_ids_that_share_units_are_counted_alike(ledger: Ledger) -> None:
    ledger.register(budget("ward-a", shares_units_with=("ward-b",)))
    with pytest.raises(BudgetError, match=r"'ward-b' and 'ward-a' share units.*received unit client.*has unit record"):
        ledger.register(budget("ward-b", unit="client"))
    with pytest.raises(BudgetError, match="Register 'ward-c' with those"):
        ledger.register(budget("ward-c", adjacency="replace_one", shares_units_with=("ward-b",)))
    ledger.register(budget("ward-b", composition="rdp"))
    with pytest.raises(BudgetError, match="has no Renyi divergences, and 'ward-b' adds those"):
        ledger.reserve("r1", "ward-a", Reservation(epsilon=1.0, delta=0.0, releases=1, events=(NOISE,)))


def test_an_infinite_budget_writes_down_what_nothing_protects(registered: Callable[..., Ledger]) -> None:
    ledger = registered(epsilon=math.inf)
    account = ledger.reserve("r1", "ward-a", Reservation(epsilon=math.inf, delta=0.0, releases=1, rdp=(math.inf,) * 16))
    account.commit((1, 1, 0), NonPrivateDpEvent(), (math.inf,) * 16)
    ledger.finish("r1")
    with Ledger.open(ledger.path) as again:
        assert again.balance("ward-a").spent == Price(math.inf, 0.0)
        again.register(budget("ward-b"))
        with pytest.raises(BudgetError, match="together epsilon inf"):
            again.reserve("r2", "ward-b", Reservation(epsilon=math.inf, delta=0.0, releases=0))


def test_what_is_read_again_is_what_was_written(registered: Callable[..., Ledger]) -> None:
    ledger = registered(composition="rdp")
    spend(ledger, "r1", "ward-a", rounds=2)
    ledger.finish("r1")
    ledger.reserve("r2", "ward-a", worst(1.0, releases=1), fingerprint="rows")
    with Ledger.open(ledger.path) as again:
        assert again.holdings() == ledger.holdings()
        assert again.balance("ward-a") == ledger.balance("ward-a")
        assert again.head() == ledger.head() == again.verify()


def test_two_connections_see_what_each_other_writes(registered: Callable[..., Ledger]) -> None:
    first = registered()
    with Ledger.open(first.path) as second:
        one = first.reserve("r1", "ward-a", worst(5.0))
        with pytest.raises(BudgetError, match="with what open runs hold epsilon 5"):
            second.reserve("r2", "ward-a", worst(4.0))
        two = second.reserve("r2", "ward-a", worst(3.0))
        for number in (1, 2, 3):
            one.commit((1, number, 0), NOISE, curve(2.0))
            two.commit((1, number, 0), NOISE, curve(2.0))
        assert first.balance("ward-a").releases == second.balance("ward-a").releases == 6
        assert first.verify() == second.head()


def test_all_accounts_of_a_run_are_charged_as_one(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    ledger.register(budget("ward-b"))
    claims = [Claim(data_set=f"ward-{x}", worst=worst(3.0)) for x in "ab"]
    accounts = ledger.reserve_all("r1", claims)

    def price(event: DpEvent) -> tuple[float, ...]:
        assert event == NOISE
        return curve(2.0)

    both = PricedAccounts(accounts, price)
    for _ in range(2):
        both.commit((1, 1, 0), NOISE)
    assert [ledger.balance(f"ward-{x}").releases for x in "ab"] == [1, 1]
    assert both.kept((1, 1, 0)) is None
    accounts[1].keep((1, 1, 0), b"noised")  # killed between the two
    assert both.kept((1, 1, 0)) == accounts[0].kept((1, 1, 0)) == b"noised"
    with pytest.raises(BudgetError, match="never made again"):
        both.keep((1, 1, 0), b"drawn anew")


def test_a_second_ledger_in_its_place_is_never_made(ledger: Ledger) -> None:
    with pytest.raises(StoreError, match="is there already: open it"):
        Ledger.create(ledger.path)
    with Ledger.open_or_create(ledger.path) as same:
        assert same.head() == ledger.head()
    ledger.close()
    ledger.path.unlink()
    for make in (Ledger.create, Ledger.open_or_create):
        with pytest.raises(StoreError, match="A new one would forget what has been spent"):
            make(ledger.path)
    with pytest.raises(StoreError, match=r"no such file; ledger\.sqlite\.head beside it says there was one"):
        Ledger.open(ledger.path)


@pytest.mark.parametrize("orders", [(), (1.0, 2.0), (3.0, 2.0), (2.0, 2.0), (math.nan,)])
def test_orders_that_make_no_sense_are_refused(tmp_path: Path, orders: tuple[float, ...]) -> None:
    with pytest.raises(BudgetError, match="in rising order"):
        Ledger.create(tmp_path / "ledger.sqlite", orders=orders)
    assert not list(tmp_path.iterdir())


def test_every_kind_of_row_decodes_to_itself(registered: Callable[..., Ledger]) -> None:
    ledger = registered()
    spend(ledger, "r1", "ward-a")
    ledger.finish("r1")
    seen = set()
    for line in ledger.export():
        text = json.dumps(json.loads(line)["entry"]).encode()
        row, at, entry = decode_entry(text)
        assert decode_entry(encode_entry(row, entry, at=at)) == (row, at, entry)
        assert at == "2023-11-14T22:13:20+00:00"
        seen.add(type(entry).__name__)
    assert seen == {"Created", "Registered", "Reserved", "Committed", "Kept", "Finished"}
