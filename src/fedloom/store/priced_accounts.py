"""What an engine needs of a ledger: one place where the releases of a run are charged and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedloom.core.events import DpEvent
from fedloom.store.ledger import Account
from fedloom.store.ledger_entries import ReleaseKey


@dataclass(frozen=True, slots=True)
class PricedAccounts:
    """All accounts of a run as one, for an engine: each event is priced, and charged to every one of them."""

    accounts: tuple[Account, ...]
    price: Callable[[DpEvent], Sequence[float]]
    """Renyi divergences of an event at the ledger's orders; () where the reservations have none."""

    def commit(self, key: ReleaseKey, event: DpEvent) -> None:
        """Charge a release before it is made.

        Raises:
            BudgetError: When an account does not cover it.
        """
        rdp = self.price(event)
        for account in self.accounts:
            account.commit(key, event, rdp)

    def keep(self, key: ReleaseKey, released: bytes) -> None:
        """Store what was released, before anything reads it.

        Raises:
            BudgetError: When the release was not charged, or something else is stored under its key.
        """
        for account in self.accounts:
            account.keep(key, released)

    def drop_kept(self, before: ReleaseKey) -> None:
        """Remove what was released before a key, once the rounds that used it are durable."""
        for account in self.accounts:
            account.drop_kept(before)

    def kept(self, key: ReleaseKey) -> bytes | None:
        """Return what was released under a key, or None where nothing was.

        What one account has and another has not, because the process died in between, was released: it is stored in
        the others now.

        Raises:
            StoreError: When it was released and its bytes are not there any more.
        """
        found = next((data for account in self.accounts if (data := account.kept(key)) is not None), None)
        if found is not None:
            self.keep(key, found)
        return found
