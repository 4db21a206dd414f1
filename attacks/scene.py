"""Scene: clients with keys of their own, a roster signed offline, and between them whatever server a script is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from verdict import Refusal

from fedloom.core.aggregator import Abort, Continue, Finish, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.core.roster import Member
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret
from fedloom.errors import Error
from fedloom.secure.agreement import signing_key
from fedloom.secure.messages import Consistent, Message, Unmask, Witnesses
from fedloom.secure.roster import LocalIdentity, open_roster, roster
from fedloom.secure.secagg_client import SecAggClient
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.secure_sum import secure_sum
from fedloom.secure.terms import Rules, Terms, terms_of

NAMES = tuple(map(ClientId, ("ash", "birch", "cedar", "elm", "fir", "hazel", "maple", "oak")))
DIM = 16
MODEL = b"the model of this round"


Answer = Message | Refusal
Tamper = Callable[[int, ClientId, Message], Message]


def secret_bytes(*path: str) -> bytes:
    """Return 32 bytes that stand for a party's entropy: the same in every run, so that a script shows the same."""
    return derived_secret(Key.from_seed(6).child("attacks", *path)).random_bytes(32)


def vectors_of(names: Iterable[ClientId], dim: int = DIM) -> dict[ClientId, Vector]:
    """Return what each client would rather keep to itself."""
    return {
        name: Key.from_seed(1).child("vector", name).generator().integers(0, 2**32, dim, dtype=np.uint32)
        for name in names
    }


class Federation:
    """Some clients, and the roster that an offline root has signed for them."""

    def __init__(self, size: int = 7, *, organisations: Mapping[str, str] | None = None) -> None:
        owners = {} if organisations is None else organisations
        root = signing_key(secret_bytes("root"))
        self.names = NAMES[:size]
        self.root = root.public
        self.identities = {name: LocalIdentity(name, signing_key(secret_bytes("key", name))) for name in self.names}
        self.members = [
            Member(client=name, organisation=owners.get(name, name), key=self.identities[name].public)
            for name in self.names
        ]
        self.roster = open_roster(roster("trees", 1, self.members).signed(root).stored(), root=root.public)

    def rules(self) -> Rules:
        """Return the rules of the component, with a quorum that leaves room for losses."""
        return secure_sum(quorum=0.7).rules(len(self.names))

    def about(self, *, round: int = 1, retry: int = 0, model: bytes = MODEL, dim: int = DIM) -> SumRound:
        """Return what is known of a round's sum before it begins."""
        size = len(self.names)
        wire = WireType(
            dim=dim, dtype="uint32", modulus=2**32, l2=4096.0, weight=True, max_weight=100.0,
            most_clients=size, fewest_clients=size,
        )  # fmt: skip
        return SumRound(
            invited=size, wire=wire, digest="5" * 64, phase=0, program="train", round=RoundNumber(round), retry=retry,
            key=Key.from_seed(0), order=hashlib.sha256(model).digest(), run="a run", roster=self.roster,
        )  # fmt: skip

    def terms(self, about: SumRound | None = None, rules: Rules | None = None) -> Terms:
        """Return the terms of a session."""
        about = self.about() if about is None else about
        return terms_of(about, self.rules() if rules is None else rules, self.roster)

    def client(self, name: ClientId, terms: Terms, vector: Vector) -> SecAggClient:
        """Return a real client side, at its beginning; its entropy is of this session alone."""
        return SecAggClient.begin(
            terms,
            vector,
            entropy=secret_bytes("session", name, terms.sid.hex()),
            derived=True,
            roster=self.roster,
            identity=self.identities[name],
        )

    def revive(self, side: SecAggClient, name: ClientId) -> SecAggClient:
        """Return a second client side with the same past: to try several things on one client."""
        return SecAggClient.resume(side.stored(), roster=self.roster, identity=self.identities[name])

    def session(
        self,
        terms: Terms | None = None,
        *,
        vectors: Mapping[ClientId, Vector] | None = None,
        lost: Mapping[ClientId, int] | None = None,
        tamper: Tamper | None = None,
        colluders: Sequence[ClientId] = (),
    ) -> Session:
        """Return a session in which nothing has been sent.

        Args:
            terms: What clients and server hold.
            vectors: Of each client.
            lost: Clients that are lost, with the first of their messages (0 to 4) that does not come.
            tamper: Changes a client's message on its way to the server.
            colluders: Clients that tell the server all they know.
        """
        terms = self.terms() if terms is None else terms
        held = vectors_of(self.names) if vectors is None else vectors
        server = SecAggServer(self.names, terms, self.roster, graph_seed=bytes(32))
        clients = {name: self.client(name, terms, held[name]) for name in self.names}
        return Session(terms, clients, server, lost=lost, tamper=tamper, colluders=colluders)


class Session:
    """One secure sum, message by message.

    ``until`` and ``finish`` are the honest server; in between a script may ask the clients whatever it likes. All that
    clients have ever answered is kept: it is what an attacker has.
    """

    def __init__(
        self,
        terms: Terms,
        clients: dict[ClientId, SecAggClient],
        server: SecAggServer,
        *,
        lost: Mapping[ClientId, int] | None = None,
        tamper: Tamper | None = None,
        colluders: Sequence[ClientId] = (),
    ) -> None:
        self.terms = terms
        self.clients = clients
        self.server = server
        self.lost = dict(lost or {})
        self.tamper = tamper
        self.colluders = dict.fromkeys(colluders, b"")
        """What each of them told the server last, while it had something to tell."""
        self.heard: list[tuple[ClientId, Message | None, Message]] = []
        """Who was asked what (nothing, for the first message) and answered what."""
        self.refusals: list[Refusal] = []

    def ask(self, name: ClientId, message: Message) -> Answer:
        """Give a client a message; return what it says."""
        side = self.clients[name]
        try:
            answer = side.reply(message)
        except Error as error:
            return self._refused(name, error)
        if name in self.colluders and not isinstance(answer, Unmask):
            self.colluders[name] = side.stored()
        self.heard.append((name, message, answer))
        return answer

    def tell(self, name: ClientId, answer: Message) -> Refusal | None:
        """Give the honest server a client's message."""
        try:
            self.server.receive(name, answer)
        except Error as error:
            self.server.lose(name)
            return self._refused("the server", error)
        return None

    def begin(self) -> Continue | Finish | Abort:
        """Let every client open, and the server say what follows."""
        for name, side in self.clients.items():
            if self.lost.get(name) == 0:
                self.server.lose(name)
                continue
            opened = side.open()
            self.heard.append((name, None, opened))
            self.tell(name, self._carried(0, name, opened))
        return self.server.advance()

    def carry(self, asks: Mapping[ClientId, Message], step: int) -> Continue | Finish | Abort:
        """Carry the messages of one step to the clients, and their answers to the server."""
        for name, message in asks.items():
            if self.lost.get(name) == step:
                self.server.lose(name)
                continue
            answer = self.ask(name, message)
            if isinstance(answer, Refusal):
                self.server.lose(name)
            else:
                self.tell(name, self._carried(step, name, answer))
        return self.server.advance()

    def signatures(self) -> dict[int, bytes]:
        """Return the survivors' signatures that were heard, by place."""
        places = {name: place for place, name in enumerate(sorted(self.clients), start=1)}
        return {places[name]: answer.signature for name, _, answer in self.heard if isinstance(answer, Consistent)}

    def until(self, step: int) -> dict[ClientId, Message]:
        """Play honestly until the server is about to ask for message ``step`` (1 to 4); return what it would send."""
        outcome = self.begin()
        for number in range(1, step):
            assert isinstance(outcome, Continue), outcome
            outcome = self.carry(dict(outcome.messages), number)
        assert isinstance(outcome, Continue), outcome
        return dict(outcome.messages)

    def finish(self, asks: Mapping[ClientId, Message], step: int) -> Finish | Abort:
        """Play honestly from messages of a step to the end."""
        outcome = self.carry(asks, step)
        while isinstance(outcome, Continue):
            step += 1
            outcome = self.carry(dict(outcome.messages), step)
        return outcome

    def run(self) -> Finish | Abort:
        """Play honestly from the beginning to the end; what is tampered with on the way is not the server's doing."""
        outcome = self.begin()
        return self.finish(dict(outcome.messages), 1) if isinstance(outcome, Continue) else outcome

    def _carried(self, step: int, name: ClientId, message: Message) -> Message:
        return message if self.tamper is None else self.tamper(step, name, message)

    def _refused(self, who: str, error: Error) -> Refusal:
        refusal = Refusal(who, str(error))
        self.refusals.append(refusal)
        return refusal


def retried(session: Session, federation: Federation, name: ClientId, message: Message) -> Answer:
    """Ask a copy of a client, so that the client itself can be asked again."""
    kept = session.clients[name]
    session.clients[name] = federation.revive(kept, name)
    try:
        return session.ask(name, message)
    finally:
        session.clients[name] = kept


def witnesses(signatures: Mapping[int, bytes]) -> Witnesses:
    """Return signatures as the server shows them."""
    places = tuple(sorted(signatures))
    return Witnesses(places, b"".join(signatures[place] for place in places))
