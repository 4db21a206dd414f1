"""secure_sum: the sum of the clients' vectors, and nothing else of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fedloom.core.aggregator import (
    AggregatorClient,
    AggregatorServer,
    Continue,
    InteractiveServer,
    Payload,
    SumRound,
)
from fedloom.core.component import ComponentSpec, component
from fedloom.core.ids import ClientId
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Roster
from fedloom.core.wire import WireType
from fedloom.entropy import fresh_secret
from fedloom.errors import ComponentError, Error, PipelineError, PlanError, SumAborted
from fedloom.pipeline.plain_sum import PlainSumClient
from fedloom.secure.arithmetic import ArithmeticServer
from fedloom.secure.graph import plan_graph
from fedloom.secure.messages import (
    HASH,
    MESSAGES,
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
    length,
    most_bytes,
    pack,
    unpack,
)
from fedloom.secure.refusing import RefusingServer
from fedloom.secure.terms import Floors, Rules, Terms, terms_of
from fedloom.secure.thresholds import default_colluders, default_threshold, fewest_survivors

Graph = Literal["auto", "complete", "regular"]
COMPLETE_UP_TO = 128
"""Clients up to which each shares masks with every other: beyond, a regular graph costs less, and promises less."""
MOST_CLIENTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSum:
    """The aggregator of ``secure_sum()``."""

    threshold: int | None
    colluders: int | None
    min_survivors: int
    quorum: float
    graph: Graph
    neighbours: int | None
    corrupt: float
    dropout: float
    protocol: bool
    floors: Floors = field(default_factory=Floors)
    """Of the client that holds this value."""
    spec: ComponentSpec | None = None

    @property
    def name(self) -> str:
        """Name in files."""
        return "secure_sum"

    @property
    def mergeable(self) -> bool:
        """Whether workers may add up: they may where only the arithmetic is done."""
        return not self.protocol

    @property
    def interactive(self) -> bool:
        """Whether the messages of the protocol are sent."""
        return self.protocol

    @property
    def shows_messages(self) -> bool:
        """False: the server reads no client's vector."""
        return False

    @property
    def payloads(self) -> tuple[type, ...]:
        """Message types of the protocol."""
        return MESSAGES

    @property
    def vector_step(self) -> int:
        """The masked vector is message 2."""
        return 2

    def deployed(self) -> SecureSum:
        """Return the protocol: between organisations there is nothing else."""
        return replace(self, protocol=True)

    def rules(self, invited: int) -> Rules:
        """Return how many must take part in a cohort of a size.

        Raises:
            PlanError: When so many or so few cannot have a secure sum.
        """
        if invited > MOST_CLIENTS:
            raise PlanError(
                f"secure_sum: {invited} clients in one round; it is built for {MOST_CLIENTS} at most: invite fewer"
            )
        if self.regular(invited):
            return self._regular_rules(invited)
        colluders = default_colluders(invited) if self.colluders is None else self.colluders
        threshold = default_threshold(invited) if self.threshold is None else self.threshold
        survivors = fewest_survivors(
            invited, threshold=threshold, colluders=colluders, least=self.min_survivors, quorum=self.quorum
        )
        return Rules(threshold=threshold, survivors=survivors, colluders=colluders)

    def _regular_rules(self, invited: int) -> Rules:
        planned = plan_graph(
            invited,
            corrupt=self.corrupt,
            dropout=self.dropout,
            neighbours=self.neighbours,
            threshold=self.threshold,
        )
        colluders = planned.colluders if self.colluders is None else self.colluders
        if colluders > planned.colluders:
            raise PlanError(
                f"secure_sum(colluders={colluders}): the graph is planned for {planned.colluders} of {invited} "
                "clients; raise corrupt"
            )
        survivors = fewest_survivors(
            invited, threshold=1, colluders=colluders, least=self.min_survivors, quorum=self.quorum
        )
        return Rules(
            threshold=planned.threshold,
            survivors=max(survivors, invited - planned.losses),  # with more lost the graph may fall into parts
            colluders=colluders,
            neighbours=planned.neighbours,
        )

    def regular(self, invited: int) -> bool:
        """Return whether a cohort of a size shares masks along a regular graph."""
        return self.graph == "regular" or (self.graph == "auto" and invited > COMPLETE_UP_TO)

    def honest(self, wire: WireType) -> int:
        """Return how many contributions of clients that do not collude every opened sum has, at least."""
        return self.survivors(wire) - self._colluders(wire)

    def survivors(self, wire: WireType) -> int:
        """Return how many contributions every opened sum has, at least."""
        if wire.fewest_clients:
            return self.rules(wire.fewest_clients).survivors
        return max(self.min_survivors, self._colluders(wire) + 2)

    def _colluders(self, wire: WireType) -> int:
        if wire.fewest_clients:
            return self.rules(wire.fewest_clients).colluders
        return 1 if self.colluders is None else self.colluders

    def words(self, wire: WireType) -> tuple[str, ...]:
        """Return what a plan says: who learns what, who is trusted, how many may be missing."""
        invited = wire.fewest_clients or wire.most_clients
        if invited is None:
            return ()
        rules = self.rules(invited)
        opened = max(rules.survivors, rules.threshold)
        missing = invited - opened
        kept = "no drop-out is tolerated" if missing == 0 else f"{missing} may be missing"
        lines = [f"of {invited} clients a sum is opened from {opened} vectors on: {kept}"]
        if rules.neighbours:
            lines.append(
                f"semi-honest server: each client shares masks with {rules.neighbours} others, of whom "
                f"{rules.threshold} open its secrets; planned for {rules.colluders} colluding clients. A server that "
                "deviates is outside"
            )
        else:
            lines.append(
                f"the server, whatever it does, and with {_clients(rules.colluders)} on its side, learns the sum of at "
                f"least {opened - rules.colluders} others, or nothing; {rules.threshold} clients together open a sum"
            )
            lines.append(
                "that holds under a roster that the clients have approved; under none, of a server that follows the "
                "protocol"
            )
        lines.append(
            "not hidden: the sum itself, which is telling when few clients, or in two rounds nearly the same ones, are "
            "in it; who takes part and who is lost; and no vector is checked, so a client can send what it likes"
        )
        if not self.protocol:
            lines.append(
                "a simulation computes the sum alone, and counts no keys and shares; protocol = true sends them as well"
            )
        return tuple(lines)

    def specimens(self, wire: WireType, cohort: Sequence[ClientId]) -> tuple[Sequence[Message], Sequence[Message]]:
        """Return messages as long as those of a round in which nobody is lost."""
        rules = self.rules(len(cohort))
        others = rules.neighbours or len(cohort) - 1
        holders = others + (0 if rules.neighbours else 1)
        key, hashed, signature = bytes(32), bytes(HASH), bytes(64)
        words = (wire.dim or 0) * (8 if wire.dtype == "uint64" else 4)
        places = tuple(range(1, len(cohort) + 1))
        up = (
            Advertise(key, key, signature),
            Shares(bytes(SEALED * others), hashed, bytes(2 * HASH * holders), signature),
            Masked(bytes(words)),
            Consistent(signature),
            Unmask(bytes(OPENED * holders)),
        )
        entries = (Entry(place, cohort[place - 1], key, key, signature) for place in places[: others + 1])
        down = (
            Roll(len(cohort), tuple(entries)),
            Delivery(tuple(Parcel(place, bytes(SEALED), bytes(2 * HASH)) for place in places[:others])),
            Survivors(places),
            Witnesses(places[: rules.threshold], bytes(64 * rules.threshold)),
        )
        return up, down

    def plan(self, wire: WireType) -> WireType:
        """Accept residues of Z_m.

        Raises:
            PipelineError: When the values are not residues.
            PlanError: When a round invites too few clients or too many, or the threshold does not hold.
        """
        if wire.modulus is None:
            raise PipelineError(
                self.name,
                received=wire,
                advice="Masks hide integers of Z_m: put fixed_point() before it, behind clip(...) and mean(...).",
            )
        for size in {wire.fewest_clients, wire.most_clients} - {None, 0}:
            assert size is not None
            rules = self.rules(size)
            if rules.survivors > size:
                raise PlanError(
                    f"secure_sum: {size} clients are invited; a sum of fewer than {rules.survivors} is not opened"
                )
        return wire

    def server(self, cohort: Sequence[ClientId], about: SumRound, keys: Keys) -> AggregatorServer:
        """Return the server side of one round: the protocol's, or the arithmetic alone."""
        try:
            terms = self.terms(about)
        except PlanError as error:
            return RefusingServer(cohort, f"secure_sum: {error}")
        if not self.protocol:
            return ArithmeticServer(cohort, max(terms.rules.survivors, terms.rules.threshold))
        from fedloom.secure.secagg_server import SecAggServer  # cryptography: not before it is used

        path = ("secure_sum", about.phase, about.program, about.round, about.retry)
        seed = _words(keys.secret.child(*path))  # the same when a round is carried out again from what is stored of it
        return SecAggServer(cohort, terms, _roster(about, keys.secret), graph_seed=seed)

    def client(
        self, me: ClientId, value: Vector, about: SumRound, keys: Keys, identity: Identity | None = None
    ) -> AggregatorClient:
        """Return the client side of one round.

        Raises:
            SumAborted: When the terms are below what this client insists on.
        """
        if not self.protocol:
            return PlainSumClient(value)
        from fedloom.secure.roster import simulated_identity
        from fedloom.secure.secagg_client import SecAggClient

        roster = _roster(about, keys.secret)
        try:
            terms = self.terms(about)
            terms.check_floors(self.floors)
        except PlanError as error:
            raise SumAborted(str(error)) from error
        if identity is None:
            _only_derived(keys.secret, "an identity")
            identity = simulated_identity(about.key, me)
        return SecAggClient.begin(
            terms,
            value,
            entropy=_entropy(keys.secret.child("secure_sum")),
            derived=keys.secret.derived,
            roster=roster,
            identity=identity,
        )

    def terms(self, about: SumRound) -> Terms:
        """Return the terms of a round's sum as whoever asks holds them.

        Raises:
            PlanError: When they promise nothing.
        """
        from fedloom.secure.roster import SimulatedRoster

        rules = self.rules(about.invited)
        if about.wire.honest is not None and about.wire.noise_shares:
            needed = about.wire.honest + rules.colluders  # what the shares of noise were made for
            rules = Rules(
                threshold=rules.threshold,
                survivors=max(rules.survivors, needed),
                colluders=rules.colluders,
                neighbours=rules.neighbours,
            )
        roster = SimulatedRoster(about.key) if about.roster is None else about.roster
        return terms_of(about, rules, roster)

    def resume(
        self, me: ClientId, stored: bytes, *, roster: Roster | None, identity: Identity | None
    ) -> AggregatorClient:
        """Return a client side as ``stored()`` left it."""
        from fedloom.secure.secagg_client import SecAggClient

        if roster is None or identity is None or identity.client != me:
            raise Error("a stored secure sum is taken up by its own client, with its roster and its key")
        return SecAggClient.resume(stored, roster=roster, identity=identity)

    def resume_server(
        self, cohort: Sequence[ClientId], stored: bytes, about: SumRound, keys: Keys
    ) -> tuple[InteractiveServer, Continue]:
        """Return a server side as ``stored()`` left it, and the messages that may not have left."""
        from fedloom.secure.secagg_server import SecAggServer

        server = self.server(cohort, about, keys)
        if not isinstance(server, SecAggServer):
            raise Error("only the protocol is taken up again: this sum has none")
        return server, server.resume(stored)

    def pack(self, payload: Payload) -> bytes:
        """Return a message as it travels."""
        return pack(payload)

    def length(self, payload: Payload) -> int:
        """Return ``len(pack(payload))``."""
        return length(payload)

    def unpack(self, data: bytes, wire: WireType) -> Message:
        """Return the message that some bytes are."""
        return unpack(data, most=most_bytes(wire))


@component("fedloom.aggregators")
def secure_sum(
    *,
    threshold: int | None = None,
    colluders: int | None = None,
    min_survivors: int = 3,
    quorum: float = 0.8,
    graph: Graph = "auto",
    neighbours: int | None = None,
    corrupt: float = 0.1,
    dropout: float = 0.1,
    protocol: bool = False,
) -> SecureSum:
    """Sum vectors of Z_m so that the server learns the sum, and no client's vector.

    Clients agree in pairs on masks that cancel in the sum, and share the keys to them among each other, so that masks
    of clients that are lost can be taken off again: five messages a client. The sum is opened only if enough vectors
    are in it, and enough clients have signed that they saw the same list of them. Between organisations the protocol is
    always run. In simulation the sum is computed without it, unless ``protocol`` is set: the bytes are the same.

    Args:
        threshold: Clients that open the sum together; default ``floor(2n/3) + 1`` of n invited. On a regular graph, of
            each client's neighbours; default planned.
        colluders: Clients assumed to tell the server all that they know; default 1, with three clients 0.
        min_survivors: Vectors that a sum must have at least, whatever the cohort.
        quorum: The same, as a share of those invited.
        graph: "complete": each client with every other, up to 128 by default; "regular": each with ``neighbours``
            others, for up to 1,024 clients, against a server that follows the protocol.
        neighbours: Degree of the regular graph; default planned for ``corrupt`` and ``dropout``.
        corrupt: Of a regular graph: share of clients assumed to collude with the server.
        dropout: Of a regular graph: share of clients that may be lost.
        protocol: In simulation: send the messages, with real keys, masks and signatures.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: At construction: in front of values that are no residues.
        PlanError: When the cohort is known: ``2 threshold <= invited + colluders``, too few or too many clients.

    Security:
        Adversary: on the complete graph a server that does what it likes, together with ``colluders`` clients: it
        learns the sum over one set of at least ``survivors`` clients, or nothing. It needs a roster that the clients
        have approved; without one, and on a regular graph, a server that follows the protocol. What leaks: the sum,
        which can be telling (of few clients, of almost the same clients in two rounds, under a model made for it: add
        noise by ``distributed_gaussian``), who takes part, who is lost and when, and time. Clients can send any vector.

    Source: Bonawitz et al. 2017, CCS, Figure 4; Bell et al. 2020, CCS; differences: ``SecAggClient``.

    Example:
        >>> secure_sum().rules(10)
        Rules(threshold=7, survivors=8, colluders=1, neighbours=0)
    """
    if threshold is not None and threshold < 2:
        raise ComponentError(f"secure_sum(threshold={threshold}): expected 2 or more")
    if colluders is not None and colluders < 0:
        raise ComponentError(f"secure_sum(colluders={colluders}): expected 0 or more")
    if min_survivors < 2:
        raise ComponentError(f"secure_sum(min_survivors={min_survivors}): a sum of one is that client's vector")
    if not 0 < quorum <= 1:
        raise ComponentError(f"secure_sum(quorum={quorum}): expected a share above 0, at most 1")
    if graph not in ("auto", "complete", "regular"):
        raise ComponentError(f'secure_sum(graph={graph!r}): expected "auto", "complete" or "regular"')
    for field_name, rate in (("corrupt", corrupt), ("dropout", dropout)):
        if not 0 <= rate < 1:
            raise ComponentError(f"secure_sum({field_name}={rate}): expected a share from 0 up to, not including, 1")
    return SecureSum(
        threshold=threshold,
        colluders=colluders,
        min_survivors=min_survivors,
        quorum=quorum,
        graph=graph,
        neighbours=neighbours,
        corrupt=corrupt,
        dropout=dropout,
        protocol=protocol,
    )


def _clients(count: int) -> str:
    return "no client" if count == 0 else "one client" if count == 1 else f"{count} clients"


def _roster(about: SumRound, secret: SecretKey) -> Roster:
    from fedloom.secure.roster import SimulatedRoster

    if about.roster is not None:
        return about.roster
    _only_derived(secret, "a roster")
    return SimulatedRoster(about.key)


def _only_derived(secret: SecretKey, what: str) -> None:
    if not secret.derived:
        raise Error(f"a secure sum between parties needs {what}: who takes part, and by which key, is no guess")


def _entropy(secret: SecretKey) -> bytes:
    """Return 32 bytes for one session: fresh ones, in simulation derived ones."""
    return _words(secret if secret.derived else fresh_secret())


def _words(secret: SecretKey) -> bytes:
    return secret.random_raw(4).astype("<u8").tobytes()
