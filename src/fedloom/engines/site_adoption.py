"""SiteAdoption: how a site goes on whose own store was put back from a backup, or whose coordinator's was.

What the ledger here has forgotten, the coordinator remembers: each round that the site took on. All of it is charged,
whether it fits the budget or not, and only then the coordinator is told which store it is to go on with. Interrupted
anywhere, it is run again: what is charged already is not charged twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from fedloom.core.ids import RoundNumber, RunId
from fedloom.engines.site_folder import SiteFolder, check_member
from fedloom.engines.site_inbox import entry_of, received
from fedloom.engines.site_judge import Examine, SiteJudge
from fedloom.engines.site_post import Post
from fedloom.engines.site_record import ADOPTION
from fedloom.engines.site_rules import Rules, SiteRules
from fedloom.engines.site_runs import KeptExperiments, aggregator_of, read_experiment
from fedloom.errors import Error, PlanError, StoreError
from fedloom.experiment.remote import read_facts
from fedloom.experiment.site_policy import data_of
from fedloom.secure.peers import COORDINATOR
from fedloom.store.epochs import head_text
from fedloom.store.faults import explained
from fedloom.store.federation_rows import RoundKey
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_adoption import Adoption
from fedloom.store.ledger_books import Balance
from fedloom.store.ledger_entries import ReleaseKey
from fedloom.store.ledger_head import head_path, parse_head
from fedloom.store.site_rows import Outgoing, Peer
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs
from fedloom.transport.client import Client

_PATIENCE_S = 20.0
_LARGEST = 64 << 20
"""Bytes of an experiment, or of the facts of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A run that this site had a part in, as the coordinator remembers it."""

    run: RunId
    sequence: int
    experiment: bytes | None
    facts: bytes | None
    rounds: tuple[verbs.Contributed, ...]
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a run is charged with."""

    asked: Adoption
    missing: tuple[ReleaseKey, ...]
    """Releases that this ledger does not have."""
    unpriced: str = ""
    """Why it cannot be priced here, so that it is charged without bound; empty: it is priced."""


class SiteAdoption:
    """A site's folder while its operator confirms a store. A context manager: the agent must not run.

    Args:
        folder: Of the site.
        server_name: Name to expect in the coordinator's certificate, where it is dialled by another.
        examine: Examines a run; by default in a process of its own.
        now: Seconds since 1970.

    Raises:
        StoreError: When an agent runs, or the folder has not joined.
        TrustError: When this site's key is not the roster's.
    """

    def __init__(
        self,
        folder: SiteFolder,
        *,
        server_name: str | None = None,
        examine: Examine | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._examine = examine
        self._now = now
        self._identity = folder.identity()
        check_member(folder)
        place = folder.coordinator()
        self._open = contextlib.ExitStack()
        self._line = self._open.enter_context(
            Client(place.sites, folder.tls, server_name=server_name, patience_s=_PATIENCE_S)
        )
        try:
            self.store = self._open.enter_context(SiteStore(folder.store, now=now))
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the store and the line go."""
        self._open.close()

    # The site's own store --------------------------------------------------------------------------------------------

    def remembered(self) -> tuple[Remembered, ...]:
        """Return what the coordinator remembers of this site.

        Raises:
            StoreError: When the record comes to no end.
            StoreWentBack: When the coordinator's store went back, too: its record may lack what this site has done.
            Unreachable: When there is no coordinator.
            Refused: What it says.
        """
        return tuple(self._remembered())

    def _remembered(self) -> Iterator[Remembered]:
        after, rounds = "", list[verbs.Contributed]()
        while True:
            reply = self._asked(after, offset=len(rounds))
            chain = None if reply.events_head is None else parse_head(reply.events_head)
            self.store.saw_coordinator(
                COORDINATOR, epoch=reply.store_epoch, ledger=None, chain=chain, goes_on=reply.goes_on
            )
            took = reply.took
            if took is None:
                return
            if took.run <= after or (took.more and not took.rounds):
                raise StoreError(f"the coordinator's record comes to no end: after {after!r} it tells {took.run!r}")
            rounds += took.rounds
            if not took.more:
                wanted = bool(rounds) or not took.over
                yield Remembered(
                    run=RunId(took.run),
                    sequence=took.sequence,
                    experiment=self._fetched(took.experiment) if wanted else None,
                    facts=self._fetched(took.facts) if wanted else None,
                    rounds=tuple(rounds),
                    over=took.over,
                )
                after, rounds = took.run, []

    def _asked(self, after: str, *, offset: int) -> verbs.RecordReply:
        seen = self.store.coordinator(COORDINATOR)
        return self._line.record(
            verbs.Record(after=after, offset=offset, seen_events=None if seen is None else seen.chain)
        )

    def _fetched(self, blob: verbs.Blob | None) -> bytes | None:
        return None if blob is None else self._line.fetch(blob, largest=_LARGEST)

    def doubt(self) -> str:
        """Return why the ledger here is not taken for whole; empty: its head beside it fits."""
        path = self.store.ledger_path
        if not path.exists():
            return f"{path} is missing, and its head is there" if head_path(path).exists() else ""
        try:
            with Ledger.read(path):
                return ""
        except StoreError as error:
            return str(error)

    def take_ledger(self) -> None:
        """Take a ledger in doubt as it is: what it lacks is charged next. The chain itself must hold.

        Raises:
            StoreError: When it does not.
        """
        path = self.store.ledger_path
        if path.exists():
            Ledger.accept(path, now=self._now).close()
            return
        with explained(head_path(path)):
            head_path(path).unlink(missing_ok=True)

    def charges(self, record: Sequence[Remembered]) -> tuple[Charge, ...]:
        """Return what each run is charged with, by the policy of now; () where the policy sets no budget.

        Raises:
            StoreError: When the policy has no rows that a run could have been of.
            BudgetError: When the ledger counts by another policy.
        """
        judge, rules = self._judge()
        if not rules.ledger.counts:
            return ()
        return tuple(self._charge(judge, rules, each) for each in record if each.rounds)

    def charge(self, record: Sequence[Remembered], charges: Sequence[Charge]) -> tuple[Balance, ...]:
        """Write the charges down, and let no signed message have a number that was used; return what there is now."""
        judge, rules = self._judge()
        experiments = KeptExperiments(self.store.folder / "experiments")
        for charged in charges:
            rules.ledger.adopt(charged.asked)
        for each in record:
            self.store.skip_numbers(each.run, each.sequence)
            self._give_up(each)
            if each.over:
                judge.finish(each.run)
            elif each.experiment is not None:  # it may go on with this site
                experiments.keep(each.run, each.experiment)
        return rules.ledger.balances()

    def tell(self) -> None:
        """Tell the coordinator that this store is the one to go on with, signed by this site's key.

        Raises:
            Unreachable: When there is no coordinator.
            Refused: What it says.
        """
        ledger = head_text(self.store.ledger_head())
        self.store.events.append("adopt", {"epoch": str(self.store.epoch), "ledger": ledger})
        said = verbs.Adopt(
            store_epoch=str(self.store.epoch), ledger_head=ledger, events_head=head_text(self.store.events.head())
        )
        post = Post(self._line, self.store, self._identity, roster=self._folder.pin, now=self._now)
        place = verbs.TaskKey(run=ADOPTION, phase=0, program="query", round=0, retry=0, step=0)
        self._line.adopt(post.signed(said, place))

    def _give_up(self, each: Remembered) -> None:
        """Answer what is still waited for by a no: its message may have left, and a second one is never made for it."""
        for at in each.rounds:
            key = RoundKey(each.run, at.phase, "train", RoundNumber(at.round), at.retry)
            if at.open and self.store.outgoing(key, 0) is None:
                self.store.post(Outgoing(**key._asdict(), step=0, kind="refused", detail="LOST_STATE"))

    def _judge(self) -> tuple[SiteJudge, Rules]:
        client = self._identity.client
        rules = SiteRules(self._folder, self.store, client=client, now=self._now)
        judge = SiteJudge(self._folder, self.store, rules, client=client, now=self._now, examine=self._examine)
        return judge, rules.last

    def _charge(self, judge: SiteJudge, rules: Rules, each: Remembered) -> Charge:
        entry, first, why = entry_of(self._folder, each.run), 0, ""
        try:
            raw, facts = self._received(each)
            entry = judge.recall(each.run, raw, read_facts(facts))
            aggregator = aggregator_of(read_experiment(each.run, raw), "train", base=rules.policy.base)
            if aggregator.interactive:
                opening: int = aggregator.vector_step + 1  # type: ignore[attr-defined]
                first = opening  # before it the site has sent nothing that could be read
        except Error as error:
            why = str(error)
        keys = tuple((at.phase, at.round, at.retry) for at in each.rounds if at.step >= first)
        data = data_of(rules.policy, asked=None) if entry is None else entry.data
        if data is None or data not in rules.policy.data:
            named = "which rows it used is not known" if data is None else f'it used data."{data}"'
            raise StoreError(
                f"run {each.run} cannot be charged: {named}, and the policy has {', '.join(rules.policy.data)}. Put "
                f"back into {self._folder.policy_path} what stood there when the run was allowed"
            )
        promise, releases = (None, None) if entry is None else (entry.promise, entry.releases)
        if promise is None or releases is None:
            told = "; ".join(entry.words) if entry is not None else ""
            why = why or told or "it promises no privacy"
        else:
            why = ""
        asked = rules.ledger.remembered(each.run, data, keys, promise=promise, releases=releases)
        return Charge(asked=asked, missing=rules.ledger.missing(asked), unpriced=why)

    def _received(self, each: Remembered) -> tuple[bytes, bytes]:
        """Return experiment and facts of a run: as the coordinator has them, or else as they were judged here."""
        if each.experiment is not None and each.facts is not None:
            return each.experiment, each.facts
        if entry_of(self._folder, each.run) is None:
            raise PlanError(f"neither this site nor the coordinator has the experiment of run {each.run} any more")
        return received(self._folder, each.run)

    # The coordinator's store -----------------------------------------------------------------------------------------

    def coordinator(self) -> tuple[Peer | None, Peer, bool]:
        """Return what was seen of the coordinator's store last, what it is now, and whether this goes on from that.

        Raises:
            Unreachable: When there is no coordinator.
            Refused: What it says.
        """
        reply = self._asked("", offset=0)
        now = Peer(name=COORDINATOR, epoch=reply.store_epoch, chain=reply.events_head)
        return self.store.coordinator(COORDINATOR), now, reply.goes_on

    def take_coordinator(self, now: Peer) -> None:
        """Take the coordinator's store for the one to go on with: the operator has confirmed it."""
        chain = None if now.chain is None else parse_head(now.chain)
        self.store.adopt_coordinator(now.name, epoch=now.epoch, ledger=None, chain=chain)
