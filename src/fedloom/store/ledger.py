"""Ledger: what all runs together have released of each data set, and what they still may.

A data set has a budget. A run reserves its worst case before anything is computed; each release is charged before it is
made, and what was released is stored before anybody reads it. A process that dies in between leaves a ledger that
counts too much, never too little.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fedloom.core.events import DpEvent
from fedloom.errors import BudgetError, StoreError
from fedloom.store.faults import explained
from fedloom.store.ledger_adoption import Adoption, adopted, missing
from fedloom.store.ledger_books import Balance, Books, Claim, Holding
from fedloom.store.ledger_chain import Chain, broken, create_chain
from fedloom.store.ledger_entries import (
    Accepted,
    Budget,
    Committed,
    Entry,
    Finished,
    Kept,
    Registered,
    ReleaseKey,
    Reservation,
    Reserved,
    check_curve,
    check_name,
    event_tree,
)
from fedloom.store.ledger_head import Head, head_path, read_head
from fedloom.store.ledger_price import ORDERS


class Ledger:
    """An open privacy ledger; a context manager. One thread at a time; other processes may have it open too.

    Make one by ``create``, ``open``, ``open_or_create`` or ``read``. Opening reads and checks every row.

    Guarantee:
        For a data set of composition "basic", the (epsilon, delta) that runs have reserved add up to at most its
        budget; under "rdp", the divergences of all committed events pass the filter of ``ledger_price.filtered``. Unit
        and adjacency are those of the registration. Both hold for the units of every id that shares them, where the
        prices that runs state are right and every release goes through the ledger.

    Example:
        >>> import tempfile
        >>> from fedloom.core.events import GaussianDpEvent
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Ledger.create(Path(folder.name) / "ledger.sqlite") as ledger:
        ...     ledger.register(
        ...         Budget(
        ...             data_set="ward-a",
        ...             unit="record",
        ...             adjacency="add_remove",
        ...             epsilon=8.0,
        ...             delta=1e-5,
        ...             composition="basic",
        ...         )
        ...     )
        ...     noise = GaussianDpEvent(1.0)
        ...     worst = Reservation(epsilon=4.9, delta=1e-5, releases=1, events=(noise,))
        ...     account = ledger.reserve("run-1", "ward-a", worst)
        ...     account.commit((1, 1, 0), noise)
        ...     account.keep((1, 1, 0), b"the noised sum")
        ...     ledger.finish("run-1")
        ...     ledger.balance("ward-a").spent
        Price(epsilon=4.9, delta=1e-05)
        >>> folder.cleanup()
    """

    def __init__(self, chain: Chain, *, now: Callable[[], float]) -> None:
        self._chain = chain
        self._now = now
        self._books = Books()

    @classmethod
    def create(cls, path: Path, *, orders: Sequence[float] = ORDERS, now: Callable[[], float] = time.time) -> Ledger:
        """Make a ledger and open it.

        Args:
            path: The file; its folder is made if it is not there.
            orders: Renyi orders of every price in it, for ever.
            now: The clock, in seconds since 1970.

        Raises:
            StoreError: When there is one already, or it cannot be made.
        """
        if path.exists():
            raise StoreError(f"{path} is there already: open it, or name another file")
        return cls.open_or_create(path, orders=orders, now=now)

    @classmethod
    def open_or_create(
        cls, path: Path, *, orders: Sequence[float] = ORDERS, now: Callable[[], float] = time.time
    ) -> Ledger:
        """Open the ledger of a store, or make it where there has never been one.

        Raises:
            StoreError: As ``create`` and ``open``, and when the file is gone though its head is still there.
        """
        if not orders or not all(order > 1 for order in orders) or sorted(set(orders)) != list(orders):
            raise BudgetError(f"orders {tuple(orders)!r}: expected different numbers above 1 in rising order")
        if not path.exists():
            create_chain(path, orders=orders, seconds=now())
        return cls.open(path, now=now)

    @classmethod
    def open(cls, path: Path, *, remembered: Sequence[Head] = (), now: Callable[[], float] = time.time) -> Ledger:
        """Open a ledger to go on with it.

        Args:
            path: The file.
            remembered: Heads noted elsewhere, in a run folder for instance.
            now: The clock, in seconds since 1970.

        Raises:
            StoreError: When it is absent, may not be written, or does not verify; the first row is named.
        """
        ledger = cls(Chain.open(path), now=now)
        try:
            ledger._load(remembered)
            ledger._chain.remember()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def read(cls, path: Path, *, remembered: Sequence[Head] = ()) -> Ledger:
        """Open a ledger to look at it, also where it may not be written.

        Raises:
            StoreError: When it is absent or does not verify; the first row is named.
        """
        ledger = cls(Chain.read(path), now=time.time)
        try:
            ledger._load(remembered)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def accept(cls, path: Path, *, now: Callable[[], float] = time.time) -> Ledger:
        """Open a ledger whose head file is missing, or counts rows that are gone, and write down that one did so.

        What the missing rows had spent is not counted any more: for a person to decide. The chain itself must hold.

        Raises:
            StoreError: As ``open``, but for the head file.
        """
        ledger = cls(Chain.open(path), now=now)
        try:
            beside = _head_in_doubt(path)
            with explained(head_path(path)):
                head_path(path).unlink(missing_ok=True)  # if this dies now, there is none: refused as before
            with ledger._writing():
                ledger._append(Accepted(rows=beside.rows if beside else None, sha256=beside.sha256 if beside else None))
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def path(self) -> Path:
        """The file."""
        return self._chain.path

    @property
    def orders(self) -> tuple[float, ...]:
        """Renyi orders of every price in it."""
        return self._books.orders

    def head(self) -> Head:
        """Return number and digest of the last row: to be noted elsewhere, so that a lost row is noticed."""
        self._catch_up_now()
        return self._chain.head

    def budgets(self) -> tuple[Budget, ...]:
        """Return the registered budgets by data set."""
        self._catch_up_now()
        return tuple(budget for _, budget in sorted(self._books.budgets.items()))

    def balance(self, data_set: str) -> Balance:
        """Return what a data set may spend and has spent.

        Raises:
            BudgetError: When it is not registered.
        """
        self._catch_up_now()
        return self._books.balance(data_set)

    def holdings(self) -> tuple[Holding, ...]:
        """Return what every run holds, in the order of the reservations."""
        self._catch_up_now()
        return self._books.holdings()

    def register(self, budget: Budget) -> None:
        """Give a data set its budget; the same again does nothing.

        Raises:
            BudgetError: When it has another one, or shares units with a data set that is counted otherwise.
        """
        with self._writing():
            if self._books.check_registration(budget):
                self._append(Registered(budget=budget))

    def reserve(self, run: str, data_set: str, worst: Reservation, *, fingerprint: str | None = None) -> Account:
        """Set a run's worst case on a data set aside, before anything is computed; the same again does nothing.

        Args:
            run: Id of the run.
            data_set: A registered id.
            worst: What the run may release at most.
            fingerprint: Of the rows as they are now; written down with each event, never a key.

        Raises:
            BudgetError: When it does not fit; nothing is set aside then.
        """
        return self.reserve_all(run, [Claim(data_set=data_set, worst=worst, fingerprint=fingerprint)])[0]

    def reserve_all(self, run: str, claims: Sequence[Claim]) -> tuple[Account, ...]:
        """Set a run's worst cases on several data sets aside, all or none.

        Raises:
            BudgetError: When one does not fit; nothing is set aside then.
        """
        check_name(run, what="run")
        with self._writing():
            for claim in self._books.check_reservations(run, claims):
                worst = claim.worst
                self._append(
                    Reserved(
                        run=run,
                        data_set=claim.data_set,
                        epsilon=worst.epsilon,
                        delta=worst.delta,
                        releases=worst.releases,
                        rdp=worst.rdp,
                        events=tuple(map(event_tree, worst.events)),
                        fingerprint=claim.fingerprint,
                    )
                )
        return tuple(Account(self, run, claim.data_set, claim.fingerprint) for claim in claims)

    def check(self, run: str, data_set: str, worst: Reservation) -> None:
        """Refuse what ``reserve`` would refuse now, and set nothing aside.

        Raises:
            BudgetError: When it does not fit.
        """
        check_name(run, what="run")
        with self._chain.reading():
            self._catch_up()
            self._books.check_reservations(run, [Claim(data_set=data_set, worst=worst, fingerprint=None)])

    def account(self, run: str, data_set: str) -> Account:
        """Return the account of a run that has reserved, with the fingerprint that it gave.

        Raises:
            BudgetError: When it has reserved nothing there.
        """
        self._catch_up_now()
        held = self._books.find(run, data_set)
        return Account(self, run, data_set, held.reserved.fingerprint)

    def missing(self, asked: Adoption) -> tuple[ReleaseKey, ...]:
        """Return which of the releases that another party remembers are not charged here."""
        self._catch_up_now()
        return missing(self._books, asked)

    def adopt(self, asked: Adoption) -> None:
        """Charge what another party remembers and this ledger does not: it was put back from a backup.

        A release that is charged already is not charged twice. What the budget does not cover is written down all the
        same; then nothing more is released of the data set.

        Raises:
            BudgetError: When the data set has no budget.
        """
        check_name(asked.run, what="run")
        while True:
            with self._writing():
                rows = adopted(self._books, asked)
                for entry in rows:
                    self._append(entry)
            if not rows:
                return

    def finish(self, run: str) -> None:
        """End a run's releases; the same again does nothing. To be called when its last state is durable.

        Under "rdp" what it reserved and did not use is free again; under "basic" nothing is. Stored aggregates go.

        Raises:
            BudgetError: When the run has reserved nothing.
        """
        with self._writing():
            if not self._books.held_by(run):
                raise BudgetError(f"run {run!r} has reserved nothing in {self.path}")
            if run not in self._books.finished:
                self._append(Finished(run=run))
                self._chain.drop_kept(run)

    def verify(self, *, remembered: Sequence[Head] = ()) -> Head:
        """Read the whole file again: structure, chain, meaning of each row, stored aggregates, heads.

        Returns:
            The head, to be noted elsewhere.

        Raises:
            StoreError: When anything is not what was written; the first row is named.
        """
        with Ledger.read(self.path, remembered=remembered) as fresh:
            fresh._check_kept()
            return fresh._chain.head

    def export(self) -> Iterator[bytes]:
        """Yield every row as a line of JSON: ``{"sha256":"...","entry":[row,time,kind,fields]}``.

        SHA-256 of the last line's digest (as bytes; zeros for the first) and the bytes of ``entry`` is a line's digest.
        """
        with self._chain.reading():
            for data, sha256 in self._chain.lines():
                yield b'{"sha256":"%s","entry":%s}\n' % (sha256.hex().encode(), data)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _commit(self, place: Account, key: ReleaseKey, event: DpEvent, rdp: tuple[float, ...]) -> None:
        _check_key(key)
        check_curve(rdp)
        tree = event_tree(event)
        with self._writing():
            if self._books.check_commit(place.run, place.data_set, key, tree, rdp):
                self._append(
                    Committed(
                        run=place.run,
                        data_set=place.data_set,
                        key=key,
                        event=tree,
                        rdp=rdp,
                        fingerprint=place.fingerprint,
                    )
                )

    def _keep(self, place: Account, key: ReleaseKey, released: bytes) -> None:
        sha256 = hashlib.sha256(released).hexdigest()
        with self._writing():
            held = self._books.find(place.run, place.data_set)
            if key not in held.events:
                raise BudgetError(f"{place.named(key)} has not been charged: commit its event before it is made")
            if key in held.kept:
                if held.kept[key][0] != sha256:
                    raise BudgetError(f"{place.named(key)} has been made: it is used as it is stored, never made again")
                return
            if held.finished:
                raise BudgetError(f"{place.named(key)}: the run has finished and releases nothing more")
            self._chain.put_kept(place.run, place.data_set, key, released)
            self._append(Kept(run=place.run, data_set=place.data_set, key=key, sha256=sha256, size=len(released)))

    def _kept(self, place: Account, key: ReleaseKey) -> bytes | None:
        with self._chain.reading():
            self._catch_up()
            entry = self._books.find(place.run, place.data_set).kept.get(key)
            data = None if entry is None else self._chain.kept(place.run, place.data_set, key)
        if entry is None:
            return None
        if data is None:
            raise StoreError(
                f"{self.path}: {place.named(key)} was made and its bytes are gone, so it cannot be made again. Start a "
                "run of its own"
            )
        if hashlib.sha256(data).hexdigest() != entry[0]:
            raise StoreError(f"{self.path}: what is stored of {place.named(key)} differs from its digest")
        return data

    def _drop_kept(self, place: Account, before: ReleaseKey) -> None:
        with self._writing():
            self._chain.drop_kept_before(place.run, place.data_set, before)

    def _append(self, entry: Entry) -> None:
        self._chain.append(entry, seconds=self._now())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._chain.writing():
            self._catch_up()
            yield

    def _load(self, remembered: Sequence[Head]) -> None:
        """Read every row, and compare with the heads that were noted: the one beside the ledger, and others."""
        beside = read_head(self.path)  # first: what it counts was committed before it was written
        with self._chain.reading():
            self._catch_up()
            self._chain.check_beside(beside)
            for head in remembered:
                self._chain.check_head(head, where="a head noted elsewhere")

    def _catch_up_now(self) -> None:
        with self._chain.reading():
            self._catch_up()

    def _catch_up(self) -> None:
        """Take in what has been written since. Inside a block of the chain only."""
        for row, _, entry in self._chain.news():
            try:
                self._books.apply(entry)
            except (ValueError, BudgetError) as error:
                raise broken(self.path, row, f"cannot stand there: {error}") from error

    def _check_kept(self) -> None:
        with self._chain.reading():
            for run, data_set, key in self._chain.kept_keys():
                held = self._books.held.get((run, data_set))
                data = self._chain.kept(run, data_set, key)
                entry = None if held is None else held.kept.get(key)
                if data is None or entry is None or hashlib.sha256(data).hexdigest() != entry[0]:
                    place = Account(self, run, data_set, None).named(key)
                    raise StoreError(f"{self.path} does not verify: what is stored of {place} differs from its digest")


@dataclass(frozen=True, slots=True)
class Account:
    """One run's part in one data set: where its releases are charged and stored.

    The order is: ``kept`` (if it is there, use it) -> ``commit`` -> draw noise -> ``keep`` -> use. An event without a
    stored aggregate was seen by nobody: noise is drawn once more under it.
    """

    ledger: Ledger
    run: str
    data_set: str
    fingerprint: str | None

    def commit(self, key: ReleaseKey, event: DpEvent, rdp: Sequence[float] = ()) -> None:
        """Charge a release before it is made; the same again does nothing.

        Args:
            key: Phase, round, retry.
            event: What will be released.
            rdp: Its Renyi divergences at the ledger's orders, where the reservation has some.

        Raises:
            BudgetError: When the key has another event, or the release is more than was reserved.
        """
        self.ledger._commit(self, key, event, tuple(map(float, rdp)))

    def keep(self, key: ReleaseKey, released: bytes) -> None:
        """Store what was released, before anything reads it; the same again does nothing.

        Raises:
            BudgetError: When the release was not charged, or something else is stored under its key.
        """
        self.ledger._keep(self, key, released)

    def kept(self, key: ReleaseKey) -> bytes | None:
        """Return what was released under a key, or None where nothing was.

        Raises:
            StoreError: When it was released and its bytes are not there any more: it must not be drawn again.
        """
        return self.ledger._kept(self, key)

    def drop_kept(self, before: ReleaseKey) -> None:
        """Remove the bytes of the run's releases before a key, once the rounds that used them are durable."""
        self.ledger._drop_kept(self, before)

    def named(self, key: ReleaseKey) -> str:
        """Return a release as a message names it."""
        phase, number, retry = key
        return (
            f"the release of run {self.run!r} from data set {self.data_set!r} in phase {phase}, round {number}, "
            f"retry {retry}"
        )


def _check_key(key: ReleaseKey) -> None:
    if min(key) < 0:
        raise BudgetError(f"release {key!r}: expected phase, round and retry of 0 or more")


def _head_in_doubt(path: Path) -> Head | None:
    try:
        found = read_head(path)
    except StoreError:
        return None
    return None if found is None else found[1]
