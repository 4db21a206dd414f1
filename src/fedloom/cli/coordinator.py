"""``fedloom coordinator``: the process that all sites dial, and what its operator does beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fedloom.cli.asking import agreed, passphrase
from fedloom.cli.output import write_json
from fedloom.cli.root_folder import ANCHOR, INTERMEDIATE, INTERMEDIATE_KEY, OfflineRoot
from fedloom.core.component import Json
from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.engines.coordinator_folder import (
    CoordinatorFolder,
    PendingJoin,
    approve_join,
    init_coordinator,
    install_deny_list,
    install_roster,
    pending_joins,
)
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.owned_files import make_folder, write_owned
from fedloom.engines.remote_team import Patience
from fedloom.errors import ConfigError, StoreError, Violation
from fedloom.secure.anchors import open_anchor
from fedloom.secure.authorities import Intermediate, open_intermediate
from fedloom.secure.certificates import at, read_certificates, verify_chain
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.peers import COORDINATOR
from fedloom.store.faults import explained

MEMBER = "member.json"
"""The coordinator as the root's owner puts it into the roster."""
_TOKEN_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What ``coordinator init`` was asked for."""

    folder: Path
    given: Path | None
    """The folder that the root's owner handed over."""
    root: Path | None
    """The root's own folder, where it is on this machine: for trying out."""
    hosts: tuple[str, ...]
    port: int
    listen: tuple[str, ...]
    least: int
    deadline_s: float | None
    lost_after_s: float | None
    approval_s: float | None = None
    suspend_after: int | None = 3
    invited: tuple[str, ...] = ()
    """Sites whose tokens are written at once, each in a file of its own."""


def init(wish: Wish, *, json: bool) -> None:
    """Make the folder of a coordinator.

    Raises:
        ConfigError: When it is not said where the intermediate is.
    """
    if (wish.given is None) == (wish.root is None):
        raise _flag("--from", "a coordinator needs one of --from FOLDER (what the root's owner handed over) and --root")
    root = None if wish.root is None else OfflineRoot(wish.root)
    given = root.travels if root is not None else wish.given
    assert given is not None, "one of both is given"
    anchor = open_anchor(_read(given / ANCHOR), meant=None)
    folder = CoordinatorFolder(wish.folder)
    init_coordinator(
        folder,
        anchor=anchor,
        intermediate=_intermediate(given, anchor.federation),
        names=wish.hosts,
        ports=_ports(wish.port),
        now=time.time(),
        hosts=wish.listen,
        least=wish.least,
        suspend_after=wish.suspend_after,
        patience=Patience(deadline_s=wish.deadline_s, lost_after_s=wish.lost_after_s, approval_s=wish.approval_s),
    )
    own = Member(client=ClientId(COORDINATOR), organisation=COORDINATOR, key=folder.signing_key().public)
    write_owned(folder.path / MEMBER, msgspec.json.encode(own))
    if root is not None:
        _enrol(folder, root, [own])
    elif (given / "roster.json").exists():
        install_roster(folder, _read(given / "roster.json"))
    if (given / "deny.json").exists():
        install_deny_list(folder, _read(given / "deny.json"))
    tokens = [_token(folder, name) for name in wish.invited]
    if json:
        write_json(
            {
                "federation": anchor.federation,
                "folder": wish.folder,
                "tokens": tokens,
                "fingerprint": fingerprint(own.key),
                "root": anchor.fingerprint,
                "in_roster": root is not None,
            }
        )
        return
    out = sys.stdout
    out.write(
        f"coordinator of {anchor.federation} in {wish.folder}, for {', '.join(wish.hosts)}\n"
        f"fingerprint of the root: {anchor.fingerprint}\n"
        f"fingerprint of the coordinator's key: {fingerprint(own.key)}\n"
    )
    for name, token in zip(wish.invited, tokens, strict=True):
        out.write(f"token for {name}, once, for a day: {token}\n")
    if root is None:
        out.write(
            f"next: the root's owner adds {folder.path / MEMBER} to the roster and signs it; then "
            "fedloom coordinator install\n"
        )
    else:
        out.write(f"next: fedloom coordinator start {wish.folder}\n")


def install(path: Path, files: Sequence[Path], *, json: bool) -> None:
    """Take what the root's owner has handed over: rosters, deny lists, an intermediate with its key."""
    folder, said = CoordinatorFolder(path), list[str]()
    folder.settings()
    for file in files:
        said.append(_installed(folder, file))
    if json:
        write_json({"installed": said})
        return
    sys.stdout.write("".join(f"{each}\n" for each in said))


def approve(path: Path, fingerprints: Sequence[str], *, root: Path | None, yes: bool, json: bool) -> None:
    """Say yes to requests to join, and hand their keys to the root's owner.

    Raises:
        StoreError: When nobody waits, or nobody has agreed.
    """
    folder = CoordinatorFolder(path)
    folder.settings()
    waiting = [each for each in pending_joins(folder) if not each.approved]
    chosen = list(fingerprints) or _chosen(waiting, yes=yes)
    approved = [approve_join(folder, each) for each in chosen]
    members = [
        Member(client=ClientId(each.client), organisation=each.organisation, key=each.key)
        for each in approved
        if each.role == "site"
    ]
    written = [_handed_over(folder, each) for each in members]
    version = _enrol(folder, OfflineRoot(root), members) if root is not None and members else None
    if json:
        described: list[Json] = [_pending(each) for each in approved]
        write_json({"approved": described, "files": written, "roster": version})
        return
    out = sys.stdout
    for each in approved:
        out.write(f"{each.client} of {each.organisation} may join, with the key {each.fingerprint}\n")
    if version is not None:
        out.write(f"roster {version} is signed and installed: its sites receive their certificates now\n")
    elif written:
        files = " ".join(map(str, written))
        out.write(f"next: the root's owner compares fingerprints: fedloom pki roster add ROOT {files}\n")


def waiting_joins(folder: CoordinatorFolder) -> list[PendingJoin]:
    """Return who has asked to join and has no answer yet."""
    return [each for each in pending_joins(folder) if not each.approved]


def _chosen(waiting: Sequence[PendingJoin], *, yes: bool) -> list[str]:
    if not waiting:
        raise StoreError(
            "nobody waits to join: `fedloom coordinator invite` makes a token, `fedloom site join` uses it"
        )
    if yes:
        return [each.fingerprint for each in waiting]
    lines = "".join(f"{each.client} of {each.organisation}: {each.fingerprint}\n" for each in waiting)
    if not sys.stdin.isatty():
        raise StoreError(
            f"who waits:\n{lines}nobody was approved: name the fingerprint that the site's operator reads out, or --yes"
        )
    sys.stderr.write(lines)
    found = [each.fingerprint for each in waiting if agreed(f"Did {each.client} read out {each.fingerprint}?")]
    if not found:
        raise StoreError("nobody was approved")
    return found


def _token(folder: CoordinatorFolder, name: str) -> Path:
    """Write a token for one site into a file of its own."""
    from fedloom.cli.operating import invited

    text, _ = invited(folder, name, organisation=name, valid_s=_TOKEN_S)
    place = folder.path / "tokens"
    make_folder(place)
    path = place / f"{name}.token"
    write_owned(path, text.encode() + b"\n")
    return path


def _enrol(folder: CoordinatorFolder, root: OfflineRoot, members: Sequence[Member]) -> int:
    """Put members into the roster by the root of this very machine, and install it."""
    root.add(members)
    if not root.changes():
        return root.update().roster.version
    signed = root.sign(root.opened(passphrase()))
    install_roster(folder, (root.path / "roster.json").read_bytes())
    return signed.version


def _handed_over(folder: CoordinatorFolder, member: Member) -> Path:
    place = folder.path / "members"
    place.mkdir(mode=0o700, exist_ok=True)
    path = place / f"{member.client}.json"
    write_owned(path, msgspec.json.encode(member))
    return path


def _installed(folder: CoordinatorFolder, file: Path) -> str:
    """Take one file for what it says it is."""
    data = _read(file)
    if b"CERTIFICATE" in data and b'"' not in data:
        key = _read(file.with_suffix(".key"))
        made = open_intermediate(data, key, federation=folder.anchor().federation)
        _check_issuer(folder, made)
        write_owned(folder.path / "intermediate.key", key)
        write_owned(folder.path / "intermediate.pem", data)
        (certificate,) = read_certificates(data)
        return f"intermediate, until {at(certificate.not_valid_after_utc.timestamp())}"
    if b'"serials"' in data:
        return f"deny list {install_deny_list(folder, data).version}"
    found = install_roster(folder, data).roster
    return f"roster {found.version}, {len(found.members)} members: {fingerprint(found.digest)}"


def _check_issuer(folder: CoordinatorFolder, made: Intermediate) -> None:
    """Refuse an intermediate that the federation's root has not issued, before it takes the place of one that works."""
    from fedloom.secure.authorities import issue_coordinator
    from fedloom.secure.tls_keys import new_tls_key

    now, anchor = time.time(), folder.anchor()
    trial = issue_coordinator(made, new_tls_key(), names=folder.settings().names, now=now)
    verify_chain(trial.chain, anchor.certificate, now=now, want="server", federation=anchor.federation)


def _intermediate(given: Path, federation: str) -> Intermediate:
    return open_intermediate(_read(given / INTERMEDIATE), _read(given / INTERMEDIATE_KEY), federation=federation)


def _ports(first: int) -> Ports:
    if first == 0:
        return Ports(sites=0, entry=0, probe=0, health=0)
    return Ports(sites=first, entry=first + 1, probe=first + 2, health=first + 3)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise StoreError(f"{path} is missing: it comes from the root's folder, `for-coordinator`")
    with explained(path):
        return path.read_bytes()


def _pending(each: PendingJoin) -> dict[str, Json]:
    return {
        "client": each.client,
        "organisation": each.organisation,
        "fingerprint": each.fingerprint,
        "address": each.address,
    }


def _flag(name: str, message: str) -> ConfigError:
    return ConfigError([Violation(where=name, path="coordinator", message=message)])
