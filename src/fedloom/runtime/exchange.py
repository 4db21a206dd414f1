"""Exchange: what clients send in one program, as a vector and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.ids import RoundNumber
from fedloom.core.metrics import MetricSet, MetricSpec
from fedloom.core.params import ParamSpec, Vector
from fedloom.core.update import Aggregate, Update
from fedloom.core.wire import WireType
from fedloom.errors import Error
from fedloom.pipeline import BoundPipeline, Pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Parts, metrics and weight of an update in wire order, and the pipeline that carries them."""

    parts: Mapping[str, ParamSpec]
    metrics: MetricSpec
    pipeline: BoundPipeline
    silent: bool = False
    """Whether metrics and scores of an update stay at the client: they would be releases of their own."""

    @property
    def wire(self) -> WireType:
        """What enters the pipeline."""
        return self.pipeline.wires[0]

    def check(self, update: Update) -> str | None:
        """Return what is wrong with an update, None when it is as declared and finite."""
        if update.parts.keys() != self.parts.keys():
            return f"the update has the parts {list(update.parts)}; declared were {list(self.parts)}"
        for name, layout in self.parts.items():
            part = update.parts[name]
            if getattr(part, "dtype", np.dtype(object)).kind not in "fiub":
                return f"part {name!r} is a {type(part).__name__}; expected an array of numbers"
            if part.shape != (layout.size,):
                return f"part {name!r} has shape {part.shape}; declared was ({layout.size},)"
        for name, metric in () if self.silent else update.metrics.items():
            if not self.metrics.takes(name, metric):
                return f"metric {name!r} is not as declared: {list(self.metrics.kinds)}"
        if not 0 <= update.weight < float("inf"):
            return f"the weight is {update.weight}; expected a finite number from 0"
        return None

    def rows(self, updates: Sequence[Update]) -> Vector:
        """Return updates as rows of the wire's type: parts, metrics, weight."""
        dim = self.wire.dim
        assert dim is not None, "an exchange is made when the schema is agreed"
        rows = np.empty((len(updates), dim), self.wire.dtype)
        start = 0
        for name, layout in self.parts.items():
            stop = start + layout.size
            for row, update in zip(rows, updates, strict=True):
                row[start:stop] = update.parts[name]
            start = stop
        if self.metrics.size:
            self.metrics.flatten_into(rows[:, start : start + self.metrics.size], [u.metrics for u in updates])
        if self.wire.weight:
            weights = np.array([update.weight for update in updates], np.float64)
            rows[:, start + self.metrics.size :] = self.wire.split_weight(weights)
        return rows

    def aggregate(
        self, decoded: Vector, *, clients: float, population: float, examples: int | None, round_number: RoundNumber
    ) -> Aggregate:
        """Return a decoded sum as an aggregate; parts have the wire's input type again.

        ``examples`` is the number of training rows of the whole population where weights are rows, else None.
        """
        parts: dict[str, Vector] = {}
        start = 0
        for name, layout in self.parts.items():
            parts[name] = decoded[start : start + layout.size].astype(self.wire.dtype)
            start += layout.size
        weight = float(self.wire.weights(decoded[None])[0, 0]) if self.wire.weight else clients
        return Aggregate(
            parts=parts,
            weight=weight,
            clients=clients,
            participation=clients / population if examples is None else weight / examples,
            round=round_number,
            metrics=self.read_metrics(decoded[start : start + self.metrics.size]),
        )

    def read_metrics(self, decoded: Vector) -> MetricSet:
        """Return the metrics of a decoded tail."""
        return self.metrics.unflatten(decoded)


def exchange(
    parts: Mapping[str, ParamSpec],
    metrics: MetricSpec,
    pipeline: Pipeline,
    *,
    dtype: str,
    weight: bool,
    max_weight: float | None = None,
    most_clients: int | None = None,
    fewest_clients: int | None = None,
    silent: bool = False,
    record: float | None = None,
) -> Exchange:
    """Return the exchange of a program, its pipeline bound to the size and type of its vector.

    ``most_clients`` is how many a round invites at most; a pipeline whose sum could overflow must know it, and one that
    shares noise out ``fewest_clients`` too. ``silent`` keeps metrics and scores at the client. ``record`` bounds what
    one row changes in the parts.

    Raises:
        PipelineError: When a stage cannot work on it.
        Error: When two parts have one name.
    """
    two_words = weight and max_weight is None and dtype == "float32"
    dim = sum(layout.size for layout in parts.values()) + metrics.size + weight + two_words
    wire = WireType(
        dim=dim,
        dtype=dtype,
        metrics=metrics.size,
        weight=weight,
        two_words=two_words,
        max_weight=max_weight,
        most_clients=most_clients,
        fewest_clients=fewest_clients,
        record=record,
    )
    if dim == 0:
        raise Error("a program whose clients send nothing: declare parts or metrics")
    return Exchange(parts=parts, metrics=metrics, pipeline=pipeline.bind(wire), silent=silent)
