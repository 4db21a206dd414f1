"""What a run's folder says, read for the report: the two documents, and nothing that may be missing taken for granted.

Every key of the summary is optional: a run that failed has written few of them, and an older build knew fewer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fedloom.core.component import Json
from fedloom.core.own_version import own_version
from fedloom.errors import StoreError
from fedloom.runtime.record import Figures, RoundRecord
from fedloom.store.documents import EXPERIMENT, PUBLIC_PRIVACY, RECORD, Head, Status
from fedloom.store.faults import damaged, explained
from fedloom.store.files import read_model_metadata

T = TypeVar("T")

MODEL = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """One client's failure in one round."""

    client: str = ""
    phase: str = ""
    kind: str = ""
    detail: str = ""
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The rows of one client: by split, and by class for classification."""

    client: str
    train: int = 0
    validation: int = 0
    test: int = 0
    classes: dict[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Test rows whose predicted probability lies between ``low`` and ``high``."""

    low: float
    high: float
    rows: int
    predicted: float | None = None
    observed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Federated minus local-only, with its interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The interval of a figure."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientWorth:
    """What the federation was worth to one client."""

    verdict: str = ""
    words: str = ""
    test_rows: int | None = None
    intervals: dict[str, Interval | tuple[float | None, float | None] | None] = field(default_factory=dict)
    differences: dict[str, Difference | None] = field(default_factory=dict)

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the bounds of a figure's interval, None where there is none."""
        match self.intervals.get(metric):
            case Interval(low=float(low), high=float(high)) | (float(low), float(high)):
                return low, high
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the federation was worth: in words, and by client."""

    measure: str = ""
    confidence: float = 0.95
    resamples: int | None = None
    words: tuple[str, ...] = ()
    clients: dict[str, ClientWorth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the first rounds cost; None: nothing bounds it."""

    rounds: int
    epsilon: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a run promises about privacy, against one reader."""

    simulated: bool = True
    unit: str = ""
    adjacency: str = ""
    delta: float = 0.0
    mechanism: str = ""
    noise_by: str = "server"
    """The server, or "clients"."""
    sampling: str = ""
    rounds: int = 0
    reader: str = ""
    epsilon: float | None = None
    words: str = ""
    notes: tuple[str, ...] = ()
    data_set: str | None = None
    by_round: tuple[Spent, ...] = ()
    clients: int | None = None
    expected_cohort: float | None = None
    """Clients that a round is expected to have, never those that it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a run; ``None`` and empty where the record does not say."""

    reason: str = ""
    model_sha256: str | None = None
    seconds: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    metrics: Figures = field(default_factory=dict)
    clients: dict[str, Figures] = field(default_factory=dict)
    failures: tuple[Lost, ...] = ()
    notes: tuple[str, ...] = ()
    holdings: tuple[Holding, ...] | None = None
    task: str | None = None
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    calibration: tuple[Bin, ...] | None = None
    worth: Worth | None = None
    privacy: Promise | None = None
    versions: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """``record.json`` as a whole."""

    run_id: str
    status: Status
    rounds: int
    summary: Summary
    records: tuple[RoundRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a folder says of its run."""

    folder: Path
    head: Head
    record: Record
    prepared: tuple[Json, ...] = ()
    """Answers of the preparations, from the model file; empty where there is no model yet."""

    @property
    def summary(self) -> Summary:
        """What came of it."""
        return self.record.summary

    @property
    def promise(self) -> Promise | None:
        """What it promises to whoever reads the record; None where that says nothing of it."""
        held = self.summary.privacy
        return held if held is not None and held.words else None

    @property
    def promised_to(self) -> str | None:
        """The reader whom the experiment promises privacy, None where it promises nothing."""
        match self.head.experiment:
            case {"privacy": {"reader": str(reader)}}:
                return reader
            case {"privacy": dict()}:
                return "participation"
        return None

    @property
    def trained(self) -> list[RoundRecord]:
        """The rounds of training, retried ones left out."""
        return [r for r in self.record.records if r.program == "train" and r.status != "retried"]


def read(folder: Path) -> Stored:
    """Read the documents of a run.

    Args:
        folder: Of one run; it must have finished at least once.

    Raises:
        StoreError: When there is no such folder, no record yet, or a document is damaged or of a newer build.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder} is no run: there is no such folder")
    if not (folder / EXPERIMENT).exists():
        raise StoreError(f"{folder} is no run: it has no {EXPERIMENT}. Name a folder that `fedloom runs list` shows")
    head = _document(folder / EXPERIMENT, Head)
    if not (folder / RECORD).exists():
        raise StoreError(
            f"{folder} has no {RECORD}: the run has not finished. Wait for its end, or continue it with: "
            f"fedloom resume {folder}"
        )
    record = _document(folder / RECORD, Record)
    if record.run_id != head.run_id:
        raise damaged(folder / RECORD, f"it is of run {record.run_id}, {EXPERIMENT} beside it is of {head.run_id}")
    return Stored(folder=folder, head=head, record=record, prepared=_prepared(folder / MODEL))


def read_public_privacy(stored: Stored) -> Promise:
    """Return what a run promises to one who sees its models, and nothing else of it.

    Raises:
        StoreError: When it promises nothing, or the file is absent or damaged.
    """
    if stored.promised_to is None:
        raise StoreError(
            f"{stored.folder} promises no privacy, so there is nothing that a public report could state: its models "
            "may tell anything of the rows. `fedloom report` without --public writes its report; a run that promises "
            "something has [privacy] in its file"
        )
    path = stored.folder / PUBLIC_PRIVACY
    if not path.exists():
        raise StoreError(
            f"{path} is not there: the run ended before its price was known, or the file was removed. A resume writes "
            f"it again: fedloom resume {stored.folder}"
        )
    promise = _document(path, Promise)
    if not promise.words:
        raise damaged(path, "it says nothing of what is promised")
    return promise


def _prepared(path: Path) -> tuple[Json, ...]:
    if not path.exists():
        return ()
    try:
        return msgspec.json.decode(read_model_metadata(path).get("prepared", "[]"), type=tuple[Any, ...])
    except msgspec.DecodeError as error:
        raise damaged(path, error) from error


def _document(path: Path, kind: type[T]) -> T:
    with explained(path):
        data = path.read_bytes()
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        written, own = _version_in(data), own_version()
        if _ordered(written) > _ordered(own):
            raise StoreError(
                f"{path} was written by fedloom {written}, this is {own}, which cannot read it ({error}). Upgrade: "
                "pip install --upgrade fedloom"
            ) from error
        raise damaged(path, error) from error


def _version_in(data: bytes) -> str:
    """Return the version that a document of any build names, an empty text where it names none."""
    try:
        document: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    match document:
        case {"fedloom": str(version)} | {"summary": {"versions": {"fedloom": str(version)}}}:
            return version
    return ""


def _ordered(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
