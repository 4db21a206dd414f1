"""A population that is computed on request: a million clients cost nothing until one is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.component import ComponentSpec, component
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Population, Schema
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, uniforms
from fedloom.core.params import Dtype, Vector
from fedloom.data.splits import Shares
from fedloom.errors import ComponentError, DataError

DIGITS = 7
"""Digits of an id, or more where the population needs them: a client keeps its name when the population grows."""

SHARPNESS = 3.0
"""Spread of the logits. A linear model then reaches about 0.9 accuracy on two classes: not trivial, not hopeless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """``clients`` clients of equal size, named by their index.

    Example:
        >>> population = Numbered(clients=1_000_000, rows=60)
        >>> population.id(42), population.index(population.id(42)), population.examples
        ('client-0000042', 42, 60000000)
    """

    clients: int
    rows: int
    """Training rows of each client."""

    def __len__(self) -> int:
        """Return the number of clients."""
        return self.clients

    def id(self, index: int) -> ClientId:
        """Return the client at ``index``.

        Raises:
            IndexError: When there is no such index.
        """
        if not 0 <= index < self.clients:
            raise IndexError(f"client {index} of {self.clients}")
        return ClientId(f"client-{index:0{max(DIGITS, len(str(self.clients - 1)))}d}")

    def index(self, client: ClientId) -> int:
        """Return the index of a client.

        Raises:
            DataError: When there is no such client.
        """
        digits = client.removeprefix("client-")
        index = int(digits) if digits.isascii() and digits.isdigit() else -1
        if not 0 <= index < self.clients or self.id(index) != client:
            raise DataError(
                f"there is no client {client!r}; this population has {self.id(0)!r} to {self.id(self.clients - 1)!r}"
            )
        return index

    def size(self, index: int) -> int:
        """Return the number of training rows of the client at ``index``."""
        del index
        return self.rows

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the training rows of all clients: one number, seen as many."""
        return np.broadcast_to(np.int64(self.rows), (self.clients,))

    @property
    def examples(self) -> int:
        """Training rows of all clients together."""
        return self.clients * self.rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generated:
    """Rows drawn from each client's own key whenever they are asked for, the same ones every time."""

    roll: Numbered
    held: int
    """Test rows of each client."""
    coef: Vector
    """The model that all labels come from, shape ``(features, classes)``."""
    heterogeneity: float
    key: Key
    spec: ComponentSpec | None = None

    def population(self) -> Population:
        """Return all clients."""
        return self.roll

    def schema(self) -> Schema:
        """Return what the columns mean."""
        features, classes = self.coef.shape
        return Schema(tuple(f"x{place}" for place in range(features)), LABEL, tuple(map(str, range(classes))))

    @property
    def fingerprint(self) -> None:
        """None: the spec tells every row."""
        return None

    def client(self, client: ClientId) -> ClientDataset:
        """Return the rows of one client.

        Raises:
            DataError: When there is no such client.
        """
        own = self.key.child("client", self.roll.index(client))
        count = self.roll.rows + self.held
        width, classes = self.coef.shape
        dtype = self.coef.dtype
        normal = own.child("features").generator().standard_normal((count + 1, width), dtype=dtype.type)
        features = normal[1:] + dtype.type(self.heterogeneity) * normal[0]
        # The largest of logits plus Gumbel noise is a draw from their softmax. The lowest word would give log(0).
        words = uniforms(own.child("label").random_raw(count * classes)).reshape(count, classes)
        noise = -np.log(-np.log(np.maximum(words, 2.0**-53)))
        # In float64, so that libraries which round differently still agree on every label.
        logits = np.matmul(features, self.coef, dtype=np.float64)
        label = np.argmax(logits + noise, axis=1).astype(np.int64)
        # Rows are drawn alike and in no order, so the last ones are as good a test set as any.
        rows, end = self.roll.rows, count
        return ClientDataset(
            {FEATURES: features, LABEL: label},
            {"train": slice(0, rows), "validation": slice(rows, rows), "test": slice(rows, end)},
        )


@component("fedloom.datasets")
def generated(
    clients: int,
    *,
    rows: int = 60,
    features: int = 20,
    classes: int = 2,
    heterogeneity: float = 1.0,
    dtype: Dtype = "float32",
    seed: int = 0,
    test: float = 0.0,
) -> Generated:
    """Return a population of clients that differ in where their features lie and agree on what labels mean.

    A client's features are Gaussian about a centre of its own, ``heterogeneity`` times a Gaussian; labels are drawn
    from the softmax of one linear model that all clients share.

    Args:
        clients: Number of clients, 1 or more.
        rows: Rows of each client, test rows included.
        features: Number of features.
        classes: Number of classes, 2 or more.
        heterogeneity: Spread of the clients' centres; 0 makes all clients alike.
        dtype: Type of the features.
        seed: Governs every draw.
        test: Share of each client's rows that is held back for test, rounded half up, never all of them.

    Raises:
        ComponentError: When a number is outside its range.

    Example:
        >>> data = generated(1_000_000, rows=8, features=3)
        >>> data.client(data.population().id(7)).arrays["features"].shape
        (8, 3)
    """
    for name, value, least in [("clients", clients, 1), ("rows", rows, 1), ("features", features, 1)]:
        if value < least:
            raise ComponentError(f"generated: {name} = {value}; expected {least} or more")
    if classes < 2:
        raise ComponentError(f"generated: classes = {classes}; expected 2 or more")
    if not 0 <= heterogeneity < np.inf:
        raise ComponentError(f"generated: heterogeneity = {heterogeneity}; expected a finite number, 0 or more")
    if dtype not in ("float32", "float64"):
        raise ComponentError(f'generated: dtype = {dtype!r}; expected "float32" or "float64"')
    held = min(int(np.floor(Shares(test).test * rows + 0.5)), rows - 1)
    key = Key.from_seed(seed).child("data", "generated")
    kind = np.float32 if dtype == "float32" else np.float64
    coef = key.child("model").generator().standard_normal((features, classes), dtype=kind)
    return Generated(
        roll=Numbered(clients=clients, rows=rows - held),
        held=held,
        coef=coef * kind(SHARPNESS / np.sqrt(features)),
        heterogeneity=heterogeneity,
        key=key,
    )
