"""Roster pins: which members of the newest roster a site takes for real, because its operator has approved them.

The root signs a roster, the coordinator hands it out, and each site decides for itself: who leaves is out at once, who
joins is in when the site's operator has compared fingerprints, and a new key of a known name must be signed by the old.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from fedloom.core.ids import ClientId
from fedloom.core.roster import Member, Roster
from fedloom.errors import DataError, TrustError
from fedloom.secure.agreement import SigningKey, verify
from fedloom.secure.encoding import frame
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.peers import COORDINATOR
from fedloom.secure.roster import SignedRoster, open_roster

_LABEL = b"fedloom/roster/v1/handover"
LARGEST = 1 << 20
"""Bytes of a stored update: some thousand members."""


class Handover(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The word of an old key that another one takes its place."""

    client: ClientId
    old: bytes
    new: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterUpdate:
    """A roster with the handovers of all keys that have changed since the federation began."""

    roster: SignedRoster
    handovers: tuple[Handover, ...] = ()

    def stored(self) -> bytes:
        """Return the update as a file: JSON."""
        document = _Update(roster=self.roster.stored().decode(), handovers=self.handovers)
        return msgspec.json.format(msgspec.json.encode(document), indent=1)


class _Update(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    roster: str
    handovers: tuple[Handover, ...]


class _Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    update: str
    version: int
    approved: tuple[Member, ...]
    known: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What one member is now and was before; None: it was not, or is no longer there."""

    before: Member | None
    after: Member | None
    handed_over: bool = False
    """The key before has signed the key after."""

    @property
    def refused(self) -> bool:
        """A new key that the old one has not signed: no approval takes it."""
        return (
            self.before is not None
            and self.after is not None
            and self.before.key != self.after.key
            and not self.handed_over
        )

    def __str__(self) -> str:
        """Return the change in words, the organisation first."""
        match self.before, self.after:
            case None, Member() as after:
                return f"{after.organisation}: {after.client!r} joins with the key {fingerprint(after.key)}"
            case Member() as before, None:
                return f"{before.organisation}: {before.client!r} leaves, with the key {fingerprint(before.key)}"
            case Member() as before, Member() as after:
                return f"{after.organisation}: {after.client!r} {'; '.join(self._alterations(before, after))}"
            case _:
                return "nothing"

    def _alterations(self, before: Member, after: Member) -> Iterable[str]:
        if before.organisation != after.organisation:
            yield f"was of {before.organisation} and would count for {after.organisation}"
        if before.key != after.key:
            signed = "signed by the old key" if self.handed_over else "NOT signed by the old key: it is not taken here"
            yield f"changes its key from {fingerprint(before.key)} to {fingerprint(after.key)}, {signed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterPin:
    """What a site keeps of the roster, and its ``core.roster.Roster``: whom the newest names and the operator approved.

    Security:
        Adversary: the coordinator, which hands out rosters, and one who has the root's key but not the ear of this
        site's operator. The first decides when a signed version arrives, and nothing else; the second takes members
        out, and adds none here. The coordinator's own key is no member: it would count as one more survivor.
    """

    newest: RosterUpdate
    version: int = 0
    """Of the last roster that the operator approved; 0: none yet."""
    approved: tuple[Member, ...] = ()
    known: tuple[Member, ...] = ()
    """Whoever was approved at some time, with the key that counted last: a name does not come back with another."""

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return self.newest.roster.federation

    @property
    def digest(self) -> bytes:
        """Of the newest roster: the same at every party that has it, whatever each has approved."""
        return self.newest.roster.digest

    @property
    def coordinator(self) -> bytes | None:
        """The coordinator's Ed25519 key; None: not in the roster, or not approved."""
        return next((each.key for each in self.approved if each.client == COORDINATOR), None)

    def member(self, client: ClientId) -> Member | None:
        """Return a member that is in the newest roster and approved here; None: it takes no part."""
        if client == COORDINATOR:
            return None
        found = self.newest.roster.member(client)
        return found if found in self.approved else None

    @property
    def pending(self) -> tuple[Change, ...]:
        """What the operator has to look at: members of the newest roster that take no part here."""
        members, handovers = self.newest.roster.members, self.newest.handovers
        changes = difference(self.known, members, federation=self.federation, handovers=handovers)
        listed = {each.after.client: each for each in changes if each.after is not None}
        waiting = (each for each in members if each not in self.approved)
        return tuple(listed.get(each.client, Change(None, each)) for each in waiting)

    def stored(self) -> bytes:
        """Return the pin as a file of the site: JSON."""
        document = _Pin(
            update=self.newest.stored().decode(), version=self.version, approved=self.approved, known=self.known
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1)


def hand_over(old: SigningKey, new: bytes, *, client: ClientId, federation: str) -> Handover:
    """Return the word of a client's old key for its new one: goes to the root's owner, with the new public key."""
    signature = old.sign(_statement(federation, client, old.public, new))
    return Handover(client=client, old=old.public, new=new, signature=signature)


def open_update(data: bytes, *, root: bytes, federation: str) -> RosterUpdate:
    """Return a stored update, if the root has signed its roster. Handovers are looked at where a key has changed.

    Raises:
        TrustError: ``unreadable``, ``not_signed`` or ``wrong_federation``.
    """
    if len(data) > LARGEST:
        raise TrustError(f"a roster of {len(data)} bytes: expected at most {LARGEST}", reason="unreadable")
    try:
        document = msgspec.json.decode(data, type=_Update)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"this is no roster with handovers: {error}", reason="unreadable") from error
    try:
        roster = open_roster(document.roster.encode(), root=root)
    except DataError as error:
        raise TrustError(str(error), reason="not_signed") from error
    if roster.federation != federation:
        raise TrustError(
            f"the roster is of {roster.federation!r}; this federation is {federation!r}", reason="wrong_federation"
        )
    return RosterUpdate(roster=roster, handovers=document.handovers)


def first_pin(update: RosterUpdate) -> RosterPin:
    """Return the pin of a site that has just joined: it has a roster, and nobody is approved."""
    return RosterPin(newest=update)


def open_pin(data: bytes, *, root: bytes, federation: str) -> RosterPin:
    """Return the pin that ``RosterPin.stored`` wrote into the site's own store.

    Raises:
        TrustError: ``unreadable``, ``not_signed`` or ``wrong_federation``.
    """
    try:
        document = msgspec.json.decode(data, type=_Pin)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"this is no pin of a roster: {error}", reason="unreadable") from error
    update = open_update(document.update.encode(), root=root, federation=federation)
    return RosterPin(newest=update, version=document.version, approved=document.approved, known=document.known)


def follow(pin: RosterPin, update: RosterUpdate) -> RosterPin:
    """Return the pin after a newer roster: who left is out, a key that was handed over is taken, nobody is added.

    Raises:
        TrustError: ``wrong_federation``; ``went_back``, for an older version, or another roster of the same one.
    """
    current, found = pin.newest.roster, update.roster
    if found.federation != current.federation:
        raise TrustError(
            f"the roster is of {found.federation!r}; this federation is {current.federation!r}",
            reason="wrong_federation",
        )
    if found.version < current.version:
        raise TrustError(
            f"version {found.version} of the roster is older than {current.version}, which is known here: somebody "
            "hands out an old one. It is not used",
            reason="went_back",
        )
    if found.version == current.version:
        if found.digest != current.digest:
            raise TrustError(
                f"there are two rosters of version {found.version}, {fingerprint(current.digest)} and "
                f"{fingerprint(found.digest)}: the root signed both. Ask its owner, who signs another version",
                reason="went_back",
            )
        return pin
    changes = difference(pin.approved, found.members, federation=found.federation, handovers=update.handovers)
    gone = {each.before.client for each in changes if each.before is not None}
    taken = tuple(each.after for each in changes if each.after is not None and _continues(each))
    approved = (*(each for each in pin.approved if each.client not in gone), *taken)
    return replace(pin, newest=update, approved=_sorted(approved), known=_merged(pin.known, taken))


def approve(pin: RosterPin, digest: bytes) -> RosterPin:
    """Return the pin after the operator has said yes to the newest roster, as it was shown.

    A new key that the old one did not sign is not taken by this either: its owner joins under another name.

    Args:
        pin: With the roster.
        digest: Of what was shown, ``pin.digest`` at that moment.

    Raises:
        TrustError: ``not_approved``, when a newer roster came between.
    """
    if digest != pin.digest:
        raise TrustError(
            f"the roster {fingerprint(digest)} was approved; the newest is {fingerprint(pin.digest)}, version "
            f"{pin.newest.roster.version}: look at it, and approve again",
            reason="not_approved",
        )
    refused = {each.after.client for each in pin.pending if each.refused and each.after is not None}
    members = tuple(each for each in pin.newest.roster.members if each.client not in refused)
    return replace(pin, version=pin.newest.roster.version, approved=_sorted(members), known=_merged(pin.known, members))


def difference(
    old: Sequence[Member], new: Sequence[Member], *, federation: str, handovers: Sequence[Handover] = ()
) -> tuple[Change, ...]:
    """Return what changed between the members of two rosters, in the order of organisations and names.

    Args:
        old: Members before.
        new: Members after.
        federation: Whose.
        handovers: Those of the newer update.

    Example:
        >>> north, south = (
        ...     Member(client=ClientId(name), organisation=name, key=name[:1].encode() * 32)
        ...     for name in ("north", "south")
        ... )
        >>> for change in difference([north], [south], federation="trial"):
        ...     print(change)
        north: 'north' leaves, with the key 7ydc ogwm pu23 sqdn iol3 pnsy vwi2 ehsk
        south: 'south' joins with the key r7lk nj4p lbl5 poq4 72id hp76 5sdn uk5g
    """
    before, after = ({each.client: each for each in members} for members in (old, new))
    changes = (
        Change(was, now, _handed_over(was, now, handovers, federation))
        for client in sorted(before.keys() | after.keys())
        if (was := before.get(client)) != (now := after.get(client))
    )
    return tuple(sorted(changes, key=_place))


def one_per_organisation(members: Roster, clients: Iterable[ClientId]) -> tuple[ClientId, ...]:
    """Return the clients that count: of each organisation the first by name; who is no member counts never."""
    first: dict[str, ClientId] = {}
    for client in sorted(clients):
        member = members.member(client)
        if member is not None:
            first.setdefault(member.organisation, client)
    return tuple(sorted(first.values()))


def _continues(change: Change) -> bool:
    before, after = change.before, change.after
    return before is not None and after is not None and before.organisation == after.organisation and change.handed_over


def _handed_over(was: Member | None, now: Member | None, handovers: Sequence[Handover], federation: str) -> bool:
    if was is None or now is None or was.key == now.key:
        return False
    reached, waiting = {was.key}, [was.key]
    while waiting:
        key = waiting.pop()
        for each in handovers:
            if each.client == was.client and each.old == key and each.new not in reached and _holds(each, federation):
                reached.add(each.new)
                waiting.append(each.new)
    return now.key in reached


def _holds(handover: Handover, federation: str) -> bool:
    said = _statement(federation, handover.client, handover.old, handover.new)
    return verify(handover.old, handover.signature, said)


def _statement(federation: str, client: ClientId, old: bytes, new: bytes) -> bytes:
    return frame(_LABEL, federation, client, old, new)


def _merged(known: Sequence[Member], more: Sequence[Member]) -> tuple[Member, ...]:
    return _sorted(({each.client: each for each in (*known, *more)}).values())


def _sorted(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda each: each.client))


def _place(change: Change) -> tuple[str, str]:
    one = change.after or change.before
    return ("", "") if one is None else (one.organisation, one.client)
