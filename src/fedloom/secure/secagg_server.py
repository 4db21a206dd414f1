"""The server side of a secure sum: it carries what clients seal for each other, and opens the sum of the survivors.

The machine does no IO and has no clock: ``receive`` and ``lose`` take what happens, ``advance`` says what follows.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct, msgpack

from fedloom.core.aggregator import Abort, Continue, Finish, Payload
from fedloom.core.ids import ClientId
from fedloom.core.params import Vector
from fedloom.core.roster import Roster
from fedloom.errors import Error
from fedloom.secure.agreement import check_public, pair_seed, private_key, self_seed, verify
from fedloom.secure.commitments import commit_seed, commit_share
from fedloom.secure.encoding import ADVERTISE_SIGNATURE, frame
from fedloom.secure.graph import complete, neighbours
from fedloom.secure.masks import add_masks
from fedloom.secure.messages import (
    HASH,
    OPENED,
    SEALED,
    Advertise,
    Consistent,
    Delivery,
    Entry,
    Masked,
    Message,
    Parcel,
    Roll,
    Shares,
    Survivors,
    Unmask,
    Witnesses,
)
from fedloom.secure.secagg_client import SHARE, shares_signed, survivors_signed
from fedloom.secure.shamir import coefficients, combine
from fedloom.secure.terms import Terms

log = logging.getLogger(__name__)
Phase = Literal["advertise", "share", "mask", "agree", "unmask"]
_ORDER: tuple[Phase, ...] = ("advertise", "share", "mask", "agree", "unmask")
_EXPECTED: Mapping[Phase, type] = {
    "advertise": Advertise,
    "share": Shares,
    "mask": Masked,
    "agree": Consistent,
    "unmask": Unmask,
}
_KINDS = ("mask", "self")


class _State(Struct, kw_only=True, eq=False):
    """All that the server keeps of a session; places are those of the roll, from 1 on."""

    sid: bytes
    phase: Phase = "advertise"
    waiting: set[str]
    """Whose message of this phase is not here yet."""
    adverts: dict[str, Advertise] = {}
    roll: list[str] = []
    """Names, in the order of places."""
    graph: list[list[int]] = []
    """By place: the places of the neighbours."""
    shares: dict[int, Shares] = {}
    total: bytes = b""
    survivors: list[int] = []
    signatures: dict[int, bytes] = {}
    unmasked: dict[int, bytes] = {}


class SecAggServer:
    """The server side of one session.

    Security:
        It holds no secret of a client before the last step, and of each client only one of two: the seed of its own
        mask, where its vector is in the sum, or the key of its shared masks, where it is not. What this machine learns
        is the sum and who took part; it checks every opened share against what its dealer has signed, so that a sum is
        never wrong without an abort that names who is to blame. A client that sends another vector than it has is not
        noticed: no check of a masked vector can tell.

    Source: as ``SecAggClient``.
    """

    def __init__(self, cohort: Sequence[ClientId], terms: Terms, roster: Roster, *, graph_seed: bytes) -> None:
        self._cohort = tuple(cohort)
        self._terms = terms
        self._roster = roster
        self._graph_seed = graph_seed
        self._state = _State(sid=terms.sid, waiting=set(cohort))
        self._total: Vector | None = None
        self._dealt: dict[int, list[int]] = {}
        self._weights: dict[tuple[int, ...], list[int]] = {}
        self._abort: Abort | None = None
        self.blamed: list[str] = []
        """Whose shares were wrong, in words."""

    def resume(self, stored: bytes) -> Continue:
        """Take up a session as ``stored()`` left it; return the messages that may not have left.

        Raises:
            Error: When the bytes are not that, or are of another session.
        """
        try:
            state = msgpack.decode(stored, type=_State)
        except (ValueError, RecursionError) as error:
            raise Error(f"the stored state of a secure sum does not decode: {error}") from error
        if state.sid != self._terms.sid:
            raise Error("the stored state is of another session than these terms: nothing of it is used")
        self._state = state
        wire = self._terms.about.wire
        self._total = np.frombuffer(state.total, _little(wire.dtype)).astype(wire.dtype) if state.total else None
        return Continue([(client, message) for client, message in self._messages() if client in state.waiting])

    def stored(self) -> bytes:
        """Return all that the server must keep before the messages of this phase leave."""
        if self._total is not None:
            self._state.total = self._total.astype(_little(self._total.dtype.name), copy=False).tobytes()
        return msgpack.encode(self._state)

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Take a client's message of this phase, once.

        Raises:
            Error: When it is not awaited, or is not what an honest client sends: it counts as not sent.
        """
        state = self._state
        if sender not in state.waiting:
            known = sender in self._cohort
            raise Error(f"{sender!r} {'has sent, was lost or was left out' if known else 'is not of this cohort'}")
        if type(message) is not _EXPECTED[state.phase]:
            raise Error(f"a {type(message).__name__} from {sender!r} in the phase {state.phase!r}")
        match message:
            case Advertise():
                self._take_keys(sender, message)
            case Shares():
                self._take_shares(sender, message)
            case Masked():
                self._take_vector(sender, message)
            case Consistent():
                self._take_signature(sender, message)
            case Unmask():
                self._take_opened(sender, message)
        state.waiting.discard(sender)

    def lose(self, client: ClientId) -> None:
        """Note that a client sends nothing more."""
        if client not in self._cohort:
            raise Error(f"{client!r} is not of this cohort")
        self._state.waiting.discard(client)

    def advance(self) -> Continue | Finish | Abort:
        """Return what follows once every client of the phase has answered or is lost."""
        if self._abort is not None:
            return self._abort
        if self._state.waiting:
            return Continue()
        match self._state.phase:
            case "advertise":
                outcome = self._close_roll()
            case "share":
                outcome = self._close_shares()
            case "mask":
                outcome = self._close_sum()
            case "agree":
                outcome = self._close_list()
            case "unmask":
                return self._open_sum()
        if outcome is not None:
            self._abort = outcome
            return outcome
        state = self._state
        state.phase = _ORDER[_ORDER.index(state.phase) + 1]
        messages = self._messages()
        state.waiting = {client for client, _ in messages}
        return Continue(messages)

    # What comes in.

    def _take_keys(self, sender: ClientId, message: Advertise) -> None:
        member = self._roster.member(sender)
        if member is None:
            raise Error(f"{sender!r} is not on the roster")
        if message.channel == message.mask:
            raise Error(f"{sender!r} advertised one key for both uses")
        for key in (message.channel, message.mask):
            check_public(key)  # one client with a key that no exchange works with would end the session of all
        signed = frame(ADVERTISE_SIGNATURE, self._state.sid, sender, message.channel, message.mask)
        if not verify(member.key, message.signature, signed):
            raise Error(f"the keys of {sender!r} are not signed under these terms by the key of the roster")
        self._state.adverts[sender] = message

    def _take_shares(self, sender: ClientId, message: Shares) -> None:
        place = self._place(sender)
        holders = self._holders(place)
        sealed = len(holders) - (place in holders)
        if len(message.sealed) != SEALED * sealed or len(message.commitments) != 2 * HASH * len(holders):
            raise Error(f"{sender!r} sealed {len(message.sealed)} bytes of shares for {sealed} others")
        member = self._roster.member(sender)
        signed = shares_signed(self._state.sid, sender, message.sealed, message.seed, message.commitments)
        if len(message.seed) != HASH or member is None or not verify(member.key, message.signature, signed):
            raise Error(f"the commitments of {sender!r} are not signed by the key of the roster")
        self._state.shares[place] = message

    def _take_vector(self, sender: ClientId, message: Masked) -> None:
        wire = self._terms.about.wire
        dtype = _little(wire.dtype)
        if wire.dim is None or len(message.vector) != wire.dim * dtype.itemsize:
            raise Error(f"{sender!r} sent {len(message.vector)} bytes; this round sums {wire.dtype} ({wire.dim},)")
        vector = np.frombuffer(message.vector, dtype)
        if self._total is None:
            self._total = np.zeros(wire.dim, wire.dtype)
        self._total += vector
        self._state.survivors.append(self._place(sender))

    def _take_signature(self, sender: ClientId, message: Consistent) -> None:
        place = self._place(sender)
        member = self._roster.member(sender)
        if member is None or not verify(member.key, message.signature, self._survivors_signed()):
            raise Error(f"{sender!r} has not signed the list of survivors that it was sent")
        self._state.signatures[place] = message.signature

    def _take_opened(self, sender: ClientId, message: Unmask) -> None:
        place = self._place(sender)
        count = len(self._dealers(place))
        if len(message.shares) != OPENED * count:
            raise Error(f"{sender!r} opened {len(message.shares)} bytes; expected {count} shares of {OPENED}")
        self._state.unmasked[place] = message.shares

    # The ends of phases: an Abort, or None.

    def _close_roll(self) -> Abort | None:
        state, rules = self._state, self._terms.rules
        taken = sorted(self._one_each(state.adverts))
        least = max(rules.survivors, rules.threshold)
        if len(taken) < least:
            return self._short("advertised keys", len(taken), least)
        state.roll = taken
        if not rules.neighbours:
            state.graph = complete(len(taken)).tolist()
        elif len(taken) <= rules.neighbours:
            return self._short("advertised keys", len(taken), rules.neighbours + 1)
        else:
            state.graph = neighbours(self._graph_seed, len(taken), rules.neighbours).tolist()
        return None

    def _one_each(self, adverts: Mapping[str, Advertise]) -> list[str]:
        """Return the names that count: one for each organisation, and no key twice; the first by name."""
        organisations: set[str] = set()
        keys: set[bytes] = set()
        taken = []
        for name in sorted(adverts):
            member, advert = self._roster.member(ClientId(name)), adverts[name]
            assert member is not None, "adverts are taken from members"
            if member.organisation in organisations or {advert.channel, advert.mask} & keys:
                continue
            organisations.add(member.organisation)
            keys |= {advert.channel, advert.mask}
            taken.append(name)
        return taken

    def _close_shares(self) -> Abort | None:
        state, rules = self._state, self._terms.rules
        least = max(rules.survivors, rules.threshold)
        if len(state.shares) < least:
            return self._short("shared their secrets", len(state.shares), least)
        return None

    def _close_sum(self) -> Abort | None:
        state, rules = self._state, self._terms.rules
        state.survivors.sort()
        least = max(rules.survivors, rules.threshold)
        if len(state.survivors) < least:
            return self._short("sent a vector", len(state.survivors), least)
        return None

    def _close_list(self) -> Abort | None:
        state, rules = self._state, self._terms.rules
        if len(state.signatures) < rules.threshold:
            return self._short("signed the list of survivors", len(state.signatures), rules.threshold)
        return None

    def _short(self, did: str, found: int, least: int) -> Abort:
        return Abort(
            f"secure_sum: {found} of {len(self._cohort)} clients {did}; at least {least} must. Nothing was opened"
        )

    # What goes out.

    def _messages(self) -> list[tuple[ClientId, Message]]:
        """Return the messages that open the present phase."""
        state = self._state
        match state.phase:
            case "advertise":
                return []
            case "share":
                return [(self._name(place), self._roll_for(place)) for place in range(1, len(state.roll) + 1)]
            case "mask":
                return [(self._name(place), self._delivery_for(place)) for place in sorted(state.shares)]
            case "agree":
                message = Survivors(tuple(state.survivors))
                return [(self._name(place), message) for place in state.survivors]
            case "unmask":
                return [(self._name(place), self._witnesses_for(place)) for place in sorted(state.signatures)]

    def _roll_for(self, place: int) -> Roll:
        state = self._state
        entries = []
        for number in sorted({place, *self._linked(place)}):
            advert = state.adverts[state.roll[number - 1]]
            entries.append(Entry(number, state.roll[number - 1], advert.channel, advert.mask, advert.signature))
        return Roll(len(state.roll), tuple(entries))

    def _delivery_for(self, place: int) -> Delivery:
        state = self._state
        parcels = []
        for dealer in self._linked(place):
            if dealer not in state.shares:
                continue
            shares, holders = state.shares[dealer], self._holders(dealer)
            number = holders.index(place)
            sealed = number - (dealer in holders and dealer < place)  # nothing is sealed for the dealer itself
            parcels.append(
                Parcel(
                    dealer,
                    shares.sealed[SEALED * sealed :][:SEALED],
                    shares.commitments[2 * HASH * number :][: 2 * HASH],
                )
            )
        return Delivery(tuple(parcels))

    def _witnesses_for(self, place: int) -> Witnesses:
        """Return signatures of as many survivors as must have seen the list: those that this client knows."""
        state = self._state
        known = sorted({place, *self._linked(place)} & state.signatures.keys())[: self._terms.rules.threshold]
        return Witnesses(tuple(known), b"".join(state.signatures[each] for each in known))

    # The sum.

    def _open_sum(self) -> Finish | Abort:
        state, rules = self._state, self._terms.rules
        if len(state.unmasked) < rules.threshold:
            self._abort = self._short("opened their shares", len(state.unmasked), rules.threshold)
            return self._abort
        assert self._total is not None, "a sum without vectors ended in an earlier phase"
        masks: list[tuple[bytes, int]] = []
        alive = set(state.survivors)
        self._dealt = {holder: self._dealers(holder) for holder in state.unmasked}
        for place in sorted(state.shares):
            found = self._masks_of(place, alive)
            if isinstance(found, Abort):
                self._abort = found
                return found
            masks += found
        total = self._total.copy()
        add_masks(total, masks)
        included = {state.roll[place - 1] for place in alive}
        for words in self.blamed:
            log.warning("%s", words)
        return Finish(total, tuple(client for client in self._cohort if client in included))

    def _masks_of(self, dealer: int, alive: set[int]) -> list[tuple[bytes, int]] | Abort:
        """Return what is to be added so that one client's masks are gone from the sum."""
        state, name = self._state, self._name(dealer)
        secret = self._secret_of(dealer, kind=1 if dealer in alive else 0)
        if isinstance(secret, Abort):
            return secret
        if dealer in alive:
            if commit_seed(sid=state.sid, owner=name, seed=secret) != state.shares[dealer].seed:
                return self._dealt_wrong(dealer)
            return [(self_seed(secret, sid=state.sid, owner=name), -1)]
        key = private_key(secret)
        if key.public != state.adverts[name].mask:
            return self._dealt_wrong(dealer)
        return [
            (
                pair_seed(key, state.adverts[self._name(other)].mask, sid=state.sid, one=name, other=self._name(other)),
                -1 if self._name(other) < name else 1,
            )
            for other in self._linked(dealer)
            if other in alive
        ]

    def _secret_of(self, dealer: int, *, kind: int) -> bytes | Abort:
        """Return a client's secret from the first right shares of it."""
        state, needed = self._state, self._terms.rules.threshold
        holders = self._holders(dealer)
        commitments = state.shares[dealer].commitments
        places: list[int] = []
        shares: list[bytes] = []
        for number, holder in enumerate(holders):
            if len(places) == needed:
                break
            if holder not in state.unmasked:
                continue
            dealt = self._dealt[holder]
            start = OPENED * bisect_left(dealt, dealer)
            opened = state.unmasked[holder][start : start + OPENED]
            promised = commitments[HASH * (2 * number + kind) :][:HASH]
            if self._commit(dealer, holder, kind, opened) != promised:
                self._blame(f"{self._name(holder)!r} opened a wrong share of {self._name(dealer)!r}: it is left out")
                continue
            places.append(holder)
            shares.append(opened[:SHARE])
        if len(places) < needed:
            wrong = "; ".join(self.blamed)
            return Abort(
                f"secure_sum: {len(places)} right shares of a secret of {self._name(dealer)!r}; {needed} are needed. "
                f"Nothing was opened{': ' if wrong else ''}{wrong}"
            )
        try:
            return combine(shares, self._coefficients(tuple(places)))
        except Error:
            return self._dealt_wrong(dealer)

    def _coefficients(self, places: tuple[int, ...]) -> list[int]:
        """Return the weights of shares: on the complete graph most secrets are opened by the same clients."""
        if places not in self._weights:
            self._weights[places] = coefficients(places)
        return self._weights[places]

    def _commit(self, dealer: int, holder: int, kind: int, opened: bytes) -> bytes:
        return commit_share(
            sid=self._state.sid,
            dealer=self._name(dealer),
            holder=self._name(holder),
            kind=_KINDS[kind],
            share=opened[:SHARE],
            salt=opened[SHARE:],
        )

    def _blame(self, words: str) -> None:
        if words not in self.blamed:
            self.blamed.append(words)

    def _dealt_wrong(self, dealer: int) -> Abort:
        words = f"{self._name(dealer)!r} dealt shares that do not make the secret it has committed itself to"
        self._blame(words)
        return Abort(f"secure_sum: {words}. Nothing was opened")

    # Places and names.

    def _name(self, place: int) -> ClientId:
        return ClientId(self._state.roll[place - 1])

    def _place(self, client: ClientId) -> int:
        return bisect_left(self._state.roll, client) + 1

    def _linked(self, place: int) -> list[int]:
        """Return the places of a client's neighbours, ascending."""
        return [number + 1 for number in self._state.graph[place - 1]]

    def _holders(self, dealer: int) -> list[int]:
        """Return who holds shares of a client's secrets: its neighbours, on the complete graph itself too."""
        linked = self._linked(dealer)
        return linked if self._terms.rules.neighbours else sorted([dealer, *linked])

    def _dealers(self, holder: int) -> list[int]:
        """Return whose shares a client holds."""
        return [dealer for dealer in self._holders(holder) if dealer in self._state.shares]

    def _survivors_signed(self) -> bytes:
        state = self._state
        graph = bool(self._terms.rules.neighbours)
        names = [str(place) if graph else state.roll[place - 1] for place in state.survivors]
        return survivors_signed(state.sid, names)


def _little(dtype: str) -> np.dtype[np.unsignedinteger]:
    return np.dtype(dtype).newbyteorder("<")
