"""The client side of a secure sum: five messages, each made once, under checks that hold against a malicious server.

The machine does no IO and has no clock. It is a function of its terms, its 32 bytes of entropy, its vector and what
the server sends; ``stored()`` is all of it, and must be durable before a message leaves.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from msgspec import Struct, msgpack

from fedloom.core.aggregator import Payload
from fedloom.core.ids import ClientId
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Member, Roster
from fedloom.entropy.guarded import guarded
from fedloom.entropy.secret import Secret
from fedloom.errors import Error, SumAborted
from fedloom.secure.agreement import (
    PrivateKey,
    channel_key,
    open_sealed,
    pair_seed,
    private_key,
    seal,
    self_seed,
    verify,
)
from fedloom.secure.commitments import commit_seed, commit_share
from fedloom.secure.encoding import (
    ADVERTISE_SIGNATURE,
    CONSISTENCY_SIGNATURE,
    SHARES_SIGNATURE,
    frame,
)
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
    Roll,
    Shares,
    Survivors,
    Unmask,
    Witnesses,
    pack,
    unpack,
)
from fedloom.secure.shamir import split
from fedloom.secure.terms import Terms

SHARE = 33
_SALT = 16
_STEPS: dict[type, int] = {Roll: 1, Delivery: 2, Survivors: 3, Witnesses: 4}
"""The client's message that each message of the server asks for."""


class _Terms(Struct, frozen=True, array_like=True):
    """What is kept of the terms."""

    sid: bytes
    roster: bytes
    threshold: int
    survivors: int
    invited: int
    neighbours: int
    dtype: str
    dim: int


class _State(Struct, kw_only=True, eq=False):
    """All that a client keeps of a session."""

    client: str
    terms: _Terms
    root: bytes
    """Entropy that every secret of the session comes from; gone when it has ended."""
    derived: bool
    value: bytes
    """The vector, until it is masked."""
    sent: list[bytes] = []
    """The messages of the steps done, as they left."""
    asked: list[bytes] = []
    """Digests of what was answered by them, from the first on."""
    entries: tuple[Entry, ...] = ()
    keys: list[bytes] = []
    """Of the entries: the keys that they sign by."""
    held: list[tuple[int, bytes, bytes]] = []
    """By place: the shares of mask key and self seed that this client holds, each with its salt."""
    survivors: tuple[int, ...] = ()
    aborted: str | None = None

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise Error("the state of a secure sum is not pickled: stored() gives what its owner keeps")


@guarded("sides of a secure sum", instead="their owner keeps what stored() gives")
class SecAggClient:
    """One client's side of one session.

    It does not print, and refuses ``==``, ``copy`` and ``pickle``.

    Security:
        Adversary: a server that sends what it likes, together with up to ``colluders`` clients, on the complete graph
        with ``2 threshold > invited + colluders``; on a k-regular graph a server that follows the protocol. It learns
        the sum over one set of at least ``survivors`` clients, or nothing: for another set, another order of steps, or
        a second question, this machine ends. What leaks: who takes part, who drops out when, sizes, and the sum itself.
        The server can always make a session fail. Single-use secrets pass through Python integers and BLAKE2b-derived
        bytes: not constant-time against somebody who times this process.

    Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", Figure 4, the
        active-adversary variant; Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
        for the graph. Differs: commitments to shares and self seed, so that a wrong share names its sender; every
        message stored before it leaves; keys checked against an approved roster.
    """

    __slots__ = ("_identity", "_roster", "_state")

    def __init__(self, state: _State, *, roster: Roster, identity: Identity) -> None:
        self._state = state
        self._roster = roster
        self._identity = identity

    @staticmethod
    def begin(
        terms: Terms, value: Vector, *, entropy: bytes, derived: bool, roster: Roster, identity: Identity
    ) -> SecAggClient:
        """Return the client side of a session that begins.

        Args:
            terms: As this client holds them.
            value: Its encoded vector.
            entropy: 32 bytes of this session's own, used nowhere else.
            derived: Whether they come from a public key: simulation.
            roster: Whom this client has approved.
            identity: Its own key, as the roster has it.

        Raises:
            SumAborted: When the vector is not of the terms.
        """
        wire = terms.about.wire
        if value.dtype.name != wire.dtype or value.shape != (wire.dim,):
            raise SumAborted(f"the vector is {value.dtype} {value.shape}; the terms are of {wire.dtype} ({wire.dim},)")
        kept = _Terms(
            sid=terms.sid,
            roster=terms.roster,
            threshold=terms.rules.threshold,
            survivors=terms.rules.survivors,
            invited=terms.about.invited,
            neighbours=terms.rules.neighbours,
            dtype=wire.dtype,
            dim=value.size,
        )
        state = _State(
            client=identity.client, terms=kept, root=entropy, derived=derived, value=_little(value).tobytes()
        )
        return SecAggClient(state, roster=roster, identity=identity)

    @staticmethod
    def resume(stored: bytes, *, roster: Roster, identity: Identity) -> SecAggClient:
        """Return the client side that ``stored()`` describes.

        Raises:
            Error: When the bytes are not that, or are another client's.
        """
        try:
            state = msgpack.decode(stored, type=_State)
        except (ValueError, RecursionError) as error:
            raise Error(f"the stored state of a secure sum does not decode: {error}") from error
        if state.client != identity.client:
            raise Error(f"the stored state is of {state.client!r}; this is {identity.client!r}")
        if state.terms.roster != roster.digest:
            raise Error("the stored state is of another version of the roster: the sum that it belongs to is over")
        return SecAggClient(state, roster=roster, identity=identity)

    def stored(self) -> bytes:
        """Return all that the client must keep: secrets, and messages as they left. Encrypt it at rest."""
        return msgpack.encode(self._state)

    @property
    def sid(self) -> bytes:
        """The session."""
        return self._state.terms.sid

    @property
    def sent(self) -> Sequence[bytes]:
        """The messages that were made, as bytes: one a step."""
        return tuple(self._state.sent)

    def open(self) -> Message:
        """Return message 0: fresh keys, signed. Asked again, the same bytes.

        Raises:
            SumAborted: When the session has ended.
        """
        state = self._state
        if state.sent:
            return self._sent(0)
        channel, mask = self._private("channel").public, self._private("mask").public
        signed = frame(ADVERTISE_SIGNATURE, self.sid, state.client, channel, mask)
        return self._send(Advertise(channel, mask, self._identity.sign(signed)))

    def reply(self, message: Payload) -> Message:
        """Return the answer to a message of the server; to the same message again, the same bytes.

        Raises:
            SumAborted: When the message is not what an honest server sends next: the session ends here, and the secrets
                are deleted.
        """
        state = self._state
        if state.aborted is not None:
            raise SumAborted(state.aborted)
        step = _STEPS.get(type(message))
        if step is None:
            self._abort(f"a {type(message).__name__} is no message of the server")
        digest = hashlib.sha256(pack(message)).digest()
        if step < len(state.sent):
            if state.asked[step - 1] != digest:
                self._abort(f"a second, different {type(message).__name__} came: one answer a step is all there is")
            return self._sent(step)
        if step > len(state.sent):
            self._abort(f"{type(message).__name__} came after {len(state.sent)} messages: steps were left out")
        try:
            answer = self._answer(message)
        except Error as error:
            self._abort(str(error))
        state.asked.append(digest)
        return self._send(answer)

    def _answer(self, message: Message) -> Message:
        match message:
            case Roll():
                return self._share(message)
            case Delivery():
                return self._mask(message)
            case Survivors():
                return self._agree(message)
            case Witnesses():
                return self._unmask(message)
        raise AssertionError("reply() has looked at the type")

    # Step 1: the roll of those that take part, and shares for each of them.

    def _share(self, roll: Roll) -> Shares:
        members = self._check_roll(roll)
        state, sid = self._state, self.sid
        state.entries = roll.entries
        state.keys = [member.key for member in members]
        mask, channel, seed = self._private("mask"), self._private("channel"), self._seed()
        places = [entry.place for entry in self._holders()]
        entropy = self._secret("shares")
        mask_shares = self._split(mask.stored(), places, entropy.child("mask"))
        seed_shares = self._split(seed, places, entropy.child("self"))
        salts = entropy.child("salts").random_bytes(2 * _SALT * len(places))
        sealed, commitments = [], []
        for number, entry in enumerate(self._holders()):
            first = salts[2 * _SALT * number :][:_SALT]
            second = salts[2 * _SALT * number + _SALT :][:_SALT]
            opened = (mask_shares[number] + first, seed_shares[number] + second)
            for kind, each in zip(("mask", "self"), opened, strict=True):
                commitments.append(_commit(sid, state.client, entry.client, kind, each))
            if entry.client == state.client:
                state.held.append((entry.place, *opened))
                continue
            key = channel_key(channel, entry.channel, sid=sid, sender=state.client, receiver=entry.client)
            sealed.append(seal(key, b"".join(opened), sid=sid, step=1, sender=state.client, receiver=entry.client))
        promised = commit_seed(sid=sid, owner=state.client, seed=seed)
        parcels, hashes = b"".join(sealed), b"".join(commitments)
        return Shares(
            parcels, promised, hashes, self._identity.sign(shares_signed(sid, state.client, parcels, promised, hashes))
        )

    def _check_roll(self, roll: Roll) -> list[Member]:
        """Refuse a roll that an honest server cannot send; return the members that it names."""
        state, terms, entries = self._state, self._state.terms, roll.entries
        least = max(terms.threshold, terms.survivors)
        if not least <= roll.size <= terms.invited:
            raise SumAborted(f"the roll has {roll.size} clients; expected {least} to {terms.invited}")
        places = [entry.place for entry in entries]
        if terms.neighbours:
            if len(entries) <= terms.threshold or places[0] < 1 or places[-1] > roll.size:
                raise SumAborted("the roll does not have the neighbours that the graph gives this client")
            _check_ascending(places, "the roll")
        elif places != list(range(1, roll.size + 1)):
            raise SumAborted("the places of the roll are not 1, 2, 3 and so on: entries are missing or doubled")
        if any(one.client >= other.client for one, other in itertools.pairwise(entries)):
            raise SumAborted("the roll is not in the order of names, or has a name twice")
        if len({key for entry in entries for key in (entry.channel, entry.mask)}) != 2 * len(entries):
            raise SumAborted("the roll has one key twice")
        mine = next((entry for entry in entries if entry.client == state.client), None)
        if mine is None or Advertise(mine.channel, mine.mask, mine.signature) != self._sent(0):
            raise SumAborted("the roll does not have this client as it has advertised itself")
        members = [self._member(entry) for entry in entries]
        if len({member.organisation for member in members}) != len(members):
            raise SumAborted("the roll has two clients of one organisation: they count once")
        return members

    def _member(self, entry: Entry) -> Member:
        """Return the member that an entry names, if it is approved and has signed the entry."""
        member = self._roster.member(ClientId(entry.client))
        if member is None:
            raise SumAborted(f"{entry.client!r} is not on the roster that this client has approved")
        signed = frame(ADVERTISE_SIGNATURE, self.sid, entry.client, entry.channel, entry.mask)
        if not verify(member.key, entry.signature, signed):
            raise SumAborted(f"the keys of {entry.client!r} are not signed by the key that the roster has for it")
        return member

    # Step 2: what the others have sealed for this client, and its vector under the masks it shares with them.

    def _mask(self, delivery: Delivery) -> Masked:
        state, terms = self._state, self._state.terms
        by_place = {entry.place: entry for entry in state.entries}
        places = [parcel.place for parcel in delivery.parcels]
        _check_ascending(places, "the delivery")
        if any(place not in by_place or by_place[place].client == state.client for place in places):
            raise SumAborted("a parcel came from outside the roll")
        least = terms.threshold if terms.neighbours else max(terms.threshold, terms.survivors)
        if len(places) + (not terms.neighbours) < least:
            raise SumAborted(f"{len(places)} others have shared; at least {least} must, this client among them")
        channel = self._private("channel")
        for parcel in delivery.parcels:
            self._take(parcel.sealed, parcel.commitments, by_place[parcel.place], channel)
        state.held.sort(key=lambda each: each[0])
        vector = _words(state.value, terms.dtype).copy()
        add_masks(vector, [self._self_mask(), *self._pair_masks([by_place[place] for place in places])])
        state.value = b""
        return Masked(_little(vector).tobytes())

    def _take(self, sealed: bytes, commitments: bytes, dealer: Entry, channel: PrivateKey) -> None:
        """Open one parcel, and hold what it has against what its dealer has promised."""
        state, sid = self._state, self.sid
        if len(sealed) != SEALED or len(commitments) != 2 * HASH:
            raise SumAborted(f"a parcel of {len(sealed)} and {len(commitments)} bytes from {dealer.client!r}")
        key = channel_key(channel, dealer.channel, sid=sid, sender=dealer.client, receiver=state.client)
        plain = open_sealed(key, sealed, sid=sid, step=1, sender=dealer.client, receiver=state.client)
        opened = plain[:OPENED], plain[OPENED:]
        promised = [
            _commit(sid, dealer.client, state.client, kind, each)
            for kind, each in zip(("mask", "self"), opened, strict=True)
        ]
        if b"".join(promised) != commitments:
            raise SumAborted(f"the shares from {dealer.client!r} are not those that it has committed itself to")
        state.held.append((dealer.place, *opened))

    def _self_mask(self) -> tuple[bytes, int]:
        return self_seed(self._seed(), sid=self.sid, owner=self._state.client), 1

    def _pair_masks(self, others: Sequence[Entry]) -> list[tuple[bytes, int]]:
        mask, me = self._private("mask"), self._state.client
        return [
            (pair_seed(mask, other.mask, sid=self.sid, one=me, other=other.client), 1 if me < other.client else -1)
            for other in others
        ]

    # Steps 3 and 4: one list of survivors, signed by enough of them, and one answer about it.

    def _agree(self, survivors: Survivors) -> Consistent:
        state, terms = self._state, self._state.terms
        places, mine = survivors.places, self._my_place()
        _check_ascending(places, "the list of survivors")
        held = {place for place, _, _ in state.held} | {mine}
        known = {entry.place for entry in state.entries}
        least = max(terms.threshold, terms.survivors)
        if mine not in places:
            raise SumAborted("the list of survivors does not have this client, which has sent its vector")
        if terms.neighbours:
            if not (known & set(places)) <= held or len(held & set(places)) <= terms.threshold:
                raise SumAborted("the list of survivors does not fit the neighbours that have shared")
        elif not set(places) <= held:
            raise SumAborted("the list of survivors names clients that have not shared")
        if not least <= len(places) <= terms.invited:
            raise SumAborted(f"{len(places)} clients survive; a sum of fewer than {least} is not opened")
        state.survivors = places
        return Consistent(self._identity.sign(self._survivors_signed()))

    def _survivors_signed(self) -> bytes:
        state = self._state
        names = {entry.place: entry.client for entry in state.entries}
        graph = bool(state.terms.neighbours)
        return survivors_signed(self.sid, [str(place) if graph else names[place] for place in state.survivors])

    def _unmask(self, witnesses: Witnesses) -> Unmask:
        state, terms = self._state, self._state.terms
        _check_ascending(witnesses.places, "the list of witnesses")
        if len(witnesses.signatures) != 64 * len(witnesses.places):
            raise SumAborted("there is not one signature for each witness")
        keys = {entry.place: key for entry, key in zip(state.entries, state.keys, strict=True)}
        if not set(witnesses.places) <= set(state.survivors) & set(keys):
            raise SumAborted("a witness is no survivor that this client knows")
        signed = self._survivors_signed()
        for number, place in enumerate(witnesses.places):
            if not verify(keys[place], witnesses.signatures[64 * number :][:64], signed):
                raise SumAborted("a witness has not signed the survivors that this client was told of")
        if len(witnesses.places) < terms.threshold:
            raise SumAborted(f"{len(witnesses.places)} witnesses; at least {terms.threshold} must have seen one list")
        alive = set(state.survivors)
        shares = b"".join(seed if place in alive else mask for place, mask, seed in state.held)
        self._forget()
        return Unmask(shares)

    # What is kept.

    def _send(self, message: Message) -> Message:
        self._state.sent.append(pack(message))
        return message

    def _sent(self, step: int) -> Message:
        data = self._state.sent[step]
        return unpack(data, most=len(data))

    def _abort(self, reason: str) -> NoReturn:
        self._forget()
        self._state.aborted = reason
        raise SumAborted(reason)

    def _forget(self) -> None:
        """Delete every secret: nothing that is left can answer anything new."""
        self._state.root = self._state.value = b""
        self._state.held = []

    def _secret(self, *path: str) -> Secret:
        if not self._state.root:
            raise SumAborted("the session has ended: its secrets are gone")
        return Secret(self._state.root, derived=self._state.derived).child(*path)

    def _private(self, name: str) -> PrivateKey:
        return private_key(self._secret("key", name).random_bytes(32))

    def _seed(self) -> bytes:
        return self._secret("seed").random_bytes(32)

    def _split(self, secret: bytes, places: Sequence[int], entropy: Secret) -> list[bytes]:
        calls = itertools.count()  # a secret stream gives the same bytes at every call: each call gets one of its own
        return split(
            secret,
            threshold=self._state.terms.threshold,
            places=places,
            entropy=lambda count: entropy.child(next(calls)).random_bytes(count),
        )

    def _holders(self) -> Sequence[Entry]:
        """Return who gets shares: on the complete graph the client itself too, whose answer counts as any other."""
        entries = self._state.entries
        if not self._state.terms.neighbours:
            return entries
        return [entry for entry in entries if entry.client != self._state.client]

    def _my_place(self) -> int:
        return next(entry.place for entry in self._state.entries if entry.client == self._state.client)


def shares_signed(sid: bytes, client: str, sealed: bytes, seed: bytes, commitments: bytes) -> bytes:
    """Return what a client signs of its shares."""
    digests = hashlib.sha256(sealed).digest(), hashlib.sha256(commitments).digest()
    return frame(SHARES_SIGNATURE, sid, client, seed, *digests)


def survivors_signed(sid: bytes, names: Sequence[str]) -> bytes:
    """Return what a survivor signs: the list of all, by name; on a graph, where it knows few names, by place."""
    return frame(CONSISTENCY_SIGNATURE, sid, hashlib.sha256(frame(*names)).digest())


def _commit(sid: bytes, dealer: str, holder: str, kind: str, opened: bytes) -> bytes:
    return commit_share(sid=sid, dealer=dealer, holder=holder, kind=kind, share=opened[:SHARE], salt=opened[SHARE:])


def _check_ascending(places: Sequence[int], what: str) -> None:
    if any(one >= other for one, other in itertools.pairwise(places)):
        raise SumAborted(f"{what} is not in ascending order, or has a place twice")


def _little(vector: Vector) -> Vector:
    return vector.astype(vector.dtype.newbyteorder("<"), copy=False)


def _words(data: bytes, dtype: str) -> Vector:
    words: Vector = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
    return words
