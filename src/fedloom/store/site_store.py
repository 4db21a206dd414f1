"""SiteStore: the durable truth of a site, in one folder that one process owns.

``site.sqlite`` has the rows, ``blobs/`` what goes out and comes in, ``site.key`` the key that states and sums are
sealed under, ``ledger.sqlite`` the privacy ledger. What a step of a round leaves behind, its message, the client's new
state and its side of a secure sum, is written in one transaction, by ``together``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fedloom.core.ids import RunId
from fedloom.entropy import Secret
from fedloom.errors import StoreError, StoreWentBack
from fedloom.runtime.ports import Slot
from fedloom.store.blobs import Digest
from fedloom.store.crash_points import Point, passed
from fedloom.store.epochs import Verdict, compare, head_text, parse_epoch, went_back
from fedloom.store.federation_rows import RoundKey
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_head import Head, parse_head
from fedloom.store.site_rows import (
    COUNTERS,
    FORMAT,
    ORDERS,
    OUTBOX,
    PEERS,
    PERMISSIONS,
    SEEN,
    STATES,
    SUMS,
    TABLES,
    Counter,
    Order,
    Outgoing,
    Peer,
    Permission,
    SealedSum,
    Seen,
)
from fedloom.store.site_sessions import SiteSessions, SiteStates
from fedloom.store.store_folder import StoreFolder

LEDGER = "ledger.sqlite"


class SiteStore:
    """A site's store, open. Threads may share it. A context manager.

    Args:
        folder: Made where there is none.
        now: The present in seconds, for people and for permissions that end.
        point: Called at each crash point.

    Raises:
        StoreError: When another process owns it, it is damaged, of a newer format, or cannot be written.

    Security:
        Adversary: one who reads or copies the folder and has not ``site.key``: client states and sums do not open;
        names, sizes, messages that went out, and times are readable. A key elsewhere is for the operator to arrange.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root, SiteStore(Path(root) / "north") as store:
        ...     store.reserve_numbers("r1", 3), store.reserve_numbers("r1", 1)
        (1, 4)
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time, point: Point = passed) -> None:
        self.folder = folder
        self._now = now
        self._store = StoreFolder(
            folder, what="the site's store", name="site", tables=TABLES, form=FORMAT, now=now, point=point
        )
        self._file = self._store.file
        self._owner: Secret = self._store.key
        self.epoch = self._store.epoch
        self.events = self._store.events
        self.blobs = self._store.blobs

    @property
    def ledger_path(self) -> Path:
        """Where the site's privacy ledger is: ``Ledger.open_or_create`` it."""
        return self.folder / LEDGER

    def ledger_head(self) -> Head | None:
        """Return the head of the privacy ledger as it is, for others to remember; None: there is no ledger.

        Raises:
            StoreError: When it does not verify.
        """
        if not self.ledger_path.exists():
            return None
        with Ledger.read(self.ledger_path) as ledger:
            return ledger.head()

    def fingerprint_key(self, run: RunId) -> bytes:
        """Return the key that the fingerprints of data are made under: another for each run, and never sent."""
        return self._owner.child("fingerprints", run).random_bytes(32)

    @contextmanager
    def together(self, step: str = "together") -> Iterator[None]:
        """Make all that the block does with this store durable at once when it ends, or none of it."""
        with self._file.writing(step):
            yield

    def states(self, run: RunId, like: Slot) -> SiteStates:
        """Return where clients of a run keep their states; ``like`` is what a slot looks like."""
        return SiteStates(self._file, self._owner, store=self.epoch.store, run=run, like=like)

    def sessions(self, run: RunId) -> SiteSessions:
        """Return where clients of a run keep their sides of interactive sums."""
        return SiteSessions(self._file, self._owner, store=self.epoch.store, run=run)

    # Outbox ----------------------------------------------------------------------------------------------------------

    def post(self, out: Outgoing, *, order: Order | None = None) -> Outgoing:
        """Write down what the site answers at a step, before its first byte leaves; the same again changes nothing.

        Put its content first, and call this inside the ``together`` that saves the client's state.

        Args:
            out: The answer.
            order: The signed offer that it answers; None: the coordinator does not sign.

        Raises:
            StoreError: When another answer is here already, or the content is not.
        """
        with self._file.writing("post") as tables:
            tables.fold()
            found = tables.get(OUTBOX, *out.key, out.step)
            if found is not None:
                if (found.kind, found.blob, found.detail) != (out.kind, out.blob, out.detail):
                    raise StoreError(f"step {out.step} of {out.key} was answered before: no second answer is made")
                return found
            if (out.kind == "message") != (out.blob is not None) or (out.blob and not self.blobs.has(out.blob)):
                raise StoreError(f"step {out.step} of {out.key}: put the content of a message before it is posted")
            detail = {**out.key._asdict(), "step": out.step, "kind": out.kind, "blob": out.blob}
            if order is not None:
                detail["order"] = order.digest.hex()
                tables.put(ORDERS, order)
            self.events.append("post", detail)
            return tables.put(OUTBOX, out)

    def newest_order(self, run: RunId) -> Order | None:
        """Return the newest signed offer of a run that was acted on; None: none yet."""
        with self._file.reading() as tables:
            return tables.get(ORDERS, run)

    def outgoing(self, key: RoundKey, step: int) -> Outgoing | None:
        """Return what the site answered at a step; None: nothing yet."""
        with self._file.reading() as tables:
            return tables.get(OUTBOX, *key, step)

    def unsubmitted(self) -> tuple[Outgoing, ...]:
        """Return what was written down and is not known to have arrived, by round and step."""
        with self._file.reading() as tables:
            return tuple(out for out in tables.where(OUTBOX) if out.answer is None)

    def submitted(self, key: RoundKey, step: int, answer: str) -> None:
        """Write down what the coordinator said to an answer.

        Raises:
            StoreError: When there is no such answer here.
        """
        with self._file.writing("submitted") as tables:
            found = tables.get(OUTBOX, *key, step)
            if found is None:
                raise StoreError(f"step {step} of {key} has no answer here that could have been submitted")
            if found.answer != answer:
                self.events.append("submitted", {**key._asdict(), "step": step, "answer": answer})
                tables.put(OUTBOX, replace(found, answer=answer))

    def end_round(self, key: RoundKey) -> None:
        """Delete what a round that is over has left: its answers, and its side of a secure sum, secrets and all.

        Client states stay: they are settled by the next order.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("end round") as tables:
            tables.fold()
            name = key._asdict()
            outbox, sums = tables.where(OUTBOX, **name), tables.where(SUMS, **name)
            for out in outbox:
                tables.remove(OUTBOX, out)
            for each in sums:
                tables.remove(SUMS, each)
            if outbox or sums:
                self.events.append("end round", name)

    def end_earlier(self, key: RoundKey) -> None:
        """Delete what the rounds of a run before this one have left: whoever orders it has closed them.

        An answer that is not known to have arrived stays until it is. Client states stay.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.reading() as tables:
            old = [out for out in tables.where(OUTBOX, run=key.run) if out.answer is not None and _before(out.key, key)]
            sums = [each for each in tables.where(SUMS, run=key.run) if _before(_round_of(each), key)]
        if not old and not sums:
            return
        with self._file.writing("end earlier") as tables:
            tables.fold()
            for out in old:
                tables.remove(OUTBOX, out)
            for each in sums:
                tables.remove(SUMS, each)
            self.events.append("end earlier", key._asdict())

    def end_run(self, run: RunId) -> None:
        """Delete what a run that is over has left, client states included. Sums stay begun, numbers stay used.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("end run") as tables:
            tables.fold()
            for out in tables.where(OUTBOX, run=run):
                tables.remove(OUTBOX, out)
            for each in tables.where(SUMS, run=run):
                tables.remove(SUMS, each)
            for state in tables.where(STATES, run=run):
                tables.remove(STATES, state)
            self.events.append("end run", {"run": run})

    def kept_runs(self) -> tuple[RunId, ...]:
        """Return the runs that something is kept of and nothing waits to be sent of, by name."""
        with self._file.reading() as tables:
            outbox = tables.where(OUTBOX)
            kept = {out.run for out in outbox}
            kept |= {each.run for each in tables.where(SUMS)} | {each.run for each in tables.where(STATES)}
        return tuple(sorted(kept - {out.run for out in outbox if out.answer is None}))

    def needed(self) -> frozenset[Digest]:
        """Return the contents that the outbox refers to."""
        with self._file.reading() as tables:
            return frozenset(out.blob for out in tables.where(OUTBOX) if out.blob is not None)

    # What the operator and the policy go by --------------------------------------------------------------------------

    def permit(self, permission: Permission) -> None:
        """Write down what the operator has allowed, or withdrawn."""
        with self._file.writing("permit") as tables:
            tables.fold()
            tables.put(PERMISSIONS, permission)
            detail = {"run": permission.run, "digest": permission.digest, "withdrawn": permission.withdrawn}
            self.events.append("permission", detail)

    def permission(self, run: RunId) -> Permission | None:
        """Return what the operator has said to a run; None: nothing yet."""
        with self._file.reading() as tables:
            return tables.get(PERMISSIONS, run)

    def permissions(self) -> tuple[Permission, ...]:
        """Return what the operator has said to all runs, by run."""
        with self._file.reading() as tables:
            return tables.where(PERMISSIONS)

    def permitted(self, run: RunId, digest: str, *, round_number: int) -> bool:
        """Return whether a round of a run is allowed now: of this digest, in time, and not one too many."""
        found = self.permission(run)
        if found is None or found.withdrawn or found.digest != digest:
            return False
        in_time = found.until is None or self._now() < found.until
        return in_time and (found.max_rounds is None or round_number <= found.max_rounds)

    def saw_data(self, run: RunId, data_set: str, fingerprint: str) -> bool:
        """Remember the fingerprint of a run's data; return whether it is the one seen before, or the first."""
        with self._file.writing("saw data") as tables:
            found = tables.get(SEEN, run, data_set)
            if found is None or found.fingerprint != fingerprint:
                tables.put(SEEN, Seen(run=run, data_set=data_set, fingerprint=fingerprint))
                self.events.append("data", {"run": run, "data_set": data_set, "changed": found is not None})
        return found is None or found.fingerprint == fingerprint

    # Messages and peers ----------------------------------------------------------------------------------------------

    def reserve_numbers(self, run: str, count: int) -> int:
        """Return the first of ``count`` numbers for signed messages of a run; none of them is ever given again.

        Raises:
            StoreError: When ``count`` is below 1, or it cannot be written.
        """
        if count < 1:
            raise StoreError(f"reserve_numbers received count={count}: expected 1 or more")
        with self._file.writing("numbers") as tables:
            found = tables.get(COUNTERS, run)
            first = 1 if found is None else found.next
            tables.put(COUNTERS, Counter(run=run, next=first + count))
        return first

    def skip_numbers(self, run: str, beyond: int) -> None:
        """Give no number up to ``beyond`` to a message of a run any more: it has been used.

        Raises:
            StoreError: When it cannot be written.
        """
        with self._file.writing("skip numbers") as tables:
            found = tables.get(COUNTERS, run)
            if found is None or found.next <= beyond:
                tables.put(COUNTERS, Counter(run=run, next=beyond + 1))

    def check_goes_on(self, *, ledger: str | None, chain: str | None) -> None:
        """Refuse to go on when heads that were seen of this store are not in it: it was put back from a backup.

        A count that is higher again shows nothing: the store may have been started often since.

        Raises:
            StoreError: When one of them is not.
        """
        if chain is not None and not self.events.holds(parse_head(chain)):
            raise StoreError(f"the events of {self.folder} do not go on from {chain.partition(':')[0]} that were seen")
        if ledger is not None:
            if not self.ledger_path.exists():
                raise StoreError(f"{self.ledger_path} is missing, and {ledger.partition(':')[0]} rows of it were seen")
            Ledger.read(self.ledger_path, remembered=[parse_head(ledger)]).close()

    def saw_coordinator(
        self,
        name: str,
        *,
        epoch: str,
        ledger: Head | None,
        chain: Head | None,
        at_round: str = "",
        goes_on: bool = True,
    ) -> Verdict:
        """Compare a coordinator's store with what was seen of it last, and remember it if it has not gone back.

        Args:
            name: Of the coordinator, from its certificate.
            epoch: Of its store, as it says.
            ledger: Head of its ledger.
            chain: Head of its events.
            at_round: The round that it is in, for people.
            goes_on: Whether it says itself that its events go on from the head that was seen here.

        Raises:
            StoreWentBack: When it was restored from a backup, runs twice, or is another: this site stops until its
                operator has confirmed it by ``adopt_coordinator``.
        """
        now = parse_epoch(epoch)
        with self._file.writing("saw coordinator") as tables:
            last = tables.get(PEERS, name)
            verdict = compare(None if last is None else parse_epoch(last.epoch), now)
            back = last is not None and (went_back(last.ledger, ledger) or went_back(last.chain, chain))
            words = {"older": "is older than", "copy": "is a copy of", "other": "is another than"}
            if verdict in ("same", "later") and (back or not goes_on):
                verdict, words["older"] = "older", "is older than" if back else "does not go on from"
            if last is not None and verdict in ("older", "copy", "other"):
                was = f" at {last.round}" if last.round else ""
                here = f" at {at_round}" if at_round else ""
                raise StoreWentBack(
                    f"the store of coordinator {name!r} {words[verdict]} the one seen last: start {now.start}{here}, "
                    f"seen was start {parse_epoch(last.epoch).start}{was}. If it was restored on purpose, stop this "
                    "site and confirm it: fedloom site adopt SITE --coordinator"
                )
            seen = Peer(name=name, epoch=epoch, ledger=head_text(ledger), chain=head_text(chain), round=at_round)
            if seen != last:
                tables.put(PEERS, seen)
        return verdict

    def adopt_coordinator(self, name: str, *, epoch: str, ledger: Head | None, chain: Head | None) -> None:
        """Take a coordinator's store as it is now for the one to go on with: the operator has confirmed it."""
        parse_epoch(epoch)
        with self._file.writing("adopt coordinator") as tables:
            tables.fold()
            tables.put(PEERS, Peer(name=name, epoch=epoch, ledger=head_text(ledger), chain=head_text(chain)))
            self.events.append("adopt coordinator", {"coordinator": name, "epoch": epoch})

    def coordinator(self, name: str) -> Peer | None:
        """Return what was seen of a coordinator last."""
        with self._file.reading() as tables:
            return tables.get(PEERS, name)

    def close(self) -> None:
        """Close the files and own the folder no longer. A second call does nothing."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _round_of(each: SealedSum) -> RoundKey:
    return RoundKey(each.run, each.phase, each.program, each.round, each.retry)


def _before(one: RoundKey, other: RoundKey) -> bool:
    if (one.phase, one.round) != (other.phase, other.round):
        return (one.phase, one.round) < (other.phase, other.round)
    return one.program == other.program and one.retry < other.retry
