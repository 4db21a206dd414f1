"""What is asked of sites before the first round of a run: what they have, and whether they approve."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedloom.core.component import spec_of
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.engines.desk import Desk
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.engines.site_versions import check_versions
from fedloom.errors import Error, RunStopped
from fedloom.experiment.handshake import agree, read_site_facts
from fedloom.experiment.remote import RunFacts, read_facts
from fedloom.experiment.spec import Experiment
from fedloom.store.blobs import Digest
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution, RoundKey, Run
from fedloom.store.transitions import RoundStage

log = logging.getLogger(__name__)
_TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What the sites agreed on, and who does not take part."""

    facts: RunFacts
    refused: Mapping[ClientId, str]


def shake_hands(
    store: FederationStore, desk: Desk, run: Run, experiment: Experiment, sites: Sequence[ClientId], *, least: int
) -> Handshake:
    """Return what the sites of a run agree on. What they have said once they are not asked again.

    First each says what it has; then, told what all have together, whether it approves. A site that refuses is left
    out, and the others are asked anew, because who takes part is a part of what they approve.

    Args:
        store: The coordinator's.
        desk: Woken by what comes in.
        run: As it was submitted.
        experiment: Of the run.
        sites: Who is asked.
        least: Sites without which there is no run.

    Raises:
        RunStopped: When sites differ, or too few are left; says what each said.
        Halted: When the coordinator was asked to stop.
    """
    refused: dict[ClientId, str] = {}
    asked = tuple(sorted(sites))
    for retry in range(len(sites) + 1):
        if len(asked) < max(1, least):
            raise RunStopped(_few(asked, refused, least))
        key = RoundKey(run.run, HANDSHAKE, "query", RoundNumber(0), retry)
        said = _asked(store, desk, key, 0, asked, inputs=(store.blobs.put(run.experiment),))
        out = {site: sent.detail or sent.kind for site, sent in said.items() if sent.blob is None}
        if not out:
            facts = _agreed(store, run.run, experiment, said)
            told = (store.blobs.put(run.experiment), store.blobs.put(facts.canonical))
            answers = _asked(store, desk, key, 1, asked, inputs=told)
            out = {site: sent.detail or sent.kind for site, sent in answers.items() if sent.blob is None}
            if not out:
                _close(store, key)
                return Handshake(facts=facts, refused=refused)
        for site, code in out.items():
            log.warning("run=%s site=%s does not take part: %s", run.run, site, code)
        refused |= out
        asked = tuple(site for site in asked if site not in out)
        store.rounds.move(key, "aborted", reason="a site does not take part")
    raise RunStopped(_few(asked, refused, least))


def _asked(
    store: FederationStore, desk: Desk, key: RoundKey, step: int, sites: Sequence[ClientId], *, inputs: Sequence[Digest]
) -> dict[ClientId, Contribution]:
    """Return what each site says at a step of the handshake: it is waited for, as a person may have to look at it."""
    if step == 0:
        store.rounds.plan(key, cohort=sites)
    if store.rounds.round(key).stage in ("planned", "offered", "running"):
        store.rounds.offer(key, step, {site: tuple(inputs) for site in sites})
    desk.wake()
    while True:
        desk.check()
        seen = desk.version
        said = {sent.site: sent for sent in store.rounds.contributions(key) if sent.step == step}
        if len(said) == len(sites):
            return said
        for task in store.rounds.expired():
            if task.key == key:
                store.rounds.reoffer(task.task)
        desk.wait(seen, timeout_s=_TICK_S)


def _agreed(
    store: FederationStore, run: RunId, experiment: Experiment, said: Mapping[ClientId, Contribution]
) -> RunFacts:
    held = {}
    for site, sent in said.items():
        assert sent.blob is not None, "those without are refusals"
        try:
            held[site] = read_site_facts(store.blobs.read(sent.blob))
        except Error as error:
            raise RunStopped(f"site {site}: what it says it has cannot be read: {error}") from error
    check_versions(store, run, experiment, held)
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
    return "\n".join([f"{len(left)} sites are left of the {max(1, least)} that the run needs", *lines])
