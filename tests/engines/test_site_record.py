"""What a coordinator remembers of a site, for a site whose own store was put back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.messages import Program
from fedloom.engines import site_record
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Contribution, RoundKey, Sequence, task_name
from fedloom.transport.verbs import Record, Took


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FederationStore]:
    with FederationStore(tmp_path / "coordinator") as store:
        for name in ("north", "east"):
            store.sites.add(ClientId(name), f"org {name}")
        yield store


def test_the_record_of_a_site_has_each_round_that_it_took_on_whatever_became_of_it(
    store: FederationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_record, "_PAGE", 2)
    north, run, blob = ClientId("north"), RunId("r1"), store.blobs.put(b"order")
    store.runs.create(run, "x", experiment=b"{}", digest="d", request="", priority=0, at=0.0)

    def opened(number: int, program: Program = "train") -> RoundKey:
        key = RoundKey(run, 0, program, RoundNumber(number), 0)
        store.rounds.plan(key, cohort=[north])
        store.rounds.offer(key, 0, {north: (blob,)})
        return key

    def claimed(key: RoundKey, step: int = 0) -> None:
        store.rounds.claim(task_name(key, step, north), site=north, session="s", lease_s=9.0)

    def said(key: RoundKey, kind: Literal["message", "refused"]) -> None:
        made = Contribution(**key._asdict(), step=0, site=north, kind=kind, blob=blob if kind == "message" else None)
        assert store.rounds.accept(made).verdict == "ACCEPTED"

    for number, what in enumerate(("message", "refused", "offered", "reoffered", "lost", "second step"), start=1):
        key = opened(number)
        if what != "offered":
            claimed(key)
        if what == "reoffered":
            store.rounds.reoffer(task_name(key, 0, north))
        if what in ("message", "refused"):
            said(key, what)  # type: ignore[arg-type]
        if what == "lost":
            store.rounds.give_up(key, 0, north, kind="lost", detail="")
        if what == "second step":
            said(key, "message")
            store.rounds.offer(key, 1, {north: (blob,)})
            claimed(key, 1)
        store.rounds.move(key, "aborted")
    evaluated = opened(7, "evaluate")
    claimed(evaluated)
    store.rounds.move(evaluated, "aborted")
    store.sites.remember(Sequence(sender=north, run="adoption", sequence=9, message=b"m", digest=b"d", answer=b"yes"))
    record = site_record.SiteRecord(store)
    told: list[Took] = []
    after, offset = "", 0
    while (took := record.tell(north, Record(after=after, offset=offset)).took) is not None:
        told.append(took)
        after, offset = (after, offset + len(took.rounds)) if took.more else (took.run, 0)
    assert [(each.run, each.sequence, each.more, each.over) for each in told] == [
        ("adoption", 9, False, False),
        ("r1", 0, True, False),
        ("r1", 0, False, False),
    ]
    found = [(each.round, each.step, each.open) for each in (*told[1].rounds, *told[2].rounds)]
    assert found == [(1, 0, False), (4, 0, False), (5, 0, False), (6, 1, False)]
    assert record.tell(ClientId("east"), Record()).took is None
    assert told[1].experiment is not None
    assert record.blob(north, told[1].experiment.digest) == b"{}"
    assert record.blob(ClientId("east"), told[1].experiment.digest) is None
    claimed(opened(8))
    (waits,) = [took.rounds[-1] for took in (record.tell(north, Record(offset=4, after="adoption")).took,) if took]
    assert (waits.round, waits.open) == (8, True)
    store.runs.move(run, "aborted")
    (last,) = [took for took in (record.tell(north, Record(after="adoption")).took,) if took is not None]
    assert last.over
