"""Rows of a client as its learner shall see them: transforms applied, kept for reuse within a budget of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from fedloom.core.data import ClientDataset, FederatedDataset, Schema, Transform
from fedloom.core.ids import ClientId

_BUDGET_BYTES = 64 << 20


class PreparedData:
    """The clients of a data set behind a growing list of transforms."""

    def __init__(self, dataset: FederatedDataset, *, budget_bytes: int = _BUDGET_BYTES) -> None:
        self.dataset = dataset
        self.schema: Schema = dataset.schema()
        self._transforms: list[Transform] = []
        self._budget = budget_bytes
        self._kept: OrderedDict[ClientId, tuple[ClientDataset, int]] = OrderedDict()
        self._kept_bytes = 0

    @property
    def transforms(self) -> Sequence[Transform]:
        """What has been agreed so far, in order of application."""
        return self._transforms

    def add(self, transform: Transform) -> None:
        """Apply one more transform to every client from now on."""
        self._transforms.append(transform)
        self.schema = transform.schema(self.schema)
        self._kept.clear()
        self._kept_bytes = 0

    def client(self, client: ClientId) -> ClientDataset:
        """Return the rows of a client; transformed copies are kept, the least lately used dropped first."""
        if not self._transforms:
            return self.dataset.client(client)
        found = self._kept.pop(client, None)
        if found is None:
            data = self.dataset.client(client)
            for transform in self._transforms:
                data = transform.apply(data)
            found = (data, sum(array.nbytes for array in data.arrays.values()))
            self._kept_bytes += found[1]
        self._kept[client] = found
        while self._kept_bytes > self._budget and len(self._kept) > 1:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._kept_bytes -= dropped
        return found[0]
