"""SiteCalls: what a coordinator answers to its sites. The store is the truth; the desk is woken when it changes."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.messages import Program
from fedloom.core.own_version import own_version
from fedloom.core.roster import Identity, Roster
from fedloom.engines.desk import Desk
from fedloom.engines.signed_messages import SignedMessages
from fedloom.engines.signed_offers import signed_offer
from fedloom.engines.site_record import ADOPTION, SiteRecord, is_over
from fedloom.errors import StoreError
from fedloom.store.blobs import BlobWriter, Digest
from fedloom.store.epochs import head_text
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Answer, Contribution, RoundKey, Task
from fedloom.store.ledger_head import parse_head
from fedloom.transport import verbs
from fedloom.transport.errors import Code, Refused
from fedloom.transport.fields import INLINE
from fedloom.transport.service import Caller

log = logging.getLogger(__name__)
HANDSHAKE = -1
"""Phase of what is asked before the first round: what sites have, and whether they approve."""
LEASE_S = 60.0
_MOST_INLINE = 4
ADOPT = (
    "Put back the newest copy of it; without one, stop the site and run `fedloom site adopt`: it charges what the "
    "coordinator remembers, and then the site takes part again."
)
"""What the operator of a site does whose store was put back from a backup."""
_PROGRAMS: tuple[Program, ...] = ("train", "evaluate", "query")


@dataclass(slots=True)
class _Upload:
    writer: BlobWriter
    client: ClientId


class SiteCalls:
    """The coordinator's side of what sites ask for.

    Args:
        store: The coordinator's.
        desk: Woken by what comes in.
        roster: Whose signatures count.
        heartbeat_s: How often a site says that it lives.
        lease_s: How long a claimed task is its site's without a heartbeat.
        poll_s: Longest wait of a site for work.
        now: The present, for people.
        identity: The coordinator's, to sign offers with; None: they go out unsigned.
        inline: Contents up to so many bytes travel with the answer to ``claim``.
    """

    def __init__(
        self,
        store: FederationStore,
        desk: Desk,
        roster: Callable[[], Roster],
        *,
        heartbeat_s: float = 12.0,
        lease_s: float = LEASE_S,
        poll_s: float = 45.0,
        now: Callable[[], float] = time.time,
        identity: Identity | None = None,
        inline: int = INLINE,
    ) -> None:
        self._store = store
        self._desk = desk
        self._roster = roster
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._now = now
        self._identity = identity
        self._inline = inline
        self._uploads: dict[str, _Upload] = {}
        self._writing = threading.Lock()
        self._record = SiteRecord(store)
        self._signed = SignedMessages(store, roster)
        self._waiting: dict[ClientId, object] = {}
        self._turn = threading.Lock()

    # Sessions --------------------------------------------------------------------------------------------------------

    def hello(self, caller: Caller, request: verbs.Hello) -> verbs.HelloReply:
        """Open a session; an older one of the same site is over."""
        if request.federation != self._roster().federation:
            raise Refused(Code.DENIED, f"this is the federation {self._roster().federation!r}.")
        try:
            self._store.sites.add(caller.client, caller.organisation)
            greeting = self._store.sites.hello(
                caller.client,
                serial=caller.serial,
                epoch=request.store_epoch,
                ledger=None if request.ledger_head is None else parse_head(request.ledger_head),
                chain=None if request.events_head is None else parse_head(request.events_head),
                at=self._now(),
            )
            goes_on = request.seen_events is None or self._store.events.holds(parse_head(request.seen_events))
        except StoreError as error:
            raise Refused(Code.MALFORMED, str(error)) from error
        if greeting.store in ("older", "copy", "other"):
            raise _lost_state(
                caller.client, {"older": "older than", "copy": "a copy of", "other": "another than"}[greeting.store]
            )
        self._desk.hear(caller.client)
        self._desk.wake()
        return verbs.HelloReply(
            session=greeting.session,
            session_epoch=greeting.number,
            version=own_version(),
            server_time_s=self._now(),
            store_epoch=str(self._store.epoch),
            events_head=head_text(self._store.events.head()),
            goes_on=goes_on,
            heartbeat_s=self._heartbeat_s,
            poll_s=self._poll_s,
            tasks=tuple(self._verdict(name, caller.client) for name in request.tasks),
        )

    def _verdict(self, name: str, client: ClientId) -> verbs.Open:
        task = self._store.rounds.task(name)
        if task is None or task.site != client or task.stage == "settled":
            return verbs.Open(task=name, verdict="drop")
        return verbs.Open(task=name, verdict="continue")

    def recall(self, caller: Caller, request: verbs.Recall) -> verbs.Recalled:
        """Tell a site which heads of its store were seen last."""
        del request
        found = next((each for each in self._store.sites.all() if each.name == caller.client), None)
        return verbs.Recalled() if found is None else verbs.Recalled(ledger_head=found.ledger, events_head=found.chain)

    def record(self, caller: Caller, request: verbs.Record) -> verbs.RecordReply:
        """Tell a site in which runs it had a part: by its certificate, as it has no session."""
        try:
            return self._record.tell(caller.client, request)
        except StoreError as error:
            raise Refused(Code.MALFORMED, str(error)) from error

    def adopt(self, caller: Caller, request: verbs.Adopt) -> verbs.Noted:
        """Take a site's store as it is now: its operator has charged what the record shows, and has signed for it."""
        with self._store.together("adopt"):
            body = verbs.signed_part(request)
            if self._signed.answered(caller, (ADOPTION, 0, 0, 0), request.envelope, body) is None:
                try:
                    self._store.sites.add(caller.client, caller.organisation)
                    self._store.sites.adopt(
                        caller.client,
                        epoch=request.store_epoch,
                        ledger=None if request.ledger_head is None else parse_head(request.ledger_head),
                        chain=None if request.events_head is None else parse_head(request.events_head),
                    )
                except StoreError as error:
                    raise Refused(Code.MALFORMED, f"{error}.") from error
                self._signed.remember(caller, request.envelope, verbs.SubmitReply(verdict="ACCEPTED"))
        log.warning("event=adopted site=%s epoch=%s", caller.client, request.store_epoch)
        self._desk.wake()
        return verbs.Noted()

    def goodbye(self, caller: Caller, request: verbs.Goodbye) -> verbs.Noted:
        """End a session."""
        self._store.sites.goodbye(caller.client, request.session)
        return verbs.Noted()

    def _check(self, caller: Caller, session: str) -> None:
        if not self._store.sites.current(caller.client, session):
            raise Refused(
                Code.STALE_SESSION,
                f"a newer session of {caller.client} is open, or this one has ended.",
                remedy="Say hello again; two agents of one identity fence each other.",
            )
        self._desk.hear(caller.client)

    # Work ------------------------------------------------------------------------------------------------------------

    def poll(self, caller: Caller, request: verbs.Poll) -> verbs.Offers:
        """Return what the site is asked to do, as soon as there is anything that it does not know of.

        A newer poll of the same site ends one that waits: its line was cut, and it would hold a place until its end.
        """
        self._check(caller, request.session)
        mine = object()
        with self._turn:
            older, self._waiting[caller.client] = self._waiting.get(caller.client), mine
        if older is not None:
            self._desk.wake()
        try:
            return self._offers(caller, request, mine)
        finally:
            with self._turn:
                if self._waiting.get(caller.client) is mine:
                    del self._waiting[caller.client]

    def _offers(self, caller: Caller, request: verbs.Poll, mine: object) -> verbs.Offers:
        until = self._desk.clock() + min(request.wait_s, self._poll_s)
        known = set(request.known)
        while True:
            seen = self._desk.laid_out  # before anything is looked at: what comes after it ends the wait
            self._check(caller, request.session)
            if self._waiting.get(caller.client) is not mine:
                return verbs.Offers()
            tasks = self._store.rounds.tasks(caller.client)
            named = {task.task for task in tasks}
            fresh = [task for task in tasks if task.task not in known][: max(1, min(request.capacity, 16))]
            gone = tuple(sorted(known - named))[:200]
            ended = self._ended(caller.client, request.runs)
            left = until - self._desk.clock()
            if fresh or gone or ended or left <= 0 or self._desk.halted:
                again = 1.0 if self._desk.halted else 0.0
                offers = tuple(self._offer(task) for task in fresh)
                return verbs.Offers(offers=offers, cancelled=gone, ended=ended, come_back_after_s=again)
            self._desk.wait_for_work(seen, timeout_s=left)

    def _ended(self, client: ClientId, runs: Sequence[str]) -> tuple[str, ...]:
        """Return which runs are over, of those that a site keeps something of and was asked for something in."""
        over = (each for each in map(RunId, runs) if is_over(self._store, each))
        return tuple(each for each in over if self._store.sites.asked(client, each))[:64]

    def _offer(self, task: Task) -> verbs.Offer:
        kind = ("facts", "approve")[task.step] if task.phase == HANDSHAKE else "sum" if task.step else "order"
        remaining = self._store.rounds.round(task.key).remaining_s
        offer = verbs.Offer(
            task=task.task, kind=kind, key=_key_of(task), inputs=self._blobs(task), deadline_s=remaining
        )
        if self._identity is None:
            return offer
        return signed_offer(offer, self._identity, federation=self._roster().federation, site=task.site)

    def _blobs(self, task: Task) -> tuple[verbs.Blob, ...]:
        blobs = self._store.blobs
        return tuple(verbs.Blob(digest=bytes.fromhex(each), length=blobs.length(each)) for each in task.inputs)

    def claim(self, caller: Caller, request: verbs.Claim) -> verbs.Claimed:
        """Give a task to its site."""
        self._check(caller, request.session)
        claimed = self._store.rounds.claim(
            request.task, site=caller.client, session=request.session, lease_s=self._lease_s
        )
        if isinstance(claimed, Answer):
            raise Refused(Code.NOT_FOUND, f"{claimed.reason}.")
        inputs = self._blobs(claimed)
        contents = tuple(self._inlined(blob) for blob in inputs[:_MOST_INLINE])
        return verbs.Claimed(task=claimed.task, lease_s=claimed.lease_s, inputs=inputs, contents=contents)

    def _inlined(self, blob: verbs.Blob) -> bytes:
        return self._store.blobs.read(Digest(blob.digest.hex())) if blob.length <= self._inline else b""

    def decline(self, caller: Caller, request: verbs.Decline) -> verbs.Noted:
        """Take note that the site does not do a task: it is out of the round."""
        self._check(caller, request.session)
        task = self._task(request.task, caller)
        refused = Contribution(
            **task.key._asdict(), step=task.step, site=task.site, kind="refused", detail=request.reason
        )
        self._take(caller, refused, request.envelope, verbs.signed_part(request))
        return verbs.Noted()

    def heartbeat(self, caller: Caller, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        """Extend the leases of a site whose workers move."""
        self._check(caller, request.session)
        extended, cancelled = [], []
        for lease in request.leases:
            task = self._store.rounds.task(lease.task)
            if task is None or task.site != caller.client or task.stage == "settled":
                cancelled.append(lease.task)
            elif lease.moved and self._store.rounds.extend(lease.task, site=caller.client, session=request.session):
                extended.append(verbs.Extension(task=lease.task, lease_s=task.lease_s))
        return verbs.HeartbeatReply(server_time_s=self._now(), extensions=tuple(extended), cancelled=tuple(cancelled))

    def submit(self, caller: Caller, request: verbs.Submit) -> verbs.SubmitReply:
        """Take in the result of a task: durable when this answers."""
        self._check(caller, request.session)
        task = self._task(request.task, caller)
        if _key_of(task) != request.key:
            return verbs.SubmitReply(verdict="REJECTED", reason="OTHER_TASK")
        if request.content:
            self._keep(request)
        message = Contribution(
            **task.key._asdict(), step=task.step, site=task.site, kind="message", blob=Digest(request.blob.digest.hex())
        )
        return self._take(caller, message, request.envelope, verbs.signed_part(request), ledger=request.ledger_head)

    def _keep(self, request: verbs.Submit) -> None:
        """Store the content that a message brings along."""
        if hashlib.sha256(request.content).digest() != request.blob.digest:
            raise Refused(Code.CORRUPT_UPLOAD, "the content of the message is not the one that it names.")
        try:
            self._store.blobs.put(request.content)
        except StoreError as error:
            raise _no_space(error) from error

    def fail(self, caller: Caller, request: verbs.Fail) -> verbs.SubmitReply:
        """Take in that a task could not be done."""
        self._check(caller, request.session)
        task = self._task(request.task, caller)
        if _key_of(task) != request.key:
            return verbs.SubmitReply(verdict="REJECTED", reason="OTHER_TASK")
        detail = "\n".join([request.kind, request.error, request.where or "", request.detail or ""])
        failed = Contribution(**task.key._asdict(), step=task.step, site=task.site, kind="failed", detail=detail)
        return self._take(caller, failed, request.envelope, verbs.signed_part(request))

    def approve(self, caller: Caller, request: verbs.Approve) -> verbs.Noted:
        """Refuse: an approval is the answer to a task, which names what was looked at."""
        del caller, request
        raise Refused(Code.MALFORMED, "an approval is submitted as the answer to the task that asks for it.")

    def _task(self, name: str, caller: Caller) -> Task:
        task = self._store.rounds.task(name)
        if task is None or task.site != caller.client:
            raise Refused(Code.NOT_FOUND, "there is no such task for this site.")
        return task

    def _take(
        self, caller: Caller, sent: Contribution, envelope: bytes, body: bytes, *, ledger: str | None = None
    ) -> verbs.SubmitReply:
        """Take a contribution in, once, under the signature of its sender; the desk is woken when it counts."""
        with self._store.together("take"):
            place = sent.run, sent.round, sent.retry, sent.step
            repeated = self._signed.answered(caller, place, envelope, body)
            if repeated is not None:
                return repeated
            if ledger is not None:
                self._saw(caller.client, ledger)
            answer = self._store.rounds.accept(sent)
            reply = verbs.SubmitReply(verdict=answer.verdict, reason=answer.reason[:200] or None)
            self._signed.remember(caller, envelope, reply)
        if answer.verdict == "ACCEPTED":
            self._desk.came_in()
        elif answer.verdict == "REJECTED":
            log.warning("site=%s round=%s rejected: %s", caller.client, sent.round, answer.reason)
        return reply

    def _saw(self, client: ClientId, ledger: str) -> None:
        """Remember how far the site's ledger is: one that is put back later is noticed at its next hello."""
        try:
            self._store.sites.saw(client, ledger=parse_head(ledger))
        except StoreError as error:
            raise _lost_state(client, "older than") from error

    # Blobs -----------------------------------------------------------------------------------------------------------

    def open_blob(self, caller: Caller, request: verbs.Fetch) -> BlobOnDisk:
        """Return a blob that one of the caller's tasks names, or its record."""
        digest = Digest(request.digest.hex())
        asked = {each for task in self._store.rounds.tasks(caller.client) for each in task.inputs}
        if digest not in asked or not self._store.blobs.has(digest):
            recorded = self._record.blob(caller.client, request.digest)
            if recorded is None:
                raise Refused(Code.NOT_FOUND, "neither an open task nor the record of this site names such a blob.")
            return BlobOnDisk(len(recorded), io.BytesIO(recorded))
        length, reader = self._store.blobs.open(digest)
        return BlobOnDisk(length, reader)

    def begin_upload(self, caller: Caller, request: verbs.BeginUpload) -> verbs.UploadAt:
        """Open or find an upload."""
        self._check(caller, request.session)
        digest = Digest(request.blob.digest.hex())
        begun = self._store.rounds.begin_upload(
            request.task, site=caller.client, digest=digest, length=request.blob.length
        )
        if isinstance(begun, Answer):
            code = Code.ABORTED if begun.verdict == "TOO_LATE" else Code.NOT_FOUND
            raise Refused(code, f"{begun.reason}.")
        if self._store.blobs.has(digest):
            return verbs.UploadAt(
                upload=begun.upload, offset=request.blob.length, length=request.blob.length, done=True
            )
        try:
            writer = self._writer(begun.upload, digest, request.blob.length, caller.client)
        except StoreError as error:
            raise _no_space(error) from error
        return verbs.UploadAt(upload=begun.upload, offset=writer.committed, length=request.blob.length)

    def resume_upload(self, caller: Caller, request: verbs.Upload) -> verbs.UploadAt:
        """Return where an upload stands."""
        self._check(caller, request.session)
        found = self._store.rounds.upload(request.upload)
        if found is None or found.site != caller.client:
            raise Refused(Code.NOT_FOUND, "there is no such upload of this site.")
        writer = self._writer(found.upload, found.digest, found.length, caller.client)
        return verbs.UploadAt(upload=found.upload, offset=writer.committed, length=found.length)

    def write_chunk(self, caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        """Store a chunk. Two streams may send one upload, after a line was cut: one at a time."""
        with self._writing:
            return self._found(caller, upload).write(offset, data)

    def finish_upload(self, caller: Caller, upload: str) -> None:
        """Check the whole, and make it durable."""
        writer = self._found(caller, upload)
        try:
            writer.finish()
        except StoreError as error:
            raise Refused(Code.CORRUPT_UPLOAD, f"{error}.") from error
        finally:
            self._let_go(upload)  # of a damaged one, too: a writer that threw its pieces away takes no more

    def close(self) -> None:
        """Let go of the uploads that are not at their end: what has come of them stays on the disk."""
        for upload in list(self._uploads):
            self._let_go(upload)

    def _let_go(self, upload: str) -> None:
        found = self._uploads.pop(upload, None)
        if found is not None:
            found.writer.close()

    def _writer(self, upload: str, digest: Digest, length: int, client: ClientId) -> BlobWriter:
        if upload not in self._uploads:
            self._uploads[upload] = _Upload(self._store.blobs.writer(digest, length, sender=upload), client)
        return self._uploads[upload].writer

    def _found(self, caller: Caller, upload: str) -> BlobWriter:
        found = self._uploads.get(upload)
        if found is None or found.client != caller.client:
            raise Refused(Code.NOT_FOUND, "there is no such upload of this site.")
        return found.writer


class BlobOnDisk:
    """A blob that is being read."""

    def __init__(self, length: int, reader: BinaryIO) -> None:
        self._length = length
        self._reader = reader

    @property
    def length(self) -> int:
        """Bytes of the blob."""
        return self._length

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset`` on."""
        self._reader.seek(offset)
        return self._reader.read(size)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _no_space(error: StoreError) -> Refused:
    return Refused(Code.NO_SPACE, f"{error}.", retryable=True, retry_after_s=30.0)


def _lost_state(client: ClientId, what: str) -> Refused:
    return Refused(
        Code.LOST_STATE,
        f"the store of {client} is {what} the one that was seen here last.",
        remedy=ADOPT,
    )


def _key_of(task: Task) -> verbs.TaskKey:
    # Phases are numbered from 0 on the line: the handshake is its first.
    return verbs.TaskKey(
        run=task.run,
        phase=task.phase + 1,
        program=task.program,
        round=task.round,
        retry=task.retry,
        step=task.step,
    )


def round_key(key: verbs.TaskKey) -> RoundKey:
    """Return the round that a task on the line is part of."""
    program = next((each for each in _PROGRAMS if each == key.program), None)
    if program is None:
        raise Refused(Code.MALFORMED, f"there is no program {key.program!r}.")
    return RoundKey(RunId(key.run), key.phase - 1, program, RoundNumber(key.round), key.retry)
