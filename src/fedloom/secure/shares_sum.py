"""shares_sum: additive secret sharing to two or three servers, of which one must be honest; one message of a client.

In simulation the sum is computed as it is, with the outcome that the servers would have, or with ``protocol = true`` by
splitting, sealing, opening and combining shares, with keys that the run's seed gives. The bytes are the same. For real
servers, each with its own operator and key, the parts are in ``fedloom.secure.shares``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from fedloom.core.aggregator import Abort, AggregatorServer, Continue, Finish, Payload, SumPart, SumRound
from fedloom.core.component import ComponentSpec, component
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Roster
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret
from fedloom.errors import CodecError, ComponentError, Error, PipelineError, PlanError
from fedloom.pipeline.plain_sum import PlainSumClient
from fedloom.secure.arithmetic import ArithmeticServer, too_few
from fedloom.secure.encoding import frame

if TYPE_CHECKING:  # the primitives behind them are loaded when a share is made
    from fedloom.secure.agreement import PrivateKey
    from fedloom.secure.shares import ShareServer, ShareTerms

CONTEXT = b"fedloom/shares/v1/round"
_SERVERS = (2, 3)
_FEWEST = 3
"""A sum of two tells each of the two what the other gave."""
_HONEST = 2
"""Contributions that must be left when colluders take theirs out of the sum."""
_BESIDE = 1 << 10
_SEED = 32
_BESIDE_CONTENT = 112
"""Of a sealed share: a public key, a signature, a tag."""


class SealedShares(Struct, frozen=True, array_like=True):
    """What a client sends: a sealed share for each server, in their order."""

    shares: tuple[bytes, ...]


class SharesClient:
    """Sends its shares, once: what it keeps is the message, and neither the vector nor the seeds."""

    def __init__(self, message: SealedShares) -> None:
        self._message = message

    def open(self) -> Payload:
        """Return the shares: the same bytes whenever it is asked."""
        return self._message

    def reply(self, message: Payload) -> Payload:
        """Refuse: this sum asks for nothing more.

        Raises:
            Error: Always.
        """
        raise Error(f"a sum of shares has one message of a client; the server sent {type(message).__name__}")

    def stored(self) -> bytes:
        """Return the message."""
        return _encoder.encode(self._message)


class SharesServer:
    """All servers of one sum in one process, and the coordinator between them: for simulation."""

    def __init__(self, cohort: Sequence[ClientId], terms: ShareTerms, servers: Sequence[ShareServer]) -> None:
        self._cohort = tuple(cohort)
        self._terms = terms
        self._servers = servers
        self._waiting = set(cohort)
        self._outcome: Finish | Abort | None = None

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Hand each server its share. A share that its server refuses loses the client, at every server.

        Raises:
            Error: When the sender is not of the cohort, was lost or has sent before, or a server refuses its share.
        """
        if sender not in self._waiting:
            known = sender in self._cohort
            raise Error(f"{sender!r} {'has sent or was lost already' if known else 'is not of this cohort'}")
        if not isinstance(message, SealedShares) or len(message.shares) != len(self._servers):
            raise Error(f"{sender!r} sent no message of {len(self._servers)} shares")
        try:
            for server, share in zip(self._servers, message.shares, strict=True):
                server.receive(sender, share)
        except Error as error:
            self._leave_out(sender, str(error))
            raise
        self._waiting.discard(sender)

    def lose(self, client: ClientId) -> None:
        """Leave a client out.

        Raises:
            Error: When it is not of the cohort, has sent or was lost already.
        """
        if client not in self._waiting:
            raise Error(f"{client!r} has sent, was lost already, or is not of this cohort")
        self._waiting.discard(client)
        self._leave_out(client, "sent nothing")

    @property
    def lost(self) -> Sequence[Mapping[ClientId, str]]:
        """For each server, who is not in the sum and why."""
        return tuple(server.lost for server in self._servers)

    def advance(self) -> Continue | Finish | Abort:
        """Return the sum when every client has sent or is lost, if enough have sent."""
        if self._waiting:
            return Continue()
        if self._outcome is None:
            self._outcome = self._close()
        return self._outcome

    def partial(self) -> SharesServer:
        """Refuse: see ``mergeable``.

        Raises:
            Error: Always.
        """
        raise Error("sealed shares are not mergeable: messages go one by one")

    def merge(self, other: SharesServer) -> None:
        """Refuse, as ``partial``.

        Raises:
            Error: Always.
        """
        del other
        raise Error("sealed shares are not mergeable: messages go one by one")

    def export(self) -> SumPart:
        """Refuse, as ``partial``.

        Raises:
            Error: Always.
        """
        raise Error("sealed shares are not mergeable: messages go one by one")

    def absorb(self, part: SumPart) -> None:
        """Refuse, as ``partial``.

        Raises:
            Error: Always.
        """
        del part
        raise Error("sealed shares are not mergeable: messages go one by one")

    def stored(self) -> bytes:
        """Return what each server must keep, and who is waited for."""
        return _encoder.encode([sorted(self._waiting), [server.stored() for server in self._servers]])

    def resume(self, stored: bytes) -> None:
        """Take over what ``stored()`` gave.

        Raises:
            Error: When it is damaged, or of another sum.
        """
        try:
            waiting, servers = _stored.decode(stored)
        except msgspec.DecodeError as error:
            raise Error(f"what the servers of a sum are to resume from is damaged: {error}") from error
        for server, kept in zip(self._servers, servers, strict=True):
            server.resume(kept)
        self._waiting = set(waiting)

    def _leave_out(self, client: ClientId, reason: str) -> None:
        for server in self._servers:
            server.lose(client, reason)

    def _close(self) -> Finish | Abort:
        from fedloom.secure.shares import agreed, combine

        common = set(agreed([server.received for server in self._servers]))
        included = tuple(client for client in self._cohort if client in common)
        if len(included) < self._terms.fewest:
            return too_few(len(included), len(self._cohort), fewest=self._terms.fewest)
        return Finish(combine([server.total(included) for server in self._servers], self._terms), included)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesSum:
    """The aggregator of ``shares_sum()``."""

    servers: int
    min_survivors: int
    colluders: int
    protocol: bool
    name: str = "shares_sum"
    vector_step: int = 0
    """A client's only message."""
    spec: ComponentSpec | None = None

    @property
    def mergeable(self) -> bool:
        """True for the arithmetic: sealed shares go to their servers one by one."""
        return not self.protocol

    @property
    def interactive(self) -> bool:
        """True for the protocol: its one message is kept, so that a client never makes a second one."""
        return self.protocol

    @property
    def shows_messages(self) -> bool:
        """False: no server reads a client's vector."""
        return False

    @property
    def payloads(self) -> tuple[type, ...]:
        """What a client sends."""
        return (SealedShares,) if self.protocol else (np.ndarray,)

    def honest(self, wire: WireType) -> int | None:
        """Return how many contributions are left of every opened sum when the colluders' are taken out."""
        del wire
        return self.min_survivors - self.colluders

    def deployed(self) -> SharesSum:
        """Refuse: there is no transport to several servers yet.

        Raises:
            PlanError: Always.
        """
        raise PlanError("shares_sum runs in simulation: no federation has several servers yet. Take secure_sum")

    def survivors(self, wire: WireType) -> int | None:
        """Return how many contributions every opened sum has, at least."""
        del wire
        return self.min_survivors

    def words(self, wire: WireType) -> tuple[str, ...]:
        """Return what a plan says: who reads what, who is trusted, how many may be missing."""
        invited = wire.fewest_clients or wire.most_clients
        of = "" if invited is None else f"of {invited} clients "
        missing = "" if invited is None else f": {max(0, invited - self.min_survivors)} may be missing"
        simulated = "simulated: vectors are added as they are; the protocol would give the same bytes"
        return (
            f"{self.servers} servers hold one share each of every update. One honest server is enough: the others and "
            "the coordinator together then learn the sum and nothing else of an update. All of them together read "
            "every update, so their operators must not collude",
            f"{of}a sum is opened from {self.min_survivors} vectors on, for one list of clients{missing}; "
            f"{self.colluders} of them may collude, which leaves {self.min_survivors - self.colluders} honest ones",
            "each server and the coordinator see who took part in which round",
            "a server that is not honest can make the sum wrong, unnoticed",
            *(() if self.protocol else (simulated,)),
        )

    def specimens(
        self, wire: WireType, cohort: Sequence[ClientId]
    ) -> tuple[Sequence[SealedShares], Sequence[SealedShares]]:
        """Return messages as long as those that a client sends and gets: one, and none."""
        del cohort
        first = (wire.dim or 0) * np.dtype(wire.dtype).itemsize
        lengths = [_BESIDE_CONTENT + first, *[_BESIDE_CONTENT + _SEED] * (self.servers - 1)]
        return (SealedShares(tuple(bytes(length) for length in lengths)),), ()

    def plan(self, wire: WireType) -> WireType:
        """Accept residues of a cohort that can be large enough.

        Raises:
            PipelineError: For a wire of other numbers, or when a round invites too few clients for a sum.
        """
        if wire.modulus is None or wire.dtype not in ("uint32", "uint64"):
            raise PipelineError(
                self.name,
                received=wire,
                advice="Shares are integers modulo 2**32 or 2**64: put fixed_point() before it, as the last stage.",
            )
        if wire.modulus != 1 << 8 * np.dtype(wire.dtype).itemsize:
            raise PipelineError(
                self.name, received=wire, advice=f"Its modulus must be the range of {wire.dtype}: use fixed_point()."
            )
        if wire.most_clients is not None and wire.most_clients < self.min_survivors:
            raise PipelineError(
                self.name,
                received=wire,
                advice=f"A round invites {wire.most_clients} clients at most, and a sum is opened from "
                f"min_survivors={self.min_survivors} on: invite more.",
            )
        return wire

    def server(self, cohort: Sequence[ClientId], about: SumRound, keys: Keys) -> AggregatorServer:
        """Return the server side of one round: arithmetic, or all servers together."""
        del keys
        _check_simulated(about)
        if not self.protocol:
            return ArithmeticServer(cohort, self.min_survivors)
        return self._servers(cohort, about)

    def client(
        self, me: ClientId, value: Vector, about: SumRound, keys: Keys, identity: Identity | None = None
    ) -> PlainSumClient | SharesClient:
        """Return the client side of one round."""
        _check_simulated(about)
        if not self.protocol:
            return PlainSumClient(value)
        from fedloom.secure.roster import simulated_identity
        from fedloom.secure.shares import split

        named = simulated_identity(about.key, me) if identity is None else identity
        shares = split(value, self._terms(about), identity=named, secret=keys.secret)
        return SharesClient(SealedShares(shares))

    def resume_server(
        self, cohort: Sequence[ClientId], stored: bytes, about: SumRound, keys: Keys
    ) -> tuple[SharesServer, Continue]:
        """Return a server side as ``stored()`` left it; it sends no messages."""
        del keys
        _check_simulated(about)
        server = self._servers(cohort, about)
        server.resume(stored)
        return server, Continue()

    def resume(self, me: ClientId, stored: bytes, *, roster: Roster | None, identity: Identity | None) -> SharesClient:
        """Return a client side as ``stored()`` left it.

        Raises:
            CodecError: When it is damaged.
        """
        del me, roster, identity
        return SharesClient(_decoded(stored))

    def pack(self, payload: Payload) -> bytes:
        """Return a message as it travels."""
        return _encoder.encode(payload)

    def length(self, payload: Payload) -> int:
        """Return ``len(pack(payload))`` without copying a vector."""
        return len(_encoder.encode(SealedShares(()))) + sum(
            len(share) + (2 if len(share) < 1 << 8 else 3 if len(share) < 1 << 16 else 5) for share in payload.shares
        )

    def unpack(self, data: bytes, wire: WireType) -> Payload:
        """Return the message that ``data`` is.

        Raises:
            CodecError: When it is none of this sum.
        """
        dim = 0 if wire.dim is None else wire.dim
        most = dim * np.dtype(wire.dtype).itemsize + _BESIDE
        if len(data) > most:
            raise CodecError(f"a message of {len(data)} bytes; this sum has none above {most}")
        return _decoded(data)

    def _servers(self, cohort: Sequence[ClientId], about: SumRound) -> SharesServer:
        from fedloom.secure.roster import SimulatedRoster
        from fedloom.secure.shares import ShareServer

        terms, roster = self._terms(about), SimulatedRoster(about.key)
        keys = [_server_key(about.key, place) for place in range(self.servers)]
        servers = [ShareServer(terms, place, key=key, roster=roster) for place, key in enumerate(keys)]
        return SharesServer(cohort, terms, servers)

    def _terms(self, about: SumRound) -> ShareTerms:
        from fedloom.secure.shares import ShareTerms

        wire = about.wire
        if wire.dim is None:
            raise PlanError("a sum of shares was begun before the size of the vector is agreed")
        return ShareTerms(
            context=_context(about, self.colluders),
            dim=wire.dim,
            dtype=wire.dtype,
            servers=tuple(_server_key(about.key, place).public for place in range(self.servers)),
            fewest=self.min_survivors,
        )


def _context(about: SumRound, colluders: int) -> bytes:
    """Return the name of a sum: what it is of, and what both sides think of its wire."""
    wire = about.wire
    numbers = (wire.step, wire.l2, wire.clipped, wire.max_weight, wire.noise_multiplier, wire.record)
    return frame(
        CONTEXT, about.run, about.digest, about.phase, about.program, about.round, about.retry, about.order,
        about.invited, colluders, wire.metrics, repr(wire.weight), repr(wire.noise_each),
        *(repr(None if number is None else float(number).hex()) for number in numbers),
    )  # fmt: skip


def _server_key(key: Key, place: int) -> PrivateKey:
    """Return the key of a simulated server, which whoever knows the run's seed can compute."""
    from fedloom.secure.agreement import private_key

    return private_key(derived_secret(key.child("server of shares", place)).random_bytes(32))


def _check_simulated(about: SumRound) -> None:
    """Refuse a real federation: one process would be all servers, under keys that the seed gives."""
    if about.run or about.roster is not None:
        raise PlanError(
            "shares_sum as an aggregator is for simulation: here one process holds all servers. Between organisations "
            "use secure_sum, or run a fedloom.secure.shares.ShareServer at each operator"
        )


def _decoded(data: bytes) -> SealedShares:
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"the bytes are no message of sealed shares: {error}") from error


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SealedShares)
_stored = msgspec.msgpack.Decoder(tuple[list[ClientId], list[bytes]])


@component("fedloom.aggregators")
def shares_sum(servers: int = 2, *, min_survivors: int = 3, colluders: int = 1, protocol: bool = False) -> SharesSum:
    """Sum of which no server reads a client's vector, if one of two or three servers is honest.

    Each client splits its vector into one share for each server, seals them, and sends them in one message. A client
    that is lost is simply not in the sum: there are no masks to repair. The coordinator learns the sum, and who is in
    it; each server who is in it. Against ``secure_sum``: a third of the messages and no limit on lost clients, for the
    trust in one more operator.

    Args:
        servers: 2 or 3, run by operators that do not collude. The upload grows by 144 bytes for each.
        min_survivors: Clients that a sum must have to be opened, at least 3; every server insists on it.
        colluders: Clients assumed to tell all they know; at least 2 others must be left of every sum.
        protocol: In simulation, split, seal and open shares really. The sum has the same bytes without.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: When bound to a wire that is no integers of ``fixed_point``, or to too small a cohort.

    Security:
        Adversary: the coordinator, all servers but one, and up to ``colluders`` clients, who may deviate from the
        protocol; not all servers together. It learns the sum over the list that the honest server opens, chooses who
        is on that list among those that sent, and sees who took part and the sizes of messages. What the sum reveals it
        reveals: over many rounds, or of a crafted model, that may be much. Results are not protected: a dishonest
        server or client can make the sum wrong. As a component it is for simulation, where keys come from the run's
        seed and hide nothing.

    Constant time:
        See ``fedloom.secure.shares``.

    Source: Corrigan-Gibbs and Boneh 2017, Prio, arXiv:1703.06255, section 3, the scheme without robustness. Differs: in
        Z_(2**w); shares go through the coordinator, sealed and signed; a server opens one total for one list.

    Example:
        >>> shares_sum(servers=3, min_survivors=5).honest(WireType(dim=4, dtype="uint32", modulus=2**32))
        4
    """
    if servers not in _SERVERS:
        raise ComponentError(f"shares_sum(servers={servers}): expected 2 or 3")
    if colluders < 0:
        raise ComponentError(f"shares_sum(colluders={colluders}): expected 0 or more")
    if min_survivors < max(_FEWEST, colluders + _HONEST):
        raise ComponentError(
            f"shares_sum(min_survivors={min_survivors}, colluders={colluders}): expected at least "
            f"{max(_FEWEST, colluders + _HONEST)} survivors, so that two honest contributions hide each other"
        )
    return SharesSum(servers=servers, min_survivors=min_survivors, colluders=colluders, protocol=protocol)
