"""CoordinatorFolder: the files of a coordinator: trust, keys, settings, store. What it is given is verified first.

``anchor.json`` is the federation's anchor, ``root.pem`` the root's certificate in it, which TLS reads;
``intermediate.pem`` and ``.key`` issue certificates, ``tls.pem`` and ``.key`` are the coordinator's own, renewed daily;
``signing.key`` is its Ed25519 key; ``roster.json`` and ``deny.json`` are signed by the root, ``coordinator.toml`` says
where to listen and how long to wait; ``joins/`` has who asks to join, and ``store/`` the rest.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from fedloom.engines.owned_files import make_folder, read_owned, write_owned
from fedloom.engines.remote_team import Patience
from fedloom.entropy import fresh_secret
from fedloom.errors import ConfigError, StoreError, TrustError, Violation
from fedloom.secure.agreement import SigningKey, signing_key
from fedloom.secure.anchors import Anchor, open_anchor
from fedloom.secure.authorities import Intermediate, issue_admin, issue_coordinator, open_intermediate
from fedloom.secure.certificates import renewal_due, verify_chain, verify_own_chain
from fedloom.secure.deny_list import DenyList, newer, nobody_denied, open_deny_list
from fedloom.secure.fingerprints import same_fingerprint
from fedloom.secure.peers import Peer
from fedloom.secure.requests import Request
from fedloom.secure.roster_pin import RosterUpdate, open_update
from fedloom.secure.tls_keys import new_tls_key, tls_key
from fedloom.store.faults import explained
from fedloom.transport.tls import TlsFiles

_INIT = "run `fedloom coordinator init`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a coordinator listens; 0 lets the system choose."""

    sites: int = 7443
    entry: int = 7444
    probe: int = 7445
    health: int = 7446


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """``coordinator.toml``.

    Args:
        federation: Name of the federation.
        names: Under which sites dial: the first is the one that invitations name.
        hosts: Addresses to listen at.
        ports: Where.
        patience: How long rounds wait.
        least: Sites that a run needs.
        suspend_after: Rounds in a row in which a site's work fails before it is suspended; None: it never is.
        require_pq: Whether a key exchange that a quantum computer breaks is refused.
    """

    federation: str
    names: tuple[str, ...]
    hosts: tuple[str, ...] = ("[::]",)
    ports: Ports = field(default_factory=Ports)
    patience: Patience = field(default_factory=Patience)
    least: int = 2
    suspend_after: int | None = 3
    require_pq: bool = False


class CoordinatorFolder:
    """The files of a coordinator. It holds nothing open: each call reads what is there now.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def store(self) -> Path:
        """Where the store is."""
        return self.path / "store"

    @property
    def roster_path(self) -> Path:
        """The roster, with handovers."""
        return self.path / "roster.json"

    @property
    def deny_path(self) -> Path:
        """The deny list."""
        return self.path / "deny.json"

    @property
    def joins(self) -> Path:
        """Requests to join that wait for somebody's word."""
        return self.path / "joins"

    @property
    def tls(self) -> TlsFiles:
        """Certificate and key of the coordinator."""
        return TlsFiles(root=self.path / "root.pem", chain=self.path / "tls.pem", key=self.path / "tls.key")

    def anchor(self) -> Anchor:
        """Return what all trust rests on.

        Raises:
            StoreError: When the folder is none of a coordinator.
            TrustError: When the file was damaged.
        """
        return open_anchor(read_owned(self.path / "anchor.json", remedy=_INIT), meant=None)

    def settings(self) -> CoordinatorSettings:
        """Return the settings.

        Raises:
            ConfigError: When they break a rule; tells of all violations.
        """
        path = self.path / "coordinator.toml"
        return _read_settings(read_owned(path, remedy=_INIT), name=str(path))

    def intermediate(self) -> Intermediate:
        """Return the authority that issues certificates of parties."""
        certificate = read_owned(self.path / "intermediate.pem", remedy=_INIT)
        key = read_owned(self.path / "intermediate.key", remedy=_INIT)
        return open_intermediate(certificate, key, federation=self.anchor().federation)

    def signing_key(self) -> SigningKey:
        """Return the coordinator's Ed25519 key."""
        return signing_key(read_owned(self.path / "signing.key", remedy=_INIT))

    def roster(self) -> RosterUpdate | None:
        """Return the roster in force; None: none was installed yet.

        Raises:
            TrustError: When the root has not signed what is there.
        """
        return self.read_roster(self.roster_path.read_bytes()) if self.roster_path.exists() else None

    def read_roster(self, data: bytes) -> RosterUpdate:
        """Return a roster that the federation's root has signed."""
        anchor = self.anchor()
        return open_update(data, root=anchor.signing, federation=anchor.federation)

    def deny_list(self) -> DenyList:
        """Return the deny list in force.

        Raises:
            TrustError: When the root has not signed what is there.
        """
        anchor = self.anchor()
        if not self.deny_path.exists():
            return nobody_denied(anchor.federation)
        return open_deny_list(self.deny_path.read_bytes(), root=anchor.signing, federation=anchor.federation)

    def own(self, now: float) -> Peer:
        """Return who the coordinator is by its certificate, if sites will accept it.

        Raises:
            TrustError: When they will not.
        """
        anchor, files = self.anchor(), self.tls
        chain = read_owned(files.chain, remedy=_INIT)
        key = tls_key(read_owned(files.key, remedy=_INIT))
        return verify_own_chain(chain, key, anchor.certificate, now=now, want="server", federation=anchor.federation)


def init_coordinator(
    folder: CoordinatorFolder,
    *,
    anchor: Anchor,
    intermediate: Intermediate,
    names: Sequence[str],
    ports: Ports | None = None,
    now: float,
    hosts: Sequence[str] = ("[::]",),
    least: int = 2,
    suspend_after: int | None = 3,
    patience: Patience | None = None,
) -> Peer:
    """Make the folder of a coordinator, with a certificate of its own.

    Args:
        folder: Where; no coordinator is there yet.
        anchor: Of the federation: from the offline root.
        intermediate: Which the root has issued.
        names: DNS names and addresses under which sites dial this host.
        ports: Where to listen.
        now: Seconds since 1970.
        hosts: Addresses to listen at.
        least: Sites that a run needs.
        suspend_after: Rounds in a row in which a site's work fails before it is suspended; None: it never is.
        patience: How long rounds wait.

    Raises:
        StoreError: When a coordinator is there already, or nothing can be written.
        TrustError: When the intermediate is not the root's, or a name cannot stand in a certificate.
    """
    if (folder.path / "coordinator.toml").exists():
        raise StoreError(f"{folder.path} is the folder of a coordinator already: give a new one another folder")
    if intermediate.federation != anchor.federation:
        raise TrustError(
            f"the intermediate is of {intermediate.federation!r}, the anchor of {anchor.federation!r}: both come from "
            "one root",
            reason="wrong_federation",
        )
    key = new_tls_key()
    issued = issue_coordinator(intermediate, key, names=names, now=now)
    verify_chain(issued.chain, anchor.certificate, now=now, want="server", federation=anchor.federation)
    settings = CoordinatorSettings(
        federation=anchor.federation,
        names=tuple(names),
        hosts=tuple(hosts),
        ports=ports or Ports(),
        patience=patience or Patience(),
        least=least,
        suspend_after=suspend_after,
    )
    make_folder(folder.path)
    make_folder(folder.joins)
    write_owned(folder.path / "anchor.json", anchor.stored())
    write_owned(folder.path / "root.pem", anchor.certificate)
    write_owned(folder.path / "intermediate.key", intermediate.key.stored())
    write_owned(folder.path / "intermediate.pem", intermediate.certificate)
    write_owned(folder.path / "signing.key", fresh_secret().random_bytes(32))
    write_owned(folder.tls.key, key.stored())
    write_owned(folder.tls.chain, issued.chain)
    write_owned(folder.path / "coordinator.toml", _settings_text(settings).encode())  # last: the folder is whole
    return issued.peer


def renew_coordinator(folder: CoordinatorFolder, *, now: float) -> Peer:
    """Return the coordinator's certificate, with a new one in its place when a day has gone since it was issued.

    The key stays: a server that reads both files between two writes would find a pair that does not belong together.

    Raises:
        TrustError: When the intermediate has expired: the root's owner issues another one.
    """
    chain = read_owned(folder.tls.chain, remedy=_INIT)
    anchor, settings = folder.anchor(), folder.settings()
    try:
        peer = verify_chain(chain, anchor.certificate, now=now, want="server", federation=anchor.federation)
        if not renewal_due(peer, now):
            return peer
    except TrustError as error:
        if error.reason not in ("expired", "broken_chain", "other_authority"):
            raise
    key = tls_key(read_owned(folder.tls.key, remedy=_INIT))
    issued = issue_coordinator(folder.intermediate(), key, names=settings.names, now=now)
    verify_chain(issued.chain, anchor.certificate, now=now, want="server", federation=anchor.federation)
    write_owned(folder.tls.chain, issued.chain)
    return issued.peer


def install_roster(folder: CoordinatorFolder, data: bytes) -> RosterUpdate:
    """Take a roster of the root for the one in force. A coordinator that runs follows at once.

    Raises:
        TrustError: When the root has not signed it, or it is older than the one that is here.
    """
    found, before = folder.read_roster(data), folder.roster()
    if before is not None:
        _check_later(before, found)
    write_owned(folder.roster_path, data)
    return found


def _check_later(before: RosterUpdate, found: RosterUpdate) -> None:
    was, now = before.roster, found.roster
    if now.version < was.version or (now.version == was.version and now.digest != was.digest):
        raise TrustError(
            f"the roster here has version {was.version}; received version {now.version}"
            f"{', another one of this number' if now.version == was.version else ''}. Install the newest that the "
            "root's owner has signed",
            reason="went_back",
        )


def install_deny_list(folder: CoordinatorFolder, data: bytes) -> DenyList:
    """Take a deny list of the root for the one in force. A coordinator that runs goes by it from the next call on.

    Raises:
        TrustError: When the root has not signed it, or it leaves out what the one here has.
    """
    anchor = folder.anchor()
    found = open_deny_list(data, root=anchor.signing, federation=anchor.federation)
    kept = newer(folder.deny_list(), found)
    write_owned(folder.deny_path, data)
    return kept


# Who asks to join ----------------------------------------------------------------------------------------------------


class PendingJoin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to join, as the operators look at it. The fingerprint is what they compare over the telephone."""

    role: str
    organisation: str
    client: str
    fingerprint: str
    key: bytes
    """Ed25519: what the roster will have."""
    asked_at: float
    address: str
    approved: bool = False


def pending_joins(folder: CoordinatorFolder) -> tuple[PendingJoin, ...]:
    """Return who has asked to join, in the order of names; also while the coordinator runs."""
    found = []
    for path in sorted(folder.joins.glob("*.json")) if folder.joins.exists() else ():
        with explained(path):
            one = msgspec.json.decode(path.read_bytes(), type=PendingJoin)
        found.append(msgspec.structs.replace(one, approved=_word(path).exists()))
    return tuple(sorted(found, key=lambda each: (each.organisation, each.client)))


def note_join(folder: CoordinatorFolder, asked: PendingJoin) -> bool:
    """Lay out a request to join; return whether the operator has said yes to it."""
    path = _join_path(folder, asked.fingerprint)
    if not path.exists():
        make_folder(folder.joins)
        write_owned(path, msgspec.json.encode(asked))
    return _word(path).exists()


def settle_join(folder: CoordinatorFolder, words: str) -> None:
    """Take a request away whose certificate was issued."""
    path = _join_path(folder, words)
    for each in (path, _word(path)):
        with explained(each):
            each.unlink(missing_ok=True)


def approve_join(folder: CoordinatorFolder, meant: str) -> PendingJoin:
    """Say yes to a request whose fingerprint was compared with the one that the site's operator read out.

    A site's certificate is issued when the roster has its key as well.

    Args:
        folder: Of the coordinator.
        meant: The fingerprint.

    Raises:
        StoreError: When nobody with this fingerprint has asked.
    """
    for one in pending_joins(folder):
        if same_fingerprint(one.fingerprint, meant):
            write_owned(_word(_join_path(folder, one.fingerprint)), b"approved\n")
            return msgspec.structs.replace(one, approved=True)
    known = "; ".join(f"{each.client}: {each.fingerprint}" for each in pending_joins(folder)) or "nobody"
    raise StoreError(f"nobody with the fingerprint {meant!r} has asked to join; waiting: {known}")


def _join_path(folder: CoordinatorFolder, words: str) -> Path:
    return folder.joins / f"{words.replace(' ', '')}.json"


def _word(path: Path) -> Path:
    return path.with_suffix(".approved")


# Operators -----------------------------------------------------------------------------------------------------------


def operator_files(folder: CoordinatorFolder, *, name: str = "local", now: float | None = None) -> TlsFiles:
    """Return certificate and key of an operator on the coordinator's own host, made or renewed where it is time.

    Whoever may read the folder has the intermediate's key, and could make them himself.
    """
    moment = time.time() if now is None else now
    home = folder.path / "operators" / name
    files = TlsFiles(root=folder.path / "root.pem", chain=home / "tls.pem", key=home / "tls.key")
    anchor = folder.anchor()
    if files.chain.exists() and files.key.exists():
        try:
            own = verify_own_chain(
                files.chain.read_bytes(),
                tls_key(files.key.read_bytes()),
                anchor.certificate,
                now=moment,
                want="client",
                federation=anchor.federation,
            )
            if not renewal_due(own, moment):
                return files
        except TrustError:
            pass  # whatever is wrong with them, new ones are made
    make_folder(home.parent)  # each with its own mode
    make_folder(home)
    key = new_tls_key()
    request = Request(public=key.public, signing=b"", digest=b"")
    issued = issue_admin(folder.intermediate(), request, name=name, now=moment)
    write_owned(files.key, key.stored())
    write_owned(files.chain, issued.chain)
    return files


# Settings ------------------------------------------------------------------------------------------------------------

_KEYS = ("federation", "names", "hosts", "least", "suspend_after", "require_pq", "ports", "patience")


def _read_settings(data: bytes, *, name: str) -> CoordinatorSettings:
    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _broken(name, "", f"no TOML: {error}") from error
    if unknown := sorted(set(tree) - set(_KEYS)):
        raise _broken(name, unknown[0], f"unknown key; expected {', '.join(_KEYS)}")
    try:
        return msgspec.convert(tree, type=_Settings).settings
    except msgspec.ValidationError as error:
        raise _broken(name, "", str(error)) from error


class _PortsTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sites: int
    entry: int
    probe: int
    health: int


class _PatienceTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    deadline_s: float | None = None
    grace_s: float | None = None
    lost_after_s: float | None = None
    approval_s: float | None = None


class _Settings(Struct, frozen=True, kw_only=True):
    federation: str
    names: tuple[str, ...]
    hosts: tuple[str, ...] = ("[::]",)
    least: int = 2
    suspend_after: int = 3
    require_pq: bool = False
    ports: _PortsTable = _PortsTable(sites=7443, entry=7444, probe=7445, health=7446)
    patience: _PatienceTable = _PatienceTable()

    def __post_init__(self) -> None:
        if not self.names or not self.hosts:
            raise ValueError("`names` and `hosts` each have at least one entry")
        if self.least < 1:
            raise ValueError(f"least = {self.least}: expected 1 or more")
        if self.suspend_after < 0:
            raise ValueError(f"suspend_after = {self.suspend_after}: expected 1 or more, or 0 to suspend nobody")
        numbers = msgspec.structs.astuple(self.ports)
        if any(not 0 <= each < 1 << 16 for each in numbers):
            raise ValueError(f"ports = {numbers}: expected numbers from 0 to 65535")
        waits = [each for each in msgspec.structs.astuple(self.patience) if each is not None]
        if any(each <= 0 for each in waits):
            raise ValueError("patience: expected seconds above 0; leave one out to wait for all")

    @property
    def settings(self) -> CoordinatorSettings:
        return CoordinatorSettings(
            federation=self.federation,
            names=self.names,
            hosts=self.hosts,
            ports=Ports(**msgspec.structs.asdict(self.ports)),
            patience=Patience(**msgspec.structs.asdict(self.patience)),
            least=self.least,
            suspend_after=self.suspend_after or None,
            require_pq=self.require_pq,
        )


def _settings_text(settings: CoordinatorSettings) -> str:
    def value(one: Any) -> str:
        return msgspec.json.encode(one).decode()

    known = {key: getattr(settings, key) for key in _KEYS[:6]}
    lines = [f"{key} = {value(0 if one is None else one)}" for key, one in known.items()]
    lines += ["", "[ports]", *(f"{each.name} = {getattr(settings.ports, each.name)}" for each in fields(Ports))]
    lines += ["", "[patience]", "# deadline_s = 3600   # of a round; without it a round waits for all sites"]
    lines += ["# approval_s = 604800   # for the sites' word on a run; without it they have as long as they need"]
    waits = {each.name: getattr(settings.patience, each.name) for each in fields(Patience)}
    lines += [f"{key} = {value(seconds)}" for key, seconds in waits.items() if seconds is not None]
    return "\n".join(lines) + "\n"


def _broken(name: str, path: str, message: str) -> ConfigError:
    return ConfigError([Violation(where=name, path=path or "settings", message=message)])
