"""SiteFolder: the files of a site: trust, keys, roster, policy and store. Private keys are made here and stay here.

``anchor.json`` and ``root.pem`` are the federation's, ``tls.pem`` and ``.key`` the site's certificate, ``signing.key``
its Ed25519 key, ``pin.json`` the roster with what its operator has approved, ``site.toml`` the policy,
``coordinator.json`` where to dial, ``inbox/`` what the operator is asked about, ``store/`` the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, structs

from fedloom.engines.owned_files import make_folder, read_owned, write_owned
from fedloom.entropy import fresh_secret
from fedloom.errors import StoreError, TrustError
from fedloom.experiment.site_policy import SitePolicy, read_policy
from fedloom.secure.agreement import SigningKey, signing_key
from fedloom.secure.anchors import Anchor, open_anchor
from fedloom.secure.certificates import verify_own_chain
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.join import read_token
from fedloom.secure.peers import Peer, coordinator
from fedloom.secure.renewal import renewal_request
from fedloom.secure.requests import signing_request
from fedloom.secure.roster import LocalIdentity
from fedloom.secure.roster_pin import RosterPin, approve, first_pin, follow, open_pin, open_update
from fedloom.secure.tls_keys import TlsKey, new_tls_key, tls_key
from fedloom.store.faults import explained
from fedloom.transport.addresses import split
from fedloom.transport.entry import EntryReply, JoinRequest, RenewRequest, ask, fetch_anchor, server_time
from fedloom.transport.tls import TlsFiles

_JOIN = "run `fedloom site join` with the token of the coordinator's operator"


class Coordinator(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the coordinator is dialled: ``host:port`` each."""

    entry: str
    sites: str = ""
    probe: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How far a site has come with joining."""

    state: Literal["waiting", "issued"]
    fingerprint: str
    """Of its key: to be read out to the coordinator's operator."""
    federation: str
    peer: Peer | None = None


class SiteFolder:
    """The files of a site. It holds nothing open: each call reads what is there now.

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
    def pin_path(self) -> Path:
        """The roster, and whom the operator has approved."""
        return self.path / "pin.json"

    @property
    def policy_path(self) -> Path:
        """The policy."""
        return self.path / "site.toml"

    @property
    def inbox(self) -> Path:
        """What the operator is asked about."""
        return self.path / "inbox"

    @property
    def paused_path(self) -> Path:
        """While it is there, the site begins nothing."""
        return self.path / "paused"

    @property
    def tls(self) -> TlsFiles:
        """Certificate and key of the site."""
        return TlsFiles(root=self.path / "root.pem", chain=self.path / "tls.pem", key=self.path / "tls.key")

    @property
    def request_path(self) -> Path:
        """The request to join, until it was answered."""
        return self.path / "join.request"

    def anchor(self) -> Anchor:
        """Return what all trust rests on."""
        return open_anchor(read_owned(self.path / "anchor.json", remedy=_JOIN), meant=None)

    def signing_key(self) -> SigningKey:
        """Return the site's Ed25519 key."""
        return signing_key(read_owned(self.path / "signing.key", remedy=_JOIN))

    def coordinator(self) -> Coordinator:
        """Return where the coordinator is dialled."""
        path = self.path / "coordinator.json"
        data = read_owned(path, remedy=_JOIN)
        try:
            return msgspec.json.decode(data, type=Coordinator)
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{path} cannot be read: {error}. It says entry, sites and probe, host:port each"
            ) from error

    @property
    def coordinator_name(self) -> str:
        """SPIFFE name of the one coordinator that may ask."""
        return coordinator(self.anchor().federation).uri

    def policy(self) -> SitePolicy:
        """Return the policy.

        Raises:
            ConfigError: When it breaks a rule; what cannot be read allows nothing.
        """
        return read_policy(self.policy_path)

    def pin(self) -> RosterPin:
        """Return the roster, and whom the operator has approved."""
        data = read_owned(self.pin_path, remedy="the coordinator has sent no roster: run `fedloom site join` again")
        return self.read_pin(data)

    def read_pin(self, data: bytes) -> RosterPin:
        """Return a pin that was stored here."""
        anchor = self.anchor()
        return open_pin(data, root=anchor.signing, federation=anchor.federation)

    def peer(self, now: float) -> Peer:
        """Return who the site is, if the coordinator will accept its certificate.

        Raises:
            TrustError: When it will not: expired, of another key or of another root, each by its reason.
            StoreError: When there is none yet.
        """
        anchor = self.anchor()
        chain = read_owned(self.tls.chain, remedy="it has not come yet: run `fedloom site join` again, or wait")
        return verify_own_chain(
            chain, self._tls_key(), anchor.certificate, now=now, want="client", federation=anchor.federation
        )

    def identity(self) -> LocalIdentity:
        """Return the site's name, from its certificate, and its key."""
        from fedloom.secure.certificates import read_peer

        chain = read_owned(self.tls.chain, remedy=_JOIN)
        return LocalIdentity(read_peer(chain).client, self.signing_key())

    def _tls_key(self) -> TlsKey:
        return tls_key(read_owned(self.tls.key, remedy=_JOIN))


def join_site(folder: SiteFolder, token_text: str, *, now: float | None = None) -> Joining:
    """Ask to become a member: keys are made here, the root is compared with the token, the request is sent.

    Interrupted, it goes on with the same keys and the same request; the certificate comes when the operators have
    compared the fingerprint, and the root's owner has added the site to the roster.

    Args:
        folder: Of the site.
        token_text: As the coordinator's operator handed it over.
        now: Seconds since 1970.

    Raises:
        TrustError: When the token was mistyped, or another federation answers.
        StoreError: When the folder is a site of another federation, or of a member already.
        Refused: What the coordinator says: the token is used, expired or unknown.
        Unreachable: When there is no coordinator at the token's address.
    """
    moment = time.time() if now is None else now
    token = read_token(token_text)
    if folder.tls.chain.exists():
        raise StoreError(f"{folder.path} is a member already: a certificate is renewed by `fedloom site renew`")
    anchor = open_anchor(fetch_anchor(token.address), meant=token.anchor)
    make_folder(folder.path)
    make_folder(folder.inbox)
    if (folder.path / "anchor.json").exists() and folder.anchor().fingerprint != anchor.fingerprint:
        raise StoreError(
            f"{folder.path} is a site of {folder.anchor().federation!r}; the token is of {anchor.federation!r}, "
            f"{anchor.fingerprint}: give it another folder"
        )
    write_owned(folder.path / "anchor.json", anchor.stored())
    write_owned(folder.path / "root.pem", anchor.certificate)
    write_owned(folder.path / "coordinator.json", msgspec.json.encode(Coordinator(entry=token.address)))
    signing = _made(folder.path / "signing.key", lambda: fresh_secret().random_bytes(32))
    tls = _made(folder.tls.key, lambda: new_tls_key().stored())
    marker = folder.path / "join.token"
    # The request is kept: signed anew it would be another one, and a token is for one.
    if not folder.request_path.exists() or not marker.exists() or marker.read_bytes() != token.text.encode():
        write_owned(folder.request_path, signing_request(tls_key(tls), signing_key(signing), token=token))
        write_owned(marker, token.text.encode())
    return collect_certificate(folder, now=moment)


def collect_certificate(folder: SiteFolder, *, now: float | None = None) -> Joining:
    """Ask whether the certificate is there, by the same request again.

    Raises:
        Refused: When the coordinator says no for good.
        Unreachable: When there is no coordinator.
        StoreError: When the site has not asked to join.
        TrustError: When what came is not for this site, or not of the federation's root.
    """
    moment = time.time() if now is None else now
    anchor, place = folder.anchor(), folder.coordinator()
    request = JoinRequest(request=read_owned(folder.request_path, remedy=_JOIN))
    words = fingerprint(folder.signing_key().public)
    reply = ask(place.entry, anchor.certificate, request)
    if reply.state == "waiting":
        return Joining(state="waiting", fingerprint=words, federation=anchor.federation)
    peer = _take(folder, reply, now=moment)
    for path in (folder.request_path, folder.path / "join.token"):
        with explained(path):
            path.unlink(missing_ok=True)
    return Joining(state="issued", fingerprint=words, federation=anchor.federation, peer=peer)


def renew(folder: SiteFolder, *, now: float | None = None) -> Peer:
    """Ask for another certificate, before the old one has ended or after; return who the site is by it.

    The key stays, so that certificate and key belong together at every moment; a running agent takes the new one over
    with its next connection.

    Raises:
        Refused: When the site is denied, suspended or not in the roster.
        Unreachable: When there is no coordinator.
        TrustError: When what came is not for this site.
    """
    anchor, place = folder.anchor(), folder.coordinator()
    told = server_time(place.entry, anchor.certificate)  # a slow clock of ours would spoil the request
    moment = time.time() if now is None else now
    if now is None and abs(told.server_time_s - moment) > 600.0:
        moment = told.server_time_s
    key = tls_key(read_owned(folder.tls.key, remedy=_JOIN))
    request = renewal_request(key, folder.identity(), federation=anchor.federation, now=moment)
    reply = ask(place.entry, anchor.certificate, RenewRequest(request=request))
    return _take(folder, reply, now=moment)


def _take(folder: SiteFolder, reply: EntryReply, *, now: float) -> Peer:
    """Check what came, and write it down: the roster first, the certificate last."""
    anchor, place = folder.anchor(), folder.coordinator()
    key = tls_key(read_owned(folder.tls.key, remedy=_JOIN))
    peer = verify_own_chain(reply.chain, key, anchor.certificate, now=now, want="client", federation=anchor.federation)
    if reply.roster:
        follow_roster(folder, reply.roster)
    host = split(place.entry)[0]
    host = f"[{host}]" if ":" in host else host
    if reply.port and not place.sites:
        place = structs.replace(place, sites=f"{host}:{reply.port}", probe=f"{host}:{reply.probe_port}")
        write_owned(folder.path / "coordinator.json", msgspec.json.encode(place))
    write_owned(folder.tls.chain, reply.chain)
    return peer


def follow_roster(folder: SiteFolder, data: bytes) -> RosterPin:
    """Take a newer roster of the root: who left is out at once, who joined waits for this site's operator.

    Raises:
        TrustError: When the root has not signed it, or it is older than the one that is known here.
    """
    anchor = folder.anchor()
    update = open_update(data, root=anchor.signing, federation=anchor.federation)
    if not folder.pin_path.exists():
        pin = first_pin(update)
    else:
        before = folder.pin()
        pin = follow(before, update)
        if pin is before:
            return pin
    write_owned(folder.pin_path, pin.stored())
    return pin


def approve_roster(folder: SiteFolder, digest: bytes) -> RosterPin:
    """Say yes to the newest roster, as it was shown; an agent that runs goes by it at once.

    Args:
        folder: Of the site.
        digest: ``RosterPin.digest`` of what was shown.

    Raises:
        TrustError: When a newer roster came between.
    """
    pin = approve(folder.pin(), digest)
    write_owned(folder.pin_path, pin.stored())
    return pin


def pause_site(folder: SiteFolder, *, now: float | None = None) -> None:
    """Begin nothing more until ``unpause_site``; what is at work ends first. It needs no coordinator."""
    write_owned(folder.paused_path, f"{time.time() if now is None else now:.0f}\n".encode())


def unpause_site(folder: SiteFolder) -> None:
    """Go on."""
    with explained(folder.paused_path):
        folder.paused_path.unlink(missing_ok=True)


def check_member(folder: SiteFolder) -> None:
    """Refuse a site whose own key is not the one that its approved roster has: nothing that it signs would count.

    Raises:
        TrustError: ``not_approved``, with what to do.
    """
    pin, identity = folder.pin(), folder.identity()
    found = pin.newest.roster.member(identity.client)
    if found is not None and found.key != identity.public:
        raise TrustError(
            f"the roster (version {pin.newest.roster.version}) has another key for {identity.client!r} than "
            f"{fingerprint(identity.public)}, which is here: put back the key, or join anew",
            reason="key_mismatch",
        )


def _made(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        write_owned(path, make())
    return read_owned(path, remedy=_JOIN)
