"""Shares: a vector split among two or three servers, each share sealed to its server, and what a server does with it.

A client sends one message. Server 0 gets the vector minus masks, every other server the seed of one mask; all but one
of them together know nothing of the vector. When the servers have agreed on whose vectors are summed, each opens the
total of its shares, and the totals add up to the sum. Who carries the messages reads none.

Example:
    >>> import numpy as np
    >>> from fedloom.core.keys import Key
    >>> from fedloom.entropy import fresh_secret
    >>> from fedloom.secure.agreement import private_key
    >>> from fedloom.secure.roster import SimulatedRoster, simulated_identity
    >>> keys = [private_key(fresh_secret().random_bytes(32)) for _ in range(2)]
    >>> terms = ShareTerms(
    ...     context=b"trial 7, round 1", dim=2, dtype="uint32", servers=tuple(key.public for key in keys), fewest=3
    ... )
    >>> roster = SimulatedRoster(Key.from_seed(1))  # of a federation: fedloom.secure.roster.open_roster
    >>> servers = [ShareServer(terms, place, key=key, roster=roster) for place, key in enumerate(keys)]
    >>> for name in ("north", "south", "west"):
    ...     me = simulated_identity(roster.key, ClientId(name))
    ...     sealed = split(np.array([1, 2], np.uint32), terms, identity=me, secret=fresh_secret())
    ...     for server, share in zip(servers, sealed, strict=True):
    ...         server.receive(ClientId(name), share)
    >>> everyone = agreed([server.received for server in servers])
    >>> combine([server.total(everyone) for server in servers], terms).tolist()
    [3, 6]
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fedloom.core.ids import ClientId
from fedloom.core.keys import SecretKey
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Roster
from fedloom.errors import Error, PlanError
from fedloom.secure.additive import hidden_words, ring_total, seed_total
from fedloom.secure.agreement import PrivateKey, derive, open_sealed, private_key, seal, verify
from fedloom.secure.encoding import frame

TERMS = b"fedloom/shares/v1/terms"
CHANNEL = b"fedloom/shares/v1/channel"
MASK = b"fedloom/shares/v1/mask"
SIGNATURE = b"fedloom/shares/v1/share-sig"
TRANSCRIPT = b"fedloom/shares/v1/transcript"
SERVERS = (2, 3)
_PUBLIC, _SIGNED, _TAG, _SEED = 32, 64, 16, 32
_HEAD = _PUBLIC + _SIGNED
_STEP = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTerms:
    """What client and servers of one sum must agree on: a share opens under the terms that it was sealed under only.

    Each party writes the terms down from what it holds itself. A server that would open the total of fewer clients than
    a client wants has other terms, and cannot open that client's share.
    """

    context: bytes
    """Names the sum, and no other one, whenever: of run, round, retry, model. See ``frame``."""
    dim: int
    dtype: str
    """``uint32`` or ``uint64``: the modulus is the range of the type."""
    servers: tuple[bytes, ...]
    """X25519 public keys of the servers, in their order; the client must have them from the operators themselves."""
    fewest: int
    """Organisations that a sum must have for its total to be opened."""

    def __post_init__(self) -> None:
        """Refuse terms under which nothing would be hidden."""
        if len(self.servers) not in SERVERS or len(set(self.servers)) != len(self.servers):
            raise PlanError(
                f"shares go to {len(self.servers)} servers, {len(set(self.servers))} of them different; expected 2 or "
                "3 different ones, run by operators that do not collude"
            )
        if any(len(key) != _PUBLIC for key in self.servers):
            raise PlanError(f"the keys of servers have {[len(key) for key in self.servers]} bytes; expected 32 each")
        if self.dtype not in ("uint32", "uint64") or self.dim < 1:
            raise PlanError(f"shares of {self.dtype} ({self.dim},): expected a vector of uint32 or uint64, not empty")
        if self.fewest < 2:
            raise PlanError(f"a total of {self.fewest} clients is the vector of one: open it from 2 on at least")

    @property
    def sid(self) -> bytes:
        """SHA-256 of the terms: part of every signature and of every derived key."""
        words = frame(TERMS, self.context, self.dim, self.dtype, self.fewest, *self.servers)
        return hashlib.sha256(words).digest()

    def length(self, place: int) -> int:
        """Return the length of a sealed share for the server at a place."""
        return _HEAD + _TAG + (_SEED if place else self.dim * np.dtype(self.dtype).itemsize)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShareTotal:
    """The total of one server's shares: uniform by itself. It may be shown to whoever may learn the sum."""

    place: int
    transcript: bytes
    """Digest of the terms, and of who is in the total by which message."""
    values: Vector


def split(values: Vector, terms: ShareTerms, *, identity: Identity, secret: SecretKey) -> tuple[bytes, ...]:
    """Return one sealed share for each server, in their order: all that a client sends.

    Seeds and the key that the shares are sealed by are drawn anew for each vector: one that is computed again after a
    crash, and comes out otherwise, shares no mask with the first.

    Args:
        values: ``(terms.dim,)`` of ``terms.dtype``: residues, see ``fixed_point``.
        terms: As this client knows them.
        identity: Signs the shares.
        secret: Of this client; not used for anything else.

    Raises:
        Error: If the vector is not of the terms, or a server's key is no point of the curve to agree on a key with.

    Security:
        Adversary: whoever carries the messages, together with all servers but one. It learns the length of the vector,
        who sends and when. It cannot make, change, redirect or replay a share that an honest server takes: a share is
        signed under the roster, and bound to sum, client and server. A client is free to send any vector.

    Constant time:
        In practice yes in the values; lengths and names show.
    """
    if values.shape != (terms.dim,) or values.dtype != terms.dtype:
        raise Error(f"the vector is {values.dtype} {values.shape}; its shares are {terms.dtype} ({terms.dim},)")
    sid, me = terms.sid, identity.client
    content = hashlib.sha256(frame(sid))
    content.update(np.ascontiguousarray(values).data)
    own = secret.child("shares", content.hexdigest())
    key = private_key(_bytes32(own.child("key")))
    seeds = [_bytes32(own.child("seed", place)) for place in range(1, len(terms.servers))]
    masks = [_mask_seed(seed, sid=sid, client=me, place=place) for place, seed in enumerate(seeds, 1)]
    plain = (_wire_bytes(hidden_words(values, masks)), *seeds)
    return tuple(_sealed(key, each, terms, place, identity=identity, sid=sid) for place, each in enumerate(plain))


class ShareServer:
    """One of the servers of a sum: takes one share of a client, and opens one total.

    Shares stay sealed until the total is opened, also in ``stored()``, which holds no key.

    Security:
        Adversary: the other servers, the coordinator and any clients, all together, as long as this server is honest.
        They learn the sum over ``included``, which this server opens once, for one set of at least ``fewest``
        organisations, and so no difference of two sums; they choose who is in it. They see who took part. A server that
        is not honest can make the sum wrong, unnoticed: secrecy is what is protected, not the result.

    Constant time:
        In practice yes in the values; lengths, names and numbers of clients show.
    """

    def __init__(self, terms: ShareTerms, place: int, *, key: PrivateKey, roster: Roster) -> None:
        if not 0 <= place < len(terms.servers) or key.public != terms.servers[place]:
            raise PlanError(f"the key is not that of server {place} in the terms: each server keeps its own")
        self.place = place
        self._terms = terms
        self._sid = terms.sid
        self._key = key
        self._roster = roster
        self._sealed: dict[ClientId, bytes] = {}
        self._lost: dict[ClientId, str] = {}
        self._opened: tuple[ClientId, ...] | None = None

    @property
    def received(self) -> frozenset[ClientId]:
        """Clients whose share this server holds."""
        return frozenset(self._sealed)

    @property
    def lost(self) -> Mapping[ClientId, str]:
        """Clients that cannot be in the sum any more, and why."""
        return dict(self._lost)

    def receive(self, sender: ClientId, sealed: bytes) -> None:
        """Take a client's share, once; what is refused changes nothing.

        Raises:
            Error: When the total has been opened, the sender has sent before, was lost or is not in the roster, or the
                share is not the sender's, not of this sum, or not for this server.
        """
        if self._opened is not None:
            raise Error(f"a share of {sender!r} came after server {self.place} had opened its total: it is not used")
        if sender in self._sealed or sender in self._lost:
            known = f"was lost: {self._lost[sender]}" if sender in self._lost else "has sent its share"
            raise Error(f"{sender!r} {known}; server {self.place} takes one share of a client")
        self._open(sender, sealed)
        self._sealed[sender] = sealed

    def lose(self, client: ClientId, reason: str) -> None:
        """Leave a client out, for good, whether or not its share is here: another server may not have its own.

        Raises:
            Error: When the total has been opened.
        """
        if self._opened is not None:
            raise Error(f"{client!r} cannot leave the sum: server {self.place} has opened its total")
        self._sealed.pop(client, None)
        self._lost.setdefault(client, reason)

    def total(self, included: Sequence[ClientId]) -> ShareTotal:
        """Open the total of the shares of some clients, for good: of no others, whoever asks.

        Args:
            included: Clients that all servers hold a share of: see ``agreed``.

        Raises:
            Error: When another set was opened, this server lacks a share, or the clients belong to too few
                organisations.
        """
        chosen = tuple(sorted(included))
        if self._opened is not None and chosen != self._opened:
            raise Error(
                f"server {self.place} has opened the total of {len(self._opened)} clients, and opens no other set: the "
                "difference of two totals would be the vector of one client"
            )
        if len(set(chosen)) != len(chosen):
            raise Error(f"the {len(chosen)} clients of a sum are {len(set(chosen))} different ones: name each once")
        if missing := [client for client in chosen if client not in self._sealed]:
            raise Error(f"server {self.place} holds no share of {missing[0]!r}: sum those that all servers hold")
        owners = {member.organisation for client in chosen if (member := self._roster.member(client)) is not None}
        if len(owners) < self._terms.fewest:
            raise Error(
                f"{len(chosen)} clients of {len(owners)} organisations; a total is opened from {self._terms.fewest} "
                "organisations on"
            )
        self._opened = chosen
        return ShareTotal(place=self.place, transcript=self._transcript(chosen), values=self._summed(chosen))

    def stored(self) -> bytes:
        """Return what this server must keep, to be durable before a total leaves. Its key is not among it."""
        return _encoder.encode(_Stored(self._sid, self.place, self._sealed, self._lost, self._opened))

    def resume(self, stored: bytes) -> None:
        """Take over what a server of the same terms and place has stored.

        Raises:
            Error: When it is no such thing, is of another sum or place, or this server has received something itself.
        """
        try:
            kept = _decoder.decode(stored)
        except msgspec.DecodeError as error:
            raise Error(f"what server {self.place} is to resume from is damaged: {error}") from error
        if (kept.sid, kept.place) != (self._sid, self.place):
            raise Error(f"server {self.place} cannot go on from what server {kept.place} has stored, or of another sum")
        if self._sealed or self._lost or self._opened is not None:
            raise Error(f"server {self.place} has received something already: resume first")
        self._sealed, self._lost, self._opened = kept.sealed, kept.lost, kept.opened

    def _summed(self, chosen: tuple[ClientId, ...]) -> Vector:
        terms = self._terms
        shares = (self._open(client, self._sealed[client], signed=True) for client in chosen)
        if self.place == 0:
            words = (np.frombuffer(share, _wire_type(terms.dtype)) for share in shares)
            return ring_total(words, terms.dim, dtype=terms.dtype)
        pairs = zip(chosen, shares, strict=True)
        seeds = [_mask_seed(seed, sid=self._sid, client=client, place=self.place) for client, seed in pairs]
        return seed_total(seeds, terms.dim, dtype=terms.dtype)

    def _transcript(self, chosen: tuple[ClientId, ...]) -> bytes:
        """Return what totals of one sum have in common: a client's shares are made with one key, of one vector."""
        senders: Iterator[str | bytes] = (
            field for client in chosen for field in (client, self._sealed[client][:_PUBLIC])
        )
        return hashlib.sha256(frame(TRANSCRIPT, self._sid, *senders)).digest()

    def _open(self, sender: ClientId, sealed: bytes, *, signed: bool = False) -> bytes:
        """Return a share that this sender has sealed to this server for this sum."""
        member, expected = self._roster.member(sender), self._terms.length(self.place)
        if member is None:
            raise Error(f"{sender!r} is not in the roster that server {self.place} has approved")
        if len(sealed) != expected:
            raise Error(f"the share of {sender!r} has {len(sealed)} bytes; server {self.place} expects {expected}")
        public, signature, cipher = sealed[:_PUBLIC], sealed[_PUBLIC:_HEAD], sealed[_HEAD:]
        to_sign = _statement(self._sid, sender, self.place, public=public, cipher=cipher)
        if not signed and not verify(member.key, signature, to_sign):
            raise Error(
                f"the share that came as that of {sender!r} is not signed by its key for server {self.place} of this "
                "sum: it was changed, sent elsewhere, or is of another round"
            )
        theirs = self._terms.servers[self.place]
        shared = self._key.exchange(public)
        key = _channel_key(shared, self._sid, sender, self.place, public=public, server=theirs)
        return open_sealed(key, cipher, sid=self._sid, step=_STEP, sender=sender, receiver=_name(self.place))


def agreed(received: Sequence[Collection[ClientId]]) -> tuple[ClientId, ...]:
    """Return the clients that every server holds a share of, by name: what the servers are asked to open.

    Example:
        >>> agreed([{ClientId("b"), ClientId("a")}, {ClientId("b"), ClientId("c"), ClientId("a")}])
        ('a', 'b')
    """
    common = set(received[0]).intersection(*received[1:])
    return tuple(sorted(common))


def combine(totals: Sequence[ShareTotal], terms: ShareTerms) -> Vector:
    """Return the sum of the clients' vectors from the totals of all servers.

    Raises:
        Error: When a total is missing or there twice, or they are not of the same clients and messages.

    Security:
        Adversary: none; whoever has all totals has the sum, and less than all are uniform. Leaks: the sum.

    Constant time:
        Yes, in practice.
    """
    places = sorted(total.place for total in totals)
    if places != list(range(len(terms.servers))):
        raise Error(f"totals of the servers {places}; a sum takes one of each of {len(terms.servers)}")
    if len({total.transcript for total in totals}) != 1:
        raise Error("the servers have opened totals of different clients or messages: their sum is of nothing")
    return ring_total((total.values for total in totals), terms.dim, dtype=terms.dtype)


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    sid: bytes
    place: int
    sealed: dict[ClientId, bytes]
    lost: dict[ClientId, str]
    opened: tuple[ClientId, ...] | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def _sealed(key: PrivateKey, plain: bytes, terms: ShareTerms, place: int, *, identity: Identity, sid: bytes) -> bytes:
    me, server = identity.client, terms.servers[place]
    channel = _channel_key(key.exchange(server), sid, me, place, public=key.public, server=server)
    cipher = seal(channel, plain, sid=sid, step=_STEP, sender=me, receiver=_name(place))
    signature = identity.sign(_statement(sid, me, place, public=key.public, cipher=cipher))
    return key.public + signature + cipher


def _channel_key(shared: bytes, sid: bytes, client: ClientId, place: int, *, public: bytes, server: bytes) -> bytes:
    """Return the key that one share is sealed by: it holds one message, as ``seal`` demands."""
    return derive(shared, sid=sid, label=CHANNEL, first=client, second=_name(place), more=public + server)


def _mask_seed(seed: bytes, *, sid: bytes, client: ClientId, place: int) -> bytes:
    """Return what a mask is expanded from: the seed that travels, bound to its sum."""
    return derive(seed, sid=sid, label=MASK, first=client, second=_name(place))


def _statement(sid: bytes, client: ClientId, place: int, *, public: bytes, cipher: bytes) -> bytes:
    """Return what a client signs of one share."""
    return frame(SIGNATURE, sid, client, place, public, hashlib.sha256(cipher).digest())


def _name(place: int) -> str:
    return f"server {place}"


def _bytes32(stream: SecretKey) -> bytes:
    return stream.random_raw(4).astype("<u8").tobytes()


def _wire_type(dtype: str) -> np.dtype[np.generic]:
    return np.dtype(dtype).newbyteorder("<")


def _wire_bytes(words: Vector) -> bytes:
    return words.astype(_wire_type(words.dtype.name), copy=False).tobytes()
