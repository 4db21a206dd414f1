"""The coordinator's store: one owner, sites and their sessions, runs, rounds, contributions; what damage says."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.errors import StoreError
from fedloom.store.blobs import sha256_of
from fedloom.store.epochs import Epoch, before_first
from fedloom.store.events_chain import EVENTS
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Answer, Approval, Contribution, RoundKey, Sequence, Task
from fedloom.store.ledger_head import Head

RUN = RunId("r1")
SITES = [ClientId("north"), ClientId("south"), ClientId("west")]
KEY = RoundKey(RUN, 1, "train", RoundNumber(1), 0)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return tmp_path / "coordinator"


@pytest.fixture
def store(folder: Path, clock: Clock) -> Iterator[FederationStore]:
    with FederationStore(folder, now=lambda: 1000.0, clock=clock) as store:
        for site in SITES:
            store.sites.add(site, f"org {site}")
        yield store


def offered(store: FederationStore, key: RoundKey = KEY, *, step: int = 0) -> dict[ClientId, Task]:
    order = store.blobs.put(b"order")
    store.rounds.plan(key, cohort=SITES, away=(4,), deadline_s=60.0)
    return {task.site: task for task in store.rounds.offer(key, step, {site: [order] for site in SITES})}


def message(store: FederationStore, site: ClientId, text: bytes = b"update", *, step: int = 0) -> Contribution:
    blob = store.blobs.put(text + site.encode())
    return Contribution(**KEY._asdict(), step=step, site=site, kind="message", blob=blob)


# One owner, one folder -----------------------------------------------------------------------------------------------

OWNER = """
import sys
from pathlib import Path
from fedloom.store.federation import FederationStore
store = FederationStore(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_second_coordinator_is_told_who_owns_the_store_and_one_that_died_is_followed(
    folder: Path, process: Callable[..., subprocess.Popen[str]]
) -> None:
    first = process(OWNER, folder)
    assert first.stdout is not None
    assert first.stdout.readline() == "open\n"
    with pytest.raises(
        StoreError, match=rf"the coordinator's store coordinator is owned by pid {first.pid} on host .+ since 2"
    ):
        FederationStore(folder)
    first.kill()
    first.wait()
    with FederationStore(folder) as store:
        assert store.epoch.start == 2
    with FederationStore(folder) as store, pytest.raises(StoreError, match=f"owned by pid {os.getpid()}"):
        FederationStore(folder)


def test_each_start_has_an_epoch_of_its_own_and_the_secret_stays(folder: Path) -> None:
    seen: list[Epoch] = []
    secrets = set()
    for _ in range(3):
        with FederationStore(folder) as store:
            seen.append(store.epoch)
            secrets.add(store.coordinator_secret.stored())
    assert [epoch.start for epoch in seen] == [1, 2, 3]
    assert len({epoch.store for epoch in seen}) == 1
    assert len({epoch.nonce for epoch in seen}) == 3
    assert len(secrets) == 1
    assert (folder / "coordinator.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("lost", "said"),
    [("coordinator.sqlite", "is missing: restore the folder"), ("coordinator.key", "is missing: what it encrypts")],
)
def test_a_lost_file_is_not_made_anew(folder: Path, lost: str, said: str) -> None:
    FederationStore(folder).close()
    (folder / lost).unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match=said):
            FederationStore(folder)
    assert not (folder / lost).exists()


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    FederationStore(folder).close()
    (folder / "coordinator.key").chmod(0o640)
    with pytest.raises(StoreError, match=r"is open to others \(mode 640\)"):
        FederationStore(folder)


def test_a_damaged_store_is_refused_and_left_as_it_is(folder: Path) -> None:
    with FederationStore(folder) as store:
        store.sites.add(SITES[0], "org")
    path = folder / "coordinator.sqlite"
    data = path.read_bytes()
    at = data.rindex(b"org")
    path.write_bytes(data[:at] + b"oRg" + data[at + 3 :])
    with pytest.raises(StoreError, match=r"coordinator\.sqlite is damaged .*restore the folder from a backup"):
        FederationStore(folder)
    path.write_bytes(data)
    FederationStore(folder).close()


# Sites ---------------------------------------------------------------------------------------------------------------


def test_a_newer_session_ends_the_older_one_over_restarts_too(folder: Path) -> None:
    epoch = str(before_first().next())
    with FederationStore(folder) as store:
        store.sites.add(SITES[0], "org")
        first = store.sites.hello(SITES[0], serial="1", epoch=epoch, ledger=None, chain=None, at=1.0)
        second = store.sites.hello(SITES[0], serial="2", epoch=epoch, ledger=None, chain=None, at=2.0)
        assert (first.number, first.store, second.number, second.store) == (1, "first", 2, "same")
        assert store.sites.current(SITES[0], second.session)
        assert not store.sites.current(SITES[0], first.session)
        assert not store.sites.current(ClientId("nobody"), second.session)
    with FederationStore(folder) as store:
        assert store.sites.current(SITES[0], second.session)
        assert store.sites.site(SITES[0]).serials == ("1", "2")
        store.sites.goodbye(SITES[0], first.session)
        assert store.sites.current(SITES[0], second.session)
        store.sites.suspend(SITES[0], "failed 3 times in a row")
        assert not store.sites.current(SITES[0], second.session)
        assert store.sites.site(SITES[0]).suspended == "failed 3 times in a row"


def test_a_site_whose_store_went_back_is_noticed_until_it_is_adopted(store: FederationStore) -> None:
    def hello(epoch: Epoch, rows: int, fill: str = "a") -> str:
        head = Head(rows, fill * 64)
        return store.sites.hello(SITES[0], serial="1", epoch=str(epoch), ledger=head, chain=None, at=1.0).store

    one = before_first().next()
    two = one.next()
    assert hello(one, 3) == "first"
    assert hello(two, 3) == "later"
    assert hello(two, 5) == "same"
    assert hello(one, 5) == "older"
    assert hello(one.next(), 5) == "copy"
    assert hello(two.next(), 4) == "older", "the ledger lost a row"
    assert hello(two.next(), 5, "b") == "older", "the ledger is another"
    assert hello(before_first().next(), 5) == "other"
    assert hello(two, 5) == "same", "what went back is not remembered"
    store.sites.adopt(SITES[0], epoch=str(one), ledger=Head(4, "c" * 64), chain=None)
    assert hello(one, 4, "c") == "same"
    assert store.sites.site(SITES[0]).session is not None
    store.sites.adopt(SITES[0], epoch=str(one), ledger=Head(4, "c" * 64), chain=None)
    assert store.sites.site(SITES[0]).session is None, "it may be of another copy"
    store.sites.saw(SITES[0], ledger=Head(6, "d" * 64))
    with pytest.raises(StoreError, match=r"behind 6:d{64} .* its ledger was restored"):
        store.sites.saw(SITES[0], ledger=Head(5, "c" * 64))


def test_a_sequence_number_goes_forward_with_its_effect_or_not_at_all(store: FederationStore) -> None:
    first = Sequence(sender="north", run="r1", sequence=4, message=b"m4", digest=b"d4", answer=b"yes")
    store.sites.remember(first)
    store.sites.remember(first)
    with pytest.raises(StoreError, match="message 4 of 'north' comes after 4"):
        store.sites.remember(replace(first, digest=b"other"))
    with pytest.raises(ZeroDivisionError), store.together():
        store.sites.remember(replace(first, sequence=5))
        store.sites.save_token("t", b"used")
        raise ZeroDivisionError
    assert store.sites.last_message("north", "r1") == first
    assert store.sites.token("t") is None


def test_a_token_is_redeemed_by_one_of_many_threads(store: FederationStore) -> None:
    store.sites.save_token("t", b"fresh")
    won = []

    def redeem(number: int) -> None:
        with store.together():
            if store.sites.token("t") == b"fresh":
                store.sites.save_token("t", b"used")
                won.append(number)

    threads = [threading.Thread(target=redeem, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


# Runs ----------------------------------------------------------------------------------------------------------------


def create(store: FederationStore, run: str, *, request: str = "", digest: str = "d1", priority: int = 0) -> str:
    made = store.runs.create(
        RunId(run), "trial", experiment=b"toml", digest=digest, request=request, priority=priority, at=float(len(run))
    )
    return made.run


def test_a_request_makes_one_run_and_runs_wait_by_priority(store: FederationStore) -> None:
    assert create(store, "a", request="q1") == "a"
    assert create(store, "b", request="q1") == "a"
    with pytest.raises(StoreError, match="request 'q1' made run a of experiment d1"):
        create(store, "b", request="q1", digest="d2")
    with pytest.raises(StoreError, match="run a is here already"):
        create(store, "a")
    create(store, "bb", priority=5)
    create(store, "cccc")
    assert [run.run for run in store.runs.unfinished()] == ["bb", "a", "cccc"]
    for stage in ("awaiting_approval", "ready", "running", "paused", "running", "completed"):
        store.runs.move(RunId("bb"), stage)
    assert [run.run for run in store.runs.unfinished()] == ["a", "cccc"]
    with pytest.raises(StoreError, match="is completed and cannot become running"):
        store.runs.move(RunId("bb"), "running")


def test_an_approval_is_of_what_would_run(store: FederationStore) -> None:
    create(store, "a")
    yes = Approval(run=RunId("a"), site=SITES[0], digest="d1", approved=True)
    store.runs.approve(yes)
    store.runs.approve(yes)
    with pytest.raises(StoreError, match="A changed experiment is approved anew"):
        store.runs.approve(replace(yes, digest="d2"))
    store.runs.approve(replace(yes, site=SITES[1], approved=False, code="POLICY_ROUNDS"))
    assert [each.approved for each in store.runs.approvals(RunId("a"))] == [True, False]
    kinds = [event.kind for event in store.events.since(0)]
    assert kinds.count("approval") == 2


# Rounds --------------------------------------------------------------------------------------------------------------


def test_a_cohort_is_drawn_once_and_rounds_follow_each_other(store: FederationStore) -> None:
    offered(store)
    assert store.rounds.plan(KEY, cohort=SITES).away == (4,)
    with pytest.raises(StoreError, match="a cohort is never drawn again"):
        store.rounds.plan(KEY, cohort=SITES[:2])
    again = KEY._replace(retry=1)
    with pytest.raises(StoreError, match="cannot be opened while"):
        store.rounds.plan(again, cohort=SITES)
    store.rounds.move(KEY, "aborted", reason="short")
    with pytest.raises(StoreError, match="was not drawn"):
        offered(store, again)
        store.rounds.offer(again, 0, {ClientId("east"): []})
    assert store.rounds.open_round(RUN) == store.rounds.round(again)
    for stage in ("running", "closing", "aggregating", "committed"):
        store.rounds.move(again, stage)
    assert store.rounds.open_round(RUN) is None
    with pytest.raises(StoreError, match=r"cannot be opened: .*retry 1 of phase 1 of run r1 is committed"):
        store.rounds.plan(KEY._replace(retry=2), cohort=SITES)
    store.rounds.plan(KEY._replace(round=RoundNumber(2)), cohort=SITES)


def test_a_site_is_asked_once_for_a_step(store: FederationStore) -> None:
    tasks = offered(store)
    assert offered(store) == tasks
    assert list(store.rounds.tasks(SITES[0])) == [tasks[SITES[0]]]
    with pytest.raises(StoreError, match="was asked something else for step 0"):
        store.rounds.offer(KEY, 0, {SITES[0]: [store.blobs.put(b"another order")]})
    with pytest.raises(StoreError, match="put it before it is offered"):
        store.rounds.offer(KEY, 1, {SITES[0]: [sha256_of(b"never put")]})


def test_a_claim_has_a_lease_that_heartbeats_extend_and_a_newer_session_takes_over(
    store: FederationStore, clock: Clock
) -> None:
    task = offered(store)[SITES[0]].task
    claimed = store.rounds.claim(task, site=SITES[0], session="s1", lease_s=30.0)
    assert isinstance(claimed, Task)
    assert store.rounds.round(KEY).stage == "running"
    assert store.rounds.claim(task, site=SITES[0], session="s1", lease_s=30.0) == claimed
    assert store.rounds.claim(task, site=SITES[1], session="s1", lease_s=30.0) == Answer(
        verdict="REJECTED", reason="there is no such task for this site"
    )
    clock.at = 29.0
    assert store.rounds.extend(task, site=SITES[0], session="s1")
    clock.at = 50.0
    assert store.rounds.expired() == ()
    store.rounds.claim(task, site=SITES[0], session="s2", lease_s=30.0)
    assert not store.rounds.extend(task, site=SITES[0], session="s1")
    clock.at = 81.0
    assert [each.task for each in store.rounds.expired()] == [task]
    store.rounds.reoffer(task)
    assert store.rounds.expired() == ()
    assert not store.rounds.extend(task, site=SITES[0], session="s2")
    offered_again = store.rounds.task(task)
    assert offered_again is not None
    assert offered_again.stage == "offered"


def test_a_start_gives_every_claimed_task_its_whole_lease(folder: Path, clock: Clock) -> None:
    with FederationStore(folder, clock=clock) as store:
        task = offered(store)[SITES[0]].task
        store.rounds.claim(task, site=SITES[0], session="s1", lease_s=30.0)
    clock.at = -10_000.0  # the machine was started anew, and its clock with it
    with FederationStore(folder, clock=clock) as store:
        clock.at += 29.0
        assert store.rounds.expired() == ()
        clock.at += 2.0
        assert [each.task for each in store.rounds.expired()] == [task]


def test_time_that_no_coordinator_was_up_brings_no_deadline_nearer(folder: Path) -> None:
    with FederationStore(folder, now=lambda: 0.0) as store:
        offered(store)
        store.rounds.spend(KEY, 20.0)
        store.rounds.spend(KEY, -5.0)
    with FederationStore(folder, now=lambda: 1e9) as store:
        assert store.rounds.round(KEY).remaining_s == 40.0
        assert store.rounds.spend(KEY, 100.0).remaining_s == 0.0


def test_a_contribution_counts_once_however_often_it_comes(store: FederationStore) -> None:
    offered(store)
    sent = message(store, SITES[0])
    assert store.rounds.accept(sent).verdict == "ACCEPTED"
    assert store.rounds.accept(sent).verdict == "DUPLICATE_OK"
    assert store.rounds.accept(message(store, SITES[0], b"other")) == Answer(
        verdict="REJECTED", reason="the site has sent something else for this task"
    )
    assert store.rounds.accept(replace(message(store, SITES[1]), step=1)).reason == "the site was not asked for this"
    missing = replace(message(store, SITES[1]), blob=sha256_of(b"never sent"))
    assert store.rounds.accept(missing).reason == "the content of the message has not arrived"
    refused = replace(message(store, SITES[1]), kind="refused", blob=None, detail="NO_DATA")
    assert store.rounds.accept(refused).verdict == "ACCEPTED"
    assert [(each.site, each.kind, each.order) for each in store.rounds.contributions(KEY)] == [
        ("north", "message", 0),
        ("south", "refused", 1),
    ]
    store.rounds.move(KEY, "running")
    store.rounds.move(KEY, "closing")
    assert store.rounds.accept(sent).verdict == "DUPLICATE_OK", "the answer is the same after the close"
    late = message(store, SITES[2])
    assert store.rounds.accept(late) == Answer(verdict="TOO_LATE", reason="the round is closing")
    assert store.rounds.accept(late).verdict == "TOO_LATE"
    assert list(store.rounds.too_late(KEY)) == [late]
    assert len(store.rounds.contributions(KEY)) == 2
    assert store.rounds.tasks(SITES[2]) == ()


def test_of_many_threads_that_bring_a_contribution_one_is_first(store: FederationStore) -> None:
    offered(store)
    sent = [message(store, site, text) for site in SITES for text in (b"x", b"x", b"y")]
    said: list[tuple[ClientId, str]] = []

    def bring(each: Contribution) -> None:
        said.append((each.site, store.rounds.accept(each).verdict))

    threads = [threading.Thread(target=bring, args=(each,)) for each in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for site in SITES:
        verdicts = sorted(verdict for name, verdict in said if name == site)
        assert verdicts in (["ACCEPTED", "DUPLICATE_OK", "REJECTED"], ["ACCEPTED", "REJECTED", "REJECTED"])
    assert sorted(each.order for each in store.rounds.contributions(KEY)) == [0, 1, 2]
    assert store.events.verify() == store.events.head()


def test_who_is_given_up_stays_so_and_who_was_faster_counts(store: FederationStore) -> None:
    offered(store)
    assert store.rounds.give_up(KEY, 0, SITES[0], kind="lost", detail="not heard of for 60 s")
    assert store.rounds.give_up(KEY, 0, SITES[0], kind="late", detail="again")
    assert store.rounds.accept(message(store, SITES[0])).reason == "the site was given up (lost)"
    store.rounds.accept(message(store, SITES[1]))
    assert not store.rounds.give_up(KEY, 0, SITES[1], kind="late", detail="")
    assert [each.kind for each in store.rounds.contributions(KEY)] == ["lost", "message"]
    with pytest.raises(StoreError, match="was not asked for step 1"):
        store.rounds.give_up(KEY, 1, SITES[1], kind="late", detail="")
    store.rounds.move(KEY, "running")
    store.rounds.move(KEY, "closing")
    with pytest.raises(StoreError, match="written down before it closes"):
        store.rounds.give_up(KEY, 0, SITES[2], kind="late", detail="")


def test_an_upload_has_one_name_and_ends_with_its_round(store: FederationStore) -> None:
    task = offered(store)[SITES[0]].task
    digest = message(store, SITES[0]).blob
    assert digest is not None
    begun = store.rounds.begin_upload(task, site=SITES[0], digest=digest, length=3)
    assert not isinstance(begun, Answer)
    assert store.rounds.begin_upload(task, site=SITES[0], digest=digest, length=3) == begun
    assert store.rounds.upload(begun.upload) == begun
    assert isinstance(store.rounds.begin_upload(task, site=SITES[1], digest=digest, length=3), Answer)
    assert store.rounds.needed() == {store.blobs.put(b"order"), digest}, "it was announced, and may have come whole"
    store.rounds.accept(message(store, SITES[0]))
    assert store.rounds.needed() == {store.blobs.put(b"order"), digest}
    store.rounds.move(KEY, "aborted")
    assert store.rounds.upload(begun.upload) is None
    assert store.rounds.needed() == frozenset()


def test_what_sites_said_before_a_run_is_kept_until_it_has_begun(store: FederationStore) -> None:
    store.runs.create(RUN, "r", experiment=b"{}", digest="d", request="", priority=0, at=0.0)
    store.runs.move(RUN, "awaiting_approval")
    offered(store)
    said = message(store, SITES[0])
    store.rounds.accept(said)
    store.rounds.move(KEY, "aborted")
    assert store.rounds.needed() == {store.blobs.put(b"order"), said.blob}
    store.runs.move(RUN, "ready")
    assert store.rounds.needed() == frozenset()


def test_the_round_of_a_run_that_failed_is_kept_until_it_is_dropped(store: FederationStore) -> None:
    store.runs.create(RUN, "r", experiment=b"{}", digest="d", request="", priority=0, at=0.0)
    store.runs.move(RUN, "failed")
    offered(store)
    said = message(store, SITES[0])
    store.rounds.accept(said)
    store.rounds.move(KEY, "closing")
    assert store.rounds.needed() == {store.blobs.put(b"order"), said.blob}
    store.rounds.drop(RUN, reason="the run failed")
    assert (store.rounds.round(KEY).stage, store.rounds.open_round(RUN)) == ("aborted", None)
    assert store.rounds.needed() == frozenset()


def test_rounds_that_aggregate_are_not_dropped(store: FederationStore) -> None:
    offered(store)
    store.rounds.move(KEY, "closing")
    store.rounds.move(KEY, "aggregating")
    store.rounds.drop(RUN, reason="the run failed")
    assert store.rounds.round(KEY).stage == "aggregating", "its release may have been charged and seen"


def test_a_run_that_failed_is_opened_again_by_reopen_alone(store: FederationStore) -> None:
    store.runs.create(RUN, "r", experiment=b"{}", digest="d", request="", priority=0, at=0.0)
    with pytest.raises(StoreError, match="run r1 is draft: only one that failed is opened again"):
        store.runs.reopen(RUN, reason="mended")
    store.runs.move(RUN, "failed", reason="it raised")
    with pytest.raises(StoreError, match="is failed and cannot become running"):
        store.runs.move(RUN, "running")
    assert store.runs.reopen(RUN, reason="mended").stage == "running"
    assert store.events.since(0)[-1].detail == {"run": "r1", "stage": "running", "reason": "mended"}


def test_failures_in_a_row_suspend_a_site_and_one_good_round_begins_the_count_anew(store: FederationStore) -> None:
    north, south, west = SITES
    for number in range(1, 7):
        good = [west, north] if number == 3 else [west]
        failed = {south: "crashed"} if number < 3 else {}
        out = store.sites.count(failed=failed if north in good else {**failed, north: "crashed"}, well=good, most=3)
        assert out == ((north,) if number == 6 else ())
    assert store.sites.suspended(north) == "its work failed in 3 rounds in a row, in the last one: crashed"
    assert [store.sites.site(site).failures for site in SITES] == [3, 2, 0], "south was not there, which says nothing"
    assert store.sites.suspended(south) is store.sites.suspended(ClientId("nobody")) is None
    store.sites.suspend(north, None)
    assert store.sites.count(failed={north: "crashed"}, well=[], most=3) == ()
    assert store.sites.count(failed=dict.fromkeys([north], "crashed"), well=[], most=None) == ()
    assert store.sites.site(north).failures == 2


def test_a_round_that_is_opened_again_finds_everything_as_it_was(folder: Path) -> None:
    with FederationStore(folder) as store:
        offered(store)
        store.rounds.accept(message(store, SITES[1]))
        store.rounds.give_up(KEY, 0, SITES[0], kind="lost", detail="gone")
        before = store.rounds.round(KEY), store.rounds.contributions(KEY), store.rounds.tasks_of(KEY)
    with FederationStore(folder) as store:
        assert store.rounds.open_round(RUN) == before[0]
        assert (store.rounds.round(KEY), store.rounds.contributions(KEY), store.rounds.tasks_of(KEY)) == before
        assert [store.blobs.read(each.blob) for each in before[1] if each.blob] == [b"updatesouth"]


# Events --------------------------------------------------------------------------------------------------------------


def test_events_are_a_chain_that_peers_can_hold_a_store_to(folder: Path, tmp_path: Path) -> None:
    with FederationStore(folder) as store:
        store.sites.add(SITES[0], "org")
        middle = store.events.head()
    shutil.copytree(folder, tmp_path / "backup")
    with FederationStore(folder) as store:
        store.sites.add(SITES[1], "org")
        head = store.events.head()
        assert store.events.verify() == head
        assert [store.events.holds(each) for each in (Head(0, "0" * 64), middle, head)] == [True, True, True]
        seqs = [event.seq for event in store.events.since(0)]
        assert seqs == list(range(1, head.rows + 1))
        assert [event.seq for event in store.events.since(2, limit=1)] == [3]
    with FederationStore(tmp_path / "backup") as store:
        assert store.events.holds(middle)
        assert not store.events.holds(head), "a store from before does not hold what came after"


def test_an_event_that_was_rewritten_breaks_the_chain(store: FederationStore) -> None:
    with store._store.file.writing("forge") as tables:  # with row digest and seal: by somebody who can write both
        second = tables.get(EVENTS, 2)
        assert second is not None
        tables.put(EVENTS, replace(second, detail={"site": "nobody"}))
    with pytest.raises(StoreError, match="its events are no chain from number 2 on"):
        store.events.verify()
