"""CoordinatorFolder: the files of a coordinator: trust, keys, settings, store. What it is given is verified first.

``anchor.json`` is the federation's anchor, ``root.pem`` the root's certificate in it, which TLS reads;
``intermediate.pem`` and ``.key`` issue certificates, ``tls.pem`` and ``.key`` are the coordinator's own, renewed daily;
``signing.key`` is its Ed25519 key; ``roster.json`` and ``deny.json`` are signed by the root, ``coordinator.toml`` says
where to listen and how long to wait; ``joins/`` has who asks to join, and ``store/`` the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from fedloom.engines.coordinator_settings import CoordinatorSettings, Ports, read_settings, settings_text
from fedloom.engines.owned_files import make_folder, read_owned, write_owned
from fedloom.engines.remote_team import Patience
from fedloom.entropy import fresh_secret
from fedloom.errors import StoreError, TrustError
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
        return read_settings(read_owned(path, remedy=_INIT), name=str(path))

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
    write_owned(folder.path / "coordinator.toml", settings_text(settings).encode())  # last: the folder is whole
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
