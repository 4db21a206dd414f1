"""What is asked of sites before the first round of a run: what they have, and whether they approve."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedloom.core.component import spec_of
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.engines.desk import Desk
from fedloom.engines.remote_team import Patience
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.engines.site_versions import check_versions
from fedloom.errors import Error, RunStopped
from fedloom.experiment.handshake import SiteFacts, agree, read_site_facts
from fedloom.experiment.remote import RunFacts, read_facts
from fedloom.experiment.spec import Experiment
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution, RoundKey, Run
from fedloom.store.transitions import ACCEPTING, RoundStage

log = logging.getLogger(__name__)
_TICK_S = 1.0
_SPEND_EVERY_S = 60.0
"""Approvals take days: the time that they have had is written down so often, and a kill gives back less than that."""
_FACTS, _APPROVALS = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What the sites agreed on, and who does not take part."""

    facts: RunFacts
    refused: Mapping[ClientId, str]


class HandshakeRounds:
    """What is asked of the sites of one run before its first round, as far as it has come.

    First each says what it has; then, told what all have together, whether it approves. A site that refuses is left
    out, and the others are asked anew, because who takes part is a part of what they approve. What they have said
    once they are not asked again: all of it is in the store, and a restart goes on from there.

    Nobody has to look at the first question, so a site that is silent is lost in it after ``patience.lost_after_s``,
    as long as enough others are left. A person may have to look at the second: it waits for ``patience.approval_s``,
    or for as long as it takes.

    Args:
        store: The coordinator's.
        desk: Woken by what comes in.
        run: As it was submitted.
        experiment: Of the run.
        least: Sites without which there is no run.
        patience: How long sites are waited for.
    """

    def __init__(
        self,
        store: FederationStore,
        desk: Desk,
        run: Run,
        experiment: Experiment,
        *,
        least: int,
        patience: Patience | None = None,
    ) -> None:
        self._store = store
        self._desk = desk
        self._run = run
        self._experiment = experiment
        self._least = max(1, least)
        self._patience = Patience() if patience is None else patience
        self._since: dict[tuple[RoundKey, int], float] = {}
        self._counted = desk.clock()

    def advance(self, sites: Sequence[ClientId]) -> Handshake | None:
        """Go as far as there is something to go by.

        Args:
            sites: Who may take part now; who was asked before and is not among them any more is waited for no longer.

        Returns:
            What the sites agree on; None: it waits for some.

        Raises:
            RunStopped: When sites differ, or too few are left; says what each said.
        """
        store, refused = self._store, dict[ClientId, str]()
        begun = [each for each in store.rounds.rounds(self._run.run) if each.key == self._key(0)]
        asked = begun[0].cohort if begun else tuple(sorted(sites))
        retry = 0
        while len(asked) >= self._least:
            key = self._key(retry)
            said = self._asked(key, _FACTS, asked, sites)
            if said is None:
                return None
            out = _refusals(said)
            if not out:
                held = _held(store, said)
                if not self._is_asked(key, _APPROVALS):  # each difference is an event, once
                    check_versions(store, self._run.run, self._experiment, held)
                facts = _agreed(held, self._experiment)
                said = self._asked(key, _APPROVALS, asked, sites, facts=facts)
                if said is None:
                    return None
                out = _refusals(said)
                if not out:
                    _close(store, key)
                    return Handshake(facts=facts, refused=refused)
            if store.rounds.round(key).stage != "aborted":
                for site, code in out.items():
                    log.warning("run=%s site=%s does not take part: %s", self._run.run, site, code)
                store.rounds.move(key, "aborted", reason="a site does not take part")
            refused |= out
            asked = tuple(site for site in asked if site not in out)
            retry += 1
        raise RunStopped(_few(asked, refused, self._least))

    def _key(self, retry: int) -> RoundKey:
        return RoundKey(self._run.run, HANDSHAKE, "query", RoundNumber(0), retry)

    def _asked(
        self,
        key: RoundKey,
        step: int,
        asked: Sequence[ClientId],
        sites: Sequence[ClientId],
        *,
        facts: RunFacts | None = None,
    ) -> dict[ClientId, Contribution] | None:
        """Return what each site says at a step; None while some have not said anything."""
        rounds = self._store.rounds
        if step == _FACTS:
            rounds.plan(key, cohort=asked, deadline_s=self._patience.approval_s)
        if not self._is_asked(key, step):
            inputs = [self._store.blobs.put(self._run.experiment)]
            inputs += [] if facts is None else [self._store.blobs.put(facts.canonical)]
            rounds.offer(key, step, dict.fromkeys(asked, tuple(inputs)))
            self._desk.wake()
        said = self._said(key, step)
        if len(said) < len(asked) and rounds.round(key).stage in ACCEPTING:
            waiting = [site for site in asked if site not in said]
            self._offer_again(key)
            for site, kind, detail in self._given_up(key, step, waiting, sites, left=len(asked)):
                rounds.give_up(key, step, site, kind=kind, detail=detail)
            said = self._said(key, step)
        return said if len(said) == len(asked) else None

    def _is_asked(self, key: RoundKey, step: int) -> bool:
        return any(task.step == step for task in self._store.rounds.tasks_of(key))

    def _said(self, key: RoundKey, step: int) -> dict[ClientId, Contribution]:
        return {sent.site: sent for sent in self._store.rounds.contributions(key) if sent.step == step}

    def _offer_again(self, key: RoundKey) -> None:
        for task in self._store.rounds.expired():
            if task.key == key:
                self._store.rounds.reoffer(task.task)
                self._desk.wake()

    def _given_up(
        self, key: RoundKey, step: int, waiting: Sequence[ClientId], sites: Sequence[ClientId], *, left: int
    ) -> list[tuple[ClientId, Literal["lost", "late"], str]]:
        """Return whom a step waits for no longer, and why."""
        gone = [site for site in waiting if site not in sites]
        found: list[tuple[ClientId, Literal["lost", "late"], str]] = [
            (site, "lost", "it may not take part any more") for site in gone
        ]
        here = [site for site in waiting if site in sites]
        if step == _APPROVALS:
            if self._is_late(key):
                limit = self._patience.approval_s
                found += [(site, "late", f"it had not answered within {limit:g} s") for site in here]
            return found
        silent = self._silent(key, here)
        if left - len(found) - len(silent) >= self._least:
            limit = self._patience.lost_after_s
            found += [(site, "lost", f"nothing was heard of the site for {limit:g} s") for site in silent]
        return found

    def _silent(self, key: RoundKey, waiting: Sequence[ClientId]) -> list[ClientId]:
        """Return which sites have not been heard of for so long that they are lost."""
        now = self._desk.clock()
        since = self._since.setdefault((key, _FACTS), now)
        limit = self._patience.lost_after_s
        if limit is None:
            return []
        return [site for site in waiting if now - max(since, self._desk.heard(site) or since) >= limit]

    def _is_late(self, key: RoundKey) -> bool:
        """Count the time that people have had, while a coordinator was up; return whether it is over."""
        now, remaining = self._desk.clock(), self._store.rounds.round(key).remaining_s
        if remaining is None:
            return False
        if (key, _APPROVALS) not in self._since:
            self._since[key, _APPROVALS] = self._counted = now
        unwritten = now - self._counted
        if unwritten >= min(_SPEND_EVERY_S, remaining):
            self._store.rounds.spend(key, unwritten)
            self._counted = now
        return unwritten >= remaining


def shake_hands(
    store: FederationStore,
    desk: Desk,
    run: Run,
    experiment: Experiment,
    sites: Sequence[ClientId],
    *,
    least: int,
    patience: Patience | None = None,
) -> Handshake:
    """Return what the sites of a run agree on, when they do: see ``HandshakeRounds``.

    Raises:
        RunStopped: When sites differ, or too few are left; says what each said.
        Halted: When the coordinator was asked to stop.
    """
    rounds = HandshakeRounds(store, desk, run, experiment, least=least, patience=patience)
    while True:
        desk.check()
        seen = desk.version
        found = rounds.advance(sites)
        if found is not None:
            return found
        desk.wait(seen, timeout_s=_TICK_S)


def _refusals(said: Mapping[ClientId, Contribution]) -> dict[ClientId, str]:
    return {site: sent.detail or sent.kind for site, sent in said.items() if sent.blob is None}


def _held(store: FederationStore, said: Mapping[ClientId, Contribution]) -> dict[ClientId, SiteFacts]:
    held = {}
    for site, sent in said.items():
        assert sent.blob is not None, "those without are refusals"
        data = store.blobs.read(sent.blob)  # what the disk has not kept is no fault of the site
        try:
            held[site] = read_site_facts(data)
        except Error as error:
            raise RunStopped(f"site {site}: what it says it has cannot be read: {error}") from error
    return held


def _agreed(held: Mapping[ClientId, SiteFacts], experiment: Experiment) -> RunFacts:
    found = agree(held, spec_of(experiment.data))
    if isinstance(found, RunFacts):
        return read_facts(found.canonical)
    raise RunStopped("the sites do not have the same:\n" + "\n".join(f"  {each}" for each in found))


def _close(store: FederationStore, key: RoundKey) -> None:
    """Bring the handshake to its end: all at once, so that a crash leaves it open, or over."""
    if store.rounds.round(key).stage == "committed":
        return
    stages: tuple[RoundStage, ...] = ("closing", "aggregating", "committed")
    with store.together("handshake"):
        for stage in stages:
            store.rounds.move(key, stage)


def _few(left: Sequence[ClientId], refused: Mapping[ClientId, str], least: int) -> str:
    lines = [f"  site {site}: {code}" for site, code in sorted(refused.items())]
    return "\n".join([f"{len(left)} sites are left of the {least} that the run needs", *lines])
