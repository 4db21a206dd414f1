"""``fedloom coordinator start`` and ``fedloom site start``: processes that serve until a signal."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fedloom.cli.listening import announce, forget
from fedloom.cli.site import PolicyWish, ask_about_roster, ask_to_join, collect
from fedloom.engines.coordinator_folder import CoordinatorFolder
from fedloom.engines.coordinator_host import CoordinatorHost
from fedloom.engines.health import JsonLines
from fedloom.engines.site_folder import Joining, SiteFolder
from fedloom.engines.site_host import SiteHost
from fedloom.errors import StoreError

_AGAIN_S = 3.0
"""Between two questions for the certificate: somebody is on the telephone about it."""
REHEARSAL = "REHEARSAL: secrets follow from each run's seed, and protect nothing\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteWish:
    """What ``site start`` was asked for."""

    token: str | None
    policy: PolicyWish
    rehearsal: bool
    require_pq: bool
    json_log: bool


def start_coordinator(path: Path, *, rehearsal: bool, json_log: bool) -> None:
    """Serve a coordinator's sites, and take its runs to their ends."""
    log_to_stderr(json=json_log)
    folder = CoordinatorFolder(path)
    with CoordinatorHost(folder, rehearsal=rehearsal) as host:
        announce(folder, host.ports)
        _say(
            f"coordinator of {host.settings.federation}: port {host.ports.sites}, entry {host.ports.entry}, probe "
            f"{host.ports.probe}, health {host.ports.health}; {len(host.sites())} sites in the roster\n"
            + (REHEARSAL if rehearsal else "")
        )
        try:
            host.run()
        finally:
            forget(folder)
    _say("stopped: what was begun goes on at the next start\n")


def start_site(path: Path, wish: SiteWish) -> None:
    """Serve the federation by a site's policy; join it first where a token is given.

    Raises:
        StoreError: When the site has neither a certificate nor asked for one, or has no policy.
    """
    folder = SiteFolder(path)
    if not folder.tls.chain.exists():
        _join(folder, wish)
    if not folder.policy_path.exists():
        raise StoreError(
            f"{folder.policy_path} is missing: without a policy nothing is allowed. `--data ROWS` writes one to begin "
            "with when the site joins"
        )
    ask_about_roster(folder)
    log_to_stderr(json=wish.json_log)
    with SiteHost(folder, require_pq=wish.require_pq, rehearsal=wish.rehearsal) as host:
        mode = host.rules.last.policy.approval.mode
        _say(f"site {host.identity.client} works for {folder.anchor().federation}, approval {mode}\n")
        if wish.rehearsal:
            _say(REHEARSAL)
        host.run()
    _say("stopped: what was begun goes on at the next start\n")


def _join(folder: SiteFolder, wish: SiteWish) -> None:
    """Ask for the certificate until it is there: people have to compare fingerprints, and to sign a roster."""
    if wish.token is None and not folder.request_path.exists():
        raise StoreError(f"{folder.path} has not joined: --join TOKEN, from the coordinator's operator")
    said = collect(folder) if wish.token is None else ask_to_join(folder, wish.token, wish.policy)
    if said.state == "waiting":
        _say(
            f"asked to join {said.federation}; read out the fingerprint of this site's key to its operator:\n"
            f"  {said.fingerprint}\nand wait; Ctrl-C does not lose the place\n"
        )
    while said.state == "waiting":
        time.sleep(_AGAIN_S)
        said = collect(folder)
    _say_joined(said)


def _say_joined(said: Joining) -> None:
    name = "" if said.peer is None else f" as {said.peer.client}"
    _say(f"member of {said.federation}{name}\n")


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def log_to_stderr(*, json: bool) -> None:
    """Log to standard error: a line an event."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines() if json else logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger("fedloom")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
