"""``fedloom pki``: the offline root of a federation. No command of this group uses the network."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedloom.cli.asking import agreed, new_passphrase, passphrase
from fedloom.cli.output import write_json
from fedloom.cli.root_folder import DENIED, INTERMEDIATE, OfflineRoot, make_root, read_members
from fedloom.cli.tables import print_table
from fedloom.core.component import Json
from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.errors import ConfigError, StoreError, Violation
from fedloom.secure.certificates import at, read_certificates
from fedloom.secure.fingerprints import fingerprint


def init(folder: Path, federation: str, *, years: int, json: bool) -> None:
    """Make the root of a new federation."""
    root, _ = make_root(folder, federation, passphrase=new_passphrase(), years=years, now=time.time())
    anchor = root.anchor
    if json:
        write_json(
            {
                "federation": anchor.federation,
                "root": folder,
                "fingerprint": anchor.fingerprint,
                "for_coordinator": root.travels,
            }
        )
        return
    sys.stdout.write(
        f"root of {anchor.federation} in {folder}: keep this folder off the coordinator's host, and a copy elsewhere\n"
        f"fingerprint of the root: {anchor.fingerprint}\n"
        f"for the coordinator's host: {root.travels}, its intermediate with the key\n"
        f"next: fedloom coordinator init COORDINATOR --from {root.travels} --host NAME\n"
    )


def show_roster(folder: Path, *, json: bool) -> None:
    """Print who is in the roster that was signed last, and what the next one would change."""
    root = OfflineRoot(folder)
    signed, changes = root.update().roster, root.changes()
    if json:
        members: list[Json] = [_described(each) for each in signed.members]
        write_json(
            {
                "federation": signed.federation,
                "version": signed.version,
                "digest": fingerprint(signed.digest),
                "members": members,
                "changes": [str(each) for each in changes],
            }
        )
        return
    if signed.version:
        sys.stdout.write(f"roster of {signed.federation}, version {signed.version}: {fingerprint(signed.digest)}\n")
        print_table(
            ["client", "organisation", "fingerprint of its key"],
            [[each.client, each.organisation, fingerprint(each.key)] for each in signed.members],
        )
    else:
        sys.stdout.write(f"roster of {signed.federation}: none is signed yet\n")
    if changes:
        sys.stdout.write("not signed yet:\n" + "".join(f"  {each}\n" for each in changes))


def add_to_roster(folder: Path, files: Sequence[Path], *, read_out: str | None, json: bool) -> None:
    """Put members into the next roster.

    Raises:
        ConfigError: When one fingerprint is to be of several keys.
    """
    members = [each for file in files for each in read_members(file)]
    if read_out is not None and len(members) != 1:
        raise ConfigError(
            [
                Violation(
                    where="--fingerprint",
                    path="fingerprint",
                    message=f"is of one key; the files name {len(members)} members: add them one by one",
                )
            ]
        )
    root = OfflineRoot(folder)
    root.add(members, read_out=read_out)
    _print_next(root, json=json)


def remove_from_roster(folder: Path, clients: Sequence[str], *, json: bool) -> None:
    """Leave members out of the next roster."""
    root = OfflineRoot(folder)
    root.remove(map(ClientId, clients))
    _print_next(root, json=json)


def sign_roster(folder: Path, *, yes: bool, json: bool) -> None:
    """Sign the next roster.

    Raises:
        StoreError: When there is nothing to sign, or nobody has agreed.
    """
    root = OfflineRoot(folder)
    changes = root.changes()
    if not changes:
        raise StoreError("nothing changed since the last roster: `fedloom pki roster add` and `remove` change it")
    if not yes:
        sys.stderr.write("".join(f"{each}\n" for each in changes))
        if not agreed("Sign this, each fingerprint compared with its owner?"):
            raise StoreError("nothing was signed; a roster is agreed to by --yes")
    signed = root.sign(root.opened(passphrase()))
    if json:
        write_json(
            {
                "version": signed.version,
                "digest": fingerprint(signed.digest),
                "members": [_described(each) for each in signed.members],
                "file": root.path / "roster.json",
            }
        )
        return
    sys.stdout.write(
        f"roster {signed.version} of {signed.federation}, {len(signed.members)} members: {fingerprint(signed.digest)}\n"
        f"next: carry {root.path / 'roster.json'} to the coordinator, `fedloom coordinator install`\n"
    )


def deny(folder: Path, *, clients: Sequence[str], serials: Sequence[str], json: bool) -> None:
    """Sign a deny list with more on it.

    Raises:
        ConfigError: When it is said of nobody.
    """
    if not clients and not serials:
        raise ConfigError(
            [Violation(where="pki deny", path="--client", message="who is to be out? Name a --client or a --serial")]
        )
    root = OfflineRoot(folder)
    signed = root.deny(root.opened(passphrase()), clients=[*map(ClientId, clients)], serials=serials)
    if json:
        write_json(
            {
                "version": signed.version,
                "clients": sorted(signed.clients),
                "serials": sorted(signed.serials),
                "file": root.path / DENIED,
            }
        )
        return
    sys.stdout.write(
        f"deny list {signed.version} of {signed.federation}: out for good are "
        f"{', '.join(sorted(signed.clients | signed.serials))}\n"
        f"next: carry {root.path / DENIED} to the coordinator, `fedloom coordinator install`, and take them out of the "
        "roster too\n"
    )


def intermediate(folder: Path, *, days: int, json: bool) -> None:
    """Make another intermediate for the coordinator."""
    root = OfflineRoot(folder)
    made = root.new_intermediate(root.opened(passphrase()), now=time.time(), days=days)
    (certificate,) = read_certificates(made.certificate)
    ends = certificate.not_valid_after_utc.timestamp()
    if json:
        write_json({"federation": made.federation, "folder": root.travels, "until": ends})
        return
    sys.stdout.write(
        f"intermediate of {made.federation}, until {at(ends)}: {root.travels / INTERMEDIATE} and its key\n"
        f"next: carry both to the coordinator, `fedloom coordinator install`\n"
    )


def _print_next(root: OfflineRoot, *, json: bool) -> None:
    changes = root.changes()
    if json:
        write_json({"changes": [str(each) for each in changes]})
        return
    lines = "".join(f"  {each}\n" for each in changes) or "  nothing\n"
    sys.stdout.write(f"the next roster changes\n{lines}next: fedloom pki roster sign {root.path}\n")


def _described(member: Member) -> dict[str, Json]:
    return {
        "client": member.client,
        "organisation": member.organisation,
        "fingerprint": fingerprint(member.key),
        "key": member.key.hex(),
    }
