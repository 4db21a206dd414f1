"""Metrics that merge like sums, so that they are as reproducible as the model.

A metric over many clients is the merge of the clients' metrics in any order. Those that are sums (``Mean``, ``Count``,
``Histogram``) also ride as coordinates of the wire vector; ``Max`` merges only where it is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

import numpy as np
from msgspec import Struct

from fedloom.core.params import Vector
from fedloom.errors import Error


class Mean(Struct, frozen=True):
    """A weighted mean, kept as its two sums."""

    total: float
    weight: float

    @property
    def value(self) -> float:
        """The mean; NaN without weight."""
        return self.total / self.weight if self.weight else float("nan")


class Count(Struct, frozen=True):
    """A number of things."""

    count: float

    @property
    def value(self) -> float:
        """The count."""
        return self.count


class Max(Struct, frozen=True):
    """The largest of some numbers."""

    largest: float

    @property
    def value(self) -> float:
        """The maximum."""
        return self.largest


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts by bin, in a vector of fixed length."""

    counts: Vector


Metric: TypeAlias = Mean | Count | Max | Histogram
MetricSet: TypeAlias = Mapping[str, Metric]


Kind: TypeAlias = type[Mean] | type[Count] | int
"""How a metric rides in a vector: two coordinates for a mean, one for a count, ``bins`` for a histogram."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """Names and kinds of the metrics of one program, in wire order.

    Example:
        >>> spec = MetricSpec({"loss": Mean, "scores": 3})
        >>> spec.size, spec.flatten({"loss": Mean(6.0, 3.0), "scores": Histogram(np.ones(3))}).tolist()
        (5, [6.0, 3.0, 1.0, 1.0, 1.0])
    """

    kinds: Mapping[str, Kind]
    size: int = field(init=False, compare=False, repr=False)
    """Number of coordinates."""

    def __post_init__(self) -> None:
        """Add the widths up once: they are asked for with every message."""
        object.__setattr__(self, "size", sum(_width(kind) for kind in self.kinds.values()))

    def takes(self, name: str, metric: Metric) -> bool:
        """Return whether a metric has a declared name, and the kind declared for it."""
        kind = self.kinds.get(name)
        return metric.counts.shape == (kind,) if isinstance(metric, Histogram) else type(metric) is kind

    def flatten(self, metrics: MetricSet) -> Vector:
        """Return the coordinates of a metric set; a metric that it lacks counts as nothing.

        Raises:
            Error: When the set has a metric that the spec does not name, or one of another kind.
        """
        if not metrics.keys() <= self.kinds.keys():
            raise Error(f"metrics {sorted(metrics.keys() - self.kinds.keys())} were not declared: {list(self.kinds)}")
        parts = [_coordinates(name, metrics.get(name), kind) for name, kind in self.kinds.items()]
        return np.concatenate(parts) if len(parts) > 1 else np.array(parts[0] if parts else (), np.float64)

    def flatten_into(self, rows: Vector, metrics: Sequence[MetricSet]) -> None:
        """Write the coordinates of several metric sets that the spec takes, one a row."""
        start = 0
        for name, kind in self.kinds.items():
            stop = start + _width(kind)
            rows[:, start:stop] = [_coordinates(name, each.get(name), kind) for each in metrics]
            start = stop

    def unflatten(self, vector: Vector) -> dict[str, Metric]:
        """Return the metrics of a summed vector."""
        metrics: dict[str, Metric] = {}
        start = 0
        for name, kind in self.kinds.items():
            part = vector[start : start + _width(kind)]
            start += _width(kind)
            if isinstance(kind, int):
                metrics[name] = Histogram(np.asarray(part, dtype=np.float64))
            elif kind is Mean:
                metrics[name] = Mean(float(part[0]), float(part[1]))
            else:
                metrics[name] = Count(float(part[0]))
        return metrics


NO_METRICS = MetricSpec({})


def _width(kind: Kind) -> int:
    return kind if isinstance(kind, int) else 2 if kind is Mean else 1


def _coordinates(name: str, metric: Metric | None, kind: Kind) -> Sequence[float] | Vector:
    match metric:
        case None:
            return [0.0] * _width(kind)
        case Mean() if kind is Mean:
            return [metric.total, metric.weight]
        case Count() if kind is Count:
            return [metric.count]
        case Histogram() if metric.counts.shape == (kind,):
            return metric.counts
    raise Error(f"metric {name!r} is {type(metric).__name__}; the program declared {kind}")


def merge(left: MetricSet, right: MetricSet) -> dict[str, Metric]:
    """Return the metrics of two groups of rows taken together.

    Example:
        >>> merge({"loss": Mean(1.0, 1.0)}, {"loss": Mean(5.0, 2.0)})["loss"].value
        2.0
    """
    merged: dict[str, Metric] = dict(left)
    for name, metric in right.items():
        merged[name] = _merge_one(name, merged[name], metric) if name in merged else metric
    return merged


def _merge_one(name: str, left: Metric, right: Metric) -> Metric:
    match left, right:
        case Mean(), Mean():
            return Mean(left.total + right.total, left.weight + right.weight)
        case Count(), Count():
            return Count(left.count + right.count)
        case Max(), Max():
            return Max(max(left.largest, right.largest))
        case Histogram(), Histogram():
            return Histogram(left.counts + right.counts)
        case ((Mean() | Count() | Max() | Histogram()), _):
            raise Error(f"metric {name!r}: {type(left).__name__} does not merge with {type(right).__name__}")
    assert_never(left)
