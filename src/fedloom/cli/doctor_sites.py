"""``fedloom doctor SITE``: a site's files, its rows against its policy, and the line to the coordinator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fedloom.cli.doctor_parties import clocks, disk, ends, modes, problem, proxies, reached, resolved, told, versions
from fedloom.cli.findings import Finding
from fedloom.core.component import ComponentSpec
from fedloom.data.csv_rows import names_in_csv
from fedloom.data.parquet_file import names_in_parquet
from fedloom.data.sqlite_table import names_in_sqlite
from fedloom.engines.site_folder import Coordinator, SiteFolder
from fedloom.errors import Error, TransportError
from fedloom.experiment.site_policy import DataPolicy, SitePolicy
from fedloom.secure.certificates import renewal_due
from fedloom.transport.addresses import split
from fedloom.transport.entry import server_time, undated_time
from fedloom.transport.probe import probe

_SOON_S = 3 * 86400.0


def examine_site(path: Path, *, now: float | None = None) -> Iterator[Finding]:
    """Yield what was found about a site, and about the line to its coordinator.

    Args:
        path: Its folder.
        now: The present, in seconds since 1970.
    """
    folder, moment = SiteFolder(path), time.time() if now is None else now
    try:
        anchor, place = folder.anchor(), folder.coordinator()
    except Error as error:
        yield problem("site", error, "fedloom site join, with a token of the coordinator's operator")
        return
    yield Finding(subject="site", level="ok", value=f"of {anchor.federation}, root {anchor.fingerprint}")
    yield from modes(path, ("tls.key", "signing.key"))
    yield from _certificate(folder, moment)
    yield from _roster(folder)
    yield from _policy(folder)
    yield from _line(folder, place, moment)
    yield from disk("store", path)
    yield from proxies()


def _certificate(folder: SiteFolder, now: float) -> Iterator[Finding]:
    if not folder.tls.chain.exists():
        advice = "fedloom site start waits for it; the coordinator's operator approves by the fingerprint"
        yield Finding(subject="certificate", level="warning", value="has not come yet", advice=advice)
        return
    try:
        peer = folder.peer(now)
    except Error as error:
        yield problem("certificate", error, "fedloom site renew, if it has ended; else put the right files back")
        return
    yield ends("certificate", peer.not_after, now, soon=_SOON_S, advice="fedloom site renew")
    if renewal_due(peer, now):
        yield Finding(
            subject="renewal", level="ok", value="is due: an agent that runs does it", advice="fedloom site renew"
        )


def _roster(folder: SiteFolder) -> Iterator[Finding]:
    if not folder.pin_path.exists():
        return
    try:
        pin = folder.pin()
    except Error as error:
        yield problem("roster", error, "remove pin.json, and let the coordinator send the roster again")
        return
    waits = len(pin.pending)
    yield Finding(
        subject="roster",
        level="warning" if waits else "ok",
        value=f"version {pin.newest.roster.version}, "
        + (f"{waits} members wait for your word" if waits else "approved"),
        advice=f"fedloom site approve {folder.path} --roster" if waits else None,
    )


def _policy(folder: SiteFolder) -> Iterator[Finding]:
    if not folder.policy_path.exists():
        yield Finding(
            subject="policy",
            level="problem",
            value=f"{folder.policy_path} is missing: nothing is allowed",
            advice="write one; fedloom site join --data ROWS begins one",
        )
        return
    try:
        policy = folder.policy()
    except Error as error:
        yield problem("policy", error, "mend the lines that it names: until then nothing is allowed")
        return
    yield Finding(subject="policy", level="ok", value=f"holds, for {policy.site.name}")
    if folder.coordinator_name not in policy.allow.coordinators:
        yield Finding(
            subject="policy",
            level="problem",
            value=f"allow.coordinators does not have {folder.coordinator_name}",
            advice="add it, or every run is refused",
        )
    for name, rows in policy.data.items():
        yield _rows(policy, name, rows)


def _rows(policy: SitePolicy, name: str, rows: DataPolicy) -> Finding:
    """Look whether the rows are there, with the columns that the policy opens."""
    subject = f'data."{name}"'
    try:
        found = _columns(rows.source, policy.base)
    except Error as error:
        return problem(subject, error, "mend the file, or `source` of the policy")
    if found is None:
        return Finding(subject=subject, level="ok", value=f"is of {rows.source.name}, looked at when a run asks")
    absent = [each for each in rows.columns or () if each not in found]
    return Finding(
        subject=subject,
        level="problem" if absent else "ok",
        value=f"has no column {', '.join(absent)}" if absent else f"has {len(found)} columns",
        advice="mend `columns` of the policy, or the file" if absent else None,
    )


def _columns(source: ComponentSpec, base: Path) -> list[str] | None:
    """Return the names of a source's columns where they are told before rows are read; else None."""
    path = base / str(source.arguments.get("path", ""))
    match source.name:
        case "csv":
            return names_in_csv(path)
        case "parquet":
            return [*names_in_parquet(path)]
        case "sqlite":
            return [*names_in_sqlite(path, str(source.arguments.get("query", "")))]
        case _:
            return None


def _line(folder: SiteFolder, place: Coordinator, now: float) -> Iterator[Finding]:
    host, port = split(place.entry)
    name = resolved(host)
    yield name
    if name.level == "problem":
        return
    entry = reached(host, port, "entry")
    yield entry
    if entry.level == "ok":
        yield from _clock(folder, place, now)
    if place.sites:
        yield reached(*split(place.sites), "sites")
    if place.probe and folder.tls.chain.exists():
        try:
            yield told("TLS", probe(place.probe, folder.tls))
        except TransportError as error:
            yield problem("TLS", error, "put the files back that belong together")


def _clock(folder: SiteFolder, place: Coordinator, now: float) -> Iterator[Finding]:
    root = folder.anchor().certificate
    try:
        said = undated_time(place.entry, root)
    except TransportError as error:
        advice = "dial a name that its certificate has; if it has none of this federation, somebody else answers there"
        yield problem("entry port", error, advice)
        return
    yield clocks(said.server_time_s - now)
    yield versions(said.version)
    try:
        server_time(place.entry, root)
    except TransportError as error:
        yield problem("entry port", error, "set the clock that is wrong; if both are right, start the coordinator anew")
