"""SIGKILL at every crash point of both stores, and at many a call: what was told stays, what is repeated is equal."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.errors import Error
from fedloom.store.crash_points import killed_at

SCRIPT = r"""
import dataclasses, json, os, shutil, signal, sys
from pathlib import Path
import numpy as np
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.runtime.ports import Slot, StoredState
from fedloom.runtime.sessions import SessionName
from fedloom.store.blobs import sha256_of
from fedloom.store.crash_points import passed
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution, RoundKey
from fedloom.store.site_rows import Outgoing
from fedloom.store.site_store import SiteStore

root, scenario, mode, stride, deaths = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
RUN, SITES = RunId("r"), [ClientId("a"), ClientId("b")]
watched = {"tables.py", "table_file.py", "blobs.py", "key_file.py", "lock.py", "store_folder.py", "files.py"}

def note(folder, *words):
    # What was told to others: it must never be taken back, or be said in another way.
    with (folder / "told").open("a") as file:
        file.write(json.dumps(words) + "\n")

def told(folder):
    path = folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

def coordinator(folder, point):
    # From wherever it is to the end: two rounds with an upload in pieces, a repeat, and a site that is given up.
    with FederationStore(folder / "store", point=point, now=lambda: 0.0, clock=lambda: 0.0) as store:
        note(folder, "epoch", str(store.epoch))
        for site in SITES:
            store.sites.add(site, "org")
        for number in (1, 2):
            key = RoundKey(RUN, 1, "train", RoundNumber(number), 0)
            stage = store.rounds.plan(key, cohort=SITES).stage
            if stage in ("planned", "offered", "running"):
                order = store.blobs.put(b"order %d" % number)
                for task in store.rounds.offer(key, 0, {site: [order] for site in SITES}):
                    store.rounds.claim(task.task, site=task.site, session="s", lease_s=9.0)
                text = b"update %d" % number * 50
                task = store.rounds.tasks_of(key)[0]
                upload = store.rounds.begin_upload(task.task, site=SITES[0], digest=sha256_of(text), length=len(text))
                with store.blobs.writer(sha256_of(text), len(text), sender=task.task) as writer:
                    while writer.committed < len(text):
                        writer.write(writer.committed, text[writer.committed:][:200])
                    blob = writer.finish()
                sent = Contribution(**key._asdict(), step=0, site=SITES[0], kind="message", blob=blob)
                note(folder, "accept", number, store.rounds.accept(sent).verdict)
                note(folder, "accept", number, store.rounds.accept(sent).verdict)
                note(folder, "gone", number, store.rounds.give_up(key, 0, SITES[1], kind="lost", detail="gone"))
            for stage in ("closing", "aggregating", "committed"):
                if store.rounds.round(key).stage not in ("committed", stage):
                    try:
                        store.rounds.move(key, stage)
                    except Exception:
                        if store.rounds.round(key).stage != "aggregating":
                            raise
        with store.together("both"):
            if store.sites.token("t") is None:
                store.sites.save_token("t", b"used")
                store.events.append("redeemed", {"token": "t"})

def look_coordinator(folder):
    with FederationStore(folder / "store") as store:
        store.events.verify()
        kinds = [event.kind for event in store.events.since(0)]
        for _, number, verdict in (line for line in told(folder) if line[0] == "accept"):
            assert verdict in ("ACCEPTED", "DUPLICATE_OK"), verdict
        for number in (1, 2):
            said = [line[2] for line in told(folder) if line[:2] == ["accept", number]]
            assert said.count("ACCEPTED") <= 1, said
        assert (kinds.count("redeemed") == 1) == (store.sites.token("t") == b"used")
        assert kinds.count("contribution") == 4, kinds
        rounds = store.rounds.rounds(RUN)
        return [[dataclasses.asdict(each) for each in rounds],
                [dataclasses.asdict(each) for r in rounds for each in store.rounds.contributions(r.key)],
                [dataclasses.asdict(each) for r in rounds for each in store.rounds.tasks_of(r.key)],
                [store.blobs.read(digest).decode() for digest in store.blobs.digests()],
                len(list((folder / "store" / "blobs" / "partial").glob("*.part")))]

class Side:
    def __init__(self, content): self.content = content
    def stored(self): return self.content

def site(folder, point):
    with SiteStore(folder / "store", point=point, now=lambda: 0.0) as store:
        note(folder, "epoch", str(store.epoch))
        like = Slot(round=RoundNumber(0), state=np.zeros(4), memory=np.zeros(1))
        states, sums = store.states(RUN, like), store.sessions(RUN)
        for number in (1, 2):
            key = RoundKey(RUN, 1, "train", RoundNumber(number), 0)
            name = SessionName(*key[1:])
            if sums.over(SITES[0], name):
                continue  # this round is over: nothing is said in it any more
            if store.outgoing(key, 0) is None:
                # What a step does is drawn anew each time: only what was written down may be told.
                secret = os.urandom(32)
                assert sums.find(SITES[0], name, Side) is None, "a sum without its message"
                stored = states.load(SITES[0])
                assert stored.pending is None or stored.pending.round < number, "a state without its message"
                blob = store.blobs.put(secret)
                with store.together("step"):
                    slot = Slot(round=RoundNumber(number), state=np.frombuffer(secret), memory=np.zeros(1))
                    states.save(SITES[0], StoredState(pending=slot))
                    sums.keep(SITES[0], name, Side(secret))
                    store.post(Outgoing(**key._asdict(), step=0, kind="message", blob=blob))
            out = store.outgoing(key, 0)
            first = store.reserve_numbers("r", 2)
            note(folder, "numbers", first, first + 1)
            note(folder, "sent", number, store.blobs.read(out.blob).hex())
            side = sums.find(SITES[0], name, Side)
            assert side.stored() == store.blobs.read(out.blob), "the sum is that of the message"
            assert states.load(SITES[0]).pending.state.tobytes() == side.stored()
            store.submitted(key, 0, "ACCEPTED")
            store.end_round(key)

def look_site(folder):
    with SiteStore(folder / "store") as store:
        store.events.verify()
        numbers = [number for line in told(folder) if line[0] == "numbers" for number in line[1:]]
        assert len(set(numbers)) == len(numbers), "a number was used twice"
        for number in (1, 2):
            sent = {line[2] for line in told(folder) if line[:2] == ["sent", number]}
            assert len(sent) == 1, "two messages of a step"
        assert store.unsubmitted() == () and store.needed() == frozenset()
        kinds = [event.kind for event in store.events.since(0)]
        return [kinds.count("post"), kinds.count("end round")]

work, look = {"coordinator": (coordinator, look_coordinator), "site": (site, look_site)}[scenario]

def dies(folder, at):
    # Carry the scenario on in a child that kills itself at a place; say whether it did.
    child = os.fork()
    if child == 0:
        left = [at]
        def step(*ignored):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        def hook(frame, kind, argument):
            if kind in ("c_call", "c_return") and os.path.basename(frame.f_code.co_filename) in watched:
                step()
        try:
            if mode == "calls":
                sys.setprofile(hook)
            work(folder, step if mode == "points" else passed)
            sys.setprofile(None)
        except BaseException:
            sys.setprofile(None)
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, (at, status)
    return os.WIFSIGNALED(status)

def epochs_rise(folder):
    epochs = [line[1].split(":") for line in told(folder) if line[0] == "epoch"]
    starts = [int(start) for _, start, _ in epochs]
    assert starts == sorted(set(starts)) and len({store for store, _, _ in epochs}) == 1, epochs

undisturbed = root / "undisturbed"
undisturbed.mkdir()
names = []
work(undisturbed, names.append)
expected, at, count = look(undisturbed), 0, 0
while True:
    folder = root / str(at)
    folder.mkdir()
    died = dies(folder, at)
    for again in range(1, deaths):
        dies(folder, at // 2 + again)
    assert not dies(folder, 10**9)
    assert look(folder) == expected, (at, look(folder))
    epochs_rise(folder)
    shutil.rmtree(folder)
    if not died:
        break
    at, count = at + stride, count + 1
print(json.dumps({"kills": count, "points": sorted(set(names)), "passes": len(names)}))
"""

COORDINATOR_STEPS = {
    "plan round", "offer", "claim", "begin upload", "accept", "give up", "round closing", "round aggregating",
}  # fmt: skip
COORDINATOR_FOLDS = {"start", "site", "round committed", "both"}
SITE_STEPS = {"numbers", "submitted"}
SITE_FOLDS = {"start", "step", "end round"}
BLOB_POINTS = {"blob/written", "blob/synced", "blob/named", "blob/kept"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("scenario", ["coordinator", "site"])
@pytest.mark.parametrize(
    ("mode", "stride", "deaths"),
    [
        ("points", 17, 1),
        *(
            pytest.param(*each, marks=[pytest.mark.slow, pytest.mark.timeout(300)])
            for each in (("points", 1, 1), ("points", 1, 3), ("calls", 19, 1))
        ),
    ],
)
def test_a_kill_anywhere_loses_nothing_that_was_told_and_the_end_is_the_same(
    process: Callable[..., subprocess.Popen[str]], scenario: str, mode: str, stride: int, deaths: int
) -> None:
    memory = Path("/dev/shm")  # no power is cut here, so files in memory will do
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        out, err = process(SCRIPT, folder, scenario, mode, stride, deaths).communicate(timeout=280)
    result: dict[str, Any] = json.loads(out) if out else {}
    assert result, err
    folds = COORDINATOR_FOLDS if scenario == "coordinator" else SITE_FOLDS
    steps = folds | (COORDINATOR_STEPS if scenario == "coordinator" else SITE_STEPS)
    expected = {f"{step}/{when}" for step in steps for when in ("written", "committed")}
    expected |= {f"{step}/folded" for step in folds} | BLOB_POINTS
    assert set(result["points"]) == expected
    if mode == "points":
        assert result["kills"] == -(-result["passes"] // stride)
    else:
        assert result["kills"] > 100


def test_a_crash_point_kills_at_the_time_that_it_names(process: Callable[..., subprocess.Popen[str]]) -> None:
    script = """
from fedloom.store.crash_points import killed_at
point = killed_at("accept/written#2")
for name in ("accept/written", "accept/committed", "accept/written", "accept/committed"):
    print(name, flush=True)
    point(name)
"""
    child = process(script)
    out, _ = child.communicate(timeout=60)
    assert out.split() == ["accept/written", "accept/committed", "accept/written"]
    assert child.returncode == -9
    with pytest.raises(Error, match="expected NAME or NAME#N"):
        killed_at("#2")
