"""RoundPolicy: what a round needs to count, and what happens when it does not get it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedloom.errors import ComponentError


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPolicy:
    """When a round has enough updates.

    Args:
        quorum: Updates needed: a number of clients, or a fraction of those invited (rounded up). At least one always.
        on_short: With fewer: "retry" opens the round again with a fresh cohort, "skip" goes on without it, "stop" ends
            the run.
        retries: How often one round is opened again before the run stops.

    Raises:
        ComponentError: When a number is outside its range.

    Example:
        >>> RoundPolicy(quorum=0.5).needed(5), RoundPolicy(quorum=4).needed(3)
        (3, 4)
    """

    quorum: int | float = 0.5
    on_short: Literal["retry", "skip", "stop"] = "retry"
    retries: int = 3

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        whole = isinstance(self.quorum, int) and not isinstance(self.quorum, bool)
        if not (self.quorum >= 1 if whole else 0 < self.quorum <= 1):
            raise ComponentError(f"policy.quorum = {self.quorum}: expected clients (1 or more) or a fraction in (0, 1]")
        if self.retries < 0:
            raise ComponentError(f"policy.retries = {self.retries}: expected 0 or more")

    def needed(self, invited: int) -> int:
        """Return the number of updates that a round with ``invited`` clients needs."""
        if isinstance(self.quorum, int):
            return self.quorum
        return max(1, math.ceil(self.quorum * invited))
