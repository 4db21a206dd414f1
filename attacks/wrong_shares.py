"""A client that deals or opens what is not its share.

A helper hands in another share, or another salt, and the sum would come out wrong, or not at all, with nobody to blame;
a dealer commits to one secret and shares another. Every share and every seed is committed to under the dealer's
signature. A wrong opening names the helper, and other helpers do; right openings of a wrong secret name the dealer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from loot import openable
from msgspec.structs import replace
from scene import NAMES, Federation, Session, vectors_of
from verdict import Attempt, refused, report

from fedloom.core.aggregator import Abort, Finish
from fedloom.core.ids import ClientId
from fedloom.entropy.secret import Secret
from fedloom.secure.messages import OPENED, Message, Roll, Shares, Unmask
from fedloom.secure.secagg_client import SHARE, SecAggClient, shares_signed

HELPER, DEALER = NAMES[1], NAMES[2]


def attack() -> Iterator[Attempt]:
    federation = Federation()
    whole = frozenset(federation.names)
    yield _helper(federation, "a wrong share", lambda shares: bytes([shares[0]]) + bytes(SHARE - 1) + shares[SHARE:])
    yield _helper(federation, "a wrong salt", lambda shares: shares[: OPENED - 1] + b"?" + shares[OPENED:])
    yield _helper(
        federation, "the share of another dealer", lambda shares: shares[OPENED : 2 * OPENED] + shares[OPENED:]
    )
    yield _helper(federation, "one share too few", lambda shares: shares[OPENED:])

    few = federation.session(lost={NAMES[4]: 4, NAMES[6]: 4}, tamper=_opens(lambda shares: bytes(len(shares))))
    yield refused("wrong shares, when without them too few are left", few.run(), opened=set(openable(few)) - {whole})

    told = federation.session(tamper=_promises)
    yield _named(federation, told, "a commitment to another self seed", "dealt shares that do not make the secret")
    for kind in ("self", "mask"):
        session = federation.session(lost={DEALER: 2} if kind == "mask" else None)
        honest = session.clients[DEALER]
        session.clients[DEALER] = DealsAnother(honest, federation, kind)
        yield _named(
            federation, session, f"shares of another {kind} secret", "dealt shares that do not make the secret"
        )

    session = federation.session()
    session.clients[DEALER] = CommitsToAnother(session.clients[DEALER], federation)
    outcome = session.run()
    answer = next((each for each in session.refusals if each.who == NAMES[0]), outcome)
    yield refused("commitments to other shares than it seals", answer, opened=openable(session))


def _helper(federation: Federation, tried: str, change: Callable[[bytes], bytes]) -> Attempt:
    """Return what becomes of a sum in which one client opens its shares wrongly: the right sum, and its name."""
    session = federation.session(tamper=_opens(change))
    outcome = session.run()
    truth = np.sum(list(vectors_of(federation.names).values()), axis=0, dtype=np.uint32)
    exact = isinstance(outcome, Finish) and np.array_equal(outcome.total, truth)
    words = [*session.server.blamed, *(each.reason for each in session.refusals)]
    named = bool(words) and repr(str(HELPER)) in words[0]
    return Attempt(
        tried=f"a helper opens {tried}",
        seen=f"refused by the server: {words[0] if words else 'nothing'}. The sum is exact, from the others' shares",
        holds=exact and named,
        opened=tuple(set(openable(session)) - {frozenset(federation.names)}),
    )


def _named(federation: Federation, session: Session, tried: str, reason: str) -> Attempt:
    outcome = session.run()
    attempt = refused(f"a dealer: {tried}", outcome)
    named = isinstance(outcome, Abort) and f"{str(DEALER)!r} {reason}" in outcome.reason
    wholes = {frozenset(federation.names), frozenset(federation.names) - {DEALER}}
    return Attempt(
        tried=attempt.tried, seen=attempt.seen, holds=attempt.holds and named,
        opened=tuple(set(openable(session)) - wholes),
    )  # fmt: skip


def _opens(change: Callable[[bytes], bytes]) -> Callable[[int, ClientId, Message], Message]:
    def tamper(_step: int, name: ClientId, message: Message) -> Message:
        return Unmask(change(message.shares)) if isinstance(message, Unmask) and name == HELPER else message

    return tamper


def _promises(_step: int, name: ClientId, message: Message) -> Message:
    """Commit the dealer to another self seed, under its own signature."""
    if not isinstance(message, Shares) or name != DEALER:
        return message
    federation = Federation()
    sid, seed = federation.terms().sid, bytes(32)
    signed = shares_signed(sid, name, message.sealed, seed, message.commitments)
    return replace(message, seed=seed, signature=federation.identities[name].sign(signed))


class DealsAnother(SecAggClient):
    """A client that splits another secret than it uses."""

    def __init__(self, honest: SecAggClient, federation: Federation, kind: str) -> None:
        super().__init__(honest._state, roster=federation.roster, identity=federation.identities[DEALER])
        self.calls = iter(("mask", "self"))
        self.kind = kind

    def _split(self, secret: bytes, places: Sequence[int], entropy: Secret) -> list[bytes]:
        return super()._split(bytes(31) + b"!" if next(self.calls) == self.kind else secret, places, entropy)


class CommitsToAnother(SecAggClient):
    """A client that seals shares for others, and signs commitments to other ones."""

    def __init__(self, honest: SecAggClient, federation: Federation) -> None:
        super().__init__(honest._state, roster=federation.roster, identity=federation.identities[DEALER])

    def _share(self, roll: Roll) -> Shares:
        said = super()._share(roll)
        wrong = bytes(len(said.commitments))
        signed = shares_signed(self.sid, DEALER, said.sealed, said.seed, wrong)
        return replace(said, commitments=wrong, signature=self._identity.sign(signed))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
