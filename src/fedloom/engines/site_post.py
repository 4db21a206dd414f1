"""Post: what leaves a site. It is written down first, sent until the coordinator is known to have it, and signed.

No text that a site's data could be read from leaves: of a refusal its code, of a failure its class and line; its
message only where the policy says so and the run hides nothing.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Protocol

from msgspec import structs

from fedloom.core import codec
from fedloom.core.aggregator import Aggregator
from fedloom.core.ids import ClientId, RunId
from fedloom.core.messages import ClientMessage, Failed, Refused
from fedloom.core.roster import Identity, Roster
from fedloom.secure.envelopes import Header, body_digest, seal_envelope
from fedloom.secure.peers import COORDINATOR
from fedloom.store.epochs import head_text
from fedloom.store.federation_rows import RoundKey, task_name
from fedloom.store.ledger_head import read_head
from fedloom.store.site_rows import Order, Outgoing
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs
from fedloom.transport.errors import Code
from fedloom.transport.errors import Refused as Denied
from fedloom.transport.fields import INLINE

log = logging.getLogger(__name__)
_EXPIRES_S = 3600
_LONGEST = 500
"""Characters of the message of an error that leave, where any may."""
_CODE = re.compile(r"[\w.-]+")
_NUMBERS = 64


class Submission(Protocol):
    """The part of a line to the coordinator on which answers go out: ``transport.client.Client`` has it."""

    def submit(self, request: verbs.Submit) -> verbs.SubmitReply:
        """Hand in a result."""
        ...

    def fail(self, request: verbs.Fail) -> verbs.SubmitReply:
        """Say that a task could not be done."""
        ...

    def decline(self, request: verbs.Decline) -> verbs.Noted:
        """Decline a task."""
        ...

    def upload(self, request: verbs.BeginUpload, read: Callable[[int, int], bytes]) -> verbs.UploadAt:
        """Send a blob."""
        ...


class Post:
    """What leaves a site.

    Args:
        line: To the coordinator.
        store: The site's own.
        identity: The site's key.
        roster: Whom the operator has approved.
        now: The present, for expiries.
        inline: Answers up to so many bytes travel with the message that hands them in.
    """

    def __init__(
        self,
        line: Submission,
        store: SiteStore,
        identity: Identity,
        *,
        roster: Callable[[], Roster],
        now: Callable[[], float],
        inline: int = INLINE,
    ) -> None:
        self._line = line
        self._store = store
        self._identity = identity
        self._roster = roster
        self._now = now
        self._inline = inline
        self._numbers: dict[str, tuple[int, int]] = {}
        self._order: Order | None = None
        self._fresh: tuple[str, bytes] | None = None  # what is about to be sent need not be read again

    def answer_to(self, order: Order | None) -> None:
        """Name the signed offer that what is written next answers: both become durable together."""
        self._order = order

    def write(
        self,
        key: RoundKey,
        step: int,
        message: ClientMessage,
        *,
        aggregator: Aggregator | None = None,
        openly: bool = False,
    ) -> Outgoing:
        """Write down what the site answers at a step.

        Args:
            key: The round.
            step: Of it.
            message: The answer.
            aggregator: What packs a vector.
            openly: Whether the message of an error leaves, too.

        Raises:
            StoreError: When it cannot be written, or another answer was written before.
        """
        if isinstance(message, Refused):
            code = message.reason.partition(":")[0]
            told = code if _CODE.fullmatch(code) else "REFUSED"  # never a text
            log.warning("run=%s round=%s step=%s refused: %s", key.run, key.round, step, message.reason)
            return self._posted(Outgoing(**key._asdict(), step=step, kind="refused", detail=told))
        if isinstance(message, Failed):
            error, _, words = message.detail.partition(":")
            log.warning("run=%s round=%s step=%s failed: %s", key.run, key.round, step, message.detail)
            told = error if words or error.isidentifier() else message.kind  # a class, or a code; never a text
            where = PurePath(message.where or "").name  # where it lies at this site is nobody's business
            text = " ".join(words.split())[:_LONGEST] if openly else ""
            detail = "\n".join([message.kind, told, where, text])
            return self._posted(Outgoing(**key._asdict(), step=step, kind="failed", detail=detail))
        if aggregator is not None and aggregator.interactive:
            packed: Any = aggregator
            message = structs.replace(message, payload=packed.pack(message.payload))
        return self.write_bytes(key, step, codec.encode(message))

    def write_bytes(self, key: RoundKey, step: int, data: bytes) -> Outgoing:
        """Write down an answer that is bytes already."""
        blob = self._store.blobs.put(data)
        self._fresh = blob, data
        return self._posted(Outgoing(**key._asdict(), step=step, kind="message", blob=blob))

    def _posted(self, out: Outgoing) -> Outgoing:
        return self._store.post(out, order=self._order)

    def send_again(self, session: str, out: Outgoing) -> None:
        """Send what was written down before and is not known to have arrived."""
        task = task_name(out.key, out.step, self._identity.client)
        key = verbs.TaskKey(
            run=out.run, phase=out.phase + 1, program=out.program, round=out.round, retry=out.retry, step=out.step
        )
        self.send(session, task, key, out)

    def send(self, session: str, task: str, key: verbs.TaskKey, out: Outgoing) -> None:
        """Send what was written down, and note what the coordinator says to it.

        Raises:
            Refused: When the session is over or the coordinator will not have it now: it stays, to be sent again.
        """
        try:
            verdict = self._sent(session, task, key, out)
        except Denied as error:
            if error.refusal.code not in (Code.NOT_FOUND, Code.ABORTED):
                raise
            verdict = f"GONE {error.refusal.code}"
        if verdict not in ("ACCEPTED", "DUPLICATE_OK"):
            log.warning("run=%s round=%s step=%s: the coordinator says %s", out.run, out.round, out.step, verdict)
        self._store.submitted(out.key, out.step, verdict)

    def _sent(self, session: str, task: str, key: verbs.TaskKey, out: Outgoing) -> str:
        if out.kind == "refused":
            self._line.decline(
                self.signed(verbs.Decline(session=session, task=task, retry=key.retry, reason=out.detail[:200]), key)
            )
            return "ACCEPTED"
        if out.kind == "failed":
            kind, error, where, text = (*out.detail.split("\n"), "", "", "", "")[:4]
            failed = verbs.Fail(
                session=session,
                task=task,
                key=key,
                kind=kind,
                error=error[:200] or kind,
                where=where[:200] or None,
                detail=text or None,
            )
            return self._line.fail(self.signed(failed, key)).verdict
        assert out.blob is not None, "a message has a content"
        fresh, self._fresh = self._fresh, None
        data = fresh[1] if fresh is not None and fresh[0] == out.blob else self._store.blobs.read(out.blob)
        blob = verbs.Blob(digest=bytes.fromhex(out.blob), length=len(data))
        charged = read_head(self._store.ledger_path)
        head = None if charged is None else head_text(charged[1])
        submit = verbs.Submit(session=session, task=task, key=key, blob=blob, ledger_head=head)
        if 0 < len(data) <= self._inline:
            submit = structs.replace(submit, content=data)
        else:
            begin = verbs.BeginUpload(session=session, task=task, retry=key.retry, blob=blob)
            self._line.upload(begin, lambda offset, size: data[offset : offset + size])
        return self._line.submit(self.signed(submit, key)).verdict

    def _number(self, run: str) -> int:
        """Return the next number of a signed message. They are reserved in blocks: a kill loses the rest of one."""
        following, end = self._numbers.get(run, (0, 0))
        if following == end:
            following = self._store.reserve_numbers(run, _NUMBERS)
            end = following + _NUMBERS
        self._numbers[run] = following + 1, end
        return following

    def signed(self, message: Any, key: verbs.TaskKey) -> Any:
        """Return a message in its envelope: the site's own, for this place, and under a number of its own."""
        header = Header(
            federation=self._roster().federation,
            sender=self._identity.client,
            receiver=ClientId(COORDINATOR),
            run=RunId(key.run),
            round=key.round,
            retry=key.retry,
            step=key.step,
            message_id=os.urandom(16),
            sequence=self._number(key.run),
            expires_at=int(self._now()) + _EXPIRES_S,
        )
        envelope = seal_envelope(body_digest(verbs.signed_part(message)), header, self._identity)
        return structs.replace(message, envelope=envelope.stored())
