"""What an operator does on the coordinator's host while it runs: by its own port, with an operator's certificate."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fedloom.cli.listening import listening
from fedloom.cli.output import write_json
from fedloom.cli.tables import print_table
from fedloom.engines.coordinator_folder import CoordinatorFolder, operator_files, pending_joins
from fedloom.engines.entry_calls import invite as invite_offline
from fedloom.engines.owned_files import write_owned
from fedloom.errors import StoreError
from fedloom.secure.certificates import at
from fedloom.store.federation import FederationStore
from fedloom.transport import admin
from fedloom.transport.client import Client
from fedloom.transport.errors import Unreachable

PATIENCE_S = 10.0
"""For a coordinator of this host to answer."""


@contextmanager
def operator(folder: CoordinatorFolder) -> Iterator[Client]:
    """Open a line to the coordinator of this host, as its operator.

    Raises:
        TransportError: When it does not answer.
        StoreError: When the folder is none of a coordinator.
    """
    settings = folder.settings()
    ports = listening(folder)
    if ports is None:
        raise Unreachable(f"the coordinator in {folder.path} does not run: fedloom coordinator start {folder.path}")
    host = next((each for each in settings.hosts if each.strip("[]") not in ("", "::", "0.0.0.0")), "localhost")
    address = f"[{host.strip('[]')}]:{ports.sites}" if ":" in host else f"{host}:{ports.sites}"
    name = settings.names[0]
    with Client(address, operator_files(folder), server_name=name, patience_s=PATIENCE_S, tell=_silent) as line:
        yield line


def invite(path: Path, client: str, *, organisation: str, hours: float, out: Path | None, json: bool) -> None:
    """Print a token for one site.

    Raises:
        StoreError: When the file is there already.
    """
    folder, valid_s = CoordinatorFolder(path), hours * 3600.0
    if out is not None and out.exists():
        raise StoreError(f"{out} is there already: name a new file")
    text, ends = invited(folder, client, organisation=organisation, valid_s=valid_s)
    if out is not None:
        write_owned(out, text.encode() + b"\n")
    if json:
        write_json({"client": client, "organisation": organisation, "token": text, "until": ends, "file": out})
        return
    where = f"the token is in {out}" if out is not None else text
    sys.stdout.write(
        f"{where}\n"
        f"for {client} of {organisation}, once, until {at(ends)}: hand it over by another way than this network\n"
        f"next, at the site: fedloom site join SITE {'TOKEN' if out is None else out} --data ROWS\n"
    )


def invited(folder: CoordinatorFolder, client: str, *, organisation: str, valid_s: float) -> tuple[str, float]:
    """Return a token for one site and when it ends: of the coordinator that runs, or of its store where none does.

    Raises:
        StoreError: When none runs, and it will choose its ports only then.
    """
    if listening(folder) is not None:
        with operator(folder) as line:
            asked = admin.InviteSite(
                request=uuid.uuid4().hex, organisation=organisation, client=client, valid_s=valid_s
            )
            said = line.invite_site(asked)
            return said.token, said.expires_s
    settings, now = folder.settings(), time.time()
    if not settings.ports.entry:
        raise StoreError(
            "the coordinator chooses its ports when it starts, and does not run: start it, then invite; or set "
            f"`ports` in {folder.path / 'coordinator.toml'}"
        )
    name = settings.names[0]
    with FederationStore(folder.store) as store:
        token = invite_offline(
            store,
            folder,
            organisation=organisation,
            client=client,
            address=f"[{name}]:{settings.ports.entry}" if ":" in name else f"{name}:{settings.ports.entry}",
            now=now,
            valid_s=valid_s,
        )
    return token.text, now + valid_s


def readmit(path: Path, client: str, *, json: bool) -> None:
    """Let a site in again that was suspended."""
    with operator(CoordinatorFolder(path)) as line:
        line.readmit(admin.Readmit(request=uuid.uuid4().hex, client=client))
    if json:
        write_json({"client": client})
        return
    sys.stdout.write(f"{client} is asked again from now on; for runs that wait: fedloom resume RUN --output {path}\n")


def status(path: Path, *, json: bool) -> None:
    """Print what a coordinator does: its sites, its runs, who waits to join."""
    folder = CoordinatorFolder(path)
    settings, anchor, update = folder.settings(), folder.anchor(), folder.roster()
    waiting = [each for each in pending_joins(folder) if not _joined(each.client, update)]
    told = _told(folder)
    own = folder.own(time.time()) if told is None else None
    if json:
        write_json(
            {
                "federation": settings.federation,
                "root": anchor.fingerprint,
                "running": told is not None,
                "faults": [] if told is None else told.health.faults,
                "roster": None if update is None else update.roster.version,
                "deny_list": folder.deny_list().version,
                "sites": [] if told is None else [msgspec.structs.asdict(each) for each in told.sites],
                "runs": [] if told is None else [msgspec.structs.asdict(each) for each in told.runs],
                "waiting": [
                    {"client": each.client, "organisation": each.organisation, "fingerprint": each.fingerprint,
                     "approved": each.approved}
                    for each in waiting
                ],
            }
        )  # fmt: skip
        return
    out = sys.stdout
    roster = "no roster yet" if update is None else f"roster {update.roster.version}"
    state = "does not run" if told is None else "runs"
    out.write(f"coordinator of {settings.federation} {state}; {roster}, deny list {folder.deny_list().version}\n")
    if own is not None:
        out.write(f"its certificate holds until {at(own.not_after)}\n")
    if told is not None:
        _print_told(told, path)
    for each in waiting:
        word = "approved, and not in the roster yet" if each.approved else "waits to join"
        out.write(f"{each.client} of {each.organisation} {word}: {each.fingerprint}\n")


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    health: admin.HealthReply
    sites: tuple[admin.SiteAt, ...]
    runs: tuple[admin.RunAt, ...]


def _told(folder: CoordinatorFolder) -> _Told | None:
    """Return what a running coordinator says of itself; None: it does not run."""
    if listening(folder) is None:
        return None
    with operator(folder) as line:
        return _Told(
            health=line.health(),
            sites=line.list_sites(admin.ListSites()).sites,
            runs=line.list_runs(admin.ListRuns()).runs,
        )


def _print_told(told: _Told, path: Path) -> None:
    out = sys.stdout
    for fault in told.health.faults:
        out.write(f"fault: {fault}\n")
    if told.sites:
        print_table(
            ["site", "organisation", "state", "heard", "tasks", "failed"],
            [[each.client, each.organisation, each.state, _ago(each.heartbeat_age_s), str(each.tasks),
              str(each.failures)]
             for each in told.sites],
        )  # fmt: skip
    for site in told.sites:
        if site.state == "suspended":
            out.write(f"{site.client} is suspended: {site.reason}\n")
            out.write(f"to let it in again: fedloom coordinator readmit {path} {site.client}\n")
    if told.runs:
        out.write("\n")
        print_table(
            ["run", "state", "round", "waits for"],
            [[each.run, each.state.replace("_", " "), str(each.round), ", ".join(each.waiting_for)]
             for each in told.runs],
        )  # fmt: skip
    for run in told.runs:
        if run.state == "waiting_for_sites":
            out.write(f"{run.run} waits: {run.reason}\nwhen they are back: fedloom resume {run.run} --output {path}\n")


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} s ago"


def _joined(client: str, update: object) -> bool:
    from fedloom.core.ids import ClientId
    from fedloom.secure.roster_pin import RosterUpdate

    return isinstance(update, RosterUpdate) and update.roster.member(ClientId(client)) is not None


def _silent(state: object) -> None:
    """Tell nobody: an operator's command ends with an error of its own."""
    del state
