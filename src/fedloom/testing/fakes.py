"""Small stand-ins: a data set in a mapping, problems whose optima are far apart, an algorithm that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedloom.core.algorithm import Algorithm, ClientContext, ClientProgram
from fedloom.core.component import ComponentSpec
from fedloom.core.data import FEATURES, LABEL, ClientDataset, FederatedDataset, Population, Schema
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.learner import Learner
from fedloom.core.metrics import NO_METRICS
from fedloom.core.params import Leaf, ParamSpec, Vector
from fedloom.core.update import Aggregate, Update
from fedloom.errors import DataError

Task = Literal["binary", "classes", "regression"]


@dataclass(frozen=True, slots=True)
class Names:
    """Population of a ``ListDataset``: clients in name order, with their training rows."""

    names: tuple[ClientId, ...]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.names)

    def id(self, index: int) -> ClientId:
        """Return the client at ``index``."""
        return self.names[index]

    def index(self, client: ClientId) -> int:
        """Return the index of a client."""
        return self.names.index(client)

    def size(self, index: int) -> int:
        """Return the number of training rows of the client at ``index``."""
        return self.rows[index]

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the training rows of all clients."""
        return np.array(self.rows)

    @property
    def examples(self) -> int | None:
        """Training rows of all clients together."""
        return sum(self.rows)


@dataclass(frozen=True, slots=True)
class ListDataset:
    """A federated data set over a mapping of client name to rows.

    Example:
        >>> data = ListDataset({"b": rows(Key.from_seed(1), 3), "a": rows(Key.from_seed(2), 5)}, schema_of("binary"))
        >>> [data.population().id(0), data.population().size(0), data.population().examples]
        ['a', 5, 8]
    """

    clients: Mapping[str, ClientDataset]
    columns: Schema
    spec: ComponentSpec | None = None
    fingerprint: str | None = None

    def population(self) -> Population:
        """Return all clients, in name order."""
        names = sorted(self.clients)
        return Names(tuple(map(ClientId, names)), tuple(self.clients[name].count("train") for name in names))

    def schema(self) -> Schema:
        """Return what the columns mean."""
        return self.columns

    def client(self, client: ClientId) -> ClientDataset:
        """Return the rows of one client."""
        if client not in self.clients:
            raise DataError(f"there is no client {client!r}")
        return self.clients[client]


def schema_of(task: Task, *, columns: int = 3) -> Schema:
    """Return the schema of the rows that ``rows`` makes."""
    names = tuple(f"x{number}" for number in range(columns))
    classes = {"binary": ("no", "yes"), "classes": ("a", "b", "c"), "regression": None}[task]
    return Schema(names, label="y", classes=classes)


def rows(
    key: Key, count: int, *, task: Task = "binary", columns: int = 3, dtype: str = "float64", test: int = 0
) -> ClientDataset:
    """Return ``count`` training rows and ``test`` test rows drawn from a key; classes depend on the features.

    Example:
        >>> data = rows(Key.from_seed(1), 4, test=2)
        >>> data.arrays["features"].shape, data.count("train"), data.count("test")
        ((6, 3), 4, 2)
    """
    draw = key.generator()
    features = draw.standard_normal((count + test, columns))
    noise = draw.standard_normal(count + test)
    signal = features @ np.linspace(1.0, -0.5, columns) + noise
    label: Vector = signal
    if task == "binary":
        label = (signal > 0).astype(np.int64)
    elif task == "classes":
        label = np.digitize(signal, [-0.5, 0.7])
    arrays = {FEATURES: features.astype(dtype), LABEL: label}
    return ClientDataset(arrays, {"train": slice(0, count), "test": slice(count, count + test)})


def federation(
    sizes: Sequence[int],
    *,
    seed: int = 1,
    task: Task = "binary",
    columns: int = 3,
    dtype: str = "float64",
    test: int = 0,
) -> ListDataset:
    """Return clients ``a``, ``b``, ... with these numbers of training rows."""
    key = Key.from_seed(seed)
    names = [f"{number:04d}" if len(sizes) > 26 else chr(ord("a") + number) for number in range(len(sizes))]
    clients = {
        name: rows(key.child(name), size, task=task, columns=columns, dtype=dtype, test=test)
        for name, size in zip(names, sizes, strict=True)
    }
    return ListDataset(clients, schema_of(task, columns=columns))


def two_quadratics(*, small: int = 8, large: int = 24, columns: int = 2, seed: int = 3) -> ListDataset:
    """Return two regression clients of unequal size whose optima are far apart.

    The optimum of the pooled rows and that of the mean of the two objectives then differ by more than 0.01 as well, so
    a mix-up of weights fails clearly.
    """
    clients: dict[str, ClientDataset] = {}
    for name, size, slope, shift in (("large", large, 2.0, 1.0), ("small", small, -3.0, -2.0)):
        draw = Key.from_seed(seed).child(name).generator()
        features = draw.standard_normal((size, columns))
        label = features @ np.full(columns, slope) + shift + 0.1 * draw.standard_normal(size)
        clients[name] = ClientDataset({FEATURES: features, LABEL: label}, {"train": slice(0, size)})
    return ListDataset(clients, schema_of("regression", columns=columns))


def pooled_rows(data: FederatedDataset) -> ClientDataset:
    """Return the training rows of all clients as those of one, in client order."""
    population = data.population()
    parts = [data.client(population.id(index)).split("train").arrays for index in range(len(population))]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ClientDataset(arrays, {"train": slice(0, len(arrays[LABEL]))})


def minimise(learner: Learner, data: FederatedDataset, shares: Mapping[str, float]) -> Vector:
    """Return the minimum of ``sum_k shares[k] f_k`` of a learner with a quadratic objective.

    One Newton step from zero: the Hessian's columns are differences of gradients, exact for a quadratic.
    """
    size = learner.layout.size

    def slope(at: Vector) -> Vector:
        total = np.zeros(size)
        for name, share in shares.items():
            total += share * learner.gradient(at, data.client(ClientId(name)).split("train")).gradient
        return total

    start = slope(np.zeros(size))
    hessian = np.stack([slope(unit) - start for unit in np.eye(size)])
    minimum: Vector = np.linalg.solve(hessian, -start)
    return minimum


@dataclass(frozen=True, slots=True)
class Tally:
    """How often each client was in the sum, and the sum of what each said it had counted before."""

    counts: Vector
    before: Vector


def counting(population: Population) -> Algorithm[Tally, int, int]:
    """Return an algorithm that trains nothing: its server counts, by client, the rounds it was in the sum.

    A client's state is the number of its own committed rounds, and it sends that too. After any history of losses,
    retries and crashes ``counts`` must be the numbers in the records, and ``before`` the sums ``0 + 1 + ...`` below
    them: a reply that was counted twice, or a state that was committed without its round, breaks one of the two.
    """
    size = len(population)

    def client(_round: int, seen: int, ctx: ClientContext) -> ClientProgram[int]:
        mine = np.zeros(size)
        mine[population.index(ctx.client)] = 1.0
        yield from ()  # a generator that asks nothing
        return Update({"counts": mine, "before": mine * seen}, 1.0), seen + 1

    def step(state: Tally, total: Aggregate) -> Tally:
        return Tally(state.counts + total["counts"], state.before + total["before"])

    layout = ParamSpec((Leaf("client", (size,)),))
    return Algorithm(
        name="counting",
        init=lambda _params: Tally(np.zeros(size), np.zeros(size)),
        broadcast=lambda _state: 0,
        client_init=lambda _broadcast: 0,
        client=client,
        step=step,
        params=lambda state: state.counts,
        parts=lambda _layout: {"counts": layout, "before": layout},
        metrics=NO_METRICS,
        weighting="uniform",
    )
