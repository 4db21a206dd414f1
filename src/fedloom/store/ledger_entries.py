"""Rows of a privacy ledger as values, and each as one line of canonical JSON.

An entry never changes and is never removed: what a run still holds, and what a data set has spent, is read off all of
them in their order (``ledger_books``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from fedloom.core.component import Json, canonical_json
from fedloom.core.events import DpEvent
from fedloom.errors import BudgetError
from fedloom.privacy.guarantee import Adjacency, Unit
from fedloom.store.events import decode_event, encode_event
from fedloom.store.ledger_price import Price

T = TypeVar("T")

Composition = Literal["basic", "rdp"]
ReleaseKey: TypeAlias = tuple[int, int, int]
"""Phase, round, retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may ever be released of a data set, counted in one way; fixed when it is registered.

    Args:
        data_set: The id that the owner declares. Never made from the content, or a changed row would buy a new budget.
        unit: Whose data the guarantee hides: a client's, or one record.
        adjacency: What "without it" means.
        epsilon: Above 0; infinite to write down without a limit.
        delta: From 0 to below 1; above 0 under "rdp".
        composition: Across runs: "basic" adds what runs have reserved. "rdp" adds Renyi divergences, and gives back
            what a run reserved and did not use.
        shares_units_with: Ids that may hold the same people; an event of one counts for all, either way round.

    Raises:
        BudgetError: When a value is outside its range.
    """

    data_set: str
    unit: Unit
    adjacency: Adjacency
    epsilon: float
    delta: float
    composition: Composition
    shares_units_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value; the ids of others are sorted, each once."""
        for name in (self.data_set, *self.shares_units_with):
            check_name(name, what="data set")
        others = tuple(sorted(set(self.shares_units_with) - {self.data_set}))
        object.__setattr__(self, "shares_units_with", others)
        where = f"budget of data set {self.data_set!r}"
        check_word(self.unit, ("client", "record"), where=f"{where}: unit")
        check_word(self.adjacency, ("zero_out", "add_remove", "replace_one"), where=f"{where}: adjacency")
        check_word(self.composition, ("basic", "rdp"), where=f"{where}: composition")
        if not self.epsilon > 0:
            raise BudgetError(f"{where}: epsilon is {self.epsilon!r}; expected a number above 0")
        if not 0 <= self.delta < 1:
            raise BudgetError(f"{where}: delta is {self.delta!r}; expected 0 or more, below 1")
        if self.composition == "rdp" and self.delta == 0:
            raise BudgetError(f"{where}: delta is 0; composition 'rdp' needs one above 0. Use 'basic' for pure privacy")

    @property
    def price(self) -> Price:
        """The limit."""
        return Price(self.epsilon, self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The worst case of one run on one data set, priced by who plans the run.

    A run may commit ``releases`` events. Where ``rdp`` is given, their divergences add up to at most these at every
    order; where ``events`` is given, each is one of these. One of the two is needed, or a weaker noise than planned
    would pass.

    Args:
        epsilon: Of the whole run, at ``delta``; infinite for releases without protection.
        delta: From 0 to 1.
        releases: Events at most.
        rdp: Renyi divergences of the whole run at the orders of the ledger; () where there is no such curve.
        events: Every event that the plan foresees; () for any.

    Raises:
        BudgetError: When a value is outside its range.
    """

    epsilon: float
    delta: float
    releases: int
    rdp: tuple[float, ...] = ()
    events: tuple[DpEvent, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        if not self.epsilon >= 0 or not 0 <= self.delta <= 1:
            raise BudgetError(
                f"a reservation has epsilon {self.epsilon!r} and delta {self.delta!r}; expected an epsilon of 0 or "
                "more and a delta from 0 to 1"
            )
        if self.releases < 0:
            raise BudgetError(f"a reservation has {self.releases} releases; expected 0 or more")
        check_curve(self.rdp)
        if self.releases and not self.rdp and not self.events:
            raise BudgetError(
                "a reservation names neither Renyi divergences nor events, so no release could be checked against it. "
                "Give rdp, or events where no such divergence is known"
            )
        if math.isfinite(self.epsilon) and any(unprotected(event_tree(event)) for event in self.events):
            raise BudgetError(
                f"a reservation of epsilon {self.epsilon:g} names an event without protection: its epsilon is infinite"
            )

    @property
    def price(self) -> Price:
        """What the run may cost by itself."""
        return Price(self.epsilon, self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The first row: which ledger this is."""

    ledger: str
    orders: tuple[float, ...]
    format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A data set has a budget from here on."""

    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A run holds its worst case on a data set from here on."""

    run: str
    data_set: str
    epsilon: float
    delta: float
    releases: int
    rdp: tuple[float, ...]
    events: tuple[Json, ...]
    fingerprint: str | None
    overspent: bool = False
    """Written down after the fact, although the budget did not reach."""

    @property
    def worst(self) -> Reservation:
        """What was reserved."""
        return Reservation(
            epsilon=self.epsilon,
            delta=self.delta,
            releases=self.releases,
            rdp=self.rdp,
            events=tuple(decode_event(canonical_json(tree)) for tree in self.events),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A release is charged: it may be made from here on."""

    run: str
    data_set: str
    key: ReleaseKey
    event: Json
    rdp: tuple[float, ...]
    fingerprint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was released under a key stands in the store, and is never drawn again."""

    run: str
    data_set: str
    key: ReleaseKey
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run releases nothing more."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A person took the ledger as it was, although rows that a head had counted were gone, or the head itself was."""

    rows: int | None
    sha256: str | None


Entry: TypeAlias = Created | Registered | Reserved | Committed | Kept | Finished | Accepted

KINDS: Mapping[str, type[Entry]] = {
    "created": Created,
    "registered": Registered,
    "reserved": Reserved,
    "committed": Committed,
    "kept": Kept,
    "finished": Finished,
    "accepted": Accepted,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def encode_entry(row: int, entry: Entry, *, at: str) -> bytes:
    """Return an entry as canonical JSON: row, time, kind, fields. An infinite number is the text "inf".

    Example:
        >>> encode_entry(7, Finished(run="r1"), at="2026-11-21T12:00:00+00:00")
        b'[7,"2026-11-21T12:00:00+00:00","finished",{"run":"r1"}]'
    """
    return canonical_json([row, at, _NAMES[type(entry)], _finite(msgspec.to_builtins(entry))])


def decode_entry(data: bytes) -> tuple[int, str, Entry]:
    """Return row, time and entry that ``data`` encodes.

    Raises:
        ValueError: When it encodes none.

    Example:
        >>> decode_entry(encode_entry(7, Finished(run="r1"), at="now"))
        (7, 'now', Finished(run='r1'))
    """
    match msgspec.json.decode(data):
        case [int(row), str(at), str(kind), dict(fields)] if kind in KINDS:
            try:
                # Not strict: "inf" is a number where a number is expected.
                return row, at, msgspec.convert(fields, KINDS[kind], strict=False)
            except BudgetError as error:
                raise ValueError(str(error)) from error
    raise ValueError("it is no entry that this build knows")


def event_tree(event: DpEvent) -> Json:
    """Return an event as plain JSON.

    Raises:
        BudgetError: When it holds a number that JSON has not.
    """
    data = encode_event(event)
    try:
        same = decode_event(data) == event
    except ValueError:
        same = False
    if not same:
        raise BudgetError(f"{event!r} cannot be written down: every number of a privacy event is finite")
    tree: Json = msgspec.json.decode(data)
    return tree


def unprotected(tree: Json) -> bool:
    """Return whether an event, as plain JSON, holds a release that nothing protects.

    Example:
        >>> unprotected(["SelfComposedDpEvent", ["NonPrivateDpEvent"], 3]), unprotected(["GaussianDpEvent", 1.5])
        (True, False)
    """
    return isinstance(tree, list) and (tree[:1] == ["NonPrivateDpEvent"] or any(map(unprotected, tree)))


def check_name(name: str, *, what: str) -> None:
    """Check that a name can stand in a table and in a message.

    Raises:
        BudgetError: When it is empty, too long, or holds what does not print.
    """
    if not name or len(name) > 200 or not name.isprintable() or name != name.strip():
        raise BudgetError(f"{what} {name!r}: expected 1 to 200 printable characters, no space at either end")


def check_word(word: str, words: tuple[str, ...], *, where: str) -> None:
    """Check that a word is one of a closed set.

    Raises:
        BudgetError: When it is not.
    """
    if word not in words:
        raise BudgetError(f"{where} is {word!r}; expected one of {', '.join(words)}")


def check_curve(rdp: tuple[float, ...]) -> None:
    """Check that divergences are not negative.

    Raises:
        BudgetError: When one is, or is no number.
    """
    if not all(divergence >= 0 for divergence in rdp):
        raise BudgetError(f"Renyi divergences {rdp!r}: expected numbers of 0 or more")


def _finite(tree: Any) -> Any:
    match tree:
        case float() if math.isinf(tree):
            return "inf"
        case dict():
            return {key: _finite(value) for key, value in tree.items()}
        case list() | tuple():
            return [_finite(value) for value in tree]
    return tree
