"""Deny lists: who is out, at once and for good, whatever certificate they hold. Read on every call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from fedloom.core.ids import ClientId
from fedloom.errors import TrustError
from fedloom.secure.agreement import SigningKey, verify
from fedloom.secure.encoding import frame

_LABEL = b"fedloom/deny-list/v1"
LARGEST = 1 << 20
"""Bytes of a stored list: some ten thousand entries."""


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    federation: str
    version: int
    serials: tuple[str, ...]
    clients: tuple[str, ...]
    signature: bytes


class Named(Protocol):
    """What a list is asked about: a ``Peer`` is one."""

    @property
    def client(self) -> ClientId:
        """The identity."""
        ...

    @property
    def serial(self) -> str:
        """Of its certificate, in hexadecimal digits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyList:
    """Certificates and identities that are out, signed by the root of their federation.

    Security:
        Adversary: whoever hands the list out or stores it. It cannot put a name on it, or take one off: versions are
        signed, and a newer one holds all of the older. It can withhold a new version.
    """

    federation: str
    version: int
    """From 1 on; 0 is the list of nobody, which needs no signature."""
    serials: frozenset[str] = frozenset()
    clients: frozenset[ClientId] = frozenset()
    signature: bytes = b""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that the list says."""
        serials, clients = sorted(self.serials), sorted(self.clients)
        said = frame(_LABEL, self.federation, self.version, len(serials), *serials, len(clients), *clients)
        return hashlib.sha256(said).digest()

    def denies(self, peer: Named) -> bool:
        """Return whether the holder of a certificate is out."""
        return peer.serial in self.serials or peer.client in self.clients

    def denies_client(self, client: ClientId) -> bool:
        """Return whether an identity is out, whatever certificate it holds."""
        return client in self.clients

    def check(self, peer: Named) -> None:
        """Refuse a peer that is out.

        Raises:
            TrustError: ``denied``.
        """
        if self.denies(peer):
            raise TrustError(
                f"{peer.client!r} is on the deny list of {self.federation!r} (version {self.version}), by its "
                f"{'name' if peer.client in self.clients else 'certificate'}: ask the coordinator's operator",
                reason="denied",
            )

    def signed(self, root: SigningKey) -> DenyList:
        """Return the list with the root's signature."""
        return DenyList(
            federation=self.federation,
            version=self.version,
            serials=self.serials,
            clients=self.clients,
            signature=root.sign(frame(_LABEL, self.digest)),
        )

    def stored(self) -> bytes:
        """Return the list as a file: JSON."""
        document = _Document(
            federation=self.federation,
            version=self.version,
            serials=tuple(sorted(self.serials)),
            clients=tuple(sorted(self.clients)),
            signature=self.signature,
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1)


def nobody_denied(federation: str) -> DenyList:
    """Return the list from which a federation begins."""
    return DenyList(federation=federation, version=0)


def denying(older: DenyList, *, serials: Iterable[str] = (), clients: Iterable[ClientId] = ()) -> DenyList:
    """Return the next version, which holds more and is not signed yet.

    Raises:
        TrustError: ``unreadable``, when a serial is not in hexadecimal digits.
    """
    more = frozenset(serial.lower().lstrip("0") for serial in serials)
    if wrong := [serial for serial in more if not serial or set(serial) - set("0123456789abcdef")]:
        raise TrustError(
            f"{wrong[0]!r} is no serial of a certificate: expected hexadecimal digits", reason="unreadable"
        )
    return DenyList(
        federation=older.federation,
        version=older.version + 1,
        serials=older.serials | more,
        clients=older.clients | frozenset(clients),
    )


def open_deny_list(data: bytes, *, root: bytes, federation: str) -> DenyList:
    """Return a stored list, if the root has signed it.

    Args:
        data: As ``DenyList.stored`` gave it.
        root: The root's Ed25519 key: ``Anchor.signing``.
        federation: Whose list it must be.

    Raises:
        TrustError: ``unreadable``, ``wrong_federation`` or ``not_signed``.

    Example:
        >>> from fedloom.secure.agreement import signing_key
        >>> root = signing_key(bytes(range(32)))
        >>> banned = denying(nobody_denied("trial"), clients=[ClientId("south")]).signed(root)
        >>> open_deny_list(banned.stored(), root=root.public, federation="trial").denies_client(ClientId("south"))
        True
    """
    if len(data) > LARGEST:
        raise TrustError(f"a deny list of {len(data)} bytes: expected at most {LARGEST}", reason="unreadable")
    try:
        document = msgspec.json.decode(data, type=_Document)
        found = DenyList(
            federation=document.federation,
            version=document.version,
            serials=frozenset(document.serials),
            clients=frozenset(map(ClientId, document.clients)),
            signature=document.signature,
        )
        said = frame(_LABEL, found.digest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"this is no deny list: {error}", reason="unreadable") from error
    if found.federation != federation:
        raise TrustError(
            f"the deny list is of {found.federation!r}; this federation is {federation!r}", reason="wrong_federation"
        )
    if not verify(root, found.signature, said):
        raise TrustError(
            f"version {found.version} of the deny list is not signed by the root of {federation!r}: it is not used",
            reason="not_signed",
        )
    return found


def newer(older: DenyList, found: DenyList) -> DenyList:
    """Return the list that holds from now on, of the one in force and one that ``open_deny_list`` has opened.

    Raises:
        TrustError: ``went_back``, when the version is lower, says otherwise under the same number, or leaves out what
            an older one had; ``wrong_federation``.
    """
    if older.federation != found.federation:
        raise TrustError(
            f"the deny list is of {found.federation!r}; this federation is {older.federation!r}",
            reason="wrong_federation",
        )
    if found.version < older.version:
        raise TrustError(
            f"version {found.version} of the deny list is older than the one in force, {older.version}: it is not used",
            reason="went_back",
        )
    if found.version == older.version and found.digest != older.digest:
        raise TrustError(
            f"there are two deny lists of version {found.version}: the root signed both. Have it sign a third one, of "
            f"version {found.version + 1}, that holds both",
            reason="went_back",
        )
    if missing := sorted((older.serials - found.serials) | (older.clients - found.clients)):
        raise TrustError(
            f"version {found.version} of the deny list leaves out {missing[0]!r}, which version {older.version} has: "
            "who is denied stays so, and joins again under another name",
            reason="went_back",
        )
    return found
