"""Guarantee: what a figure promises, in words that leave nothing to guess."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedloom.errors import ComponentError

Unit: TypeAlias = Literal["client", "record"]
"""Whose data one guarantee hides: all rows of a client, or one row."""

Adjacency: TypeAlias = Literal["zero_out", "add_remove", "replace_one"]
"""What differs between two neighbours: one unit contributes zero, is not there, or has other data."""

Method: TypeAlias = Literal["best", "pld", "rdp", "gaussian_limit"]
"""How to price: the least of the proven ways; privacy loss distributions; Renyi divergences; or integer noise as if it
were continuous, which is no proof."""

Way: TypeAlias = Literal["pld", "rdp", "analytic", "pure", "gaussian_limit", "none"]
"""How a figure came about; "analytic" is the closed form for Gaussian noise, "none" stands beside infinity."""

_UNITS: dict[Unit, str] = {"client": "all rows of one client", "record": "one record"}
_NEIGHBOURS: dict[Adjacency, str] = {
    "zero_out": "replaced by a contribution of zero",
    "add_remove": "added or removed",
    "replace_one": "replaced by any other",
}
_WAYS: dict[Way, str] = {
    "pld": "privacy loss distribution",
    "rdp": "Renyi divergences",
    "analytic": "closed form of Gaussian noise",
    "pure": "basic composition",
    "gaussian_limit": "continuous noise in place of integer noise: not proven",
    "none": "a release without protection",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """An (epsilon, delta) with all that it takes to read it.

    Example:
        >>> print(
        ...     Guarantee(
        ...         epsilon=1.83,
        ...         delta=1e-5,
        ...         unit="client",
        ...         adjacency="zero_out",
        ...         method="pld",
        ...         reader="reader of the models",
        ...     ).words
        ... )
        epsilon 1.83 at delta 1e-05 against a reader of the models: all rows of one client,
        replaced by a contribution of zero (privacy loss distribution)
    """

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency
    method: Way
    reader: str = "reader of all releases"
    """Against whom."""

    @property
    def proven(self) -> bool:
        """Whether the figure is an upper bound for the noise as it is drawn."""
        return self.method != "gaussian_limit"

    @property
    def words(self) -> str:
        """The guarantee in one sentence; epsilon is rounded up."""
        figure = "infinite" if math.isinf(self.epsilon) else f"{rounded_up(self.epsilon):g}"
        return (
            f"epsilon {figure} at delta {self.delta:g} against a {self.reader}: {_UNITS[self.unit]}, "
            f"{_NEIGHBOURS[self.adjacency]} ({_WAYS[self.method]})"
        )


def rounded_up(epsilon: float, digits: int = 4) -> float:
    """Return a figure with so many significant digits that is not below it.

    Example:
        >>> rounded_up(1.828243)
        1.829
    """
    if epsilon <= 0 or math.isinf(epsilon):
        return epsilon
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(epsilon)))
    return math.ceil(epsilon * scale * (1 - 1e-12)) / scale


def check_target(*, epsilon: float | None = None, delta: float | None = None) -> None:
    """Refuse an epsilon or a delta that is no such number.

    Raises:
        ComponentError: When epsilon is negative, infinite or not a number, or delta is not from 0 to below 1.
    """
    if epsilon is not None and not 0 <= epsilon < math.inf:
        raise ComponentError(f"epsilon={epsilon}: expected a number from 0, and finite")
    if delta is not None and not 0 <= delta < 1:
        raise ComponentError(
            f"delta={delta}: expected a number from 0 to below 1, and below 1 over the number of units to mean anything"
        )
