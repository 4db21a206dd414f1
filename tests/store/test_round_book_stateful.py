"""The round book under random orders, repeats, losses and restarts, against a dictionary."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.errors import StoreError
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution, RoundKey
from fedloom.store.transitions import ROUND, ends

SITES = [ClientId(name) for name in ("a", "b", "c")]
sites = st.sampled_from(SITES)


class RoundBookMachine(RuleBasedStateMachine):
    """Rounds opened, asked, answered, given up and closed in any order; the process may end between any two steps."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        self.patch = patch.object(os, "fsync", lambda handle: None)
        self.patch.start()
        self.store = self.opened()
        self.key = RoundKey(RunId("r"), 1, "train", RoundNumber(0), 0)
        self.stage = "committed"
        self.counted: dict[tuple[RoundKey, ClientId], bytes | None] = {}
        self.asked: set[ClientId] = set()
        self.finished: dict[RoundKey, object] = {}

    def opened(self) -> FederationStore:
        store = FederationStore(self.folder / "store")
        store._store.file._database.execute("PRAGMA synchronous=OFF")
        return store

    def teardown(self) -> None:
        self.store.close()
        self.patch.stop()
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.opened()

    @precondition(lambda self: self.stage in ("committed", "aborted"))
    @rule()
    def plan(self) -> None:
        if self.stage == "committed":
            self.key = self.key._replace(round=RoundNumber(self.key.round + 1), retry=0)
        else:
            self.key = self.key._replace(retry=self.key.retry + 1)
        self.store.rounds.plan(self.key, cohort=SITES)
        self.stage, self.asked = "planned", set()

    @precondition(lambda self: self.key.round > 0)
    @rule(site=sites)
    def offer(self, site: ClientId) -> None:
        order = self.store.blobs.put(b"order")
        open_before = self.stage in ("planned", "offered", "running") or site in self.asked
        try:
            self.store.rounds.offer(self.key, 0, {site: [order]})
        except StoreError:
            assert not open_before
        else:
            assert open_before
            self.asked.add(site)
            self.stage = "offered" if self.stage == "planned" else self.stage

    @precondition(lambda self: self.key.round > 0)
    @rule(site=sites, text=st.sampled_from([b"x", b"y"]))
    def accept(self, site: ClientId, text: bytes) -> None:
        blob = self.store.blobs.put(text)
        sent = Contribution(**self.key._asdict(), step=0, site=site, kind="message", blob=blob)
        verdict = self.store.rounds.accept(sent).verdict
        name = (self.key, site)
        if site not in self.asked:
            assert verdict == "REJECTED"
        elif self.counted.get(name) is not None:
            assert verdict == ("DUPLICATE_OK" if self.counted[name] == text else "REJECTED")
        elif name in self.counted or self.stage not in ("offered", "running"):
            assert verdict == "TOO_LATE"
        else:
            assert verdict == "ACCEPTED"
            self.counted[name] = text

    @precondition(lambda self: self.stage in ("offered", "running"))
    @rule(site=sites)
    def give_up(self, site: ClientId) -> None:
        name = (self.key, site)
        if site not in self.asked:
            return
        gone = self.store.rounds.give_up(self.key, 0, site, kind="lost", detail="")
        assert gone == (self.counted.get(name) is None)
        self.counted.setdefault(name, None)

    @precondition(lambda self: self.key.round > 0)
    @rule(stage=st.sampled_from(sorted(ROUND)))
    def move(self, stage: str) -> None:
        allowed = stage == self.stage or stage in ROUND[self.stage]  # type: ignore[index]
        try:
            self.store.rounds.move(self.key, stage)  # type: ignore[arg-type]
        except StoreError:
            assert not allowed
        else:
            assert allowed
            self.stage = stage
        if self.stage in ends(ROUND):
            self.finished.setdefault(self.key, self.looked(self.key))

    def looked(self, key: RoundKey) -> object:
        return self.store.rounds.round(key), self.store.rounds.contributions(key)

    @invariant()
    def what_counts_is_what_was_counted(self) -> None:
        if self.key.round == 0:
            return
        found = self.store.rounds.contributions(self.key)
        assert [each.order for each in found] == list(range(len(found)))
        said = {each.site: None if each.blob is None else self.store.blobs.read(each.blob) for each in found}
        assert said == {site: text for (key, site), text in self.counted.items() if key == self.key}
        assert self.store.rounds.round(self.key).stage == self.stage
        over = self.stage in ends(ROUND)
        assert (self.store.rounds.open_round(self.key.run) is None) == over

    @invariant()
    def finished_rounds_never_change_and_the_events_are_a_chain(self) -> None:
        for key, looked in self.finished.items():
            assert self.looked(key) == looked
        self.store.events.verify()


TestRoundBook = RoundBookMachine.TestCase
TestRoundBook.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
