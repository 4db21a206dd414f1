"""The index of runs: ``index.sqlite`` beside the run folders, so that a listing need not read them all.

It is a cache. The folders are the truth: what the index lacks is read from them, and an index that is lost or damaged
is made anew, without touching a run. A status is derived: a run is "running" while a living process holds its lock,
whatever was last written about it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from fedloom.core.component import Json
from fedloom.core.ids import RunId
from fedloom.errors import StoreError
from fedloom.store.documents import EXPERIMENT, Head, Status, read_head, read_outcome
from fedloom.store.faults import explained, is_damage
from fedloom.store.lock import is_held

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_INDEX = "index.sqlite"
_PATIENCE_S = 30.0
"""Of a process that waits for another's entry, which takes milliseconds."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    folder TEXT PRIMARY KEY NOT NULL, run_id TEXT NOT NULL, sequence INTEGER NOT NULL, created TEXT NOT NULL,
    digest TEXT NOT NULL, status TEXT NOT NULL, rounds INTEGER, model_sha256 TEXT, metrics TEXT NOT NULL, note TEXT
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line of a listing."""

    run_id: RunId
    folder: Path
    sequence: int
    created: str
    digest: str
    status: Status
    rounds: int | None = None
    """Closed rounds of training when the run last finished; None if it never did."""
    model_sha256: str | None = None
    metrics: dict[str, Json]
    note: str | None = None


def list_runs(root: Path) -> tuple[RunSummary, ...]:
    """Return the runs under ``root`` in the order of their creation; none when there is no such folder.

    Raises:
        StoreError: When ``root`` is a file, or may not be read.
    """
    with explained(root):
        if not root.exists():
            return ()
        names = {entry.name for entry in root.iterdir() if (entry / EXPERIMENT).is_file()}
    if not names:
        return ()
    try:
        rows = _transact(root, lambda database: _complete(database, root, names))
    except StoreError as error:
        # The index is only faster: in a folder that may not be written the runs speak for themselves.
        _LOG.debug("index_unused root=%s error=%s", root, error)
        rows = _scan(root, names)
    return tuple(sorted((_derive(row) for row in rows), key=lambda run: (run.sequence, run.run_id)))


def find(root: Path, name: str) -> Path:
    """Return the folder of a run.

    Args:
        root: Folder of all runs.
        name: A folder's path, a run id or its beginning, or "last" for the run that was created last.

    Raises:
        StoreError: When no run has that name, or several do.
    """
    if name and (Path(name) / EXPERIMENT).is_file():
        return Path(name)
    runs = list_runs(root)
    if name == "last" and runs:
        return runs[-1].folder
    exact = [run for run in runs if name in {run.run_id, run.folder.name}]
    found = exact or [run for run in runs if name and run.run_id.startswith(name)]
    if len(found) == 1:
        return found[0].folder
    if found:
        raise StoreError(f"{name!r} may be any of {', '.join(run.folder.name for run in found)}: give more of the name")
    recent = ", ".join(run.folder.name for run in runs[-3:])
    raise StoreError(f"no run {name!r} in {root}; " + (f"the last ones are {recent}" if recent else "it holds no runs"))


def enter(root: Path, head: Head) -> Head:
    """Enter a new run and return its head with its place in the order of creation.

    Raises:
        StoreError: When the index cannot be written.
    """

    def insert(database: sqlite3.Connection) -> Head:
        last = database.execute("SELECT coalesce(max(sequence), 0) FROM runs").fetchone()[0]
        placed = replace(head, sequence=int(last) + 1)
        _put(database, [_summary(root / head.run_id, placed, status="running")])
        return placed

    return _transact(root, insert)


def refresh(folder: Path) -> None:
    """Enter again what a run's own files say, where there is an index.

    Raises:
        StoreError: When the files cannot be read or the index cannot be written.
    """
    if (folder.parent / _INDEX).exists() and (folder / EXPERIMENT).is_file():
        row = _read(folder)
        _transact(folder.parent, lambda database: _put(database, [row]))


def _transact(root: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do some work on the index in one transaction, on a new index if the old one is damaged."""
    path = root / _INDEX
    with explained(path):
        try:
            return _attempt(root, work)
        except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            _LOG.warning("index_rebuilt root=%s error=%s", root, error)
        path.with_name(_INDEX + "-journal").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return _attempt(root, work)


def _attempt(root: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    uri = f"{(root / _INDEX).absolute().as_uri()}?mode=rwc"
    with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute(_SCHEMA)
        if database.execute("SELECT count(*) FROM runs").fetchone()[0] == 0:
            _put(database, _scan(root, (entry.name for entry in root.iterdir() if (entry / EXPERIMENT).is_file())))
        result = work(database)
        database.execute("COMMIT")
    return result


def _complete(database: sqlite3.Connection, root: Path, names: set[str]) -> list[RunSummary]:
    """Return one row for each of these folders; add to the index what it lacks."""
    known = [_from_row(root, row) for row in database.execute("SELECT * FROM runs")]
    rows = [row for row in known if row.folder.name in names]
    added = _scan(root, names - {row.folder.name for row in rows})
    _put(database, added)
    return rows + added


def _scan(root: Path, names: Iterable[str]) -> list[RunSummary]:
    rows = []
    for name in sorted(names):
        try:
            rows.append(_read(root / name))
        except StoreError as error:
            _LOG.warning("run_unreadable folder=%s error=%s", name, error)
    return rows


def _read(folder: Path) -> RunSummary:
    """Return what a run's own files say of it; "running" where they do not say how it ended."""
    head, outcome = read_head(folder), read_outcome(folder)
    if outcome is None:
        return _summary(folder, head, status="running")
    model = outcome.summary.get("model_sha256")
    metrics = outcome.summary.get("metrics")
    note = outcome.summary.get("note")
    row = _summary(folder, head, status=outcome.status)
    return replace(
        row,
        rounds=outcome.rounds,
        model_sha256=model if isinstance(model, str) else None,
        metrics=metrics if isinstance(metrics, dict) else {},
        note=note if isinstance(note, str) else row.note,
    )


def _summary(folder: Path, head: Head, *, status: Status) -> RunSummary:
    note = head.options.get("note")
    return RunSummary(
        run_id=head.run_id,
        folder=folder,
        sequence=head.sequence,
        created=head.created,
        digest=head.digest,
        status=status,
        metrics={},
        note=note if isinstance(note, str) else None,
    )


def _derive(row: RunSummary) -> RunSummary:
    """Replace the status that was written last by the one that holds now."""
    if is_held(row.folder):
        return replace(row, status="running")
    if row.status != "running":
        return row
    try:
        row = _read(row.folder)  # it may have finished without telling the index
    except StoreError as error:
        _LOG.warning("run_unreadable folder=%s error=%s", row.folder.name, error)
    return replace(row, status="interrupted") if row.status == "running" else row


def _put(database: sqlite3.Connection, rows: Iterable[RunSummary]) -> None:
    for row in rows:
        metrics = msgspec.json.encode(row.metrics).decode()
        values = (row.folder.name, row.run_id, row.sequence, row.created, row.digest, row.status, row.rounds)
        database.execute(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, row.model_sha256, metrics, row.note),
        )


def _from_row(root: Path, row: tuple[object, ...]) -> RunSummary:
    folder, run_id, sequence, created, digest, status, rounds, model, metrics, note = row
    return RunSummary(
        run_id=RunId(msgspec.convert(run_id, str)),
        folder=root / msgspec.convert(folder, str),
        sequence=msgspec.convert(sequence, int),
        created=msgspec.convert(created, str),
        digest=msgspec.convert(digest, str),
        status=msgspec.convert(status, Status),
        rounds=msgspec.convert(rounds, int | None),
        model_sha256=msgspec.convert(model, str | None),
        metrics=msgspec.json.decode(msgspec.convert(metrics, str), type=dict[str, Json]),
        note=msgspec.convert(note, str | None),
    )
