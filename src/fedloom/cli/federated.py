"""``fedloom submit``, ``logs`` and ``stop``: runs of a coordinator, from its own host."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fedloom.cli.listening import listening
from fedloom.cli.operating import operator
from fedloom.cli.output import write_json
from fedloom.cli.run_events import described, stage_of
from fedloom.core.component import Json
from fedloom.engines.coordinator_folder import CoordinatorFolder
from fedloom.engines.federation import RUNS
from fedloom.errors import RunStopped, StoreError
from fedloom.experiment.config import read_without_rows
from fedloom.store import find
from fedloom.store.federation import FederationStore
from fedloom.transport import admin
from fedloom.transport.client import Client

ENDS = ("completed", "completed_with_warnings", "failed", "aborted")
"""Stages after which nothing of a run changes."""
RESTS = (*ENDS, "waiting_for_sites")
"""Stages in which nothing of a run happens until somebody does something."""


def submit(path: Path, file: Path, overrides: Sequence[str], *, name: str | None, follow: bool, json: bool) -> None:
    """Hand an experiment to the coordinator, and see it through if asked to."""
    settings = read_without_rows(file, overrides)
    experiment = settings.experiment
    request = admin.CreateRun(
        request=uuid.uuid4().hex,
        name=name or file.stem,
        experiment=msgspec.json.encode(experiment.as_json()),
        digest=bytes.fromhex(experiment.digest),
    )
    folder = CoordinatorFolder(path)
    with operator(folder) as line:
        made = line.create_run(request)
        line.approve_run(admin.ApproveRun(request=uuid.uuid4().hex, run=made.run, digest=request.digest))
        if not follow:
            if json:
                write_json({"run": made.run, "state": made.state, "digest": experiment.digest})
                return
            sys.stdout.write(
                f"run {made.run}: its sites are asked\n"
                f"next: fedloom logs {path} {made.run}; at each site that approves by hand: fedloom site inbox\n"
            )
            return
        see_through(line, made.run, out=not json)
        end = run_at(line, made.run)
    print_end(folder.store / RUNS / end.run, end, json=json)


def see_through(line: Client, run: str, *, out: bool) -> None:
    """Follow a run until it is over, or rests, and print its events where somebody reads them.

    Why it failed, was ended or rests is not among them: ``print_end`` says that, once.
    """
    since = 0
    while run_at(line, run).state not in RESTS:
        for event in line.watch_run(admin.WatchRun(run=run, since=since)):
            since = event.sequence + 1
            if stage_of(event) in ("failed", "aborted", "waiting_for_sites"):
                break
            words = described(event)
            if out and words:
                sys.stderr.write(words + "\n")
                sys.stderr.flush()
        time.sleep(0.1)  # it was cut, or has just ended


def print_end(place: Path, end: admin.RunAt, *, json: bool) -> None:
    """Print what came of a run, which lies at a place.

    Raises:
        RunStopped: When it failed, was ended, or waits for its sites.
    """
    if end.state == "waiting_for_sites":
        raise RunStopped(
            f"run {end.run} waits for sites: {end.reason}\nBring them back, then: fedloom resume {end.run} --output "
            "COORDINATOR"
        )
    if end.state in ("failed", "aborted"):
        raise RunStopped(f"run {end.run} {end.state}: {end.reason or 'without a reason'}")
    from fedloom.store.documents import read_outcome

    outcome = read_outcome(place)
    summary = {} if outcome is None else outcome.summary
    report = _report(place)
    if json:
        write_json({**summary, "folder": str(place), "report": report})
        return
    from fedloom.cli.summary import print_metrics

    sys.stdout.write(f"\n{summary.get('status', end.state)}: {summary.get('reason', '')}\n")
    print_metrics(summary.get("metrics", {}))
    sys.stdout.write(f"model {summary.get('model_sha256')}\nrun {place}\n")
    if report is not None:
        sys.stdout.write(f"report {report}\n")


def logs(path: Path, run: str | None, *, until: Literal["now", "end"], json: bool) -> None:
    """Print what has happened in a run, and what happens until its end if asked to; of the newest where none is named.

    A coordinator that does not run has a past alone.
    """
    folder = CoordinatorFolder(path)
    folder.settings()
    if listening(folder) is None:
        for event in _past(folder, run):
            _print_event(event, json=json)
        return
    with operator(folder) as line:
        since, found = 0, _named(line, run)
        while True:
            over = until == "now" or run_at(line, found.run).state in ENDS
            for event in line.watch_run(admin.WatchRun(run=found.run, since=since, until=until)):
                since = event.sequence + 1
                _print_event(event, json=json)
            if over:
                return


def _past(folder: CoordinatorFolder, name: str | None) -> Iterator[admin.RunEvent]:
    """Yield the events of a run from the store of a coordinator that does not run."""
    if not folder.store.exists():
        raise StoreError(f"{folder.path} has had no run: fedloom coordinator start {folder.path}")
    run = find(folder.store / RUNS, name or "last").name
    with FederationStore(folder.store) as store:
        since = 0
        while page := store.events.since(since):
            since = page[-1].seq
            for event in page:
                if event.detail.get("run") == run:
                    data = msgspec.json.encode(event.detail)
                    yield admin.RunEvent(sequence=event.seq, time_s=event.at, kind=event.kind, data=data)


def _print_event(event: admin.RunEvent, *, json: bool) -> None:
    if json:
        write_json(_event(event))
    elif words := described(event):
        sys.stdout.write(words + "\n")
        sys.stdout.flush()


def stop(path: Path, run: str | None, *, reason: str, pause: bool, json: bool) -> None:
    """End a run, or let it rest after the round that is open."""
    folder = CoordinatorFolder(path)
    with operator(folder) as line:
        found, request = _named(line, run), uuid.uuid4().hex
        said = (
            line.pause(admin.Pause(request=request, run=found.run))
            if pause
            else line.abort(admin.Abort(request=request, run=found.run, reason=reason))
        )
    _print_at(said, json=json)


def resume(path: Path, run: str, *, from_round: int | None, json: bool) -> None:
    """Let a run of a coordinator go on that was paused, waits for its sites, or failed in a round that is named."""
    folder = CoordinatorFolder(path)
    with operator(folder) as line:
        found = _named(line, run)
        said = line.resume(admin.Resume(request=uuid.uuid4().hex, run=found.run, from_round=from_round))
    _print_at(said, json=json)


def runs_now(path: Path) -> dict[str, admin.RunAt]:
    """Return where the runs of a coordinator stand; nothing where it does not run."""
    folder, after, found = CoordinatorFolder(path), None, dict[str, admin.RunAt]()
    if listening(folder) is None:
        return found
    with operator(folder) as line:
        while True:
            page = line.list_runs(admin.ListRuns(after=after))
            found.update({each.run: each for each in page.runs})
            if not page.more:
                return found
            after = page.runs[-1].run


def run_at(line: Client, run: str) -> admin.RunAt:
    """Return where a run stands.

    Raises:
        StoreError: When the coordinator has none of that name.
    """
    after: str | None = None
    while True:
        page = line.list_runs(admin.ListRuns(after=after))
        for each in page.runs:
            if each.run == run:
                return each
        if not page.more:
            raise StoreError(f"the coordinator has no run {run!r}")
        after = page.runs[-1].run


def _named(line: Client, name: str | None) -> admin.RunAt:
    """Return the run that a person means: an id, the start of one, "last", or none."""
    page = line.list_runs(admin.ListRuns())
    if name in (None, "last"):
        if not page.runs:
            raise StoreError("the coordinator has no run yet: fedloom submit")
        return page.runs[0]
    found = [each for each in page.runs if each.run.startswith(str(name)) or each.name == name]
    if len(found) > 1:
        exact = [each for each in found if each.run == name]
        found = exact or found[:1] if exact or all(each.name == name for each in found) else found
    if len(found) == 1:
        return found[0]
    if found:
        raise StoreError(f"{name!r} begins {len(found)} runs: {', '.join(each.run for each in found)}")
    return run_at(line, str(name))


def _event(event: admin.RunEvent) -> dict[str, Json]:
    return {
        "sequence": event.sequence,
        "time": event.time_s,
        "kind": event.kind,
        "data": msgspec.json.decode(event.data),
    }


def _print_at(said: admin.RunAt, *, json: bool) -> None:
    if json:
        write_json({"run": said.run, "state": said.state, "reason": said.reason})
        return
    sys.stdout.write(f"run {said.run}: {said.state.replace('_', ' ')}{f', {said.reason}' if said.reason else ''}\n")


def _report(place: Path) -> Path | None:
    from fedloom.reports import write

    try:
        return write(place)
    except StoreError as error:
        sys.stderr.write(f"warning: the run is kept, and its report cannot be written: {error}\n")
        return None
