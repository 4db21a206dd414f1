"""Refusals of a site: why it takes no part in a run, in words for its operator and as a code for the coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Code: TypeAlias = Literal[
    "POLICY_COMPONENT",
    "POLICY_TASK",
    "POLICY_COORDINATOR",
    "POLICY_ROUNDS",
    "POLICY_RUNS",
    "POLICY_MIN_N",
    "POLICY_PROTECTION",
    "POLICY_COHORT",
    "POLICY_EPSILON",
    "POLICY_BYTES",
    "POLICY_HOURS",
    "POLICY_METRICS",
    "POLICY_REHEARSAL",
    "NO_DATA",
    "SCHEMA",
    "DATA_CHANGED",
    "VERSIONS",
    "PLAN",
]
"""Stable: a coordinator and its reports tell refusals apart by these."""

Number: TypeAlias = int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One reason.

    Example:
        >>> refusal = Refusal(code="POLICY_ROUNDS", words="...", limit=100, request=500)
        >>> refusal.told
        {'code': 'POLICY_ROUNDS', 'limit': 100, 'request': 500}
    """

    code: Code
    words: str
    """For the operator of the site, with all that there is to say. It stays at the site."""
    limit: Number | None = None
    """What the policy allows, where that is a setting and tells nothing of rows."""
    request: Number | None = None
    """What the run asks for: the coordinator has said so itself."""
    field: str = field(default="")
    """The part of the experiment that is meant, which the coordinator knows; empty where there is none."""

    @property
    def told(self) -> Mapping[str, Number]:
        """What the coordinator is told: never a word of rows, nor how many there are."""
        given = {"code": self.code, "field": self.field or None, "limit": self.limit, "request": self.request}
        return {key: value for key, value in given.items() if value is not None}

    def __str__(self) -> str:
        """Return it as a line for the operator."""
        return f"{self.code}: {self.words}"
