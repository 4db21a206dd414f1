"""What one client sends, and what comes out of the sum of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from fedloom.core.ids import RoundNumber
from fedloom.core.metrics import MetricSet
from fedloom.core.params import Vector


class Update(Struct, frozen=True):
    """One client's contribution: named parts as ``Algorithm.parts`` declares, weight, metrics.

    ``scores`` are this client's own figures; they travel only where the aggregator shows single messages anyway.
    """

    parts: Mapping[str, Vector]
    weight: float
    metrics: MetricSet = {}
    scores: Mapping[str, float | None] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """The decoded sum of a round: under ``mean``, parts are means; metrics are sums.

    ``participation`` is ``|S| / N`` under uniform weighting; under example weighting the share of all training rows
    that the included clients hold, where the population tells it, else ``|S| / N``.
    """

    parts: Mapping[str, Vector]
    weight: float
    clients: float
    participation: float
    round: RoundNumber
    metrics: MetricSet = field(default_factory=dict)

    def __getitem__(self, part: str) -> Vector:
        """Return one part."""
        return self.parts[part]
