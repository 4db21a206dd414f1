"""The two documents of a run folder: ``experiment.json``, what was asked, and ``record.json``, what came of it.

Both are for people and for the index. A resume reads neither: what it needs is in ``state.sqlite``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import msgspec

from fedloom.core.component import Json
from fedloom.core.ids import RunId
from fedloom.runtime.record import RoundRecord
from fedloom.store.faults import damaged, explained
from fedloom.store.files import write_text

T = TypeVar("T")

EXPERIMENT = "experiment.json"
RECORD = "record.json"
PUBLIC_PRIVACY = "privacy.json"
"""What a private run promises to a reader of its models: in a file of its own, which holds nothing of who took part."""

FinalStatus = Literal["completed", "completed with warnings", "failed", "interrupted", "paused"]
Status: TypeAlias = Literal["running"] | FinalStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a run is: written when it is created, never changed."""

    run_id: RunId
    sequence: int
    """Place in the order of creation under one root; clocks may go backwards."""
    created: str
    fedloom: str
    """Version that created the run."""
    digest: str
    base: str
    """Folder that relative paths in the experiment start from."""
    options: dict[str, Json]
    experiment: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What ``record.json`` says of a run, without its rounds. "running" stands there from a resume's first write on."""

    status: Status
    rounds: int
    """Closed rounds that trained."""
    summary: dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    run_id: RunId
    status: Status
    rounds: int
    summary: dict[str, Json]
    records: tuple[Json, ...]
    """Without the figures of single clients: those stand in ``metrics.csv``."""


def encode_head(head: Head) -> bytes:
    """Return a head as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(head), indent=2) + b"\n"


def decode_head(data: bytes, path: Path) -> Head:
    """Return the head that ``data``, read from ``path``, encodes.

    Raises:
        StoreError: When it encodes none.
    """
    return _decode(data, Head, path)


def read_head(folder: Path) -> Head:
    """Return the head of the run in a folder.

    Raises:
        StoreError: When the folder holds no readable ``experiment.json``.
    """
    return decode_head(_read(folder / EXPERIMENT), folder / EXPERIMENT)


def write_record(
    folder: Path, *, run_id: RunId, status: Status, summary: Mapping[str, Json], records: Sequence[RoundRecord]
) -> None:
    """Write ``record.json``: status, summary, and every round. A figure that is not finite becomes ``null``.

    Raises:
        StoreError: When the file cannot be written.
    """
    trees = tuple(map(_without_clients, records))
    closed = sum(record.status == "closed" and record.program == "train" for record in records)
    document = _Record(run_id=run_id, status=status, rounds=closed, summary=dict(summary), records=trees)
    write_text(folder / RECORD, _lines(document) + "\n")


def write_public_privacy(folder: Path, promise: Mapping[str, Json]) -> None:
    """Write ``privacy.json``. A figure that is not finite becomes ``null``.

    Raises:
        StoreError: When the file cannot be written.
    """
    write_text(folder / PUBLIC_PRIVACY, msgspec.json.format(msgspec.json.encode(promise), indent=2).decode() + "\n")


def read_outcome(folder: Path) -> Outcome | None:
    """Return what came of the run in a folder, or None while it has never finished.

    Raises:
        StoreError: When ``record.json`` is damaged.
    """
    path = folder / RECORD
    return _decode(_read(path), Outcome, path) if path.exists() else None


def _lines(document: _Record) -> str:
    """Return a record as JSON for people: the summary indented, each round on a line of its own."""
    rounds = ",\n    ".join(msgspec.json.encode(tree).decode() for tree in document.records)
    head = msgspec.json.format(msgspec.json.encode(replace(document, records=())), indent=2).decode()
    before, _, after = head.rpartition("[]")
    return f"{before}[\n    {rounds}\n  ]{after}" if rounds else head


def _without_clients(record: RoundRecord) -> Json:
    tree = msgspec.to_builtins(record)
    del tree["clients"]
    return tree


def _read(path: Path) -> bytes:
    with explained(path):
        return path.read_bytes()


def _decode(data: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
