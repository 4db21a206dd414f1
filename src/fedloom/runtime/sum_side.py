"""SumSide: one client in the sums of several messages, and what it keeps of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias, cast

from msgspec import Struct

from fedloom.core.aggregator import Aggregator, InteractiveAggregator, InteractiveClient, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Keys
from fedloom.core.messages import AggregatorMessage, AggregatorRequest, ClientMessage, Failed, Program, Refused
from fedloom.core.params import Vector
from fedloom.core.roster import Identity, Roster
from fedloom.errors import Error, PlanError
from fedloom.runtime.sessions import SessionName, Sessions

log = logging.getLogger(__name__)
Answer: TypeAlias = AggregatorMessage | Refused | Failed


class SumSide(Struct, frozen=True, kw_only=True):
    """One client in the sums of a phase, of one message or of several: what it keeps, and by which key it signs."""

    client: ClientId
    phase: int
    aggregator: Aggregator
    sessions: Sessions | None
    """Where client sides of interactive sums are kept; an aggregator of such sums needs it."""
    roster: Roster | None = None
    """Whom the client has approved to take part; None: simulated."""
    identity: Identity | None = None
    """The client's own key; None: a simulated one."""

    def begun(self, program: Program, round_number: RoundNumber, retry: int) -> ClientMessage | None:
        """Return the first message of a sum that was begun before; None: there is none.

        What is kept of other rounds ends here: this order says that they are over.
        """
        sessions, name = self.sessions, SessionName(self.phase, program, round_number, retry)
        if sessions is None:
            return None
        try:
            if sessions.over(self.client, name):
                detail = "LOST_STATE: this client has begun this sum or a later one before, and begins none twice"
                return Failed(round=round_number, retry=retry, kind="lost", detail=detail)
            sessions.end(self.client, but=name)
            side = sessions.find(self.client, name, self._revive())
        except Error as error:  # nobody knows what was sent: what cannot be read is as good as lost
            return _lost_state(round_number, retry, error)
        return None if side is None else AggregatorMessage(round=round_number, retry=retry, payload=side.open())

    def open(self, value: Vector, about: SumRound, keys: Keys) -> Answer:
        """Return the first message of a sum; of an interactive one it is kept before it leaves."""
        try:
            side = self.aggregator.client(self.client, value, about, keys, self.identity)
            message = AggregatorMessage(round=about.round, retry=about.retry, payload=side.open())
        except Error as error:
            return Refused(round=about.round, retry=about.retry, reason=f"ABORTED: {error}")
        if self.aggregator.interactive:
            if self.sessions is None:
                raise PlanError("a sum of several messages needs a place for what clients keep of it: give sessions")
            name = SessionName(self.phase, cast("Program", about.program), about.round, about.retry)
            self.sessions.keep(self.client, name, cast("InteractiveClient", side))
        return message

    def answer(self, request: AggregatorRequest) -> Answer:
        """Answer a message of an interactive sum that this client has begun.

        What the client has answered before it answers in the same bytes. Where it has lost what it needs, it says so
        and is out of the round: it never makes a second message for a step.
        """
        sessions, round_number, retry = self.sessions, request.round, request.retry
        name = SessionName(self.phase, request.program, round_number, retry)
        try:
            side = None if sessions is None else sessions.find(self.client, name, self._revive())
        except Error as error:
            return _lost_state(round_number, retry, error)
        if sessions is None or side is None:
            return _lost_state(round_number, retry)
        try:
            payload = side.reply(request.payload)
        except Error as error:
            sessions.keep(self.client, name, side)
            return Refused(round=round_number, retry=retry, reason=f"ABORTED: {error}")
        sessions.keep(self.client, name, side)
        return AggregatorMessage(round=round_number, retry=retry, payload=payload)

    def _revive(self) -> Callable[[bytes], InteractiveClient]:
        aggregator = cast("InteractiveAggregator", self.aggregator)
        return lambda stored: aggregator.resume(self.client, stored, roster=self.roster, identity=self.identity)


def _lost_state(round_number: RoundNumber, retry: int, error: Error | None = None) -> Failed:
    if error is not None:
        log.error("round=%s: what is kept of a sum cannot be used: %s", round_number, error)
    detail = "LOST_STATE: this client keeps nothing of this sum, and makes no second message for it"
    return Failed(round=round_number, retry=retry, kind="lost", detail=detail)
