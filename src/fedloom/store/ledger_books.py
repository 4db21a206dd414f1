"""What a ledger's entries say together: budgets, who holds how much, and what may still be done.

Pure: entries are applied in their order, and every question is answered from them. A refusal is an error that names
what there is, what was asked and what to do; it comes before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from fedloom.core.component import Json
from fedloom.errors import BudgetError
from fedloom.store.ledger_entries import (
    Accepted,
    Budget,
    Committed,
    Created,
    Entry,
    Finished,
    Kept,
    Registered,
    ReleaseKey,
    Reservation,
    Reserved,
    unprotected,
)
from fedloom.store.ledger_price import Price, added, added_curves, filtered, within

_SUM_SLACK = 1e-9
"""Relative excess of added divergences over those reserved that counts as rounding: 10,000 sums of doubles stay far
below."""


@dataclass(slots=True)
class Held:
    """What one run holds on one data set."""

    reserved: Reserved
    worst: Reservation
    events: dict[ReleaseKey, Json] = field(default_factory=dict)
    kept: dict[ReleaseKey, tuple[str, int]] = field(default_factory=dict)
    """Digest and size of what was released."""
    committed: tuple[float, ...] = ()
    """Sum of the divergences of its events."""
    finished: bool = False

    @property
    def curve(self) -> tuple[float, ...]:
        """Divergences that it counts for: of what it may still do, or of what it did."""
        return self.committed if self.finished and self.worst.rdp else self.worst.rdp


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worst case that a run asks for, on one data set."""

    data_set: str
    worst: Reservation
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """A budget and what has become of it.

    ``spent`` is what finished runs have spent and, under "rdp", what open ones have released; ``promised`` is that and
    all that open runs hold. Under "rdp" prices are no sum: whether a run fits is decided order by order.
    """

    budget: Budget
    sharing: tuple[str, ...]
    """Other ids whose events count."""
    spent: Price
    promised: Price
    runs: tuple[str, ...]
    open_runs: tuple[str, ...]
    releases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One run's part in one data set, for people."""

    run: str
    data_set: str
    reserved: Price
    releases: int
    """Made so far."""
    most: int
    """Reserved."""
    finished: bool
    fingerprint: str | None
    overspent: bool = False
    """Charged after the fact, although the budget did not reach."""


class Books:
    """The state of a ledger. Changed by ``apply`` only."""

    def __init__(self) -> None:
        self.orders: tuple[float, ...] = ()
        self.budgets: dict[str, Budget] = {}
        self.held: dict[tuple[str, str], Held] = {}
        self.finished: set[str] = set()
        self._links: dict[str, set[str]] = {}
        self._by_data_set: dict[str, list[Held]] = {}
        self._by_run: dict[str, list[Held]] = {}

    def apply(self, entry: Entry) -> None:
        """Take an entry in.

        Raises:
            ValueError: When it cannot follow those before it.
        """
        if isinstance(entry, Created) == bool(self.orders):
            raise ValueError("the first row, and no other, says which ledger it is")
        match entry:
            case Created():
                self.orders = entry.orders
            case Registered():
                self._register(entry.budget)
            case Reserved():
                self._reserve(entry)
            case Committed():
                held = self._find(entry.run, entry.data_set)
                if entry.key in held.events or held.finished:
                    raise ValueError(f"release {entry.key} of run {entry.run!r} cannot be charged here")
                held.events[entry.key] = entry.event
                if held.worst.rdp:
                    held.committed = added_curves((held.committed, entry.rdp), self.orders)
            case Kept():
                held = self._find(entry.run, entry.data_set)
                if entry.key not in held.events or entry.key in held.kept:
                    raise ValueError(f"release {entry.key} of run {entry.run!r} cannot be kept here")
                held.kept[entry.key] = entry.sha256, entry.size
            case Finished():
                self.finished.add(entry.run)
                for held in self._by_run.get(entry.run, ()):
                    held.finished = True
            case Accepted():
                pass
            case _:
                assert_never(entry)

    def group(self, data_set: str) -> tuple[str, ...]:
        """Return the ids that may hold the same people as this one, itself among them, registered or not."""
        found, ahead = {data_set}, [data_set]
        while ahead:
            for other in self._links.get(ahead.pop(), ()):
                if other not in found:
                    found.add(other)
                    ahead.append(other)
        return tuple(sorted(found))

    def held_by(self, run: str) -> tuple[Held, ...]:
        """Return what a run holds, by data set as it was reserved."""
        return tuple(self._by_run.get(run, ()))

    def holdings(self) -> tuple[Holding, ...]:
        """Return what every run holds, in the order of the reservations."""
        return tuple(
            Holding(
                run=run,
                data_set=data_set,
                reserved=each.worst.price,
                releases=len(each.events),
                most=each.worst.releases,
                finished=each.finished,
                fingerprint=each.reserved.fingerprint,
                overspent=each.reserved.overspent,
            )
            for (run, data_set), each in self.held.items()
        )

    def balance(self, data_set: str) -> Balance:
        """Return what a data set may spend and has spent.

        Raises:
            BudgetError: When it is not registered.
        """
        budget = self._budget(data_set)
        group = self.group(data_set)
        held = self._held(group)
        return Balance(
            budget=budget,
            sharing=tuple(name for name in group if name != data_set),
            spent=self._spent(budget, held),
            promised=self._promised(budget, held, ()),
            runs=_names(held),
            open_runs=_names(each for each in held if not each.finished),
            releases=sum(len(each.events) for each in held),
        )

    def check_registration(self, budget: Budget) -> bool:
        """Return whether a budget is new; False where it stands already as it is.

        Raises:
            BudgetError: When the data set has another one, or shares units with one that is counted otherwise.
        """
        name = budget.data_set
        there = self.budgets.get(name)
        if there is not None:
            if there == budget:
                return False
            raise BudgetError(
                f"data set {name!r} is registered as {_words(there)}; received {_words(budget)}. A registration is "
                "never changed: go on with the one that is there"
            )
        for other in sorted(self._linked_to(budget) & self.budgets.keys()):
            with_it = self.budgets[other]
            if (with_it.unit, with_it.adjacency) != (budget.unit, budget.adjacency):
                raise BudgetError(
                    f"data sets {name!r} and {other!r} share units, so they are counted alike: received unit "
                    f"{budget.unit}, adjacency {budget.adjacency}; {other!r} has unit {with_it.unit}, adjacency "
                    f"{with_it.adjacency}. Register {name!r} with those"
                )
        return True

    def check_reservations(self, run: str, claims: Sequence[Claim]) -> tuple[Claim, ...]:
        """Return the claims that are new, once all fit together; those that the run holds already are left out.

        Raises:
            BudgetError: When the run has finished, holds something else, or does not fit.
        """
        if len({claim.data_set for claim in claims}) < len(claims):
            raise BudgetError(f"run {run!r} asks for one data set twice: ask once, for the worst case of all it does")
        new = []
        for claim in claims:
            held = self.held.get((run, claim.data_set))
            if held is None:
                new.append(claim)
            elif held.worst != claim.worst:
                raise BudgetError(
                    f"run {run!r} holds {_reserved(held.worst)} on data set {claim.data_set!r}; received "
                    f"{_reserved(claim.worst)}. A reservation is never changed: what goes beyond it is a run of its own"
                )
        if new and run in self.finished:
            raise BudgetError(f"run {run!r} has finished and reserves nothing more: what goes on is a run of its own")
        for claim in new:
            self._check_claim(claim)
        for name in sorted({name for claim in new for name in self.group(claim.data_set) if name in self.budgets}):
            self._check_fits(run, self.budgets[name], new)
        return tuple(new)

    def check_commit(self, run: str, data_set: str, key: ReleaseKey, event: Json, rdp: tuple[float, ...]) -> bool:
        """Return whether a release is new; False where it was charged already.

        Raises:
            BudgetError: When the key has another event, or the release is more than the run reserved.
        """
        held = self.find(run, data_set)
        place = f"run {run!r}, data set {data_set!r}, release {_key(key)}"
        if key in held.events:
            if held.events[key] == event:
                return False
            raise BudgetError(f"{place} is charged as {held.events[key]}; received {event}. One release has one event")
        if held.finished:
            raise BudgetError(f"{place}: the run has finished and releases nothing more")
        self._check_overspent(data_set, place)
        if len(held.events) >= held.worst.releases:
            raise BudgetError(f"{place}: all {held.worst.releases} releases that were reserved have been made")
        if held.reserved.events and event not in held.reserved.events:
            raise BudgetError(f"{place}: the event {event} is none that was reserved: {list(held.reserved.events)}")
        if unprotected(event) and math.isfinite(held.worst.epsilon):
            raise BudgetError(f"{place} has no protection, and {held.worst.price} was reserved. Nothing is released")
        if held.worst.rdp:
            if len(rdp) != len(self.orders):
                raise BudgetError(f"{place}: received {len(rdp)} Renyi divergences, expected {len(self.orders)}")
            total = added_curves((held.committed, rdp), self.orders)
            for order, all_of_it, most in zip(self.orders, total, held.worst.rdp, strict=True):
                if all_of_it > most * (1 + _SUM_SLACK):
                    raise BudgetError(
                        f"{place}: with it the run's Renyi divergence at order {order:g} would be {all_of_it:.6g}; "
                        f"{most:.6g} was reserved. The noise is weaker than the plan says"
                    )
        return True

    def find(self, run: str, data_set: str) -> Held:
        """Return what a run holds on a data set.

        Raises:
            BudgetError: When it has reserved nothing there.
        """
        held = self.held.get((run, data_set))
        if held is None:
            raise BudgetError(
                f"run {run!r} has reserved nothing on data set {data_set!r}: reserve the worst case before the run"
            )
        return held

    def _check_claim(self, claim: Claim) -> None:
        budget = self._budget(claim.data_set)
        rdp = claim.worst.rdp
        if rdp and len(rdp) != len(self.orders):
            raise BudgetError(
                f"a reservation on data set {claim.data_set!r} has {len(rdp)} Renyi divergences; this ledger has "
                f"{len(self.orders)} orders: {', '.join(f'{order:g}' for order in self.orders)}"
            )
        if claim.worst.releases and not rdp:
            for name in self.group(claim.data_set):
                other = self.budgets.get(name)
                if other is not None and other.composition == "rdp":
                    raise BudgetError(
                        f"a reservation on data set {budget.data_set!r} has no Renyi divergences, and {name!r} adds "
                        "those (composition rdp). Use a mechanism that has them, or a data set of composition basic"
                    )

    def _check_fits(self, run: str, budget: Budget, claims: Sequence[Claim]) -> None:
        """Check that claims fit a budget together with all that counts for it."""
        group = self.group(budget.data_set)
        mine = [claim for claim in claims if claim.data_set in group]
        held = self._held(group)
        total = self._promised(budget, held, mine)
        if within(total, budget.price):
            return
        spent, promised = self._spent(budget, held), self._promised(budget, held, ())
        open_runs = _names(each for each in held if not each.finished)
        shared = [claim.data_set for claim in mine if claim.data_set != budget.data_set]
        through = f" (through {', '.join(shared)}, which may hold the same people)" if shared else ""
        waiting = ""
        if open_runs and budget.composition == "rdp":
            waiting = f" Or wait until {_listed(open_runs)} has finished: what it does not use is free again."
        raise BudgetError(
            f"run {run!r} does not fit the budget of data set {budget.data_set!r}: budget {budget.price} "
            f"({budget.composition}); spent {spent}; with what open runs hold {promised}; asked{through} "
            f"{self._promised(budget, (), mine)}; together {total}. Nothing was computed. Ask for less, by fewer "
            f"rounds or more noise.{waiting}"
        )

    def _check_overspent(self, data_set: str, place: str) -> None:
        """Refuse a release while what was charged after the fact is more than a budget has."""
        held = self._held(self.group(data_set))
        if not any(each.reserved.overspent for each in held):
            return
        for name in self.group(data_set):
            budget = self.budgets.get(name)
            if budget is not None and not within(total := self._promised(budget, held, ()), budget.price):
                raise BudgetError(
                    f"{place}: the budget of data set {name!r} is overspent, {total} of {budget.price}, as another "
                    "party's record has shown. Nothing more is released of it"
                )

    def _promised(self, budget: Budget, held: Sequence[Held], claims: Sequence[Claim]) -> Price:
        if budget.composition == "basic":
            return added([*(each.worst.price for each in held), *(claim.worst.price for claim in claims)])
        curves = [*(each.curve for each in held), *(claim.worst.rdp for claim in claims)]
        return self._filtered(curves, budget)

    def _spent(self, budget: Budget, held: Sequence[Held]) -> Price:
        if budget.composition == "basic":
            return added(each.worst.price for each in held if each.finished)
        return self._filtered([each.committed if each.worst.rdp else each.curve for each in held], budget)

    def _filtered(self, curves: Sequence[Sequence[float]], budget: Budget) -> Price:
        total = added_curves((curve for curve in curves if curve), self.orders)
        return filtered(total, self.orders, budget.price)

    def _register(self, budget: Budget) -> None:
        if budget.data_set in self.budgets:
            raise ValueError(f"data set {budget.data_set!r} has a budget already")
        self.budgets[budget.data_set] = budget
        for other in budget.shares_units_with:
            self._links.setdefault(budget.data_set, set()).add(other)
            self._links.setdefault(other, set()).add(budget.data_set)

    def _reserve(self, entry: Reserved) -> None:
        place = entry.run, entry.data_set
        if entry.data_set not in self.budgets or place in self.held or entry.run in self.finished:
            raise ValueError(f"run {entry.run!r} cannot reserve data set {entry.data_set!r} here")
        held = Held(entry, entry.worst, committed=(0.0,) * len(self.orders) if entry.rdp else ())
        self.held[place] = held
        self._by_data_set.setdefault(entry.data_set, []).append(held)
        self._by_run.setdefault(entry.run, []).append(held)

    def _find(self, run: str, data_set: str) -> Held:
        held = self.held.get((run, data_set))
        if held is None:
            raise ValueError(f"run {run!r} holds nothing on data set {data_set!r}")
        return held

    def _held(self, group: Iterable[str]) -> list[Held]:
        return [each for name in group for each in self._by_data_set.get(name, ())]

    def _linked_to(self, budget: Budget) -> set[str]:
        """Return the ids that a new budget would share units with."""
        return {name for start in (budget.data_set, *budget.shares_units_with) for name in self.group(start)}

    def _budget(self, data_set: str) -> Budget:
        budget = self.budgets.get(data_set)
        if budget is None:
            known = f"; registered are {', '.join(sorted(self.budgets))}" if self.budgets else ""
            raise BudgetError(
                f"data set {data_set!r} has no budget{known}. Give it one: fedloom ledger budget {data_set} --epsilon "
                "... --delta ... --unit ... --adjacency ... --composition ..."
            )
        return budget


def _names(held: Iterable[Held]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.reserved.run for each in held))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def _key(key: ReleaseKey) -> str:
    return "phase {}, round {}, retry {}".format(*key)


def _words(budget: Budget) -> str:
    shared = ", ".join(budget.shares_units_with) or "nobody"
    return (
        f"{budget.price}, unit {budget.unit}, adjacency {budget.adjacency}, composition {budget.composition}, sharing "
        f"units with {shared}"
    )


def _reserved(worst: Reservation) -> str:
    return f"{worst.price} for {worst.releases} releases"
