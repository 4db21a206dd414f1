"""Rows of one client, what their columns mean, and the lazy list of all clients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fedloom.core.component import ComponentSpec, array_digest
from fedloom.core.ids import ClientId
from fedloom.core.keys import Stream
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
FEATURES = "features"
LABEL = "label"
TEXTS = "texts"
_NO_ROWS = slice(0, 0)


@dataclass(frozen=True, slots=True)
class Schema:
    """What the columns of every client mean: agreed before round 1, the same at every party.

    ``columns`` are the numbers of a row, in the order of the array ``features``.

    Example:
        >>> Schema(("age", "bp"), label="outcome").classes is None
        True
    """

    columns: tuple[str, ...]
    label: str | None = None
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of their indices; None until agreed, and for regression."""
    texts: tuple[str, ...] = ()
    """Columns that hold the names of categories: no learner takes them until a preparation has made numbers of them."""


class Batch(Struct, frozen=True):
    """Rows of one local step; ``weights`` is zero where a row is padding."""

    arrays: Mapping[str, Vector]
    weights: Vector


class ClientDataset(Struct, frozen=True):
    """The rows of one client: arrays of one leading length, and which rows are for what.

    ``features`` has shape ``(rows, columns)``, ``label`` shape ``(rows,)``: the label's raw value until classes are
    agreed, then the index of its class; a number for regression. Where the schema has texts, ``texts`` of shape
    ``(rows, texts)`` holds their strings. A missing number is NaN, a missing text is empty. A split that is absent from
    ``rows`` is empty.

    Example:
        >>> data = ClientDataset({"features": np.ones((4, 2)), "label": np.zeros(4)}, {"train": slice(0, 3)})
        >>> data.count("train"), data.count("test"), data.split("train").arrays["features"].shape
        (3, 0, (3, 2))
    """

    arrays: Mapping[str, Vector]
    rows: Mapping[Split, slice] = {}

    def __len__(self) -> int:
        """Return the number of rows of all splits together."""
        for array in self.arrays.values():
            return len(array)
        return 0

    def count(self, name: Split) -> int:
        """Return the number of rows of a split."""
        rows = self.rows.get(name)
        return 0 if rows is None else rows.stop - rows.start

    def split(self, name: Split) -> ClientDataset:
        """Return the rows of one split, as views."""
        rows = self.rows.get(name, _NO_ROWS)
        if rows.start == 0 and rows.stop == len(self):
            return self
        return ClientDataset(
            {key: array[rows] for key, array in self.arrays.items()}, {name: slice(0, self.count(name))}
        )

    def batches(self, schedule: Schedule, stream: Stream) -> Iterator[Batch]:
        """Yield the training batches of one round, each padded to the length that the schedule gives this client."""
        data = self.split("train").arrays
        count = self.count("train")
        order = schedule.order(count, stream)
        length = schedule.batch_rows(count)
        for step, valid in enumerate(order.valid.tolist()):
            rows = np.zeros(length, dtype=np.int64)
            rows[:valid] = np.arange(count) if order.rows is None else order.rows[step, :valid]
            weights = np.zeros(length)
            weights[:valid] = 1.0
            yield Batch({key: array[rows] for key, array in data.items()}, weights)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all arrays and of the splits: a client refuses to resume over other rows."""
        state = hashlib.sha256()
        for name in sorted(self.arrays):
            state.update(f"{name}:{array_digest(self.arrays[name])};".encode())
        for split in sorted(self.rows):
            state.update(f"{split}:{self.rows[split].start}:{self.rows[split].stop};".encode())
        return state.hexdigest()


class Transform(Protocol):
    """A pure change of rows that every party applies alike, and of the schema with them."""

    def apply(self, data: ClientDataset) -> ClientDataset:
        """Return the rows as the learner shall see them."""
        ...

    def schema(self, before: Schema) -> Schema:
        """Return the schema after the change."""
        ...


class Population(Protocol):
    """All clients, lazily: a million generated ones cost nothing until asked for."""

    def __len__(self) -> int:
        """Return the number of clients."""
        ...

    def id(self, index: int) -> ClientId:
        """Return the client at ``index``; clients are in name order."""
        ...

    def index(self, client: ClientId) -> int:
        """Return the index of a client."""
        ...

    def size(self, index: int) -> int:
        """Return the number of training rows of the client at ``index``."""
        ...

    def sizes(self) -> npt.NDArray[np.integer[Any]]:
        """Return the training rows of all clients, shape ``(clients,)``: a view, which costs nothing."""
        ...

    @property
    def examples(self) -> int | None:
        """Training rows of all clients together; None where that is not known."""
        ...


class FederatedDataset(Protocol):
    """Data of many clients, each reachable alone."""

    @property
    def spec(self) -> ComponentSpec | None:
        """What built it."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of all rows, where the spec alone does not tell them (a file may change); else None."""
        ...

    def population(self) -> Population:
        """Return all clients."""
        ...

    def schema(self) -> Schema:
        """Return what the columns mean."""
        ...

    def client(self, client: ClientId) -> ClientDataset:
        """Return the rows of one client.

        Raises:
            DataError: When there is no such client.
        """
        ...
