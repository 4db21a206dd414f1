"""SiteLedger: a site's own count of what runs have released of its rows: set aside before, charged each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from fedloom.core.component import Json
from fedloom.core.events import DpEvent
from fedloom.core.ids import RunId
from fedloom.errors import BudgetError
from fedloom.experiment.examination import Releases
from fedloom.experiment.site_check import Account, Promise
from fedloom.experiment.site_policy import SitePolicy, charged_with
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_adoption import Adoption, without_bound
from fedloom.store.ledger_books import Balance
from fedloom.store.ledger_entries import Budget, ReleaseKey, Reservation, event_tree
from fedloom.store.ledger_price import ORDERS, within

_KINDS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(DpEvent)}


class SiteLedger:
    """The privacy ledger of one site. Where the policy sets no ``epsilon_total``, nothing is counted.

    Args:
        path: Of the ledger.
        policy: Of the site.
        now: Seconds since 1970.
    """

    def __init__(self, path: Path, policy: SitePolicy, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._policy = policy
        self._now = now

    @property
    def counts(self) -> bool:
        """Whether there is a budget."""
        return self._policy.privacy.epsilon_total is not None

    @property
    def orders(self) -> tuple[float, ...]:
        """At which Renyi divergences are asked for; () where none are counted."""
        rdp = any(each.composition == "rdp" for each in self._policy.data.values())
        return tuple(ORDERS) if self.counts and rdp else ()

    def check(self) -> None:
        """Make the ledger where there is none, and refuse a policy that is not the one by which it counts.

        Raises:
            BudgetError: When a data set has another budget there: it stays as it was given once.
            StoreError: When the ledger cannot be read, or is older than it was.
        """
        if self.counts:
            self._opened().close()

    def accounts(
        self, run: RunId, data: str, *, promise: Promise | None, releases: Releases | None
    ) -> tuple[Account, ...]:
        """Return what the ledger would show of the rows, and of all that share people with them, after a run."""
        if not self.counts or promise is None or releases is None:
            return ()
        with self._opened() as ledger:
            worst, found = self._worst(promise, releases, data), []
            try:
                ledger.check(run, data, worst)
            except BudgetError:
                return (Account(epsilon=float("inf"), delta=promise.delta),)
            for each in charged_with(self._policy, data):
                balance = ledger.balance(each)
                held = balance.promised
                if run not in balance.runs:  # it fits, so that rounding is all that could be too much
                    held = type(held)(held.epsilon + worst.epsilon, held.delta + worst.delta)
                limit = balance.budget.price
                shown = held if within(held, limit) else limit
                found.append(Account(epsilon=shown.epsilon, delta=shown.delta))
            return tuple(found)

    def reserve(self, run: RunId, data: str, *, promise: Promise | None, releases: Releases | None) -> None:
        """Set the worst case of a run aside; the same again does nothing.

        Raises:
            BudgetError: When it does not fit.
        """
        if not self.counts:
            return
        if promise is None or releases is None:
            raise BudgetError(f"run {run} promises nothing, and data.{data!r} has a budget: it costs without bound")
        with self._opened() as ledger:
            ledger.reserve(run, data, self._worst(promise, releases, data))

    def charge(self, run: RunId, data: str, key: tuple[int, int, int], *, releases: Releases | None) -> None:
        """Charge one release before it is made; the same again does nothing.

        Raises:
            BudgetError: When all that was set aside has been used.
        """
        if not self.counts:
            return
        if releases is None:
            raise BudgetError(f"run {run} promises nothing, and data.{data!r} has a budget: nothing is released")
        with self._opened() as ledger:
            rdp = releases.one if self._policy.data[data].composition == "rdp" else ()
            ledger.account(run, data).commit(key, event_of(releases.event), rdp)

    def finish(self, run: RunId) -> None:
        """End a run's releases; one that has set nothing aside is left as it is, and so is one that has ended."""
        if self._path.exists():
            with Ledger.open(self._path, now=self._now) as ledger:
                if any(each.run == run for each in ledger.holdings()):
                    ledger.finish(run)

    def remembered(
        self,
        run: RunId,
        data: str,
        keys: Sequence[ReleaseKey],
        *,
        promise: Promise | None,
        releases: Releases | None,
    ) -> Adoption:
        """Return what is to be charged for releases that another party remembers; without a price, without bound."""
        rdp = self._policy.data[data].composition == "rdp"
        if promise is None or releases is None or (rdp and not releases.whole):
            return without_bound(run, data, keys, orders=ORDERS if rdp else ())
        return Adoption(
            run=run,
            data_set=data,
            worst=self._worst(promise, releases, data),
            keys=tuple(keys),
            event=event_tree(event_of(releases.event)),
            rdp=releases.one if rdp else (),
        )

    def missing(self, asked: Adoption) -> tuple[ReleaseKey, ...]:
        """Return which of them are not charged here."""
        with self._opened() as ledger:
            return ledger.missing(asked)

    def adopt(self, asked: Adoption) -> None:
        """Charge those that are not charged here, whether they fit or not."""
        with self._opened() as ledger:
            ledger.adopt(asked)

    def balances(self) -> tuple[Balance, ...]:
        """Return what the ledger shows of each set of rows; () where nothing is counted."""
        if not self.counts:
            return ()
        with self._opened() as ledger:
            return tuple(ledger.balance(each) for each in self._policy.data)

    def _opened(self) -> Ledger:
        """Open the ledger, every data set of the policy registered."""
        ledger = Ledger.open_or_create(self._path, now=self._now)
        try:
            for name in self._policy.data:
                ledger.register(self._budget(name))
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _budget(self, name: str) -> Budget:
        rows, limits = self._policy.data[name], self._policy.privacy
        assert limits.epsilon_total is not None, "a policy without a budget has no ledger"
        return Budget(
            data_set=name,
            unit=rows.unit,
            adjacency=rows.neighbours,
            epsilon=limits.epsilon_total,
            delta=limits.delta or 0.0,
            composition=rows.composition,
            shares_units_with=tuple(rows.shares_units_with),
        )

    def _worst(self, promise: Promise, releases: Releases, data: str) -> Reservation:
        rdp = releases.whole if self._policy.data[data].composition == "rdp" else ()
        return Reservation(
            epsilon=promise.epsilon,
            delta=promise.delta,
            releases=releases.most,
            rdp=rdp,
            events=(event_of(releases.event),),
        )


def event_of(tree: Json) -> DpEvent:
    """Return the event that ``examination.event_tree`` wrote.

    Raises:
        BudgetError: When it is none that this build knows: it would not be priced as it should be.

    Example:
        >>> event_of({"name": "GaussianDpEvent", "noise_multiplier": 2.0})
        GaussianDpEvent(noise_multiplier=2.0)
    """
    if not isinstance(tree, dict) or tree.get("name") not in _KINDS:
        raise BudgetError(f"{tree!r} is no privacy event that this build knows")
    values = {key: _value(value) for key, value in tree.items() if key != "name"}
    found: DpEvent = _KINDS[tree["name"]](**values)
    return found


def _value(value: Json) -> Any:
    if isinstance(value, list):
        return tuple(_value(each) for each in value)
    return event_of(value) if isinstance(value, dict) else value
