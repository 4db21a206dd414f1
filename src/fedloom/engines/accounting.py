"""The account of one run in the privacy ledger that lies beside the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

from fedloom.core.events import DpEvent, SelfComposedDpEvent
from fedloom.errors import BudgetError, PlanError
from fedloom.experiment.privacy import PrivacyPrice
from fedloom.privacy.accountants import rdp_curve
from fedloom.privacy.guarantee import Adjacency
from fedloom.privacy.target import PrivacyTarget
from fedloom.store import RunFolder
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Reservation
from fedloom.store.priced_accounts import PricedAccounts

LEDGER = "ledger.sqlite"
"""In the folder of all runs."""


def check_ledger(price: PrivacyPrice | None, runs: Path | None, *, new: bool) -> None:
    """Refuse a run whose releases nobody would count, or that does not fit, before anything is written.

    Args:
        price: Of the run.
        runs: The folder of all runs.
        new: Whether nothing has been reserved for it yet.

    Raises:
        PlanError: When the data have a name in the ledger, and there is no ledger, or no folder that could have one.
        BudgetError: When the data set has no budget there, one that counts otherwise, or too little left.
    """
    target = None if price is None else price.protection.target
    if price is None or target is None or target.data_set is None:
        return
    if runs is None:
        raise PlanError(
            f"privacy.data_set = {target.data_set!r}: the ledger lies in the folder of the runs, and this run writes "
            "nothing: give it an output folder"
        )
    path = runs / LEDGER
    if not path.exists():
        raise PlanError(
            f"privacy.data_set = {target.data_set!r}: there is no ledger {path}. Give the data their budget once: "
            f"{_command(target, path)}"
        )
    with Ledger.read(path) as ledger:
        found = [budget for budget in ledger.budgets() if budget.data_set == target.data_set]
        if not found:
            raise BudgetError(
                f"{path} knows no data set {target.data_set!r}. Give it its budget once: {_command(target, path)}"
            )
        if (found[0].unit, found[0].adjacency) != (target.unit, target.neighbours):
            raise BudgetError(
                f"data set {target.data_set!r} is counted by {found[0].unit} and {found[0].adjacency} in {path}; this "
                f"run promises {target.unit} and {target.neighbours}: the two do not add up"
            )
        if new:
            ledger.check("not yet begun", target.data_set, _worst(price, ledger))


@contextmanager
def account_of(
    price: PrivacyPrice | None, folder: RunFolder | None, *, fingerprint: str | None
) -> Iterator[PricedAccounts | None]:
    """Reserve the worst case of a run, and yield its account; None where no ledger counts it.

    When the block ends well, the run has made its last release.

    Raises:
        BudgetError: When the run does not fit: nothing is reserved then.
    """
    target = None if price is None else price.protection.target
    if price is None or target is None or target.data_set is None or folder is None:
        yield None
        return
    with Ledger.open(folder.path.parent / LEDGER) as ledger:
        curve = lru_cache(maxsize=8)(partial(_curve, adjacency=target.neighbours, orders=ledger.orders))
        worst = _worst(price, ledger)
        account = ledger.reserve(folder.run_id, target.data_set, worst, fingerprint=fingerprint)
        yield PricedAccounts(accounts=(account,), price=curve)
        ledger.finish(folder.run_id)


def _curve(event: DpEvent, *, adjacency: Adjacency, orders: Sequence[float]) -> tuple[float, ...]:
    """Return the Renyi divergences of an event, () where none is known: it is then counted by its epsilon and delta."""
    try:
        return rdp_curve(event, adjacency=adjacency, orders=orders)
    except PlanError:
        return ()


def _worst(price: PrivacyPrice, ledger: Ledger) -> Reservation:
    """Return all that a run may release, against the reader to whom its promise is made."""
    target, event = price.protection.target, price.protection.counted
    figure = price.figures.models if target.reader == "models" else price.figures.participation
    whole = SelfComposedDpEvent(event, price.rounds)
    return Reservation(
        epsilon=figure.epsilon,
        delta=target.delta,
        releases=price.rounds,
        rdp=_curve(whole, adjacency=target.neighbours, orders=ledger.orders),
        events=(event,),
    )


def _command(target: PrivacyTarget, path: Path) -> str:
    return (
        f"fedloom ledger budget {target.data_set} --epsilon E --delta D --unit {target.unit} "
        f"--adjacency {target.neighbours} --composition basic --ledger {path}"
    )
