"""The site's store: a step, its state, its sum and its message at once; nothing said twice; what went back is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fedloom.core.aggregator import InteractiveClient
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.errors import StoreError, StoreWentBack
from fedloom.runtime.ports import NOTHING_STORED, Slot, StoredState
from fedloom.runtime.sessions import SessionName
from fedloom.store.epochs import Epoch, before_first
from fedloom.store.federation_rows import RoundKey
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_head import Head
from fedloom.store.site_rows import Outgoing, Permission
from fedloom.store.site_store import SiteStore

RUN, NORTH = RunId("r1"), ClientId("north")
KEY = RoundKey(RUN, 1, "train", RoundNumber(1), 0)
NAME = SessionName(1, "train", RoundNumber(1), 0)
MARK = b"a secret that is nowhere on the disk in clear"
LIKE = Slot(round=RoundNumber(0), state=np.zeros(3), memory=np.zeros(2))


@dataclass
class Side:
    """A client side that is what it stores."""

    content: bytes

    def stored(self) -> bytes:
        return self.content


def side(content: bytes) -> InteractiveClient:
    return cast("InteractiveClient", Side(content))


def revive(content: bytes) -> InteractiveClient:
    return side(content)


def slot(number: int) -> Slot:
    return Slot(round=RoundNumber(number), state=np.arange(3.0) + number, memory=np.full(2, float(number)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return tmp_path / "north"


@pytest.fixture
def store(folder: Path) -> Iterator[SiteStore]:
    with SiteStore(folder, now=lambda: 1000.0) as store:
        yield store


def out(store: SiteStore, text: bytes = b"update", *, step: int = 0) -> Outgoing:
    return Outgoing(**KEY._asdict(), step=step, kind="message", blob=store.blobs.put(text))


def test_a_step_leaves_state_sum_and_message_together_or_nothing(folder: Path) -> None:
    with SiteStore(folder) as store:
        sent = out(store)
        with pytest.raises(ZeroDivisionError), store.together():
            store.states(RUN, LIKE).save(NORTH, StoredState(pending=slot(1)))
            store.sessions(RUN).keep(NORTH, NAME, side(b"sum"))
            store.post(sent)
            raise ZeroDivisionError
        assert store.states(RUN, LIKE).load(NORTH) is NOTHING_STORED
        assert store.sessions(RUN).find(NORTH, NAME, revive) is None
        assert not store.sessions(RUN).over(NORTH, NAME), "it was never begun"
        assert store.unsubmitted() == ()
        with store.together():
            store.states(RUN, LIKE).save(NORTH, StoredState(committed=slot(0), pending=slot(1)))
            store.sessions(RUN).keep(NORTH, NAME, side(b"sum"))
            store.post(sent)
    with SiteStore(folder) as store:
        kept = store.states(RUN, LIKE).load(NORTH)
        assert kept.committed is not None
        assert kept.pending is not None
        assert kept.pending.round == 1
        np.testing.assert_array_equal(kept.pending.state, slot(1).state)
        np.testing.assert_array_equal(kept.committed.memory, slot(0).memory)
        found = store.sessions(RUN).find(NORTH, NAME, revive)
        assert found is not None
        assert found.stored() == b"sum"
        assert store.unsubmitted() == (sent,)
        assert store.needed() == {sent.blob}


def test_a_second_answer_to_a_step_is_refused_and_the_first_is_repeated(store: SiteStore) -> None:
    sent = store.post(out(store))
    assert store.post(out(store)) == sent
    for other in (out(store, b"other"), replace(out(store), kind="failed", blob=None, detail="ValueError")):
        with pytest.raises(StoreError, match="no second answer is made"):
            store.post(other)
    with pytest.raises(StoreError, match="put the content of a message before it is posted"):
        store.post(replace(out(store, step=1), blob=None))
    store.submitted(KEY, 0, "ACCEPTED")
    assert store.unsubmitted() == ()
    assert store.post(out(store)).answer == "ACCEPTED"
    assert store.outgoing(KEY, 0) == replace(sent, answer="ACCEPTED")
    with pytest.raises(StoreError, match="has no answer here"):
        store.submitted(KEY, 3, "ACCEPTED")


def test_the_secrets_of_a_round_are_gone_with_it_and_never_lay_in_clear(folder: Path, store: SiteStore) -> None:
    store.sessions(RUN).keep(NORTH, NAME, side(MARK))
    with store._file.reading() as tables:
        from fedloom.store.site_rows import SUMS

        (row,) = tables.where(SUMS)
    store.states(RUN, LIKE).save(NORTH, StoredState(pending=slot(1)))
    store.post(out(store))

    def disk() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())

    assert row.sealed in disk()
    assert MARK not in disk()
    assert slot(1).state.tobytes() not in disk()
    store.end_round(KEY)
    assert row.sealed not in disk(), "overwritten"
    assert store.needed() == frozenset()
    assert store.sessions(RUN).over(NORTH, NAME)
    with pytest.raises(StoreError, match="makes no second message"):
        store.sessions(RUN).keep(NORTH, NAME, side(b"again"))
    store.sessions(RUN).keep(NORTH, NAME._replace(retry=1), side(b"a retry"))
    assert store.states(RUN, LIKE).load(NORTH).pending is not None, "the next order settles it"
    store.end_run(RUN)
    assert store.states(RUN, LIKE).load(NORTH) is NOTHING_STORED
    assert store.sessions(RUN).over(NORTH, NAME._replace(retry=1))


def test_an_order_ends_what_earlier_rounds_have_left_but_what_has_not_arrived(store: SiteStore) -> None:
    later = KEY._replace(round=RoundNumber(KEY.round + 1))
    blob = store.blobs.put(b"an answer")

    def post(key: RoundKey, answer: str | None) -> None:
        store.post(Outgoing(**key._asdict(), step=0, kind="message", blob=blob))
        if answer is not None:
            store.submitted(key, 0, answer)

    evaluated = KEY._replace(program="evaluate")
    for key, answer in ((KEY, "ACCEPTED"), (evaluated, None), (later, "ACCEPTED")):
        post(key, answer)
    store.sessions(RUN).keep(NORTH, NAME, side(b"one"))
    store.end_earlier(KEY)
    assert store.outgoing(KEY, 0) is not None, "a round does not end itself"
    store.end_earlier(later)
    assert store.outgoing(KEY, 0) is None
    assert store.outgoing(evaluated, 0) is not None
    assert store.outgoing(later, 0) is not None
    assert store.sessions(RUN).over(NORTH, NAME)
    store.end_earlier(later._replace(retry=later.retry + 1))
    assert store.outgoing(later, 0) is None
    store.end_earlier(later._replace(run=RunId("r2"), phase=later.phase + 1))
    assert store.outgoing(evaluated, 0) is not None, "another run ends nothing of this one"


def test_a_sum_of_one_run_is_not_that_of_another_and_end_spares_one(store: SiteStore) -> None:
    mine, other = store.sessions(RUN), store.sessions(RunId("r2"))
    second = NAME._replace(round=RoundNumber(2))
    mine.keep(NORTH, NAME, side(b"one"))
    mine.keep(NORTH, second, side(b"two"))
    other.keep(NORTH, NAME, side(b"of r2"))
    assert not mine.over(NORTH, NAME)
    mine.end(NORTH, but=second)
    assert mine.find(NORTH, NAME, revive) is None
    assert mine.over(NORTH, NAME)
    assert mine.find(NORTH, second, revive) is not None
    assert other.find(NORTH, NAME, revive) is not None


def test_what_is_sealed_does_not_open_under_another_key_or_in_another_place(folder: Path) -> None:
    with SiteStore(folder) as store:
        store.states(RUN, LIKE).save(NORTH, StoredState(pending=slot(1)))
        with store._file.writing("move") as tables:
            from fedloom.store.site_rows import STATES

            (row,) = tables.where(STATES)
            tables.put(STATES, replace(row, client=ClientId("south")))
        with pytest.raises(StoreError, match="the state of 'south' cannot be read: what is stored does not open"):
            store.states(RUN, LIKE).load(ClientId("south"))
    (folder / "site.key").write_bytes(os.urandom(32))
    with SiteStore(folder) as store, pytest.raises(StoreError, match="does not open"):
        store.states(RUN, LIKE).load(NORTH)


def test_a_number_is_never_given_twice(folder: Path) -> None:
    given: list[int] = []
    for count in (3, 1, 2):
        with SiteStore(folder) as store:
            first = store.reserve_numbers("r1", count)
            given += range(first, first + count)
            assert store.reserve_numbers(f"other {count}", 1) == 1
    assert given == [1, 2, 3, 4, 5, 6]
    with SiteStore(folder) as store, pytest.raises(StoreError, match="expected 1 or more"):
        store.reserve_numbers("r1", 0)


def test_a_permission_is_for_a_digest_a_time_and_some_rounds(folder: Path) -> None:
    now = [1000.0]
    with SiteStore(folder, now=lambda: now[0]) as store:
        assert not store.permitted(RUN, "d1", round_number=1)
        given = Permission(run=RUN, digest="d1", signed=b"signature", until=2000.0, max_rounds=5)
        store.permit(given)
        assert store.permission(RUN) == given
        assert store.permitted(RUN, "d1", round_number=5)
        assert not store.permitted(RUN, "d1", round_number=6)
        assert not store.permitted(RUN, "d2", round_number=1)
        now[0] = 2000.0
        assert not store.permitted(RUN, "d1", round_number=1)
        now[0] = 1000.0
        store.permit(replace(given, withdrawn=True))
        assert not store.permitted(RUN, "d1", round_number=1)
        assert store.permissions() == (replace(given, withdrawn=True),)


def test_changed_data_is_noticed_and_fingerprints_have_a_key_of_each_run(folder: Path) -> None:
    with SiteStore(folder) as store:
        assert [store.saw_data(RUN, "ward", each) for each in ("f1", "f1", "f2", "f2")] == [True, True, False, True]
        assert store.saw_data(RunId("r2"), "ward", "f9")
        keys = store.fingerprint_key(RUN), store.fingerprint_key(RunId("r2"))
    assert keys[0] != keys[1]
    with SiteStore(folder) as store:
        assert store.fingerprint_key(RUN) == keys[0]


def test_a_coordinator_that_went_back_stops_the_site_until_its_operator_confirms(store: SiteStore) -> None:
    def saw(epoch: Epoch, rows: int, fill: str = "a") -> str:
        head = Head(rows, fill * 64)
        return store.saw_coordinator("c", epoch=str(epoch), ledger=None, chain=head, at_round=f"round {rows}")

    one = before_first().next()
    assert saw(one, 12) == "first"
    assert saw(one.next(), 17) == "later"
    with pytest.raises(
        StoreWentBack, match=r"is older than the one seen last: start 1 at round 12, seen was start 2 at"
    ):
        saw(one, 12)
    with pytest.raises(StoreWentBack, match="is a copy of the one"):
        saw(one.next(), 18)
    with pytest.raises(StoreWentBack, match="is another than the one"):
        saw(before_first().next(), 18)
    seen = store.coordinator("c")
    assert seen is not None
    later = one.next().next()
    for rows, fill in ((16, "a"), (17, "b")):
        with pytest.raises(StoreWentBack, match="is older than"):
            saw(later, rows, fill)
    assert store.coordinator("c") == seen
    store.adopt_coordinator("c", epoch=str(one), ledger=None, chain=Head(12, "a" * 64))
    assert saw(one, 12) == "same"


def test_a_restored_site_has_an_epoch_that_its_peers_know_as_a_copy(folder: Path, tmp_path: Path) -> None:
    from fedloom.store.epochs import compare

    SiteStore(folder).close()
    shutil.copytree(folder, tmp_path / "backup")
    with SiteStore(folder) as store:
        seen = store.epoch
    with SiteStore(tmp_path / "backup") as store:
        assert compare(seen, store.epoch) == "copy"


def test_the_ledger_lies_in_the_folder_and_events_are_a_chain(store: SiteStore) -> None:
    with Ledger.open_or_create(store.ledger_path) as ledger:
        assert ledger.verify().rows == 1
    store.post(out(store))
    store.end_round(KEY)
    assert [event.kind for event in store.events.since(0)] == ["start", "post", "end round"]
    assert store.events.verify() == store.events.head()


def test_a_second_agent_is_refused(folder: Path, store: SiteStore) -> None:
    with pytest.raises(StoreError, match=f"the site's store north is owned by pid {os.getpid()} on host"):
        SiteStore(folder)


@pytest.mark.parametrize("lost", ["site.sqlite", "site.key"])
def test_a_lost_file_is_not_made_anew(folder: Path, lost: str) -> None:
    SiteStore(folder).close()
    (folder / lost).unlink()
    with pytest.raises(StoreError, match="is missing"):
        SiteStore(folder)
    assert not (folder / lost).exists()


def test_a_run_is_kept_until_it_has_ended_and_waits_while_something_of_it_is_unsent(folder: Path) -> None:
    with SiteStore(folder) as store:
        assert store.kept_runs() == ()
        store.states(RUN, LIKE).save_bytes(NORTH, b"a state")
        assert store.kept_runs() == (RUN,)
        store.post(Outgoing(**KEY._asdict(), step=0, kind="refused", detail="NO_DATA"))
        assert store.kept_runs() == (), "it is sent first"
        store.submitted(KEY, 0, "ACCEPTED")
        assert store.kept_runs() == (RUN,)
        store.end_run(RUN)
        assert store.kept_runs() == ()


def test_numbers_that_another_store_has_used_are_skipped(folder: Path) -> None:
    with SiteStore(folder) as store:
        store.skip_numbers("r1", 64)
        assert store.reserve_numbers("r1", 2) == 65
        store.skip_numbers("r1", 40)
        assert store.reserve_numbers("r1", 1) == 67


def test_a_store_that_was_put_back_does_not_go_on_from_what_was_seen_of_it_however_often_it_is_started(
    folder: Path, tmp_path: Path
) -> None:
    with SiteStore(folder) as store, Ledger.open_or_create(store.ledger_path):
        pass
    shutil.copytree(folder, tmp_path / "backup")
    with SiteStore(folder) as store:
        store.saw_data(RUN, "ward", "f1")
        seen, ledger = str(store.events.head()), str(store.ledger_head())
        store.check_goes_on(ledger=ledger, chain=seen)
    with SiteStore(folder) as store:
        store.check_goes_on(ledger=ledger, chain=seen)
        store.check_goes_on(ledger=None, chain=None)
    for _ in range(5):
        with SiteStore(tmp_path / "backup") as back:
            assert back.events.head().rows > 0
    with SiteStore(tmp_path / "backup") as back:
        assert back.events.head().rows > int(seen.partition(":")[0]), "its count shows nothing"
        with pytest.raises(StoreError, match="do not go on from"):
            back.check_goes_on(ledger=None, chain=seen)
        with pytest.raises(StoreError, match="counted 9 rows and there are 1"):
            back.check_goes_on(ledger=f"9:{'ab' * 32}", chain=None)
        back.ledger_path.unlink()
        with pytest.raises(StoreError, match="is missing, and 9 rows of it were seen"):
            back.check_goes_on(ledger=f"9:{'ab' * 32}", chain=None)
        assert back.ledger_head() is None


def test_a_coordinator_that_does_not_go_on_from_what_was_seen_has_gone_back(folder: Path) -> None:
    one = before_first().next()
    two = one.next()
    with SiteStore(folder) as store:
        store.saw_coordinator("c", epoch=str(one), ledger=None, chain=Head(3, "a" * 64))
        with pytest.raises(StoreWentBack, match=r"does not go on from .* fedloom site adopt SITE --coordinator"):
            store.saw_coordinator("c", epoch=str(two), ledger=None, chain=Head(9, "b" * 64), goes_on=False)
        store.adopt_coordinator("c", epoch=str(two), ledger=None, chain=Head(9, "b" * 64))
        assert store.saw_coordinator("c", epoch=str(two), ledger=None, chain=Head(9, "b" * 64)) == "same"
