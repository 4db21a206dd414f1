"""Rosters: who may take part, as a document that the offline root has signed; in simulation, derived from the seed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.roster import Identity, Member
from fedloom.entropy import derived_secret
from fedloom.entropy.guarded import guarded
from fedloom.errors import DataError
from fedloom.secure.agreement import SigningKey, signing_key, verify
from fedloom.secure.encoding import frame

_LABEL = b"fedloom/roster/v1"
SIMULATED = "simulation"


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    federation: str
    version: int
    members: tuple[Member, ...]
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRoster:
    """Members of a federation, signed by its root, whose key is on no machine of the coordinator.

    Security:
        Adversary: whoever hands out the roster, the coordinator above all. A roster is what ``open_roster`` has checked
        under the root key that this party was given by another way. It says who may take part, not who does.
    """

    federation: str
    version: int
    members: tuple[Member, ...]
    signature: bytes = b""
    _named: dict[ClientId, Member] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the members, and refuse what names somebody twice."""
        named = {member.client: member for member in self.members}
        keys = {member.key for member in self.members}
        if len(named) != len(self.members) or len(keys) != len(self.members):
            raise DataError(f"the roster of {self.federation!r} has a client or a key twice: each may stand there once")
        if wrong := [member.client for member in self.members if len(member.key) != 32]:
            raise DataError(f"the roster of {self.federation!r}: the key of {wrong[0]!r} is not 32 bytes of Ed25519")
        object.__setattr__(self, "_named", named)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that the roster says."""
        members = (each for member in self.members for each in (member.client, member.organisation, member.key))
        return hashlib.sha256(frame(_LABEL, self.federation, self.version, *members)).digest()

    def member(self, client: ClientId) -> Member | None:
        """Return a member; None: no such client was approved."""
        return self._named.get(client)

    def signed(self, root: SigningKey) -> SignedRoster:
        """Return the roster with the root's signature."""
        return SignedRoster(
            federation=self.federation,
            version=self.version,
            members=self.members,
            signature=root.sign(frame(_LABEL, self.digest)),
        )

    def stored(self) -> bytes:
        """Return the roster as a file: JSON."""
        document = _Document(
            federation=self.federation, version=self.version, members=self.members, signature=self.signature
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1)


def roster(federation: str, version: int, members: Sequence[Member]) -> SignedRoster:
    """Return a roster that is not signed yet, its members in the order of their names.

    Raises:
        DataError: When a client or a key stands there twice.
    """
    ordered = tuple(sorted(members, key=lambda member: member.client))
    return SignedRoster(federation=federation, version=version, members=ordered)


def open_roster(data: bytes, *, root: bytes) -> SignedRoster:
    """Return a stored roster, if the root has signed it.

    Args:
        data: As ``stored()`` gives it.
        root: The Ed25519 public key of the federation's root, from the operator and from nowhere else.

    Raises:
        DataError: When it is no roster, or the signature is not the root's.

    Example:
        >>> from fedloom.secure.agreement import signing_key
        >>> root, own = signing_key(bytes(range(32))), signing_key(bytes(range(1, 33)))
        >>> listed = roster("trial", 1, [Member(client=ClientId("north"), organisation="north", key=own.public)])
        >>> open_roster(listed.signed(root).stored(), root=root.public).members[0].organisation
        'north'
    """
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"this is no roster: {error}") from error
    found = roster(document.federation, document.version, document.members)
    if not verify(root, document.signature, frame(_LABEL, found.digest)):
        raise DataError(
            f"the roster of {found.federation!r}, version {found.version}, is not signed by this federation's root: "
            "it is not used. Compare the root's fingerprint with the one that your operator was given"
        )
    return SignedRoster(
        federation=found.federation, version=found.version, members=found.members, signature=document.signature
    )


@guarded("identities", instead="compare their clients")
class LocalIdentity:
    """A client and its own Ed25519 key. It does not print the key, and refuses ``==``, ``copy`` and ``pickle``."""

    __slots__ = ("_client", "_key")

    def __init__(self, client: ClientId, key: SigningKey) -> None:
        self._client = client
        self._key = key

    @property
    def client(self) -> ClientId:
        """Whose it is."""
        return self._client

    @property
    def public(self) -> bytes:
        """The key that signatures are verified by."""
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        """Return an Ed25519 signature."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        """Return whose it is, and not the key."""
        return f"<identity of {self._client!r}>"


@dataclass(frozen=True, slots=True)
class SimulatedRoster:
    """Every client that is asked for, with a key that whoever knows the run's seed can compute. It protects nothing."""

    key: Key

    @property
    def federation(self) -> str:
        """A name that no federation has."""
        return SIMULATED

    @property
    def digest(self) -> bytes:
        """Of the key."""
        return hashlib.sha256(frame(_LABEL, SIMULATED, self.key.path)).digest()

    def member(self, client: ClientId) -> Member | None:
        """Return the client as an organisation of its own."""
        return _simulated_member(self.key, client)


@functools.lru_cache(maxsize=1 << 14)
def _simulated_member(key: Key, client: ClientId) -> Member:
    return Member(client=client, organisation=client, key=_simulated_key(key, client).public)


def simulated_identity(key: Key, client: ClientId) -> Identity:
    """Return the identity that a simulated client signs by."""
    return LocalIdentity(client, _simulated_key(key, client))


def _simulated_key(key: Key, client: ClientId) -> SigningKey:
    return signing_key(derived_secret(key.child("identity", client)).random_bytes(32))
