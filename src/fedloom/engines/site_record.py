"""SiteRecord: what a coordinator remembers of one site, for a site whose own store was put back from a backup.

A round counts from the moment in which its site has taken it on: what left the site in it may have come in part only.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

from fedloom.core.ids import ClientId, RunId
from fedloom.errors import StoreError
from fedloom.store.epochs import head_text
from fedloom.store.federation import FederationStore
from fedloom.store.federation_rows import Run
from fedloom.store.ledger_head import parse_head
from fedloom.store.transitions import RUN, ends
from fedloom.transport import verbs

ADOPTION = RunId("adoption")
"""Stands for a run in the envelope by which a site's operator confirms its store."""
_PAGE = 8000
_SAID_NO = ("refused", "failed")


class SiteRecord:
    """What a coordinator's store has of its sites, in their own words. Threads may share it.

    Args:
        store: The coordinator's.
    """

    def __init__(self, store: FederationStore) -> None:
        self._store = store
        self._claimed: set[str] = set()
        self._read = 0
        self._turn = threading.Lock()

    def tell(self, client: ClientId, request: verbs.Record) -> verbs.RecordReply:
        """Return the run that comes after one, as this site had a part in it."""
        runs = {each.run for each in self._store.sites.messages(client)} | self._store.sites.runs(client)
        following = min((run for run in runs if run > request.after), default=None)
        return verbs.RecordReply(
            store_epoch=str(self._store.epoch),
            events_head=head_text(self._store.events.head()),
            goes_on=request.seen_events is None or self._store.events.holds(parse_head(request.seen_events)),
            took=None if following is None else self._took(client, RunId(following), offset=request.offset),
        )

    def blob(self, client: ClientId, digest: bytes) -> bytes | None:
        """Return the experiment or the facts of a run that a site had a part in, by its SHA-256."""
        for run in self._store.sites.runs(client):
            for data in (self._experiment(run), self._facts(run)):
                if data is not None and hashlib.sha256(data).digest() == digest:
                    return data
        return None

    def _took(self, client: ClientId, run: RunId, *, offset: int) -> verbs.Took:
        rounds = sorted(self._rounds(client, run), key=lambda each: (each.phase, each.round, each.retry))
        last = self._store.sites.last_message(client, run)
        return verbs.Took(
            run=run,
            sequence=0 if last is None else last.sequence,
            experiment=_blob(self._experiment(run)),
            facts=_blob(self._facts(run)),
            rounds=tuple(rounds[offset : offset + _PAGE]),
            more=len(rounds) > offset + _PAGE,
            over=is_over(self._store, run),
        )

    def _rounds(self, client: ClientId, run: RunId) -> Iterator[verbs.Contributed]:
        self._read_claims()
        said_no = {each.key for each in self._store.sites.said(client, run) if not each.step and each.kind in _SAID_NO}
        steps: dict[tuple[int, int, int], int] = {}
        waited: set[tuple[int, int, int]] = set()
        for task in self._store.sites.asked(client, run):
            if task.program == "train" and task.task in self._claimed and task.key not in said_no:
                place = task.phase, int(task.round), task.retry
                steps[place] = max(task.step, steps.get(place, 0))
                if not task.step and task.stage != "settled":
                    waited.add(place)
        for place, step in steps.items():
            phase, number, retry = place
            yield verbs.Contributed(phase=phase, round=number, retry=retry, step=step, open=place in waited)

    def _read_claims(self) -> None:
        """Read which tasks were ever claimed: a task that was offered again does not show that it was."""
        with self._turn:
            while page := self._store.events.since(self._read):
                self._claimed.update(each.detail["task"] for each in page if each.kind == "claim")
                self._read = page[-1].seq

    def _experiment(self, run: RunId) -> bytes | None:
        found = _run(self._store, run)
        return None if found is None else found.experiment

    def _facts(self, run: RunId) -> bytes | None:
        path = self._store.folder / "runs" / run / "facts.json"
        return path.read_bytes() if path.exists() else None


def is_over(store: FederationStore, run: RunId) -> bool:
    """Return whether nothing more is asked of a run's sites; of one that is not known here that is not known.

    One that failed with its round open can be resumed, until an operator stops it.
    """
    found = _run(store, run)
    if found is None or found.stage not in ends(RUN):
        return False
    return found.stage != "failed" or store.rounds.open_round(run) is None


def _run(store: FederationStore, run: RunId) -> Run | None:
    try:
        return store.runs.run(run)
    except StoreError:  # of another store, or no run at all: the site named it
        return None


def _blob(data: bytes | None) -> verbs.Blob | None:
    return None if data is None else verbs.Blob(digest=hashlib.sha256(data).digest(), length=len(data))
