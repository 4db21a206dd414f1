"""PrivacyTarget: what a run promises about privacy, stated by whoever plans it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedloom.errors import ComponentError
from fedloom.privacy.guarantee import Adjacency, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyTarget:
    """What a run promises: whose data, at which delta, and at most which epsilon.

    Args:
        unit: Whose data the promise hides: "client", all rows of a client; or "record", one row. It must be what the
            experiment protects.
        delta: The chance that the promise does not cover; far below one over the number of units.
        epsilon: The most that the run may cost: a plan that costs more is refused. None: as much as it costs.
        reader: Against whom ``epsilon`` is meant: "participation", anyone who may know who took part in which round;
            or "models", one who sees models and nothing else of the run, against whom secret sampling counts.
        adjacency: What differs between two neighbours; None: "zero_out" for clients, "add_remove" for records.
        data_set: Id of the data in the privacy ledger, which then counts all runs over them; None: no ledger.

    Raises:
        ComponentError: When a number is outside its range.

    Example:
        >>> PrivacyTarget(unit="client", delta=1e-5, epsilon=8.0).neighbours
        'zero_out'
    """

    unit: Unit
    delta: float
    epsilon: float | None = None
    reader: Literal["participation", "models"] = "participation"
    adjacency: Adjacency | None = None
    data_set: str | None = None

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        if not 0 <= self.delta < 1:
            raise ComponentError(
                f"privacy.delta = {self.delta}: expected a chance from 0, far below 1 / (number of units)"
            )
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ComponentError(f"privacy.epsilon = {self.epsilon}: expected a number above 0, or leave it out")

    @property
    def neighbours(self) -> Adjacency:
        """The adjacency, the default of the unit where none is stated."""
        if self.adjacency is not None:
            return self.adjacency
        return "zero_out" if self.unit == "client" else "add_remove"
