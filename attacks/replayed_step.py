"""A step replayed from an older round, or from the attempt before a retry.

An attacker who kept last round's messages hands them out again: keys that it has meanwhile got shares of, lists that
were signed once. (Key lists that are used over rounds are among the mistakes of shipped implementations.) Rounds and
retries have session ids of their own, and fresh keys: a message of one verifies, opens and counts in no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import openable
from scene import NAMES, Federation, Session, Tamper, retried
from verdict import Attempt, refused, report

from fedloom.core.aggregator import Finish
from fedloom.secure.messages import Message


def attack() -> Iterator[Attempt]:
    federation = Federation()
    for what, round_now, retry in (("an older round", 2, 0), ("the attempt before a retry", 1, 1)):
        old = federation.session()
        old.run()
        now = federation.terms(federation.about(round=round_now, retry=retry))
        yield from _to_a_client(federation, federation.session(now), old, what)
        for step in (0, 1, 3):
            session = federation.session(now, tamper=_instead(old, NAMES[1], step))
            session.run()
            answer = next((each for each in session.refusals if each.who == "the server"), "TAKEN")
            yield refused(f"a client's message {step} of {what}", answer, opened=_extra(session))
        yield _vector(federation.session(now, tamper=_instead(old, NAMES[1], 2)), what)
        yield _opened(federation.session(now, tamper=_instead(old, NAMES[1], 4)), what)


def _to_a_client(federation: Federation, session: Session, old: Session, what: str) -> Iterator[Attempt]:
    """Replay what the server said. A list of survivors holds nothing but places: its signatures are what counts."""
    asks = session.until(1)
    for step in (1, 2, 3, 4):
        if step != 3:
            answer = retried(session, federation, NAMES[0], _asked(old, NAMES[0], step))
            yield refused(f"the server's message {step} of {what}", answer, opened=_extra(session))
        if step < 4:
            outcome = session.carry(asks, step)
            asks = dict(getattr(outcome, "messages", ()))


def _vector(session: Session, what: str) -> Attempt:
    """A masked vector carries no signature: it is the envelope of the transport that keeps others from replaying it."""
    outcome = session.run()
    assert isinstance(outcome, Finish)
    return Attempt(
        tried=f"a client's masked vector of {what}",
        seen="refused by nobody here, and worth nothing: the old masks do not cancel, so the sum is noise. It costs "
        "the round; who may send in a client's name is the transport's to say",
        holds=not _extra(session),
        opened=_extra(session),
    )


def _opened(session: Session, what: str) -> Attempt:
    """Shares of an older session meet the commitments of this one: the helper is named, and others' shares do."""
    outcome = session.run()
    blamed = session.server.blamed[0]
    return Attempt(
        tried=f"a client's opened shares of {what}",
        seen=f"refused by the server: {blamed}, and so on for each of its shares",
        holds=isinstance(outcome, Finish) and "opened a wrong share" in blamed and not _extra(session),
        opened=_extra(session),
    )


def _asked(session: Session, name: str, step: int) -> Message:
    return [asked for who, asked, _ in session.heard if who == name and asked is not None][step - 1]


def _instead(old: Session, name: str, step: int) -> Tamper:
    said = [answer for who, _, answer in old.heard if who == name]

    def tamper(number: int, who: str, message: Message) -> Message:
        return said[step] if (number, who) == (step, name) else message

    return tamper


def _extra(session: Session) -> tuple[frozenset[str], ...]:
    """Return what can be opened beside the one sum that an honest run opens."""
    lists = {frozenset(session.clients), frozenset(session.clients) - {NAMES[1]}}
    return tuple(set(openable(session)) - lists)


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
