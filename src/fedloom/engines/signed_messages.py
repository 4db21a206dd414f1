"""SignedMessages: what a coordinator takes from its sites counts once, under the signature of who sent it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Roster
from fedloom.errors import TrustError
from fedloom.secure.envelopes import Repeat, Seen, check_envelope, judge, read_envelope
from fedloom.secure.peers import COORDINATOR
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Sequence
from fedloom.transport import verbs
from fedloom.transport.errors import Code, Refused
from fedloom.transport.service import Caller

log = logging.getLogger(__name__)
Place: TypeAlias = tuple[RunId, int, int, int]
"""Run, round, retry, step."""


class SignedMessages:
    """The envelopes of sites, as the coordinator checks them. Used inside the ``together`` that has a message's effect.

    Args:
        store: The coordinator's.
        roster: Whose signatures count.
    """

    def __init__(self, store: FederationStore, roster: Callable[[], Roster]) -> None:
        self._store = store
        self._roster = roster

    def answered(self, caller: Caller, place: Place, envelope: bytes, body: bytes) -> verbs.SubmitReply | None:
        """Check who signed a message, and for which place; return the answer it was given where it has come before.

        Raises:
            Refused: ``UNAUTHENTICATED``.
        """
        try:
            opened = read_envelope(envelope)
            header = check_envelope(
                opened,
                hashlib.sha256(body).digest(),
                self._roster(),
                sender=caller.client,
                receiver=ClientId(COORDINATOR),
            )
            if (header.run, header.round, header.retry, header.step) != place:
                raise TrustError("the envelope is of another message", reason="changed_body")
            last = self._store.sites.last_message(caller.client, header.run)
            newest = None if last is None else Seen(sequence=last.sequence, message_id=last.message, digest=last.digest)
            judged = judge(newest, opened)
        except TrustError as error:
            log.warning("site=%s a message was refused: %s", caller.client, error)
            raise Refused(Code.UNAUTHENTICATED, f"{error}.") from error
        if isinstance(judged, Repeat) and last is not None:
            found = msgspec.msgpack.decode(last.answer, type=verbs.SubmitReply)
            verdict = "DUPLICATE_OK" if found.verdict == "ACCEPTED" else found.verdict
            return verbs.SubmitReply(verdict=verdict, reason=found.reason)
        return None

    def remember(self, caller: Caller, envelope: bytes, reply: verbs.SubmitReply) -> None:
        """Write down that a message has come, and what it was answered."""
        opened = read_envelope(envelope)
        self._store.sites.remember(
            Sequence(
                sender=caller.client,
                run=opened.header.run,
                sequence=opened.header.sequence,
                message=opened.header.message_id,
                digest=opened.digest,
                answer=msgspec.msgpack.encode(reply),
            )
        )
