"""RunFolder: one run on disk, held by the process that owns it.

experiment.json      what was asked, for people
state.sqlite         all that a resume needs, one transaction per checkpoint
record.json          what came of it, once it has finished
metrics.csv          every figure of every round and client, likewise
lock.sqlite          held by the owner
owner.json           who that is, for people
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import msgspec

from fedloom.core.component import Json
from fedloom.core.events import DpEvent
from fedloom.core.ids import ClientId, RunId
from fedloom.core.own_version import own_version
from fedloom.errors import StoreError
from fedloom.runtime.record import RoundRecord
from fedloom.store import index
from fedloom.store.documents import EXPERIMENT, FinalStatus, Head, decode_head, encode_head, read_outcome, write_record
from fedloom.store.events import decode_event, encode_event
from fedloom.store.faults import damaged, explained
from fedloom.store.files import sync_folder, write_text
from fedloom.store.lock import RunLock
from fedloom.store.rounds import decode_round, encode_round, write_metrics
from fedloom.store.state_file import StateFile

_STATE = "state.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What the last checkpoint holds. Before the first, ``state`` is None and the rest is empty."""

    state: bytes | None
    clients: dict[ClientId, bytes]
    records: tuple[RoundRecord, ...]
    params: dict[int, bytes]
    """By round; 0 is the start."""
    fingerprint: str | None


class RunFolder:
    """The folder of one run, owned by this process until ``close``; one thread at a time.

    Make one by ``create`` or ``open``; use it as a context manager. Closing a run that was written and not finished
    leaves it ``interrupted``.
    """

    def __init__(self, path: Path, head: Head, *, state: StateFile, lock: RunLock) -> None:
        self._path = path
        self._head = head
        self._state = state
        self._lock = lock
        self._announced = False

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        experiment: Json,
        digest: str,
        base: Path,
        options: Mapping[str, Json],
        now: Callable[[], float] = time.time,
    ) -> RunFolder:
        """Make a fresh folder ``<UTC time>-<4 hex>`` under ``root`` and own it.

        ``experiment.json`` is written last: a folder without it is no run.

        Args:
            root: Folder of all runs; made if it is not there.
            experiment: The experiment as plain JSON.
            digest: Its digest.
            base: Folder that relative paths in the experiment start from.
            options: What else the run was started with, as plain JSON: ``save_rounds``, ``note``.
            now: The clock, in seconds since 1970.

        Raises:
            StoreError: When the folder cannot be made or filled; nothing is left behind then.
        """
        with explained(root):
            root.mkdir(parents=True, exist_ok=True)
        path, created = _fresh_folder(root, now)
        head = Head(
            run_id=RunId(path.name),
            sequence=0,
            created=created,
            fedloom=own_version(),
            digest=digest,
            base=base.absolute().as_posix(),
            options=dict(options),
            experiment=experiment,
        )
        try:
            lock = RunLock(path, since=created)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        try:
            head = index.enter(root, head)
            document = encode_head(head)
            state = StateFile.create(path / _STATE, rows=[("experiment", document)])
            try:
                write_text(path / EXPERIMENT, document.decode())
                with explained(root):
                    sync_folder(root)
            except BaseException:
                state.close()
                raise
        except BaseException:
            lock.release()
            shutil.rmtree(path, ignore_errors=True)
            raise
        folder = cls(path, head, state=state, lock=lock)
        folder._announced = True
        return folder

    @classmethod
    def open(cls, path: Path, *, now: Callable[[], float] = time.time) -> RunFolder:
        """Own an existing run, to go on with it. Until the first ``write`` nothing of the run is changed.

        Raises:
            StoreError: When there is no run, another process owns it, or its state file is damaged, of a newer format,
                or may not be written.
        """
        if not path.is_dir():
            raise StoreError(f"{path} is no run: there is no such folder")
        if not any((path / name).exists() for name in (_STATE, EXPERIMENT)):
            raise StoreError(f"{path} is no run: it holds neither {_STATE} nor {EXPERIMENT}")
        lock = RunLock(path, since=_utc(now()).isoformat(timespec="seconds"))
        try:
            state = StateFile.open(path / _STATE)
            try:
                head = _head(state)
                with explained(path):
                    for temporary in path.glob(".*.tmp"):
                        temporary.unlink()
            except BaseException:
                state.close()
                raise
        except BaseException:
            lock.release()
            raise
        return cls(path, head, state=state, lock=lock)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def run_id(self) -> RunId:
        """Name of the run: that of the folder when it was created."""
        return self._head.run_id

    @property
    def digest(self) -> str:
        """Digest of the experiment."""
        return self._head.digest

    @property
    def experiment(self) -> Json:
        """The experiment as plain JSON."""
        return self._head.experiment

    @property
    def base(self) -> Path:
        """Folder that relative paths in the experiment start from."""
        return Path(self._head.base)

    @property
    def options(self) -> dict[str, Json]:
        """What else the run was started with."""
        return dict(self._head.options)

    def read(self) -> Saved:
        """Return the last checkpoint, every row compared with its digest.

        Raises:
            StoreError: When anything differs from what was written.
        """
        self._state.check_seal()
        single = dict(self._state.rows("single"))
        fingerprint = single.get("fingerprint")
        return Saved(
            state=single.get("state"),
            clients={ClientId(str(client)): data for client, data in self._state.rows("client")},
            records=self._records(),
            params={int(number): data for number, data in self._state.rows("params")},
            fingerprint=None if fingerprint is None else fingerprint.decode(),
        )

    def events(self) -> tuple[tuple[int, int, int, DpEvent], ...]:
        """Return the privacy events with phase, round and retry, in that order.

        Raises:
            StoreError: When a row differs from what was written, or a newer build wrote an event.
        """
        try:
            found = [(*map(int, str(key).split("/")), decode_event(data)) for key, data in self._state.rows("event")]
        except ValueError as error:
            raise damaged(self._state.path, error) from error
        return tuple(sorted(cast("list[tuple[int, int, int, DpEvent]]", found), key=lambda event: event[:3]))

    def write(
        self,
        *,
        state: bytes,
        clients: Iterable[tuple[ClientId, bytes]],
        records: Sequence[tuple[int, RoundRecord]],
        params: Iterable[tuple[int, bytes]],
        events: Iterable[tuple[int, int, int, DpEvent]],
        fingerprint: str | None,
    ) -> None:
        """Write a checkpoint in one transaction: when this returns it is on the disk, and before that nothing of it is.

        Args:
            state: The encoded ``RunState``; replaces the last one.
            clients: Encoded states of the clients that changed; the others stay.
            records: Rounds by sequence number; a number written before is replaced.
            params: Encoded params by round, 0 for the start; likewise.
            events: Phase, round, retry, privacy event. What is there under a key already stays.
            fingerprint: Of the data; None for none.

        Raises:
            StoreError: When it cannot be written; the last checkpoint is whole then. Likewise when an iterable raises,
                with its own exception.
        """
        self._announce()
        with self._state.transaction():
            self._state.put("single", "state", state)
            if fingerprint is None:
                self._state.remove("single", "fingerprint")
            else:
                self._state.put("single", "fingerprint", fingerprint.encode())
            for client, data in clients:
                self._state.put("client", client, data)
            for number, record in records:
                self._state.put("record", number, encode_round(record))
            for number, data in params:
                self._state.put("params", number, data)
            for phase, number, retry, event in events:
                self._state.put_new("event", f"{phase}/{number}/{retry}", encode_event(event))

    def finish(self, status: FinalStatus, summary: Mapping[str, Json]) -> None:
        """Write ``metrics.csv`` and ``record.json``, and tell the index how the run ended.

        Args:
            status: How it ended. Every one but the first two can be resumed.
            summary: Plain JSON. The index shows ``model_sha256``, ``metrics`` and ``note`` of it.

        Raises:
            StoreError: When a file cannot be written, or the records are damaged.
        """
        records = self._records()
        write_metrics(self._path, records)
        write_record(self._path, run_id=self.run_id, status=status, summary=summary, records=records)
        self._announced = False
        index.refresh(self._path)

    def close(self) -> None:
        """Give the run free. A second call does nothing."""
        try:
            self._state.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _announce(self) -> None:
        """Let a finished run stand as running again, before its state goes beyond what its record says."""
        if self._announced:
            return
        outcome = read_outcome(self._path)
        if outcome is not None:
            records = self._records()
            write_record(self._path, run_id=self.run_id, status="running", summary=outcome.summary, records=records)
        index.refresh(self._path)
        self._announced = True

    def _records(self) -> tuple[RoundRecord, ...]:
        try:
            rows = self._state.rows("record")
            return tuple(decode_round(data) for _, data in rows)
        except msgspec.DecodeError as error:
            raise damaged(self._state.path, f"a round does not decode: {error}") from error


def _fresh_folder(root: Path, now: Callable[[], float]) -> tuple[Path, str]:
    while True:
        time_of_day = _utc(now())
        path = root / f"{time_of_day:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        with explained(path):
            try:
                path.mkdir()
            except FileExistsError:
                continue
        return path, time_of_day.isoformat(timespec="seconds")


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _head(state: StateFile) -> Head:
    document = dict(state.rows("single")).get("experiment")
    if document is None:
        raise damaged(state.path, "it names no experiment")
    return decode_head(document, state.path)
