"""RemoteTeam: the workers of a round are sites: what they are asked and what they answer lies in the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, get_args

from msgspec import structs

from fedloom.core.component import Json
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.messages import Failure, FailureKind, Program
from fedloom.engines.desk import Desk
from fedloom.engines.teams import Orders
from fedloom.errors import AlgorithmError, Error
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.remote import RunFacts
from fedloom.runtime.coordinator import Coordinator
from fedloom.runtime.effects import Send
from fedloom.runtime.on_the_wire import decode_message, encode_order, encode_request, interactive_sum
from fedloom.store.blobs import Digest
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution, RoundKey
from fedloom.store.transitions import ACCEPTING

log = logging.getLogger(__name__)
_TICK_S = 1.0
"""Deadlines and leases are looked at so often, whatever comes in."""
_AGAIN_S = 1.0
_AGAIN_MOST_S = 60.0
"""A round that was short is opened again after 1 s, then 2, 4 and so on up to a minute: sites may be coming back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a round waits for sites. Where nothing is set it waits for all, and says for whom."""

    deadline_s: float | None = None
    """Of a round, while its coordinator is up; whoever has not answered then is late."""
    grace_s: float | None = None
    """After the last site of the quorum, before the others are late; None: they are waited for until the deadline."""
    lost_after_s: float | None = None
    """Without a word of a site that has a task, or was offered one, before it is lost in this round; None: never."""
    approval_s: float | None = None
    """For the word of the sites on a run, while its coordinator is up; None: for as long as it takes."""


class RemoteTeam:
    """Sites as the workers of a run. What they answer is durable before it counts, and so is that one is given up.

    A round that is carried out again after a crash asks nobody twice: what is in the store is taken from there, in the
    order in which it was written down.

    Args:
        store: The coordinator's.
        desk: Woken by what comes in.
        run: Whose rounds these are.
        facts: What its sites have agreed on.
        patience: How long rounds wait.
        on_wait: Called whenever a round waits, with its name and whom it waits for.
        gone: Says who of those that are waited for may not take part any more, and why: what cannot come is not waited
            for.
    """

    def __init__(
        self,
        store: FederationStore,
        desk: Desk,
        run: RunId,
        facts: RunFacts,
        *,
        patience: Patience | None = None,
        on_wait: Callable[[RoundKey, Sequence[ClientId]], None] = lambda _key, _sites: None,
        gone: Callable[[Collection[ClientId]], Mapping[ClientId, str]] = lambda _waiting: {},
    ) -> None:
        self._store = store
        self._desk = desk
        self._run = run
        self._facts = facts
        self._phase_facts: RunFacts | None = None
        self._patience = Patience() if patience is None else patience
        self._on_wait = on_wait
        self._gone = gone
        self._key: RoundKey | None = None
        self._step = 0
        self._counted = 0.0
        self._short = 0

    def begin(self, plan: AnyPlan, prepared: Sequence[Json]) -> None:
        """Take note of what sites need to make the plan of a phase."""
        self._phase_facts = structs.replace(self._facts, prepared=tuple(prepared[: plan.phase]))

    def work(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], orders: Orders, *, block: int) -> None:
        """Ask the sites for a round, and fold what they answer."""
        del block
        first = next(iter(orders.values()), None)
        if first is None:
            return
        key = RoundKey(self._run, plan.phase, first.program, first.round, first.retry)
        self._tidy(key)
        self._let_time_pass(key)
        self._store.rounds.plan(key, cohort=tuple(orders), deadline_s=self._patience.deadline_s)
        self._key, self._step, self._counted = key, 0, self._desk.clock()
        digests = self._put_orders(orders)
        assert self._phase_facts is not None, "a phase begins before its rounds"
        told = self._store.blobs.put(self._phase_facts.canonical)  # anew for each: between rounds nothing refers to it
        asked = {client: (digests[orders[client].committed], told) for client in orders}
        self._check_unchanged(key, asked)
        self._store.rounds.offer(key, 0, asked)
        self._desk.wake()
        self._gather(plan, coordinator, key, 0, tuple(orders))

    def _check_unchanged(self, key: RoundKey, asked: Mapping[ClientId, tuple[Digest, Digest]]) -> None:
        """Refuse to go on with a round by an algorithm that asks something else than its sites have answered."""
        for task in self._store.rounds.tasks_of(key):
            if task.step == 0 and task.inputs != asked[task.site]:
                raise AlgorithmError(
                    f"round {key.round}: {task.site} would be asked something else now than it was: the algorithm has "
                    "changed in more than its server step. Install the package as it was, but for that step; or hand "
                    "the experiment in as a new run"
                )

    def converse(self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], sends: Sequence[Send]) -> None:
        """Take messages of an interactive sum to their sites, and their answers into the round."""
        key = self._key
        assert key is not None, "a round is open"
        self._step += 1
        aggregator, _ = interactive_sum(plan, key.program)
        blobs = {send.to: self._store.blobs.put(encode_request(send.request, aggregator)) for send in sends}
        self._store.rounds.offer(key, self._step, {client: (digest,) for client, digest in blobs.items()})
        self._desk.wake()
        self._gather(plan, coordinator, key, self._step, tuple(blobs))

    def close(self, orders: Orders) -> None:
        """Count nothing more in the round: what is summed is decided."""
        del orders
        key = self._key
        if key is None:
            return
        if self._store.rounds.round(key).stage in ACCEPTING:
            self._store.rounds.move(key, "closing")
        self._desk.wake()

    def settle(self, *, again: bool) -> None:
        """Write down what became of the round, after its state."""
        self._short = self._short + 1 if again else 0
        if self._key is not None:
            self._end(self._key, again=again)
            self._desk.wake()
        self._key = None

    def _end(self, key: RoundKey, *, again: bool) -> None:
        with self._store.together("end round"):
            if again:
                self._store.rounds.move(key, "aborted", reason="the round is opened again")
                return
            if self._store.rounds.round(key).stage in ACCEPTING:
                self._store.rounds.move(key, "closing")
            if self._store.rounds.round(key).stage == "closing":
                self._store.rounds.move(key, "aggregating")
            self._store.rounds.move(key, "committed")

    def _let_time_pass(self, key: RoundKey) -> None:
        """Wait before a round that was short is opened again."""
        if not self._short:
            return
        seconds = min(_AGAIN_MOST_S, _AGAIN_S * 2.0 ** (self._short - 1))
        log.warning("round=%s retry=%s is opened in %g s: the one before was short", key.round, key.retry, seconds)
        until = self._desk.clock() + seconds
        while (left := until - self._desk.clock()) > 0:
            self._desk.check()
            seen = self._desk.version
            self._on_wait(key, ())
            self._desk.wait(seen, timeout_s=min(_TICK_S, left))

    def leave(self) -> None:
        """Say that the run is at its end: its last round is, too."""
        self._tidy(None)
        self._desk.wake()

    def _tidy(self, key: RoundKey | None) -> None:
        """Bring the round before this one to its end, where a crash came between its state and its row."""
        found = self._store.rounds.open_round(self._run)
        if found is None or found.key == key:
            return
        self._end(found.key, again=key is not None and found.key[:4] == key[:4])

    def _put_orders(self, orders: Orders) -> Mapping[RoundNumber | None, Digest]:
        """Store the orders, each text once: they differ in the word that settles a client's state."""
        made: dict[RoundNumber | None, Digest] = {}
        for order in orders.values():
            if order.committed not in made:
                made[order.committed] = self._store.blobs.put(encode_order(order))
        return made

    def _gather(
        self,
        plan: AnyPlan,
        coordinator: Coordinator[Any, Any, Any],
        key: RoundKey,
        step: int,
        asked: Sequence[ClientId],
    ) -> None:
        """Fold what comes of a step until every site that was asked has answered or is given up."""
        waiting = set(asked)
        since = self._desk.clock()
        looked: float | None = None
        needed = plan.policy.needed(len(asked))
        quorum_at: float | None = None
        while waiting:
            self._desk.check()
            seen = self._desk.version
            for sent in self._store.rounds.contributions(key):
                if sent.step == step and sent.site in waiting:
                    waiting.discard(sent.site)
                    self._fold(plan, coordinator, key.program, sent)
            if not waiting:
                return
            now = self._desk.clock()
            self._spend(key, now)
            if quorum_at is None and len(asked) - len(waiting) >= needed:
                quorum_at = now
            self._look_after(key)
            given_up = self._given_up(key, step, waiting, since=since, quorum_at=quorum_at, now=now)
            if looked is None or now - looked >= _TICK_S:
                looked = now
                given_up = self._dismiss(key, step, waiting) or given_up
            if not given_up:
                self._on_wait(key, sorted(waiting))
                self._desk.wait(seen, timeout_s=_TICK_S)

    def _given_up(
        self,
        key: RoundKey,
        step: int,
        waiting: Iterable[ClientId],
        *,
        since: float,
        quorum_at: float | None,
        now: float,
    ) -> bool:
        """Write down whom the round waits for no longer; return whether there is anybody."""
        patience = self._patience
        late = self._store.rounds.round(key).remaining_s == 0.0
        late = late or (quorum_at is not None and patience.grace_s is not None and now - quorum_at >= patience.grace_s)
        any_ = False
        for site in sorted(waiting):
            if late:
                detail = "the site had not answered when the round closed"
                any_ = self._store.rounds.give_up(key, step, site, kind="late", detail=detail) or any_
            elif self._is_lost(site, since=since, now=now):
                detail = f"nothing was heard of the site for {patience.lost_after_s:g} s"
                any_ = self._store.rounds.give_up(key, step, site, kind="lost", detail=detail) or any_
        return any_

    def _dismiss(self, key: RoundKey, step: int, waiting: Collection[ClientId]) -> bool:
        """Write down who cannot answer because it may not take part any more; return whether there is anybody."""
        any_ = False
        for site, why in sorted(self._gone(waiting).items()):
            any_ = self._store.rounds.give_up(key, step, site, kind="lost", detail=why) or any_
        return any_

    def _spend(self, key: RoundKey, now: float) -> None:
        """Count the time that a round with a deadline is open, while a coordinator is up: downtime does not count."""
        if self._patience.deadline_s is not None and now - self._counted >= _TICK_S:
            self._store.rounds.spend(key, now - self._counted)
            self._counted = now

    def _is_lost(self, site: ClientId, *, since: float, now: float) -> bool:
        limit = self._patience.lost_after_s
        if limit is None:
            return False
        heard = self._desk.heard(site)
        return now - (since if heard is None else max(since, heard)) >= limit

    def _look_after(self, key: RoundKey) -> None:
        """Offer tasks again whose site was not heard of for a lease."""
        for task in self._store.rounds.expired():
            if task.key == key:
                log.warning(
                    "round=%s site=%s the lease of step %s ended: it is offered again", key.round, task.site, task.step
                )
                self._store.rounds.reoffer(task.task)
                self._desk.wake()

    def _fold(
        self, plan: AnyPlan, coordinator: Coordinator[Any, Any, Any], program: Program, sent: Contribution
    ) -> None:
        if sent.kind in ("lost", "late"):
            coordinator.lose(sent.site, Failure(client=sent.site, phase=program, kind=sent.kind, detail=sent.detail))
            return
        if sent.blob is None:
            coordinator.lose(sent.site, failure_of(sent, program))
            return
        data = self._store.blobs.read(sent.blob)  # what the disk has not kept is no fault of the site
        try:
            message = decode_message(data, plan, program)
        except Error as error:
            coordinator.lose(sent.site, Failure(client=sent.site, phase=program, kind="invalid", detail=str(error)))
            return
        if (message.round, message.retry) != (sent.round, sent.retry):
            # Within the round it would be nobody's answer, and what waits for the site would wait for ever.
            said = f"the message is of round {message.round}, retry {message.retry}; it was asked for another"
            coordinator.lose(sent.site, Failure(client=sent.site, phase=program, kind="invalid", detail=said))
            return
        coordinator.receive(sent.site, message)

    def __enter__(self) -> Self:
        """Return the team."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the sites alone: they poll."""


def failure_of(sent: Contribution, program: Program) -> Failure:
    """Return the failure that a site has told."""
    if sent.kind == "refused":
        return Failure(client=sent.site, phase=program, kind="refused", detail=sent.detail)
    kind, error, where, text = (*sent.detail.split("\n"), "", "", "", "")[:4]
    told = f"{error or 'failed'}: {text}" if text else error or "failed"
    known: FailureKind = kind if kind in get_args(FailureKind) else "crashed"  # type: ignore[assignment]
    return Failure(client=sent.site, phase=program, kind=known, detail=told, where=where or None)
