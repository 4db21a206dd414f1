"""The folder of the offline root: its sealed keys, the roster and the deny list that it signs, and what goes out.

``root.key`` has both private keys, sealed under a passphrase; ``members.json`` who shall be in the next roster;
``roster.json`` and ``deny.json`` what was signed last. ``for-coordinator`` is what travels to the coordinator's host,
by a person: the anchor, the intermediate with its key, and both signed documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.engines.owned_files import write_owned
from fedloom.errors import DataError, StoreError, TrustError
from fedloom.secure.anchors import Anchor, open_anchor
from fedloom.secure.authorities import Intermediate, Root, issue_intermediate, new_root, open_root
from fedloom.secure.deny_list import DenyList, denying, nobody_denied, open_deny_list
from fedloom.secure.fingerprints import fingerprint, same_fingerprint
from fedloom.secure.peers import COORDINATOR, site
from fedloom.secure.roster import SignedRoster, roster
from fedloom.secure.roster_pin import Change, RosterUpdate, difference, open_update
from fedloom.store.faults import explained
from fedloom.store.files import write_text

ROOT = "root.key"
ANCHOR = "anchor.json"
MEMBERS = "members.json"
ROSTER = "roster.json"
DENIED = "deny.json"
TRAVELS = "for-coordinator"
INTERMEDIATE = "intermediate.pem"
INTERMEDIATE_KEY = "intermediate.key"
COST = 17
"""Of sealing: see ``passphrases.seal_under``."""


@dataclass(frozen=True, slots=True)
class OfflineRoot:
    """The folder of a root. Only ``signing`` opens its keys; all else reads what is public."""

    path: Path

    @property
    def anchor(self) -> Anchor:
        """The public half."""
        return open_anchor(self._read(ANCHOR), meant=None)

    @property
    def travels(self) -> Path:
        """What is carried to the coordinator's host."""
        return self.path / TRAVELS

    def opened(self, passphrase: str) -> Root:
        """Return the root with its keys.

        Raises:
            StoreError: When there is no root here.
            TrustError: ``wrong_passphrase`` or ``unreadable``.
        """
        return open_root(self._read(ROOT), passphrase=passphrase)

    def update(self) -> RosterUpdate:
        """Return the roster that was signed last; one of nobody, of version 0, where none was."""
        anchor = self.anchor
        path = self.path / ROSTER
        if not path.exists():
            return RosterUpdate(roster=SignedRoster(federation=anchor.federation, version=0, members=()))
        return open_update(self._read(ROSTER), root=anchor.signing, federation=anchor.federation)

    def denied(self) -> DenyList:
        """Return the deny list that was signed last; one of nobody where none was."""
        anchor = self.anchor
        if not (self.path / DENIED).exists():
            return nobody_denied(anchor.federation)
        return open_deny_list(self._read(DENIED), root=anchor.signing, federation=anchor.federation)

    def members(self) -> tuple[Member, ...]:
        """Return who shall be in the next roster, by name."""
        if not (self.path / MEMBERS).exists():
            return self.update().roster.members
        try:
            return msgspec.json.decode(self._read(MEMBERS), type=tuple[Member, ...])
        except msgspec.DecodeError as error:
            raise StoreError(
                f"{self.path / MEMBERS} is damaged ({error}): remove it, and the next roster begins from the last"
            ) from error

    def changes(self) -> tuple[Change, ...]:
        """Return what the next roster would change."""
        last = self.update()
        return difference(
            last.roster.members, self.members(), federation=last.roster.federation, handovers=last.handovers
        )

    def add(self, members: Sequence[Member], *, read_out: str | None = None) -> None:
        """Put members into the next roster, each in place of the one of its name.

        Args:
            members: From the coordinator's operator.
            read_out: The fingerprint of the one member's key, as somebody read it out.

        Raises:
            TrustError: ``wrong_name``, or ``wrong_sender`` when the fingerprint is of another key.
            DataError: When a key is there under another name.
        """
        federation = self.anchor.federation
        for each in members:
            if each.client != COORDINATOR:
                site(federation, organisation=each.organisation, client=each.client)
            if read_out is not None and not same_fingerprint(read_out, fingerprint(each.key)):
                raise TrustError(
                    f"the key of {each.client!r} has the fingerprint {fingerprint(each.key)}, and {read_out} was "
                    "read out: nothing was added. Somebody gave another key, or it was misheard",
                    reason="wrong_sender",
                )
        kept = {each.client: each for each in (*self.members(), *members)}
        self._draft(kept.values())

    def remove(self, clients: Iterable[ClientId]) -> None:
        """Leave members out of the next roster.

        Raises:
            DataError: When one is not in it.
        """
        gone, before = set(clients), self.members()
        if unknown := sorted(gone - {each.client for each in before}):
            named = ", ".join(each.client for each in before) or "nobody"
            raise DataError(f"{unknown[0]!r} is not in the roster; it names {named}")
        self._draft(each for each in before if each.client not in gone)

    def sign(self, root: Root) -> SignedRoster:
        """Sign the next roster, and put it with what travels."""
        last = self.update()
        signed = roster(root.federation, last.roster.version + 1, self.members()).signed(root.signing)
        update = RosterUpdate(roster=signed, handovers=last.handovers)
        self._write(ROSTER, update.stored())
        (self.path / MEMBERS).unlink(missing_ok=True)
        return signed

    def deny(self, root: Root, *, clients: Sequence[ClientId], serials: Sequence[str]) -> DenyList:
        """Sign the next deny list, and put it with what travels."""
        signed = denying(self.denied(), clients=clients, serials=serials).signed(root.signing)
        self._write(DENIED, signed.stored())
        return signed

    def new_intermediate(self, root: Root, *, now: float, days: int) -> Intermediate:
        """Make another intermediate, and put it with what travels."""
        made = issue_intermediate(root, now=now, days=days)
        write_owned(self.travels / INTERMEDIATE_KEY, made.key.stored())
        write_text(self.travels / INTERMEDIATE, made.certificate.decode())
        return made

    def _draft(self, members: Iterable[Member]) -> None:
        ordered = roster(self.anchor.federation, 1, [*members]).members
        write_text(self.path / MEMBERS, msgspec.json.format(msgspec.json.encode(ordered), indent=1).decode())

    def _write(self, name: str, data: bytes) -> None:
        write_text(self.path / name, data.decode())
        write_text(self.travels / name, data.decode())

    def _read(self, name: str) -> bytes:
        path = self.path / name
        if not path.exists():
            raise StoreError(
                f"{path} is missing: this is no folder of a root. `fedloom pki init` makes one; a lost one comes from "
                "a backup"
            )
        with explained(path):
            return path.read_bytes()


def make_root(
    path: Path, federation: str, *, passphrase: str, years: int, now: float, cost: int | None = None
) -> tuple[OfflineRoot, Root]:
    """Make the root of a new federation in a new folder, with an intermediate for its coordinator.

    Args:
        path: The folder.
        federation: Its name.
        passphrase: Under which the keys are sealed.
        years: How long its certificate holds.
        now: Seconds since 1970.
        cost: Of sealing; None: ``COST``.

    Raises:
        StoreError: When the folder has something in it, or cannot be written.
        TrustError: ``wrong_name``.
        Error: When the passphrase is short.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path} is there already, with something in it: a root begins in a new folder")
    root = new_root(federation, now=now, years=years)
    sealed = root.stored(passphrase, cost=COST if cost is None else cost)
    found = OfflineRoot(path)
    with explained(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found.travels.mkdir(mode=0o700)
    write_owned(path / ROOT, sealed)
    for folder in (path, found.travels):
        write_text(folder / ANCHOR, root.anchor.stored().decode())
    found.new_intermediate(root, now=now, days=365)
    return found, root


def read_members(path: Path) -> tuple[Member, ...]:
    """Return the members that a file names: one, or a list.

    Raises:
        DataError: When it is none of both.
    """
    with explained(path):
        data = path.read_bytes()
    try:
        found = msgspec.json.decode(data, type=Member | tuple[Member, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} names no member ({error}): expected the file that `fedloom coordinator approve` or "
            "`fedloom coordinator init` wrote"
        ) from error
    return (found,) if isinstance(found, Member) else found
