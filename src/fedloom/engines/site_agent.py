"""SiteAgent: one site of a federation: it asks for work, decides itself whether to do it, and answers each thing once.

The agent has the line, the session and the outbox. What it answers, which ``Answers`` makes, is written down before its
first byte leaves; after a crash the same bytes are sent again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fedloom.core.ids import RunId
from fedloom.core.messages import Refused
from fedloom.core.own_version import own_version
from fedloom.core.roster import Identity, Roster
from fedloom.engines.signed_offers import check_offer
from fedloom.engines.site_answers import Answers, Judge, MakeHand, SiteData
from fedloom.engines.site_calls import ADOPT, round_key
from fedloom.engines.site_gate import Gate, OpenGate, Undecided
from fedloom.engines.site_hand import Limits, SiteHand
from fedloom.engines.site_post import Post, Submission
from fedloom.errors import Error, StoreError, TrustError
from fedloom.experiment.spec import Experiment
from fedloom.secure.envelopes import Seen, body_digest
from fedloom.secure.peers import COORDINATOR
from fedloom.store.epochs import head_text
from fedloom.store.ledger_head import parse_head
from fedloom.store.site_rows import Order
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs
from fedloom.transport.errors import Code
from fedloom.transport.errors import Refused as Denied
from fedloom.transport.fields import INLINE

log = logging.getLogger(__name__)
_MOST_HELD = 1 << 31
_QUIET_S = 300.0
"""Without work a worker is kept warm for so long: to start it again and read the rows costs more than to hold them."""
_HELD_S = 2.0
"""While something is undecided the site looks so often whether that has changed."""


class Line(Submission, Protocol):
    """The line to the coordinator: what ``transport.client.Client`` is."""

    def recall(self, request: verbs.Recall) -> verbs.Recalled:
        """Ask what was seen of this site's store last."""
        ...

    def hello(self, request: verbs.Hello) -> verbs.HelloReply:
        """Open a session."""
        ...

    def poll(self, request: verbs.Poll) -> verbs.Offers:
        """Ask for work."""
        ...

    def claim(self, request: verbs.Claim) -> verbs.Claimed:
        """Take a task."""
        ...

    def heartbeat(self, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        """Say that the site lives."""
        ...

    def goodbye(self, request: verbs.Goodbye) -> verbs.Noted:
        """End a session."""
        ...

    def fetch(self, blob: verbs.Blob, *, largest: int) -> bytes:
        """Fetch a blob."""
        ...


class SiteAgent:
    """One site.

    Args:
        line: To the coordinator.
        store: The site's own.
        identity: The site's key.
        roster: Whom the operator has approved.
        data: By the digest of an experiment's data: where the rows lie.
        judge: Whether a run may happen here.
        limits: What a worker that begins may take.
        rehearsal: Draw secrets from the seed: synthetic or public data only.
        now: The present, for expiries.
        hand: What trains for a run.
        gate: Asked before each task of a run that was approved.
        coordinator: The coordinator's Ed25519 key, as the operator has approved it; None: offers are not signed.
        inline: Answers up to so many bytes travel with the message that hands them in.
    """

    def __init__(
        self,
        line: Line,
        store: SiteStore,
        identity: Identity,
        *,
        roster: Callable[[], Roster],
        data: Callable[[Experiment], SiteData],
        judge: Judge,
        limits: Callable[[], Limits] = Limits,
        rehearsal: bool = False,
        now: Callable[[], float] = time.time,
        hand: MakeHand = SiteHand,
        gate: Gate | None = None,
        coordinator: Callable[[], bytes | None] = lambda: None,
        inline: int = INLINE,
    ) -> None:
        self._line = line
        self._store = store
        self._identity = identity
        self._roster = roster
        self._coordinator = coordinator
        self._gate: Gate = OpenGate() if gate is None else gate
        self._held: dict[str, verbs.Offer] = {}
        self._inputs: dict[bytes, bytes] = {}
        self._post = Post(line, store, identity, roster=roster, now=now, inline=inline)
        self._answers = Answers(
            self._post,
            store,
            identity,
            roster=roster,
            data=data,
            judge=judge,
            gate=self._gate,
            limits=limits,
            rehearsal=rehearsal,
            hand=hand,
            moved=self._has_moved,
        )
        self._quiet_s = 0.0
        self._session = ""
        self._poll_s = 45.0
        self._heartbeat_s = 12.0
        self._stopping = threading.Event()
        self._at: str | None = None
        self._turn = threading.Lock()
        self._moved = True

    # The loop --------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until ``stop``: say hello, ask, carry out. A session that was fenced is opened anew."""
        beats: threading.Thread | None = None
        try:
            while not self._stopping.is_set():
                try:
                    if not self._session:
                        self._hello()
                    if beats is None:  # now that the coordinator has said how often
                        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                        beats.start()
                    self.work_once()
                except Denied as error:
                    if error.refusal.code != Code.STALE_SESSION:
                        raise
                    log.warning("the session was fenced: %s", error)
                    self._session = ""
        finally:
            self.close()

    def work_once(self) -> int:
        """Ask for work once, carry out what comes, and return how many tasks that were."""
        if not self._session:
            self._hello()
        for out in self._store.unsubmitted():
            self._post.send_again(self._session, out)
        wait_s = min(self._poll_s, _HELD_S) if self._held else self._poll_s
        kept = self._store.kept_runs()[:200]
        asked = verbs.Poll(session=self._session, wait_s=wait_s, known=tuple(self._held), runs=kept)
        offers = self._line.poll(asked)
        for gone in offers.cancelled:
            self._held.pop(gone, None)
        for run in offers.ended:
            if run in kept:
                self._end_run(RunId(run))
        again = [offer for offer in self._held.values() if self._gate.ready(RunId(offer.key.run))]
        self._rest(offers, wait_s)
        done = 0
        for offer in (*again, *offers.offers):
            if self._stopping.is_set():
                break
            try:
                self._carry_out(offer)
            except Undecided as why:
                if offer.task not in self._held:
                    log.warning("run=%s round=%s waits: %s", offer.key.run, offer.key.round, why)
                self._held[offer.task] = offer
                continue
            self._held.pop(offer.task, None)
            done += 1
        if offers.come_back_after_s:
            self._stopping.wait(offers.come_back_after_s)
        return done

    def _rest(self, offers: verbs.Offers, waited_s: float) -> None:
        """End the workers of runs that nobody asks for: of others when one is asked for, of all after a while."""
        runs = {RunId(offer.key.run) for offer in (*offers.offers, *self._held.values())}
        self._quiet_s = 0.0 if runs else self._quiet_s + waited_s
        if runs or self._quiet_s >= _QUIET_S:
            self._answers.rest(but=runs)

    def _end_run(self, run: RunId) -> None:
        """Let go of a run that is over. The rows go last: until then a poll names the run, and it is ended again."""
        self._held = {task: offer for task, offer in self._held.items() if offer.key.run != run}
        self._gate.finish(run)
        self._answers.forget(run)
        self._store.end_run(run)
        log.info("run=%s is over: nothing is kept of it", run)

    def stop(self) -> None:
        """Ask the agent to end after what it is at."""
        self._stopping.set()

    def close(self) -> None:
        """End the workers, and the session if there is one."""
        self._stopping.set()
        self._answers.end_workers()
        self.leave()

    def leave(self) -> None:
        """End the session if there is one."""
        if self._session:
            session, self._session = self._session, ""
            try:
                self._line.goodbye(verbs.Goodbye(session=session, reason="stopped"))
            except Error as error:
                log.info("the session could not be ended: %s", error)

    def _hello(self) -> None:
        self._check_own_store(self._line.recall(verbs.Recall()))
        seen = self._store.coordinator(COORDINATOR)
        reply = self._line.hello(
            verbs.Hello(
                federation=self._roster().federation,
                version=own_version(),
                store_epoch=str(self._store.epoch),
                ledger_head=head_text(self._store.ledger_head()),
                events_head=head_text(self._store.events.head()),
                seen_events=None if seen is None else seen.chain,
            )
        )
        self._store.saw_coordinator(
            COORDINATOR,
            epoch=reply.store_epoch,
            ledger=None,
            chain=None if reply.events_head is None else parse_head(reply.events_head),
            goes_on=reply.goes_on,
        )
        self._session = reply.session
        self._poll_s, self._heartbeat_s = reply.poll_s, reply.heartbeat_s

    def _check_own_store(self, seen: verbs.Recalled) -> None:
        """Stop a store that does not have what was seen of it: it was put back, however often it was started since."""
        try:
            self._store.check_goes_on(ledger=seen.ledger_head, chain=seen.events_head)
        except StoreError as error:
            raise Denied(Code.LOST_STATE, f"{error}.", remedy=ADOPT) from error

    def _beat(self) -> None:
        while not self._stopping.wait(self._heartbeat_s):
            task, session = self._at, self._session
            if not session:
                continue
            leases = () if task is None else (verbs.Lease(task=task, moved=self._moved),)
            self._moved = False
            try:
                reply = self._line.heartbeat(verbs.Heartbeat(session=session, leases=leases))
            except Error as error:
                log.info("a heartbeat was not heard: %s", error)
                continue
            if task is not None and task in reply.cancelled:
                self._drop(task)

    def _drop(self, task: str) -> None:
        """Let go of a task that nobody waits for any more: what hangs in it must not hold the site."""
        with self._turn:
            if self._at == task and self._answers.cancel():
                log.warning("task=%s is settled without this site: its work is dropped", task)

    def _has_moved(self) -> None:
        self._moved = True

    # One task --------------------------------------------------------------------------------------------------------

    def _carry_out(self, offer: verbs.Offer) -> None:
        key, step = round_key(offer.key), offer.key.step
        found = self._store.outgoing(key, step)
        if found is not None:
            self._post.send(self._session, offer.task, offer.key, found)
            return
        try:
            self._post.answer_to(self._checked(offer))
        except TrustError as error:
            log.error("run=%s round=%s the offer is not taken: %s", key.run, key.round, error)
            self._post.answer_to(None)
            refused = Refused(round=key.round, retry=key.retry, reason=f"OFFER_{error.reason.upper()}")
            self._post.send(self._session, offer.task, offer.key, self._post.write(key, step, refused))
            return
        try:
            claim = verbs.Claim(session=self._session, task=offer.task, retry=offer.key.retry)
            claimed = self._line.claim(claim)
            self._at, self._moved = offer.task, True
            inputs = self._fetched(offer.inputs, claimed.contents)
            out = self._answers.make(key, step, inputs)
        except Denied as error:
            if error.refusal.code not in (Code.NOT_FOUND, Code.ABORTED):
                raise
            log.info("run=%s round=%s the task is gone: %s", key.run, key.round, error)
            return
        finally:
            with self._turn:
                self._at = None
                self._answers.done()
        self._post.send(self._session, offer.task, offer.key, out)

    def _checked(self, offer: verbs.Offer) -> Order | None:
        """Return what to remember of an offer; None where the roster has no key that offers could be signed with.

        Raises:
            TrustError: When the coordinator has not signed it, or not for now.
        """
        key = self._coordinator()
        if key is None:
            return None
        last = self._store.newest_order(RunId(offer.key.run))
        newest = None if last is None else Seen(sequence=last.sequence, message_id=last.message, digest=last.digest)
        seen = check_offer(offer, self._roster(), key=key, site=self._identity.client, newest=newest)
        return Order(run=RunId(offer.key.run), sequence=seen.sequence, message=seen.message_id, digest=seen.digest)

    def _fetched(self, blobs: Sequence[verbs.Blob], contents: Sequence[bytes]) -> list[bytes]:
        """Return the contents of a task, from the claim or fetched. Those after the first hold for a phase: kept."""
        kept, self._inputs = self._inputs, {}
        data = []
        came = {body_digest(content): content for content in contents}
        for place, blob in enumerate(blobs):
            found = kept.get(blob.digest) or came.get(blob.digest)
            data.append(self._line.fetch(blob, largest=_MOST_HELD) if found is None else found)
            if place:
                self._inputs[blob.digest] = data[-1]
        self._inputs = self._inputs or kept
        return data
