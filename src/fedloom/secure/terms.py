"""Terms: all that the parties of one secure sum must agree on, and the session id that binds it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedloom.core.aggregator import SumRound
from fedloom.core.roster import Roster
from fedloom.errors import PlanError
from fedloom.secure.encoding import frame
from fedloom.secure.thresholds import check_threshold

VERSION = "fedloom/sa/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How many must take part, answer and be honest, in a cohort of known size."""

    threshold: int
    """Clients that can open the sum together; fewer learn nothing from what they hold."""
    survivors: int
    """Vectors that a sum must have to be opened."""
    colluders: int
    """Clients that may tell the server all they know."""
    neighbours: int = 0
    """Degree of the graph of clients that share masks; 0: each with every other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What a client insists on, whatever a plan or a server says."""

    invited: int = 3
    survivors: int = 3
    max_weight: float | None = None
    """The largest weight that a plan may let a client have; None: any."""
    l2: float | None = None
    """The longest vector, in steps, that a plan may let a client send; None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """One session. Each party writes it down from what it holds itself; nobody takes a session id from another.

    Raises:
        PlanError: When the numbers promise nothing: see ``check_threshold``.
    """

    about: SumRound
    rules: Rules
    federation: str
    roster: bytes
    """Digest of the roster that the party has approved."""

    def __post_init__(self) -> None:
        """Refuse terms under which the protocol would not hold."""
        rules, invited = self.rules, self.about.invited
        if not rules.neighbours:
            check_threshold(invited, rules.threshold, rules.colluders)
        if rules.survivors > invited:
            raise PlanError(f"{invited} clients were invited; a sum of fewer than {rules.survivors} is not opened")
        if rules.survivors - rules.colluders < 2:
            raise PlanError(
                f"{rules.survivors} survivors of whom {rules.colluders} collude: what is left of the sum is one "
                "client's vector"
            )

    @property
    def sid(self) -> bytes:
        """SHA-256 of the terms: part of every signature and every derived key."""
        about, rules, wire = self.about, self.rules, self.about.wire
        noise = (wire.noise_multiplier, wire.noise_each, wire.noise_shares, wire.honest)
        return hashlib.sha256(
            frame(
                VERSION, self.federation, about.run, about.digest, about.phase, about.program, about.round, about.retry,
                self.roster, about.order,
                _text(wire.dim), wire.dtype, _text(wire.step), _text(wire.l2), _text(wire.clipped), _text(wire.record),
                wire.metrics, _text(wire.weight), _text(wire.max_weight), *(_text(each) for each in noise),
                about.invited, rules.threshold, rules.survivors, rules.colluders, rules.neighbours,
            )
        ).digest()  # fmt: skip

    def check_floors(self, floors: Floors) -> None:
        """Refuse terms below a client's own limits.

        Raises:
            PlanError: With the limit.
        """
        wire = self.about.wire
        if self.about.invited < floors.invited:
            raise PlanError(
                f"{self.about.invited} clients were invited; this client takes part from {floors.invited} on"
            )
        if self.rules.survivors < floors.survivors:
            raise PlanError(
                f"the sum is opened from {self.rules.survivors} vectors on; this client wants {floors.survivors}"
            )
        if floors.max_weight is not None and (wire.max_weight is None or wire.max_weight > floors.max_weight):
            raise PlanError(f"weights up to {wire.max_weight} may travel; this client allows {floors.max_weight}")
        if floors.l2 is not None and (wire.l2 is None or wire.l2 > floors.l2):
            raise PlanError(f"vectors up to {wire.l2} long may travel; this client allows {floors.l2}")


def terms_of(about: SumRound, rules: Rules, roster: Roster) -> Terms:
    """Return the terms of a session as one party holds them."""
    return Terms(about=about, rules=rules, federation=roster.federation, roster=roster.digest)


def _text(value: float | bool | int | None) -> str:
    """Return a number in a form that two machines write alike."""
    return value.hex() if isinstance(value, float) else repr(value)
