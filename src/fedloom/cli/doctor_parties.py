"""``fedloom doctor FOLDER``: what may stand between a coordinator and its sites: names, ports, certificates, clocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedloom.cli.findings import Finding
from fedloom.cli.listening import listening
from fedloom.cli.progress import in_bytes
from fedloom.core.own_version import own_version
from fedloom.engines.coordinator_folder import CoordinatorFolder, operator_files
from fedloom.engines.coordinator_settings import CoordinatorSettings, Ports
from fedloom.errors import Error, TransportError
from fedloom.secure.certificates import at, read_certificates
from fedloom.secure.peers import COORDINATOR
from fedloom.transport.clocks import FAR_S, apart
from fedloom.transport.probe import ProbeResult, probe

DAY = 86400.0
_SOON_S = 3 * DAY
"""A certificate is renewed daily: one that ends so soon was not."""
_AUTHORITY_SOON_S = 30 * DAY
_LEAST_DISK = 256 << 20
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY")


def examine_coordinator(path: Path, *, now: float | None = None) -> Iterator[Finding]:
    """Yield what was found about a coordinator and its host.

    Args:
        path: Its folder.
        now: The present, in seconds since 1970.
    """
    folder, moment = CoordinatorFolder(path), time.time() if now is None else now
    try:
        settings = folder.settings()
        yield Finding(subject="settings", level="ok", value=f"coordinator of {settings.federation}")
    except Error as error:
        yield problem("settings", error, "make the folder by fedloom coordinator init, or mend the file")
        return
    yield from modes(path, ("intermediate.key", "tls.key", "signing.key"))
    yield from _certificates(folder, moment)
    yield from _lists(folder)
    for name in settings.names:
        yield resolved(name)
    ports = listening(folder)
    if ports is None:
        yield from _free_ports(settings)
    else:
        yield from _answers(folder, settings, ports)
    yield from disk("store", path)
    yield from proxies()


def _certificates(folder: CoordinatorFolder, now: float) -> Iterator[Finding]:
    try:
        own = folder.own(now)
    except Error as error:
        yield problem("certificate", error, "fedloom coordinator start renews it, if the intermediate holds")
    else:
        yield ends("certificate", own.not_after, now, soon=_SOON_S, advice="start the coordinator: it renews it daily")
    try:
        (certificate,) = read_certificates(folder.intermediate().certificate)
    except Error as error:
        yield problem("intermediate", error, "install the one that the root's owner hands over")
        return
    until = certificate.not_valid_after_utc.timestamp()
    advice = "have the root's owner make another: fedloom pki intermediate"
    yield ends("intermediate", until, now, soon=_AUTHORITY_SOON_S, advice=advice)


def _lists(folder: CoordinatorFolder) -> Iterator[Finding]:
    try:
        update, denied = folder.roster(), folder.deny_list()
    except Error as error:
        yield problem("roster", error, "install the newest that the root's owner has signed")
        return
    if update is None:
        advice = "the root's owner signs one: fedloom pki roster sign; then fedloom coordinator install"
        yield Finding(subject="roster", level="problem", value="none is installed: no site may work", advice=advice)
        return
    members = [each for each in update.roster.members if each.client != COORDINATOR]
    own = next((each for each in update.roster.members if each.client == COORDINATOR), None)
    yield Finding(subject="roster", level="ok", value=f"version {update.roster.version}, {len(members)} sites")
    if own is None or own.key != folder.signing_key().public:
        yield Finding(
            subject="coordinator's key",
            level="warning",
            value="is not in the roster" if own is None else "is another one in the roster",
            advice=f"the root's owner adds {folder.path / 'member.json'}: fedloom pki roster add",
        )
    yield Finding(subject="deny list", level="ok", value=f"version {denied.version}, {len(denied.clients)} clients")


def _free_ports(settings: CoordinatorSettings) -> Iterator[Finding]:
    ports = settings.ports
    for what, port in (("sites", ports.sites), ("entry", ports.entry), ("probe", ports.probe)):
        if port == 0:
            continue
        free = _is_free(port)
        yield Finding(
            subject=f"port {port}",
            level="ok" if free else "problem",
            value=f"is free for {what}; the coordinator does not run" if free else f"for {what} is busy",
            advice=None if free else "end what listens there, or change `ports` in coordinator.toml",
        )


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(folder: CoordinatorFolder, settings: CoordinatorSettings, ports: Ports) -> Iterator[Finding]:
    """Ask the probe port, once for each name, as an operator."""
    for name in settings.names:
        try:
            said = probe(f"{_bracketed(name)}:{ports.probe}", operator_files(folder))
        except TransportError as error:
            yield problem(f"TLS as {name}", error, "put the files back that belong together")
            continue
        yield told(f"TLS as {name}", said)


def told(subject: str, said: ProbeResult) -> Finding:
    """Return what the two ends of a probe think of each other."""
    if said.ok:
        return Finding(subject=subject, level="ok", value=f"both sides accept each other, as {said.identity}")
    return Finding(
        subject=subject,
        level="problem",
        value=f"{said.reason} ({said.part}): {said.sentence}",
        advice=said.remedy or "look at the coordinator's log",
    )


def resolved(name: str) -> Finding:
    """Look a name up, as who dials it does."""
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(name.strip("[]"), None)})
    except OSError as error:
        return Finding(
            subject=f"name {name}",
            level="problem",
            value=f"is not known here ({error.strerror or error})",
            advice="check the spelling and DNS; a hosts file helps for a trial",
        )
    return Finding(subject=f"name {name}", level="ok", value=", ".join(found))


def reached(host: str, port: int, what: str) -> Finding:
    """Open a connection and close it."""
    address = f"{_bracketed(host)}:{port}"
    try:
        with contextlib.closing(socket.create_connection((host.strip("[]"), port), timeout=5.0)):
            return Finding(subject=f"port {port}", level="ok", value=f"{address} answers ({what})")
    except TimeoutError:
        advice = "a firewall drops it: outgoing TCP to this port must be open"
        return Finding(subject=f"port {port}", level="problem", value=f"{address}: no answer in 5 s", advice=advice)
    except OSError as error:
        advice = "nobody listens there: is the coordinator up, and is the port right?"
        return Finding(
            subject=f"port {port}", level="problem", value=f"{address}: {error.strerror or error}", advice=advice
        )


def clocks(offset_s: float) -> Finding:
    """Compare two clocks."""
    far = abs(offset_s) > FAR_S
    return Finding(
        subject="clock",
        level="warning" if far else "ok",
        value=apart(offset_s),
        advice="set it: certificates and messages are judged by the time" if far else None,
    )


def ends(subject: str, until: float, now: float, *, soon: float, advice: str) -> Finding:
    """Say until when a certificate holds."""
    late = until - now < soon
    return Finding(
        subject=subject,
        level="problem" if until <= now else "warning" if late else "ok",
        value=f"{'ended' if until <= now else 'holds until'} {at(until)}",
        advice=advice if late else None,
    )


def modes(folder: Path, names: Sequence[str]) -> Iterator[Finding]:
    """Yield the keys of a folder that others may read."""
    if os.name != "posix":
        return
    open_ones = [
        name for name in names if (folder / name).exists() and stat.S_IMODE((folder / name).stat().st_mode) & 0o077
    ]
    for name in open_ones:
        yield Finding(
            subject=name,
            level="problem",
            value="others may read this key",
            advice=f"chmod 600 {folder / name}; if somebody has read it, make a new one",
        )


def disk(subject: str, path: Path) -> Iterator[Finding]:
    """Say how much room there is."""
    free = shutil.disk_usage(path).free
    little = free < _LEAST_DISK
    yield Finding(
        subject=f"disk of the {subject}",
        level="warning" if little else "ok",
        value=f"{in_bytes(free)} free",
        advice="free some: what comes in has to be stored before it counts" if little else None,
    )


def proxies() -> Iterator[Finding]:
    """Say which proxy gRPC would go through."""
    named = [name for name in _PROXIES if os.environ.get(name)]
    if named:
        yield Finding(
            subject="proxy",
            level="warning",
            value=f"{named[0]} is set: the line to a coordinator goes through it",
            advice="name the coordinator in no_proxy, or see that the proxy passes TLS on unopened",
        )


def problem(subject: str, error: Error, advice: str) -> Finding:
    """Return what cannot be as it is."""
    return Finding(subject=subject, level="problem", value=str(error), advice=advice)


def _bracketed(host: str) -> str:
    return f"[{host.strip('[]')}]" if ":" in host else host


def versions(theirs: str) -> Finding:
    """Compare the version of fedloom at both ends: one minor version apart works."""
    own = own_version()
    same = own.split(".")[:2] == theirs.split(".")[:2]
    return Finding(
        subject="versions",
        level="ok" if same else "warning",
        value=f"{own} here, {theirs} at the coordinator",
        advice=None if same else "bring both to one version: the coordinator first",
    )
